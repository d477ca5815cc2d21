"""Hessian and Gauss-Newton products: other packages' numbers, closed forms, whole networks."""

import json
import pathlib

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy.sparse.linalg import eigsh
from scipy.special import expit, softmax

from keras_smoothout.landscape import (
    Objective,
    eigenpairs,
    gauss_newton,
    hessian,
    hutchinson,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "support" / "golden"
TENSORFLOW = keras.backend.backend() == "tensorflow"

# Keras 3.15 on JAX rounds `tanh` to float32, also where all else is float64.
TOLERANCE = 1e-9 if TENSORFLOW else 1e-6
STEP = 1e-7 if TENSORFLOW else 1e-3  # So small that no rectifier comes to its kink.


def crossentropy():
    """The loss of the nets, in the present floatx."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def golden(name):
    """A net of the golden files as an `Objective`, its expected numbers, and a vector."""
    text = json.loads((GOLDEN / f"{name}.json").read_text())
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    x = keras.Input(arrays["X"].shape[1:])
    if name == "hessian_cnn":
        h = layers.BatchNormalization(epsilon=text["inputs"]["eps"])(layers.Conv2D(3, 3)(x))
        h = layers.GlobalAveragePooling2D()(layers.Activation("tanh")(h))
        names = ["K", "b", "gamma", "beta", "moving_mean", "moving_var", "Wd", "bd"]
    else:
        h = layers.Dense(len(arrays["b1"]), "tanh")(x)
        names = ["W1", "b1", "W2", "b2"]
    model = keras.Model(x, layers.Dense(arrays[names[-1]].size)(h))
    model.set_weights([arrays[n] for n in names])
    model.compile(loss=crossentropy())
    v = np.array(text["inputs"]["v"]) if "v" in text["inputs"] else arrays["v"]
    batch_size = 200 if name == "hessian_mlp837" else 8  # The last batch is smaller.
    return Objective(model, arrays["X"], arrays["y"], batch_size=batch_size), text["expected"], v


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize("name", ["hessian_mlp", "hessian_cnn", "hessian_mlp837"])
def test_golden(name):
    objective, expected, v = golden(name)
    H, G = hessian(objective), gauss_newton(objective)
    close = {"rtol": TOLERANCE, "atol": TOLERANCE}
    np.testing.assert_allclose(objective.loss(objective.weights), expected["loss"], **close)
    np.testing.assert_allclose(H @ v, expected["hvp_of_v"], **close)
    np.testing.assert_allclose(eigenpairs(H, 5).values, expected["eigenvalues_top5"], **close)
    np.testing.assert_allclose(eigenpairs(G, 5).values, expected["ggn_top5"], **close)
    k = 3 if name == "hessian_mlp837" else 2
    bottom = eigenpairs(H, k, "bottom").values
    np.testing.assert_allclose(bottom, expected[f"eigenvalues_bottom{k}"], **close)
    if name == "hessian_mlp837":
        found = hutchinson(H, 50)
        assert abs(found.value - expected["trace"]) < 4 * found.standard_error
        std = expected["hutchinson_std_one_probe_rademacher"]
        np.testing.assert_allclose(found.standard_error * 50**0.5, std, rtol=0.35)
        return
    arrays = np.load(GOLDEN / f"{name}.npz")
    np.testing.assert_allclose(G @ v, expected["ggn_vector_product_of_v"], **close)
    for operator, dense in ((H, arrays["hessian"]), (G, arrays["ggn"])):
        identity = np.eye(objective.size)
        found = np.stack([operator @ row for row in identity])
        np.testing.assert_allclose(found, dense, **close)
        np.testing.assert_allclose(np.trace(found), np.trace(dense), **close)
    vector = eigenpairs(H, 1).vectors[:, 0]
    vector = vector * np.sign(vector[np.argmax(np.abs(vector))])
    np.testing.assert_allclose(vector, expected["top_eigenvector"], atol=1e-5)


X = np.random.default_rng(0).normal(size=(30, 4))
SAMPLE_WEIGHT = np.random.default_rng(1).uniform(0.5, 2, size=30)


def linear(units, loss, y, sample_weight=None, activation=None, l2=0.0):
    """Objective of `X @ w`, without a bias."""
    regularizer = keras.regularizers.L2(l2) if l2 else None
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(units, activation, use_bias=False, kernel_regularizer=regularizer),
        ]
    )
    model.compile(loss=loss)
    return Objective(model, X, y, sample_weight, batch_size=13)


def dense(operator):
    return np.stack([operator @ row for row in np.eye(operator.shape[0])])


@pytest.mark.usefixtures("precise")
def test_linear_regression():
    # mean (x'w - y)^2 + l2 |w|^2 has the Hessian 2 X'X / n + 2 l2, and so has its Gauss-Newton.
    objective = linear(1, "mse", X[:, :1], l2=0.05)
    exact = 2 * X.T @ X / 30 + 0.1 * np.eye(4)
    np.testing.assert_allclose(dense(hessian(objective)), exact, atol=TOLERANCE)
    np.testing.assert_allclose(dense(gauss_newton(objective)), exact, atol=TOLERANCE)


@pytest.mark.usefixtures("precise")
def test_logistic_regression_with_sample_weights():
    # X' diag(s p (1 - p)) X / n. Keras divides by the number of examples.
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    objective = linear(1, loss, (X[:, :1] > 0) * 1.0, SAMPLE_WEIGHT)
    p = expit(X @ objective.weights[0])[:, 0]
    exact = (X.T * (SAMPLE_WEIGHT * p * (1 - p))) @ X / 30
    np.testing.assert_allclose(dense(hessian(objective)), exact, atol=TOLERANCE)
    np.testing.assert_allclose(dense(gauss_newton(objective)), exact, atol=TOLERANCE)


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize("inside", [False, True])
def test_softmax_regression(inside):
    # Mean of xx' (x) (diag p - pp'). With the softmax inside the model it is the Hessian still, but
    # the outputs are p: for their loss -log p_y, Gauss-Newton is gg' with g = x (x) (p - e_y).
    y = np.arange(30) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not inside)
    objective = linear(3, loss, y, activation="softmax" if inside else None)
    p = softmax(X @ objective.weights[0], axis=1)
    curved = np.einsum("ni,ij->nij", p, np.eye(3)) - np.einsum("ni,nj->nij", p, p)
    exact = np.einsum("na,nb,nij->aibj", X, X, curved).reshape(12, 12) / 30
    np.testing.assert_allclose(dense(hessian(objective)), exact, atol=TOLERANCE)
    if inside:
        g = np.einsum("na,ni->nai", X, p - np.eye(3)[y]).reshape(30, 12)
        exact = g.T @ g / 30
    np.testing.assert_allclose(dense(gauss_newton(objective)), exact, atol=TOLERANCE)


@pytest.mark.usefixtures("precise")
def test_masked_steps_do_not_count():
    # Keras averages over the steps that are not masked: 2 X'X / steps, of outputs in a nest too.
    inputs = keras.Input((3, 4))
    outputs = layers.Dense(1, use_bias=False)(layers.Masking()(inputs))
    x = X.reshape(10, 3, 4) * (np.arange(3) < 2)[:, None]
    for nest in (outputs, {"out": outputs}):
        model = keras.Model(inputs, nest)
        model.compile(loss="mse")
        objective = Objective(
            model, x, {"out": x[..., :1]} if isinstance(nest, dict) else x[..., :1]
        )
        exact = 2 * np.einsum("nta,ntb->ab", x, x) / 20
        np.testing.assert_allclose(dense(hessian(objective)), exact, atol=TOLERANCE)
        np.testing.assert_allclose(dense(gauss_newton(objective)), exact, atol=TOLERANCE)


@pytest.mark.usefixtures("precise")
def test_other_weights_than_the_model_has():
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    objective = linear(1, loss, (X[:, :1] > 0) * 1.0)
    p = expit(2 * X[:, 0])
    H = hessian(objective, [np.array([[2.0], [0.0], [0.0], [0.0]])])
    np.testing.assert_allclose(dense(H), (X.T * (p * (1 - p))) @ X / 30, atol=TOLERANCE)


def test_operators_are_scipys():
    objective, expected, _ = golden("hessian_mlp")
    H = hessian(objective)
    assert H.shape == (66, 66)
    assert H.dtype == "float32"
    found = eigsh(H, 5, which="LA")[0][::-1]
    np.testing.assert_allclose(found, expected["eigenvalues_top5"][:5], rtol=1e-4)
    np.testing.assert_allclose(eigenpairs(H, 5).values, expected["eigenvalues_top5"], rtol=1e-5)
    np.testing.assert_allclose(H.T @ np.ones(66), H @ np.ones(66))
    with pytest.raises(ValueError, match="must be lists of arrays of shapes"):
        hessian(objective, objective.weights[:1])


def test_data_that_change_are_told():
    rng = np.random.default_rng(0)

    class Augmented:
        def __iter__(self):
            yield rng.normal(size=(8, 4)), np.ones((8, 1))

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(1)])
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="does the data change from pass to pass"):
        eigenpairs(hessian(Objective(model, Augmented())), 1)


@ops.custom_gradient
def copied(x):
    """`x`, with a rule for the reverse mode alone."""

    def gradient(*args, upstream=None):
        return args[0] if upstream is None else upstream

    return x, gradient


class OwnGradient(layers.Layer):
    def call(self, x):
        return copied(x)


def test_operations_without_a_forward_rule():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, use_bias=False), OwnGradient()])
    model.compile(loss="mse")
    objective = Objective(model, X, X[:, :1])
    # The Hessian of mean (x'w - y)^2 is 2 X'X / n.
    for matrix in (hessian, gauss_newton):
        np.testing.assert_allclose(
            matrix(objective) @ np.ones(4), 2 * X.T @ X.sum(axis=1) / 30, rtol=1e-4
        )


def text_model():
    """Embedding and GRU, with L2; and its data."""
    tokens = keras.Input((6,), dtype="int32")
    h = layers.GRU(4)(layers.Embedding(9, 3, mask_zero=True)(tokens))
    outputs = layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.01))(h)
    rng = np.random.default_rng(0)
    return keras.Model(tokens, outputs), rng.integers(0, 9, (8, 6)), np.arange(8) % 3


def attention_model():
    """Embedding and self-attention; and its data."""
    tokens = keras.Input((6,), dtype="int32")
    h = layers.Embedding(9, 4)(tokens)
    h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 2)(h, h))
    outputs = layers.Dense(3)(layers.GlobalAveragePooling1D()(h))
    rng = np.random.default_rng(0)
    return keras.Model(tokens, outputs), rng.integers(0, 9, (8, 6)), np.arange(8) % 3


def batch_norm_model():
    """Dense layers and BatchNormalization; and its data."""
    inputs = keras.Input((4,))
    h = layers.BatchNormalization()(layers.Dense(5, kernel_regularizer="l2")(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Activation("gelu")(h))), X, np.arange(30) % 3


def application():
    """MobileNet at 32x32, with random weights and data."""
    model = keras.applications.MobileNet(
        (32, 32, 3), 0.25, weights=None, classes=3, classifier_activation=None
    )
    rng = np.random.default_rng(0)
    return model, rng.normal(size=(3, 32, 32, 3)).astype("float32"), np.arange(3)


NETS = [
    (text_model, "evaluation"),
    (attention_model, "evaluation"),
    (batch_norm_model, "training"),
]
if TENSORFLOW:  # On JAX it takes XLA half a minute to compile.
    NETS += [(application, "evaluation")]


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize(("net", "mode"), NETS)
def test_products_are_the_slope_of_the_gradient(net, mode):
    # On TensorFlow, `tf.nn.moments` has the wrong second derivative, which normalizations meet.
    model, x, y = net()
    model.compile(loss=crossentropy())
    objective = Objective(model, x, y, batch_norm=mode)
    rng = np.random.default_rng(0)
    u, v = (rng.normal(size=objective.size) / objective.size**0.5 for _ in range(2))
    place = objective.flatten(objective.weights) + 0.1 * u  # Off the kinks of biases of zero.
    weights = objective.unflatten(place)
    H, G = hessian(objective, weights), gauss_newton(objective, weights)
    Hu, Hv, Gu, Gv = H @ u, H @ v, G @ u, G @ v
    np.testing.assert_allclose(u @ Hv, v @ Hu, atol=1e-4 * np.linalg.norm(Hv))
    np.testing.assert_allclose(u @ Gv, v @ Gu, atol=1e-4 * np.linalg.norm(Gv))
    assert u @ Gu > 0
    ahead, behind = (
        objective.flatten(objective.loss_and_gradient(objective.unflatten(place + step * v))[1])
        for step in (STEP, -STEP)
    )
    assert np.linalg.norm((ahead - behind) / (2 * STEP) - Hv) < 0.01 * np.linalg.norm(Hv)
