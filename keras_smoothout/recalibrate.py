"""BatchNormalization's moving statistics, counted again over a data set.

After averaging, perturbing or interpolating weights, moving statistics belong to weights that are
no more.
"""

import contextlib
from collections.abc import Iterable

import keras
import numpy as np
from keras import layers, ops

from keras_smoothout import backend
from keras_smoothout.checks import check_count, received


def batch_norms(model):
    """The BatchNormalization layers of `model`, at any depth, that are not frozen."""
    flat = model._flatten_layers(include_self=False)
    return [x for x in flat if isinstance(x, layers.BatchNormalization) and x.trainable]


def recalibrate(model, data, batch_size=500):
    """Set BatchNormalization's moving statistics to those of `data` at the present weights.

        mean = sum_b n_b * mean_b / N
        variance = sum_b n_b * (variance_b + (mean_b - mean)**2) / N      over batches b

    Batches pass as in training as far as BatchNormalization goes (each is normalized
    by its own statistics) and as in inference for all else, dropout among it.

    Args:
        model: A built `keras.Model`. Only moving means and variances of layers that are not frozen
            change; an error or an interrupt leaves them as they were.
        data: Array of inputs, a dict of arrays, or a list of them if the model is functional and
            has several inputs; or an iterable of batches: `x` or `(x, y, ...)`.
        batch_size: Number of examples in a batch, if `data` is arrays. Defaults to `500`.

    Raises:
        ValueError: If `data` is empty or leads to statistics that are not finite, or the model is
            not built.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
        >>> ks.recalibrate(model, np.array([[1.0], [2.0], [6.0]]))
        >>> float(model.layers[0].moving_mean[0])
        3.0

    Reference: Izmailov et al., *Averaging Weights Leads to Wider Optima and Better Generalization*,
        UAI 2018, arXiv:1803.05407, Section 3.2.
    """
    norms = batch_norms(model) if isinstance(model, keras.Model) else None
    if norms is None or not all(layer.built for layer in norms):
        raise ValueError(f"`model` must be a built `keras.Model`. {received('model', model)}")
    check_count("batch_size", batch_size)
    if not hasattr(data, "shape") and not isinstance(data, Iterable):
        raise ValueError(f"`data` must be an array or batches. {received('data', data)}")
    variables = statistics(norms)
    weights = [backend.read(v) for v in model.trainable_variables]
    state = [backend.read(v) for v in model.non_trainable_variables]
    found = merged(batch_statistics(model), weights, state, inputs_of(model, data, batch_size))
    for variable, value in zip(variables, found, strict=True):
        variable.assign(value)


def statistics(norms):
    """Variables of the layers `norms` that hold their moving statistics: mean, variance, ..."""
    return [v for layer in norms for v in (layer.moving_mean, layer.moving_variance)]


def batch_statistics(model):
    """Mean, variance, ... of one batch in each BatchNormalization, as a pure function.

    Returns a function of the weights, the non-trainable state and the inputs of a batch.
    """
    norms = batch_norms(model)

    def of_batch(weights, state, x):
        held = [
            *zip(model.trainable_variables, weights, strict=True),
            *zip(model.non_trainable_variables, state, strict=True),
        ]
        with recent_statistics(norms), keras.StatelessScope(held) as scope:
            model(x, training=False)
        return [scope.get_current_value(v) for v in statistics(norms)]

    return of_batch


def merged(of_batch, weights, state, inputs):
    """Means and variances over all batches of `inputs`, from those of each of them."""
    total, seen = None, 0
    for x in inputs:
        found = of_batch(weights, state, x)
        total = total or [ops.zeros_like(value) for value in found]
        count = keras.tree.flatten(x)[0].shape[0]
        seen += count
        for i in range(0, len(found), 2):
            share, shift = count / seen, found[i] - total[i]
            total[i] = total[i] + share * shift
            spread = found[i + 1] - total[i + 1] + (1 - share) * ops.square(shift)
            total[i + 1] = total[i + 1] + share * spread
    if not seen:
        raise ValueError("`data` must hold examples. Received: none")
    if not all(np.all(np.isfinite(ops.convert_to_numpy(t))) for t in total):
        raise ValueError(
            "`data` must be finite, and so must be what the model makes of it. Received: inputs "
            "that lead to moving statistics that are not finite; the model is left as it was"
        )
    return total


def inputs_of(model, data, batch_size):
    """The inputs of each batch."""
    listed = isinstance(data, (list, tuple)) and len(getattr(model, "inputs", None) or ()) > 1
    arrays = listed and all(hasattr(array, "shape") for array in data)
    if arrays or isinstance(data, dict) or hasattr(data, "shape"):
        for start in range(0, len(keras.tree.flatten(data)[0]), batch_size):
            rows = slice(start, start + batch_size)
            yield keras.tree.map_structure(lambda array, rows=rows: array[rows], data)
        return
    for batch in data:
        yield batch[0] if isinstance(batch, (tuple, list)) else batch


@contextlib.contextmanager
def recent_statistics(norms):
    """Have `norms` normalize by the batch, and keep its statistics in place of moving ones."""
    kept = [(layer, layer.call, layer.momentum) for layer in norms]

    def plain(layer):
        def call(inputs, training=None, mask=None):
            return layers.BatchNormalization.call(layer, inputs, training=True, mask=mask)

        return call

    try:
        for layer in norms:
            layer.call, layer.momentum = plain(layer), 0.0
        yield
    finally:
        for layer, _, momentum in kept:
            del layer.call
            layer.momentum = momentum
