"""The README's first picture: a loss with a sharp and a flat minimum, and what SmoothOut descends.

    python -m benchmarks.smoothing

The second curve is the mean of the loss over the width of the noise. The dots show where SGD and
stochastic SmoothOut end, from the same start.
"""

import pathlib

import keras
import matplotlib
import numpy as np

import keras_smoothout as ks

matplotlib.use("Agg")

from matplotlib import pyplot as plt

PICTURE = pathlib.Path(__file__).parent / "figures" / "smoothing.png"
RADIUS, START = 0.5, -1.6


def loss(w):
    """A loss that is as low in a narrow valley at -0.5 as in a wide one at 0.5."""
    narrow = keras.ops.exp(-(((w + 0.5) / 0.07) ** 2))
    wide = keras.ops.exp(-(((w - 0.5) / 0.8) ** 2))
    return 1.3 - narrow - wide + 0.2 * (w - 0.5) ** 2


class Valley(keras.layers.Layer):
    """Add the loss of its only weight to the model's loss."""

    def build(self, input_shape):
        self.w = self.add_weight(shape=(1,), initializer=keras.initializers.Constant(START))

    def call(self, x):
        self.add_loss(keras.ops.sum(loss(self.w)))
        return x


def descended(radius, steps=3000):
    """The weight where training ends."""
    inputs = keras.Input((1,))
    model = ks.Model(inputs, Valley()(inputs))
    model.compile(ks.SmoothOut(keras.optimizers.SGD(0.01), radius=radius, seed=1))
    model.fit(np.zeros((steps, 1)), batch_size=1, verbose=0)
    return float(model.get_weights()[0][0])


def main():
    w = np.linspace(-2.2, 2.2, 400)
    draws = np.linspace(-RADIUS, RADIUS, 201)
    numbers = keras.ops.convert_to_numpy
    plain = numbers(loss(w))
    smooth = np.mean([numbers(loss(w + u)) for u in draws], axis=0)
    figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for name, curve, radius, color in (
        ("the loss, and SGD", plain, 0.0, "#0072B2"),
        (f"its mean within ±{RADIUS}, and SmoothOut", smooth, RADIUS, "#D55E00"),
    ):
        end = descended(radius)
        axis.plot(w, curve, color=color, label=name)
        axis.plot(end, np.interp(end, w, curve), "o", color=color, markersize=9)
        print(f"{name}: from {START} to {end:.2f}, loss {np.interp(end, w, plain):.2f}")
    axis.set(xlabel="weight", yticks=[])
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.legend(frameon=False, loc="upper center")
    figure.savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()
