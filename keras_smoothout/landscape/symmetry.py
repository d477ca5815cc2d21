"""Whether products with a curvature matrix are symmetric, as those of a Hessian must be.

Automatic differentiation leaves out terms where an operation has no second derivative. That shows
in `u' H v` and `v' H u`, which are equal for a Hessian.
"""

import keras
import numpy as np

from keras_smoothout import keras_internals

DRAWS = 5
ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}
JAX = "Use the JAX backend (KERAS_BACKEND=jax), or replace the operation. "


def check_symmetry(product, weights, model):
    """Raise unless `u' product(weights, v)` is `v' product(weights, u)` for random vectors.

    They can differ by the square root of the rounding of `model`, relative to the lengths of the
    products. A larger difference is an error if it stays when weights and vectors change a little.
    One that rounding causes does not stay: where a Hessian is about zero, nothing else is left.

    Args:
        product: Function `(weights, vector) -> product` of lists of tensors, with a symmetric
            matrix.
        weights: List of tensors.
        model: The `keras.Model` that they are of.
    """
    rng, rounding = np.random.default_rng(0), rounding_of(model)
    weights = [np.asarray(keras.ops.convert_to_numpy(w)) for w in weights]
    u, v = _normal(rng, weights), _normal(rng, weights)
    uHv, vHu, length = _both(product, weights, u, v)
    if not abs(uHv - vHu) > rounding**0.5 * length:  # Nor if they are not finite.
        return
    found = [uHv - vHu]
    for scale in np.linspace(1.1, 1.9, DRAWS - 1):
        near = _moved(weights, 4 * rounding, _normal(rng, weights))
        ahead, back, _ = _both(product, near, u, [(scale * a).astype(a.dtype) for a in v])
        found.append((ahead - back) / scale)
    if np.ptp(found) < abs(np.mean(found)) / 2:
        cure = "" if keras.backend.backend() == "jax" else JAX
        raise ValueError(
            "Products with the Hessian or Gauss-Newton matrix are wrong: it is symmetric, and they "
            f"are not. An operation of the model or its loss has no right second derivative. {cure}"
            "If a layer stops or changes gradients (`stop_gradient`, `custom_gradient`), the loss "
            f"has no Hessian. Received: u'Hv={uHv:.6g} and v'Hu={vHu:.6g} for random u and v"
        )


def rounding_of(model):
    """Relative precision of the coarsest type that `model` computes in; float32 at best.

    In a model of float64, Keras computes some operations in float32.
    """
    types = {layer.compute_dtype for layer in keras_internals.layers(model)}
    return max([ROUNDING["float32"], *(ROUNDING[t] for t in types if t in ROUNDING)])


def _normal(rng, weights):
    """Random vector like `weights`."""
    return [rng.standard_normal(w.shape, "float32").astype(w.dtype) for w in weights]


def _moved(weights, share, noise):
    """`weights`, each changed by about `share` of itself."""
    pairs = zip(weights, noise, strict=True)
    return [(w * (1 + share * z)).astype(w.dtype) for w, z in pairs]


def _both(product, weights, u, v):
    """`u'Hv`, `v'Hu`, and the length of both products together."""
    Hv, Hu = product(weights, v), product(weights, u)
    return _dot(u, Hv), _dot(v, Hu), (_dot(Hv, Hv) + _dot(Hu, Hu)) ** 0.5


def _dot(a, b):
    pairs = zip(a, b, strict=True)
    return sum(float(np.vdot(x.astype("float64"), y.astype("float64"))) for x, y in pairs)
