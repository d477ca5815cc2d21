"""Large batches end in sharper minima than small ones, on the same number of updates.

    python -m examples.sharp_minima

Two trainings of a small network on digits start alike. One has batches of 16, the other a fifth of
the data. Keskar's sharpness is the largest rise of the loss in a box around the weights (percent):

    phi = 100 (max_z loss(w + z) - loss(w)) / (1 + loss(w)),    |z_i| <= epsilon (|w_i| + 1)

The paper finds phi of the large batch several times that of the small one, and a line between the
two on which the large batch sits in the narrower valley. Theory names no factor. We find phi more
than twice, and the largest eigenvalue of the Hessian 1.9 times as large. The paper's other claim,
that the sharper minimum is worse on test data, does not show here: the test errors differ by less
than their standard error. Digits are too easy, and both have equal updates, not epochs.

Reference: Keskar et al., *On Large-Batch Training for Deep Learning: Generalization Gap and Sharp
    Minima*, ICLR 2017, arXiv:1609.04836, Section 2.2.
"""

import keras
import numpy as np

from examples import common
from examples.parts import digits
from keras_smoothout import landscape
from keras_smoothout.landscape.style import COLORS, tidy

SMALL, LARGE, RATE = 16, 287, 0.2
EPSILONS = (5e-4, 1e-3, 5e-3)


def trained(batch_size, updates, seed, x, y):
    """A training of one batch size: its `Objective`, on the training data."""
    optimizer = keras.optimizers.SGD(digits.cosine(RATE, updates))
    model = digits.network(seed=seed)
    digits.trained(model, x, y, optimizer, batch_size, updates, seed)
    return landscape.Objective(model, x, y, batch_size=2000)


def measured(objective, test):
    """Sharpness in boxes of each size, largest eigenvalue, test error."""
    boxes = [landscape.keskar_sharpness(objective, e).value for e in EPSILONS]
    top = landscape.eigenpairs(landscape.hessian(objective), 1, tolerance=0.02)
    return [*boxes, top.values[0], digits.judged(objective.model, *test)[1]]


def ratio(pairs):
    """Geometric mean over seeds of large over small, and its standard error; `pairs` (seeds, 2)."""
    logs = np.log(pairs[:, 1] / pairs[:, 0])
    mean, error = np.exp(logs.mean()), logs.std(ddof=1) / len(logs) ** 0.5
    return float(mean), float(mean * error)


def main(quick):
    seeds, updates = (2, 20) if quick else (4, 1500)
    x, y = digits.arrays()
    test, found = digits.arrays("test"), []
    for seed in range(seeds):
        pair = [trained(size, updates, seed, x, y) for size in (SMALL, LARGE)]
        found.append([measured(objective, test) for objective in pair])
        if not seed:
            ends = pair
    found = np.array(found)  # (seeds, small and large, numbers)
    worse = found[:, 1, -1] - found[:, 0, -1]
    error = worse.std(ddof=1) / seeds**0.5
    claims = [
        common.Claim("sharpness, large over small batch", *ratio(found[..., 1]), 1.5, 3.2),
        common.Claim("largest eigenvalue, large over small", *ratio(found[..., 3]), 1.3, 2.6),
        common.Claim("test error, large less small batch", worse.mean(), error, -0.01, 0.01),
    ]
    figure, (left, right) = common.panels(2, 4.4)
    places = np.linspace(-1, 2, 7 if quick else 31)
    other = landscape.Objective(ends[0].model, *test, batch_size=2000)
    for objective, name, color in zip((ends[0], other), ("training", "test"), COLORS, strict=False):
        line = landscape.interpolate(objective, ends[1].model, places)
        left.plot(places, line.losses, color=color, label=f"{name} loss")
    tidy(left, yscale="log", xlabel="from small (0) to large batch (1)", ylabel="loss")
    for place, name in enumerate(("small", "large")):
        left.axvline(place, color="0.7", linewidth=0.8, zorder=0)
        left.text(place, 1.02, name, transform=left.get_xaxis_transform(), ha="center")
        values = found[:, place, : len(EPSILONS)]
        bars = values.std(0, ddof=1) / seeds**0.5
        style = {"marker": "os"[place], "color": COLORS[3 + place], "capsize": 3}
        right.errorbar(EPSILONS, values.mean(0), bars, **style, label=f"{name} batch")
    tidy(right, xscale="log", yscale="log", xlabel="epsilon", ylabel="sharpness (%)")
    right.set_xticks(EPSILONS, EPSILONS)
    right.minorticks_off()
    for axis in (left, right):
        axis.legend(frameon=False)
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
