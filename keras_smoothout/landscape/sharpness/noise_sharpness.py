"""How loss and error rise when noise is added to the weights, on average."""

import functools

import keras
import numpy as np

from keras_smoothout import backend, noise
from keras_smoothout.checks import check_choice, check_count, check_names, check_number
from keras_smoothout.landscape.estimate import mean
from keras_smoothout.method import included


def noisy(objective, radius, draw, seed=0, exclude=(), distribution="normal", scale="absolute"):
    """The weights of `objective` plus noise: a pure function of them, `seed` and `draw`.

    Args:
        objective: An `Objective`.
        radius: Size of the noise, as for `keras_smoothout.SmoothOut`.
        draw: Integer, the index of the noise.
        seed: Integer. Defaults to `0`.
        exclude: Names of variables or layers without noise. Defaults to none.
        distribution: As for `keras_smoothout.SmoothOut`. Defaults to `"normal"`.
        scale: As for `keras_smoothout.SmoothOut`. Defaults to `"absolute"`.

    Returns:
        List of arrays.
    """
    moved = included(objective.model.trainable_variables, exclude)
    tensors = [keras.ops.convert_to_tensor(w) for w in objective.weights]
    radius = keras.ops.convert_to_tensor(radius, "float32")  # Each number would compile again.
    key = keras.ops.convert_to_tensor(np.array([seed, draw]) % 2**32, "uint32")
    perturbed = _perturbation(moved, distribution, scale)(tensors, radius, key)
    return [keras.ops.convert_to_numpy(w) for w in perturbed]


@functools.cache
def _perturbation(moved, distribution, scale):
    options = {"moved": moved, "distribution": distribution, "scale": scale}
    return backend.compiled(
        lambda w, radius, key: noise.perturb(w, radius, key[0], key[1], **options)
    )


def expected_sharpness(
    objective,
    radius=0.01,
    distribution="uniform",
    scale="absolute",
    draws=20,
    exclude=("gamma", "beta"),
    seed=0,
):
    """How much higher the loss is on average around the weights: what SmoothOut descends.

        mean over u of (loss(w + u) + loss(w - u)) / 2 - loss(w)

    The noise is that of `keras_smoothout.SmoothOut` with the same arguments. Noise comes in pairs
    of opposite signs, which cancels the slope; to second order the value is
    `radius**2 / 6 * trace(H)` for uniform noise, `radius**2 / 2 * trace(H)` for normal noise.

    Args:
        objective: An `Objective`.
        radius: Half width of uniform, standard deviation of normal noise, in units of `scale`.
            Defaults to `0.01`.
        distribution: `"uniform"` or `"normal"`. Defaults to `"uniform"`.
        scale: `"absolute"`, `"weight"` or `"filter"`. Defaults to `"absolute"`.
        draws: Number of pairs. Defaults to `20`.
        exclude: Names of variables or layers without noise. Defaults to `("gamma", "beta")`.
        seed: Integer. Defaults to `0`.

    Returns:
        An `Estimate`, in units of the loss.

    Cost: `2 * draws + 1` losses.

    Reference: Wen et al., *SmoothOut: Smoothing Out Sharp Minima to Improve Generalization in Deep
        Learning*, 2018, arXiv:1805.07898, Eq. (4).
    """
    check_number("radius", radius)
    check_choice("distribution", distribution, noise.DISTRIBUTIONS)
    check_choice("scale", scale, noise.SCALES)
    check_count("draws", draws, least=2)
    check_names("exclude", exclude)
    options = {"exclude": exclude, "distribution": distribution, "scale": scale}

    def loss(radius, draw):
        return objective.loss(noisy(objective, radius, draw, seed, **options))

    clean = objective.loss(objective.weights)
    return mean([(loss(radius, i) + loss(-radius, i)) / 2 - clean for i in range(draws)])


def local_energy(objective, strength=0.1, draws=20, seed=0):
    """How much higher the error is under multiplicative noise on the weights.

        mean over z of error(w + strength * z * w) - error(w)          z standard normal

    Scaling a layer up and the next one down changes nothing, unlike with additive noise.

    Args:
        objective: An `Objective` of a classifier.
        strength: Standard deviation of the noise relative to each weight. Defaults to `0.1`.
        draws: Number of draws. Defaults to `20`.
        seed: Integer. Defaults to `0`.

    Returns:
        An `Estimate`, a share of wrong answers.

    Raises:
        ValueError: If the model has no error, because it is not a classifier.

    Cost: `draws + 1` evaluations.

    Reference: Pittorino et al., *Entropic gradient descent algorithms and wide flat minima*, ICLR
        2021, arXiv:2006.07897, Section 2.
    """
    check_number("strength", strength)
    check_count("draws", draws, least=2)
    clean = error(objective)
    return mean(errors(objective, strength, draws, seed, scale="weight") - clean)


def errors(objective, sigma, draws, seed, scale="absolute"):
    """Shares of wrong answers of a classifier under `draws` normal noises of size `sigma`."""
    places = (noisy(objective, sigma, i, seed, scale=scale) for i in range(draws))
    return np.array([error(objective, place) for place in places])


def error(objective, weights=None):
    """Share of wrong answers of a classifier, at `weights` or those of `objective`."""
    found = objective.evaluate(objective.weights if weights is None else weights)[1]
    if np.isnan(found):
        raise ValueError(
            "This measure counts wrong answers, and the model's loss is not that of a classifier. "
            f"Received: loss={objective.model.loss!r}"
        )
    return found
