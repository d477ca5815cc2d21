"""Inputs that need not be there: `keras.Input(optional=True)` and `None` in the batch."""

import keras
import numpy as np
import pytest
from keras import layers
from support.contract import arrays, optimizer_of
from support.nets import LOSS, assert_equal

import keras_smoothout as ks

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 3)).astype("float32"), RNG.integers(0, 2, 20)
ABSENT = {"a": None, "b": X}  # The first leaf of a batch is not there.


@keras.saving.register_keras_serializable("optional")
class Sum(layers.Layer):
    def call(self, a, b):
        return b if a is None else a + b

    def compute_output_shape(self, a_shape, b_shape):
        return b_shape


class Called(ks.Model):
    """A model that knows neither its inputs nor its outputs."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def call(self, inputs, training=None):
        return self.inner(inputs, training=training)


def net(inputs="both"):
    """A model of `a + b`, or of `b` alone."""
    keras.utils.set_random_seed(0)
    b = keras.Input((3,), name="b")
    a = keras.Input((3,), name="a", optional=True)
    x = b if inputs == "b" else Sum()(a, b)
    x = layers.BatchNormalization()(layers.Dense(4)(x))
    return ks.Model(b if inputs == "b" else {"a": a, "b": b}, layers.Dense(2)(x))


def trained(inputs, x, method="smoothout", **kwargs):
    model = net(inputs)
    model.compile(optimizer_of(method), LOSS, **kwargs)
    model.fit(x, Y, 8, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("method, size", [("sam", None), ("smoothout", 8)])
def test_training_without_an_input_is_training_without_it(method, size):
    model = trained("both", ABSENT, method, ghost_batch_size=size)
    alone = trained("b", X, method, ghost_batch_size=size)
    assert_equal(arrays(model.variables), arrays(alone.variables))
    losses = model.evaluate(ABSENT, Y, verbose=0), alone.evaluate(X, Y, verbose=0)
    assert losses[0] == losses[1]
    assert_equal(*[[m.predict(x, verbose=0)] for m, x in ((model, ABSENT), (alone, X))])


def test_an_input_that_is_there_counts():
    model, same = (trained("both", x) for x in ({"a": X, "b": X}, {"a": 0 * X, "b": 2 * X}))
    assert_equal(arrays(model.variables), arrays(same.variables))


@pytest.mark.parametrize("batches", [False, True])
def test_recalibrate(batches):
    model, alone = trained("both", ABSENT), trained("b", X)
    ks.recalibrate(
        model, [({"a": None, "b": X[:15]}, Y), {"a": None, "b": X[15:]}] if batches else ABSENT, 15
    )
    ks.recalibrate(alone, X, 15)
    assert_equal(arrays(model.variables), arrays(alone.variables))


def test_find_radius():
    model, alone = trained("both", ABSENT), trained("b", X)
    options = {"chance": 10.0, "draws": 2, "radii": [0.1, 1.0], "batch_size": 15}
    found = ks.find_radius(model, ABSENT, Y, **options)
    np.testing.assert_array_equal(found.losses, ks.find_radius(alone, X, Y, **options).losses)


@pytest.mark.parametrize("make", [net, Called])
@pytest.mark.parametrize("batches", [False, True])
def test_landscape(make, batches):
    from keras_smoothout import landscape

    model, alone = make(), net("b")
    model(ABSENT)
    model.compile("sgd", LOSS)
    alone.compile("sgd", LOSS)
    data = ([(ABSENT, Y)],) if batches else (ABSENT, Y)
    objective, other = landscape.Objective(model, *data), landscape.Objective(alone, X, Y)
    names = ["loss", "lambda_max", "fisher_trace", "sam_sharpness", "uniform_noise"]
    found, expected = (landscape.measures(o, names=names) for o in (objective, other))
    for row, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(row.value, right.value, rtol=1e-5, err_msg=row.measure)
    assert landscape.cka(model, model, [(ABSENT,)] if batches else ABSENT) > 0.99
