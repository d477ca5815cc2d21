"""ASAM: the authors' trajectories, and which weights stretch the ball."""

import keras
import numpy as np
import pytest
from keras import layers
from support.problems import (
    PRECISE,
    TOLERANCE,
    assert_close,
    base,
    flat,
    golden,
    mlp,
    quadratic,
    trajectory,
)

import keras_smoothout as ks

GOLDEN = golden("asam")


@PRECISE
@pytest.mark.parametrize("name", ["sgd", "momentum"])
@pytest.mark.parametrize("rho", [0.5, 1.0])
@pytest.mark.parametrize("problem", ["quad", "mlp"])
def test_golden(problem, rho, name):
    model, batch = {"quad": quadratic, "mlp": mlp}[problem](GOLDEN["inputs"][problem])
    optimizer = ks.ASAM(base(GOLDEN["inputs"], problem, name), rho, eta=0.01)
    weights = trajectory(model, optimizer, batch, 10)
    expected = GOLDEN["expected"][f"official|{problem}|rho={rho}|eta=0.01|{name}"]
    assert_close(weights if problem == "quad" else weights[[0, -1]], expected, TOLERANCE[name])


def test_golden_compiled_in_float32():
    model, batch = mlp(GOLDEN["inputs"]["mlp"])
    optimizer = ks.ASAM(base(GOLDEN["inputs"], "mlp", "momentum"), 1.0)
    weights = trajectory(model, optimizer, batch, 10, run_eagerly=False)
    expected = GOLDEN["expected"]["official|mlp|rho=1.0|eta=0.01|momentum"]
    assert_close(weights[[0, -1]], expected, 5e-5)


@PRECISE
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_by_hand(eta):
    # L = (h1 w1^2 + h2 w2^2) / 2 at w = (2, -1), h = (1, 3): g = (2, -3), T = |w| + eta. With eta=0
    # T g = (4, -3) has norm 5, e = rho T^2 g / 5 = rho (8, -3) / 5, and the step is lr h (w + e).
    w, h, rho = np.array([2.0, -1.0]), np.array([1.0, 3.0]), 0.5
    e = rho * np.array([8.0, -3.0]) / 5
    if eta:
        T, g = abs(w) + eta, h * w
        e = rho * T**2 * g / np.sqrt(np.sum(np.square(T * g)))
    model, batch = quadratic({"h": h.tolist(), "w0": w})
    after = trajectory(model, ks.ASAM(keras.optimizers.SGD(0.1), rho, eta), batch, 1)
    assert_close(after[0], w - 0.1 * h * (w + e), TOLERANCE["sgd"])


def test_gammas_stretch_the_ball_and_betas_and_biases_do_not():
    # `ascent` alone, at gradients of one: e = rho T^2 / ||T||, so T^2 is proportional to e.
    x = keras.Input((3,))
    y = layers.Dense(2)(layers.BatchNormalization()(layers.Embedding(5, 3)(x)))
    model = ks.Model(x, y)
    optimizer = ks.ASAM("sgd", rho=0.7, eta=0.25)
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=v.shape).astype("float32") for v in model.trainable_variables]
    ones = [np.ones_like(w) for w in weights]
    tensors = [[keras.ops.convert_to_tensor(a) for a in arrays] for arrays in (weights, ones)]
    e = optimizer.ascent(*tensors, optimizer.step())
    names = [v.name for v in model.trainable_variables]
    assert names == ["embeddings", "gamma", "beta", "kernel", "bias"]
    T = [
        np.ones_like(w) if name in ("beta", "bias") else abs(w) + 0.25
        for w, name in zip(weights, names, strict=True)
    ]
    norm = np.linalg.norm(np.concatenate([t.ravel() for t in T]))
    for actual, t in zip(e, T, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(actual), 0.7 * t**2 / norm, 1e-5)


def test_differs_from_sam():
    weights = []
    for method in (ks.SAM, ks.ASAM):
        model, batch = mlp(GOLDEN["inputs"]["mlp"])
        trajectory(model, method(keras.optimizers.SGD(0.5), 0.5), batch, 1)
        weights.append(flat(model.trainable_variables))
    assert abs(weights[0] - weights[1]).max() > 1e-3
