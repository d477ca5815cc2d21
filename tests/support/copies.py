"""Copies of small models: those of the golden files, and what their weights are."""

import keras
import numpy as np
from keras import layers

import keras_smoothout as ks
from support.problems import Quadratic, crossentropy, mlp


def learners(inputs, optimizer, copies=None):
    """The `Copies` of the golden MLP, from the initial weights of the file, compiled."""
    model = ks.Copies(mlp(inputs["net"])[0], copies or inputs["y"])
    assign(model, np.array(inputs["init"])[: model.copies])
    # Eager on TensorFlow: few steps.
    model.compile(optimizer, crossentropy(), run_eagerly=keras.backend.backend() == "tensorflow")
    return model


def parts(inputs, copies, step):
    """The batch of a step: two examples for each copy, from row 2 step + 3 copy on."""
    rows = [(2 * step + 3 * copy + i) % 8 for copy in range(copies) for i in range(2)]
    net = inputs["net"]
    return np.array(net["X"], keras.config.floatx())[rows], np.array(net["y"])[rows]


def assigned(model):
    """The weights of each copy, of shape (copies, weights)."""
    arrays = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    return np.concatenate([a.reshape(model.copies, -1) for a in arrays], 1)


def assign(model, weights):
    """Set the trainable weights of each copy, of shape (copies, weights)."""
    ends = np.cumsum([np.prod(v.shape[1:], dtype=int) for v in model.trainable_variables])
    split = np.split(weights, ends[:-1], 1)
    for variable, values in zip(model.trainable_variables, split, strict=True):
        variable.assign(values.reshape(variable.shape))


def quadratic_copies(h, start):
    """Copies with the loss `sum(h * w**2) / 2`, and their batch: of no influence."""
    x = keras.Input((1,))
    model = ks.Copies(keras.Model(x, Quadratic(h)(x)), len(start))
    assign(model, start)
    return model, [np.zeros((len(start), 1))]


def small_net(seed=0, dropout=0.3):
    """A model with BatchNormalization, dropout and L2, on 6 numbers, for 3 classes."""
    keras.utils.set_random_seed(seed)
    l2 = keras.regularizers.L2(0.01)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, use_bias=False, kernel_regularizer=l2),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Dropout(dropout, seed=1),
            layers.Dense(3),
        ]
    )
