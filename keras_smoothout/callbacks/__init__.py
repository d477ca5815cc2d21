"""Callbacks for `fit`."""

from keras_smoothout.callbacks.checkpoint import Checkpoint
from keras_smoothout.callbacks.distance import DistanceFromInit
from keras_smoothout.callbacks.interruption import Interruption
from keras_smoothout.callbacks.noise_scale import GradientNoiseScale

__all__ = ["Checkpoint", "DistanceFromInit", "GradientNoiseScale", "Interruption"]
