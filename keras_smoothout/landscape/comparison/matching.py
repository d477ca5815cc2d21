"""Permutations of hidden units, which leave a model's function as it is, and how to find them.

The order of the units in a layer means nothing. Two trained models have their units in different
orders, so what lies between their weights tells little until one is permuted to match the other.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from keras_smoothout.checks import check_count, check_integer
from keras_smoothout.landscape.comparison.channels import Channels, held
from keras_smoothout.landscape.directions import whole
from keras_smoothout.moving_statistics import batch_norms, statistics

LEAST = 1e-12  # Gain of a permutation that is worth a round, relative to the norms.
ROUNDS = 100


class Units(NamedTuple):
    """Hidden units that can change places: all weights that carry them.

    Attributes:
        name: Name of the layer whose outputs they are; of the first, where outputs are added up.
        size: Number of units.
        places: List of triples (index in `model.weights`, axis, start): the units lie along this
            axis of this weight, from this position on. Where positions were flattened there are
            several starts.
    """

    name: str
    size: int
    places: list


class Matching(NamedTuple):
    """What `match` has found.

    Attributes:
        permutations: List of integer arrays, one for each of `hidden_units(a)`: unit `j` of the
            permuted model is unit `permutation[j]` of the second.
        weights: List of arrays as of `get_weights`: the second model's, permuted.
        similarity: Sum of the products of all weights of the first, without moving statistics,
            with those of the permuted second.
        similarities: (restarts,) what each restart reached.
    """

    permutations: list
    weights: list
    similarity: float
    similarities: np.ndarray


def hidden_units(model):
    """List of `Units`: all sets of hidden units of `model` that can be permuted.

    Units whose values are added up, as by residual connections, are one set. The order follows the
    graph from the inputs on. Inputs and outputs are not hidden.

    Args:
        model: A built functional or sequential model, of Dense, convolutions with one group,
            separable and depthwise ones, BatchNormalization, LayerNormalization, PReLU, Embedding,
            pooling, padding, dropout, activations, sums, products, Concatenate, Flatten, Reshape.

    Raises:
        ValueError: If `model` is another one, or has another layer, by the layer's name; layers of
            other packages are not known.

    Example:
        >>> import keras
        >>> from keras_smoothout import landscape
        >>> net = [keras.layers.Dense(3, "relu"), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((4,)), *net])
        >>> (units,) = landscape.hidden_units(model)
        >>> units.size, units.places  # Columns of the kernel, the bias, rows of the next kernel.
        (3, [(0, 1, 0), (1, 0, 0), (2, 0, 0)])
    """
    channels = Channels(model)
    places = {}
    for index, variable in enumerate(model.weights):
        for axis, groups in sorted(channels.places.get(id(variable), {}).items()):
            start = 0
            for group in groups:
                places.setdefault(group.found(), []).append((index, axis, start))
                start += group.size
    names = {}
    for group, name in channels.names.items():
        names.setdefault(group.found(), name)
    return [
        Units(name, group.size, places[group])
        for group, name in names.items()
        if not group.fixed and group.size
    ]


def permute(model, permutations, weights=None):
    """Weights of `model` with its hidden units in another order; the outputs stay the same.

    Moving statistics of BatchNormalization are permuted as well. Nothing is changed: pass the
    result to `model.set_weights`, or to functions that take a second model.

    Args:
        model: As for `hidden_units`.
        permutations: List of arrays, one for each of `hidden_units(model)`: new unit `j` is old
            unit `permutation[j]`.
        weights: List of arrays as of `model.get_weights()` to permute. Defaults to `None`: those of
            `model`.

    Raises:
        ValueError: If the permutations are not as above.
    """
    units, weights = hidden_units(model), whole(model, model if weights is None else weights)
    permutations = [np.asarray(p) for p in permutations]
    sizes = [u.size for u in units]
    if [p.shape for p in permutations] != [(size,) for size in sizes] or any(
        not np.array_equal(np.sort(p), np.arange(len(p))) for p in permutations
    ):
        raise ValueError(
            f"`permutations` must be permutations of {sizes} units, one for each of "
            f"`hidden_units(model)`. Received: permutations={permutations}"
        )
    return moved(units, permutations, weights)


def moved(units, permutations, weights):
    """`weights` whose units are permuted."""
    orders = {}
    for set_of, permutation in zip(units, permutations, strict=True):
        for index, axis, start in set_of.places:
            length = weights[index].shape[axis]
            order = orders.setdefault((index, axis), np.arange(length))
            order[start : start + set_of.size] = start + permutation
    weights = list(weights)
    for (index, axis), order in orders.items():
        weights[index] = np.take(weights[index], order, axis)
    return weights


def match(a, b, restarts=10, seed=0, weights=None):
    """Find the order of the hidden units of `b` that brings its weights nearest to those of `a`.

        similarity = sum over weights w of <w_a, permuted w_b>
        until nothing gains: for each set of units, its best permutation given all others

    One set of units is a linear assignment problem. All sets together are not, and the result
    depends on their order: the first start goes from the inputs to the outputs, the others take
    random orders. The distance of the weights never grows.

    Args:
        a: A model, as for `hidden_units`.
        b: A model of the same layers, or a list of arrays as of `get_weights`.
        restarts: Number of starts; the best is returned. Defaults to `10`.
        seed: Seed of the orders. Defaults to `0`.
        weights: Pair of lists as of `get_weights`, to be compared in place of the weights of `a`
            and `b`, such as those of their `normal_form`. Defaults to `None`.

    Returns:
        A `Matching`.

    Raises:
        ValueError: If the two do not have the same weights, or a layer is not known.

    Cost: for each round of a start, a product of the two weights for each place of a unit, and an
        assignment problem of n^3 for n units. In float64.
    Differs from the paper: a permutation of a set that lies along two axes of one weight, which is
        no linear problem, is taken only if it gains. Moving statistics are permuted but do not
        count. Sets of units that frozen layers carry keep their order.

    Example:
        >>> import keras, numpy as np
        >>> from keras_smoothout import landscape
        >>> net = [keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((4,)), *net])
        >>> shuffled = landscape.permute(model, [np.random.default_rng(0).permutation(8)])
        >>> found = landscape.match(model, shuffled)
        >>> all(np.array_equal(u, v) for u, v in zip(model.get_weights(), found.weights))
        True

    Reference: Ainsworth et al., *Git Re-Basin: Merging Models modulo Permutation Symmetries*, ICLR
        2023, arXiv:2209.04836, Section 3.2 (weight matching).
    """
    check_count("restarts", restarts)
    check_integer("seed", seed)
    units, theirs = hidden_units(a), whole(a, b)
    first, second = (whole(a, w) for w in ((a, b) if weights is None else weights))
    counted = set(map(id, statistics(batch_norms(a, frozen=True))))
    compared = [i for i, v in enumerate(a.weights) if id(v) not in counted]
    kept = held(a)
    free = [k for k, u in enumerate(units) if not kept & {i for i, _, _ in u.places}]
    first, second = ([np.asarray(w, "float64") for w in ws] for ws in (first, second))
    draw, found = np.random.default_rng(seed), []
    for start in range(restarts):
        orders = [draw.permutation(free) if start else free for _ in range(ROUNDS)]
        found.append(climbed(units, orders, first, second, set(compared)))
    similarities = np.array([similarity for similarity, _ in found])
    similarity, permutations = found[int(np.argmax(similarities))]
    weights = moved(units, permutations, theirs)
    return Matching(permutations, weights, float(similarity), similarities)


def climbed(units, orders, first, second, compared):
    """Similarity and permutations where no set of units gains any more by another order."""
    permutations = [np.arange(u.size) for u in units]
    scale = sum(np.linalg.norm(first[i]) * np.linalg.norm(second[i]) for i in compared)
    for order in orders:
        gained = False
        for k in order:
            places = [p for p in units[k].places if p[0] in compared]
            indices = {i for i, _, _ in places}
            products = sum(product(first[i], second[i], a, s, units[k].size) for i, a, s in places)
            best = linear_sum_assignment(products, maximize=True)[1]
            tried = moved([Units("", units[k].size, places)], [best], second)
            gain = sum(np.vdot(first[i], tried[i] - second[i]) for i in indices)
            if gain > LEAST * scale:
                permutations[k], second, gained = permutations[k][best], tried, True
        if not gained:
            break
    return sum(np.vdot(first[i], second[i]) for i in compared), permutations


def product(first, second, axis, start, size):
    """(size, size) inner products of the slices of two arrays along an axis."""
    rows = slice(start, start + size)
    one, two = (np.moveaxis(w, axis, 0)[rows].reshape(size, -1) for w in (first, second))
    return one @ two.T
