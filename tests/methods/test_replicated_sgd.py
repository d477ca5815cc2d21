"""Replicated SGD: an independent trajectory, modes of a quadratic, the automatic unit, limits."""

import keras
import numpy as np
import pytest
from support.copies import assigned, learners, parts, quadratic_copies
from support.nets import LOSS, equal_on_both, sgd, two_replicas
from support.problems import PRECISE, TENSORFLOW, assert_close, golden

import keras_smoothout as ks

GOLDEN = golden("replicated_sgd")
INPUTS, EXPECTED = GOLDEN["inputs"], GOLDEN["expected"]
TOLERANCE = 1e-6 if TENSORFLOW else 1e-5


@PRECISE
def test_golden():
    copies = INPUTS["y"]
    inner = keras.optimizers.SGD(INPUTS["lr"], INPUTS["momentum"])
    optimizer = ks.ReplicatedSGD(
        inner, INPUTS["gamma"], INPUTS["growth"] - 1, period=INPUTS["K"], largest_coupling=9.0
    )
    model = learners(INPUTS, optimizer)
    squares = []
    for step in range(INPUTS["steps"]):
        model.train_on_batch(*parts(INPUTS, copies, step))
        squares.append(np.mean(model.distances() ** 2))
        if step + 1 in (4, 8):
            expected = np.array(EXPECTED[f"replicas_step{step + 1}"])
            assert_close(assigned(model), expected, TOLERANCE)
            centre = np.concatenate([w.ravel() for w in model.centre().get_weights()])
            assert_close(centre, EXPECTED[f"centre_step{step + 1}"], TOLERANCE)
    np.testing.assert_allclose(squares, EXPECTED["mean_square_distance"], rtol=1e-4)


def test_modes_of_a_quadratic():
    # The centre shrinks by 1 - lr h, differences from it by 1 - lr (h + coupling).
    given = EXPECTED["quadratic"]
    start = np.array([[1.0, 1.0, 1.0], [2.0, 3.0, 4.0]])
    optimizer = ks.ReplicatedSGD(
        keras.optimizers.SGD(given["lr"]), given["gamma"], scoping=0.0, largest_coupling=1.0
    )
    model, batch = quadratic_copies(given["h"], start)
    model.compile(optimizer)
    model.train_on_batch(*batch)
    (after,) = model.get_weights()
    centre, apart = start.mean(0), start - start.mean(0)
    assert_close(after.mean(0), centre * given["centre_factor"], 1e-6)
    assert_close(after - after.mean(0), apart * given["relative_factor"], 1e-6)


def pulled(optimizer, steps, **options):
    """Distances of two copies from their centre over `steps` on a flat loss, of `options`."""
    model, batch = quadratic_copies([0.0], np.array([[1.0], [-1.0]]), **options)
    model.compile(optimizer)
    found = []
    for _ in range(steps):
        model.train_on_batch(*batch)
        found.append(model.distances()[0])
    return np.array(found)


def test_the_coupling_grows_to_its_limit():
    inner = keras.optimizers.SGD(0.1)
    found = pulled(ks.ReplicatedSGD(inner, 0.25, scoping=1.0, largest_coupling=1.0), 4)
    assert_close(found, np.cumprod(1 - 0.1 * np.array([0.25, 0.5, 1.0, 1.0])), 1e-6)


def test_a_schedule_of_the_coupling():
    inner = keras.optimizers.SGD(0.1)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [1.0, 0.5])
    found = pulled(ks.ReplicatedSGD(inner, schedule), 4)
    assert_close(found, np.cumprod(1 - 0.1 * np.array([1.0, 1.0, 0.5, 0.5])), 1e-6)


@pytest.mark.tensorflow
def test_accumulation_counts_updates():
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    found = pulled(ks.ReplicatedSGD(inner, 0.5, scoping=1.0, period=2), 8)
    # Pulled by the second and the fourth update, which are the calls 4 and 8.
    assert_close(found, [1, 1, 1, 0.8, 0.8, 0.8, 0.8, 0.64], 1e-6)


def test_the_automatic_unit_balances_springs_and_loss():
    # L = h x^2 / 2 at +-1 with rate 0: loss h / 2, mean squared distance 1, so the unit is h.
    h = 0.5
    model, batch = quadratic_copies([h], np.array([[1.0], [-1.0]]))
    model.compile(ks.ReplicatedSGD(keras.optimizers.SGD(0.0), 0.5, automatic_after=2))
    units = []
    for _ in range(4):
        model.train_on_batch(*batch)
        units.append(float(model.optimizer.scale))
    assert units == pytest.approx([0.0, 0.0, h, h])
    model.optimizer.learning_rate = 1.0
    model.train_on_batch(*batch)
    assert model.distances()[0] == pytest.approx(1 - h - 0.5 * h)


def test_equal_copies_stay_equal_if_their_examples_are():
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model = ks.Copies(net, 2)
    model.compile(ks.ReplicatedSGD(sgd(), 0.5), "mse")
    x = np.tile(np.random.default_rng(0).normal(size=(4, 3)), (2, 1))
    for _ in range(3):
        model.train_on_batch(x, x[:, :2])
    assert_close(model.distances(), 0.0, 1e-6)


@pytest.mark.parametrize("method", [ks.ReplicatedSGD, ks.DPSGD])
def test_it_takes_copies(method):
    model = ks.wrap(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    model.compile(method("sgd"), "mse")
    with pytest.raises(ValueError, match="keras_smoothout.Copies"):
        model.optimizer.build(model.trainable_variables)


@pytest.mark.tensorflow
@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("mixed_float16", 2e-3)])
def test_two_replicas_have_the_same_copies(policy, tolerance):
    keras.config.set_dtype_policy(policy)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 3)), rng.integers(0, 2, 16)

    def trained():
        keras.utils.set_random_seed(0)
        net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model = ks.Copies(net, 2)
        for variable in model.trainable_variables:
            variable.assign(rng_weights(variable.shape))
        model.compile(ks.ReplicatedSGD(sgd(), 0.2, scoping=0.1, automatic_after=1), LOSS)
        return model

    def rng_weights(shape):
        return np.random.default_rng(1).normal(size=shape)

    with two_replicas().scope():
        many = trained()
    one = trained()
    # A replica has half of the batch, of which each copy has half: the same examples, in all.
    order = [*range(4), *range(8, 12), *range(4, 8), *range(12, 16)]
    many.fit(x[order], y[order], 16, epochs=4, shuffle=False, verbose=0)
    one.fit(x, y, 16, epochs=4, shuffle=False, verbose=0)
    for ours, theirs in zip(
        [*many.weights, *many.optimizer.variables],
        [*one.weights, *one.optimizer.variables],
        strict=True,
    ):
        relative = 10 * tolerance
        np.testing.assert_allclose(equal_on_both(ours), theirs.numpy(), relative, tolerance)
