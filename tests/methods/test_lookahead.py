"""Lookahead: other packages' trajectories of fast and slow weights, and when they meet."""

import keras
import numpy as np
import pytest
from support.nets import assert_equal, sgd, values
from support.problems import (
    FLOAT32,
    PRECISE,
    TENSORFLOW,
    TOLERANCE,
    assert_close,
    base,
    crossentropy,
    flat,
    golden,
    mlp,
    quadratic,
)

import keras_smoothout as ks

GOLDEN = golden("lookahead")
INPUTS = GOLDEN["inputs"]


def plain(model):
    """The same layers as a `keras.Model`: Lookahead asks for nothing more."""
    return keras.Model(model.input, model.output)


def fast_and_slow(model, optimizer, batch, steps, **compiled):
    """Fast and slow weights after each step, each shaped (steps, weights)."""
    loss = crossentropy() if len(batch) > 1 else None
    model.compile(optimizer, loss, **{"run_eagerly": TENSORFLOW} | compiled)
    fast, slow = [], []
    for _ in range(steps):
        model.train_on_batch(*batch)
        fast.append(flat(model.trainable_variables))
        slow.append(flat(optimizer.slow))
    return np.array(fast), np.array(slow)


def test_constraints_hold_after_a_synchronization():
    keras.utils.set_random_seed(0)
    unit = keras.constraints.UnitNorm()
    net = [keras.Input((3,)), keras.layers.Dense(2, use_bias=False, kernel_constraint=unit)]
    model = keras.Sequential(net)
    model.compile(ks.Lookahead(keras.optimizers.SGD(0.5), sync_period=2), "mse")
    x = np.random.default_rng(0).normal(size=(8, 3))
    for _ in range(4):
        model.train_on_batch(x, x[:, :2])
    np.testing.assert_allclose(np.linalg.norm(model.get_weights()[0], axis=0), 1, rtol=1e-5)


@PRECISE
@pytest.mark.parametrize("name", ["momentum", "adam_keras"])
@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (6, 0.8)])
@pytest.mark.parametrize("problem", ["quad", "mlp"])
def test_golden(problem, k, alpha, name):
    model, batch = {"quad": quadratic, "mlp": mlp}[problem](INPUTS[problem])
    optimizer = ks.Lookahead(base(INPUTS, problem, name), k, alpha)
    fast, slow = fast_and_slow(plain(model), optimizer, batch, 13)
    expected = GOLDEN["expected"][f"{problem}|k={k}|alpha={alpha}|{name}|state=keep"]
    steps = slice(None) if problem == "quad" else [5, 12]
    assert_close(fast[steps], expected["fast"], TOLERANCE[name])
    assert_close(slow[steps], expected["slow"], TOLERANCE[name])


@pytest.mark.parametrize("name", ["momentum", "adam_keras"])
def test_golden_compiled_in_float32(name):
    model, batch = mlp(INPUTS["mlp"])
    optimizer = ks.Lookahead(base(INPUTS, "mlp", name), 5, 0.5)
    fast, slow = fast_and_slow(plain(model), optimizer, batch, 13, run_eagerly=False)
    expected = GOLDEN["expected"][f"mlp|k=5|alpha=0.5|{name}|state=keep"]
    assert_close(fast[[5, 12]], expected["fast"], FLOAT32[name])
    assert_close(slow[[5, 12]], expected["slow"], FLOAT32[name])
    # Compiled or not, fast equals slow to the bit after a synchronization, and only there.
    meets = [(f == s).all() for f, s in zip(fast, slow, strict=True)]
    assert [t + 1 for t in range(13) if meets[t]] == [5, 10]


def test_slow_weights_start_at_the_initial_weights_at_build():
    model, _ = mlp(INPUTS["mlp"])
    optimizer = ks.Lookahead("sgd")
    optimizer.build(model.trainable_variables)
    assert_equal([v.numpy() for v in optimizer.slow], model.get_weights())
    # They are copies: the model's weights may change and they stay.
    model.set_weights([2 * w for w in model.get_weights()])
    assert_equal([2 * v.numpy() for v in optimizer.slow], model.get_weights())


@pytest.mark.parametrize("steps", [0, 2])
def test_weights_that_are_set_are_not_pulled_back(steps):
    # After 0 or 2 of 3 steps to a synchronization; the gradient is 0, so nothing else moves them.
    model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    model.compile(ks.Lookahead(keras.optimizers.SGD(0.1), 3, 0.5), "mse")
    x, y = np.ones((4, 2)), np.ones((4, 1))
    model.optimizer.build(model.trainable_variables)
    for _ in range(steps):
        model.train_on_batch(x, y)
    wanted = [np.array([[0.25], [0.5]], "float32"), np.array([0.25], "float32")]  # A loss of 0.
    model.set_weights(wanted)
    for _ in range(7):
        model.train_on_batch(x, y)
        assert_equal(model.get_weights(), wanted)
        assert_equal([v.numpy() for v in model.optimizer.slow], wanted)


def test_early_stopping_may_restore_the_best_weights():
    model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    model.compile(ks.Lookahead(keras.optimizers.SGD(2.0), 5), "mse")  # It diverges.
    stopping = keras.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True)
    x, y = np.ones((4, 2)), np.ones((4, 1))
    model.fit(x, y, 4, 20, callbacks=[stopping], verbose=0)
    best = model.get_weights()
    model.optimizer.learning_rate = 0.0
    model.fit(x, y, 4, 7, verbose=0)
    assert_equal(model.get_weights(), best)


@PRECISE
def test_synchronizes_every_sync_period_updates_under_accumulation():
    # The batch never changes, so neither does the gradient between two updates, and their mean
    # (g + g) / 2 is g: after 2 n steps with gradient_accumulation_steps=2 the weights are those
    # after n steps without. Synchronizing by steps, not updates, would come at the wrong ones.
    model, batch = quadratic(INPUTS["quad"])
    inner = keras.optimizers.SGD(0.02, momentum=0.9, gradient_accumulation_steps=2)
    fast, slow = fast_and_slow(model, ks.Lookahead(inner, 3), batch, 16)
    model, batch = quadratic(INPUTS["quad"])
    expected = fast_and_slow(model, ks.Lookahead(sgd(0.02), 3), batch, 8)
    assert_equal([fast[1::2], slow[1::2]], expected)
    assert_equal(fast[2::2], fast[1:-1:2])  # Nothing moves at the steps between.
    assert_equal(slow[2::2], slow[1:-1:2])
    changes = [t + 1 for t in range(1, 16) if (slow[t] != slow[t - 1]).any()]
    assert changes == [6, 12]


def test_period_one_and_step_size_zero_are_the_extremes():
    # With k=1 every step is halved: w - alpha lr h w. With alpha=0 no step is kept.
    for alpha, factor in ((0.5, 0.5), (0.0, 0.0)):
        model, batch = quadratic(INPUTS["quad"])
        optimizer = ks.Lookahead(keras.optimizers.SGD(0.02), 1, alpha)
        fast, slow = fast_and_slow(model, optimizer, batch, 2)
        step = 1 - factor * 0.02 * np.array(INPUTS["quad"]["h"])
        expected = [step**t * INPUTS["quad"]["w0"] for t in (1, 2)]
        assert_close(fast, expected, 1e-6)
        assert_equal(fast, slow)


def test_save_and_resume_equals_training_on(tmp_path):
    # Saved 3 steps after a synchronization: fast and slow weights differ, momentum is not zero.
    model, batch = mlp(INPUTS["mlp"])
    optimizer = ks.Lookahead(sgd(), 4, 0.5)
    fast, slow = fast_and_slow(plain(model), optimizer, batch, 7, run_eagerly=False)
    assert abs(fast[-1] - slow[-1]).max() > 1e-3
    model = plain(model)
    model.compile(optimizer, crossentropy())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(flat(loaded.optimizer.slow), slow[-1])
    for _ in range(3):  # Step 8 synchronizes.
        model.train_on_batch(*batch)
        loaded.train_on_batch(*batch)
    assert_equal(values(loaded), values(model))
    assert (flat(loaded.optimizer.slow) != slow[-1]).all()
