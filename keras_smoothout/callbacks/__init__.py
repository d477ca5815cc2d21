"""Callbacks for `fit`."""

from keras_smoothout.callbacks.consensus import ConsensusDistance
from keras_smoothout.callbacks.distance import DistanceFromInit

__all__ = ["ConsensusDistance", "DistanceFromInit"]
