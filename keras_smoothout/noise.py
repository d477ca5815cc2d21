"""Seeded draws shaped like weights: distribution x scale, from a counter-based hash.

    bits    = hash(key, index of the element)         key = hash(seed, step, ..., variable)
    uniform = bits / 2**23 - 1                         symmetric about 0, never -1 or 1
    normal  = sqrt(2) * erfinv(uniform)

A draw is a pure function of its key, so it needs no state, repeats after a resume, and fuses with
the addition to the weights into one pass over memory. The mixing steps are a multiply-xorshift hash
with full avalanche; `tests/seam/test_noise.py` tests the result as a generator.

Reference: Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011 (counter-based
generators); the constants are those of C. Wellons' `triple32`.
"""

import math

import numpy as np
from keras import ops

from keras_smoothout import backend
from keras_smoothout.weights import filter_norms

DISTRIBUTIONS = ("uniform", "normal")
SCALES = ("absolute", "weight", "filter", "filter_std")
EPSILON = 1e-6


def _uint32(value):
    if isinstance(value, int):
        return ops.convert_to_tensor(np.uint32(value % 2**32))
    return ops.cast(value, "uint32")


def _shift(bits, places):
    return ops.right_shift(bits, _uint32(places))


def _mix(bits, inner_key=0):
    bits = (bits ^ _shift(bits, 17)) * _uint32(0xED5AD4BB)
    bits = bits ^ _uint32(inner_key)
    bits = (bits ^ _shift(bits, 11)) * _uint32(0xAC4C1B51)
    bits = (bits ^ _shift(bits, 15)) * _uint32(0x31848BAB)
    return bits ^ _shift(bits, 14)


def key(*parts):
    """Two 32-bit words that depend on every one of the integers `parts`, in their order."""
    high, low = _uint32(0x243F6A88), _uint32(0x85A308D3)
    for part in parts:
        high = _mix(high ^ _uint32(part))
        low = _mix(low + high)
    return high, low


def keys(parts, last):
    """List of `key(*parts, i)` for each `i` in `last`, in as many operations as one key."""
    return list(zip(*map(ops.unstack, _words(parts, last)), strict=True)) if last else []


@backend.fused
def _words(parts, last):
    return key(*parts, np.array(last))


def bits(shape, key):
    """32 random bits for each element of `shape`, as `uint32`."""
    index = ops.reshape(_uint32(ops.arange(math.prod(shape), dtype="int32")), shape)
    return _mix(index ^ key[0], key[1])


def draw(shape, key, distribution="uniform"):
    """Draw independent `float32` samples: uniform in (-1, 1), or standard normal."""
    lattice = ops.cast(ops.cast(_shift(bits(shape, key), 8), "int32"), "float32")
    uniform = (lattice - (2**23 - 0.5)) * 2**-23
    return uniform if distribution == "uniform" else math.sqrt(2) * ops.erfinv(uniform)


@backend.fused
def normal(like, *parts):
    """Standard normal samples for the key `parts`, shaped as `like`: the same bits on each replica.

    TensorFlow's own `erfinv` can differ in the last bit from one call to the next.
    """
    return draw(like.shape, key(*parts), "normal")


def unit(noise, weight, scale, copies=None):
    """Factor from `noise` to the scale of `weight`: 1, `|weight|`, or norms of its filters.

    `"filter"` fixes the norm of a filter's noise, `"filter_std"` only its standard deviation.
    """
    if scale == "weight":
        return ops.abs(weight)
    if scale == "filter":
        return filter_norms(weight, copies) / (filter_norms(noise, copies) + EPSILON)
    if scale == "filter_std":
        return filter_norms(weight, copies)
    return 1.0


def perturb(weights, radius, *parts, moved, distribution="uniform", scale="absolute", copies=None):
    """`weights + radius * noise`, with a separate draw for each weight and each key `parts`.

    Args:
        weights: List of tensors.
        radius: Scalar that multiplies the noise.
        *parts: Integers that make the key; the index of the weight is added.
        moved: Tuple of the indices of the weights to move; the others are returned unchanged.
        distribution: `"uniform"` or `"normal"`.
        scale: One of `SCALES`.
        copies: Number of copies of a model along the first axes, or `None`.
    """
    moved_weights, radius = list(weights), ops.cast(radius, "float32")
    for i, own_key in zip(moved, keys(parts, moved), strict=True):
        moved_weights[i] = _perturbed(weights[i], radius, own_key, distribution, scale, copies)
    return moved_weights


@backend.fused
def _perturbed(weight, radius, key, distribution, scale, copies):
    """One weight: TensorFlow compiles this once for all weights of a shape."""
    noise = draw(weight.shape, key, distribution)
    size = unit(noise, ops.cast(weight, "float32"), scale, copies)
    return weight + ops.cast(noise * (radius * size), weight.dtype)
