"""Weights without the freedom of scale: each hidden unit's incoming weights have norm 1.

Behind a ReLU a unit can be scaled up, and what it feeds scaled down; in front of BatchNormalization
it can be scaled alone. Neither changes the function, and both change distances and curvatures.
"""

from typing import NamedTuple

import numpy as np
from keras import layers

from keras_smoothout.landscape.comparison.channels import HOMOGENEOUS, Channels, Group, held
from keras_smoothout.landscape.directions import whole


class NormalForm(NamedTuple):
    """What `normal_form` returns.

    Attributes:
        weights: List of arrays as of `get_weights`.
        scale: Factor of the outputs: the model's are `scale` times those of the normal form.
        spheres: List of integer arrays like `weights`: which sphere each number lies on, -1 for
            those that are not normalised.
    """

    weights: list
    scale: float
    spheres: list


class Scales(Channels):
    """The groups of units that can be scaled, in place of those that can be permuted.

    Attributes:
        consumers: Set of pairs (id of a variable, axis): what a unit feeds, to be divided where the
            unit is multiplied.
        norms: Dict from the id of a moving variance to its epsilon.
        bent: List of pairs (group, operation) of operations that know a scale.
    """

    def __init__(self, model):
        self.consumers, self.norms, self.bent, self._after = set(), {}, [], {}
        super().__init__(model)

    def bend(self, groups, operation):
        self.fix(groups, operation.name)
        self.bent += [(group, operation) for group in groups]

    def activation(self, operation, given, tensors):
        super().activation(operation, given, tensors)
        function = getattr(operation, "activation", None)
        if isinstance(operation, layers.ReLU):
            bends = operation.max_value is not None or bool(operation.threshold)
        elif isinstance(operation, layers.Activation):
            bends = function.__name__ not in HOMOGENEOUS
        else:
            name = type(operation).__name__
            bends = name not in (
                "Absolute",
                "LeakyReLU",
                *(n.title().replace("_", "") for n in HOMOGENEOUS),
            )
        if bends:
            self.bend(given[0], operation)
        return given[0]

    def linear(self, layer, into, kernel, axes):
        found = super().linear(layer, into, kernel, axes)
        self.consumers.add((id(kernel), axes[0] % len(kernel.shape)))
        function = layer.activation
        if function is not None and function.__name__ not in HOMOGENEOUS:
            self.bend(found, layer)
        return found

    def depthwise(self, layer, given, tensors):
        self.fix(given[0], layer.name)
        found = self.along(layer, layer.kernel, -2)
        super().depthwise(layer, [found], tensors)
        if layer.activation is not None and layer.activation.__name__ not in HOMOGENEOUS:
            self.bend(found, layer)
        return found

    def separable(self, layer, given, tensors):
        self.fix(given[0], layer.name)
        return super().separable(layer, [self.along(layer, layer.depthwise_kernel, -2)], tensors)

    def batch_normalization(self, layer, given, tensors):
        scaled = [v for v in (layer.gamma, layer.beta) if v is not None]
        found = self._after.setdefault(id(layer), [Group(tensors[0].shape[-1], layer.name)])
        for variable in (layer.moving_mean, layer.moving_variance):
            self.bind(layer, variable, 0, given[0])
            self.consumers.add((id(variable), 0))
        for variable in scaled:
            self.bind(layer, variable, 0, found)
        self.norms[id(layer.moving_variance)] = layer.epsilon
        return found

    def normalization(self, layer, given, tensors):
        self.bend(given[0], layer)
        return super().normalization(layer, given, tensors)

    def prelu(self, layer, given, tensors):
        self.places[id(layer.alpha)] = {}
        return given[0]

    def merge(self, operation, given, tensors):
        for groups in given:
            self.fix(groups, operation.name)
        return super().merge(operation, given, tensors)

    def sum(self, operation, given, tensors):
        if len({t.shape[-1] for t in tensors}) > 1:  # One channel is added to all others.
            return self.merge(operation, given, tensors)
        return super().merge(operation, given, tensors)


def normal_form(model, weights=None):
    """Scale each hidden unit so that the weights it comes from have norm 1 together.

        unit:  kernel and bias / r                 r = ||incoming kernel, bias||
               what it feeds: rows of the next kernels * r
               BatchNormalization: mean / r, variance + epsilon / r^2
        last layer: kernel and bias / scale        scale = their norm

    The function is the same up to `scale`, for which errors do not care; several last layers are
    scaled together. Units of all layers whose outputs are added up are scaled together, and units
    that frozen weights carry not at all. `gamma` and `beta` stay as they are, and so does what
    cannot be scaled, such as units that are added to normalized ones.

    Args:
        model: As for `hidden_units`. Activations, except those right behind a normalization, must
            be positively homogeneous: ReLU, leaky ReLU, PReLU, none.
        weights: List of arrays as of `model.get_weights()`. Defaults to `None`: those of `model`.

    Returns:
        A `NormalForm`.

    Raises:
        ValueError: If an activation knows a scale, or units of a residual connection without
            normalization would have to be scaled in a circle, by the name of the layer.

    Cost: a few copies of the weights in float64.
    Differs from the paper: BatchNormalization; there is no factor to push, as it divides by the
        norm. Its epsilon is made up for in the moving variance, so outputs in inference are the
        same; if statistics are re-estimated, epsilon counts as much as the norms have changed.
        The paper's text was not at hand.

    Example:
        >>> import keras, numpy as np
        >>> from keras_smoothout import landscape
        >>> net = [keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((4,)), *net])
        >>> form = landscape.normal_form(model)
        >>> bool(np.allclose(np.linalg.norm(form.weights[0], axis=0), 1))
        True

    Reference: Pittorino et al., *Deep Networks on Toroids: Removing Symmetries Reveals the
        Structure of Flat Regions in the Landscape Geometry*, ICML 2022, arXiv:2202.03038.
    """
    scales = Scales(model)
    arrays = whole(model, model if weights is None else weights)
    arrays, dtypes = [a.astype("float64") for a in arrays], [a.dtype for a in arrays]
    sources, targets, last = parts(model, scales)
    spheres, count, done, scale = [np.full(a.shape, -1, "int32") for a in arrays], 0, set(), 1.0
    kept = held(model)
    stuck = {
        group
        for table in (sources, targets)
        for group, places in table.items()
        if kept & {i for i, _, _ in places}
    }
    for group in [g for g in sources if not (g.fixed or g in stuck)]:
        done.add(group)
        if kernels := [i for i, _, _ in targets.get(group, []) if last.get(i) in done]:
            raise ValueError(
                "Units of a residual connection without normalization cannot be scaled one after "
                f"the other. Received: `{model.weights[kernels[0]].path}` behind the units of "
                f"`{scales.names.get(group)}`"
            )
        square = np.zeros(group.size)
        for i, axis, start in sources[group]:
            part = np.moveaxis(arrays[i], axis, 0)[start : start + group.size]
            square += np.sum(part.reshape(group.size, -1) ** 2, 1)
        norms = np.where(square > 0, np.sqrt(square), 1.0)
        for i, axis, start in sources[group]:
            np.moveaxis(arrays[i], axis, -1)[..., start : start + group.size] /= norms
            numbers = count + np.arange(group.size)
            np.moveaxis(spheres[i], axis, -1)[..., start : start + group.size] = numbers
        count += group.size
        for i, axis, start in targets.get(group, []):
            epsilon = scales.norms.get(id(model.weights[i]))
            part = np.moveaxis(arrays[i], axis, -1)[..., start : start + group.size]
            if epsilon is not None:
                part[...] = (part + epsilon) / norms**2 - epsilon
            elif part.ndim == 1:
                part /= norms
            else:
                part *= norms
    ends = {group.found() for group in scales.outputs}
    if all(g in sources and not targets.get(g) and g not in stuck for g in ends):
        places = [place for group in ends for place in ends_of(arrays, sources[group], group.size)]
        scale = float(np.sqrt(sum(np.sum(arrays[i][rows] ** 2) for i, rows in places))) or 1.0
        for i, rows in places:
            arrays[i][rows] /= scale
            spheres[i][rows] = count
    weights = [a.astype(dtype) for a, dtype in zip(arrays, dtypes, strict=True)]
    return NormalForm(weights, scale, spheres)


def ends_of(arrays, places, size):
    """Pairs (index of an array, slices of it) of the `places` of a group."""
    for i, axis, start in places:
        rows = [slice(None)] * arrays[i].ndim
        rows[axis] = slice(start, start + size)
        yield i, tuple(rows)


def parts(model, scales):
    """Where groups come from and what they feed: dicts from groups to places; groups of kernels.

    Raises:
        ValueError: If an operation knows the scale of units that kernels make.
    """
    sources, targets, last = {}, {}, {}
    for group in scales.names:
        sources[group.found()] = []
    for index, variable in enumerate(model.weights):
        for axis, groups in scales.places.get(id(variable), {}).items():
            consumed, start = (id(variable), axis) in scales.consumers, 0
            for group in (g.found() for g in groups):
                if consumed or group in sources:
                    table = targets if consumed else sources
                    table.setdefault(group, []).append((index, axis, start))
                if not consumed and len(variable.shape) > 1:
                    last[index] = group
                start += group.size
    for group, operation in scales.bent:
        if group.found() in sources:
            scales.refuse(operation, "is not positively homogeneous, and no normalization is ahead")
    return sources, targets, last
