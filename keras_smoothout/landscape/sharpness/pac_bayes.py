"""PAC-Bayes: how much noise the weights tolerate, and the bound on the test error that follows."""

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import rel_entr

from keras_smoothout.checks import check_count, check_number
from keras_smoothout.landscape.directions import arrays_of
from keras_smoothout.landscape.estimate import Estimate, mean
from keras_smoothout.landscape.sharpness.noise_sharpness import error, errors

SMALLEST, LARGEST = 2.0**-20, 1.0  # Standard deviations between which sigma is searched.
FOR_DRAWS = 0.2  # Share of the probability to fail that the bound on the expectation may take.


def kl_inverse(q, c):
    """The largest `p` with `kl(q || p) <= c`: an upper bound on a probability observed as `q`.

        kl(q || p) = q log(q / p) + (1 - q) log((1 - q) / (1 - p))

    Args:
        q: Observed frequency, in [0, 1].
        c: Bound on the divergence, >= 0.

    Example:
        >>> from keras_smoothout.landscape.sharpness.pac_bayes import kl_inverse
        >>> round(kl_inverse(0.0, 0.05), 6)  # 1 - exp(-0.05)
        0.048771

    Reference: Langford and Caruana, *(Not) Bounding the True Error*, NIPS 2001, Section 2.
    """
    check_number("q", q, most=1)
    check_number("c", c)

    def excess(p):
        return rel_entr(q, p) + rel_entr(1 - q, 1 - p) - c

    if q == 1 or c == 0:
        return float(q)
    last = math.nextafter(1.0, 0.0)
    return 1.0 if excess(last) <= 0 else brentq(excess, q, last, xtol=1e-15, rtol=1e-14)


def pac_bayes_sigma(objective, tolerance=0.1, draws=10, steps=10, seed=0):
    """The largest noise that the weights tolerate: at this `sigma` the error rises by `tolerance`.

        mean over z of error(w + sigma * z) = error(w) + tolerance       z standard normal

    Found by bisection of `log(sigma)`, with the same draws for every sigma.

    Args:
        objective: An `Objective` of a classifier.
        tolerance: Rise of the error, a share of wrong answers. Defaults to `0.1`, as in the paper.
        draws: Number of noises for each sigma. Defaults to `10`.
        steps: Number of halvings of the interval, which starts as 2**-20 to 1. Defaults to `10`,
            which gives sigma to within 1.4 %.
        seed: Integer. Defaults to `0`.

    Returns:
        An `Estimate`; larger is flatter. Infinite if the weights tolerate even `sigma=1`. Its
        standard error is that of the mean error, divided by the slope of the error between half and
        twice sigma.

    Raises:
        ValueError: If the model is not a classifier.

    Cost: `draws * (steps + 4) + 1` evaluations.

    Reference: Jiang et al., *Fantastic Generalization Measures and Where to Find Them*, ICLR 2020,
        arXiv:1912.02178, Appendix C (sigma of `pacbayes-flatness`).
    """
    check_number("tolerance", tolerance, most=1)
    check_count("draws", draws, least=2)
    check_count("steps", steps)
    limit = error(objective) + tolerance

    def noisy_error(log_sigma):
        return mean(errors(objective, 2.0**log_sigma, draws, seed))

    low, high = math.log2(SMALLEST), math.log2(LARGEST)
    if noisy_error(high).value <= limit:
        return Estimate(math.inf)
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if noisy_error(middle).value <= limit else (low, middle)
    sigma = 2.0 ** ((low + high) / 2)
    slope = (noisy_error(low + 1).value - noisy_error(low - 1).value) / (1.5 * sigma)
    spread = noisy_error(low).standard_error
    return Estimate(sigma, spread / slope if slope > 0 else math.inf)


def expected_error(mean_error, draws, delta):
    """Bound on an expected error of which only the mean over `draws` is known.

        kl_inverse(mean_error, log(2 / delta) / draws)      holds with probability 1 - delta

    Args:
        mean_error: Mean of independent draws, in [0, 1].
        draws: Number of draws.
        delta: Probability that the bound fails.

    Reference: Langford and Caruana, *(Not) Bounding the True Error*, NIPS 2001, Theorem 2.5.
    """
    return kl_inverse(mean_error, math.log(2 / delta) / draws)


def pac_bayes_bound(objective, start, confidence=0.95, draws=10, seed=0):
    """PAC-Bayes bound on the test error of the noisy model: at most this, with `confidence`.

        noisy = kl_inverse(mean over draws of error(w + sigma * z), log(2 / delta_draws) / draws)
        kl_inverse(noisy, (||w - w_0||**2 / (2 * sigma**2) + log(2 * sqrt(n) / delta)) / n)

    The smallest bound over the 10 sigmas 2**-1, ..., 2**-10. The two bounds of all sigmas share
    `1 - confidence`: a fifth is for the draws. It holds for a prior around initial weights in which
    the `n` examples had no part, and for a model that does not adapt to the data otherwise
    (BatchNormalization's moving statistics do). For most trained networks it is close to 1: true,
    but of no use.

    Args:
        objective: An `Objective` of a classifier, over all the data that it was trained on.
        start: The weights before training: a list of arrays, or a model that has them.
        confidence: Probability with which the bound holds. Defaults to `0.95`.
        draws: Number of noises for each sigma. The bound on their expectation alone adds 0.58 to
            an error of 0.05 with 10 draws, 0.10 with 150, 0.03 with 1000. Defaults to `10`.
        seed: Integer. Defaults to `0`.

    Returns:
        An `Estimate`, a share of wrong answers. The value holds for the draws that were taken; the
        standard error says how far other draws would move it.

    Raises:
        ValueError: If the model is not a classifier.

    Cost: `10 * draws` evaluations.

    Reference: Maurer, *A Note on the PAC Bayesian Theorem*, 2004, arXiv:cs/0411099, Theorem 5;
        Dziugaite and Roy, *Computing Nonvacuous Generalization Bounds*, UAI 2017,
        arXiv:1703.11008, Section 3.
    """
    check_number("confidence", confidence, most=math.nextafter(1.0, 0.0))
    check_count("draws", draws, least=2)
    distance = np.linalg.norm(
        objective.flatten(objective.weights) - objective.flatten(arrays_of(objective, start))
    )
    sigmas, n = 2.0 ** -np.arange(1, 11), objective.examples
    delta = (1 - confidence) / len(sigmas)

    def bound(sigma):
        prior = math.log(2 * math.sqrt(n) / (delta * (1 - FOR_DRAWS)))
        c = (distance**2 / (2 * sigma**2) + prior) / n
        found = mean(errors(objective, sigma, draws, seed))
        low, high = np.clip(found.value + np.array([-1, 1]) * found.standard_error, 0, 1)
        value, low, high = (
            kl_inverse(expected_error(float(e), draws, delta * FOR_DRAWS), c)
            for e in (found.value, low, high)
        )
        return Estimate(value, (high - low) / 2)

    return min(map(bound, sigmas), key=lambda estimate: estimate.value)
