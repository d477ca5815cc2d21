"""Checks of arguments and data: each raises a `ValueError` that says what was received."""

import math
import re

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

PERTURBATIONS = ("replica", "shared")
STATISTICS = ("clean", "perturbed")
LARGEST = float(np.finfo("float32").max)  # More than that is infinite as a float32 weight.
INFINITE = -1  # What `tf.data.Dataset.cardinality` returns for it.


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


def check_share(name, value):
    """Raise unless `value` is a number in [0, 1)."""
    check_number(name, value, most=1)
    if value == 1:
        raise ValueError(f"`{name}` must be less than 1. {received(name, value)}")


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


def check_loss(model, own=None):
    """Raise if `model`, which was just called, has no loss: on JAX, Keras would take 0.

    Args:
        model: A Keras model.
        own: Whether it has a loss of its own. Defaults to `None`: if its class has.
    """
    own = type(model).compute_loss is not keras.Model.compute_loss if own is None else own
    if not (own or model.losses) and model.loss is None:
        raise ValueError("There is no loss: pass `loss` to `compile`. Received: loss=None")


def check_precise(variables):
    """Raise if `variables` are too short to hold an average: it would stand still early."""
    short = sorted({v.dtype for v in variables} & {"float16", "bfloat16"})
    if short:
        raise ValueError(
            "An average of weights needs variables of float32: use the policy `mixed_"
            f"{short[0]}`. Received: variables of {short[0]}"
        )


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


def endless(data):
    """Whether `data` is a `PyDataset` that never ends."""
    return isinstance(data, keras.utils.PyDataset) and data.num_batches is None


def check_epoch_ends(data, steps, name="steps_per_epoch"):
    """Raise if `data` never ends and the argument `name` does not say how long an epoch is."""
    if endless(data) and steps is None:
        raise ValueError(
            f"`{name}` must be passed: the data never ends. Received: {type(data).__name__} and "
            f"{name}=None"
        )


def check_ends(name, data):
    """Raise if the batches `data` never end."""
    if endless(data) or hasattr(data, "cardinality") and int(data.cardinality()) == INFINITE:
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
