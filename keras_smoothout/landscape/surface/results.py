"""Losses and errors on lines, planes and curves through the weights, as arrays to keep.

`save(path, result)` writes one as `.npz`, `load(path)` reads it, `keras_smoothout.landscape.plots`
draws it.
"""

import pathlib
from typing import NamedTuple

import numpy as np


class Line(NamedTuple):
    """Loss and error on a straight line `w + alpha * direction`.

    Attributes:
        alphas: (n,) places on the line.
        losses: (n,) mean loss, regularizers included.
        errors: (n,) share of wrong answers, NaN where the loss has none.
    """

    alphas: np.ndarray
    losses: np.ndarray
    errors: np.ndarray


class Plane(NamedTuple):
    """Loss and error on a grid in a plane `w + x * first + y * second`.

    Attributes:
        x: (columns,) places along the first direction.
        y: (rows,) places along the second direction.
        losses: (rows, columns) mean loss, regularizers included.
        errors: (rows, columns) share of wrong answers, NaN where the loss has none.
        points: (k, 2) places of the models that the plane was laid through.
    """

    x: np.ndarray
    y: np.ndarray
    losses: np.ndarray
    errors: np.ndarray
    points: np.ndarray


class Profile(NamedTuple):
    """Loss and error along a curve `w(t)` from one model to another.

    Attributes:
        ts: (n,) places on the curve, from 0 to 1.
        losses: (n,) mean loss, regularizers included.
        errors: (n,) share of wrong answers, NaN where the loss has none.
        lengths: (n,) length of the curve up to there, in weight norm.
    """

    ts: np.ndarray
    losses: np.ndarray
    errors: np.ndarray
    lengths: np.ndarray


KINDS = {kind.__name__: kind for kind in (Line, Plane, Profile)}


def save(path, result):
    """Write a `Line`, `Plane` or `Profile` to `path`, as `.npz`.

    Raises:
        ValueError: If `result` is something else.

    Example:
        >>> import numpy as np, os, tempfile
        >>> from keras_smoothout.landscape.surface.results import Line, load, save
        >>> path = os.path.join(tempfile.mkdtemp(), "line.npz")
        >>> save(path, Line(np.array([0.0, 1.0]), np.array([0.5, 0.7]), np.array([0.1, 0.2])))
        >>> load(path).losses
        array([0.5, 0.7])
    """
    kind = type(result).__name__
    if KINDS.get(kind) is not type(result):
        raise ValueError(f"`result` must be one of {', '.join(KINDS)}. Received: {result!r}")
    with open(path, "wb") as file:  # NumPy would add a suffix to a path.
        np.savez(file, kind=kind, **result._asdict())


def load(path):
    """Read what `save` has written.

    Raises:
        ValueError: If `path` holds something else.
    """
    path = pathlib.Path(path)
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file) if hasattr(file, "files") else {}
    kind = KINDS.get(str(arrays.pop("kind", "")))
    if kind is None or set(arrays) != set(kind._fields):
        raise ValueError(
            f"{path} is no file of `keras_smoothout.landscape.save`. Received: {sorted(arrays)}"
        )
    return kind(**arrays)
