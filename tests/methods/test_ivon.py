"""IVON: given draws, the Hessian it learns, its positivity, one draw for all parts of an update."""

import keras
import numpy as np
import pytest
from keras import ops
from support.contract import arrays
from support.nets import LOSS, dense_net, equal_on_both, images, two_replicas
from support.problems import (
    PRECISE,
    TENSORFLOW,
    Quadratic,
    assert_close,
    crossentropy,
    flat,
    golden,
    mlp,
)

import keras_smoothout as ks
from keras_smoothout import Evaluation, Step
from keras_smoothout.asks import ask, asked

GOLDEN = golden("ivon")
INPUTS, EXPECTED = GOLDEN["inputs"], GOLDEN["expected"]


class GivenNoise(ks.IVON):
    """IVON with the file's normal numbers."""

    def _normal(self, i, like, *key):
        sizes = [int(np.prod(v.shape)) for v in self._h]
        start = sum(sizes[:i])
        z = np.array(INPUTS["z"])[:, start : start + sizes[i]].reshape(-1, *like.shape)
        return ops.take(ops.convert_to_tensor(z, self._h[i].dtype), self.iterations, axis=0)


@PRECISE
def test_golden():
    model, (x, y) = mlp(INPUTS["net"])
    optimizer = GivenNoise(
        INPUTS["lr"],
        INPUTS["ess"],
        INPUTS["hess_init"],
        INPUTS["beta1"],
        INPUTS["beta2"],
        INPUTS["weight_decay"],
    )
    model.compile(optimizer, crossentropy(), run_eagerly=TENSORFLOW)
    tolerance = 1e-7 if TENSORFLOW else 2e-5
    for step in range(6):
        rows = slice(2 * (step % 4), 2 * (step % 4) + 2)
        model.train_on_batch(x[rows], y[rows])
        if step in (0, 5):
            assert_close(flat(model.trainable_variables), EXPECTED[f"w{step + 1}"], tolerance)
            assert_close(flat(optimizer._h), EXPECTED[f"h{step + 1}"], tolerance)


def test_the_hessian_of_a_quadratic_is_found():
    # Of L = sum H w^2 / 2. E f = H; the term that keeps h positive adds 1 - beta_2 of it.
    curvatures = np.repeat([0.5, 2.0, 8.0], 300)
    inputs = keras.Input((1,))
    model = ks.Model(inputs, Quadratic(curvatures)(inputs))
    model.compile(ks.IVON(0.001, ess=100.0, hess_init=2.0, beta_2=0.95, decay=0.0))
    model.set_weights([np.zeros(900)])
    model.fit(np.zeros((300, 1)), batch_size=1, verbose=0)
    found = flat(model.optimizer._h).reshape(3, 300).mean(axis=1)
    np.testing.assert_allclose(found / [0.5, 2.0, 8.0], 1.05, atol=0.1)


def test_the_estimate_stays_positive_where_it_would_not_without_its_last_term():
    w = keras.Variable(np.zeros(50), dtype="float32")
    optimizer = ks.IVON(0.1, ess=100.0, hess_init=0.5, beta_2=0.9)
    optimizer.build([w])
    e = ops.convert_to_numpy(optimizer._draw(0, "float32"))
    grad = -np.sign(e) * 100
    f = 100.0 * (0.5 + 1e-4) * e * grad
    assert np.any(0.9 * 0.5 + 0.1 * f < 0)
    with asked(optimizer, {}):
        optimizer.apply([ops.convert_to_tensor(grad, "float32")])
    assert np.all(ops.convert_to_numpy(optimizer._h[0]) > 0)


def test_the_radius_of_the_step_is_clipped():
    w = keras.Variable(np.zeros(50), dtype="float32")
    optimizer = ks.IVON(0.1, 1000.0, hess_init=0.5, decay=0.0, clip_radius=0.01)
    optimizer.build([w])
    with asked(optimizer, {}):
        optimizer.apply([ops.convert_to_tensor(np.linspace(-9, 9, 50), "float32")])
    np.testing.assert_allclose(abs(w.numpy()).max(), 0.1 * 0.5 * 0.01, rtol=1e-5)


def test_a_plain_model_is_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(ks.IVON(0.1, ess=2.0), "mse")
    with pytest.raises(RuntimeError) as error:
        model.train_on_batch(np.ones((2, 2)), np.ones((2, 1)))
    assert "`IVON`" in str(error.value) and "keras_smoothout.wrap(model)" in str(error.value)


@pytest.mark.parametrize("nest", [lambda o: o, lambda o: ks.Lookahead(ks.SmoothOut(o, radius=0.0))])
def test_ask_finds_it_at_any_depth(nest):
    optimizer = nest(ks.IVON(0.1, ess=100.0))
    w = keras.Variable(np.ones((3, 2)))
    optimizer.build([w])
    points = []

    def evaluate(weights):
        points.append(ops.convert_to_numpy(weights[0]))
        return Evaluation(0.0, weights, None, [], [True], weights)

    ask(optimizer, evaluate, [ops.convert_to_tensor(w)], Step(0))
    assert len(points) == 1 and np.all(points[0] != 1)


def trained(accumulate=None, ghost_batch_size=None, epochs=2):
    x, y = images(16)
    model = ks.wrap(dense_net(6))
    optimizer = ks.IVON(
        0.2, ess=50.0, beta_2=0.9, gradient_accumulation_steps=accumulate, name="ivon"
    )
    model.compile(optimizer, LOSS, ghost_batch_size=ghost_batch_size)
    model.fit(x, y, 8 // (accumulate or 1), epochs, shuffle=False, verbose=0)
    return arrays([*model.trainable_variables, *optimizer._h, *optimizer._m])


@pytest.mark.parametrize("split", [{"ghost_batch_size": 3}, {"accumulate": 2}])
def test_ghost_batches_and_accumulated_calls_share_the_draw_of_their_update(split):
    for a, b in zip(trained(**split), trained(), strict=True):
        assert_close(a, b, 1e-5)


@pytest.mark.tensorflow
def test_two_replicas_share_the_draw():
    x, y = images(16)
    with two_replicas().scope():
        model = ks.wrap(dense_net(6))
        model.compile(ks.IVON(0.2, ess=50.0, beta_2=0.9), LOSS)
    model.fit(x, y, 8, 2, shuffle=False, verbose=0)
    optimizer = model.optimizer
    ours = [*model.trainable_variables, *optimizer._h, *optimizer._m]
    for variable, whole in zip(ours, trained(), strict=True):
        assert_close(equal_on_both(variable), whole, 1e-5)


def test_the_number_of_examples_must_be_given():
    model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    model.compile(ks.SAM(ks.IVON(0.1)), "mse")
    with pytest.raises(ValueError) as error:
        model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0)
    assert "`IVON(ess=len(x))`. Received: ess=None" in str(error.value)


def test_a_gaussian_without_width_is_refused():
    with pytest.raises(ValueError) as error:
        ks.IVON(hess_init=0.0, decay=0.0)
    assert "hess_init=0.0, decay=0.0" in str(error.value)
