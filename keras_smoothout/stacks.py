"""Stacks: the variables of several copies of a model along one axis, and a pass through each copy.

`order` is the list of the variables of the model that is copied; `values` hold a value for each.
"""

import contextlib
import operator

import keras
import numpy as np
from keras import ops

from keras_smoothout import backend, keras_internals
from keras_smoothout.evaluation import at, length
from keras_smoothout.per_copy import PerCopy

SEED = "seed_generator_state"  # Of `keras.random.SeedGenerator`.
STRIDE = 0x1E3779B9  # From the seed of one copy to that of the next: far from any seed in use.


def stack(layer, variables):
    """Add to `layer` a variable that holds the values of `variables` along its first axis."""
    first, values = variables[0], [ops.convert_to_numpy(v) for v in variables]
    if first.name == SEED:
        values = [[(int(v[0]) + copy * STRIDE) % 2**31, *v[1:]] for copy, v in enumerate(values)]
    constraint = getattr(first, "constraint", None)
    with contextlib.ExitStack() as scopes:
        for part in ("copies", *first.path.split("/")[:-1]):
            scopes.enter_context(keras.name_scope(part))
        added = layer.add_weight(
            shape=(len(variables), *first.shape),
            initializer=lambda shape, dtype: ops.convert_to_tensor(np.stack(values), dtype),
            dtype=first.dtype,
            trainable=first.trainable,
            autocast=False,
            constraint=constraint and PerCopy(constraint),
            aggregation=first.aggregation,
            name=first.name,
        )
    added.copies = len(variables)
    return added


def centre(value):
    """The mean of a stack of weights; of counters and seeds, the first."""
    return ops.mean(value, 0) if keras.backend.is_float_dtype(value.dtype) else value[0]


def check(examples, copies):
    """Raise if a batch has too few `examples`; where their number is not known yet, in the step."""
    message = (
        f"Each batch must have an example for each of {copies} copies: choose another "
        "`batch_size`, or drop the remainder. Received: a batch of "
    )
    if not isinstance(examples, int):
        backend.check_least(examples, copies, f"{message}fewer")
    elif examples < copies:
        raise ValueError(f"{message}{examples}")


def run(model, order, values, inputs, training=False):
    """Outputs and losses of one copy, and the values of its variables after the pass."""
    values = list(values)
    known = dict(zip(map(id, order), values, strict=True))
    trained, other = (
        [known[id(v)] for v in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    with at(model, trained, other) as scope:
        before = [scope.get_current_value(v) for v in order]
        outputs = model(inputs, training=training)
        after = [scope.get_current_value(v) for v in order]
        losses = [ops.cast(loss, keras.config.floatx()) for loss in model.losses]
    if scope.state_mapping.keys() - known.keys():
        raise ValueError(
            "`model` changes a variable that is not its own, and the change would be lost: metrics "
            "inside of it, or a layer that draws without a `keras.random.SeedGenerator`. Received: "
            f"an update of a variable outside of {model.name}"
        )
    moved = zip(values, before, after, strict=True)
    return outputs, losses, [value if new is old else new for value, old, new in moved]


def in_turn(model, order, values, parts):
    """A training pass of each copy over its part: outputs, losses, and stacks or `None`s after."""
    given = [ops.unstack(value, len(parts)) for value in values]
    copies = zip(zip(*given, strict=True), parts, strict=True)
    runs = [run(model, order, own, part, True) for own, part in copies]
    outputs = keras.tree.map_structure(joined, *(outputs for outputs, _, _ in runs))
    losses = [loss for _, losses, _ in runs for loss in losses]
    after = list(zip(*(after for _, _, after in runs), strict=True))
    moved = [any(map(operator.is_not, new, old)) for new, old in zip(after, given, strict=True)]
    return outputs, losses, [ops.stack(a) if m else None for a, m in zip(after, moved, strict=True)]


def on_devices(model, order, values, inputs, mesh, axis):
    """What `in_turn` does, by each device for the copies and the examples that it holds."""
    copies, tree = values[0].shape[0], keras.tree.map_structure

    def each(given):
        own, parts = given
        runs = [
            run(model, order, [v[i] for v in own], tree(lambda x, i=i: x[i], parts), True)
            for i in range(own[0].shape[0])
        ]
        tensors = keras.tree.flatten([outputs for outputs, *_ in runs])
        if any(keras_internals.mask_of(x) is not None for x in tensors):
            raise ValueError(
                f"On devices of their own, the outputs of copies must have no mask: leave out "
                f"`mask_zero` and `Masking`. Received: masked outputs of {model.name}"
            )
        return tree(lambda *xs: ops.stack(xs), *runs)

    def apart(x):
        if x is None:
            return None
        if x.shape[0] % copies:
            raise ValueError(
                f"On devices of their own, {copies} copies must have batches of one size: choose "
                f"another `batch_size`. Received: a batch of {x.shape[0]}"
            )
        return ops.reshape(x, (copies, -1, *x.shape[1:]))

    given = values, tree(apart, inputs)
    outputs, losses, after = backend.over_devices(each, given, mesh, axis)
    outputs = tree(lambda x: ops.reshape(x, (-1, *x.shape[2:])), outputs)
    after = [None if v.trainable else value for v, value in zip(order, after, strict=True)]
    return outputs, list(map(ops.mean, losses)), after


def cut(data, copies):
    """The part of `data`, a nest of tensors or `None`s, of each copy."""
    leaves = [x for x in keras.tree.flatten(data) if x is not None]
    if not leaves:
        return [data] * copies
    examples = length(leaves)
    check(examples, copies)
    ends = [copy * examples // copies for copy in range(copies + 1)]

    def part(rows):
        def taken(x):
            if x is None:
                return None
            return with_mask([x], x[rows], lambda masks: masks[0][rows])

        return keras.tree.map_structure(taken, data)

    return [part(slice(*pair)) for pair in zip(ends, ends[1:], strict=False)]


def joined(*parts):
    """All `parts` along the first axis."""
    whole = ops.concatenate(parts, 0)
    return with_mask(parts, whole, lambda masks: ops.concatenate(masks, 0))


def with_mask(tensors, tensor, function):
    """Give `tensor` one Keras mask, by `function`, if all `tensors` have one; return it."""
    masks = [keras_internals.mask_of(x) for x in tensors]
    if all(mask is not None for mask in masks):
        keras_internals.set_mask(tensor, function(masks))
    return tensor
