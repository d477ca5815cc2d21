"""Embeddings: a row that is looked up several times has one gradient, the sum, on both backends."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_smoothout as ks

IDS, Y = np.array([[0], [0], [0], [1]]), np.ones((4, 1, 1), "float32")
OPTIMIZERS = ["SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "Adafactor"]
OPTIMIZERS += ["Nadam", "Ftrl", "Lion", "Lamb", "Muon"]
WAYS = {
    "SmoothOut": (lambda inner: ks.SmoothOut(inner, radius=0.0), None),
    "Lookahead": (lambda inner: ks.Lookahead(inner, slow_step_size=1), None),
    "ghost batches": (lambda inner: inner, 4),
}


def model():
    net = keras.Sequential([keras.Input((1,), dtype="int32"), layers.Embedding(3, 2)])
    net.add(layers.Dense(1, use_bias=False))
    rows = np.arange(6, dtype="float32").reshape(3, 2) / 10
    net.set_weights([rows, np.array([[0.5], [-0.25]], "float32")])
    return ks.wrap(net)


def whole_gradient(net):
    """Of the mean of (rows[id] @ kernel - 1)**2, by hand."""
    rows, kernel = (w.astype("float64") for w in net.get_weights())
    grads = [np.zeros_like(rows), np.zeros_like(kernel)]
    for i in IDS[:, 0]:
        slope = 2 * (rows[i] @ kernel[:, 0] - 1) / len(IDS)
        grads[0][i] += slope * kernel[:, 0]
        grads[1][:, 0] += slope * rows[i]
    return [g.astype("float32") for g in grads]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_that_of_the_whole_gradient(name, way):
    around, ghosts = WAYS[way]
    make = getattr(keras.optimizers, name)
    expected, found = model(), model()
    plain = make(learning_rate=0.1)
    plain.build(expected.trainable_variables)
    optimizer = around(make(learning_rate=0.1))
    found.compile(optimizer, "mse", ghost_batch_size=ghosts)
    for _ in range(2):
        before = found.get_weights()
        expected.set_weights(before)
        whole = whole_gradient(found)
        plain.apply([ops.convert_to_tensor(g) for g in whole], expected.trainable_variables)
        found.train_on_batch(IDS, Y)
        for a, b in zip(found.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def test_the_first_step_of_adam():
    net = model()
    net.compile(ks.SmoothOut(keras.optimizers.Adam(0.1), radius=0.0), "mse")
    before = net.get_weights()[0]
    net.train_on_batch(IDS, Y)
    np.testing.assert_allclose(np.abs(net.get_weights()[0] - before)[:2], 0.1, rtol=1e-4)
    np.testing.assert_array_equal(net.get_weights()[0][2], before[2])
