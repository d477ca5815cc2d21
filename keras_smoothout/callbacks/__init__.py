"""Callbacks for `fit`."""

from keras_smoothout.callbacks.distance import DistanceFromInit

__all__ = ["DistanceFromInit"]
