"""TensorFlow: steps over live variables, which are read at the start and written at the end."""

import contextlib

import tensorflow as tf

from keras_smoothout import backend, keras_internals
from keras_smoothout.around import chain
from keras_smoothout.asks import asked
from keras_smoothout.evaluation import at, state_variables
from keras_smoothout.method import evaluation_weights
from keras_smoothout.moving_statistics import batch_norms, copied, statistics
from keras_smoothout.train_step.gradients import gradients


def build(model, data):
    """Build all variables outside of the step; under a strategy, `fit` has done so already."""
    if not keras_internals.under_strategy(model):
        with tf.init_scope():
            keras_internals.build_by(model, data)


def built_first(model, function):
    """The train `function`, before whose first trace all variables are made.

    TensorFlow would throw away a trace that makes some, and trace the step again.
    """
    begun = False

    def call(batches):
        nonlocal begun
        if not begun:
            if hasattr(batches, "element_spec"):
                build(model, batches.element_spec)
            else:  # Those of `train_on_batch`.
                batches = list(batches)
                build(model, batches[0])
            begun = True
        return function(batches)

    return call


def train(model, data):
    """Update `model` by one batch, and return its logs.

    Args:
        model: A compiled `keras.Model`.
        data: What `train_step` receives.
    """
    variables, others = model.trainable_variables, state_variables(model)
    weights, state = ([backend.read(v) for v in vs] for vs in (variables, others))
    grads, extras, loss, new_state = gradients(model, weights, state, data)
    for variable, old, new in zip(others, state, new_state, strict=True):
        if new is not old:
            variable.assign(new)
    with asked(model.optimizer, extras, loss), reduced_if_many(model.optimizer):
        model.optimizer.apply(grads, variables)
    share_statistics(model)
    return model.get_metrics_result()


def reduced_if_many(optimizer):
    """A context in which the innermost optimizer sums gradients over replicas if there are any."""
    if optimizer is None or tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return contextlib.nullcontext()
    return keras_internals.unreduced(chain(optimizer)[-1])


def plain(model, keras_step, data):
    """Run Keras' `train_step`, after which all replicas have the same moving statistics."""
    with reduced_if_many(model.optimizer):
        logs = keras_step(data)
    share_statistics(model)
    return logs


def share_statistics(model):
    """Set BatchNormalization's moving statistics to their mean over the replicas of this step.

    They are linear in the batches, so this is what they would be if each replica kept its own to
    the end. But here all replicas hold the same state after every step, which can be saved.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return
    moving = statistics(batch_norms(model))
    if copied(model):
        moving = [model.stacked(variable) for variable in moving]
    if moving:
        values = [tf.identity(variable.value) for variable in moving]  # On this replica's device.
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        for variable, mean in zip(moving, means, strict=True):
            variable.assign(mean)


def test(model, keras_step, data):
    """Run Keras' `test_step` at the weights that the optimizer wants evaluated."""
    if evaluation_weights(getattr(model, "optimizer", None)) is not None:
        build(model, data)  # Metrics, if nothing was trained since the model was loaded.
    return _elsewhere(model, keras_step, data)


def predict(model, keras_step, data):
    """Run Keras' `predict_step` at the weights that the optimizer wants evaluated."""
    return _elsewhere(model, keras_step, data)


def _elsewhere(model, keras_step, data):
    weights = evaluation_weights(getattr(model, "optimizer", None))
    if weights is None:
        return keras_step(data)
    others = [*state_variables(model), *keras_internals.loss_tracker(model).variables]
    state = [backend.read(v) for v in state_variables(model)]
    with at(model, [tf.convert_to_tensor(w) for w in weights], state) as scope:
        result = keras_step(data)
    for variable in others:
        if id(variable) in scope.state_mapping:
            variable.assign(scope.get_current_value(variable))
    return result


def at_evaluation_weights(model):
    """Change nothing: `test` and `predict` use these weights on their own."""
    return contextlib.nullcontext()
