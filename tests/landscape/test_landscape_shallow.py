"""The bound for shallow nets: its noise, its parts, and what it refuses."""

import keras
import numpy as np
import pytest
from scipy.special import erf

from keras_smoothout.landscape import shallow_bound
from keras_smoothout.landscape.sharpness import shallow_pac_bayes as shallow

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 5))
UNIT = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype("float32")


def net(units=8, classes=3, **options):
    layers = [keras.layers.Dense(u, use_bias=False) for u in (units, classes)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    model.set_weights([RNG.normal(size=w.shape) for w in model.get_weights()])
    return model


def test_without_noise_it_is_the_net_of_signs():
    model = net()
    U, V = model.get_weights()
    y = (np.sign(UNIT @ U) @ V).argmax(1)
    y[:40] = (y[:40] + 1) % 3  # One in ten is wrong.
    found = shallow_bound(model, [U, V], X, y, beta=1e6, sigmas=(1e-6,), passes=2)
    assert abs(found.noisy_error - 0.1) < 0.01  # A sign may flip where its field is almost 0.
    assert found.divergence == 0
    # 0.05 in two parts: 0.01 for the draws of two passes over 400 examples, 0.04 for the bound.
    draws = (np.log(1 / 0.01) / (2 * 2 * 400)) ** 0.5
    expected = shallow.bound_of(found.noisy_error + draws, 0.0, 400, 0.04)
    np.testing.assert_allclose(found.value, expected, rtol=1e-9)


def test_one_unit_errs_as_often_as_the_error_function_says():
    """The net of one unit is right with the probability (1 + erf(beta u'x)) / 2."""
    model, beta = net(1, 2), 2.0
    model.set_weights([np.ones((5, 1)), np.array([[-1.0, 1.0]])])
    found = shallow_bound(
        model, model.get_weights(), X, np.ones(400, int), beta, sigmas=(1e-6,), passes=500
    )
    expected = 1 - (1 + erf(beta * UNIT.sum(1))).mean() / 2
    assert abs(found.noisy_error - expected) < 4 * (0.25 / (400 * 500)) ** 0.5


def test_noise_of_gelu_errs_as_often_as_its_mean_says():
    """Where the unit does not fire, both outputs are 0 and the first class is chosen."""
    model = net(1, 2)
    model.set_weights([np.ones((5, 1)), np.array([[-1.0, 1.0]])])
    found = shallow_bound(
        model, model.get_weights(), X, np.ones(400, int), 1e6, "gelu", 1e-6, (1e-9,), passes=2
    )
    np.testing.assert_allclose(found.noisy_error, (UNIT.sum(1) <= 0).mean(), atol=0.01)


def test_the_smallest_bound_of_the_sigmas_counts():
    model = net()
    U, V = model.get_weights()
    y = (np.sign(UNIT @ U) @ V).argmax(1)
    found = shallow_bound(model, [U, V + 0.01], X, y, 1e6, sigmas=(0.001, 0.1))
    assert found.sigma == 0.1  # With 0.001 the last layer is 10,000 times further from the prior.
    np.testing.assert_allclose(found.divergence, V.size * 0.01**2 / (2 * 0.1**2), rtol=1e-4)


@pytest.mark.parametrize("name", ["biases", "three layers", "inputs"])
def test_other_nets_are_refused(name):
    layers = {
        "biases": [keras.layers.Dense(4), keras.layers.Dense(2)],
        "three layers": [keras.layers.Dense(4, use_bias=False) for _ in range(3)],
        "inputs": [keras.layers.Dense(4, use_bias=False) for _ in range(2)],
    }[name]
    model = keras.Sequential([keras.Input((6 if name == "inputs" else 5,)), *layers])
    with pytest.raises(ValueError, match=r"`model`.*shapes \[\("):
        shallow_bound(model, model.get_weights(), X, np.zeros(400, int), 1.0)
    with pytest.raises(ValueError, match="`activation`.*'relu'"):
        shallow_bound(model, model.get_weights(), X, np.zeros(400, int), 1.0, "relu")
