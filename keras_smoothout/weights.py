"""Algebra on weights: lists of tensors, one for each trainable variable of a model."""

import keras
from keras import ops


def add(weights, factor, direction):
    """`weights + factor * direction`."""
    return [w + ops.cast(factor, w.dtype) * d for w, d in zip(weights, direction, strict=True)]


def scale(factor, weights):
    """`factor * weights`."""
    return [ops.cast(factor, w.dtype) * w for w in weights]


def multiply(a, b):
    """Elementwise `a * b`."""
    return [x * y for x, y in zip(a, b, strict=True)]


def lerp(start, end, t):
    """`start + t * (end - start)`: `end` to the bit when `t=1`, `start` where both are equal."""
    back = 1 - t
    return [e - ops.cast(back, s.dtype) * (e - s) for s, e in zip(start, end, strict=True)]


def dot(a, b):
    """Inner product over all weights together, in float32 or wider."""
    dtypes = [keras.backend.standardize_dtype(x.dtype) for x in a]
    wide = "float64" if "float64" in dtypes else "float32"
    terms = [ops.sum(ops.cast(x, wide) * ops.cast(y, wide)) for x, y in zip(a, b, strict=True)]
    return sum(terms[1:], terms[0])


def norm(weights):
    """Euclidean norm over all weights together."""
    return ops.sqrt(dot(weights, weights))


def filter_norms(weight):
    """Euclidean norm of each filter of one weight, shaped to broadcast against it.

    Filters lie along the last axis of a Keras kernel. Each element of a weight with fewer than two
    axes is its own filter.
    """
    if len(weight.shape) < 2:
        return ops.abs(weight)
    axes = tuple(range(len(weight.shape) - 1))
    return ops.sqrt(ops.sum(ops.square(weight), axis=axes, keepdims=True))
