"""NudgedSGD: its formula's trajectories, and the directions that it is given."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.contract import Directed
from support.nets import assert_equal, sgd, values
from support.problems import PRECISE, TENSORFLOW, assert_close, flat, golden

import keras_smoothout as ks

GOLDEN = golden("nudged_sgd")
H = np.array(GOLDEN["inputs"]["H"])
W0 = np.array(GOLDEN["inputs"]["w0"])
SHARPEST = np.linalg.eigh(H).eigenvectors.T[::-1]  # (5, 5), the sharpest first


class Quadratic(layers.Layer):
    """Adds the loss `w H w / 2`, whatever the input; `w` comes in two variables."""

    def build(self, input_shape):
        self.first = self.add_weight(shape=(2,), name="first")
        self.second = self.add_weight(shape=(3, 1), name="second")

    def call(self, x):
        w = ops.concatenate([self.first, self.second[:, 0]])
        self.add_loss(ops.sum(w * ops.matmul(ops.convert_to_tensor(H, self.dtype), w)) / 2)
        return x


def split(vector):
    return [vector[:2], vector[2:, None]]


def quadratic(optimizer):
    """A plain `keras.Model` of the quadratic, built."""
    x = keras.Input((1,))
    model = keras.Model(x, Quadratic()(x))
    model.set_weights(split(W0))
    model.compile(optimizer, run_eagerly=TENSORFLOW)
    optimizer.build(model.trainable_variables)
    return model


def nudged(factor, directions, momentum=0.0):
    optimizer = ks.NudgedSGD(keras.optimizers.SGD(0.05, momentum=momentum), factor, directions)
    model = quadratic(optimizer)
    optimizer.set_directions([split(v) for v in SHARPEST[:directions]])
    return model


def step(model, steps=1):
    for _ in range(steps):
        model.train_on_batch(np.zeros((1, 1)))
    return flat(model.trainable_variables)


NAMES = sorted(GOLDEN["expected"]["trajectories"])


@PRECISE
@pytest.mark.parametrize("name", NAMES if TENSORFLOW else NAMES[::3])  # JAX compiles each.
def test_golden(name):
    k, factor, momentum = (float(part.split("=")[1]) for part in name.split("|")[1:])
    model = nudged(factor, int(k), momentum)
    trajectory = [step(model) for _ in range(6)]
    tolerance = (1e-7 if momentum else 1e-11) if TENSORFLOW else 1e-4
    assert_close(trajectory, GOLDEN["expected"]["trajectories"][name], tolerance)


@PRECISE
def test_the_momentum_is_that_of_the_inner_optimizer():
    # velocity = 0.9 velocity - 0.05 H w, at the weights where the nudged steps lead.
    model = nudged(0.1, 2, momentum=0.9)
    velocity, w = np.zeros(5), W0
    for _ in range(3):
        velocity = 0.9 * velocity - 0.05 * H @ w
        w = step(model)
        momentums = model.optimizer.inner.momentums
        assert_close(flat(momentums), velocity, 1e-7 if TENSORFLOW else 1e-5)


@PRECISE
def test_adam_inside():
    # Adam's first step is the learning rate times the sign of the gradient.
    optimizer = ks.NudgedSGD(keras.optimizers.Adam(0.01), 0.0, 1)
    model = quadratic(optimizer)
    optimizer.set_directions([split(SHARPEST[0])])
    plain = -0.01 * np.sign(H @ W0)
    expected = plain - (SHARPEST[0] @ plain) * SHARPEST[0]
    assert_close(step(model) - W0, expected, 1e-6)


def test_fewer_directions_leave_the_rest_alone():
    one, few = nudged(0.1, 1), nudged(0.1, 3)
    few.optimizer.set_directions([split(SHARPEST[0])])
    assert_equal([step(one)], [step(few)])


def test_compiled_inside_lookahead():
    # Lookahead halves every step: w + (nudged step) / 2.
    inner = ks.NudgedSGD(keras.optimizers.SGD(0.05), 0.1, 2)
    optimizer = ks.Lookahead(inner, 1, 0.5)
    model = quadratic(optimizer)
    model.compile(optimizer, run_eagerly=False)
    inner.set_directions([split(v) for v in SHARPEST[:2]])
    full = np.array(GOLDEN["expected"]["trajectories"]["correct_v|K=2|gamma=0.1|momentum=0.0"][0])
    assert_close(step(model), (W0 + full) / 2, 1e-6)


def test_constraints_hold_after_the_nudge():
    # The step (-0.3, -0.4), three times as long along (0.6, 0.8), leads to (-0.4, -0.2).
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.constraint = keras.constraints.NonNeg()
    model.set_weights([np.array([[0.5], [1.0]])])
    optimizer = ks.NudgedSGD(keras.optimizers.SGD(1.0), 3.0, 1)
    model.compile(optimizer, keras.losses.MeanAbsoluteError())
    optimizer.build(model.trainable_variables)
    optimizer.set_directions([[np.array([[0.6], [0.8]])]])
    model.train_on_batch(np.array([[0.3, 0.4]]), np.array([[-1.0]]))
    np.testing.assert_array_equal(model.get_weights()[0], 0)


def test_directions_are_saved(tmp_path):
    model = nudged(3.0, 2, momentum=0.9)
    step(model, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", {"Quadratic": Quadratic})
    assert_equal(values(loaded), values(model))
    assert np.any(loaded.optimizer.sharpest[1][1])
    assert_close(step(loaded), step(model), 0 if TENSORFLOW else 1e-7)


def fit(optimizer):
    model = quadratic(optimizer)
    model.fit(np.zeros((2, 1)), verbose=0)


def test_a_training_without_directions_is_told():
    with pytest.warns(UserWarning, match="never given directions"):
        fit(ks.NudgedSGD("sgd", 0.1))
    fit(ks.NudgedSGD("sgd", 1.0))
    fit(Directed("sgd", 0.1, 2))


@pytest.mark.parametrize(
    ("directions", "words"),
    [
        (3 * [split(SHARPEST[0])], "at most 2 lists"),
        ([SHARPEST[0]], "at most 2 lists"),
        ([split(SHARPEST[0])[::-1]], "at most 2 lists"),
        ([split(2 * SHARPEST[0])], "orthonormal"),
        (2 * [split(SHARPEST[0])], "orthonormal"),
        ([split(np.nan * SHARPEST[0])], "orthonormal"),
    ],
)
def test_wrong_directions(directions, words):
    model = nudged(0.1, 2)
    before = values(model)
    with pytest.raises(ValueError, match=words) as error:
        model.optimizer.set_directions(directions)
    assert "Received" in str(error.value)
    assert_equal(values(model), before)


def test_directions_need_weights():
    with pytest.raises(ValueError, match="call `build"):
        ks.NudgedSGD(sgd()).set_directions([])


def test_an_average_of_weights_before_the_nudge_is_refused():
    inner = keras.optimizers.SGD(0.1, use_ema=True, name="averaging")
    with pytest.raises(ValueError, match="put `Lookahead` around.* Received: .* in averaging"):
        ks.NudgedSGD(inner)
    with pytest.raises(ValueError, match="put `Lookahead` around.* Received: inner=Lookahead"):
        ks.NudgedSGD(ks.Lookahead(sgd()))
