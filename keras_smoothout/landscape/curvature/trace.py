"""Trace of a matrix that is known by its products, with a standard error."""

import numpy as np
from scipy.linalg import qr

from keras_smoothout.checks import check_count
from keras_smoothout.landscape.curvature.krylov import product, square
from keras_smoothout.landscape.estimate import Estimate, mean


def hutchinson(operator, probes=100, seed=0):
    """Trace as the mean of `z' A z` over vectors `z` of random signs.

    Args:
        operator: (n, n) `LinearOperator` or array.
        probes: Number of vectors, at least 2. Defaults to `100`.
        seed: Seed of the vectors. Defaults to `0`.

    Returns:
        `Estimate`, a value and its standard error.

    Cost: `probes` products.

    Example:
        >>> import numpy as np
        >>> from keras_smoothout.landscape import hutchinson
        >>> hutchinson(np.diag([1.0, 2.0]), probes=2)  # Exact where all is on the diagonal.
        Estimate(value=3.0, standard_error=0.0)

    Reference: Hutchinson, *A Stochastic Estimator of the Trace of the Influence Matrix*, Comm.
        Statist. Simulation Comput. 1990.
    """
    operator = square(operator)
    check_count("probes", probes, least=2)
    return mean([z @ product(operator, z) for z in signs(operator.shape[0], probes, seed)])


def hutch_plus_plus(operator, products=99, seed=0):
    """Trace, exact on the dominant subspace that a third of the products finds, else by Hutchinson.

        Q = orth(A S)          trace = tr(Q' A Q) + mean of z' (I - Q Q') A (I - Q Q') z

    The error falls as `1 / products` on matrices with few large eigenvalues, as Hessians are.

    Args:
        operator: Symmetric (n, n) `LinearOperator` or array.
        products: Number of products, at least 6, rounded down to a multiple of three. Defaults to
            `99`.
        seed: Seed of the vectors. Defaults to `0`.

    Returns:
        `Estimate`, a value and the standard error of its random part.

    Cost: `products` products; memory of a third as many vectors.

    Reference: Meyer, Musco, Musco and Woodruff, *Hutch++: Optimal Stochastic Trace Estimation*,
        SOSA 2021, arXiv:2010.09649, Algorithm 1.
    """
    operator = square(operator)
    check_count("products", products, least=6)
    n, third = operator.shape[0], products // 3
    draws = signs(n, 2 * third, seed)
    Q = np.empty((n, min(third, n)), operator.dtype, order="F")
    for column in Q.T:
        column[:] = product(operator, next(draws))
    Q = qr(Q, mode="economic", overwrite_a=True, check_finite=False)[0]
    known = sum(q @ product(operator, q) for q in Q.T)
    if Q.shape[1] == n:
        return Estimate(float(known))
    rest = []
    for z in draws:
        z = z - Q @ (Q.T @ z.astype(Q.dtype))
        rest.append(z @ product(operator, z))
    value, error = mean(rest[:third])
    return Estimate(float(known + value), error)


def signs(n, count, seed):
    """Yield `count` vectors of `n` random signs."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.choice([-1.0, 1.0], n)
