"""Callbacks for `fit`."""

from keras_smoothout.callbacks.distance import DistanceFromInit
from keras_smoothout.callbacks.fluctuation import FluctuationDissipation

__all__ = ["DistanceFromInit", "FluctuationDissipation"]
