"""`sample`: draws of the learned width, put back to the bit; what has none is refused."""

import keras
import numpy as np
import pytest
from support.nets import assert_equal, values

import keras_smoothout as ks


def trained(make=lambda optimizer: optimizer):
    keras.utils.set_random_seed(0)
    net = [keras.layers.Dense(40), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    model = ks.wrap(keras.Sequential([keras.Input((50,)), *net]))
    model.compile(make(ks.IVON(0.1, ess=400.0, hess_init=0.25)), "mse")
    x = np.random.default_rng(0).normal(size=(32, 50)).astype("float32")
    model.fit(x, x[:, :1], 32, 2, verbose=0)
    return model, x


def test_draws_have_the_learned_width_and_leave_nothing_behind():
    model, x = trained()
    before = values(model)
    kernel = model.get_weights()[0]
    draws = []
    for draw in (0, 1, 0):
        with ks.sample(model, draw):
            draws.append(model.get_weights()[0])
    assert_equal(values(model), before)
    np.testing.assert_array_equal(draws[0], draws[2])
    deviation = (np.array(draws[:2]) - kernel).ravel()
    assert deviation.std() == pytest.approx(1 / np.sqrt(400 * 0.25), rel=0.05)
    a, b = np.split(deviation, 2)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
    (norm,) = [v for v in model.layers if isinstance(v, keras.layers.BatchNormalization)]
    trained_with = np.array(norm.moving_mean)
    with ks.sample(model, 0):
        np.testing.assert_array_equal(norm.moving_mean, trained_with)
    with ks.sample(model, 0, data=x):  # Its statistics are those of the data at the draw.
        kernel, bias = model.get_weights()[:2]
        np.testing.assert_array_equal(kernel, draws[0])
        passed = x @ kernel + bias
        np.testing.assert_allclose(norm.moving_mean, passed.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm.moving_variance, passed.var(0), rtol=1e-4, atol=1e-5)
    assert np.abs(passed.mean(0) - trained_with).max() > 1e-2
    assert_equal(values(model), before)


def test_a_draw_is_not_that_of_a_step():
    model, _ = trained()
    optimizer = model.optimizer
    weights = [keras.ops.convert_to_tensor(v) for v in model.trainable_variables]
    for step in range(3):
        optimizer.iterations.assign(step)
        theirs = keras.ops.convert_to_numpy(optimizer.posterior(weights)[0])
        with ks.sample(model, step):
            assert np.all(model.get_weights()[0] != theirs)


def test_inside_a_method():
    model, x = trained(lambda inner: ks.SAM(inner, rho=0.01))
    at_mean = model.predict(x, verbose=0)
    with ks.sample(model):
        assert np.any(model.predict(x, verbose=0) != at_mean)
    np.testing.assert_array_equal(model.predict(x, verbose=0), at_mean)


def test_what_has_no_gaussian_is_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    for optimizer in (None, "sgd"):
        if optimizer:
            model.compile(optimizer, "mse")
        with pytest.raises(ValueError) as error, ks.sample(model):
            pass
        assert "`model`" in str(error.value) and "`IVON`" in str(error.value)
    model, _ = trained(ks.Lookahead)
    with pytest.raises(ValueError) as error, ks.sample(model):
        pass
    assert "lookahead" in str(error.value)
    for draw in (-1, 0.5):
        with pytest.raises(ValueError) as error, ks.sample(model, draw):
            pass
        assert f"draw={draw}" in str(error.value)
