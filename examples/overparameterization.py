"""More weights than needed to fit: past the interpolation point, minima become wide.

    python -m examples.overparameterization

Networks of one hidden layer on digits, of growing width. A narrow one cannot fit its training data.
At the interpolation point the training error first reaches 0, and the solutions there are few and
sharp. Statistical physics says that wide flat minima appear beyond it, and that these generalize.
Their width is seen by the local energy, which does not depend on how a ReLU network is scaled:

    E_z error(w + strength * z * w) - error(w),    z standard normal

Expected are a local energy and a test error that still fall when the training error is 0. Here the
local energy is highest before the point, and falls to a twentieth after it; the test error falls by
a fifth, two standard errors. The theory is about binary weights and random patterns, and names no
number for digits. Part of the fall is no matter of learning: noise of more weights averages out.

Reference: Baldassi et al., *Learning through atypical phase transitions in overparameterized neural
    networks*, 2021 (its abstract); local energy: Pittorino et al., ICLR 2021, arXiv:2006.07897.
"""

import keras
import numpy as np

from examples import common
from examples.parts import digits
from keras_smoothout import landscape
from keras_smoothout.landscape.estimate import mean
from keras_smoothout.landscape.style import COLORS, tidy

WIDTHS = (2, 4, 6, 8, 12, 16, 32, 64, 128, 256)
STRENGTH, BATCH, FITTED = 0.3, 128, 0.003
NAMES = ("training error", "test error", "local energy")


def measured(width, seed, updates, data, test):
    """Training error, test error and local energy of a network of some width."""
    optimizer = keras.optimizers.SGD(digits.cosine(0.1, updates), momentum=0.9)
    model = digits.network((width,), seed)
    digits.trained(model, *data, optimizer, BATCH, updates, seed)
    objective = landscape.Objective(model, *data, batch_size=2000)
    energy = landscape.local_energy(objective, STRENGTH, draws=20, seed=seed).value
    return objective.evaluate(objective.weights)[1], digits.judged(model, *test)[1], energy


def main(quick):
    widths, seeds, updates = ((4, 64), 2, 50) if quick else (WIDTHS, 3, 500)
    data, test = digits.arrays(), digits.arrays("test")
    found = np.array(
        [[measured(w, s, updates, data, test) for s in range(seeds)] for w in widths]
    )  # (widths, seeds, numbers)
    means, errors = found.mean(1), found.std(1, ddof=1) / seeds**0.5
    fits = np.flatnonzero(means[:, 0] <= FITTED)
    first = int(fits[0]) if len(fits) else 0
    point, wide = found[first], found[-1]
    claims = [
        common.Claim("width at the interpolation point", widths[first], 0, 8, 32),
        common.Claim("training error of the widest", means[-1, 0], errors[-1, 0], 0, 1e-3, 0.0),
        common.Claim("local energy: widest over point", *mean(wide[:, 2] / point[:, 2]), 0, 0.2),
        common.Claim("test error: widest over point", *mean(wide[:, 1] / point[:, 1]), 0.5, 1.0),
    ]
    figure, (left, right) = common.panels(2, 4.4)
    places = (left, left, right)
    for i, (name, axis) in enumerate(zip(NAMES, places, strict=True)):
        style = {"fmt": "o-", "color": COLORS[i], "markersize": 4, "capsize": 3}
        axis.errorbar(widths, 100 * means[:, i], 100 * errors[:, i], **style, label=name)
    for axis in (left, right):
        axis.axvline(widths[first], color="0.6", linewidth=1, linestyle=":", label="first fit")
        tidy(axis, xscale="log", xlabel="width of the hidden layer", ylabel="error (%)")
        axis.set_xticks(widths[:: 1 if quick else 3], widths[:: 1 if quick else 3])
        axis.minorticks_off()
        axis.legend(frameon=False)
    left.set_yscale("symlog", linthresh=0.1)
    left.set(ylim=(0, None))
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
