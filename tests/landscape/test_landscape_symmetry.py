"""Products that are wrong are refused: by the operation's name, or since they are not symmetric."""

import threading

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.landscape import Scale
from support.nets import LOSS, images, standard_net

from keras_smoothout import backend
from keras_smoothout.landscape import Objective, eigenpairs, gauss_newton, hessian
from keras_smoothout.landscape.symmetry import check_symmetry

TENSORFLOW = keras.backend.backend() == "tensorflow"


def dense(operator):
    return np.stack([operator @ row for row in np.eye(operator.shape[0])])


def between(layer, before=True, loss="mse"):
    """The loss of a weight, `layer`, a weight, tanh and a mean over the image, of four pixels."""
    inputs = keras.Input((2, 2, 1))
    h = Scale()(layer(Scale()(inputs) if before else inputs))
    h = layers.GlobalAveragePooling2D()(layers.Activation("tanh")(h))
    model = keras.Model(inputs, h)
    model.compile(loss=loss)
    x = np.array([0.2, 0.4, 0.6, 0.8], "float32").reshape(1, 2, 2, 1)
    return Objective(model, x, np.zeros((1, 1), "float32"))


@pytest.mark.parametrize(
    ("interpolation", "diagonal", "off"),
    [("bilinear", 0.0849, 0.4161), ("bicubic", 0.0659, 0.3858), ("nearest", 0.0547, 0.3679)],
)
def test_upsampling(interpolation, diagonal, off):
    # By central differences of the gradient, and by JAX. TensorFlow's own derivative of the first
    # column is 0 for bilinear interpolation, and an error for the others.
    objective = between(layers.UpSampling2D(2, interpolation=interpolation))
    exact = [[diagonal, off], [off, diagonal]]
    np.testing.assert_allclose(dense(hessian(objective)), exact, atol=1e-4)
    np.testing.assert_allclose(eigenpairs(hessian(objective)).values, diagonal + off, atol=1e-4)


@ops.custom_gradient
def doubled(x):
    """`2 * x`, with a gradient that has none."""

    def gradient(*args, upstream=None):
        return ops.stop_gradient(2 * (args[0] if upstream is None else upstream))

    return 2 * x, gradient


class Doubled(layers.Layer):
    def call(self, x):
        return doubled(x)


@pytest.mark.parametrize("matrix", [hessian, gauss_newton])
def test_products_that_are_not_symmetric(matrix):
    objective = between(Doubled())
    message = "it is symmetric, and they are not" + ".*JAX backend" * TENSORFLOW
    for _ in range(2):  # It stays refused.
        with pytest.raises(ValueError, match=message):
            matrix(objective) @ np.ones(2)


@pytest.mark.tensorflow
def test_operations_whose_second_derivative_is_silently_zero():
    import tensorflow as tf

    class Raw(layers.Layer):
        def call(self, x):
            return tf.raw_ops.ResizeBilinear(images=x, size=(4, 4))

        def compute_output_shape(self, shape):
            return (shape[0], 4, 4, shape[3])

    objective = between(Raw())
    for matrix in (hessian, gauss_newton):
        with pytest.raises(ValueError, match="KERAS_BACKEND=jax.*Received: ResizeBilinearGrad"):
            matrix(objective) @ np.ones(2)
    # No weight comes before it, so no derivative goes through it.
    assert dense(hessian(between(Raw(), before=False))).shape == (1, 1)


def test_connectionist_temporal_classification():
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((6, 3)), layers.Dense(4)])
    model.compile(loss=keras.losses.CTC())
    objective = Objective(model, rng.normal(size=(2, 6, 3)), np.array([[1, 2], [3, 1]]))
    v = rng.normal(size=objective.size)
    for matrix in (hessian, gauss_newton):
        if TENSORFLOW:
            with pytest.raises(ValueError, match="KERAS_BACKEND=jax.*Received: .*ctc"):
                matrix(objective) @ v
        else:
            assert v @ (matrix(objective) @ v) != 0


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("certain", [0.0, 12.0, 60.0, 1e4])
def test_rounding_is_no_asymmetry(policy, certain):
    # Rectifiers, BatchNormalization and dropout; and labels of which the net is more and more
    # certain, up to a Hessian of zero.
    keras.config.set_dtype_policy(policy)
    model = standard_net()
    model.compile(loss=LOSS)
    x, _ = images(16)
    logits = model.predict(x, verbose=0)
    model.layers[-1].kernel.assign(model.layers[-1].kernel * (1 + certain))
    objective = Objective(model, x, logits.argmax(axis=1), batch_norm="training")
    v = np.random.default_rng(0).normal(size=objective.size)
    for matrix in (hessian, gauss_newton):
        matrix(objective) @ v


def test_noise_alone_is_passed_and_asymmetry_is_not():
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((30,)), layers.Dense(1, use_bias=False)])
    noise = lambda w, v: [1e-7 * rng.normal(size=v[0].shape)]  # noqa: E731
    check_symmetry(noise, [np.ones((30, 1), "float32")], model)
    S = rng.normal(size=(30, 30))
    for share, refused in ((0.0, False), (1e-6, False), (1e-2, True)):
        A = S + S.T + share * rng.normal(size=(30, 30))
        arguments = (lambda w, v, A=A: [A @ v[0]]), [np.ones((30, 1), "float32")], model
        if refused:
            with pytest.raises(ValueError, match="symmetric"):
                check_symmetry(*arguments)
        else:
            check_symmetry(*arguments)


def test_it_is_checked_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "keras_smoothout.landscape.objective.check_symmetry", lambda *given: calls.append(given)
    )
    objective = between(layers.ReLU())
    for _ in range(2):
        hessian(objective) @ np.ones(2), gauss_newton(objective) @ np.ones(2)
    assert len(calls) == 2


@pytest.mark.tensorflow
def test_products_in_several_threads_leave_tensorflow_as_it_was():
    import tensorflow as tf

    names = ((tf.nn, "moments"), (tf.nn, "softsign"), (tf.image, "resize"))
    kept = [getattr(module, name) for module, name in names]
    w, ready, inside = [tf.constant([0.1, 0.5, 0.9])], threading.Barrier(5), []

    def own(w):
        inside.append(tf.nn.moments is not kept[0])
        ready.wait(10)  # All four have replaced it, and none has left.
        x = tf.reshape(tf.nn.softsign(w[0]), (1, 3, 1, 1))
        return tf.nn.moments(tf.image.resize(x, (5, 1)) ** 2, [0, 1, 2, 3])[1]

    def work(found):
        found.append(backend.hessian_product(own, w, w)[0].numpy())

    results = [[] for _ in range(4)]
    threads = [threading.Thread(target=work, args=(r,)) for r in results]
    for thread in threads:
        thread.start()
    while len(inside) < 4:
        pass
    with tf.GradientTape() as tape:  # This thread asks for nothing, and gets TensorFlow's own.
        x = tf.constant([1.0, 2.0])
        tape.watch(x)
        variance = tf.nn.moments(x, [0])[1]
    assert np.allclose(variance, 0.25)
    ready.wait(10)
    for thread in threads:
        thread.join()
    assert all(inside)
    assert [getattr(module, name) for module, name in names] == kept
    assert np.any(results[0][0])
    for (found,) in results:
        np.testing.assert_allclose(found, results[0][0])


@pytest.mark.tensorflow
def test_a_keras_that_goes_another_way_to_its_moments_is_refused(monkeypatch):
    # Products would be wrong, and symmetric all the same.
    from keras_smoothout.backend import second_derivatives

    second_derivatives.check_moments.cache_clear()
    monkeypatch.setattr(keras.ops, "moments", lambda x, axes: (x, x))
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile(loss="mse")
    objective = Objective(model, np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(RuntimeError, match="no longer calls `tf.nn.moments`"):
        objective.hvp(objective.weights, objective.weights)
    monkeypatch.undo()
    assert np.all(np.isfinite(objective.hvp(objective.weights, objective.weights)[0]))
