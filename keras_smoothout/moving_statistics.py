"""BatchNormalization's moving statistics: who has them, and what a batch says they are.

A model is evaluated at its clean weights, where a pass at perturbed ones has other statistics. So
where gradients are asked for elsewhere, the statistics are those of a pass of their own (`clean`).
"""

import contextlib
import functools
import threading

import keras
import numpy as np
from keras import layers, ops

from keras_smoothout import backend, keras_internals
from keras_smoothout.evaluation import at, length, present, rows_of, state_variables

SHARE = 16  # A clean pass sees one in so many examples: forward only, it is 2 % of a step.
FEWEST = 32  # Examples that it sees at least, if the batch has them.
MUTEX, CHANGED = threading.Lock(), {}  # Of `momentum_of`: by layer, its users and what it had.
COUNTED = 384  # Examples, of one pass or several, that the statistics are a mean of.


def batch_norms(model, frozen=False):
    """The BatchNormalization layers of `model`, at any depth; those that are frozen if asked to."""
    called = keras_internals.layers(model.copied() if copied(model) else model)
    found = [x for x in called if isinstance(x, layers.BatchNormalization)]
    return found if frozen else [layer for layer in found if layer.trainable]


def copied(model):
    """Whether `model` holds several copies of the weights of another, whose layers it calls."""
    return hasattr(model, "held_copies")


def moved_by(model, norms):
    """Identities of the variables of `model` that a call of its layers `norms` changes."""
    theirs = [v for layer in norms for v in layer.non_trainable_variables]
    return {id(model.stacked(v) if copied(model) else v) for v in theirs}


def statistics(norms):
    """Variables of the layers `norms` that hold their moving statistics: mean, variance, ..."""
    return [v for layer in norms for v in (layer.moving_mean, layer.moving_variance)]


def batch_statistics(model):
    """Mean, variance and count of one batch in each BatchNormalization, as a pure function.

    Returns a function of the weights, the non-trainable state and the inputs of a batch. A layer
    that is not called has its moving statistics, and a count of 0.
    """
    norms = batch_norms(model)

    def of_batch(weights, state, x):
        with at(model, weights, state):
            with recent_statistics(norms) as calls:
                model(x, training=False)
            pairs = zip(norms, calls, strict=True)
            return [functools.reduce(merged, c or [(*moving(n), ops.zeros(()))]) for n, c in pairs]

    return of_batch


def clean(model, weights, before, after, x):
    """The state `after` a step, with BatchNormalization's part from a forward pass at `weights`.

    The pass sees the first examples of the batch, with or without ghost batches.

    Args:
        model: A built model.
        weights: List of tensors, the weights before the step.
        before: List of tensors, the values of `state_variables(model)` before the step.
        after: List of tensors, those after it.
        x: Inputs of the step.
    """
    norms = batch_norms(model)
    ours = moved_by(model, norms)
    if not ours:
        return after
    batch = length(x)
    at_least = max if isinstance(batch, int) else ops.maximum
    copies = getattr(model, "held_copies", 1)
    seen = at_least(FEWEST * copies, -(-batch // SHARE))
    part = rows_of(x, slice(seen))
    count = ops.cast(seen, "float32") / copies
    most = ops.maximum((COUNTED - count) / (COUNTED + count), 0.0)

    def shortened(layer):
        return ops.cast(ops.minimum(layer.momentum, most), layer.variable_dtype)

    with at(model, weights, before) as scope, momentum_of(norms, shortened):
        model(part, training=True)
        return [
            scope.get_current_value(v) if id(v) in ours else value
            for v, value in zip(state_variables(model), after, strict=True)
        ]


def share_of(examples, size):
    """How much the statistics of a last ghost batch count, as a share of those of a whole one.

        share = 1 if examples >= size / 2 else (examples - 1) / (size - 1)

    The few examples of a small one tell little, and a single one has no variance at all.
    """
    share = ops.cast(examples - 1, "float32") / ops.cast(ops.maximum(size - 1, 1), "float32")
    return ops.where(2 * examples >= size, 1.0, share)


def weighed(model, share, before, after):
    """The state `after` a chunk, whose moving statistics count for `share` of what they would.

    Args:
        model: A built model.
        share: Scalar in [0, 1].
        before: List of tensors, the values of `state_variables(model)` before the chunk.
        after: List of tensors, those after it.
    """
    ours = moved_by(model, batch_norms(model))

    def part(variable, old, new):
        if id(variable) not in ours:
            return new
        return ops.cast(1.0 - share, new.dtype) * old + ops.cast(share, new.dtype) * new

    return list(map(part, state_variables(model), before, after))


@contextlib.contextmanager
def momentum_of(norms, change):
    """Have `change(layer)` as the momentum of each of the layers `norms`, for a while.

    Replicas are threads that wait for each other inside: the first one sets it, and the last one
    puts back what was there.
    """
    with MUTEX:
        for layer in norms:
            users, kept = CHANGED.get(id(layer), (0, layer.momentum))
            CHANGED[id(layer)] = users + 1, kept
            if not users:
                layer.momentum = change(layer)
    try:
        yield
    finally:
        with MUTEX:
            for layer in norms:
                users, kept = CHANGED.pop(id(layer))
                if users > 1:
                    CHANGED[id(layer)] = users - 1, kept
                else:
                    layer.momentum = kept


def moving(layer):
    """The moving mean and variance of `layer` as they are here."""
    return [backend.read(v) for v in statistics([layer])]


def merged(part, other):
    """Mean, variance and count of two sets of numbers together, from those of each."""
    (mean, variance, count), (other_mean, other_variance, other_count) = part, other
    total = count + other_count
    share = ops.cast(other_count / ops.maximum(total, 1.0), mean.dtype)
    shift = other_mean - mean
    spread = other_variance - variance + (1.0 - share) * ops.square(shift)
    return mean + share * shift, variance + share * spread, total


def counted(of_batch, weights, state, inputs):
    """Mean, variance, ... over all batches of `inputs`, in each BatchNormalization."""
    total = None
    for x in inputs:
        if len(present(x)[0]):
            found = of_batch(weights, state, x)
            total = list(map(merged, total, found)) if total is not None else found
    if total is None:
        raise ValueError("`data` must hold examples. Received: none")
    total = [value for mean, variance, _ in total for value in (mean, variance)]
    if not all(np.all(np.isfinite(ops.convert_to_numpy(t))) for t in total):
        raise ValueError(
            "`data` must be finite, and so must be what the model makes of it. Received: inputs "
            "that lead to moving statistics that are not finite; the model is left as it was"
        )
    return total


def inputs_of(model, data, batch_size):
    """The inputs of each batch."""
    arrays = isinstance(data, (list, tuple)) and all(
        array is None or hasattr(array, "shape") for array in data
    )
    listed = arrays and len(getattr(model, "inputs", None) or ()) > 1
    if isinstance(data, tuple) and arrays and not listed:
        raise ValueError(
            "`data` must be inputs alone, without targets: pass `x` of `(x, y)`, or a list of "
            f"batches. Received: a tuple of {len(data)} arrays for a model of one input"
        )
    if listed or isinstance(data, dict) or hasattr(data, "shape"):
        for start in range(0, len(present(data)[0]), batch_size):
            yield rows_of(data, slice(start, start + batch_size))
        return
    if isinstance(data, keras.utils.PyDataset):  # Iterated over, it may go on after its end.
        data = map(data.__getitem__, range(data.num_batches))
    for batch in data:
        yield batch[0] if isinstance(batch, (tuple, list)) else batch


@contextlib.contextmanager
def recent_statistics(norms):
    """Have `norms` normalize by the batch, and keep its statistics in place of moving ones.

    Yields a list for each of them, of the mean, variance and count of each call.
    """
    calls = [[] for _ in norms]

    def plain(layer, called):
        def call(inputs, training=None, mask=None):
            outputs = layers.BatchNormalization.call(layer, inputs, training=True, mask=mask)
            count = ops.size(inputs) / inputs.shape[layer.axis] if mask is None else ops.sum(mask)
            called.append((*moving(layer), ops.cast(count, "float32")))
            return outputs

        return call

    with momentum_of(norms, lambda _: 0.0):
        try:
            for layer, called in zip(norms, calls, strict=True):
                layer.call = plain(layer, called)
            yield calls
        finally:
            for layer in norms:
                del layer.call


def sums_inside(model):
    """Whether a pass of `model` sums over replicas, which TensorFlow refuses in a condition."""
    if not keras_internals.under_strategy(model):
        return False
    return any(getattr(layer, "synchronized", False) for layer in keras_internals.layers(model))


def check_alone(model, ghost_batch_size):
    """Raise unless a pass of `model` can be one of several over ghost batches."""
    if sums_inside(model):
        raise ValueError(
            "`ghost_batch_size` normalizes each ghost batch by itself, and a synchronized "
            "BatchNormalization all replicas together: build it without `synchronized`, or "
            f"compile without ghost batches. Received: ghost_batch_size={ghost_batch_size}"
        )
