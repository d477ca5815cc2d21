"""SmoothOut fills in sharp minima: it descends the mean loss around the weights.

    python -m examples.smoothing_a_sharp_minimum

A loss of one or two weights has a sharp and a wide valley, both of depth 1. SmoothOut descends

    E_u loss(w + u),  u uniform in [-radius, radius]^d

which has a closed form here: the mean of exp(-(w/b)^2) is a difference of error functions. The
sharp valley all but vanishes in it. SGD from a point beyond the sharp valley ends there; SmoothOut
from the same point ends where the closed form has its minimum. From random points beyond it in the
plane, SGD often ends in the sharp valley and SmoothOut never does.

Reference: Wen et al., *SmoothOut: Smoothing Out Sharp Minima to Improve Generalization in Deep
    Learning*, 2018, arXiv:1805.07898, Section 3.
"""

import keras
import numpy as np
from scipy.special import erf

import keras_smoothout as ks
from examples import common
from keras_smoothout import landscape
from keras_smoothout.landscape.estimate import mean as mean_of
from keras_smoothout.landscape.style import COLORS, tidy

RADIUS, START = 0.6, -1.6
SHARP, WIDE = (np.array([-0.5, -0.2]), 0.1), (np.array([0.5, 0.2]), 0.8)  # Places and widths.


def loss(x, w):
    """Sum of the losses of several runs, the rows of `w`."""
    sharp, wide = (keras.ops.sum((w - at[: w.shape[1]]) ** 2, 1) for at, _ in (SHARP, WIDE))
    valleys = keras.ops.exp(-sharp / SHARP[1] ** 2) + keras.ops.exp(-wide / WIDE[1] ** 2)
    return keras.ops.sum(1.3 - valleys + 0.2 * wide)


def smoothed(w, radius):
    """The mean of the loss around each row of `w`, without a draw."""
    total = 1.3 + 0.2 * (((w - WIDE[0][: w.shape[1]]) ** 2).sum(1) + w.shape[1] * radius**2 / 3)
    for place, b in (SHARP, WIDE):
        ends = [erf((w - place[: w.shape[1]] + side * radius) / b) for side in (1, -1)]
        total = total - np.prod(np.pi**0.5 * b / (4 * radius) * (ends[0] - ends[1]), axis=1)
    return total


def descended(starts, radius, steps):
    """Where each run is after every fiftieth of `steps`: (51, runs, dimensions)."""
    optimizer = ks.SmoothOut(keras.optimizers.SGD(0.005), radius, seed=1)
    layer = common.LossOf(loss, w=starts.astype("float32"))
    return layer.trained(optimizer, steps, every=steps // 50)[0]


def main(quick):
    steps, runs = (200, 8) if quick else (3000, 200)
    line, rng = np.linspace(-2.2, 2.2, 881)[:, None], np.random.default_rng(0)
    plain, mean = smoothed(line, 1e-4), smoothed(line, RADIUS)
    lowest = float(line[mean.argmin(), 0])
    ways = {r: descended(np.full((runs, 1), START), r, steps) for r in (0.0, RADIUS)}
    starts = rng.uniform((-2, -1.5), (-1, 0.8), (runs, 2))
    planes = {r: descended(starts, r, steps) for r in (0.0, RADIUS)}
    caught = {r: np.linalg.norm(w[-1] - SHARP[0], axis=1) < 0.1 for r, w in planes.items()}

    at_sharp = common.LossOf(loss, w=np.full((1, 1), SHARP[0][0], "float32")).model()
    at_sharp.compile()
    objective = landscape.Objective(at_sharp, np.zeros((1, 1)))
    rise = landscape.expected_sharpness(objective, RADIUS, draws=50 if quick else 2000)
    theory = np.subtract(*(smoothed(SHARP[0][None, :1], r)[0] for r in (RADIUS, 1e-4)))
    sharp = float(line[plain[line[:, 0] < 0].argmin(), 0])
    claims = [
        common.near("SGD ends at", (ways[0.0][-1, 0, 0], 0), sharp, 0.005),
        common.near("SmoothOut ends at", mean_of(ways[RADIUS][-1, :, 0]), lowest, 0.02),
        common.near("rise around the sharp minimum", rise, theory, 0.025),
        common.Claim("plane: SGD in the sharp valley", *mean_of(caught[0.0]), 0.3, 0.7),
        common.near("plane: SmoothOut in it", (caught[RADIUS].mean(), 0), 0, 0.001),
    ]
    figure, axes = common.panels(3, 3.6)
    grid = np.stack(np.meshgrid(line[:, 0], line[:, 0]), -1)[::5, ::5]
    for radius, values, color, axis in zip(ways, (plain, mean), COLORS, axes[1:], strict=False):
        name = f"mean within ±{radius}, SmoothOut" if radius else "loss, SGD"
        axes[0].plot(line, values, color=color, label=name)
        end = ways[radius][-1, 0, 0]
        axes[0].plot(end, np.interp(end, line[:, 0], values), "o", color=color, markersize=9)
        height = smoothed(grid.reshape(-1, 2), radius or 1e-4).reshape(grid.shape[:2])
        axis.contourf(grid[..., 0], grid[..., 1], height, 14, cmap="Greys_r", vmin=-1.5)
        axis.plot(*planes[radius][:, :40].transpose(2, 0, 1), color=color, linewidth=0.8)
        axis.plot(*planes[radius][-1].T, "o", color=color, markersize=4)
        tidy(axis, title=name, xlabel="weight 1", ylabel="weight 2")
    tidy(axes[0], title="one weight", xlabel="weight", ylabel="loss")
    axes[0].legend(frameon=False, loc="upper right")
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
