"""Every "Reduces to" line: to the bit what `keras.Model` does with the inner optimizer alone."""

import functools

import keras
import numpy as np
import pytest
from support.contract import Directed
from support.nets import LOSS, assert_equal, images, on_batch, sgd, standard_net

import keras_smoothout as ks

TENSORFLOW = keras.backend.backend() == "tensorflow"
pytestmark = pytest.mark.exact
ZERO = ks.schedules.ConstantRadius(0.0)


def smoothout(**options):
    """SmoothOut that draws noise and multiplies it by 0: a radius of 0 itself draws none."""
    return lambda: ks.SmoothOut(sgd(), ZERO, statistics="perturbed", **options)


def all_nested():
    optimizer = sgd()
    for distribution in ("uniform", "normal"):
        for scale in ("absolute", "weight", "filter", "filter_std"):
            optimizer = ks.SmoothOut(optimizer, ZERO, distribution, scale, statistics="perturbed")
    return ks.Lookahead(ks.ASAM(optimizer, 0.0), 2, 1.0)


# name: (makes the optimizer, ghost batch size). Together the rows have each distribution with each
# scale, one copy and several, with and without pairs.
CASES = {
    "no method": (sgd, None),
    "SmoothOut": (lambda: ks.SmoothOut(sgd(), 0.0), None),
    "SmoothOut weight": (smoothout(scale="weight"), None),
    "SmoothOut filter 2 copies": (smoothout(scale="filter", copies=2, exclude=()), None),
    "SmoothOut normal": (smoothout(distribution="normal", denoise=False), None),
    "SmoothOut normal weight": (smoothout(distribution="normal", scale="weight"), None),
    "SmoothOut normal filter 4 copies": (
        smoothout(distribution="normal", scale="filter", copies=4, antithetic=True),
        None,
    ),
    "AdaSmoothOut": (lambda: ks.AdaSmoothOut(sgd(), 0.0), None),
    "SAM": (lambda: ks.SAM(sgd(), 0.0), None),
    "SAM shared": (lambda: ks.SAM(sgd(), ZERO, perturbation="shared"), None),
    "SAM interval": (lambda: ks.SAM(sgd(), 0.0, interval=3), None),
    "ASAM": (lambda: ks.ASAM(sgd(), 0.0), None),
    "ASAM interval": (lambda: ks.ASAM(sgd(), 0.0, interval=3), None),
    "GSAM": (lambda: ks.GSAM(sgd(), 0.0, 0.0), None),
    "FriendlySAM": (lambda: ks.FriendlySAM(sgd(), 0.0), None),
    "LookSAM": (lambda: ks.LookSAM(sgd(), 0.0, 0.0, interval=3), None),
    "AWP": (lambda: ks.AWP(sgd(), 0.0), None),
    "Lookahead": (lambda: ks.Lookahead(sgd(), 2, 1.0), None),
    "NudgedSGD": (lambda: Directed(sgd(), 1.0, 2), None),
    "Lookahead of ASAM of every SmoothOut": (all_nested, None),
    "AdaSmoothOut of SAM of Lookahead": (
        lambda: ks.AdaSmoothOut(ks.SAM(ks.Lookahead(sgd(), 3, 1.0), 0.0), 0.0),
        None,
    ),
    "a ghost batch of the batch": (sgd, 8),
    "a ghost batch larger than the batch": (lambda: ks.SAM(sgd(), 0.0), 9),
}
# XLA compiles the body of a loop or a branch on its own and fuses its sums in another way, so on
# JAX these rows agree to rounding.
CONTROL_FLOW = {"SmoothOut normal filter 4 copies", "SAM interval"}
# Compiling takes long: what may differ from eager, in few rows.
COMPILED = {
    *CONTROL_FLOW,
    "Lookahead of ASAM of every SmoothOut",
    "a ghost batch of the batch",
}


def train(model, optimizer, examples=20, **compiled):
    """Two epochs of two full batches and half a one; what they leave, and what they log."""
    model.compile(optimizer, LOSS, metrics=["accuracy"], **compiled)
    x, y = images(examples)
    logs = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    while hasattr(optimizer, "inner"):
        optimizer = optimizer.inner
    return [v.numpy() for v in [*model.variables, *optimizer.variables]], logs


@functools.cache
def plain(**compiled):
    arrays, logs = train(standard_net(), sgd(), **compiled)
    assert any(np.any(a) for a in arrays)
    assert logs["loss"][0] > logs["loss"][-1] > 0
    return arrays, logs


def run(name, **compiled):
    make, ghost_batch_size = CASES[name]
    return train(ks.wrap(standard_net()), make(), ghost_batch_size=ghost_batch_size, **compiled)


def check(name, **compiled):
    (arrays, logs), (expected, expected_logs) = run(name, **compiled), plain(**compiled)
    assert_equal(arrays, expected)
    assert logs == expected_logs


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", CASES)
def test_reduces_eagerly(name):
    check(name, run_eagerly=True)


@pytest.mark.parametrize("name", sorted(COMPILED if TENSORFLOW else COMPILED - CONTROL_FLOW))
def test_reduces_compiled(name):
    check(name)


def check_to_rounding(name, **compiled):
    (arrays, logs), (expected, expected_logs) = run(name, **compiled), plain(**compiled)
    for a, b in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
    for key in expected_logs:
        np.testing.assert_allclose(logs[key], expected_logs[key], rtol=1e-6)


@pytest.mark.parametrize("name", ["SAM interval"] if TENSORFLOW else sorted(CONTROL_FLOW))
def test_reduces_to_rounding_under_xla(name):
    check_to_rounding(name, jit_compile=True, examples=8)


def test_ghost_batches_of_equal_data_are_one_of_them():
    # Both halves of the batch are the same examples, so both gradients and their mean are equal.
    # Dropout would differ between them; the moving statistics move twice.
    def net():
        model = standard_net()
        model.layers[4].rate = 0.0
        assert isinstance(model.layers[4], keras.layers.Dropout)
        return model

    x, y = images(4)
    model = ks.wrap(net())
    model.compile(sgd(), LOSS, metrics=["accuracy"], ghost_batch_size=4)
    logs = on_batch(model, np.tile(x, (2, 1, 1, 1)), np.tile(y, 2))
    expected = net()
    expected.compile(sgd(), LOSS, metrics=["accuracy"])
    assert logs == pytest.approx(on_batch(expected, x, y), rel=1e-6)
    for a, b in zip(
        [*model.trainable_variables, *model.optimizer.variables],
        [*expected.trainable_variables, *expected.optimizer.variables],
        strict=True,
    ):
        # Gradients of the first step, not sums of many; XLA compiles the loop's body differently.
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=0 if TENSORFLOW else 1e-6)
    first, twice = (m.get_layer(index=2) for m in (expected, model))
    initial = [np.zeros(4, "float32"), np.ones(4, "float32")]
    for start, once, moved in zip(
        initial,
        [first.moving_mean.numpy(), first.moving_variance.numpy()],
        [twice.moving_mean.numpy(), twice.moving_variance.numpy()],
        strict=True,
    ):
        # once = 0.9 start + 0.1 s and moved = 0.9 once + 0.1 s, so moved = 1.9 once - 0.9 start.
        np.testing.assert_allclose(moved, 1.9 * once - 0.9 * start, atol=1e-6)
