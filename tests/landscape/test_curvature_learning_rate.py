"""CurvatureLearningRate: the best learning rate and momentum of quadratics."""

import keras
import numpy as np
import pytest
from keras import layers
from support.nets import LOSS, images, sgd, standard_net
from support.problems import golden

import keras_smoothout as ks
from keras_smoothout.landscape.tracking.curvature_learning_rate import (
    CurvatureLearningRate,
    heavy_ball,
)

# Mean of (x w - y)**2 over these has the curvatures 2 / 4 * sum(x_i**2) = 0.5 * (1, 4, 16, 64).
X = np.diag([1.0, 2.0, 4.0, 8.0]).astype("float32")
Y = X.sum(1, keepdims=True)
CURVATURES = np.array([0.5, 2.0, 8.0, 32.0])


def regression(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, use_bias=False)])
    model.compile(optimizer, "mse")
    return model


def fit(model, epochs=1, **options):
    rule = CurvatureLearningRate(X, Y, **options)
    return model.fit(X, Y, 4, epochs, verbose=0, callbacks=[rule]).history


@pytest.mark.parametrize("row", golden("noise_theory")["expected"]["heavy_ball"], ids=str)
def test_heavy_ball(row):
    rate, momentum = heavy_ball(row["largest"], row["smallest"])
    assert rate == pytest.approx(row["lr"], rel=1e-10)
    assert momentum == pytest.approx(row["momentum"], rel=1e-10)
    # For every curvature between, both roots of z**2 - (1 + m - rate * h) z + m have |z| = sqrt(m).
    for h in np.linspace(row["smallest"], row["largest"], 7)[1:-1]:
        roots = np.roots([1, -(1 + momentum - rate * h), momentum])
        np.testing.assert_allclose(np.abs(roots), row["rate"], rtol=1e-6)


@pytest.mark.parametrize("optimizer", [sgd, lambda: ks.Lookahead(sgd(), 1, 1.0)])
def test_a_quadratic_converges_at_the_best_rate(optimizer):
    model = regression(optimizer())
    history = fit(model, 60)
    rate, momentum = heavy_ball(32.0, 0.5)
    np.testing.assert_allclose(history["learning_rate"], rate, rtol=1e-4)
    np.testing.assert_allclose(history["momentum"], momentum, rtol=1e-4)
    np.testing.assert_allclose(history["largest_curvature"], 32.0, rtol=1e-4)
    np.testing.assert_allclose(history["smallest_curvature"], 0.5, rtol=1e-3)
    assert all(seconds > 0 for seconds in history["curvature_seconds"])
    # The loss goes with the square of the distance: a factor of `momentum` a step, times a
    # polynomial in the step at the ends of the spectrum. Half the rate is far from it.
    factor = (history["loss"][45] / history["loss"][15]) ** (1 / 30)
    assert factor == pytest.approx(momentum, rel=0.1)


def test_the_new_momentum_is_the_one_that_is_used():
    # Keras compiles the momentum into the step: the second step must be with the new one.
    model = regression(keras.optimizers.SGD(0.001, momentum=0.9))
    error = [model.get_weights()[0][:, 0] - 1]
    rate, momentum = heavy_ball(32.0, 0.5)
    for _ in range(2):
        fit(model)
        error.append(model.get_weights()[0][:, 0] - 1)
    expected = error[1] - rate * CURVATURES * error[1] + momentum * (error[1] - error[0])
    np.testing.assert_allclose(error[2], expected, rtol=1e-3, atol=1e-5)


def test_cauchy_is_the_exact_line_search():
    model = regression(keras.optimizers.SGD(1.0))
    gradient = CURVATURES * (model.get_weights()[0][:, 0] - 1)
    step = np.sum(gradient**2) / np.sum(CURVATURES * gradient**2)
    history = fit(model, rule="cauchy")
    assert history["learning_rate"][0] == pytest.approx(step, rel=1e-4)
    # At the minimum along a line the new gradient is orthogonal to the old one.
    new = CURVATURES * (model.get_weights()[0][:, 0] - 1)
    assert abs(new @ gradient) < 1e-4 * np.sum(gradient**2)


def test_the_step_is_compiled_once_while_the_momentum_stays(monkeypatch):
    model, compilations = regression(sgd()), []
    make = model.make_train_function
    monkeypatch.setattr(
        model, "make_train_function", lambda force=False: [compilations.append(force), make(force)]
    )
    fit(model, 5)
    assert compilations == [False, True]


def test_scale_and_floor():
    history = fit(regression(sgd()), floor=0.25, scale=0.5)
    rate, momentum = heavy_ball(32.0, 8.0)
    assert history["learning_rate"][0] == pytest.approx(0.5 * rate, rel=1e-4)
    assert history["momentum"][0] == pytest.approx(momentum, rel=1e-4)


def test_every_so_many_epochs_on_a_network(tmp_path):
    # Its smallest curvature is below 0, so the floor stands; and the model is saved as it is.
    model = standard_net()
    model.compile(sgd(), LOSS)
    rule = CurvatureLearningRate(*images(), every_epochs=2, lanczos_steps=8, scale=0.5)
    history = model.fit(*images(), 16, 4, verbose=0, callbacks=[rule]).history
    rates = history["learning_rate"]
    assert rates[0] == rates[1] != rates[2] == rates[3]
    assert history["smallest_curvature"][0] < 0
    rate, momentum = heavy_ball(
        history["largest_curvature"][0], 0.01 * history["largest_curvature"][0]
    )
    assert rates[0] == pytest.approx(0.5 * rate, rel=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.momentum == history["momentum"][-1] == pytest.approx(momentum)


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (lambda: keras.optimizers.SGD(0.1), "above 0 before"),
        (lambda: keras.optimizers.SGD(0.1, 0.9, nesterov=True), "and not Nesterov's"),
        (lambda: keras.optimizers.Adam(0.1), "sets the momentum of `keras.optimizers.SGD`"),
        (lambda: sgd(keras.optimizers.schedules.CosineDecay(0.1, 10)), "must be a number"),
    ],
)
def test_optimizers_that_it_cannot_set(optimizer, words):
    with pytest.raises(ValueError, match=words):
        fit(regression(optimizer()))


@pytest.mark.parametrize("pair", [(1.0, 0.0), (1.0, 2.0), (np.inf, 1.0), (np.nan, 1.0)])
def test_curvatures_without_a_best_rate(pair):
    with pytest.raises(ValueError, match="smallest <= largest"):
        heavy_ball(*pair)
