"""BatchNormalization's moving statistics, re-estimated over a data set.

After averaging, perturbing or interpolating weights, the moving statistics describe weights that no
longer exist.
"""

from collections.abc import Iterable

import keras

from keras_smoothout import backend
from keras_smoothout.checks import check_count, check_ends, received
from keras_smoothout.moving_statistics import (
    batch_norms,
    batch_statistics,
    copied,
    counted,
    inputs_of,
    statistics,
)


def recalibrate(model, data, batch_size=500):
    """Set BatchNormalization's moving statistics to those of `data` at the present weights.

        mean = sum_b n_b * mean_b / N
        variance = sum_b n_b * (variance_b + (mean_b - mean)**2) / N

    The sums are over all batches b and all calls of a layer in each batch; `n_b` is how many
    numbers a channel has there, and `N` the sum of all `n_b`.

    BatchNormalization works as in training: each batch is normalized by its own statistics. All
    other layers, including dropout, work as in inference.

    Args:
        model: A built `keras.Model`. Only moving means and variances of layers that are not frozen
            change; after an error or an interrupt they are as before.
        data: Array of inputs, a dict of arrays, or a list of them if the model is functional and
            has several inputs; or an iterable of batches: `x` or `(x, y, ...)`.
        batch_size: Number of examples in a batch, if `data` is arrays. Defaults to `500`.

    Raises:
        ValueError: If `data` is empty or endless, is a pair `(x, y)`, or leads to statistics that
            are not finite; if the model is not built.

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
    if norms and copied(model):
        raise ValueError(
            "Moving statistics are those of one model: pass `copies.centre()` or `copies.copy(i)`. "
            f"Received: model={model.name} of {model.held_copies} copies"
        )
    check_count("batch_size", batch_size)
    if not hasattr(data, "shape") and not isinstance(data, Iterable):
        raise ValueError(f"`data` must be an array or batches. {received('data', data)}")
    check_ends("data", data)
    weights = [backend.read(v) for v in model.trainable_variables]
    state = [backend.read(v) for v in model.non_trainable_variables]
    found = counted(batch_statistics(model), weights, state, inputs_of(model, data, batch_size))
    for variable, value in zip(statistics(norms), found, strict=True):
        variable.assign(value)
