"""The closed forms that the examples measure against, and their algorithms, on given numbers."""

import keras
import numpy as np
import pytest
from support.problems import golden

from examples import adversarial_l1, common, features_or_learning, gaussian_mixture
from examples.parts import games as minimax
from examples.parts import perceptron
from keras_smoothout.landscape.sharpness import shallow_pac_bayes as shallow

pytestmark = pytest.mark.tensorflow  # In float64, which JAX has to be told.


@pytest.mark.parametrize(
    "learner, cls, game",
    [
        ("gda", minimax.GDA, "quadratic"),
        ("gda", minimax.GDA, "bilinear"),
        ("ppm", minimax.ProximalPoint, "quadratic"),
        ("ppm", minimax.ProximalPoint, "bilinear"),
        pytest.param("gdmax", minimax.GDmax, "quadratic", marks=pytest.mark.slow),
    ],
)
def test_learners_of_a_game(learner, cls, game, monkeypatch):
    given = {k: np.array(v) for k, v in golden("minimax")["inputs"].items()}
    expected = golden("minimax")["expected"][game]
    A, B, C = (given[k] if game == "quadratic" or k == "B" else 0 * given[k] for k in "ABC")

    def loss(_, x, y):
        z = keras.ops.concatenate([x, y])
        form = np.block([[A / 2, B], [np.zeros((2, 2)), -C / 2]])
        return keras.ops.sum(z * keras.ops.matmul(form, z))

    if cls is minimax.GDmax:  # Its climb is cut short: let it reach the top, where it can.
        monkeypatch.setattr(cls, "CLIMBS", 150)
    layer = common.LossOf(loss, x=given["x0"], y=given["y0"])
    way = layer.trained(cls(keras.optimizers.SGD(float(given["eta"]))), int(given["steps"]))
    end = np.concatenate([w[-1] for w in way])
    np.testing.assert_allclose(end, expected[learner], atol=1e-4 if learner == "gdmax" else 2e-6)


def test_adversarial_loss_and_proximal_steps():
    file = golden("adversarial")
    given, expected = file["inputs"], file["expected"]
    X, y, theta = (np.array(given[k]) for k in ("X", "y", "theta"))
    loss = adversarial_l1.adversarial((X @ theta - y)[None], theta[None], given["eps"])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss)[0], expected["loss_l2"], rtol=1e-6)
    end = adversarial_l1.trained(
        X[None], y[None], given["lam"], 5, theta[None], given["lr"], given["eps"]
    )
    np.testing.assert_allclose(end[0], expected["prox"][-1], rtol=1e-6)
    risk = adversarial_l1.population(theta, np.array(given["theta0"]), given["sigma"], given["eps"])
    np.testing.assert_allclose(risk, expected["population_l2"], rtol=1e-12)


def test_risks_of_the_three_regimes():
    file = golden("rf_nt_nn")
    for row in file["expected"]["limits"]:
        rf, nt = features_or_learning.limits(row["rho"], row["beta2"])
        np.testing.assert_allclose([rf, nt], [row["RF"], row["NT"]], atol=1e-12)
    B = np.array(file["inputs"]["B"])
    found = [features_or_learning.learned(B, N) for N in range(len(B) + 1)]
    np.testing.assert_allclose(found, file["expected"]["NN_by_N"], atol=1e-10)


def test_bayes_error_of_two_clouds(monkeypatch):
    file = golden("gaussian_mixture")
    for row in file["expected"]["errors"]:
        monkeypatch.setattr(gaussian_mixture, "ALPHA", row["alpha"])
        monkeypatch.setattr(gaussian_mixture, "DELTA", row["Delta"])
        np.testing.assert_allclose(gaussian_mixture.theory(), row["bayes"], rtol=1e-12)
    monkeypatch.setattr(gaussian_mixture, "ALPHA", file["inputs"]["alpha"])
    monkeypatch.setattr(gaussian_mixture, "DELTA", file["inputs"]["Delta"])
    for row in file["expected"]["noisy"]:
        np.testing.assert_allclose(gaussian_mixture.theory(row["s"]), row["error"], rtol=1e-12)


def test_sbpi():
    file = golden("perceptron")
    given = file["inputs"]
    x = np.array(given["patterns"]) * np.array(given["labels"])[:, None]
    W = perceptron.sbpi(x, np.array(given["h0"]), np.array(given["u"]), barely=given["p_s"])
    assert W.tolist() == np.sign(file["expected"]["h_final"]).tolist()
    assert (x @ W > 0).all()


def test_bound_of_shallow_nets():
    file = golden("shallow_pac_bayes")
    given, expected = file["inputs"], file["expected"]
    weights, start = (given["U"], given["V"]), (given["U0"], given["V0"])
    for row in expected["bounds"]:
        activation = {"shel": "erf", "gelu": "gelu"}[row["kind"]]
        parts = shallow.divergences(
            weights, start, given["beta"], given["s2"], activation, given["s1"]
        )
        np.testing.assert_allclose(parts, expected["kl"][row["kind"]], rtol=1e-12)
        bound = shallow.bound_of(row["loss"], sum(parts), given["n"], given["delta"])
        np.testing.assert_allclose(bound, row["bound"], rtol=1e-9)
