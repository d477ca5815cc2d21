"""LookSAM: another implementation's trajectory, its limit, and one direction for all chunks."""

import keras
import numpy as np
import pytest
from support.contract import arrays, contract_net, examples
from support.nets import (
    LOSS,
    assert_equal,
    assert_same_steps,
    dense_net,
    equal_on_both,
    images,
    sgd,
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
G = RELATIVES["expected"]["looksam"]


@PRECISE
def test_golden():
    inner = keras.optimizers.SGD(LR, MOMENTUM)
    actual = relative_trajectory(ks.LookSAM(inner, G["rho"], G["alpha"], G["k"]))
    assert_close(actual, relative_expected("looksam"), 1e-7 if TENSORFLOW else 1e-5)
    without = relative_trajectory(ks.LookSAM(keras.optimizers.SGD(LR, MOMENTUM), G["rho"], 0.0, 3))
    assert abs(without - relative_expected("looksam")).max() > 1e-3


def test_interval_of_one_is_sam():
    assert_same_steps(ks.LookSAM(sgd(), rho=0.1, interval=1), ks.SAM(sgd(), rho=0.1))


def trained(updates, accumulate=None, scale=None, ghost_batch_size=None):
    """Weights and direction after some updates of 8 examples with interval 2, however split."""
    x, y = images(8)
    model = ks.wrap(dense_net(6))
    inner = keras.optimizers.SGD(
        0.1, 0.9, gradient_accumulation_steps=accumulate, loss_scale_factor=scale
    )
    model.compile(ks.LookSAM(inner, 0.5, interval=2), LOSS, ghost_batch_size=ghost_batch_size)
    size = ghost_batch_size or 8 // (accumulate or 1)
    for _ in range(updates):
        for start in range(0, 8, 8 if ghost_batch_size else size):
            rows = slice(start, start + (8 if ghost_batch_size else size))
            model.train_on_batch(x[rows], y[rows])
    return arrays(model.trainable_variables), arrays(model.optimizer.across)


def test_inside_gnp_its_direction_is_that_of_the_gradients_that_are_returned():
    # L = sum h w^2 / 2. GNP returns the mean of two of LookSAM's, at w and up the first of them.
    h, w = np.array([1.0, 3.0]), np.array([2.0, -1.0])

    def up(w, direction):
        return w + 0.5 * direction / np.linalg.norm(direction)

    def sharp(w):
        return h * up(w, h * w)

    elsewhere = up(w, sharp(w))
    clean, found = h * (w + elsewhere) / 2, (sharp(w) + sharp(elsewhere)) / 2
    across = found - clean * (found @ clean) / (clean @ clean)
    model, batch = quadratic({"h": h, "w0": w})
    inner = ks.LookSAM(keras.optimizers.SGD(0.1), 0.5, interval=2)
    trajectory(model, ks.GNP(inner, 0.5, 0.5), batch, 1)
    assert_close(inner.across[0].numpy(), across / np.linalg.norm(across), 1e-5)


@pytest.mark.parametrize("scale", [None, 8.0])
def test_accumulated_calls_and_ghost_batches_are_one_update_of_their_mean(scale):
    # Halves climb apart in both, so the two must be equal; a chunk's own direction would differ.
    halves, ghosts = trained(4, 2, scale), trained(4, ghost_batch_size=4)
    for a, b in zip(halves, ghosts, strict=True):
        for one, other in zip(a, b, strict=True):
            assert_close(one, other, 2e-6)
    length = np.sqrt(sum(np.sum(u.astype("float64") ** 2) for u in ghosts[1]))
    assert length == pytest.approx(1, rel=1e-5)
    assert any(np.any(abs(a - b) > 1e-4) for a, b in zip(ghosts[0], trained(4)[0], strict=True))


@pytest.mark.tensorflow
def test_two_replicas_are_two_ghost_batches():
    x, y = images(8)
    with two_replicas().scope():
        many = ks.wrap(dense_net(6))
        many.compile(ks.LookSAM(keras.optimizers.SGD(0.1, 0.9), 0.5, interval=2), LOSS)
    many.fit(x, y, 8, epochs=4, shuffle=False, verbose=0)
    weights, across = trained(4, ghost_batch_size=4)
    pairs = zip(
        [*many.trainable_variables, *many.optimizer.across], [*weights, *across], strict=True
    )
    for ours, theirs in pairs:
        assert_close(equal_on_both(ours), theirs, 2e-6)


def test_saved_in_the_middle_of_an_interval_it_goes_on(tmp_path):
    x, y = examples(8)

    def step(model, count):
        for _ in range(count):
            model.train_on_batch(x, y)

    model = contract_net(dropout=0.0)
    model.compile(ks.LookSAM(sgd(), 0.5, interval=3), LOSS)
    step(model, 2)
    model.save(tmp_path / "model.keras")
    step(model, 3)
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    step(resumed, 3)
    assert_equal(values(resumed), values(model))
    assert any(np.any(u) for u in arrays(model.optimizer.across))


@pytest.mark.tensorflow  # JAX traces both branches.
def test_the_second_gradient_is_taken_in_every_third_update_only():
    counted = []

    class Counting(ks.SmoothOut):
        def gradients(self, evaluate, weights, step):
            counted.append(1)
            return evaluate(weights)

    model = ks.wrap(dense_net(6))
    model.compile(ks.LookSAM(Counting(sgd(), 0.0), interval=3), LOSS, run_eagerly=True)
    x, y = images(8)
    for _ in range(6):
        model.train_on_batch(x, y)
    assert len(counted) == 6 + 2
