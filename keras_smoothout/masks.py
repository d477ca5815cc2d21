"""Masks of sparse kernels: how many entries each has, the first ones at random, and the next."""

import math

import numpy as np
from keras import ops

from keras_smoothout.weights import largest

ROUNDING = 1e-3  # Of a number of weights, which float32 can leave just below an integer.


def first_mask(shape, ones, key, copies=None):
    """Initializer of a mask of so many `ones` at random, the same in each copy."""
    size = math.prod(shape) // (copies or 1)
    order = np.random.default_rng([part % 2**32 for part in key]).permutation(size)
    mask = np.tile(order < ones, copies or 1).reshape(shape)
    return lambda *_, dtype=None, **__: ops.convert_to_tensor(mask, dtype)


def counts(shapes, sparsity, distribution):
    """Number of weights that each kernel of these shapes is left with, a list."""
    sizes = [math.prod(shape) for shape in shapes]
    left = [size - int(sparsity * size) for size in sizes]
    if distribution == "uniform":
        return left
    density = [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)]
    sparse = set(range(len(shapes)))
    while sparse:
        rest = sum(left) - sum(sizes[i] for i in range(len(sizes)) if i not in sparse)
        eps = rest / sum(density[i] * sizes[i] for i in sparse)
        most = max(density[i] for i in sparse)
        if eps * most <= 1:
            break
        sparse = {i for i in sparse if density[i] < most}
    return [
        size - int((1 - eps * density[i]) * size) if i in sparse else size
        for i, size in enumerate(sizes)
    ]


def moved(mask, ones, share, weight, score, copies=None):
    """The next `mask`: without a `share` of its `ones`, and with as many where `score` is largest.

    The smallest of `weight` are dropped, and what was dropped can be grown again. With `copies`,
    in each of them.
    """
    k = ops.cast(ops.floor(share * ones + ROUNDING), "int32")
    kept = largest(ops.where(mask, ops.abs(weight), -1), ones - k, copies)
    return ops.logical_or(kept, largest(ops.where(kept, -1, score), k, copies))
