"""Eigenvalues and spectral density of a symmetric matrix that is known by its products.

Nothing here knows a model: an operator is a `scipy.sparse.linalg.LinearOperator` or an array.
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.stats import norm

from keras_smoothout.checks import check_choice, check_count, check_number
from keras_smoothout.landscape.curvature.krylov import Krylov, square
from keras_smoothout.landscape.curvature.trace import signs

LEAST = 20  # Products: after fewer, a value that has settled may be an inner eigenvalue.


class Eigenpairs(NamedTuple):
    """Eigenvalues from the outermost inwards, and how good they are.

    Attributes:
        values: Array (k,).
        vectors: Array (n, k) of unit columns.
        residuals: Array (k,), `||A v - value * v||` from the recurrence, to the precision of the
            products. An eigenvalue of `A` is at most that far from the value.
        products: Number of products with `A` that were taken.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    products: int


class Lanczos(NamedTuple):
    """`A` seen from the span of `v, A v, A A v, ...`: a tridiagonal matrix.

    Attributes:
        diagonal: Array (m,); `m` is below `steps` if the span has no more dimensions.
        off_diagonal: Array (m,); the last one is the length of the part that leaves the span.
        basis: Array (m, n) of orthonormal rows, `v / ||v||` the first.
    """

    diagonal: np.ndarray
    off_diagonal: np.ndarray
    basis: np.ndarray


class Density(NamedTuple):
    """Spectral density, and the quadrature that it smooths.

    Attributes:
        grid: Array (points,) of places on the axis of eigenvalues.
        density: Array (points,), integrates to 1.
        standard_error: Array (points,), of `density`, over the probes.
        values: Array (probes, steps) of Ritz values.
        weights: Array (probes, steps); each row sums to 1 and estimates
            `trace(f(A)) / n` by `(weights * f(values)).sum()`.
    """

    grid: np.ndarray
    density: np.ndarray
    standard_error: np.ndarray
    values: np.ndarray
    weights: np.ndarray


def eigenpairs(operator, k=1, which="top", tolerance=None, basis=None, max_products=1000, seed=0):
    """The `k` algebraically largest or smallest eigenvalues, by Lanczos with thick restarts.

    An eigenvalue is wrong by at most its residual and, if all others are `gap` away, by at most
    `residual**2 / gap`. Of several equal eigenvalues, perhaps only one is found.

    Args:
        operator: Symmetric (n, n) `LinearOperator` or array.
        k: Number of eigenvalues. Defaults to `1`.
        which: `"top"`, the largest, or `"bottom"`, the smallest: most negative curvature. Defaults
            to `"top"`.
        tolerance: Residual to stop at, relative to the largest absolute eigenvalue seen. Defaults
            to `None`, the square root of the precision of the operator's dtype.
        basis: Number of vectors held, above `k` unless `k` is `n`. With more vectors, fewer
            products are needed. Defaults to `None`, `max(30, 3 * k)`.
        max_products: Number of products to stop after, with a warning. Defaults to `1000`.
        seed: Seed of the start. Defaults to `0`.

    Raises:
        ValueError: If `operator` is not square, not symmetric or gives numbers that are not finite;
            if `k` is above `n` or does not fit into `basis`.

    Cost: a product for each new vector, about 20 to 60 for a few eigenvalues of a network.

    Example:
        >>> import numpy as np
        >>> from keras_smoothout.landscape import eigenpairs
        >>> eigenpairs(np.diag([1.0, 5.0, -3.0, 2.0]), k=2).values.round(6)
        array([5., 2.])

    Reference: Wu and Simon, *Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems*,
        SIAM Journal on Matrix Analysis and Applications 2000.
    """
    operator = square(operator)
    n = operator.shape[0]
    check_count("k", k)
    check_choice("which", which, ("top", "bottom"))
    basis = max(30, 3 * k) if basis is None else basis
    check_count("basis", basis)
    basis = min(n, basis)
    if k > n or k >= basis < n:
        raise ValueError(
            f"`k` must be at most n and below `basis`. Received: k={k}, n={n}, basis={basis}"
        )
    check_count("max_products", max_products, least=k)
    if tolerance is None:
        tolerance = np.finfo(operator.dtype).eps ** 0.5
    else:
        check_number("tolerance", tolerance)
    sign = 1 if which == "top" else -1
    krylov = Krylov(operator, basis, np.random.default_rng(seed))
    before = None
    for _ in range(max_products):
        krylov.grow()
        values, S = krylov.ritz(sign)
        residuals = np.abs(krylov.beta * S[-1, :k])
        limit = tolerance * np.abs(values).max()
        found = krylov.products >= LEAST and len(values) >= k and max(residuals) <= limit
        if krylov.size == n or (krylov.beta > 0 and found):
            break
        if krylov.beta == 0 and len(values) >= k:  # The span is whole; equal values lie outside.
            if before is not None and np.allclose(values[:k], before, rtol=0, atol=limit):
                break
            before = values[:k]
        if krylov.size == basis and krylov.products < max_products:
            krylov.restart(values, S, k + (basis - k) // 2)
    else:
        warnings.warn(
            f"`eigenpairs` stopped after max_products={max_products} with residuals {residuals}, "
            f"above {limit:.2g}. Raise `max_products`, `basis` or `tolerance`.",
            stacklevel=2,
        )
    return Eigenpairs(values[:k], krylov.combine(S[:, :k]), residuals, krylov.products)


def lanczos(operator, steps, start=None, seed=0):
    """Tridiagonal matrix of `steps` Lanczos steps, with full reorthogonalization.

    Args:
        operator: Symmetric (n, n) `LinearOperator` or array.
        steps: Number of products, at most `n`.
        start: Array (n,), the first direction. Defaults to `None`, a normal draw.
        seed: Seed of that direction. Defaults to `0`.

    Raises:
        ValueError: If `operator` is not square, not symmetric or gives numbers that are not finite;
            if `steps` is above `n`; if `start` is zero.

    Cost: `steps` products; memory of as many vectors.

    Reference: Golub and Van Loan, *Matrix Computations*, 4th edition, Section 10.3.
    """
    operator = square(operator)
    check_count("steps", steps)
    if steps > operator.shape[0]:
        raise ValueError(f"`steps` must be at most n={operator.shape[0]}. Received: steps={steps}")
    krylov = Krylov(operator, steps, np.random.default_rng(seed), start)
    off_diagonal = []
    while krylov.size < steps and krylov.beta > 0:
        krylov.grow()
        off_diagonal.append(krylov.beta)
    m = krylov.size
    return Lanczos(np.diag(krylov.projected)[:m].copy(), np.array(off_diagonal), krylov.basis[:m])


def density(operator, steps=60, probes=5, grid=1000, width=None, seed=0):
    """Spectral density by stochastic Lanczos quadrature.

        density(x) = mean over probes of sum_i tau_i * N(x; theta_i, width**2)

    `theta` and `tau` are the Gauss quadrature that Lanczos gives from a random start of signs. Each
    probe is an unbiased estimate of the smoothed density, if the Gaussian is wider than what
    Lanczos resolves.

    Args:
        operator: Symmetric (n, n) `LinearOperator` or array.
        steps: Number of Lanczos steps for each probe, at most `n`. Defaults to `60`.
        probes: Number of random starts, at least 2. Defaults to `5`.
        grid: Number of points, or an array of them. Defaults to `1000`.
        width: Standard deviation of the Gaussian, in units of eigenvalues. Defaults to `None`, a
            hundredth of the range of the Ritz values.
        seed: Seed of the starts. Defaults to `0`.

    Cost: `steps * probes` products; memory of `steps` vectors.

    Reference: Ghorbani, Krishnan and Xiao, *An Investigation into Neural Net Optimization via
        Hessian Eigenvalue Density*, ICML 2019, arXiv:1901.10159, Section 2.
    """
    operator = square(operator)
    check_count("probes", probes, least=2)
    if width is not None:
        check_number("width", width)
    if np.ndim(grid) == 0:
        check_count("grid", grid, least=2)
    n = operator.shape[0]
    steps = min(steps, n)
    values, weights = np.zeros((2, probes, steps))
    for i, start in enumerate(signs(n, probes, seed)):
        theta, S = eigh_tridiagonal(*_tridiagonal(operator, steps, start))
        values[i], weights[i, : len(theta)] = np.resize(theta, steps), S[0] ** 2
    low, high = values.min(), values.max()
    if width is None:
        width = (high - low) / 100 or 0.01 * max(1.0, abs(high))
    if np.ndim(grid) == 0:
        grid = np.linspace(low - 4 * width, high + 4 * width, grid)
    grid = np.asarray(grid, "float64")
    bells = np.stack(
        [norm.pdf(grid[:, None], v, width) @ w for v, w in zip(values, weights, strict=True)]
    )
    error = bells.std(axis=0, ddof=1) / probes**0.5
    return Density(grid, bells.mean(axis=0), error, values, weights)


def _tridiagonal(operator, steps, start):
    """Both diagonals of `lanczos`, without its basis: the next one needs the memory."""
    found = lanczos(operator, steps, start)
    return found.diagonal, found.off_diagonal[:-1]
