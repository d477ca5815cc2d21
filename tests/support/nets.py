"""The standard net of the tests: everything that a careless method gets wrong, in a small space."""

import functools

import keras
import numpy as np
from keras import layers

import keras_smoothout as ks
from keras_smoothout.around import chain

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def standard_net(seed=0):
    """Convolution with L2, BatchNormalization, dropout and a dense head on 8x8x1 images."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.01))(inputs)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.ReLU()(x)
    x = layers.Dropout(0.3, seed=1)(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(10, kernel_regularizer=keras.regularizers.L2(0.01))(x))


def dense_net(*units):
    """Dense layers of so many `units`, with tanh, and ten logits, on the same images."""
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(count, "tanh") for count in units]
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *hidden, layers.Dense(10)])


def images(examples=48, seed=0):
    """Random images and labels, shaped as the standard net takes them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, 8, 8, 1)).astype("float32")
    return x, rng.integers(0, 10, examples)


def sgd(learning_rate=0.1):
    return keras.optimizers.SGD(learning_rate, momentum=0.9)


def values(model):
    """Copies of all variables of `model` and its optimizer, in order."""
    return [np.array(v) for v in [*model.variables, *model.optimizer.variables]]


def on_batch(model, *batch):
    """Logs of one `train_on_batch`, as floats; older Keras averages over the calls."""
    model.reset_metrics()
    return {name: float(v) for name, v in model.train_on_batch(*batch, return_dict=True).items()}


@functools.cache
def two_replicas():
    """One strategy of two CPUs a process: each strategy numbers its collectives from 100 on."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def equal_on_both(variable):
    """The value of a variable of `two_replicas`, which both must hold, to the bit."""
    first, second = two_replicas().experimental_local_results(variable.value)
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    return first.numpy()


def assert_same_steps(*optimizers):
    """Assert that two optimizers take the same steps: to the bit on TensorFlow, run eagerly."""
    x, y = images(8)
    exact, found = keras.backend.backend() == "tensorflow", []
    for optimizer in optimizers:
        model = ks.wrap(standard_net())
        model.compile(optimizer, LOSS, run_eagerly=exact)
        for _ in range(2):
            model.train_on_batch(x, y)
        inner = chain(model.optimizer)[-1]
        found.append([np.array(v) for v in [*model.variables, *inner.variables]])
    if exact:
        assert_equal(*found)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def assert_equal(a, b):
    """Assert that two lists of arrays are equal to the bit."""
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        np.testing.assert_array_equal(x, y, err_msg=f"array {i}")
