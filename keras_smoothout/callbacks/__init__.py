"""Callbacks for `fit`."""

from keras_smoothout.callbacks.distance import DistanceFromInit
from keras_smoothout.callbacks.noise_scale import GradientNoiseScale

__all__ = ["DistanceFromInit", "GradientNoiseScale"]
