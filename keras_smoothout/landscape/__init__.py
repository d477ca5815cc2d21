"""See and measure how flat a minimum is: curvature, sharpness, surfaces, paths between models."""

from keras_smoothout.landscape.callbacks import TrackSharpness
from keras_smoothout.landscape.connectivity import connect
from keras_smoothout.landscape.directions import filter_normalised, random_direction
from keras_smoothout.landscape.estimate import Estimate
from keras_smoothout.landscape.gradient_noise import fisher_trace, gradient_noise_scale
from keras_smoothout.landscape.hessian import gauss_newton, hessian
from keras_smoothout.landscape.local_entropy import local_entropy
from keras_smoothout.landscape.measures import Measured, measures, table
from keras_smoothout.landscape.noise_sharpness import expected_sharpness, local_energy
from keras_smoothout.landscape.objective import Objective
from keras_smoothout.landscape.pac_bayes import kl_inverse, pac_bayes_bound, pac_bayes_sigma
from keras_smoothout.landscape.path import Path, profile, straight, summary
from keras_smoothout.landscape.results import Line, Plane, Profile, load, save
from keras_smoothout.landscape.sharpest_directions import TrackSharpestDirections
from keras_smoothout.landscape.similarity import cka, linear_cka
from keras_smoothout.landscape.spectrum import Density, Eigenpairs, density, eigenpairs, lanczos
from keras_smoothout.landscape.surface import interpolate, line, plane, plane_through
from keras_smoothout.landscape.taxonomy import taxonomy
from keras_smoothout.landscape.trace import hutch_plus_plus, hutchinson
from keras_smoothout.landscape.worst_case import keskar_sharpness, sam_sharpness

__all__ = [
    "Density",
    "Eigenpairs",
    "Estimate",
    "Line",
    "Measured",
    "Objective",
    "Path",
    "Plane",
    "Profile",
    "TrackSharpestDirections",
    "TrackSharpness",
    "cka",
    "connect",
    "density",
    "eigenpairs",
    "expected_sharpness",
    "filter_normalised",
    "fisher_trace",
    "gauss_newton",
    "gradient_noise_scale",
    "hessian",
    "hutch_plus_plus",
    "hutchinson",
    "interpolate",
    "keskar_sharpness",
    "kl_inverse",
    "lanczos",
    "line",
    "linear_cka",
    "load",
    "local_energy",
    "local_entropy",
    "measures",
    "pac_bayes_bound",
    "pac_bayes_sigma",
    "plane",
    "plane_through",
    "profile",
    "random_direction",
    "sam_sharpness",
    "save",
    "straight",
    "summary",
    "table",
    "taxonomy",
]
