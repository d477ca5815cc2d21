"""See and measure how flat a minimum is: curvature, sharpness, surfaces, paths between models."""

from keras_smoothout.landscape.objective import Objective

__all__ = [
    "Objective",
]
