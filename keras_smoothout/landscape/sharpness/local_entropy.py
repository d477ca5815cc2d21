"""Local entropy: how much room of low loss there is around the weights."""

import numpy as np

from keras_smoothout.checks import check_count, check_number
from keras_smoothout.landscape.estimate import Estimate, mean

TINY = float(np.finfo("float64").tiny)


def local_entropy(objective, beta=1.0, gamma=1e4, draws=20, temperatures=1, step=0.5, seed=0):
    """Local entropy: the volume of low loss around the weights, on a logarithmic scale.

        log mean over v of exp(-beta * loss(v))      v normal, mean w, variance 1 / (beta * gamma)

    This is Chaudhari's `log integral exp(-beta * loss(v) - beta * gamma / 2 * ||w - v||**2) dv`
    less its value for a loss of 0, `n / 2 * log(2 pi / (beta * gamma))`. Higher is flatter. For a
    small `beta` the mean is taken directly. For a large one a few draws would dominate. More
    `temperatures` then let each draw drift towards low loss while `beta` is raised, by annealed
    importance sampling.

    Args:
        objective: An `Objective`.
        beta: Inverse temperature, in units of 1 / loss. Defaults to `1.0`.
        gamma: Strength of the coupling to `w`; the neighbourhood has the standard deviation
            `(beta * gamma)**-0.5` in each weight. Defaults to `1e4`.
        draws: Number of independent draws. Defaults to `20`.
        temperatures: Number of steps in which `beta` is raised. Defaults to `1`.
        step: Share of fresh noise in each drift, in (0, 1]. Defaults to `0.5`.
        seed: Integer. Defaults to `0`.

    Returns:
        An `Estimate`. Its standard error is to first order, and too small where it is above 1.

    Cost: `draws * temperatures + 1` losses.
    Differs from the paper: the paper needs only the gradient of this number, and finds it by
        Langevin dynamics (Entropy-SGD).

    Reference: Chaudhari et al., *Entropy-SGD: Biasing Gradient Descent Into Wide Valleys*, ICLR
        2017, arXiv:1611.01838, Eq. (3); Neal, *Annealed Importance Sampling*, 2001,
        arXiv:physics/9803008.
    """
    check_number("beta", beta, least=TINY)
    check_number("gamma", gamma, least=TINY)
    check_number("step", step, least=TINY, most=1)
    check_count("draws", draws, least=2)
    check_count("temperatures", temperatures)
    centre, clean = objective.flatten(objective.weights), objective.loss(objective.weights)
    rng, deviation = np.random.default_rng(seed), (beta * gamma) ** -0.5

    def rise(offset):
        return objective.loss(objective.unflatten(centre + offset)) - clean

    def share(t):
        return (t / temperatures) ** 3  # Small steps first, where the draws are far apart.

    def log_weight():
        total, offset = 0.0, deviation * rng.standard_normal(len(centre))
        here = rise(offset)
        for t in range(1, temperatures + 1):
            total -= beta * (share(t) - share(t - 1)) * here
            if t == temperatures:
                return total
            fresh = deviation * rng.standard_normal(len(centre))
            proposed = (1 - step**2) ** 0.5 * offset + step * fresh  # Keeps the normal law.
            there = rise(proposed)
            if np.log(rng.random()) < beta * share(t) * (here - there):
                offset, here = proposed, there

    logs = np.array([log_weight() for _ in range(draws)])
    relative = mean(np.exp(logs - logs.max()))
    value = np.log(relative.value) + logs.max() - beta * clean
    return Estimate(float(value), relative.standard_error / relative.value)
