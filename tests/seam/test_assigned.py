"""Layers that assign their own trainable weights when they are called."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_smoothout as ks

X, Y = np.ones((4, 1), "float32"), np.zeros((4, 1), "float32")


class Clipped(layers.Layer):
    """A scale that keeps itself below 0.1."""

    def build(self, input_shape):
        self.w = self.add_weight(shape=(1,), initializer="ones", name="w")

    def call(self, inputs, training=False):
        if training:
            self.w.assign(ops.clip(self.w, -0.1, 0.1))
        return inputs * self.w


def trained(layer, optimizer, **options):
    model = ks.wrap(keras.Sequential([keras.Input((1,)), layer]))
    model.compile(optimizer, "mse", **options)
    model.train_on_batch(X, Y)
    return model.get_weights()


def spectral():
    return layers.SpectralNormalization(layers.Dense(1))


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", [Clipped, spectral])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (lambda: ks.SmoothOut("sgd", radius=0.0), {}),
        (lambda: ks.Lookahead("sgd"), {}),
        (lambda: "sgd", {"ghost_batch_size": 2}),
    ],
)
def test_what_would_be_lost_is_refused(layer, optimizer, options):
    with pytest.raises(ValueError, match="assigns one of its trainable weights .*(/w|/kernel)"):
        trained(layer(), optimizer(), **options)


@pytest.mark.tensorflow
def test_keras_own_step_keeps_it():
    (weight,) = trained(Clipped(), keras.optimizers.SGD(0.5))
    np.testing.assert_allclose(weight, 0.1 - 0.5 * 2 * 0.1)


@pytest.mark.jax
@pytest.mark.parametrize("layer", [Clipped, spectral])
def test_keras_forgets_it_on_jax_and_so_do_methods(layer):
    keras.utils.set_random_seed(0)
    plain = trained(layer(), keras.optimizers.SGD(0.5))
    keras.utils.set_random_seed(0)
    ours = trained(layer(), ks.SmoothOut(keras.optimizers.SGD(0.5), radius=0.0))
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
