"""See and measure how flat a minimum is: curvature, sharpness, surfaces, paths between models."""

try:
    import scipy as scipy
except ModuleNotFoundError as error:
    raise ImportError(
        "`keras_smoothout.landscape` needs SciPy, and Matplotlib for pictures: "
        f'`pip install "keras-smoothout[landscape]"`. Received: {error}'
    ) from error

from keras_smoothout.landscape.comparison.barriers import barriers, ways
from keras_smoothout.landscape.comparison.connectivity import connect
from keras_smoothout.landscape.comparison.geodesic import Geodesic, geodesic
from keras_smoothout.landscape.comparison.matching import (
    Matching,
    Units,
    hidden_units,
    match,
    permute,
)
from keras_smoothout.landscape.comparison.normal_form import NormalForm, normal_form
from keras_smoothout.landscape.comparison.path import Path, profile, straight, summary
from keras_smoothout.landscape.comparison.similarity import cka, linear_cka
from keras_smoothout.landscape.comparison.taxonomy import taxonomy
from keras_smoothout.landscape.curvature.hessian import gauss_newton, hessian
from keras_smoothout.landscape.curvature.spectrum import (
    Density,
    Eigenpairs,
    density,
    eigenpairs,
    lanczos,
)
from keras_smoothout.landscape.curvature.trace import hutch_plus_plus, hutchinson
from keras_smoothout.landscape.directions import filter_normalised, random_direction
from keras_smoothout.landscape.estimate import Estimate
from keras_smoothout.landscape.measures import Measured, measures, table
from keras_smoothout.landscape.objective import Objective
from keras_smoothout.landscape.sharpness.gradient_noise import fisher_trace, gradient_noise_scale
from keras_smoothout.landscape.sharpness.local_entropy import local_entropy
from keras_smoothout.landscape.sharpness.noise_sharpness import expected_sharpness, local_energy
from keras_smoothout.landscape.sharpness.pac_bayes import (
    kl_inverse,
    pac_bayes_bound,
    pac_bayes_sigma,
)
from keras_smoothout.landscape.sharpness.shallow_pac_bayes import ShallowBound, shallow_bound
from keras_smoothout.landscape.sharpness.worst_case import keskar_sharpness, sam_sharpness
from keras_smoothout.landscape.surface.results import Line, Plane, Profile, load, save
from keras_smoothout.landscape.surface.slices import interpolate, line, plane, plane_through
from keras_smoothout.landscape.tracking.curvature_learning_rate import CurvatureLearningRate
from keras_smoothout.landscape.tracking.sharpest_directions import TrackSharpestDirections
from keras_smoothout.landscape.tracking.track import TrackSharpness

__all__ = [
    "CurvatureLearningRate",
    "Density",
    "Eigenpairs",
    "Estimate",
    "Geodesic",
    "Line",
    "Matching",
    "Measured",
    "NormalForm",
    "Objective",
    "Path",
    "Plane",
    "Profile",
    "ShallowBound",
    "TrackSharpestDirections",
    "TrackSharpness",
    "Units",
    "barriers",
    "cka",
    "connect",
    "density",
    "eigenpairs",
    "expected_sharpness",
    "filter_normalised",
    "fisher_trace",
    "gauss_newton",
    "geodesic",
    "gradient_noise_scale",
    "hessian",
    "hidden_units",
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
    "match",
    "measures",
    "normal_form",
    "pac_bayes_bound",
    "pac_bayes_sigma",
    "permute",
    "plane",
    "plane_through",
    "profile",
    "random_direction",
    "sam_sharpness",
    "save",
    "shallow_bound",
    "straight",
    "summary",
    "table",
    "taxonomy",
    "ways",
]
