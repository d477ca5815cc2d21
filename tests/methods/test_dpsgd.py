"""DPSGD: independent trajectories on four graphs, exact means, when weights are mixed."""

import keras
import numpy as np
import pytest
from support.copies import assign, assigned, learners, parts, quadratic_copies, small_net
from support.nets import LOSS, assert_equal, sgd, values
from support.problems import PRECISE, TENSORFLOW, assert_close, golden

import keras_smoothout as ks

GOLDEN = golden("dpsgd")
INPUTS, EXPECTED = GOLDEN["inputs"], GOLDEN["expected"]
NAMES = {"one_peer_exponential": "exponential"}


class GivenPairs(ks.DPSGD):
    """Pairs as the golden file has drawn them."""

    def partners(self, learners):
        table = np.tile(np.arange(learners), (len(INPUTS["pairs"]), 1))
        for step, pairs in enumerate(INPUTS["pairs"]):
            for a, b in pairs:
                table[step, [a, b]] = b, a
        return keras.ops.take(table, keras.ops.cast(self.iterations, "int32"), 0)


@PRECISE
@pytest.mark.parametrize("graph", ["ring", "pairs", "one_peer_exponential", "complete"])
def test_golden(graph):
    cls = GivenPairs if graph == "pairs" else ks.DPSGD
    inner = keras.optimizers.SGD(INPUTS["lr"], INPUTS["momentum"])
    model = learners(INPUTS, cls(inner, NAMES.get(graph, graph)))
    for step in range(INPUTS["steps"]):
        model.train_on_batch(*parts(INPUTS, INPUTS["y"], step))
    tolerance = 1e-6 if TENSORFLOW else 1e-5
    assert_close(assigned(model), EXPECTED[graph]["learners"], tolerance)
    assert_close(assigned(model).mean(0), EXPECTED[graph]["mean"], tolerance)
    assert np.mean(model.distances() ** 2) == pytest.approx(EXPECTED[graph]["consensus"], rel=1e-4)


def mixing(graph, learners, rounds=1, seed=0):
    """The product of the mixing matrices of the first updates: what is left of unit vectors."""
    model, batch = quadratic_copies(learners * [0.0], np.eye(learners))
    model.compile(ks.DPSGD(keras.optimizers.SGD(0.1), graph, seed))
    products = []
    for _ in range(rounds):
        model.train_on_batch(*batch)
        products.append(model.get_weights()[0])
    return products


def test_the_matrices():
    (ring,) = mixing("ring", 5)
    assert_close(ring[0], [1 / 3, 1 / 3, 0, 0, 1 / 3], 1e-6)
    assert_close(ring, ring.T, 1e-6)
    second = np.sort(np.linalg.eigvalsh(ring))[-2]
    assert second == pytest.approx(EXPECTED["ring_second_eigenvalue"], rel=1e-5)
    assert_close(mixing("ring", 2)[0], np.full((2, 2), 1 / 2), 1e-6)
    assert_close(mixing("ring", 3)[0], np.full((3, 3), 1 / 3), 1e-6)
    assert_close(mixing("complete", 4)[0], np.full((4, 4), 1 / 4), 1e-6)
    for graph in ks.methods.dpsgd.GRAPHS:
        assert_close(mixing(graph, 1)[0], [[1.0]], 0)


def test_the_exponential_graph_finds_the_mean_in_three_rounds_of_eight():
    products = mixing("exponential", 8, 3)
    assert_close(products[2], EXPECTED["exponential_8_product_of_3"], 1e-7)
    assert_close(sorted(products[0][0])[-2:], [0.5, 0.5], 1e-7)
    assert np.abs(products[1] - 1 / 8).max() > 0.1


def drawn(learners, seed=0):
    """The matrices of random pairs of six updates."""
    model, batch = quadratic_copies(learners * [0.0], np.eye(learners))
    model.compile(ks.DPSGD(keras.optimizers.SGD(0.1), "pairs", seed))
    matrices = []
    for _ in range(6):
        assign(model, np.eye(learners))
        model.train_on_batch(*batch)
        matrices += model.get_weights()
    return matrices


@pytest.mark.parametrize("learners", [4, 5])
def test_pairs_are_drawn_for_each_update(learners):
    matrices = drawn(learners)
    for matrix in matrices:
        assert_close(matrix.sum(0), 1.0, 1e-6)
        assert_close(matrix, matrix.T, 0)
        alone = np.sum(np.diag(matrix) == 1)
        assert alone == learners % 2
        assert np.sum(matrix == 0.5) == 2 * (learners - alone)
    assert len({matrix.tobytes() for matrix in matrices}) > 1
    assert_equal(drawn(learners), matrices)
    assert any(np.any(a != b) for a, b in zip(drawn(learners, 5), matrices, strict=True))


@pytest.mark.tensorflow
def test_weights_are_mixed_in_updates_only():
    start = np.array([[1.0], [-1.0], [3.0], [4.0]])
    model, batch = quadratic_copies([0.0], start)
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model.compile(ks.DPSGD(inner, "exponential"))
    seen = []
    for _ in range(4):
        model.train_on_batch(*batch)
        seen.append(model.get_weights()[0])
    assert_equal(seen[:3:2], [start.astype("float32"), seen[1]])
    assert_close(seen[1], (start + np.roll(start, -1, 0)) / 2, 1e-6)
    assert_close(seen[3], start.mean(), 1e-6)  # The second round is two steps wide.


def test_a_complete_graph_is_sgd_on_the_whole_batch_where_gradients_are_linear():
    # Learners are a step of their own apart, so later gradients are those around the mean: their
    # mean is the gradient at the mean where it is linear, as on a quadratic.
    start, h = np.full((4, 3), 2.0), [0.5, 1.0, 3.0]
    model, batch = quadratic_copies(h, start)
    model.compile(ks.DPSGD(sgd(), "complete"))
    one, _ = quadratic_copies(h, start[:1])
    one.compile(sgd())
    for _ in range(5):
        model.train_on_batch(*batch)
        one.train_on_batch(batch[0][:1])
    assert_close(model.centre().get_weights()[0], one.get_weights()[0][0], 1e-6)


def test_the_first_step_of_equal_learners_is_that_of_sgd_on_the_whole_batch():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 6)), rng.integers(0, 3, 16)

    def net():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(4, "tanh"), keras.layers.Dense(3)]
        return keras.Sequential([keras.Input((6,)), *layers])

    many, one = ks.Copies(net(), 4), net()
    many.compile(ks.DPSGD(sgd(), "complete"), LOSS)
    one.compile(sgd(), LOSS)
    many.train_on_batch(x, y)
    one.train_on_batch(x, y)
    assert many.distances().min() > 1e-3
    for a, b in zip(many.centre().get_weights(), one.get_weights(), strict=True):
        assert_close(a, b, 1e-6)


def test_resume_within_a_cycle(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 6)), rng.integers(0, 3, 16)
    model = ks.Copies(small_net(dropout=0.0), 4, initial="different")
    model.compile(ks.DPSGD(sgd(), "exponential"), LOSS)
    model.train_on_batch(x, y)  # The first of two rounds.
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for _ in range(2):
        model.train_on_batch(x, y)
        loaded.train_on_batch(x, y)
    assert_equal(values(loaded), values(model))
