"""keras_smoothout: train with large batches and keep the accuracy."""

from keras_smoothout import backend as backend
from keras_smoothout import methods, scaling, schedules
from keras_smoothout.batch_norm import GhostBatchNormalization, convert
from keras_smoothout.batches import WarmUpBatches
from keras_smoothout.callbacks import DistanceFromInit, FluctuationDissipation
from keras_smoothout.evaluation import Evaluation, Step
from keras_smoothout.find_radius import find_radius, find_rho
from keras_smoothout.method import Method
from keras_smoothout.methods import *
from keras_smoothout.model import Model, TrainStep
from keras_smoothout.persistent import PersistentBatches, replica_distance
from keras_smoothout.recalibrate import recalibrate
from keras_smoothout.scale_invariant import scale_invariant
from keras_smoothout.weights_of import weights_of
from keras_smoothout.wrap import wrap

__version__ = "0.1.0"

__all__ = [
    *methods.__all__,
    "DistanceFromInit",
    "Evaluation",
    "FluctuationDissipation",
    "GhostBatchNormalization",
    "Method",
    "Model",
    "PersistentBatches",
    "Step",
    "TrainStep",
    "WarmUpBatches",
    "convert",
    "find_radius",
    "find_rho",
    "recalibrate",
    "replica_distance",
    "scale_invariant",
    "scaling",
    "schedules",
    "weights_of",
    "wrap",
]
