"""See and measure how flat a minimum is: curvature, sharpness, surfaces, paths between models."""

from keras_smoothout.landscape.hessian import gauss_newton, hessian
from keras_smoothout.landscape.objective import Objective
from keras_smoothout.landscape.spectrum import Density, Eigenpairs, density, eigenpairs, lanczos
from keras_smoothout.landscape.trace import hutch_plus_plus, hutchinson

__all__ = [
    "Density",
    "Eigenpairs",
    "Objective",
    "density",
    "eigenpairs",
    "gauss_newton",
    "hessian",
    "hutch_plus_plus",
    "hutchinson",
    "lanczos",
]
