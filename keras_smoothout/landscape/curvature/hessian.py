"""Curvature of an `Objective` as linear operators: `hessian` and `gauss_newton`.

    H = second derivative of the mean loss          G = J' H_outputs J + H of the model's own losses

The functions of `scipy.sparse.linalg` and of the module `spectrum` work on these operators. A
product is one pass over the data, batch by batch.
"""

import numpy as np
from scipy.sparse.linalg import LinearOperator


def hessian(objective, weights=None):
    """Hessian of `objective` at `weights`, of shape (size, size).

        H v = d/dt gradient(w + t v) at t = 0

    The gradient is differentiated in forward mode on JAX, in reverse mode on TensorFlow. A vector
    holds all trainable weights in their order, `objective.flatten(weights)`.

    Args:
        objective: An `Objective`; its `batch_norm` says which statistics are meant.
        weights: List of arrays. Defaults to `None`, `objective.weights`.

    Returns:
        A symmetric `scipy.sparse.linalg.LinearOperator` in the dtype of the weights.

    Raises:
        ValueError: If the shapes of `weights` are not those of the model; in a product, if an
            operation has no second derivative, or products are not symmetric.

    Cost: a product is about 4 gradients of the whole data, in the memory of one batch. Before the
        first one of `objective`, two products of one batch are compared.

    Example:
        >>> import keras, numpy as np
        >>> from keras_smoothout.landscape import Objective, hessian
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(loss="mse")
        >>> H = hessian(Objective(model, np.array([[1.0, 2.0]]), np.zeros((1, 1))))
        >>> (H @ np.array([1.0, 0.0])).tolist()  # Of the loss (w1 + 2 w2)**2.
        [2.0, 4.0]

    Reference: Pearlmutter, *Fast Exact Multiplication by the Hessian*, Neural Computation 1994,
        Section 3.
    """
    return _operator(objective, objective.hvp, weights)


def gauss_newton(objective, weights=None):
    """Generalized Gauss-Newton matrix of `objective` at `weights`, of shape (size, size).

        G v = J' H J v

    `J` is the Jacobian of the model's outputs, `H` the Hessian of the loss with respect to them.
    `Objective.gauss_newton_product` says how regularizers and a softmax inside the model enter.
    `G` has no negative eigenvalue if the loss and the regularizers are convex.

    Args:
        objective: An `Objective`; its `batch_norm` says which statistics are meant.
        weights: List of arrays. Defaults to `None`, `objective.weights`.

    Returns:
        A symmetric `scipy.sparse.linalg.LinearOperator` in the dtype of the weights.

    Raises:
        ValueError: If the shapes of `weights` are not those of the model.

    Cost: a product is about 3 gradients of the whole data, in the memory of one batch.

    Reference: Schraudolph, *Fast Curvature Matrix-Vector Products for Second-Order Gradient
        Descent*, Neural Computation 2002.
    """
    return _operator(objective, objective.gauss_newton_product, weights)


def _operator(objective, product, weights):
    weights = objective.tensors(objective.weights if weights is None else weights)
    dtype = np.result_type("float32", *(w.dtype for w in objective.weights))

    def matvec(vector):
        vector = objective.unflatten(np.ravel(vector))
        return objective.flatten(product(weights, vector)).astype(dtype)

    shape = (objective.size, objective.size)
    return LinearOperator(shape, matvec, rmatvec=matvec, dtype=dtype)
