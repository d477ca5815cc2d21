"""Objectives and models that several tests of the landscape look at."""

import keras
import numpy as np
from keras import layers

import keras_smoothout as ks
from keras_smoothout.landscape.objective import Objective
from support.contract import contract_net
from support.nets import LOSS
from support.problems import TENSORFLOW, crossentropy, golden

CURVES = golden("curves")
CLOSE = {"rtol": 1e-10} if TENSORFLOW else {"rtol": 2e-5}  # As the golden file says.


def golden_weights(index):
    """Weights of one of the three MLPs of curves.json."""
    return [np.array(CURVES["inputs"]["models"][index][n]) for n in ("W1", "b1", "W2", "b2")]


def golden_objective(**options):
    """Loss of the first MLP of curves.json on its batch, in the present floatx."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "tanh"), layers.Dense(3)])
    model.set_weights(golden_weights(0))
    model.compile(loss=crossentropy())
    x, y = (np.array(CURVES["inputs"][n]) for n in ("X", "y"))
    return Objective(model, x.astype(keras.config.floatx()), y, **options)


def trained(seed):
    """A net with BatchNormalization, its statistics counted on the examples beside it."""
    model, rng = contract_net(seed), np.random.default_rng(0)
    x, y = rng.normal(2, 1, (48, 6)).astype("float32"), rng.integers(0, 3, 48)
    model.compile(loss=LOSS)
    ks.recalibrate(model, x)
    return model, x, y


def text_net():
    """An embedding and a recurrent layer on words, some of them masked."""
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 4, mask_zero=True)(inputs)
    model = keras.Model(inputs, layers.Dense(3, "softmax")(layers.GRU(6)(x)))
    return model, np.random.default_rng(0).integers(0, 20, (6, 5)).astype("int32")


class Scale(layers.Layer):
    """Multiplies by one weight."""

    supports_masking = True

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return self.scale * x
