"""The distance from the start grows as the logarithm of the number of steps, for any batch size.

    python -m examples.ultra_slow_diffusion

Hoffer et al. describe the first phase of SGD as a random walk on a random potential. Then

    ||w_t - w_0|| ~ log(t),

with the same slope for all batch sizes B once learning rates grow as sqrt(B). On digits both hold:
a line in log(t) explains all but a thousandth of the distance, a power of t much less, and the
slopes agree. But the random walk is not needed for it: full batches, which have no noise, give the
same slope. The logarithm is also what gradient descent on separable data would give. And where the
landscape is most random, on labels drawn at random, the law fails: the distance grows as a power of
t. So the law holds here, and its explanation does not.

Reference: Hoffer et al., *Train longer, generalize better: closing the generalization gap in large
    batch training of neural networks*, NIPS 2017, arXiv:1705.08741, Section 3 and Figure 2.
"""

import keras
import numpy as np

import keras_smoothout as ks
from examples import common
from examples.parts import digits
from keras_smoothout.landscape.style import STYLES, tidy

RATE, FIRST = 0.02, 30  # Of batches of 16; the fits begin at step 30.


def distances(batch_size, noise, updates, seed):
    """Distance from the start at steps evenly spaced in log(t), an array (2, points)."""
    x, y = digits.arrays(noise=noise, seed=seed)
    tracked = ks.DistanceFromInit(points_per_decade=12)
    rate = RATE * ks.scaling.sqrt_scaling(batch_size, 16)
    optimizer, model = keras.optimizers.SGD(rate), digits.network(seed=seed)
    digits.trained(model, x, y, optimizer, batch_size, updates, seed, [tracked])
    return np.array(tracked.distances).T


def fits(way):
    """Slope of a line in log(t), exponent of a power of t, and what they leave unexplained."""
    t, distance = way[:, way[0] >= FIRST]
    found, left = [], []
    for values, back in ((distance, np.asarray), (np.log(distance), np.exp)):
        line = np.polyfit(np.log(t), values, 1)
        found.append(line[0])
        left.append(np.var(back(np.polyval(line, np.log(t))) - distance) / np.var(distance))
    return [*found, *left]


def main(quick):
    seeds, updates = (2, 60) if quick else (3, 1200)
    kinds = {f"batches of {b}": (b, 0.0) for b in ((16, 64) if quick else (16, 64, 256))}
    kinds |= {"all examples": (1437, 0.0), "random labels, batches of 16": (16, 1.0)}
    ways = {
        name: np.array([distances(*kind, updates, seed) for seed in range(seeds)])
        for name, kind in kinds.items()
    }
    numbers = {name: np.array([fits(way) for way in found]) for name, found in ways.items()}
    clean = np.stack([found for name, found in numbers.items() if "random" not in name])
    labels = numbers["random labels, batches of 16"]

    def claim(name, values, *band):
        error = np.std(values, ddof=1) / len(values) ** 0.5
        return common.Claim(name, float(np.mean(values)), float(error), *band)

    ratios = clean[:, :, 0] / clean[0, :, 0]  # (batch sizes, seeds) slopes over those of 16
    claims = [
        claim("slope in log t, batches of 16", clean[0, :, 0], 0.8, 1.0),
        claim("variance left by log t", clean[..., 2].mean(0), 0, 0.004, 0.0),
        claim("variance left by a power of t", clean[..., 3].mean(0), 0.01, 0.1),
        claim("slope of large batches over small", ratios[1:-1].mean(0), 0.9, 1.1, 1.0),
        claim("slope of all examples over small", ratios[-1], 0.9, 1.1),
        claim("random labels: left by log t", labels[:, 2], 0.05, 0.25),
        claim("random labels: left by a power of t", labels[:, 3], 0.01, 0.08),
        claim("random labels: exponent", labels[:, 1], 0.25, 0.45),
    ]
    figure, (left, right) = common.panels(2, 4.4)
    for (name, found), style in zip(ways.items(), STYLES, strict=False):
        t, distance = found.mean(0)
        axis = right if "random" in name else left
        axis.plot(t, distance, **style | {"markersize": 3}, label=name)
        if axis is right:
            for power, line in ((False, "--"), (True, "-")):
                values = np.log(distance) if power else distance
                later = t >= FIRST
                curve = np.polyval(np.polyfit(np.log(t[later]), values[later], 1), np.log(t))
                label = f"t^{fits(found.mean(0))[1]:.2f}" if power else "log t"
                axis.plot(t, np.exp(curve) if power else curve, line, color="0.4", label=label)
    for axis in (left, right):
        tidy(axis, xscale="log", xlabel="step t", ylabel="distance from the start", ylim=(0, None))
        axis.legend(frameon=False)
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
