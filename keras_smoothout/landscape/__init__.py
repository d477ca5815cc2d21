"""See and measure how flat a minimum is: curvature, sharpness, surfaces, paths between models."""

from keras_smoothout.landscape.connectivity import connect
from keras_smoothout.landscape.directions import filter_normalised, random_direction
from keras_smoothout.landscape.hessian import gauss_newton, hessian
from keras_smoothout.landscape.objective import Objective
from keras_smoothout.landscape.path import Path, profile, straight, summary
from keras_smoothout.landscape.results import Line, Plane, Profile, load, save
from keras_smoothout.landscape.similarity import cka, linear_cka
from keras_smoothout.landscape.spectrum import Density, Eigenpairs, density, eigenpairs, lanczos
from keras_smoothout.landscape.surface import interpolate, line, plane, plane_through
from keras_smoothout.landscape.taxonomy import taxonomy
from keras_smoothout.landscape.trace import hutch_plus_plus, hutchinson

__all__ = [
    "Density",
    "Eigenpairs",
    "Line",
    "Objective",
    "Path",
    "Plane",
    "Profile",
    "cka",
    "connect",
    "density",
    "eigenpairs",
    "filter_normalised",
    "gauss_newton",
    "hessian",
    "hutch_plus_plus",
    "hutchinson",
    "interpolate",
    "lanczos",
    "line",
    "linear_cka",
    "load",
    "plane",
    "plane_through",
    "profile",
    "random_direction",
    "save",
    "straight",
    "summary",
    "taxonomy",
]
