"""On a sphere, the learning rate alone decides between convergence, chaos and a random walk.

    python -m examples.three_regimes

`FixedEffectiveRate` holds the norm of scale-invariant weights. The paper sees three regimes as the
rate grows. Of three groups of weights, with the loss sum_i a_i x_i^2 / (x_i^2 + y_i^2), they are

    rate < 1 / sum(a)              the loss goes to 0
    rate = r / sum(a), r > 1       it stays at about (1 - 1 / r) sum(a) / 2
    rate -> infinity               it is that of random weights, sum(a) / 2

The threshold is exact, the level is derived for one group. A network with BatchNormalization on
digits shows the same three: its loss vanishes, then settles on a level that rises with the rate,
and ends no better than a constant guess, or worse: its last layer has norm 10, as in the paper.

Reference: Kodryan et al., *Training Scale-Invariant Neural Networks on the Sphere Can Happen in
    Three Regimes*, NeurIPS 2022, arXiv:2209.03695.
"""

import keras
import numpy as np

import keras_smoothout as ks
from examples import common
from examples.parts import digits
from keras_smoothout.landscape.style import COLORS, tidy

A, START = (1.0, 2.0, 5.0), [[0.2869, 0.0982], [0.2131, 0.6541], [0.4642, 0.4683]]
RATIOS = (0.3, 0.6, 0.95, 1.05, 1.3, 2, 4, 10, 100, 1000)
RATES = (1e-4, 1e-3, 0.01, 0.02, 0.03, 0.05, 0.1, 1.0, 10.0)


def groups(x, z):
    return keras.ops.sum(np.array(A, "float32") * z[:, 0] ** 2 / keras.ops.sum(z**2, 1))


def descended(model, ratio, epochs, steps):
    """The mean loss of each epoch of `steps` steps, at `ratio` times the threshold."""
    model.set_weights([np.array(START)])
    model.optimizer.learning_rate = ratio / sum(A)
    model.fit(np.zeros((steps, 1)), batch_size=1, epochs=epochs, verbose=0)
    return np.array(model.history.history["loss"])


def network(seed):
    """Two layers whose kernels have no scale, and a last one of norm 10 that stays unchanged."""
    keras.utils.set_random_seed(seed)
    h = inputs = keras.Input((64,))
    for _ in range(2):
        h = keras.layers.Dense(64, use_bias=False)(h)
        h = keras.layers.BatchNormalization(center=False, scale=False, epsilon=1e-6)(h)
        h = keras.ops.relu(h)
    model = ks.Model(inputs, keras.layers.Dense(10, use_bias=False)(h))
    kernel = model.layers[-1].kernel
    kernel.assign(10 * kernel / keras.ops.norm(kernel))
    return model


def settled(rate, updates, x, y):
    """The mean training loss of each 50 updates of the network at an effective rate."""
    model, sgd = network(0), keras.optimizers.SGD(rate)
    optimizer = ks.FixedEffectiveRate(sgd, ks.scale_invariant(model))
    digits.trained(model, x, y, optimizer, 128, 50, epochs=updates // 50)
    return np.array(model.history.history["loss"])


def main(quick):
    model = common.LossOf(groups, z=np.array(START, "float32")).model()
    model.compile(ks.FixedEffectiveRate(keras.optimizers.SGD(), ("z",)), steps_per_execution=10)
    ratios = (0.95, 2, 1000) if quick else RATIOS
    levels = np.array([descended(model, r, 8, 50 if quick else 150)[-4:] for r in ratios])
    means, errors, claims = levels.mean(1), levels.std(1, ddof=1) / 2, []
    for ratio, mean, error in zip(ratios, means, errors, strict=True):
        theory, name = max(0.0, 1 - 1 / ratio) * sum(A) / 2, f"loss at {ratio:g} × threshold"
        low, high = 0.94 * theory - 0.001, 1.06 * theory + 0.001
        claims.append(common.Claim(name, mean, error, low, high, theory, True))
    data, rates, chance = digits.arrays(), RATES[2::3] if quick else RATES, float(np.log(10))
    nets = {rate: settled(rate, 100 if quick else 400, *data)[-4:] for rate in rates}
    of = {rate: (losses.mean(), losses.std(ddof=1) / 2) for rate, losses in nets.items()}
    claims += [
        common.Claim("digits: loss at rate 0.01", *of[0.01], 0, 0.02, 0.0),
        common.Claim("digits: loss at rate 0.05", *of[0.05], 0.05, chance),
        common.Claim("digits: loss at rate 10", *of[10.0], chance, 7.0, None, True),
    ]
    figure, (left, right) = common.panels(2, 4.4)
    style = {"fmt": "o", "color": COLORS[0], "markersize": 4, "capsize": 3}
    left.errorbar(ratios, means, errors, **style, label="measured")
    line = np.geomspace(1, 1000, 400)
    left.plot(line, (1 - 1 / line) * sum(A) / 2, color="0.5", zorder=0, label="theory")
    right.errorbar(rates, *np.transpose(list(of.values())), **style, label="network on digits")
    right.axhline(chance, color="0.5", linestyle=":", label="a constant guess")
    tidy(left, xscale="log", xlabel="rate × sum(a)", ylabel="loss at the end")
    tidy(right, xscale="log", yscale="log", xlabel="effective learning rate", ylabel="loss")
    for axis in (left, right):
        axis.legend(frameon=False)
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
