"""Callbacks for `fit`."""

from keras_smoothout.callbacks.averages import Averages
from keras_smoothout.callbacks.checkpoint import Checkpoint
from keras_smoothout.callbacks.consensus import ConsensusDistance
from keras_smoothout.callbacks.distance import DistanceFromInit
from keras_smoothout.callbacks.fluctuation import FluctuationDissipation
from keras_smoothout.callbacks.interruption import Interruption
from keras_smoothout.callbacks.lawa import LAWA
from keras_smoothout.callbacks.noise_scale import GradientNoiseScale
from keras_smoothout.callbacks.snapshots import Snapshots
from keras_smoothout.callbacks.track_masks import TrackMasks

__all__ = [
    "Averages",
    "Checkpoint",
    "ConsensusDistance",
    "DistanceFromInit",
    "FluctuationDissipation",
    "GradientNoiseScale",
    "Interruption",
    "LAWA",
    "Snapshots",
    "TrackMasks",
]
