"""The gradients of one step: asked for in each ghost batch, and averaged."""

import keras
from keras import ops

from keras_smoothout import backend, keras_internals
from keras_smoothout.asks import ask, asking, keeps_perturbed
from keras_smoothout.evaluation import Batch, Step, length, mean_over_chunks
from keras_smoothout.moving_statistics import clean, share_of, weighed
from keras_smoothout.weights import dot


def gradients(model, weights, state, data):
    """Mean over the ghost batches of `data`: gradients, extras, loss; the state after the last one.

    Args:
        model: A compiled `keras.Model` with `TrainStep`.
        weights: List of tensors, the weights before the step.
        state: List of tensors, the values of `state_variables(model)` before the step.
        data: The batch.
    """
    optimizer, size, watcher = model.optimizer, model.ghost_batch_size, model._watcher
    unscaled = getattr(optimizer, "inner_optimizer", optimizer)
    step = Step(backend.read(keras_internals.calls(unscaled)), backend.replica())
    loss_scale = optimizer.scale_loss(1.0)  # 1.0 itself without loss scaling.
    extras = {method: method.extras(weights) for method in asking(optimizer)}
    like = [*weights, *(tensor for handed in extras.values() for tensor in handed)]
    like += [ops.zeros(())] * (1 if watcher is None else 2)
    connected, elsewhere = [], []
    examples, before = length(data), state

    def on_chunk(state, data, chunk):
        batch = Batch(model, data, state, loss_scale)
        asked = ask(optimizer, batch, weights, step._replace(chunk=chunk))
        connected[:] = asked.connected or [True] * len(weights)
        elsewhere[:] = [asked.weights is not weights]
        after = batch.metrics(asked, weights)
        seen = length(data)
        if size is not None and not (isinstance(seen, int) and seen in (size, examples)):
            after = weighed(model, share_of(seen, ops.minimum(size, examples)), state, after)
        scalars = [asked.loss] if watcher is None else [dot(asked.grads, asked.grads), asked.loss]
        scalars = [ops.cast(scalar, keras.config.floatx()) for scalar in scalars]
        return [*asked.grads, *handed_on(extras, asked), *scalars], after

    means, state = mean_over_chunks(on_chunk, like, state, data, size)
    if any(elsewhere) and not keeps_perturbed(optimizer):
        x = keras.utils.unpack_x_y_sample_weight(data)[0]
        state = clean(model, weights, before, state, x)
    rest = iter(means)
    grads = [next(rest) for _ in weights]
    extras = {method: [next(rest) for _ in handed] for method, handed in extras.items()}
    if watcher is not None:
        state = watched(watcher, state, grads, next(rest), examples, size)
    scaled = [g * ops.cast(loss_scale, g.dtype) for g in grads]
    scaled = [g if c else None for g, c in zip(scaled, connected, strict=True)]
    return scaled, extras, next(rest), state


def handed_on(extras, asked):
    """The tensors of all `extras` in an `Evaluation`, in their order."""
    lost = [m for m, wanted in extras.items() if wanted and m not in asked.extras]
    if lost:
        raise ValueError(
            f"The extras of `{type(lost[0]).__name__}` are lost: a method around it must return "
            "the `Evaluation` that it was given, changed by `_replace` or `of`. Received: an "
            f"evaluation with extras of {[type(m).__name__ for m in asked.extras]}"
        )
    return [tensor for m, wanted in extras.items() if wanted for tensor in asked.extras[m]]


def watched(watcher, state, grads, square, examples, size):
    """The state after `watcher` has seen the norms of a step's gradients.

    Args:
        watcher: It has `variables`, the last ones of the state, and `seen`, their next values.
        state: List of tensors.
        grads: List of tensors, this replica's share of the gradient.
        square: Mean over ghost batches of the squared norm of this replica's share.
        examples: Number of examples on this replica.
        size: Number of examples in a ghost batch, or `None`.
    """
    count = ops.cast(examples, "float32")
    chunks = 1.0 if size is None else ops.ceil(count / size)
    replicas = backend.unscale_loss(ops.ones(()))
    square, small, large = backend.all_reduce_sum([square, chunks / count, 1 / count])
    mean = backend.all_reduce_sum(grads)
    first = len(state) - len(watcher.variables)
    # Each replica has its part of a mean: the gradient of its own examples is `replicas` times it.
    after = watcher.seen(
        state[first:], replicas * square, dot(mean, mean), small / replicas, large / replicas**2
    )
    return [*state[:first], *after]
