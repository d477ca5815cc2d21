"""Small problems of the golden files: their models, optimizers and trajectories."""

import json
import pathlib

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_smoothout as ks

FOLDER = pathlib.Path(__file__).parent / "golden"
TENSORFLOW = keras.backend.backend() == "tensorflow"

# On TensorFlow the numbers are compared in float64; there Keras rounds momentum and betas, but not
# the learning rate, to float32. On JAX, Keras has no float64 throughout: float32, as the files say.
PRECISE = pytest.mark.usefixtures("float64" if TENSORFLOW else "_fresh_state")
FLOAT32 = {"sgd": 2e-5, "momentum": 2e-5, "nesterov": 2e-5, "adam_keras": 1e-4}
TOLERANCE = {"sgd": 1e-11, "momentum": 1e-7, "nesterov": 1e-7, "adam_keras": 1e-5}
TOLERANCE = TOLERANCE if TENSORFLOW else FLOAT32


def golden(name):
    """The golden file of that name; its provenance is in it."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def crossentropy():
    """The loss of the MLPs, in the present floatx."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Quadratic(layers.Layer):
    """Adds the loss `sum(h * w**2) / 2` to the model's, whatever the input."""

    def __init__(self, h, **kwargs):
        super().__init__(**kwargs)
        self.h = h

    def build(self, input_shape):
        self.w = self.add_weight(shape=(len(self.h),), name="kernel")

    def call(self, x):
        h = ops.convert_to_tensor(self.h, dtype=self.dtype)
        self.add_loss(ops.sum(h * self.w**2) / 2)
        return x


def quadratic(inputs):
    """The model of `quad`, and its batch: of no influence."""
    x = keras.Input((1,))
    model = ks.Model(x, Quadratic(inputs["h"])(x))
    model.set_weights([np.array(inputs["w0"])])
    return model, [np.zeros((1, 1))]


def mlp(inputs, l2=0.0):
    """The model of `mlp`, and its batch."""
    x = keras.Input((4,))
    l2 = keras.regularizers.L2(l2) if l2 else None
    hidden = layers.Dense(5, "tanh", kernel_regularizer=l2)(x)
    model = ks.wrap(keras.Model(x, layers.Dense(3, kernel_regularizer=l2)(hidden)))
    model.set_weights([np.array(inputs[name]) for name in ("W1", "b1", "W2", "b2")])
    return model, [np.array(inputs["X"], keras.config.floatx()), np.array(inputs["y"])]


def base(inputs, problem, name):
    """The inner optimizer that `name` means for `problem`."""
    spec = next(b for b in inputs["bases"][problem] if b["name"] == name.removesuffix("_keras"))
    if spec["base"] == "adam":
        return keras.optimizers.Adam(spec["lr"], spec["b1"], spec["b2"], epsilon=1e-7)
    momentum, nesterov = spec.get("momentum", 0.0), spec.get("nesterov", False)
    return keras.optimizers.SGD(spec["lr"], momentum, nesterov)


def flat(variables):
    return np.concatenate([v.numpy().ravel() for v in variables])


def trajectory(model, optimizer, batch, steps, **compiled):
    """Weights after each of `steps` steps on the same batch, shaped (steps, weights)."""
    loss = crossentropy() if len(batch) > 1 else None
    model.compile(optimizer, loss, **{"run_eagerly": True} | compiled)
    weights = []
    for _ in range(steps):
        model.train_on_batch(*batch)
        weights.append(flat(model.trainable_variables))
    return np.array(weights)


def assert_close(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def batch_norm_net(net):
    """The model of `batchnorm_interplay`; its variables in the file's order, its batches."""
    x = keras.Input((3,))
    norm = layers.BatchNormalization(momentum=net["bn_momentum"], epsilon=net["bn_eps"])
    first, second = layers.Dense(4), layers.Dense(3)
    model = ks.Model(x, second(ops.tanh(norm(first(x)))))
    for name, variable in zip(
        ("W1", "b1", "gamma", "beta", "W2", "b2"), model.trainable_variables, strict=True
    ):
        variable.assign(np.array(net[name]))
    ends = np.cumsum(net["batches"])[:-1]
    X, y = np.array(net["X"], keras.config.floatx()), np.array(net["y"])
    return model, norm, list(zip(np.split(X, ends), np.split(y, ends), strict=True))


RELATIVES = golden("sam_relatives")


def relative_trajectory(optimizer, **compiled):
    """Weights after steps 1, 2, 4 and 8 of `sam_relatives`: two examples a step, in order."""
    inputs, eager = RELATIVES["inputs"], {"run_eagerly": TENSORFLOW}
    model, (x, y) = mlp(inputs["net"])
    model.compile(optimizer, crossentropy(), **eager | compiled)
    weights = []
    for step in range(8):
        rows = slice(2 * (step % 4), 2 * (step % 4) + 2)
        model.train_on_batch(x[rows], y[rows])
        weights.append(flat(model.trainable_variables))
    return np.array(weights)[[0, 1, 3, 7]]


def relative_expected(name):
    """What `relative_trajectory` must be."""
    expected = RELATIVES["expected"][name]
    return np.array([expected[key] for key in ("step1", "step2", "step4", "last")])


def in_pairs(model, optimizer, batch, steps, seen=lambda: None, **compiled):
    """Weights and what `seen` returns after each step: two examples a step, in order, cyclic."""
    x, y = batch
    model.compile(optimizer, crossentropy(), **{"run_eagerly": TENSORFLOW} | compiled)
    weights, found = [], []
    for step in range(steps):
        rows = slice(2 * (step % 4), 2 * (step % 4) + 2)
        model.train_on_batch(x[rows], y[rows])
        weights.append(flat(model.trainable_variables))
        found.append(seen())
    return np.array(weights), found
