"""The best classifier of two Gaussian clouds lies where training errors bear the most noise.

    python -m examples.gaussian_mixture

n = alpha N examples x = y v / sqrt(N) + sqrt(Delta) z with labels y = +-1, v and z standard normal.
The Bayes-optimal linear classifier is Hebb's, w = sum of y x. For N to infinity its test error, and
the error with normal noise of s times each weight, are

    Q(1 / sqrt(Delta (1 + Delta / alpha) (1 + s^2)))         s = 0 without noise

Other directions fit the training set better, such as logistic regression without a penalty, which
tends to the largest margin. But as noise on the weights grows, Hebb's direction is the one with the
fewest training errors. So SmoothOut with a large radius, relative to the norm of the weights, leads
from the largest margin to the Bayes-optimal error.

Reference: Baldassi et al., *Wide flat minima and optimal generalization in classifying
    high-dimensional Gaussian mixtures*, 2020 (abstract; the formulas were derived again).
"""

import keras
import numpy as np
from keras import ops
from scipy.stats import norm

import keras_smoothout as ks
from examples import common
from examples.parts.perceptron import classified, noisy_errors
from keras_smoothout.landscape.estimate import mean
from keras_smoothout.landscape.style import COLORS

ALPHA, DELTA, NOISES, RADII = 1.0, 0.5, (0.0, 0.5, 1.0, 2.0, 4.0), (0.0, 1.0, 2.0, 3.0, 4.0)


def theory(noise=0.0):
    return norm.sf((DELTA * (1 + DELTA / ALPHA) * (1 + noise**2)) ** -0.5)


def clouds(v, n, rng):
    """Examples (seeds, n, N) around the centres v (seeds, N), and labels (n,), as many of each."""
    y, z = np.tile([1.0, -1.0], n // 2), rng.normal(size=(len(v), n, v.shape[1]))
    return (y[:, None] * v[:, None] / v.shape[1] ** 0.5 + DELTA**0.5 * z).astype("float32"), y


def trained(x, y, radius, steps):
    """Weights (N, seeds) of logistic regression by SmoothOut on the whole batch, all seeds."""
    signed = (x * y[:, None]).astype("float32")

    def loss(_, w):  # Each seed is a filter.
        return ops.sum(ops.softplus(-ops.einsum("sni,is->sn", signed, w))) / len(y)

    start = 1e-3 * np.random.default_rng(1).normal(size=(x.shape[2], len(x)))
    optimizer = ks.SmoothOut(keras.optimizers.SGD(0.5), radius, scale="filter")
    layer = common.LossOf(loss, w=start.astype("float32"))
    return layer.trained(optimizer, steps, every=steps // 10)[0][-1]


def test_errors(w, v):
    return norm.sf((w.T * v).sum(1) / np.linalg.norm(w, axis=0) / (len(w) * DELTA) ** 0.5)


def under_noise(w, x, y, draws):
    """Training error (seeds, noises) with noise on each weight."""
    layers = [keras.layers.Dense(1, use_bias=False) for _ in x]
    each = [classified(*its, (y + 1) / 2) for its in zip(layers, w.T, x, strict=True)]
    return np.array([noisy_errors(objective, NOISES, draws) for objective in each])


def main(quick):
    N, seeds, steps, draws = (40, 2, 20, 2) if quick else (500, 8, 500, 20)
    rng, radii = np.random.default_rng(0), RADII[::4] if quick else RADII
    (figure, axes), v = common.panels(2), rng.normal(size=(seeds, N))
    x, y = clouds(v, int(ALPHA * N), rng)
    ways = {"Hebb (Bayes)": np.einsum("sni,n->is", x, y)}
    ways |= {f"radius {r:.0f}": trained(x, y, r, steps) for r in radii}
    errors = {name: test_errors(w, v) for name, w in ways.items()}
    noisy = {name: under_noise(ways[name], x, y, draws) for name in (*list(ways)[:2], "radius 4")}
    fresh = under_noise(ways["Hebb (Bayes)"], *clouds(v, 2 * N, rng), draws)
    hebb, logistic, smooth = (errors[name] for name in noisy)
    above = {name: found - noisy["Hebb (Bayes)"] for name, found in noisy.items()}
    claims = [
        common.near("Hebb: test error", mean(hebb), theory(), 0.015),
        common.near("Hebb: test error, noise 1", mean(fresh[:, 2]), theory(1.0), 0.02),
        common.Claim("logistic: test error", *mean(logistic), 0.14, 0.18),
        common.Claim("SmoothOut, radius 4, above Hebb", *mean(smooth - hebb), 0, 0.006, 0),
        common.Claim("logistic above Hebb: no noise", *mean(above["radius 0"][:, 0]), -0.08, -0.02),
        common.Claim("logistic above Hebb: noise 4", *mean(above["radius 0"][:, -1]), 0.005, 0.03),
    ]
    axes[0].axhline(theory(), color="k", linestyle=":", label="theory, Bayes")
    values = np.array([errors[f"radius {r:.0f}"] for r in radii])
    style = {"fmt": "o-", "color": COLORS[1], "label": "SmoothOut"}
    axes[0].errorbar(radii, values.mean(1), (values - hebb).std(1) / seeds**0.5, **style)
    for (name, found), color in zip(above.items(), COLORS, strict=False):
        axes[1].plot(NOISES, found.mean(0), "o-", color=color, label=name)
    common.labelled(axes[0], xlabel="radius", ylabel="test error")
    common.labelled(axes[1], xlabel="noise over weight", ylabel="training errors above Hebb's")
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
