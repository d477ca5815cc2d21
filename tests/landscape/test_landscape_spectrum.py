"""Lanczos, spectral density and traces on matrices whose spectra are known."""

import tracemalloc

import numpy as np
import pytest
from scipy.sparse import diags
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import norm

from keras_smoothout.landscape import density, eigenpairs, hutch_plus_plus, hutchinson, lanczos

N = 300
NETWORK = np.r_[10.0, 8, 7, 5, 4, np.linspace(-1, 1, N - 5) ** 5]  # Few outliers, a bulk at 0.


def matrix(eigenvalues, seed=0):
    """A symmetric matrix of these eigenvalues, in random directions."""
    n = len(eigenvalues)
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    A = (Q * eigenvalues) @ Q.T
    return (A + A.T) / 2


A = matrix(NETWORK)


class Counted(LinearOperator):
    """An operator that counts its products."""

    def __init__(self, A):
        super().__init__(A.dtype, A.shape)
        self.A, self.products = A, 0

    def _matvec(self, x):
        self.products += 1
        return self.A @ x


@pytest.mark.parametrize("which", ["top", "bottom"])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_eigenpairs_of_a_known_spectrum(k, which):
    found = eigenpairs(A, k, which)
    exact = np.sort(NETWORK)[:k] if which == "bottom" else np.sort(NETWORK)[::-1][:k]
    np.testing.assert_allclose(found.values, exact, atol=1e-10)
    true = np.linalg.norm(A @ found.vectors - found.vectors * found.values, axis=0)
    np.testing.assert_allclose(found.residuals, true, atol=1e-12)
    assert found.residuals.max() <= 1.5e-8 * 10
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(k), atol=1e-12)


def test_eigenpairs_in_float32():
    found = eigenpairs(A.astype("float32"), 5)
    assert found.vectors.dtype == "float32"
    np.testing.assert_allclose(found.values, NETWORK[:5], rtol=2e-6)


def test_restarts_need_more_products_and_find_the_same():
    even = np.diag(np.arange(200.0))
    wide, narrow = eigenpairs(even, 5, basis=100), eigenpairs(even, 5, basis=8)
    np.testing.assert_allclose(narrow.values, wide.values, rtol=1e-6)
    assert narrow.products > wide.products


def test_no_more_products_than_scipy():
    # Both to a residual of 1e-6; scipy holds as many vectors.
    ours, theirs = Counted(A), Counted(A)
    found = eigenpairs(ours, 5, tolerance=1e-7, basis=20)
    exact = eigsh(theirs, 5, which="LA", tol=1e-7, ncv=20, v0=np.ones(N))[0][::-1]
    np.testing.assert_allclose(found.values, exact, atol=1e-10)
    assert found.products == ours.products <= theirs.products


@pytest.mark.parametrize("which", ["top", "bottom"])
def test_all_eigenvalues(which):
    values = np.array([3.0, 3.0, 1.0, -2.0, -2.0])
    found = eigenpairs(matrix(values), 5, which)
    np.testing.assert_allclose(found.values, np.sort(values)[:: 1 if which == "bottom" else -1])


def test_equal_eigenvalues_are_found_where_lanczos_comes_to_an_end():
    # The span of v, Av, AAv ... has 3 dimensions; the other eigenvectors of 5 lie outside it.
    low_rank = matrix(np.r_[5.0, 5, 5, 3, np.zeros(50)])
    np.testing.assert_allclose(eigenpairs(low_rank, 5).values, [5, 5, 5, 3, 0], atol=1e-12)
    np.testing.assert_allclose(eigenpairs(np.eye(40), 3).values, [1, 1, 1])
    np.testing.assert_allclose(eigenpairs(np.zeros((40, 40)), 2).values, [0, 0])
    assert eigenpairs(np.array([[7.0]])).values == [7]


def test_seeds():
    a, b, c = (eigenpairs(A, 2, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.vectors, b.vectors)
    assert not np.array_equal(a.vectors, c.vectors)
    assert hutchinson(A, seed=1) == hutchinson(A, seed=1) != hutchinson(A, seed=2)
    assert hutch_plus_plus(A, seed=1) == hutch_plus_plus(A, seed=1) != hutch_plus_plus(A, seed=2)
    np.testing.assert_array_equal(density(A, 9, 2).density, density(A, 9, 2).density)


def test_giving_up_warns_with_the_residuals():
    with pytest.warns(UserWarning, match="stopped after max_products=6 with residuals .* Raise"):
        found = eigenpairs(A, 5, max_products=6)
    assert found.products == 6
    assert found.residuals.max() > 0.1


def test_hutch_plus_plus_holds_each_vector_once():
    n, products = 100_000, 60
    operator = LinearOperator((n, n), matvec=lambda v: np.float32(2) * v, dtype="float32")
    tracemalloc.start()
    found = hutch_plus_plus(operator, products)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert abs(found.value - 2 * n) < 4 * found.standard_error < n / 1000
    assert peak < 2.5 * products / 3 * n * 4  # LAPACK's work included; float64 alone would be 2.


def test_density_holds_one_basis():
    n, steps = 50_000, 40
    values = np.linspace(0, 1, n, dtype="float32")
    operator = LinearOperator((n, n), matvec=lambda v: values * v, dtype="float32")
    tracemalloc.start()
    density(operator, steps, probes=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * steps * n * 4


@pytest.mark.parametrize("products", [30, 50])  # Of 30 vectors 20 are kept, at each restart.
def test_giving_up_where_the_basis_is_full(products):
    even = np.diag(np.linspace(0, 1, 1000))
    with pytest.warns(UserWarning, match=f"stopped after max_products={products}"):
        found = eigenpairs(even, 10, tolerance=0.0, max_products=products)
    assert found.products == products
    true = np.linalg.norm(even @ found.vectors - found.vectors * found.values, axis=0)
    np.testing.assert_allclose(found.residuals, true, atol=1e-12)


def test_lanczos_recurrence():
    m, start = 60, np.arange(1.0, N + 1)
    found = lanczos(A, m, start)
    Q, beta = found.basis, found.off_diagonal
    np.testing.assert_allclose(Q @ Q.T, np.eye(m), atol=1e-13)
    np.testing.assert_allclose(Q[0], start / np.linalg.norm(start), atol=1e-15)
    T = np.diag(found.diagonal) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    rest = Q @ A - T @ Q
    np.testing.assert_allclose(rest[:-1], 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(rest[-1]), beta[-1])


def test_lanczos_ends_where_the_span_does():
    found = lanczos(np.diag([1.0, 2.0, 2.0, 3.0]), 4)
    assert found.diagonal.shape == found.off_diagonal.shape == (3,)
    assert found.off_diagonal[-1] == 0


def test_quadrature_is_exact_for_polynomials():
    # m Gauss nodes integrate z' A**p z exactly up to p = 2m - 1.
    found = density(A, steps=4, probes=2)
    signs = np.random.default_rng(0)
    for values, weights in zip(found.values, found.weights, strict=True):
        z = signs.choice([-1.0, 1.0], N)
        for p in range(8):
            exact = z @ np.linalg.matrix_power(A, p) @ z / N
            np.testing.assert_allclose(weights @ values**p, exact, rtol=1e-10)


def test_density_of_a_known_spectrum():
    found = density(A, steps=80, probes=10, width=0.3)
    np.testing.assert_allclose(np.trapezoid(found.density, found.grid), 1, atol=1e-3)
    exact = norm.pdf(found.grid[:, None], NETWORK, 0.3).mean(axis=1)
    seen = found.standard_error > 1e-6
    deviation = np.abs(found.density - exact)[seen] / found.standard_error[seen]
    assert deviation.max() < 5  # Student's t of 9 degrees of freedom, along a smooth curve.
    assert np.median(deviation) < 1.5


def test_density_where_lanczos_ends_early():
    found = density(
        np.diag([0.0] * 30 + [1.0] * 10), steps=20, probes=20, grid=[0.0, 1.0], width=0.01
    )
    np.testing.assert_allclose(found.weights.sum(axis=1), 1)
    peak = norm.pdf(0, 0, 0.01)
    np.testing.assert_allclose(found.density, [0.75 * peak, 0.25 * peak], rtol=1e-9)


@pytest.mark.parametrize(
    "estimate", [lambda s: hutchinson(A, 20, s), lambda s: hutch_plus_plus(A, 60, s)]
)
def test_traces_are_unbiased_within_their_own_standard_error(estimate):
    draws = [estimate(seed) for seed in range(200)]
    values = np.array([d.value for d in draws])
    errors = np.array([d.standard_error for d in draws])
    off = abs(values.mean() - NETWORK.sum())
    assert off < 4 * values.std() / 200**0.5
    np.testing.assert_allclose((errors**2).mean() ** 0.5, values.std(), rtol=0.2)


def test_variance_of_hutchinson():
    # Of z'Az for random signs: 2 * sum of the squares off the diagonal.
    exact = (2 * (np.sum(A**2) - np.sum(np.diag(A) ** 2))) ** 0.5
    np.testing.assert_allclose(hutchinson(A, 4000).standard_error * 4000**0.5, exact, rtol=0.05)


def test_hutch_plus_plus_is_exact_on_low_rank_and_better_on_outliers():
    low_rank = matrix(np.r_[5.0, 4, 3, np.zeros(97)])
    np.testing.assert_allclose(hutch_plus_plus(low_rank, 15).value, 12, atol=1e-10)
    np.testing.assert_allclose(hutch_plus_plus(np.diag([1.0, 2.0]), 6).value, 3)
    operator = Counted(A)
    assert hutch_plus_plus(operator, 99).standard_error < hutchinson(A, 99).standard_error / 3
    assert operator.products == 99


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: eigenpairs(np.ones((3, 4))), r"must be square. Received: shape \(3, 4\)"),
        (lambda: eigenpairs(np.triu(A)), "must be symmetric.*shuffling or augmentation"),
        (lambda: lanczos(np.triu(A), 5), "must be symmetric"),
        (lambda: density(np.triu(A)), "must be symmetric"),
        (lambda: eigenpairs(A * np.nan), "must be finite. Received: nan or inf"),
        (lambda: hutchinson(A * np.nan), "must be finite"),
        (lambda: eigenpairs(A, 301), "`k`.*k=301, n=300"),
        (lambda: eigenpairs(A, 5, basis=5), "`k`.*k=5, n=300, basis=5"),
        (lambda: eigenpairs(A, 5, max_products=3), "`max_products`.*max_products=3"),
        (lambda: lanczos(A, 301), "`steps`.*n=300.*steps=301"),
        (lambda: lanczos(A, 5, np.zeros(N)), "`start` must be a finite vector"),
        (lambda: lanczos(A, 5, np.ones(3)), r"of shape \(300,\), not zero"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_smallest_eigenvalue_is_not_one_of_the_many_near_zero():
    """Few large, one negative, as of a network: what settles within some products is near zero."""
    values = np.concatenate([[-1.0], np.linspace(-1e-3, 1e-3, 2000), [5.0, 20.0, 50.0]])
    found = eigenpairs(diags(values), 1, "bottom", tolerance=1e-2)
    assert found.values[0] == pytest.approx(-1.0, abs=1e-2)
