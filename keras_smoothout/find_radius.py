"""A range test for the radius: the loss under SmoothOut's noise against the size of the noise.

As for learning rates, the model tells: small noise changes nothing and large noise destroys all.
The suggestion is the foot of the slope between them, a start for a search.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_smoothout import backend, noise
from keras_smoothout.checks import (
    check_choice,
    check_count,
    check_integer,
    check_names,
    check_number,
    received,
)
from keras_smoothout.evaluation import Batch, state_variables
from keras_smoothout.method import included

RADII = {"absolute": (1e-3, 1.0), "weight": (1e-2, 10.0), "filter": (1e-2, 10.0)}
RADII["filter_std"] = RADII["absolute"]
RISE = 0.1
KNOWN = ("mean_squared_error", "sparse_categorical_crossentropy", "categorical_crossentropy")


class RadiusSearch(NamedTuple):
    """The loss under noise, and the radius that it suggests.

    Attributes:
        radius: The suggestion.
        radii: Array of radii, rising.
        losses: Array, the mean loss at each of them.
        standard_errors: Array, the standard error of each over its draws.
        clean: The loss without noise.
        chance: The loss of chance.
    """

    radius: float
    radii: np.ndarray
    losses: np.ndarray
    standard_errors: np.ndarray
    clean: float
    chance: float


def find_radius(
    model,
    x,
    y,
    scale="absolute",
    distribution="uniform",
    exclude=("gamma", "beta"),
    chance=None,
    radii=None,
    draws=4,
    batch_size=128,
    seed=0,
):
    """Suggest a radius for `SmoothOut`, from the loss of a briefly trained model under noise.

        loss(r) = mean over draws and batches of loss(w + r * noise)
        radius = the r at which loss(r) = loss(0) + RISE * (chance - loss(0))

    `chance` is the loss of a model that has learned nothing but how often each answer is right.

    The passes are those of training: BatchNormalization normalizes by the batch, dropout is on.
    Each batch has draws of its own, as each step has. Nothing is assigned.

    Args:
        model: A built and compiled `keras.Model`, trained for a few epochs without noise, best with
            small batches: its loss must be well below `chance`.
        x: Array of inputs, or a nest of arrays: a part of the training data, a thousand examples or
            so.
        y: Array of targets, or a nest of arrays.
        scale: As for `SmoothOut`; `"filter"` for `AdaSmoothOut`. Defaults to `"absolute"`.
        distribution: As for `SmoothOut`. Defaults to `"uniform"`.
        exclude: As for `SmoothOut`. Defaults to `("gamma", "beta")`.
        chance: The loss of chance. Defaults to `None`: the entropy of the labels for a categorical
            crossentropy, the variance of the targets for the mean squared error; others must be
            given.
        radii: Rising sequence of radii to look at. Defaults to `None`: four in each factor of ten,
            over three factors of ten.
        draws: Number of draws for each batch and radius. Defaults to `4`.
        batch_size: Number of examples in a batch, or in a ghost batch. Defaults to `128`.
        seed: Integer. Defaults to `0`.

    Returns:
        A `RadiusSearch`. `keras_smoothout.landscape.plots.radius` draws it.

    Raises:
        ValueError: If an argument is out of its range, the model is not built or has no loss, or
            its loss without noise is not finite or not below that of chance.

    Cost: `draws * len(radii)` forward passes over `x`.
    """
    check_choice("scale", scale, noise.SCALES)
    check_choice("distribution", distribution, noise.DISTRIBUTIONS)
    check_names("exclude", exclude)
    check_count("draws", draws, least=2)
    check_count("batch_size", batch_size)
    check_integer("seed", seed)
    if chance is not None:
        check_number("chance", chance)
    lengths = {len(a) for a in keras.tree.flatten((x, y))}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            "`x` and `y` must be arrays of the same number of examples, at least one. Received: "
            f"lengths {sorted(lengths)}"
        )
    (examples,) = lengths
    radii = np.geomspace(*RADII[scale], 13) if radii is None else np.asarray(radii, "float64")
    if radii.ndim != 1 or len(radii) < 2 or not np.all(np.diff(radii) > 0) or not radii[0] > 0:
        raise ValueError(f"`radii` must be two or more rising numbers > 0. Received: radii={radii}")
    if not (isinstance(model, keras.Model) and model.built and model.compiled):
        raise ValueError(f"`model` must be built and compiled. {received('model', model)}")
    moved = included(model.trainable_variables, exclude)
    options = {"moved": moved, "distribution": distribution, "scale": scale}
    weights = [backend.read(v) for v in model.trainable_variables]
    state = [backend.read(v) for v in state_variables(model)]

    @backend.compiled
    def loss_at(radius, key, batch):
        noisy = noise.perturb(weights, radius, key[0], key[1], key[2], **options)
        return Batch(model, batch, state).loss(noisy)

    def losses(radius, draw):
        """Mean loss over all examples, with a separate draw for each batch."""
        total = 0.0
        for i, start in enumerate(range(0, examples, batch_size)):
            rows = slice(start, start + batch_size)
            batch = keras.tree.map_structure(lambda a, rows=rows: a[rows], (x, y))
            key = ops.convert_to_tensor(np.array([seed, draw, i]) % 2**32, "uint32")
            size = min(batch_size, examples - start)
            total += size * float(loss_at(ops.convert_to_tensor(radius, "float32"), key, batch))
        return total / examples

    clean = losses(0.0, 0)
    if not np.isfinite(clean):
        raise ValueError(
            "`x` and `y` must be such that the loss without noise is finite. Received: a loss of "
            f"{clean}"
        )
    chance = chance_of(model.loss, y) if chance is None else chance
    if not clean < chance:
        raise ValueError(
            "`model` must be trained first: its loss without noise must be below that of chance. "
            f"Received: a loss of {clean:.4g}, where chance has {chance:.4g}"
        )
    found = np.array([[losses(radius, draw) for draw in range(draws)] for radius in radii])
    errors = found.std(1, ddof=1) / draws**0.5
    level = clean + RISE * (chance - clean)
    return RadiusSearch(
        crossing(radii, found.mean(1), level), radii, found.mean(1), errors, clean, chance
    )


def chance_of(loss, y):
    """The loss of a model that has learned nothing but how often each answer is right."""
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    name = getattr(loss, "name", getattr(loss, "__name__", None))
    if name not in KNOWN:
        raise ValueError(
            "`chance` must be given for this loss: what a model has that knows nothing. Received: "
            f"chance=None, and the loss {name or loss}"
        )
    y = np.asarray(y)
    if name == "mean_squared_error":
        return float(np.mean(np.square(y - y.mean(0))))
    if name == "sparse_categorical_crossentropy":
        y = np.eye(int(y.max()) + 1)[y.astype("int64").ravel()]
    shares = y.reshape(-1, y.shape[-1]).mean(0)
    return float(-np.sum(shares * np.log(np.maximum(shares, 1e-12))))


def crossing(radii, losses, level):
    """The radius at which `losses` first reach `level`, between two of `radii` by their logarithms.

    Where none does it is the largest one, and where all do the smallest.
    """
    above = np.flatnonzero(~(losses < level))
    if not above.size:
        return float(radii[-1])
    i = above[0]
    if i == 0:
        return float(radii[0])
    low, high = losses[i - 1], losses[i]
    share = (level - low) / (high - low) if np.isfinite(high) else 0.0
    return float(radii[i - 1] * (radii[i] / radii[i - 1]) ** share)
