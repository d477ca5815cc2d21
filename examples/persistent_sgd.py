"""Batches that stay for a while heat SGD: replicas part further, the longer examples persist.

    python -m examples.persistent_sgd

In persistent SGD each example enters and leaves the batch at random, with a memory of c^k after k
steps, c = 1 - 1 / (share * time). On a quadratic loss of curvature h the weights then settle at

    variance = s^2 (1 + q c) / ((1 - q c) (1 - q^2)),    q = 1 - rate * h

where s^2 = rate^2 (1 - share) / (share N). The distance of two replicas is this variance, and h
times it is a temperature. Another is E[w . g] = E ||dw||^2 / (2 rate), fluctuation = dissipation,

    E ||dw||^2 = (1 - q)^2 variance + s^2 - 2 (1 - q) s^2 c / (1 - q c)

Both agree for batches without a memory. With one, the second falls while the first rises.

Reference: Mignacco and Urbani, *The effective noise of stochastic gradient descent*, 2021,
    arXiv:2112.10852; Yaida, ICLR 2019, arXiv:1810.00004. The law of the variance is derived here.
"""

import itertools

import keras
import numpy as np

import keras_smoothout as ks
from examples import common
from examples.parts import digits
from keras_smoothout.landscape.style import COLORS, tidy

SHARE, RATE, EXAMPLES, WEIGHTS = 0.1, 0.1, 2000, 800
NAMES = "replica distance", "dissipation"


def replicas(build, loss, data, time, epochs, steps, seeds=(1, 2)):
    """Distances of trainings that differ by their batches, and the mean of both sides of FDT."""
    models, sides = [], []
    for seed in seeds:
        model, callback = build(), ks.FluctuationDissipation()
        model.compile(keras.optimizers.SGD(RATE), loss)
        batches = ks.PersistentBatches(*data, SHARE, time, seed)
        options = {"epochs": epochs, "steps_per_epoch": steps, "callbacks": [callback]}
        model.fit(batches, shuffle=False, verbose=0, **options)
        late = callback.found[epochs // 2 :]
        sides += [(row["fluctuation"], row["dissipation"]) for row in late]
        models.append(model)
    distances = [ks.replica_distance(*pair) for pair in itertools.combinations(models, 2)]
    return np.array(distances), np.mean(sides, 0)


def theory(time):
    """Variance and dissipation of a weight at stationarity, for curvature 1."""
    q, c = 1 - RATE, 1 - 1 / (SHARE * time)
    s2 = RATE**2 * (1 - SHARE) / (SHARE * EXAMPLES)
    variance = s2 * (1 + q * c) / ((1 - q * c) * (1 - q**2))
    step = (1 - q) ** 2 * variance + s2 - 2 * (1 - q) * s2 * c / (1 - q * c)
    return variance, step / (2 * RATE)


def quadratic():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(WEIGHTS, use_bias=False)])


def halved(y, outputs):
    return keras.ops.sum((y - outputs) ** 2, -1) / 2


def main(quick):
    times, epochs, steps = ((10, 50), 4, 25) if quick else ((10, 30, 100, 300), 16, 60)
    y = np.random.default_rng(0).normal(size=(EXAMPLES, WEIGHTS))
    data, claims, rows = (np.ones((EXAMPLES, 1)), y), [], []
    several = (2 / WEIGHTS) ** 0.5  # Relative standard error of a mean of squares.
    for time in times:
        distances, (left, right) = replicas(quadratic, halved, data, time, epochs, steps)
        rows.append((distances[0] / WEIGHTS, right / WEIGHTS))
        for name, value, exact in zip(NAMES, rows[-1], theory(time), strict=True):
            band = 0.8 * exact, 1.2 * exact, exact, time == 10
            claims.append(common.Claim(f"time {time}: {name}", value, value * several, *band))
    claims.append(common.Claim("fluctuation / dissipation", left / right, several, 0.8, 1.2, 1))
    net = digits.network, digits.LOSS, digits.arrays(noise=0.2)
    options = (1, 30, (1, 2)) if quick else (1, 150, (1, 2, 3))
    nets = np.array([replicas(*net, time, *options)[0] for time in times])  # (times, pairs)
    means, errors = nets.mean(1), nets.std(1) / 3**0.5  # Over pairs.
    ratio, noise = means[-1] / means[0], np.hypot(*(errors / means)[[0, -1]])
    claims.append(common.Claim("digits: distance at 300 over 10", ratio, ratio * noise, 4, 40))
    figure, (left, right) = common.panels(2, 4.4)
    line = np.geomspace(10, 400, 100)
    for i, color in enumerate(COLORS[:2]):
        left.plot(times, [row[i] for row in rows], "o", color=color, label=f"by {NAMES[i]}")
        left.plot(line, theory(line)[i], color=color, linewidth=1)
    right.errorbar(times, means, errors, fmt="o-", color=COLORS[2], capsize=3)
    labels = {"xscale": "log", "xlabel": "steps that an example is out"}
    tidy(left, **labels, yscale="log", ylabel="temperature", title="quadratic; lines are theory")
    tidy(right, **labels, ylabel="replica distance", title="network on digits")
    left.legend(frameon=False)
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
