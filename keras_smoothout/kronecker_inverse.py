"""The inverse of a curvature that has two factors for each layer, and gradients times it."""

import keras
import numpy as np
from keras import ops

from keras_smoothout.weights import dot

BLOCK = 128  # A matrix of less than twice as many rows is factorized whole.


def inverses(a, g, damping):
    """Inverses of both factors of `A x G`, with `damping` shared between them.

        (A + pi * sqrt(damping))^-1,  (G + sqrt(damping) / pi)^-1
        pi = sqrt((trace(A) / dim(A)) / (trace(G) / dim(G)))

    A factor of one number is not damped, but for rounding, and the other one by as much as is
    exact. Without any curvature, or if it is not finite, both are the identity.
    """
    damping = ops.convert_to_tensor(damping, a.dtype)
    mean_a, mean_g = (ops.trace(m) / m.shape[0] for m in (a, g))
    some = ops.logical_and(ops.minimum(mean_a, mean_g) > 0, ops.isfinite(ops.sum(a) + ops.sum(g)))
    mean_a, mean_g = (ops.where(some, mean, 1.0) for mean in (mean_a, mean_g))
    if a.shape[0] == 1:
        shares = 0.0, damping / mean_a
    elif g.shape[0] == 1:
        shares = damping / mean_g, 0.0
    else:
        pi, root = ops.sqrt(mean_a / mean_g), ops.sqrt(damping)
        shares = pi * root, root / pi
    return [inverse(m, share, some) for m, share in zip((a, g), shares, strict=True)]


def inverse(matrix, damping, some):
    """`(matrix + damping)^-1` of a symmetric matrix, or the identity where not `some`.

    The damping is not less than rounding errors, which could make an eigenvalue negative.
    """
    dtype = keras.backend.standardize_dtype(matrix.dtype)
    one, least = ops.eye(matrix.shape[0], dtype=dtype), 16 * float(np.finfo(dtype).eps)
    damping = ops.maximum(damping, least * ops.trace(matrix))
    root = inverse_root(ops.where(some, matrix + damping * one, one))
    return ops.matmul(ops.transpose(root), root)


def inverse_root(matrix):
    """The lower triangular `R` with `R^T R = matrix^-1`, of a symmetric, positive definite matrix.

    By blocks, so that the work is in products of matrices: XLA factorizes large ones slowly.
    """
    half = matrix.shape[0] // 2
    if half < BLOCK:
        one = ops.eye(matrix.shape[0], dtype=matrix.dtype)
        return ops.solve_triangular(ops.cholesky(matrix), one, lower=True)
    first = inverse_root(matrix[:half, :half])
    across = ops.matmul(matrix[half:, :half], ops.transpose(first))
    last = inverse_root(matrix[half:, half:] - ops.matmul(across, ops.transpose(across)))
    below = -ops.matmul(last, ops.matmul(across, first))
    above = ops.zeros((half, matrix.shape[0] - half), matrix.dtype)
    return ops.concatenate(
        [ops.concatenate([first, above], axis=1), ops.concatenate([below, last], axis=1)], axis=0
    )


def solve(blocks, inverses, grads):
    """`grads`, where those of each layer are `A^-1 [kernel; bias] G^-1`.

    Args:
        blocks: List of layers.
        inverses: List of tensors, two for each layer.
        grads: List of tensors, or `None` for a weight that the loss does not use.
    """
    solved = list(grads)
    for block, a, g in zip(blocks, inverses[::2], inverses[1::2], strict=True):
        if grads[block.kernel] is not None:
            matrix = block.join(grads)
            found = ops.matmul(ops.matmul(a, ops.cast(matrix, a.dtype)), g)
            dtype = keras.backend.standardize_dtype(matrix.dtype)
            for i, part in block.split(ops.cast(found, dtype)).items():
                solved[i] = part
    return solved


def within(limit, step, grads, blocks, rate):
    """`step`, of which the part in `blocks` is shorter if `rate^2 <step, grads>` is over `limit`.

    Args:
        limit: Largest value, in units of the loss, or `None`.
        step: List of tensors, what `solve` returns.
        grads: List of tensors, what `solve` was given.
        blocks: List of layers.
        rate: Scalar, the learning rate.
    """
    if limit is None:
        return step
    on = {i for block in blocks for i in (block.kernel, block.bias)}
    g, p = ([t for i, t in enumerate(ts) if i in on] for ts in (grads, step))
    inner = dot(g, p)
    square = ops.square(ops.cast(rate, inner.dtype)) * inner
    ratio = ops.sqrt(limit / ops.maximum(square, max(limit, 1e-30)))
    return [t * ops.cast(ratio, t.dtype) if i in on else t for i, t in enumerate(step)]
