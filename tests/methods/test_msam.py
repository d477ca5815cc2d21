"""MSAM: another implementation's trajectories, the sign, accumulation, replicas."""

import keras
import numpy as np
import pytest
from support.nets import (
    LOSS,
    assert_equal,
    dense_net,
    equal_on_both,
    images,
    sgd,
    standard_net,
    two_replicas,
    values,
)
from support.problems import (
    PRECISE,
    RELATIVES,
    TENSORFLOW,
    assert_close,
    quadratic,
    relative_expected,
    relative_trajectory,
    trajectory,
)

import keras_smoothout as ks

LR, MOMENTUM = RELATIVES["inputs"]["lr"], RELATIVES["inputs"]["momentum"]
RHO = RELATIVES["expected"]["msam_sgd"]["rho"]


def plain():
    return keras.optimizers.SGD(LR, MOMENTUM)


@PRECISE
def test_golden_sgd():
    actual = relative_trajectory(ks.MSAM(plain(), RHO, MOMENTUM))
    assert_close(actual, relative_expected("msam_sgd"), 1e-7 if TENSORFLOW else 1e-5)
    without = relative_trajectory(plain())
    assert abs(without - relative_expected("msam_sgd")).max() > 1e-3


@PRECISE
def test_golden_adamw():
    # Adam's moment is (1 - beta_1) times ours, which its norm cancels. The reference decays the
    # weights after the step and Keras before: that is rate * decay of a step of length rate, each.
    g = RELATIVES["expected"]["msam_adamw"]
    rate, decay = g["adam_lr"], g["weight_decay"]
    actual, without = (
        relative_trajectory(ks.MSAM(inner, rho, momentum=0.9))
        for rho in (g["rho"], 0.0)
        for inner in [keras.optimizers.AdamW(rate, decay, epsilon=1e-8)]
    )
    expected = relative_expected("msam_adamw")
    assert_close(actual, expected, 8 * rate * decay * rate)
    assert abs(without - expected).max() > 1e-3


@PRECISE
def test_the_sign_is_minus():
    # L = h w^2 / 2: the second gradient is taken where the momentum leads, nearer to the minimum.
    h, rate, rho = 2.0, 0.1, 0.25
    w, v, expected = 1.0, 0.0, []
    for _ in range(4):
        g = h * (w - rho * np.sign(v))
        v = 0.9 * v + g
        w -= rate * g
        expected.append(w)
    model, batch = quadratic({"h": [h], "w0": [1.0]})
    actual = trajectory(model, ks.MSAM(keras.optimizers.SGD(rate), rho), batch, 4)
    assert_close(actual[:, 0], expected, 1e-7)


def test_the_model_never_holds_perturbed_weights_and_the_first_step_has_none():
    one, plain_one = ks.wrap(standard_net()), ks.wrap(standard_net())
    x, y = images(8)
    one.compile(ks.MSAM(sgd(), rho=5.0, statistics="perturbed"), LOSS)
    plain_one.compile(sgd(), LOSS)
    for model in (one, plain_one):
        model.train_on_batch(x, y)
    if TENSORFLOW:
        assert_equal(values(one)[: len(one.variables)], values(plain_one)[: len(one.variables)])
    one.train_on_batch(x, y)
    plain_one.train_on_batch(x, y)
    assert not np.array_equal(one.get_weights()[0], plain_one.get_weights()[0])


@pytest.mark.tensorflow
def test_accumulated_steps_are_one_step_of_their_mean():
    # Both halves are asked at the same point, and the velocity moves once in an update.
    x, y = images(8)

    def trained(accumulate, batches):
        model = ks.wrap(dense_net(6))
        inner = keras.optimizers.SGD(0.1, 0.9, gradient_accumulation_steps=accumulate)
        model.compile(ks.MSAM(inner, rho=0.5), LOSS)
        for rows in batches:
            model.train_on_batch(x[rows], y[rows])
        return model

    halves = trained(2, 3 * [slice(0, 4), slice(4, 8)])
    whole = trained(None, 3 * [slice(0, 8)])
    for a, b in zip(halves.get_weights(), whole.get_weights(), strict=True):
        assert_close(a, b, 1e-6)
    pairs = zip(halves.optimizer.velocity, whole.optimizer.velocity, strict=True)
    for a, b in pairs:
        assert_close(a.numpy(), b.numpy(), 1e-6)
        assert np.any(b.numpy())


@pytest.mark.tensorflow
def test_two_replicas_keep_one_velocity():
    x, y = images(8)
    with two_replicas().scope():
        many = ks.wrap(dense_net(6))
        many.compile(ks.MSAM(keras.optimizers.SGD(0.1), rho=0.5), LOSS)
    one = ks.wrap(dense_net(6))
    one.compile(ks.MSAM(keras.optimizers.SGD(0.1), rho=0.5), LOSS)
    for model in (many, one):
        model.fit(x, y, 8, epochs=3, shuffle=False, verbose=0)
    for ours, theirs in zip(many.optimizer.velocity, one.optimizer.velocity, strict=True):
        assert_close(equal_on_both(ours), theirs.numpy(), 1e-5)
