"""Checks of arguments and data: each raises a `ValueError` that says what was received."""

import math
import re
from numbers import Integral

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

PERTURBATIONS = ("replica", "shared")
STATISTICS = ("clean", "perturbed")
LARGEST = float(np.finfo("float32").max)  # More than that is infinite as a float32 weight.
INFINITE = -1  # What `tf.data.Dataset.cardinality` returns for it.
SPARSE = ("sparse_categorical_crossentropy", keras.losses.sparse_categorical_crossentropy)


def received(name, value):
    """The end of an error, with the cure for NumPy's numbers, which configs cannot hold."""
    cure = f", a NumPy number: pass `{name}.item()`" if isinstance(value, np.generic) else ""
    return f"Received: {name}={value!r}{cure}"


def as_flags(message, names):
    """Rewrite a `message` about arguments as one about the flags of the same `names`."""

    def flag(match):
        return f"--{match[1]}{match[2]}" if match[1] in names else match[0]

    message = re.sub(r"`(\w+)((?:=[^`]*)?)`", flag, message)
    return re.sub(r"(?<=Received: )(\w+)(=)", flag, message)


def check_number(name, value, least=0, most=math.inf, alternative=""):
    """Raise unless `value` is a finite number from `least` to `most`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and least <= value <= min(most, LARGEST)):
        limits = f">= {least}" if most == math.inf else f"in [{least}, {most}]"
        raise ValueError(
            f"`{name}` must be a finite number {limits}{alternative}. {received(name, value)}"
        )


def check_strength(name, value):
    """Raise unless `value` is a finite number >= 0 or a schedule of such numbers."""
    if not isinstance(value, LearningRateSchedule):
        check_number(
            name, value, alternative=" or a `keras.optimizers.schedules.LearningRateSchedule`"
        )


def check_rate(name, value):
    """Raise unless `value` is a finite number >= 0, a schedule or a callable, as Keras takes."""
    if not callable(value):
        check_number(name, value, alternative=", a `LearningRateSchedule` or a callable")


def check_integer(name, value):
    """Raise unless `value` is an integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"`{name}` must be an integer. {received(name, value)}")


def check_count(name, value, least=1):
    """Raise unless `value` is an integer of at least `least`, and no more than a float holds."""
    integer = isinstance(value, int) and not isinstance(value, bool)
    if not (integer and least <= value <= LARGEST):
        raise ValueError(f"`{name}` must be an integer >= {least}. {received(name, value)}")


def check_model(model):
    """Raise unless `model` is a Keras model that is built and has weights to train."""
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"`model` must be a built `keras.Model`. Received: model={model}")
    if not model.trainable_variables:
        raise ValueError("`model` must have trainable weights. Received: none")


def check_fits(name, arrays, variables):
    """Raise unless `arrays` is a list of arrays of the shapes of `variables`."""
    listed = isinstance(arrays, (list, tuple))
    given = [tuple(np.shape(a)) for a in arrays] if listed else type(arrays)
    shapes = [tuple(v.shape) for v in variables]
    if given != shapes:
        raise ValueError(f"`{name}` must hold arrays of shapes {shapes}. Received: {name}={given}")


def check_loss(model):
    """Raise if `model`, which was just called, has no loss: on JAX, Keras would take 0."""
    own = type(model).compute_loss is not keras.Model.compute_loss
    if not (own or model.losses) and model.loss is None:
        raise ValueError("There is no loss: pass `loss` to `compile`. Received: loss=None")


def check_switch(name, value):
    """Raise unless `value` is `True` or `False`."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False. {received(name, value)}")


def check_choice(name, value, choices):
    """Raise unless `value` is one of `choices`, which are strings."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}. {received(name, value)}")


def check_names(name, value):
    """Raise unless `value` is a list, tuple or set of strings."""
    names = isinstance(value, (list, tuple, set, frozenset))
    if not names or not all(isinstance(n, str) for n in value):
        raise ValueError(f"`{name}` must be a list of names. {received(name, value)}")


def check_ghosts(size, layer, shape):
    """Raise if `layer`, a BatchNormalization, has one number per channel in `size` examples."""
    places = [length for i, length in enumerate(shape) if i not in (0, layer.axis % len(shape))]
    if size == 1 and all(length == 1 for length in places):
        raise ValueError(
            f"In a ghost batch of one example, `{layer.name}` has one number to normalize in each "
            "channel: its variance is 0, so the output does not depend on the input. Use a "
            "`ghost_batch_size` of at least 2. Received: ghost_batch_size=1"
        )


def check_mean(losses):
    """Raise if one of the `losses` of `compile` is not a mean over the examples of the batch."""
    for loss in keras.tree.flatten(losses):
        reduction = getattr(loss, "reduction", "mean")
        if reduction not in ("sum_over_batch_size", "mean"):
            raise ValueError(
                "`ghost_batch_size` averages the losses of chunks, so each must be a mean: leave "
                "`reduction` at its default, and scale the learning rate instead. Received: "
                f"loss={loss.name} with reduction={reduction!r}"
            )


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


def check_ends(name, data):
    """Raise if the batches `data` never end."""
    whole = isinstance(data, keras.utils.PyDataset) and data.num_batches is None
    if whole or hasattr(data, "cardinality") and int(data.cardinality()) == INFINITE:
        raise ValueError(
            f"`{name}` must end: take a part of it, as in `list(itertools.islice({name}, 100))`. "
            f"Received: endless batches, {name}={data!r}"
        )


def check_repeats(name, data):
    """Raise if `data` can be gone through only once, or never ends; `None` is none."""
    check_ends(name, data)
    if hasattr(data, "__next__"):
        raise ValueError(
            f"`{name}` must be an array, or batches that can be gone through again: pass "
            f"`list({name})`. {received(name, data)}"
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
            functional model; of others, labels have no upper limit.
    """
    outputs = outputs or getattr(model, "outputs", None) or [None] * len(keras.tree.flatten(y))
    for given, labels, weights, output in _by_output(model, loss, y, sample_weight, outputs):
        sparse = isinstance(given, keras.losses.SparseCategoricalCrossentropy) or given in SPARSE
        if not (sparse and isinstance(labels, np.ndarray) and labels.dtype.kind in "iuf"):
            continue
        places, classes = (None, None) if output is None else (output.shape[1:-1], output.shape[-1])
        if places is not None and labels.shape[1 + len(places) :] not in ((), (1,)):
            continue  # Keras has an error for these shapes.
        if isinstance(weights, np.ndarray) and weights.shape == labels.shape[: weights.ndim]:
            labels = labels[weights != 0]
        ignored = getattr(given, "ignore_class", None)
        check_labels(name, labels if ignored is None else labels[labels != ignored], classes)


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


def check_fit(model, x, y, batch_size=None, sample_weight=None, validation_data=None, **_):
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
    check_targets("y", model, model.loss, y, sample_weight)
    if isinstance(validation_data, (list, tuple)) and len(validation_data) > 1:
        check_targets("y of validation_data", model, model.loss, *validation_data[1:3])
