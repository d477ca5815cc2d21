"""The binary perceptron: its weights as a layer, a search for solutions, and how wide they lie."""

import keras
import numpy as np
from keras import ops
from scipy.stats import norm

from keras_smoothout import landscape

FLIPS = (0.02, 0.05, 0.1, 0.2)


class Signs(keras.layers.Layer):
    """Weights of +-1 outside of training; in training, their tanh."""

    def build(self, shape):
        start = keras.initializers.RandomNormal(stddev=0.3, seed=0)
        self.w = self.add_weight((shape[-1], 1), start, name="hidden")

    def call(self, x, training=None):
        return ops.matmul(x, ops.tanh(self.w) if training else ops.sign(self.w))


def sbpi(x, h, uniform, margin=0, barely=0.3):
    """Weights at which all `x`, labels times patterns, have fields above `margin`, or `None`.

    `h` are the hidden integers to start from; `uniform` has a row of numbers for each epoch.
    """
    W = np.sign(h)
    for numbers in uniform:
        wrong = False
        for pattern, number in zip(x, numbers, strict=True):
            field = int(pattern @ W)
            if field <= margin:
                wrong, h = True, h + 2 * pattern
            elif field <= margin + 2 and number < barely:  # Barely right.
                h = h + 2 * pattern * (W == pattern)
            else:
                continue
            W = np.sign(h)
        if not wrong:
            return W
    return None


def classified(layer, W, x, y):
    """Return the landscape of a classifier whose one `layer` has the weights `W`, a vector."""
    model = keras.Sequential([keras.Input((len(W),)), layer])
    model.set_weights([W[:, None]])
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    return landscape.Objective(model, x, y)


def noisy_errors(objective, noises, draws):
    """Error with noise of each strength, relative to each weight: local energy and clean error."""
    clean = objective.evaluate(objective.weights)[1]
    return [clean + landscape.local_energy(objective, s, draws).value for s in noises]


def energies(W, x, draws):
    """Share of wrong patterns for each share of flipped weights: measured, and by theory."""
    objective = classified(Signs(), W, x.astype("float32"), np.ones((len(x), 1)))
    found = [landscape.local_energy(objective, 1 / norm.isf(q), draws).value for q in FLIPS]
    kept, k = 1 - 2 * np.array(FLIPS)[:, None], x @ W / len(W) ** 0.5
    return found, norm.sf(kept * k / (1 - kept**2) ** 0.5).mean(1) - np.mean(k <= 0)
