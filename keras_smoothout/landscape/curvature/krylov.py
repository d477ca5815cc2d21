"""Lanczos' basis with full reorthogonalization, on which `spectrum` is built.

    A Q = Q T + beta q e'          T is A seen from the span of v, A v, A A v, ...

Vectors are held in the operator's dtype and made orthogonal to all others twice; small matrices are
in float64. Asymmetry shows in the products that are taken anyway, and raises an error.
"""

import numpy as np
from scipy.sparse.linalg import aslinearoperator


class Krylov:
    """An orthonormal basis that grows by products with an operator, and the operator within it.

    Args:
        operator: Symmetric (n, n) `LinearOperator`.
        capacity: Number of vectors that it can hold.
        rng: Generator of the start, and of a new direction where a product brings none.
        start: Array (n,), the first direction, or `None` for a random one.

    Attributes:
        basis: Array (capacity, n), the first `size` rows are orthonormal.
        projected: Array (capacity, capacity), `basis @ operator @ basis.T`.
        size: Number of vectors in the basis.
        products: Number of products taken.
        beta: Length of what the last product adds to the basis; 0 if it adds nothing, and a random
            direction comes next.
    """

    def __init__(self, operator, capacity, rng, start=None):
        n = operator.shape[0]
        self.operator, self.rng = operator, rng
        self.basis = np.empty((capacity, n), operator.dtype)
        self.projected = np.zeros((capacity, capacity))
        self.size, self.products, self.beta, self.scale = 0, 0, np.inf, 0.0
        start = rng.normal(size=n) if start is None else np.asarray(start)
        length = np.linalg.norm(start)
        if start.shape != (n,) or not (np.isfinite(length) and length > 0):
            raise ValueError(
                f"`start` must be a finite vector of shape ({n},), not zero. Received: {start}"
            )
        self._next = (start / length).astype(operator.dtype)
        self._coupling = np.zeros(0)  # The next product along the basis, as symmetry predicts it.

    def grow(self):
        """Take the product with the next direction, which joins the basis."""
        j = self.size
        self.basis[j] = self._next
        self.size += 1
        self.products += 1
        image = product(self.operator, self._next).astype(self.basis.dtype)
        self.scale = max(self.scale, float(np.linalg.norm(image)))
        rest, along = self._orthogonal(image)
        self._check_symmetry(along[:j])
        self.projected[: j + 1, j] = self.projected[j, : j + 1] = along
        self.beta = float(np.linalg.norm(rest))
        if self.beta <= 100 * np.finfo(self.basis.dtype).eps * self.scale:
            self.beta = 0.0
            rest = self.rng.normal(size=rest.shape).astype(rest.dtype)
            rest = self._orthogonal(rest)[0] if self.size < len(rest) else rest
        self._next = rest / np.linalg.norm(rest)
        self._coupling = np.append(np.zeros(j), self.beta)

    def ritz(self, sign=1):
        """Eigenvalues and eigenvectors of `projected`, the largest `sign * value` first."""
        values, vectors = np.linalg.eigh(self.projected[: self.size, : self.size])
        order = np.argsort(-sign * values)
        return values[order], vectors[:, order]

    def restart(self, values, vectors, keep):
        """Shrink the basis to the first `keep` Ritz vectors; the next direction stays."""
        self.basis[:keep] = self.combine(vectors[:, :keep]).T
        self.projected[:] = 0
        self.projected[range(keep), range(keep)] = values[:keep]
        self._coupling = self.beta * vectors[-1, :keep]
        self.size = keep

    def combine(self, coefficients):
        """Array (n, k) of the basis vectors combined by (size, k) coefficients."""
        return self.basis[: self.size].T @ coefficients.astype(self.basis.dtype)

    def _orthogonal(self, vector):
        """The part of `vector` orthogonal to the basis, and its coefficients along the basis."""
        Q, along = self.basis[: self.size], 0.0
        for _ in range(2):
            part = Q @ vector
            vector, along = vector - part @ Q, along + part.astype("float64")
        return vector, along

    def _check_symmetry(self, along):
        off = np.abs(along - self._coupling).max(initial=0)
        if off > np.finfo(self.basis.dtype).eps ** 0.25 * self.scale:
            raise ValueError(
                "The operator must be symmetric. Received: one whose products with unit vectors "
                f"are up to {self.scale:.3g} long and differ by {off:.3g} from its transpose's. If "
                "it is a Hessian: does the data change from pass to pass, by shuffling or "
                "augmentation?"
            )


def square(operator):
    """`operator` as a `LinearOperator`, if it is square."""
    operator = aslinearoperator(operator)
    if operator.shape[0] != operator.shape[1]:
        raise ValueError(f"The operator must be square. Received: shape {operator.shape}")
    if not np.issubdtype(operator.dtype, np.floating):
        operator = operator * np.float64(1)
    return operator


def product(operator, vector):
    """`operator @ vector`, if it is finite."""
    image = operator.matvec(vector)
    if not np.all(np.isfinite(image)):
        raise ValueError(
            "Products with the operator must be finite. Received: nan or inf. If it is a Hessian: "
            "is the loss finite there?"
        )
    return image
