"""Sharpness measures against closed forms: worst case, noise, local entropy, PAC-Bayes."""

import types

import numpy as np
import pytest
from support.problems import golden

from keras_smoothout.landscape.sharpness.local_entropy import local_entropy
from keras_smoothout.landscape.sharpness.noise_sharpness import expected_sharpness
from keras_smoothout.landscape.sharpness.pac_bayes import expected_error, kl_inverse
from keras_smoothout.landscape.sharpness.worst_case import keskar_sharpness, sam_sharpness

KESKAR = golden("keskar_sharpness")
CASES = {case["name"]: case for case in KESKAR["inputs"]["cases"]}
SE_BOUND = 4.0


class Function:
    """A function of one vector of weights that answers as an `Objective` does, in float64."""

    def __init__(self, weights, loss, gradient):
        self.weights, self.size = [np.array(weights)], len(weights)
        self._loss, self._gradient = loss, gradient
        variable = types.SimpleNamespace(path="layer/kernel")
        self.model = types.SimpleNamespace(trainable_variables=[variable])

    def flatten(self, arrays):
        return arrays[0].astype("float64")

    def unflatten(self, vector):
        return [vector]

    def loss(self, weights):
        return self._loss(weights[0])

    def loss_and_gradient(self, weights):
        return self._loss(weights[0]), [self._gradient(weights[0])]


def quadratic(h, x, x0, c=0.0):
    """`c + sum(h * (w - x0)**2) / 2` at `x`."""
    h, x0 = np.array(h), np.array(x0)
    return Function(x, lambda w: c + np.sum(h * (w - x0) ** 2) / 2, lambda w: h * (w - x0))


def case(name):
    return quadratic(*(CASES[name][key] for key in ("h", "x", "x0", "c")))


@pytest.mark.parametrize("radius", KESKAR["inputs"]["eps"])
@pytest.mark.parametrize("name", CASES)
def test_keskar_is_exact_on_separable_quadratics(name, radius):
    expected = KESKAR["expected"][f"{name}|eps={radius}"]["phi"]
    found = keskar_sharpness(case(name), radius, iterations=50)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.standard_error == 0


def test_keskar_on_random_lines():
    # On a line along the unit vector a, with |y| <= r = radius * (|a.x| + 1), the convex quadratic
    # is highest at an end: rise = r * |a.g| + r**2 / 2 * a.(h * a), and never above the box's.
    objective, radius = case("off_minimum"), 1e-3
    h, x, x0 = (np.array(CASES["off_minimum"][key]) for key in ("h", "x", "x0"))
    loss = objective.loss([x])
    rng, rises = np.random.default_rng(3), []
    for _ in range(4):
        a = rng.standard_normal((4, 1), "float32")[:, 0]
        a = (a / np.sqrt(np.sum(a * a))).astype("float64")
        rng.choice([-1.0, 1.0], 1)
        r = radius * (abs(a @ x) + 1)
        rises.append(r * abs(a @ (h * (x - x0))) + r**2 / 2 * (a @ (h * a)))
    expected = 100 * np.array(rises) / (1 + loss)
    found = keskar_sharpness(objective, radius, dimensions=1, repeats=4, seed=3)
    assert found.value == pytest.approx(expected.mean(), rel=1e-6)
    assert found.standard_error == pytest.approx(expected.std(ddof=1) / 2, rel=1e-5)
    # As many directions as weights span the space; they need not lie along the axes, though.
    whole = keskar_sharpness(objective, radius, dimensions=4).value
    assert 0.5 * expected.mean() < whole


def mlp(weights):
    """The tanh MLP of the golden file as a `Function`."""
    spec = KESKAR["inputs"]["mlp"]
    inputs, labels = np.array(spec["X"]), np.array(spec["y"])
    ends = np.cumsum([20, 5, 15])

    def forward(w):
        w1, b1, w2, b2 = np.split(w, ends)
        hidden = np.tanh(inputs @ w1.reshape(4, 5) + b1)
        logits = hidden @ w2.reshape(5, 3) + b2
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        return hidden, w2.reshape(5, 3), logits

    def loss(w):
        return -np.mean(forward(w)[2][np.arange(8), labels])

    def gradient(w):
        hidden, w2, logs = forward(w)
        error = (np.exp(logs) - np.eye(3)[labels]) / 8
        back = error @ w2.T * (1 - hidden**2)
        parts = inputs.T @ back, back.sum(0), hidden.T @ error, error.sum(0)
        return np.concatenate([p.ravel() for p in parts])

    if weights == "trained":
        return Function(KESKAR["inputs"]["trained_weights"], loss, gradient)
    flat = [np.ravel(spec[name]) for name in ("W1", "b1", "W2", "b2")]
    return Function(np.concatenate(flat), loss, gradient)


@pytest.mark.parametrize("radius", [1e-3, 5e-4, 0.05])
@pytest.mark.parametrize("weights", ["initial", "trained"])
def test_keskar_on_a_network(weights, radius):
    expected = KESKAR["expected"][f"mlp_{weights}|eps={radius}"]
    found = keskar_sharpness(mlp(weights), radius).value
    best = expected["phi_best_corner_found"]
    least = 0.99 * best if radius < 0.01 else expected["phi_lbfgsb_10_iterations"]
    assert least <= found <= best * (1 + 1e-6)
    assert found <= keskar_sharpness(mlp(weights), radius, repeats=4).value


def test_sam_sharpness_of_one_step():
    # At w = (1, 1) with h = (1, 10): g = (1, 10), e = rho g / ||g||, rise = g.e + e.(h * e) / 2.
    g, h, rho = np.array([1.0, 10.0]), np.array([1.0, 10.0]), 0.05
    e = rho * g / np.linalg.norm(g)
    found = sam_sharpness(quadratic(h, [1.0, 1.0], [0.0, 0.0]), rho)
    assert found.value == pytest.approx(g @ e + e @ (h * e) / 2, rel=1e-12)


def test_sam_sharpness_of_many_steps_finds_the_sharpest_direction():
    # Next to the minimum of a quadratic the ball's highest point is rho along the sharpest axis.
    objective = quadratic([1.0, 10.0, 3.0], [1e-6, 1e-9, 1e-6], [0.0, 0.0, 0.0])
    one, many = sam_sharpness(objective, 0.1).value, sam_sharpness(objective, 0.1, 30).value
    assert many == pytest.approx(10 / 2 * 0.1**2, rel=1e-3)
    assert one < 0.5 * many


def test_sam_sharpness_at_a_minimum_is_zero():
    assert sam_sharpness(quadratic([1.0], [0.0], [0.0]), 0.1, 3).value == 0


@pytest.mark.parametrize(("distribution", "share"), [("uniform", 1 / 6), ("normal", 1 / 2)])
@pytest.mark.parametrize("scale", ["absolute", "weight"])
def test_expected_sharpness_of_a_quadratic(distribution, share, scale):
    # E sum(h u**2) / 2 = radius**2 * share * sum(h * unit**2); the pairs cancel the slope exactly.
    h, x = np.linspace(0.1, 5, 50), np.linspace(-2, 2, 50)
    objective = quadratic(h, x, np.ones(50))
    unit = np.abs(x) if scale == "weight" else np.ones(50)
    expected = 0.1**2 * share * np.sum(h * unit**2)
    found = expected_sharpness(objective, 0.1, distribution, scale, draws=100)
    assert abs(found.value - expected) < SE_BOUND * found.standard_error
    assert found.standard_error < 0.05 * expected


def test_standard_errors_are_those_of_the_estimates():
    # Of 100 estimates with seeds of their own, the spread is the mean standard error to 25 %: the
    # standard deviation of a standard deviation over 100 draws is 7 %, and that over 5 draws is
    # biased by 6 %.
    objective = quadratic(np.linspace(0.1, 5, 20), np.zeros(20), np.zeros(20))
    found = [expected_sharpness(objective, 0.1, draws=5, seed=s) for s in range(100)]
    spread = np.std([f.value for f in found], ddof=1)
    assert spread == pytest.approx(np.mean([f.standard_error for f in found]), rel=0.25)


def test_noise_leaves_out_what_is_excluded():
    objective = quadratic([1.0, 2.0], [0.3, 0.4], [0.0, 0.0])
    assert expected_sharpness(objective, 0.1, exclude=("kernel",)).value == pytest.approx(
        0, abs=1e-7
    )


ENTROPY = golden("local_energy_entropy")


@pytest.mark.parametrize("temperatures", [1, 10])
@pytest.mark.parametrize("row", ENTROPY["expected"]["local_entropy"], ids=str)
def test_local_entropy_of_a_quadratic(row, temperatures):
    h, w = np.array(ENTROPY["inputs"]["h"]), np.array(ENTROPY["inputs"]["w_entropy"])
    beta, gamma = row["beta"], row["gamma"]
    expected = row["log_integral"] - np.log(2 * np.pi / (beta * gamma))  # n / 2 = 1
    objective = quadratic(h, w, np.zeros(2))
    found = local_entropy(objective, beta, gamma, 4000 // temperatures, temperatures)
    assert abs(found.value - expected) < SE_BOUND * found.standard_error
    assert found.standard_error < 0.1


def test_annealing_pays_where_few_draws_dominate():
    # With beta = gamma = 1 the mean of exp(-h v**2 / 2) is (1 + h)**-0.5 for each of 20 weights.
    objective, expected = quadratic(20 * [5.0], np.zeros(20), np.zeros(20)), -10 * np.log(6)
    annealed = local_entropy(objective, 1.0, 1.0, 50, 100, step=0.3).value
    plain = local_entropy(objective, 1.0, 1.0, 5000).value  # For the same price.
    assert abs(annealed - expected) < 1.5
    assert abs(plain - expected) > 3


@pytest.mark.parametrize("row", golden("kl_inverse")["expected"], ids=str)
def test_kl_inverse(row):
    found = kl_inverse(row["q"], row["c"])
    assert found == pytest.approx(row["kl_inverse"], abs=1e-9)
    assert found <= row["pinsker_upper"]


@pytest.mark.parametrize("row", golden("expected_error")["expected"], ids=str)
def test_expected_error(row):
    found = expected_error(row["error"], row["draws"], row["delta"])
    assert found == pytest.approx(row["bound"], abs=1e-12)


@pytest.mark.parametrize(("error", "draws"), [(0.0, 10), (0.05, 10), (0.3, 50)])
def test_expected_error_fails_no_more_often_than_it_says(error, draws):
    rng = np.random.default_rng(0)
    means = rng.binomial(draws, error, 2000) / draws
    assert np.mean([expected_error(m, draws, 0.1) < error for m in means]) <= 0.1


@pytest.mark.parametrize(("q", "c", "expected"), [(1.0, 0.1, 1.0), (0.3, 0.0, 0.3), (0.5, 1e3, 1)])
def test_kl_inverse_at_the_ends(q, c, expected):
    assert kl_inverse(q, c) == expected
