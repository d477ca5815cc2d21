"""Curves through weight space: where they go, and the loss and error along them.

w(t) = sum_j c_j(t) * p_j        p_0 and p_n the two ends, the bends between them anywhere
"""

import numpy as np
from scipy.special import comb

from keras_smoothout.checks import check_choice, check_count, check_number
from keras_smoothout.landscape.directions import arrays_of, combine, distance, place_of
from keras_smoothout.landscape.surface.points import evaluate_at
from keras_smoothout.landscape.surface.results import Profile

CURVES = ("bezier", "polygon")


def coefficients(t, points, curve="bezier"):
    """Shares `c_j(t)` of the control points at the place `t` of a curve; they sum to 1.

        bezier:   binomial(n, j) * t**j * (1 - t)**(n - j)        n = points - 1
        polygon:  max(0, 1 - |n * t - j|)

    Example:
        >>> from keras_smoothout.landscape.comparison.path import coefficients
        >>> coefficients(0.5, 3), coefficients(0.25, 3, "polygon")
        (array([0.25, 0.5 , 0.25]), array([0.5, 0.5, 0. ]))
    """
    n, j = points - 1, np.arange(points)
    if curve == "polygon":
        return np.maximum(0.0, 1.0 - np.abs(n * t - j))
    return comb(n, j) * np.power(t, j) * np.power(1.0 - t, n - j)


class Path:
    """A curve through weight space: `path(t)` is the list of weights at `t`, from 0 to 1.

    Args:
        points: List of control points, each a list of arrays; the first and the last are its ends.
        curve: `"bezier"` or `"polygon"`. Defaults to `"bezier"`.
    """

    def __init__(self, points, curve="bezier"):
        check_choice("curve", curve, CURVES)
        if len(points) < 2:
            raise ValueError(f"`points` must be two or more. Received: {len(points)} points")
        self.points = [list(point) for point in points]
        self.curve = curve

    def __call__(self, t):
        check_number("t", float(t), most=1)
        return combine(self.coefficients(t), self.points)

    def coefficients(self, t):
        return coefficients(t, len(self.points), self.curve)

    def save(self, path):
        """Write the control points to `path`, as `.npz`."""
        arrays = {f"{i}.{j}": w for i, point in enumerate(self.points) for j, w in enumerate(point)}
        with open(path, "wb") as file:  # NumPy would add a suffix to a path.
            np.savez(file, curve=self.curve, points=len(self.points), **arrays)

    @classmethod
    def load(cls, path):
        """Read what `save` has written."""
        with np.load(path, allow_pickle=False) as file:
            if "points" not in file or "curve" not in file:
                raise ValueError(f"{path} is no file of `Path.save`. Received: {sorted(file)}")
            count, weights = int(file["points"]), (len(file) - 2) // int(file["points"])
            points = [[file[f"{i}.{j}"] for j in range(weights)] for i in range(count)]
            return cls(points, str(file["curve"]))


def straight(objective, other, bends=1, curve="bezier"):
    """The straight `Path` from the objective's weights to `other`, with `bends` points on it.

    Raises:
        ValueError: If the two do not have the same trainable weights, or differ in frozen ones.
    """
    check_count("bends", bends)
    ends = [objective.weights, place_of(objective, other)]
    places = np.linspace(0.0, 1.0, bends + 2)
    return Path([combine((1 - t, t), ends) for t in places], curve)


def profile(objective, path, points=61, *, recalibrate_on="own", progress=False):
    """Loss and error along a curve.

    Args:
        objective: An `Objective`, of test data or of training data.
        path: A `Path`, from `connect` or `straight`.
        points: Number of places, evenly spaced from `t = 0` to 1. Defaults to `61`.
        recalibrate_on: Inputs to re-estimate BatchNormalization's moving statistics on at each
            place, as in `keras_smoothout.landscape.surface.slices`. Defaults to `"own"`.
        progress: Whether to show a progress bar. Defaults to `False`.

    Returns:
        A `Profile`.

    Cost: a pass over the examples for each point, two with BatchNormalization.
    """
    check_count("points", points, least=2)
    ts, lengths = np.linspace(0.0, 1.0, points), [0.0]

    def walk():
        last = path(0.0)
        arrays_of(objective, last)
        yield last
        for t in ts[1:]:
            weights = path(t)
            lengths.append(lengths[-1] + distance(weights, last))
            last = weights
            yield weights

    losses, errors = evaluate_at(objective, walk(), points, recalibrate_on, progress)
    return Profile(ts, losses, errors, np.array(lengths))


def summary(profile, quantity="loss"):
    """Summarize a curve in a few numbers.

        integral = integral of v(t) ||w'(t)|| dt / length           mean over arc length
        barrier = max over t of v(t) - ((1 - t) * v(0) + t * v(1))  above the chord, >= 0
        mode_connectivity = (v(0) + v(1)) / 2 - v(t*)               t* where that is farthest from 0

    Negative mode connectivity means a barrier. Positive means ends not trained to the bottom.

    Args:
        profile: A `Profile`.
        quantity: `"loss"` or `"error"`. Defaults to `"loss"`.

    Returns:
        Dict of floats: min, max, mean (over t), integral, barrier, mode_connectivity, length.

    Reference: Garipov et al., NeurIPS 2018, arXiv:1802.10026, Appendix A; mode connectivity as in
        Yang et al., *Taxonomizing local versus global structure in neural network loss landscapes*,
        NeurIPS 2021, arXiv:2107.11228, Section 2.
    """
    check_choice("quantity", quantity, ("loss", "error"))
    values = profile.losses if quantity == "loss" else profile.errors
    ends = (values[0] + values[-1]) / 2 - values
    length = profile.lengths[-1]
    integral = np.trapezoid(values, profile.lengths) / length if length else values[0]
    chord = values[0] + profile.ts * (values[-1] - values[0])
    numbers = {
        "min": values.min(),
        "max": values.max(),
        "mean": values.mean(),
        "integral": integral,
        "barrier": (values - chord).max(),
        "mode_connectivity": ends[np.argmax(np.abs(ends))],
        "length": length,
    }
    return {name: float(value) for name, value in numbers.items()}
