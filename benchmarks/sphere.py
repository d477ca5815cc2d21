"""The picture of docs/sphere.md: three regimes of training at a fixed effective learning rate.

    python -m benchmarks.sphere

The loss is `sum_i a_i x_i^2 / (x_i^2 + y_i^2)`, of three groups of weights that are free of scale
on one sphere. It is descended to 0 up to a rate of `1 / sum(a)`.
"""

import pathlib

import keras
import matplotlib
import numpy as np

import keras_smoothout as ks

matplotlib.use("Agg")

from matplotlib import pyplot as plt

PICTURE = pathlib.Path(__file__).parent / "figures" / "sphere.png"
A = (1.0, 2.0, 5.0)
START = [[0.2869, 0.0982], [0.2131, 0.6541], [0.4642, 0.4683]]
FACTORS = np.geomspace(0.1, 1000, 17)
SHOWN = {0.5: "#0072B2", 4.0: "#009E73", 1000.0: "#D55E00"}
NAMES = ("convergence", "chaotic equilibrium", "random walk")


class Groups(keras.layers.Layer):
    """Adds the loss `sum_i a_i x_i^2 / (x_i^2 + y_i^2)`, whatever the input."""

    def __init__(self, a, **kwargs):
        super().__init__(**kwargs)
        self.a = a

    def build(self, input_shape):
        self.z = self.add_weight(shape=(len(self.a), 2), name="kernel")

    def call(self, x):
        square = keras.ops.square(keras.ops.convert_to_tensor(self.z))
        shares = square[:, 0] / keras.ops.sum(square, axis=1)
        a = keras.ops.convert_to_tensor(self.a, dtype=self.dtype)
        self.add_loss(keras.ops.sum(a * shares))
        return x


def descended(model, rate, steps):
    """The loss of each of `steps` steps at an effective learning rate."""
    model.set_weights([np.array(START)])
    model.optimizer.learning_rate = rate
    losses, zeros = [], np.zeros((1, 1))
    for _ in range(steps):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(zeros)))
    return np.array(losses)


def main():
    inputs = keras.Input((1,))
    model = ks.Model(inputs, Groups(A)(inputs))
    model.compile(ks.FixedEffectiveRate(keras.optimizers.SGD(), ("kernel",)))
    threshold = 1 / sum(A)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    ends = [descended(model, f * threshold, 800)[-400:].mean() for f in FACTORS]
    left.loglog(FACTORS, np.maximum(ends, 1e-8), "o-", color="black", markersize=3)
    left.axvline(1, color="grey", linewidth=0.8)
    left.axhline(sum(A) / 2, color="grey", linewidth=0.8, linestyle=":")
    left.set(xlabel="effective learning rate × sum(a)", ylabel="loss at the end")
    for (factor, color), name in zip(SHOWN.items(), NAMES, strict=True):
        losses = descended(model, factor * threshold, 200)
        right.semilogy(np.maximum(losses, 1e-8), color=color, label=f"{factor:g}: {name}")
        print(f"{factor:g} times the threshold: loss {losses[-100:].mean():.2g}")
    right.set(xlabel="step", ylabel="loss")
    right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
