"""What is trained and dropped is gone: nothing of the package holds models or optimizers."""

import gc
import weakref

import keras
import numpy as np
import pytest
from support.contract import contract_net, examples, optimizer_of
from support.nets import LOSS

import keras_smoothout as ks

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

ROWS = [("smoothout", False), *((name, True) for name in ("smoothout", "sam", "lookahead", "lamb"))]


def references(method, eager):
    """Weak references to optimizers that were replaced, and to a model that was dropped."""
    model, (x, y), found = contract_net(), examples(8), []
    for _ in range(2):
        model.compile(optimizer_of(method), LOSS, ghost_batch_size=4, run_eagerly=eager)
        model.train_on_batch(x, y)
        model.evaluate(x, y, verbose=0)
        found.append(weakref.ref(model.optimizer))
    return [*found, weakref.ref(model)]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "eager"), ROWS)
def test_optimizers_and_models_are_let_go(method, eager):
    found = references(method, eager)
    keras.utils.clear_session()  # Keras itself keeps names and the last graph.
    gc.collect()
    assert [reference() for reference in found] == [None] * 3


@pytest.mark.tensorflow
@pytest.mark.parametrize("method", ["smoothout", "sam", "lookahead", "lamb"])
def test_the_graph_of_a_step_is_let_go(method):
    # Keras sums gradients over the only replica, too, and TensorFlow keeps what was ever summed.
    model, (x, y), found = contract_net(), examples(8), []
    for _ in range(2):
        model.compile(optimizer_of(method), LOSS, ghost_batch_size=4)
        step = model.train_step

        def seen(data, step=step):
            found.append(weakref.ref(tf.compat.v1.get_default_graph()))
            return step(data)

        model.train_step = seen
        model.fit(x, y, 8, verbose=0)
        del model.train_step, step
    model.compile("sgd", LOSS)
    gc.collect()
    assert found and [reference() for reference in found] == [None] * len(found)


def test_a_landscape_is_let_go():
    from keras_smoothout import landscape

    model, (x, y) = contract_net(), examples(8)
    model.compile(ks.SmoothOut("sgd"), LOSS)
    objective = landscape.Objective(model, x, y)
    landscape.expected_sharpness(objective, draws=2)
    landscape.hutchinson(landscape.hessian(objective), 2)
    found = [weakref.ref(objective), weakref.ref(model)]
    del model, objective
    keras.utils.clear_session()
    gc.collect()
    assert [reference() for reference in found] == [None] * 2


def test_labels_of_many_own_models_are_checked_without_keeping_the_models():
    from keras_smoothout import labels

    class Called(ks.Model):
        def __init__(self):
            super().__init__()
            self.head = keras.layers.Dense(3)

        def call(self, inputs):
            return self.head(inputs)

    model, (x, y) = Called(), examples(8)
    model(x)
    model.compile("sgd", LOSS, run_eagerly=True)
    model.test_on_batch(x, y)
    assert model in labels.OUTPUTS
    with pytest.raises(ValueError, match="`y`"):
        model.test_on_batch(x, np.full(8, 3))
    found = weakref.ref(model)
    del model
    keras.utils.clear_session()
    gc.collect()
    assert found() is None
