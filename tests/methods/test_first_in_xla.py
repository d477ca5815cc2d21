"""Optimizers whose state is made in the first step of a loop that XLA compiles."""

import keras
import numpy as np
import pytest
from keras import layers
from support.contract import arrays
from support.nets import assert_equal, sgd

import keras_smoothout as ks
from keras_smoothout import methods
from keras_smoothout.asks import Asks

pytestmark = pytest.mark.tensorflow
CLASSES = {name: row.cls for name, row in methods.METHODS.items() if not row.copies} | methods.BASES
ALONE = [  # What asks for gradients refuses such a loop.
    name
    for name, cls in CLASSES.items()
    if getattr(cls, "gradients", Asks.gradients) is Asks.gradients
    and name != "rigl"  # Its `build` masks the weights that the first gradient is taken at.
]
X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


def make(name):
    return methods.BASES[name](0.05) if name in methods.BASES else methods.METHODS[name].cls(sgd())


def trained(name, built):
    """State of the model and its optimizer after each of three steps."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(1)])
    optimizer = make(name)
    if built:
        optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=True)
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - 1.0))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    states = []
    for _ in range(3):
        step(X)
        states.append(arrays([*model.variables, *optimizer.variables]))
    return sum(states, [])


@pytest.mark.parametrize("name", ALONE)
def test_state_that_is_made_in_the_first_step_is_that_of_build(name):
    assert_equal(trained(name, built=False), trained(name, built=True))


def test_slow_weights_of_a_model_that_is_made_in_the_same_trace():
    import tensorflow as tf

    model = keras.Sequential([layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    optimizer = ks.Lookahead(keras.optimizers.SGD(0.5), sync_period=2)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    step(np.ones((1, 1), "float32"))
    assert float(optimizer.slow[0][0, 0]) == 1.0
    assert float(model.weights[0][0, 0]) == 0.5
    step(np.ones((1, 1), "float32"))
    assert float(optimizer.slow[0][0, 0]) == float(model.weights[0][0, 0]) == 0.5
