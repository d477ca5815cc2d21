"""JAX: steps as functions from the training state to the next one."""

import contextlib

import keras
from keras import ops

from keras_smoothout import backend
from keras_smoothout.asks import asked
from keras_smoothout.evaluation import remembered
from keras_smoothout.method import evaluation_weights
from keras_smoothout.train_step.gradients import gradients


def build(model, data):
    """Refuse what Keras' step cannot carry; it has built all variables before a step is traced."""
    if remembered(model):
        raise ValueError(
            "On JAX, Keras forgets the states of stateful recurrent layers: leave out "
            "`stateful=True`, or use the TensorFlow backend. Received: a model with such layers"
        )


def built_first(model, function):
    """Return `function`: Keras has built all variables."""
    return function


def train(model, state, data):
    """Return the logs of one batch and the state of `model` after it.

    Args:
        model: A compiled `keras.Model`.
        state: Weights, non-trainable variables, the optimizer's variables and metrics.
        data: The batch.
    """
    weights, non_trainable, optimizer_variables, metrics = state
    optimizer = model.optimizer
    with keras.StatelessScope(zip(optimizer.variables, optimizer_variables, strict=True)):
        grads, extras, loss, new_state = gradients(model, weights, [*non_trainable, *metrics], data)
    with asked(optimizer, extras, loss):
        weights, optimizer_variables = optimizer.stateless_apply(
            optimizer_variables, grads, weights
        )
    non_trainable = new_state[: len(non_trainable)]
    metrics = new_state[len(non_trainable) :]
    with keras.StatelessScope(zip(model.metrics_variables, metrics, strict=True)):
        logs = model.get_metrics_result()
    return logs, (weights, non_trainable, optimizer_variables, metrics)


def plain(model, keras_step, state, data):
    """Run Keras' `train_step`: one program sees the whole batch."""
    return keras_step(state, data)


def test(model, keras_step, state, data):
    """Run Keras' `test_step`: the weights are in `state`."""
    return keras_step(state, data)


def predict(model, keras_step, state, data):
    """Run Keras' `predict_step`: the weights are in `state`."""
    return keras_step(state, data)


@contextlib.contextmanager
def at_evaluation_weights(model):
    """Let `model` hold the weights that its optimizer wants evaluated, and then its own again.

    `evaluate` and `predict` take their state from the variables and give its memory away, so they
    get copies.
    """
    weights = evaluation_weights(getattr(model, "optimizer", None))
    if weights is None:
        yield
        return
    variables = model.trainable_variables
    restore = backend.snapshot(variables)
    try:
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(ops.copy(weight))
        yield
    finally:
        restore()
