"""Range tests: a radius for SmoothOut from the loss under noise, a rho for SAM from that uphill."""

import numpy as np

from keras_smoothout import noise
from keras_smoothout.checks import (
    check_choice,
    check_count,
    check_integer,
    check_names,
    check_number,
    received,
)
from keras_smoothout.evaluation import Step, present
from keras_smoothout.method import included
from keras_smoothout.methods.asam import ASAM
from keras_smoothout.methods.sam import SAM
from keras_smoothout.range_test import check_compiled, search
from keras_smoothout.weights import add

RADII = {"absolute": (1e-3, 1.0), "weight": (1e-2, 10.0), "filter": (1e-2, 10.0)}
RADII["filter_std"] = RADII["absolute"]
RHOS = {SAM: (1e-3, 1.0), ASAM: (1e-2, 10.0)}


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
        radius = the r at which loss(r) = loss(0) + 0.1 * (chance - loss(0))

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
        A `RadiusSearch`: `radius`, and `radii`, `losses`, `standard_errors`, `clean` and `chance`
        behind it. `keras_smoothout.landscape.plots.radius` draws it.

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
    if chance is not None:
        check_number("chance", chance)
    check_integer("seed", seed)
    radii = np.geomspace(*RADII[scale], 13) if radii is None else radii

    def moved(weights, radius, key, batch):
        chosen = included(model.trainable_variables, exclude)
        options = {"moved": chosen, "distribution": distribution, "scale": scale}
        return noise.perturb(weights, radius, key[0], key[1], key[2], **options)

    return search(model, x, y, moved, radii, chance, draws, batch_size, seed)


def find_rho(model, x, y, adaptive=False, chance=None, rhos=None, batch_size=128):
    """Suggest a rho for `SAM`, from the loss of a briefly trained model uphill of its weights.

        loss(r) = mean over batches of loss(w + e(r))    e(r): SAM's step uphill for rho = r
        rho = the r at which loss(r) = loss(0) + 0.1 * (chance - loss(0))

    The range test of `find_radius`, along the gradient of each batch.

    Args:
        model: As for `find_radius`.
        x: As for `find_radius`; two batches or more.
        y: As for `find_radius`.
        adaptive: Whether it is for `ASAM`. Defaults to `False`.
        chance: As for `find_radius`. Defaults to `None`.
        rhos: Rising sequence of numbers to look at. Defaults to `None`: four in each factor of ten,
            over three factors of ten.
        batch_size: Number of examples in a batch, or in a ghost batch. Defaults to `128`.

    Returns:
        A `RadiusSearch`; its `radius` is the rho. The standard errors are those of the rise of the
        loss, over batches.

    Raises:
        ValueError: As for `find_radius`, or if `x` is a single batch.

    Cost: `len(rhos)` gradients and forward passes over `x`.
    """
    check_compiled(model)
    check_count("batch_size", batch_size)
    if chance is not None:
        check_number("chance", chance)
    if not isinstance(adaptive, bool):
        raise ValueError(f"`adaptive` must be True or False. {received('adaptive', adaptive)}")
    examples = len(present(x)[0])
    if examples <= batch_size:
        raise ValueError(
            "`x` must be two batches or more. Received: "
            f"{examples} examples and batch_size={batch_size}"
        )
    cls = ASAM if adaptive else SAM
    rhos = np.geomspace(*RHOS[cls], 13) if rhos is None else rhos
    method = cls("sgd", rho=1.0)  # The step uphill is proportional to rho.
    method.build(model.trainable_variables)

    def moved(weights, rho, key, batch):
        return add(weights, rho, method.ascent(weights, batch(weights).grads, Step(0)))

    return search(model, x, y, moved, rhos, chance, 1, batch_size, 0, "rhos")
