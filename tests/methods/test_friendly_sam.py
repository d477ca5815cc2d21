"""Friendly SAM: another implementation's trajectory, its limit, its one memory for all chunks."""

import keras
import numpy as np
import pytest
from support.nets import (
    LOSS,
    assert_same_steps,
    dense_net,
    equal_on_both,
    images,
    sgd,
    two_replicas,
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
G = RELATIVES["expected"]["friendly_sam"]


@PRECISE
def test_golden():
    inner = keras.optimizers.SGD(LR, MOMENTUM)
    actual = relative_trajectory(ks.FriendlySAM(inner, G["rho"], G["sigma"], G["lmbda"]))
    assert_close(actual, relative_expected("friendly_sam"), 1e-7 if TENSORFLOW else 1e-5)
    sam = relative_trajectory(ks.SAM(keras.optimizers.SGD(LR, MOMENTUM), G["rho"]))
    assert abs(sam - relative_expected("friendly_sam")).max() > 1e-3


def test_sigma_of_zero_is_sam():
    assert_same_steps(ks.FriendlySAM(sgd(), rho=0.1, sigma=0.0), ks.SAM(sgd(), rho=0.1))


@PRECISE
def test_the_memory_is_of_clean_gradients_and_not_of_what_is_left_of_them():
    # L = sum h w^2 / 2. One public implementation averages g - sigma * m in place of g.
    h, w, rate, rho, lmbda = np.array([1.0, 3.0]), np.array([2.0, -1.0]), 0.1, 0.2, 0.5
    mean, expected = None, []
    for _ in range(3):
        g = h * w
        p = g if mean is None else g - mean
        mean = g if mean is None else lmbda * mean + (1 - lmbda) * g
        w = w - rate * h * (w + rho * p / np.linalg.norm(p))
        expected.append(w)
    model, batch = quadratic({"h": [1.0, 3.0], "w0": [2.0, -1.0]})
    optimizer = ks.FriendlySAM(keras.optimizers.SGD(rate), rho, 1.0, lmbda)
    assert_close(trajectory(model, optimizer, batch, 3), expected, 1e-6)
    assert_close(optimizer.mean[0].numpy(), mean, 1e-6)


def uphill(w, radius, direction):
    return w + radius * direction / np.linalg.norm(direction)


H, W = np.array([1.0, 3.0]), np.array([2.0, -1.0])
SHARP = H * uphill(W, 0.25, H * W)
OUTER = {  # A method, and the gradients at the points whose mean it returns, by hand.
    "sam": (lambda inner: ks.SAM(inner, 0.25), SHARP),
    "looksam": (lambda inner: ks.LookSAM(inner, 0.25, interval=2), SHARP),
    "gsam": (lambda inner: ks.GSAM(inner, 0.25, 0.5), SHARP),  # Less a part, which is no gradient.
    "gnp": (lambda inner: ks.GNP(inner, 0.25, 0.5), (H * W + SHARP) / 2),
    "friendlysam": (lambda inner: ks.FriendlySAM(inner, 0.25), SHARP),
    "awp": (lambda inner: ks.AWP(inner, 0.25), H * uphill(W, 0.25 * np.linalg.norm(W), H * W)),
    "lookahead": (ks.Lookahead, H * W),
}


@pytest.mark.parametrize("outer", OUTER)
def test_inside_another_method_it_remembers_the_gradients_that_are_returned(outer):
    # L = sum h w^2 / 2. With rho = 0 its own point is where the outer method asks.
    make, expected = OUTER[outer]
    model, batch = quadratic({"h": H, "w0": W})
    inner = ks.FriendlySAM(keras.optimizers.SGD(0.1), rho=0.0)
    trajectory(model, make(inner), batch, 1)
    assert_close(inner.mean[0].numpy(), expected, 1e-6)
    assert outer == "lookahead" or np.abs(expected - H * W).max() > 0.02


@pytest.mark.parametrize("copies", [1, 2, 4])
def test_inside_smoothout_it_remembers_the_mean_over_the_draws(copies):
    model, batch = quadratic({"h": H, "w0": W})
    inner = ks.FriendlySAM(keras.optimizers.SGD(0.1), rho=0.0)
    after = trajectory(model, ks.SmoothOut(inner, 0.5, copies=copies), batch, 1)[0]
    assert_close(inner.mean[0].numpy(), (W - after) / 0.1, 1e-5)
    assert np.abs(inner.mean[0].numpy() - H * W).max() > 0.02


def after_one_update(accumulate=None, ghost_batch_size=None, scale=None):
    """The memory after an update of 8 examples: the mean gradient at the start, however split."""
    x, y = images(8)
    model = ks.wrap(dense_net(6))
    inner = keras.optimizers.SGD(
        0.1, gradient_accumulation_steps=accumulate, loss_scale_factor=scale
    )
    model.compile(ks.FriendlySAM(inner, rho=0.5), LOSS, ghost_batch_size=ghost_batch_size)
    size = 8 // (accumulate or 1)
    for start in range(0, 8, size):
        model.train_on_batch(x[start : start + size], y[start : start + size])
    return [keras.ops.convert_to_numpy(m) for m in model.optimizer.mean]


@pytest.mark.parametrize(
    "split", [{"ghost_batch_size": 3}, {"accumulate": 2}, {"accumulate": 2, "scale": 8.0}]
)
def test_one_memory_however_the_batch_is_split(split):
    whole = after_one_update()
    assert all(np.any(m) for m in whole)
    for a, b in zip(after_one_update(**split), whole, strict=True):
        assert_close(a, b, 1e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("policy", "tolerance"), [("float32", 1e-6), ("mixed_float16", 1e-3)]
)  # With float16, what a step hands to updates crosses the threads of loss scaling.
def test_two_replicas_keep_one_memory(policy, tolerance):
    keras.config.set_dtype_policy(policy)
    x, y = images(8)
    with two_replicas().scope():
        many = ks.wrap(dense_net(6))
        many.compile(ks.FriendlySAM(keras.optimizers.SGD(0.1), rho=0.5), LOSS)
    many.fit(x, y, 8, verbose=0)
    scaled = isinstance(many.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    for ours, whole in zip(many.optimizer.mean, after_one_update(), strict=True):
        assert np.abs(whole).max() > 0.01
        assert_close(equal_on_both(ours), whole, tolerance)
