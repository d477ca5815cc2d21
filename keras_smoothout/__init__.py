"""keras_smoothout: train with large batches and keep the accuracy."""

from keras_smoothout import backend as backend
from keras_smoothout import callbacks, methods, scaling, schedules
from keras_smoothout.batch_norm import GhostBatchNormalization, convert
from keras_smoothout.batches import Epochs, WarmUpBatches
from keras_smoothout.callbacks import (
    ConsensusDistance,
    DistanceFromInit,
    FluctuationDissipation,
    GradientNoiseScale,
)
from keras_smoothout.copies import Copies
from keras_smoothout.ensemble import Ensemble
from keras_smoothout.evaluation import Evaluation, Step
from keras_smoothout.find_radius import find_radius, find_rho
from keras_smoothout.method import Method
from keras_smoothout.methods import *
from keras_smoothout.model import Model, TrainStep
from keras_smoothout.noise_scale_batches import NoiseScaleBatches
from keras_smoothout.persistent import PersistentBatches, replica_distance
from keras_smoothout.pruned import pruned
from keras_smoothout.recalibrate import recalibrate
from keras_smoothout.sample import sample
from keras_smoothout.scale_invariant import scale_invariant
from keras_smoothout.soup import greedy_soup
from keras_smoothout.weights_of import weights_of
from keras_smoothout.wrap import wrap

__version__ = "0.1.0"

__all__ = [
    *methods.__all__,
    "ConsensusDistance",
    "Copies",
    "DistanceFromInit",
    "Epochs",
    "Ensemble",
    "Evaluation",
    "FluctuationDissipation",
    "GradientNoiseScale",
    "GhostBatchNormalization",
    "Method",
    "Model",
    "NoiseScaleBatches",
    "PersistentBatches",
    "Step",
    "TrainStep",
    "WarmUpBatches",
    "callbacks",
    "convert",
    "find_radius",
    "find_rho",
    "greedy_soup",
    "pruned",
    "recalibrate",
    "sample",
    "replica_distance",
    "scale_invariant",
    "scaling",
    "schedules",
    "weights_of",
    "wrap",
]
