"""keras_smoothout: train with large batches and keep the accuracy."""

import importlib

from keras_smoothout import scaling, schedules
from keras_smoothout.ada_smoothout import AdaSmoothOut
from keras_smoothout.asam import ASAM
from keras_smoothout.batch_norm import GhostBatchNormalization, convert
from keras_smoothout.callbacks import DistanceFromInit
from keras_smoothout.evaluation import Evaluation, Step
from keras_smoothout.lamb import LAMB
from keras_smoothout.lars import LARS
from keras_smoothout.lookahead import Lookahead
from keras_smoothout.model import Model, TrainStep, wrap
from keras_smoothout.nudged_sgd import NudgedSGD
from keras_smoothout.partially_adaptive import PartiallyAdaptive
from keras_smoothout.recalibrate import recalibrate
from keras_smoothout.sam import SAM
from keras_smoothout.smoothout import SmoothOut
from keras_smoothout.warm_up_batches import WarmUpBatches
from keras_smoothout.wrapper import Wrapper

__version__ = "0.1.0"

__all__ = [
    "ASAM",
    "LAMB",
    "LARS",
    "SAM",
    "AdaSmoothOut",
    "CurvatureLearningRate",
    "DistanceFromInit",
    "Evaluation",
    "GhostBatchNormalization",
    "Lookahead",
    "Model",
    "NudgedSGD",
    "PartiallyAdaptive",
    "SmoothOut",
    "Step",
    "TrainStep",
    "WarmUpBatches",
    "Wrapper",
    "convert",
    "recalibrate",
    "scaling",
    "schedules",
    "wrap",
]


def __getattr__(name):
    """Import `CurvatureLearningRate` at its first use: it needs SciPy, the rest does without."""
    if name != "CurvatureLearningRate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("keras_smoothout.curvature_learning_rate").CurvatureLearningRate
