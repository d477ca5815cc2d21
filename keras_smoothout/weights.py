"""Algebra on weights: lists of tensors, one for each trainable variable of a model.

The weights of several copies of a model (`Copies`) lie along the first axis of each tensor. Norms
are then taken in each copy: `copies` is their number, and a factor may hold a number for each.
"""

import keras
from keras import ops

from keras_smoothout import backend

EPSILON = 1e-12  # Keeps a direction of norm 0 where it is.


def add(weights, factor, direction):
    """`weights + factor * direction`."""
    return [w + along(factor, w) * d for w, d in zip(weights, direction, strict=True)]


def scale(factor, weights):
    """`factor * weights`."""
    return [along(factor, w) * w for w in weights]


def along(factor, weight):
    """`factor` in the dtype of `weight`; of one axis, it lies along the first axis of `weight`."""
    factor = ops.cast(factor, weight.dtype)
    if not len(factor.shape):
        return factor
    return ops.reshape(factor, (-1, *[1] * (len(weight.shape) - 1)))


def multiply(a, b):
    """Elementwise `a * b`."""
    return [x * y for x, y in zip(a, b, strict=True)]


def lerp(start, end, t):
    """`start + t * (end - start)`: `end` to the bit when `t=1`, `start` where both are equal."""
    back = 1 - t
    return [e - ops.cast(back, s.dtype) * (e - s) for s, e in zip(start, end, strict=True)]


def chosen(condition, values, others):
    """Each of the `values` where `condition` holds, else of the `others`."""
    return [ops.where(condition, v, o) for v, o in zip(values, others, strict=True)]


def assign(variables, values):
    """Set the variables to the values."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def balanced(loss, away, copies):
    """The strength at which springs of the lengths `away` hold as much energy as the loss."""
    energy = ops.cast(dot(away, away), "float32") / (2 * copies)
    return ops.where(energy > 0, loss / energy, 0.0)


def copies_of(variables):
    """The number of copies of a model that `variables` hold along their first axes, or `None`."""
    return next((getattr(v, "copies", None) for v in variables), None)


def largest(scores, count, copies=None):
    """Where the `count` largest of `scores` are, in each copy; of equal ones, the first."""
    order = ops.argsort(-ops.reshape(scores, (copies or 1, -1)))
    ranks = ops.cast(ops.argsort(order), "int32")
    return ops.reshape(ranks < count, scores.shape)


def dot(a, b, copies=None):
    """Inner product over all weights together, or in each of the copies; in float32 or wider."""
    dtypes = [keras.backend.standardize_dtype(x.dtype) for x in a]
    wide = "float64" if "float64" in dtypes else "float32"
    cast = [ops.cast(x, wide) for x in a]
    pairs = zip(cast, cast if b is a else [ops.cast(y, wide) for y in b], strict=True)
    terms = [inner_product(x, y, copies) for x, y in pairs]
    return sum(terms[1:], terms[0])


def inner_product(x, y, copies):
    """Inner product of one weight with another, or in each of the copies."""
    if not copies:
        return backend.square_sum(x) if x is y else ops.sum(x * y)
    axes = tuple(range(1, len(x.shape)))
    return ops.sum(x * y, axes) if axes else x * y


def norm(weights, copies=None):
    """Euclidean norm over all weights together, or in each of the copies."""
    return ops.sqrt(dot(weights, weights, copies))


def of_length(length, direction, copies=None):
    """`length * direction / ||direction||`, over all weights together, or in each of the copies."""
    size = norm(direction, copies) + EPSILON
    return scale(ops.convert_to_tensor(length, size.dtype) / size, direction)


def across(a, b, copies=None):
    """The part of `a` that is orthogonal to `b`, over all weights or in each of the copies."""
    return add(a, -dot(a, b, copies) / (dot(b, b, copies) + EPSILON**2), b)


def filter_norms(weight, copies=None):
    """Euclidean norm of each filter of one weight, shaped to broadcast against it.

    Filters lie along the last axis of a Keras kernel. Each element of a weight with fewer than two
    axes is its own filter, without the axis of copies.
    """
    first = 1 if copies else 0
    if len(weight.shape) < first + 2:
        return ops.abs(weight)
    axes = tuple(range(first, len(weight.shape) - 1))
    return ops.sqrt(ops.sum(ops.square(weight), axis=axes, keepdims=True))
