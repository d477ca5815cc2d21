"""Callbacks for `fit`."""

from keras_smoothout.callbacks.averages import Averages
from keras_smoothout.callbacks.distance import DistanceFromInit
from keras_smoothout.callbacks.lawa import LAWA
from keras_smoothout.callbacks.snapshots import Snapshots

__all__ = ["Averages", "DistanceFromInit", "LAWA", "Snapshots"]
