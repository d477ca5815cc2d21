"""A range test: the loss of a model against the size of what moves its weights.

As for learning rates, the model tells: small moves change nothing and large ones destroy all. The
suggestion is the foot of the slope between them, a start for a search.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_smoothout import backend
from keras_smoothout.checks import received
from keras_smoothout.evaluation import Batch, present, rows_of, state_variables

RISE = 0.1
KNOWN = ("mean_squared_error", "sparse_categorical_crossentropy", "categorical_crossentropy")


class RadiusSearch(NamedTuple):
    """The loss of moved weights, and the radius that it suggests.

    Attributes:
        radius: The suggestion.
        radii: Array of radii, rising.
        losses: Array, the mean loss at each of them.
        standard_errors: Array, the standard error of each, over draws or batches.
        clean: The loss of the model's own weights.
        chance: The loss of chance.
    """

    radius: float
    radii: np.ndarray
    losses: np.ndarray
    standard_errors: np.ndarray
    clean: float
    chance: float


def check_compiled(model):
    """Raise unless `model` is a model that can be asked for its loss."""
    if not (isinstance(model, keras.Model) and model.built and model.compiled):
        raise ValueError(f"`model` must be built and compiled. {received('model', model)}")


def search(model, x, y, moved, radii, chance, draws, batch_size, seed, name="radii"):
    """Return the `RadiusSearch` of a way to move the weights.

    Args:
        model: As for `find_radius`.
        x: As for `find_radius`.
        y: As for `find_radius`.
        moved: Function `(weights, radius, key, batch) -> weights` of tensors and a `Batch`.
        radii: Rising sequence of radii.
        chance: As for `find_radius`.
        draws: Number of times that each batch is moved. The standard errors are over draws, or over
            batches if it is `1`.
        batch_size: As for `find_radius`.
        seed: As for `find_radius`.
        name: Of the argument `radii`, for the error. Defaults to `"radii"`.
    """
    lengths = {len(a) for a in present((x, y))}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            "`x` and `y` must be arrays of the same number of examples, at least one. Received: "
            f"lengths {sorted(lengths)}"
        )
    (examples,) = lengths
    radii = np.asarray(radii, "float64")
    if radii.ndim != 1 or len(radii) < 2 or not np.all(np.diff(radii) > 0) or not radii[0] > 0:
        raise ValueError(
            f"`{name}` must be two or more rising numbers > 0. Received: {name}={radii}"
        )
    check_compiled(model)
    weights = [backend.read(v) for v in model.trainable_variables]
    state = [backend.read(v) for v in state_variables(model)]
    sizes = np.diff([*range(0, examples, batch_size), examples])

    @backend.compiled
    def loss_at(radius, key, data):
        batch = Batch(model, data, state)
        return batch.loss(moved(weights, radius, key, batch))

    def losses(radius, draw):
        """Array, the loss of each batch, each with a draw of its own."""
        found = []
        for i, start in enumerate(range(0, examples, batch_size)):
            data = rows_of((x, y), slice(start, start + batch_size))
            key = ops.convert_to_tensor(np.array([seed, draw, i]) % 2**32, "uint32")
            found.append(float(loss_at(ops.convert_to_tensor(radius, "float32"), key, data)))
        return np.array(found)

    still = losses(0.0, 0)
    clean = float(np.average(still, weights=sizes))
    if not np.isfinite(clean):
        raise ValueError(
            "`x` and `y` must be such that the loss of the model's own weights is finite. "
            f"Received: a loss of {clean}"
        )
    chance = chance_of(model.loss, y) if chance is None else chance
    if not clean < chance:
        raise ValueError(
            "`model` must be trained first: its own loss must be below that of chance. Received: a "
            f"loss of {clean:.4g}, where chance has {chance:.4g}"
        )
    found = np.array([[losses(r, d) for d in range(draws)] for r in radii])
    means = np.average(found, axis=(1, 2), weights=np.tile(sizes, (draws, 1)))
    by_draw = np.average(found, axis=2, weights=sizes)
    parts = by_draw if draws > 1 else found[:, 0] - still
    errors = parts.std(1, ddof=1) / parts.shape[1] ** 0.5
    level = clean + RISE * (chance - clean)
    return RadiusSearch(crossing(radii, means, level), radii, means, errors, clean, chance)


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
    ignored = getattr(loss, "ignore_class", None)
    if ignored is not None:
        y = y[y != ignored]
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
