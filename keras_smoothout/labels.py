"""Checks of data that Keras would take in silence: labels above all."""

import inspect
import weakref
from numbers import Integral

import keras
import numpy as np

from keras_smoothout import keras_internals
from keras_smoothout.checks import check_epoch_ends

TAKEN = {  # By what is given labels.
    name: inspect.signature(getattr(keras.Model, name))
    for name in ("fit", "evaluate", "train_on_batch", "test_on_batch")
}
SPARSE = ("sparse_categorical_crossentropy", keras.losses.sparse_categorical_crossentropy)
OUTPUTS = weakref.WeakKeyDictionary()  # Of models that know none themselves.


def check_labels(name, labels, classes=None):
    """Raise unless all elements of the array `labels` are whole numbers from 0, below `classes`."""
    if not labels.size:
        return
    least, most = labels.min(), labels.max()
    below = classes is None or most < classes
    if not (0 <= least and below and np.all(labels == np.floor(labels))):
        allowed = f"in [0, {classes - 1}], as there are {classes} classes" if classes else ">= 0"
        raise ValueError(
            f"`{name}` must hold whole numbers {allowed}. Received: {name} in [{least}, {most}], "
            f"of dtype {labels.dtype}"
        )


def check_targets(name, model, loss, y, sample_weight=None, outputs=None):
    """Raise for labels of a sparse crossentropy that are no classes; JAX would take any number.

    Labels of weight 0 can be anything. Only NumPy arrays are examined.

    Args:
        name: Of `y`, for the error.
        model: A Keras model.
        loss: Its loss, or a nest of losses.
        y: Array or nest of arrays.
        sample_weight: Array or nest of arrays, or `None`.
        outputs: List of the model's outputs or their specs. Defaults to `None`, those of a
            functional model; of others, labels have no upper limit then.
    """
    outputs = outputs or getattr(model, "outputs", None) or [None] * len(keras.tree.flatten(y))
    for given, labels, weights, output in _by_output(model, loss, y, sample_weight, outputs):
        if not (
            _is_sparse(given) and isinstance(labels, np.ndarray) and labels.dtype.kind in "iuf"
        ):
            continue
        places, classes = (None, None) if output is None else (output.shape[1:-1], output.shape[-1])
        if places is not None and labels.shape[1 + len(places) :] not in ((), (1,)):
            continue  # Keras has an error for these shapes.
        if isinstance(weights, np.ndarray) and weights.shape == labels.shape[: weights.ndim]:
            labels = labels[weights != 0]
        ignored = getattr(given, "ignore_class", None)
        check_labels(name, labels if ignored is None else labels[labels != ignored], classes)


def outputs_of(model, x):
    """The outputs of a built model for inputs like `x`, without their values: a list."""

    def spec(array):
        if array is None:
            return None
        return keras.KerasTensor(array.shape, keras.backend.standardize_dtype(array.dtype))

    if getattr(model, "outputs", None):
        return model.outputs
    if OUTPUTS.get(model) is None:
        inputs = keras.tree.map_structure(spec, x)
        OUTPUTS[model] = keras.tree.flatten(model.compute_output_spec(inputs))
    return OUTPUTS[model]


def _is_sparse(loss):
    return isinstance(loss, keras.losses.SparseCategoricalCrossentropy) or loss in SPARSE


def _by_output(model, loss, y, sample_weight, outputs):
    """Yield loss, labels, their weights and the output that they are for, for each output."""
    if isinstance(y, dict) and isinstance(loss, dict):
        named = dict(zip(getattr(model, "output_names", ()), outputs, strict=False))
        for key in y:
            weights = sample_weight.get(key) if isinstance(sample_weight, dict) else sample_weight
            yield loss.get(key), y[key], weights, outputs[0] if len(y) == 1 else named.get(key)
        return
    losses, labels, weights = map(keras.tree.flatten, (loss, y, sample_weight))
    losses = losses * len(labels) if len(losses) == 1 else losses
    weights = weights if len(weights) == len(labels) else weights[:1] * len(labels)
    if len(losses) == len(labels) == len(outputs):
        yield from zip(losses, labels, weights or [None] * len(labels), outputs, strict=True)


def examine(method, model, *args, **kwargs):
    """Raise for arguments of a `method` of Keras, by its name, that it would take in silence."""
    if kwargs.pop(keras_internals.EXAMINED, False):  # `fit` has examined it.
        return
    given = TAKEN[method].bind(model, *args, **kwargs).arguments
    for name in {"steps", "steps_per_epoch"} & set(TAKEN[method].parameters):
        check_epoch_ends(given.get("x"), given.get(name), name)
    check_fit(model, **given)


def check_fit(
    model,
    x=None,
    y=None,
    batch_size=None,
    sample_weight=None,
    validation_data=None,
    **_,
):
    """Raise for what `fit` would silently accept; only NumPy arrays are examined.

    Args:
        model: A compiled model.
        x: As for `fit`.
        y: As for `fit`.
        batch_size: As for `fit`.
        sample_weight: As for `fit`.
        validation_data: As for `fit`.
        **_: What else `fit` is given.
    """
    if batch_size is not None and not (isinstance(batch_size, Integral) and batch_size > 0):
        raise ValueError(f"`batch_size` must be an integer >= 1. Received: batch_size={batch_size}")
    for name, array in (("x", x), ("y", y)):
        if isinstance(array, np.ndarray) and not array.size:
            raise ValueError(f"`{name}` is empty. Received: {name} of shape {array.shape}")
    checked = [("y", x, y, sample_weight)]
    if isinstance(validation_data, (list, tuple)) and len(validation_data) > 1:
        checked.append(("y of validation_data", *validation_data, None)[:4])
    sparse = any(map(_is_sparse, keras.tree.flatten(model.loss)))
    for name, inputs, labels, weights in checked if sparse else ():
        outputs = None
        asked = OUTPUTS.get(model, ()) is not None
        if model.built and asked and all(map(_is_array, keras.tree.flatten(inputs))):
            try:
                outputs = outputs_of(model, inputs)
            except Exception:  # Of a model that needs values: it is not asked again.
                OUTPUTS[model] = None
        check_targets(name, model, model.loss, labels, weights, outputs)


def _is_array(x):
    return x is None or isinstance(x, np.ndarray)
