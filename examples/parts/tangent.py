"""Least squares in the tangent space of a network: what it can learn near its start."""

import numpy as np
from keras import ops
from scipy.sparse.linalg import LinearOperator, lsqr

import keras_smoothout as ks
from keras_smoothout.evaluation import at


def linear_risk(model, moved, data, test):
    """The risk of the best change, to first order, of the weights with the indices `moved`."""
    weights = [ops.convert_to_tensor(w) for w in model.get_weights()]

    def linear(x):
        def outputs(chosen):
            places = dict(zip(moved, chosen, strict=True))
            with at(model, [places.get(i, w) for i, w in enumerate(weights)], []):
                return [model(x)[:, 0]]

        return ks.backend.linearize(outputs, [weights[i] for i in moved])

    shapes = [tuple(weights[i].shape) for i in moved]
    ends = np.cumsum([np.prod(s) for s in shapes])

    def tensors(v):
        parts = zip(np.split(v, ends[:-1]), shapes, strict=True)
        return [ops.convert_to_tensor(np.reshape(p, s).astype("float32")) for p, s in parts]

    def flat(arrays):
        return np.concatenate([np.ravel(ops.convert_to_numpy(a)) for a in arrays])

    (x, y), (x_test, y_test) = data, test
    outputs, push, pull = linear(x)
    jacobian = LinearOperator(
        (len(x), ends[-1]),
        matvec=lambda v: flat(push(tensors(v))),
        rmatvec=lambda u: flat(pull([ops.convert_to_tensor(u.astype("float32"))])),
        dtype="float32",
    )
    change = lsqr(jacobian, y - flat(outputs), atol=1e-6, btol=1e-6, iter_lim=200)[0]
    outputs, push, _ = linear(x_test)
    return np.mean((y_test - flat(outputs) - flat(push(tensors(change)))) ** 2) / y_test.var()
