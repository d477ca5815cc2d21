"""Callbacks for `fit`."""

from keras_smoothout.callbacks.checkpoint import Checkpoint
from keras_smoothout.callbacks.distance import DistanceFromInit
from keras_smoothout.callbacks.interruption import Interruption

__all__ = ["Checkpoint", "DistanceFromInit", "Interruption"]
