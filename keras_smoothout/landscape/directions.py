"""Places and directions in weight space: lists of arrays, one for each trainable weight."""

import keras
import numpy as np

from keras_smoothout.moving_statistics import batch_norms, statistics

EPSILON = 1e-10


def arrays_of(objective, other):
    """Weights of `other`, a model or a list of arrays, checked against those of `objective`.

    A list has an array for each trainable weight, or for each weight as `get_weights` returns it.

    Raises:
        ValueError: If they are not shaped like the weights of the objective's model.
    """
    values = other.trainable_variables if isinstance(other, keras.Model) else other
    arrays = [keras.ops.convert_to_numpy(v) for v in values]
    shapes, expected = [a.shape for a in arrays], [w.shape for w in objective.weights]
    if shapes != expected and shapes == [tuple(v.shape) for v in objective.model.weights]:
        arrays = trainable(objective.model, arrays)
        shapes = expected
    if shapes != expected:
        raise ValueError(
            "Both must have the same trainable weights, in the same order; build the second model "
            f"by the same code as the objective's. Received: shapes {shapes} instead of {expected}"
        )
    return arrays


def whole(model, other):
    """All weights of `other`, a model or a list of arrays as of `get_weights`: arrays.

    Raises:
        ValueError: If they are not shaped like all weights of `model`.
    """
    arrays = other.get_weights() if isinstance(other, keras.Model) else list(map(np.asarray, other))
    shapes, expected = [a.shape for a in arrays], [tuple(v.shape) for v in model.weights]
    if shapes != expected:
        raise ValueError(
            "Both must have the same weights, in the same order, as `get_weights` returns them. "
            f"Received: shapes {shapes} instead of {expected}"
        )
    return arrays


def trainable(model, arrays):
    """The trainable ones of `arrays` as of `get_weights`, in the order of the model's variables."""
    places = {id(v): i for i, v in enumerate(model.weights)}
    return [arrays[places[id(v)]] for v in model.trainable_variables]


def place_of(objective, other):
    """`arrays_of(objective, other)`, after a check that `objective` has the loss of `other` there.

    BatchNormalization's moving statistics can differ, because they are re-estimated. States of
    random generators can differ, because they are not used.

    Raises:
        ValueError: If `other` is a model and another of its non-trainable weights differs.
    """
    arrays = arrays_of(objective, other)
    if not isinstance(other, keras.Model):
        return arrays
    model, theirs = objective.model, other.non_trainable_weights
    state = zip(model.non_trainable_variables, objective.state, strict=True)
    held, counted = {id(v): s for v, s in state}, set(map(id, statistics(batch_norms(model))))
    pairs = zip(model.non_trainable_weights, theirs, strict=False)
    differ = [
        v.path
        for v, w in pairs
        if id(v) not in counted and not np.array_equal(held[id(v)], keras.ops.convert_to_numpy(w))
    ]
    if differ or len(theirs) != len(model.non_trainable_weights):
        raise ValueError(
            "Both must have the same frozen weights, as only trainable ones lie between them: copy "
            "those of one model to the other, or unfreeze them in both. Received: different "
            f"{', '.join(differ) or 'numbers of them'}"
        )
    return arrays


def combine(factors, places):
    """`sum_i factors[i] * places[i]`, summed in float64, in the dtypes of the first place."""

    def mix(*arrays):
        terms = [f * a.astype("float64") for f, a in zip(factors, arrays, strict=True) if f]
        return np.asarray(sum(terms, np.zeros(arrays[0].shape)), arrays[0].dtype)

    return [mix(*arrays) for arrays in zip(*places, strict=True)]


def distance(first, second):
    """Euclidean distance of two places, over all weights together."""
    pairs = zip(first, second, strict=True)
    return float(np.sqrt(sum(np.sum((a.astype("float64") - b) ** 2) for a, b in pairs)))


def direction_of(objective, direction):
    """`direction` as a list of float64 arrays: from such a list, or from one long vector.

    Raises:
        ValueError: If it is not shaped like the weights, or not finite.
    """
    shapes = [w.shape for w in objective.weights]
    if isinstance(direction, np.ndarray) and direction.shape == (objective.size,):
        ends = np.cumsum([w.size for w in objective.weights])[:-1]
        pieces = np.split(direction, ends)
        direction = [p.reshape(shape) for p, shape in zip(pieces, shapes, strict=True)]
    arrays = [np.asarray(d, "float64") for d in direction]
    if [a.shape for a in arrays] != shapes:
        raise ValueError(
            "A direction must be a list of arrays shaped as the weights, or a vector of "
            f"{objective.size} numbers. Received: shapes {[a.shape for a in arrays]}"
        )
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError("A direction must be finite. Received: NaN or infinity in it")
    return arrays


def filter_normalised(direction, weights, vectors=False):
    """Give each filter of `direction` the norm of the same filter of `weights`.

        d_f = d_f * ||w_f|| / (||d_f|| + 1e-10)

    Scaling a filter, and scaling the next layer back, then does not change how steep the loss
    looks.

    Args:
        direction: List of arrays. Filters lie along the last axis, as in Keras kernels.
        weights: List of arrays of the same shapes. Where a filter is all 0, so is the result.
        vectors: Whether weights with fewer than two axes (biases, scales of normalizations) move
            too, each element as its own filter. Defaults to `False`: there the result is 0.

    Returns:
        List of float64 arrays.

    Example:
        >>> import numpy as np
        >>> from keras_smoothout.landscape.directions import filter_normalised
        >>> weights = [np.array([[3.0, 0.0], [4.0, 0.0]]), np.array([1.0, 1.0])]
        >>> kernel, bias = filter_normalised([np.ones((2, 2)), np.ones(2)], weights)
        >>> np.linalg.norm(kernel, axis=0).round(6), bias
        (array([5., 0.]), array([0., 0.]))

    Reference: Li et al., *Visualizing the Loss Landscape of Neural Nets*, NeurIPS 2018,
        arXiv:1712.09913, Section 4.
    """

    def normalise(d, w):
        d, w = np.asarray(d, "float64"), np.asarray(w, "float64")
        if w.ndim < 2:
            return d * np.abs(w) / (np.abs(d) + EPSILON) if vectors else np.zeros(w.shape)
        norms = [np.linalg.norm(a.reshape(-1, a.shape[-1]), axis=0) for a in (w, d)]
        return d * (norms[0] / (norms[1] + EPSILON))

    return [normalise(d, w) for d, w in zip(direction, weights, strict=True)]


def random_direction(weights, seed=0, vectors=False):
    """Normal draw shaped like `weights`, filter-normalised: see `filter_normalised`."""
    rng = np.random.default_rng(seed)
    return filter_normalised([rng.normal(size=w.shape) for w in weights], weights, vectors)
