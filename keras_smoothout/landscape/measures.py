"""Every measure of a minimum, one after the other: a table of values, errors and costs."""

import collections
import time
from typing import NamedTuple

import numpy as np

from keras_smoothout.checks import check_names
from keras_smoothout.landscape.curvature.hessian import gauss_newton, hessian
from keras_smoothout.landscape.curvature.spectrum import eigenpairs
from keras_smoothout.landscape.curvature.trace import hutchinson
from keras_smoothout.landscape.data import count
from keras_smoothout.landscape.directions import arrays_of
from keras_smoothout.landscape.estimate import Estimate
from keras_smoothout.landscape.sharpness.gradient_noise import fisher_trace, gradient_noise_scale
from keras_smoothout.landscape.sharpness.local_entropy import local_entropy
from keras_smoothout.landscape.sharpness.noise_sharpness import (
    error,
    expected_sharpness,
    local_energy,
)
from keras_smoothout.landscape.sharpness.pac_bayes import pac_bayes_bound, pac_bayes_sigma
from keras_smoothout.landscape.sharpness.worst_case import keskar_sharpness, sam_sharpness

PROBES = 20


class Measured(NamedTuple):
    """One row of the table.

    Attributes:
        measure: Its name.
        value: What was found; nan if the measure does not apply.
        standard_error: Of `value`, over random draws; 0 if there were none.
        losses: Cost: number of forward passes over the data.
        gradients: Cost: number of gradients of the whole data; a gradient of a few examples counts
            as their share.
        products: Cost: number of products with the Hessian or the Gauss-Newton matrix.
        seconds: Cost: time, including compilation of what was not compiled before.
        note: Why the measure does not apply, else empty.
    """

    measure: str
    value: float
    standard_error: float
    losses: float
    gradients: float
    products: float
    seconds: float
    note: str = ""


def gradient_norm(objective):
    """Norm of the gradient: how far from a minimum this is."""
    _, gradient = objective.loss_and_gradient(objective.weights)
    return Estimate(float(np.linalg.norm(objective.flatten(gradient))))


def eigenvalue(objective, which="top", seed=0):
    """Largest (`which="top"`) or smallest (`"bottom"`) eigenvalue of the Hessian.

    The error is at most a thousandth of the largest eigenvalue in magnitude, and far less if no
    other eigenvalue is near.
    """
    pairs = eigenpairs(hessian(objective), 1, which, tolerance=1e-3, seed=seed)
    return Estimate(float(pairs.values[0]))


def distance_from_init(objective, start):
    """Euclidean distance of the weights from `start`, a list of arrays or a model."""
    start = arrays_of(objective, start)
    return Estimate(
        float(np.linalg.norm(objective.flatten(objective.weights) - objective.flatten(start)))
    )


# Each takes an objective and a seed.
MEASURES = {
    "loss": lambda o, s: Estimate(o.loss(o.weights)),
    "error": lambda o, s: Estimate(error(o)),
    "gradient_norm": lambda o, s: gradient_norm(o),
    "lambda_max": lambda o, s: eigenvalue(o, "top", s),
    "lambda_min": lambda o, s: eigenvalue(o, "bottom", s),
    "hessian_trace": lambda o, s: hutchinson(hessian(o), PROBES, s),
    "gauss_newton_trace": lambda o, s: hutchinson(gauss_newton(o), PROBES, s),
    "fisher_trace": lambda o, s: fisher_trace(o, seed=s),
    "gradient_noise_scale": lambda o, s: gradient_noise_scale(o, seed=s),
    "keskar_sharpness": lambda o, s: keskar_sharpness(o, seed=s),
    "keskar_manifold": lambda o, s: keskar_sharpness(
        o, dimensions=min(100, o.size), repeats=2, seed=s
    ),
    "sam_sharpness": lambda o, s: sam_sharpness(o),
    "sam_ascent": lambda o, s: sam_sharpness(o, steps=10),
    "uniform_noise": lambda o, s: expected_sharpness(o, seed=s),
    "normal_noise": lambda o, s: expected_sharpness(o, distribution="normal", seed=s),
    "filter_noise": lambda o, s: expected_sharpness(o, 0.1, scale="filter", seed=s),
    "local_energy": lambda o, s: local_energy(o, seed=s),
    "local_entropy": lambda o, s: local_entropy(o, seed=s),
    "pac_bayes_sigma": lambda o, s: pac_bayes_sigma(o, seed=s),
}
# Each also takes the weights before training.
FROM_START = {
    "distance_from_init": lambda o, s, start: distance_from_init(o, start),
    "pac_bayes_bound": lambda o, s, start: pac_bayes_bound(o, start, seed=s),
}


def measures(objective, names=None, start=None, seed=0, progress=False, each=None):
    """Take every measure of a minimum, each with the defaults of its function.

    Args:
        objective: An `Objective` of training data, as in all of the papers.
        names: List of the measures to take, from `MEASURES` and, with `start`, `FROM_START`; or a
            dict from names to functions of an objective that return an `Estimate` or a number.
            Defaults to `None`: all of them.
        start: The weights before training, a list of arrays or a model. Defaults to `None`.
        seed: Integer, of all random draws. The same seed draws the same noise for two models.
            Defaults to `0`.
        progress: Whether to print each row once it is measured. Defaults to `False`.
        each: Function that is called with each row once it is measured. Defaults to `None`.

    Returns:
        List of `Measured`, in order. A measure that does not apply to the model (such as the error
        of a regression) has the value nan and a note that says why. Asked for by name, it raises.

    Raises:
        ValueError: If a name is unknown, or the loss is not finite at the weights.

    Cost: all of them take about 450 losses, 40 gradients and 120 products with curvature matrices.

    Example:
        >>> import keras, numpy as np
        >>> from keras_smoothout.landscape import Objective, measures
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([np.array([[2.0]])])
        >>> objective = Objective(model, np.ones((4, 1)), 2 * np.ones((4, 1)), loss="mse")
        >>> [(row.measure, round(row.value, 4)) for row in measures(objective, ["lambda_max"])]
        [('lambda_max', 2.0)]
    """
    known = dict(MEASURES)
    if start is not None:
        start = arrays_of(objective, start)
        known |= {n: lambda o, s, f=f: f(o, s, start) for n, f in FROM_START.items()}
    if isinstance(names, dict):
        chosen = {name: lambda o, s, f=f: f(o) for name, f in names.items()}
    else:
        _check_names(names, known)
        chosen = {name: known[name] for name in (known if names is None else names)}
    if not np.isfinite(loss := objective.loss(objective.weights)):
        raise ValueError(f"The loss must be finite at the weights. Received: loss={loss}")
    rows = []
    if progress:
        print(HEADER, flush=True)
    for name, function in chosen.items():
        counted, began = _Counted(objective), time.perf_counter()
        value, error, note = np.nan, np.nan, ""
        try:
            found = function(counted, seed)
            value, error = found if isinstance(found, tuple) else (float(found), 0.0)
        except ValueError as refusal:
            if names is not None:
                raise
            note = str(refusal)
        costs = (counted.passes[kind] for kind in ("losses", "gradients", "products"))
        rows.append(Measured(name, value, error, *costs, time.perf_counter() - began, note))
        if progress:
            print(_line(rows[-1]), flush=True)
        if each is not None:
            each(rows[-1])
    return rows


def _check_names(names, known):
    if names is None:
        return
    check_names("names", names)
    unknown = [name for name in names if name not in known]
    if unknown:
        lacking = " They need `start`." if set(unknown) <= set(FROM_START) else ""
        raise ValueError(
            f"`names` must be of {', '.join(known)}.{lacking} Received: {', '.join(unknown)}"
        )


class _Counted:
    """An objective that counts passes over the data."""

    def __init__(self, objective):
        self._objective = objective
        self.passes = collections.Counter()

    def __getattr__(self, name):
        return getattr(self._objective, name)

    def _pass(self, kind, method, *points, batch=None):
        part = 1.0
        if batch is not None:
            part = count(batch) / self.examples
        self.passes[kind] += part
        return method(*points) if batch is None else method(*points, batch=batch)

    def loss(self, weights):
        return self._pass("losses", self._objective.loss, weights)

    def evaluate(self, weights):
        return self._pass("losses", self._objective.evaluate, weights)

    def loss_and_gradient(self, weights, batch=None):
        return self._pass("gradients", self._objective.loss_and_gradient, weights, batch=batch)

    def hvp(self, weights, vector, batch=None):
        return self._pass("products", self._objective.hvp, weights, vector, batch=batch)

    def gauss_newton_product(self, weights, vector, batch=None):
        method = self._objective.gauss_newton_product
        return self._pass("products", method, weights, vector, batch=batch)


HEADER = f"{'measure':22} {'value':>11} {'std. error':>11} {'losses':>7} {'gradients':>9} "
HEADER += f"{'products':>8} {'seconds':>8}"


def _line(row):
    numbers = f"{row.value:11.4g} {row.standard_error:11.2g}"
    costs = f"{row.losses:7.0f} {row.gradients:9.1f} {row.products:8.0f} {row.seconds:8.1f}"
    return f"{row.measure:22} {numbers} {costs}  {row.note}".rstrip()


def table(rows):
    """The rows of `measures` as text; for several models, pass a dict from label to rows."""
    if not isinstance(rows, dict):
        return "\n".join([HEADER, *map(_line, rows)])
    lines = [" ".join([f"{'measure':22}", *(f"{label:>24}" for label in rows)])]
    for found in zip(*rows.values(), strict=True):
        cells = (f"{row.value:.4g} ± {row.standard_error:.2g}" for row in found)
        lines.append(" ".join([f"{found[0].measure:22}", *(f"{cell:>24}" for cell in cells)]))
    return "\n".join(lines)
