"""Binary weights that classify random patterns: found by two searches, and how wide they lie.

    python -m examples.binary_perceptron

N weights of +-1 must classify alpha N random patterns. Solutions exist up to alpha = 0.83, nearly
all of them isolated. Two searches find one of the few wide regions instead: SBPI, a perceptron rule
on hidden integers, and replicated SGD on weights tanh(h), coupled by springs, whose centre is
rounded. SBPI stops well below the capacity, where wide regions break up. Replicated SGD stops
earlier, but lies wider; at alpha = 0.4, one SGD that sees all patterns does as well as its copies.
If a share q of the weights of a solution flips, the error follows from the stabilities
k_i = label_i x_i'W / sqrt(N), as the field becomes normal:

    error = mean_i Q((1 - 2q) k_i / sqrt(1 - (1 - 2q)^2))

Local energy measures it: noise of s times each weight flips the share q = Q(1 / s) of the signs.

Reference: Baldassi et al., *Unreasonable effectiveness of learning neural networks*, PNAS 2016,
    arXiv:1605.06444; SBPI after Baldassi et al., 2007. The capacity is the literature's.
"""

import keras
import numpy as np
from keras import ops

import keras_smoothout as ks
from examples import common
from examples.parts.perceptron import FLIPS, Signs, energies, sbpi
from keras_smoothout.landscape.estimate import mean
from keras_smoothout.landscape.style import COLORS, tidy

ALPHAS = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85)
NAMES = ("SBPI", "replicated SGD")


def searched(N, alpha, epochs, rng, margin=0):
    """Random patterns, labels included, and what SBPI finds for them."""
    x, h = (rng.choice([-1, 1], size) for size in ((int(alpha * N / 15) * 15, N), N))
    return x, sbpi(x, h, rng.random((epochs, len(x))), margin)


def descended(x, copies, passes):
    """The rounded mean weights of coupled copies after SGD."""
    model = keras.Sequential([keras.Input((x.shape[1],)), Signs()])
    model = ks.Copies(model, copies, initial="different")
    sgd = keras.optimizers.SGD(1.0, momentum=0.9)
    optimizer = ks.ReplicatedSGD(sgd, 0.01, scoping=0.01, largest_coupling=0.2)
    rows = len(x) // 15 * 3
    model.compile(
        optimizer, lambda y, z: ops.softplus(-2 * z / x.shape[1] ** 0.5), steps_per_execution=50
    )
    data = np.tile(x[: 5 * rows], (10, 1)).astype("float32")
    model.fit(data, np.ones((len(data), 1)), rows, passes // 10, verbose=0)
    return np.sign(model.centre().get_weights()[0][:, 0])


def main(quick):
    N, runs, epochs, passes, draws = (61, 2, 40, 10, 2) if quick else (501, 4, 300, 100, 20)
    rng = np.random.default_rng(0)
    solved = [
        np.mean([searched(N, a, epochs, rng)[1] is not None for _ in range(2 * runs)])
        for a in ALPHAS
    ]
    wide, left = [], []
    for _ in range(runs):
        x, W = searched(N, 0.3, epochs, rng)
        wide.append((energies(W, x, draws), energies(descended(x, 3, passes), x, draws)))
        x, _ = searched(N, 0.4, 0, rng)
        left.append([np.mean(x @ descended(x, copies, passes) <= 0) for copies in (1, 3)])
    wide, left = np.array(wide), np.array(left)  # wide: run, search, whether theory, flips.
    energy = wide[:, :, 0, 2]
    stops = np.interp(0.5, solved[::-1], ALPHAS[::-1])
    claims = [
        common.Claim("SBPI solves half of the problems at", stops, 0.02, 0.6, 0.8),
        common.near(
            "SBPI: energy - theory, 0.1 flipped", mean(energy[:, 0] - wide[:, 0, 1, 2]), 0, 0.01
        ),
        common.Claim("energy of SBPI, 0.1 flipped", *mean(energy[:, 0]), 0.08, 0.13),
        common.Claim("energy of replicated SGD", *mean(energy[:, 1]), 0.05, 0.08),
        common.Claim(
            "alpha 0.4: wrong, SGD - replicated", *mean(left[:, 0] - left[:, 1]), -0.02, 0.03
        ),
    ]
    figure, axes = common.panels(2)
    axes[0].plot(ALPHAS, solved, "o-", color=COLORS[0])
    axes[0].axvline(0.83, color="k", linestyle=":", label="capacity")
    for found, name, color in zip(wide.swapaxes(0, 1), NAMES, COLORS, strict=False):
        common.points(axes[1], FLIPS, found[:, 0], color=color, label=name)
        axes[1].plot(FLIPS, found[:, 1].mean(0), color=color)
    tidy(axes[0], xlabel="patterns per weight", ylabel="share solved by SBPI")
    tidy(axes[1], xlabel="share of flipped weights", ylabel="local energy (line: theory)")
    for axis in axes:
        axis.legend(frameon=False)
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
