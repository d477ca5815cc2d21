"""A PAC-Bayes bound for a net of one hidden layer as it is, without noise on its weights."""

import math
from typing import NamedTuple

import numpy as np

from keras_smoothout.checks import check_choice, check_count, check_integer, check_number
from keras_smoothout.landscape.sharpness.local_entropy import TINY
from keras_smoothout.landscape.sharpness.pac_bayes import kl_inverse

SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2)  # Standard deviations of the last layer that are tried.
FOR_DRAWS = 0.2  # Share of the probability to fail that the bound on the expectation takes.


class ShallowBound(NamedTuple):
    """A bound and what it is made of.

    Attributes:
        value: The bound on the test error; 1 says nothing.
        noisy_error: Mean training error of the noisy net.
        divergence: Kullback-Leibler divergence of its weights from the prior.
        sigma: Standard deviation of the last layer that gives the smallest bound.
    """

    value: float
    noisy_error: float
    divergence: float
    sigma: float


def divergences(weights, start, beta, sigma, activation="erf", hidden_sigma=0.2):
    """Kullback-Leibler divergences of the noisy hidden and last layer from those of `start`."""
    (U, V), (U0, V0) = (map(np.asarray, pair) for pair in (weights, start))
    rate = beta**2 if activation == "erf" else (beta**2 + hidden_sigma**-2) / 2
    return rate * float(((U - U0) ** 2).sum()), float(((V - V0) ** 2).sum()) / (2 * sigma**2)


def bound_of(noisy_error, divergence, n, delta):
    """`2 kl_inverse(noisy error, (KL + log(2 sqrt(n) / delta)) / n)`, at most 1."""
    return min(1.0, 2 * kl_inverse(noisy_error, (divergence + math.log(2 * n**0.5 / delta)) / n))


def shallow_bound(
    model,
    start,
    x,
    y,
    beta,
    activation="erf",
    hidden_sigma=0.2,
    sigmas=SIGMAS,
    passes=20,
    confidence=0.95,
    seed=0,
):
    """Bound the test error of a net of one hidden layer: at most this, with `confidence`.

        outputs = activation(beta * x @ U) @ V               x divided by its norm
        erf:   h = sign(x @ U + z / (sqrt(2) * beta))        its mean is erf(beta * x @ U)
        gelu:  h = (x @ U + z / beta > 0) * (x @ U + hidden_sigma * z')
        noisy outputs = h @ V + sigma * ||h|| * z''          z, z', z'' standard normal
        2 kl_inverse(noisy error + Hoeffding, (KL + log(2 sqrt(n) len(sigmas) / delta)) / n)

    The net is the mean of the noisy one, and is wrong at most twice as often. The noise is drawn
    for each example and unit, so a few passes over the data are enough.

    Args:
        model: A built model whose weights are the kernels `U`, (inputs, units), and `V`, (units,
            classes), without biases.
        start: The two arrays before training.
        x: Array (n, inputs); each row is divided by its norm.
        y: Integer labels (n,), of all examples that the net was trained on.
        beta: Factor inside the activation.
        activation: `"erf"` or `"gelu"`, `z * Phi(z)`. Defaults to `"erf"`.
        hidden_sigma: Standard deviation of the hidden weights of `"gelu"`. Defaults to `0.2`.
        sigmas: Standard deviations of the last layer's weights; the smallest bound counts.
        passes: Number of noises for each example. Defaults to `20`.
        confidence: Probability with which the bound holds. Defaults to `0.95`.
        seed: Integer. Defaults to `0`.

    Returns:
        A `ShallowBound`.

    Raises:
        ValueError: If the model has other weights than two kernels that fit to the data.

    Cost: `passes` forward passes.
    Differs from the paper: the first layer's noise is not tuned, and with it `hidden_sigma`. Each
        sigma has its own share of the probability, for the draws, too.

    Example:
        >>> import keras, numpy as np
        >>> from keras_smoothout.landscape import shallow_bound
        >>> layers = [keras.layers.Dense(u, use_bias=False) for u in (8, 2)]
        >>> model = keras.Sequential([keras.Input((3,)), *layers])
        >>> x = np.random.default_rng(0).normal(size=(500, 3))
        >>> start = model.get_weights()
        >>> shallow_bound(model, start, x, np.zeros(500, int), beta=1.0).divergence
        0.0

    Reference: Biggs and Guedj, *Non-Vacuous Generalisation Bounds for Shallow Neural Networks*,
        2022 (after the authors' code).
    """
    check_choice("activation", activation, ("erf", "gelu"))
    check_number("beta", beta, least=TINY)
    check_number("hidden_sigma", hidden_sigma)
    check_count("passes", passes)
    check_integer("seed", seed)
    check_number("confidence", confidence, most=math.nextafter(1.0, 0.0))
    shapes = [tuple(w.shape) for w in model.weights]
    fits = len(shapes) == 2 and all(len(s) == 2 for s in shapes) and shapes[0][1] == shapes[1][0]
    if not fits or shapes[0][0] != x.shape[1]:
        raise ValueError(
            f"`model` must have two kernels without biases for {x.shape[1]} inputs. "
            f"Received: weights of the shapes {shapes}"
        )
    (U, V), rng, n = model.get_weights(), np.random.default_rng(seed), len(x)
    fields = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32") @ U
    wrong = np.zeros(len(sigmas))

    def normal(like):
        return rng.standard_normal(like.shape, "float32")

    for _ in range(passes):
        if activation == "erf":
            h = np.sign(fields + normal(fields) / (2**0.5 * beta))
        else:
            fires = fields + normal(fields) / beta > 0
            h = fires * (fields + hidden_sigma * normal(fields))
        clean, size = h @ V, np.linalg.norm(h, axis=1, keepdims=True)
        for i, sigma in enumerate(sigmas):
            wrong[i] += np.mean((clean + sigma * size * normal(clean)).argmax(1) != y) / passes
    delta = (1 - confidence) / len(sigmas)
    draws = math.sqrt(math.log(1 / (FOR_DRAWS * delta)) / (2 * passes * n))
    found = []
    for error, sigma in zip(wrong.tolist(), sigmas, strict=True):
        kl = sum(divergences((U, V), start, beta, sigma, activation, hidden_sigma))
        value = bound_of(min(1.0, error + draws), kl, n, (1 - FOR_DRAWS) * delta)
        found.append(ShallowBound(value, error, kl, sigma))
    return min(found)
