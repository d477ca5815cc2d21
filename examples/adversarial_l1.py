"""Adversarial regression overfits in high dimension, and an L1 penalty repairs it.

    python -m examples.adversarial_l1

Linear regression under attack: each input may move by eps in the l2 norm, so the loss has a closed
form, and so has its mean over the population, for x standard normal and y = x'theta* + sigma noise:

    train        mean_i (|x_i'theta - y_i| + eps ||theta||)^2  (+ lam ||theta||_1)
    population   D^2 + 2 sqrt(2 / pi) eps ||theta|| D + eps^2 ||theta||^2
                 D^2 = ||theta - theta*||^2 + sigma^2

With more dimensions than examples, a theta that fits all of them has a small training loss and a
large population risk. A sparse theta* is found again with an L1 penalty: the population risk is
U-shaped in lam. In low dimension the penalty has little to repair. Training is SGD on the whole
batch with the proximal step of the penalty as a Keras constraint. The paper's second part, a
two-layer net near its start, is not here.

Reference: Xing, Song and Cheng, *On the Generalization Properties of Adversarial Training*, 2021
    (its abstract; the population risk was derived again).
"""

import keras
import numpy as np
from keras import ops

from examples import common
from keras_smoothout.landscape.estimate import mean
from keras_smoothout.landscape.style import COLORS, tidy

EPS, SIGMA, EXAMPLES, RATE = 0.2, 0.5, 100, 0.02
PENALTIES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
BANDS = {20: ((0.95, 1.1), (3, 4.5)), 300: ((2.2, 3), (2, 2.8))}  # No penalty, and too much of it.


class SoftThreshold(keras.constraints.Constraint):
    """The proximal step of the L1 penalty, after each update."""

    def __init__(self, by):
        self.by = by

    def __call__(self, w):
        return ops.sign(w) * ops.relu(ops.abs(w) - self.by)


def adversarial(residuals, theta, eps=EPS):
    """The loss at the worst inputs, for theta of the shape (runs, d)."""
    norms = ops.sqrt(ops.sum(theta**2, -1, keepdims=True) + 1e-12)
    return ops.mean((ops.abs(residuals) + eps * norms) ** 2, -1)


def population(theta, truth, sigma=SIGMA, eps=EPS):
    """The mean loss at the worst inputs over all of them."""
    size, miss = np.linalg.norm(theta, axis=-1), ((theta - truth) ** 2).sum(-1) + sigma**2
    return miss + 2 * (2 / np.pi) ** 0.5 * eps * size * miss**0.5 + (eps * size) ** 2


def trained(x, y, penalty, steps, start=None, rate=RATE, eps=EPS):
    """Coefficients (runs, d) after training on x (runs, n, d) and y (runs, n)."""

    def loss(_, theta):
        return ops.sum(adversarial(ops.einsum("rnd,rd->rn", x, theta) - y, theta, eps))

    layer = common.LossOf(loss, theta=np.zeros_like(x[:, 0]) if start is None else start)
    layer.ws[0].constraint = SoftThreshold(rate * penalty)
    return layer.trained(keras.optimizers.SGD(rate), steps, every=steps)[0][-1]


def main(quick):
    steps, runs, fresh = (20, 2, 500) if quick else (1000, 10, 10_000)
    penalties = PENALTIES[::3] if quick else PENALTIES
    (figure, axes), claims, rng = common.panels(2), [], np.random.default_rng(0)
    for axis, d in zip(axes, (20, 300), strict=True):
        truth, shape = np.where(np.arange(d) < 10, 0.5, 0.0), (runs, EXAMPLES, d)
        x = rng.normal(size=shape).astype("float32")
        y = (x @ truth + SIGMA * rng.normal(size=shape[:2])).astype("float32")
        found = [trained(x, y, penalty, steps) for penalty in penalties]
        risks = np.array([population(theta, truth) for theta in found])
        fits = [adversarial(np.einsum("rnd,rd->rn", x, w) - y, w) for w in found]
        best = min(population(c * truth, truth) for c in np.linspace(0, 1, 101))
        ticks, both = range(len(penalties)), {"population": risks, "train": fits}
        for (name, values), color in zip(both.items(), COLORS, strict=False):
            common.points(axis, ticks, np.transpose(values), fmt="o-", color=color, label=name)
        axis.axhline(best, color="k", linestyle=":", label="best multiple of the truth")
        axis.set_xticks(ticks, penalties)
        tidy(axis, title=f"{d} dimensions, {EXAMPLES} examples", xlabel="L1 penalty")
        none, much = BANDS[d]
        lowest, name = risks[risks.mean(1).argmin()], f"{d} dimensions:"
        claims.append(common.Claim(f"{name} no L1 over best", *mean(risks[0] / lowest), *none))
        claims.append(common.Claim(f"{name} L1 of 0.8 over best", *mean(risks[-2] / lowest), *much))
        theta, z = found[0][0], rng.normal(size=(fresh, d + 1))
        residuals = z[:, :d] @ (theta - truth) + SIGMA * z[:, d]
        sample = (np.abs(residuals) + EPS * np.linalg.norm(theta)) ** 2
        risk = risks[0, 0], 0.05 * risks[0, 0]
        claims.append(common.near(f"{name} risk, sampled", mean(sample), *risk))
    axes[0].legend(frameon=False)
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
