"""Which axes of which weights carry the hidden units of a model, found by walking its graph.

A hidden unit is a row of one kernel and a column of another, and an entry of what lies between
them: biases and normalizations. Units of one layer can change places if all of these do.
"""

import math

from keras import layers

from keras_smoothout.graph import functional, kind, walk
from keras_smoothout.moving_statistics import batch_norms, statistics

# Work on each unit by itself, or on all of them in the same way.
ELEMENTWISE = """celu elu exp exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish
    hard_tanh identity leaky_relu linear log_sigmoid log_softmax mish negative relu relu6 selu
    sigmoid silu soft_shrink softmax softplus softsign sparse_plus sparse_sigmoid sparsemax sqrt
    square squareplus swish tanh tanh_shrink threshold""".split()
HOMOGENEOUS = ("identity", "leaky_relu", "linear", "negative", "relu")
DIMENSIONS = ("1D", "2D", "3D")
POOLS = ("AveragePooling", "GlobalAveragePooling", "GlobalMaxPooling", "MaxPooling")
PASSING = [
    *(getattr(layers, pool + d) for pool in POOLS for d in DIMENSIONS),
    *(getattr(layers, name + d) for name in ("Cropping", "UpSampling") for d in DIMENSIONS),
    *(getattr(layers, name + d) for name in ("SpatialDropout", "ZeroPadding") for d in DIMENSIONS),
    *(layers.ActivityRegularization, layers.Dropout, layers.GaussianDropout, layers.GaussianNoise),
    *(layers.Identity, layers.Masking),
]
RULES = {  # The method of `Channels` for a layer, or for an operation by its name.
    **dict.fromkeys(PASSING, "passing"),
    **dict.fromkeys((layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU), "activation"),
    layers.Softmax: "activation",
    layers.Dense: "dense",
    **{getattr(layers, f"Conv{d}"): "conv" for d in DIMENSIONS},
    **{getattr(layers, f"Conv{d}Transpose"): "conv_transpose" for d in DIMENSIONS},
    **{getattr(layers, f"DepthwiseConv{d}"): "depthwise" for d in DIMENSIONS[:2]},
    **{getattr(layers, f"SeparableConv{d}"): "separable" for d in DIMENSIONS[:2]},
    layers.BatchNormalization: "batch_normalization",
    layers.LayerNormalization: "normalization",
    layers.RMSNormalization: "normalization",
    layers.PReLU: "prelu",
    layers.Embedding: "embedding",
    **dict.fromkeys((layers.Add, layers.Average, layers.Subtract, "Add", "Subtract"), "sum"),
    **dict.fromkeys((layers.Multiply, layers.Maximum, layers.Minimum), "merge"),
    **dict.fromkeys(("Divide", "Maximum", "Minimum", "Multiply", "TrueDivide"), "merge"),
    layers.Concatenate: "concatenate",
    layers.Flatten: "flatten",
    layers.Reshape: "reshape",
    **{name.title().replace("_", ""): "activation" for name in (*ELEMENTWISE, "absolute")},
}


class Group:
    """Units that keep together: `size` of them, in one order, wherever the group is met."""

    def __init__(self, size, fixed=None):
        self.size, self.fixed, self._same = size, fixed, None

    def found(self):
        """The group that this one has been united with."""
        return self if self._same is None else self._same.found()

    def unite(self, other):
        """Make this group and the `other` one; it is fixed if one of them was."""
        one, two = self.found(), other.found()
        if one is not two:
            one._same = two
        two.fixed = two.fixed or one.fixed


class Channels:
    """The groups of units along the axes of all weights of a functional model.

    A value of the walk is the list of groups along the last axis of a tensor.

    Args:
        model: A built functional or sequential model.

    Attributes:
        places: Dict from the id of a variable to a dict from an axis to its list of groups.
        names: Dict from a group to the name of the layer that it was first met in.
        outputs: List of the groups along the outputs.

    Raises:
        ValueError: If the model has a layer or operation that is not known, by its name.
    """

    def __init__(self, model):
        self.places, self.names = {}, {}
        inputs = [[Group(t.shape[-1] or 0, "the input")] for t in functional(model).inputs]
        self.outputs = [g for groups in walk(model, inputs, self.rule) for g in groups]
        self.fix(self.outputs, "the output")

    def rule(self, operation, given, tensors):
        """Groups of the outputs of one call of `operation`."""
        name = kind(operation, RULES)
        if name is None or getattr(operation, "data_format", None) == "channels_first":
            self.refuse(operation, "is not known")
        found = getattr(self, name)(operation, given, tensors)
        weights = operation.weights if isinstance(operation, layers.Layer) else []
        for variable in weights:
            if id(variable) not in self.places:
                self.refuse(operation, f"has the weight {variable.name}, which is not known")
        return [found]

    def refuse(self, operation, why):
        where = f"{operation.name} of {type(operation).__module__}.{type(operation).__qualname__}"
        raise ValueError(
            "Which weights belong to which hidden unit is known for the usual layers with channels "
            f"on the last axis: Dense, convolutions, normalizations, sums. `{operation.name}` "
            f"{why}. Received: {where}"
        )

    def bind(self, layer, variable, axis, groups):
        """Say that the `groups` lie along an axis of `variable`; they are those of before."""
        axis %= len(variable.shape)
        if sum(group.size for group in groups) != variable.shape[axis]:
            self.refuse(layer, f"has a {variable.name} of another number of channels")
        known = self.places.setdefault(id(variable), {})
        self.unite(layer, known.setdefault(axis, groups), groups)

    def along(self, layer, variable, axis):
        """The groups along an axis of `variable`: a new one in the first call of its layer."""
        axis %= len(variable.shape)
        known = self.places.setdefault(id(variable), {})
        if axis not in known:
            known[axis] = [Group(variable.shape[axis])]
            self.names[known[axis][0]] = layer.name
        return known[axis]

    def unite(self, operation, groups, others):
        """Make two lists of groups one."""
        if [g.size for g in groups] != [g.size for g in others]:
            self.refuse(operation, "joins channels that are divided in different ways")
        for group, other in zip(groups, others, strict=True):
            group.unite(other)

    def fix(self, groups, why):
        for group in groups:
            group.found().fixed = group.found().fixed or why

    def passing(self, layer, given, tensors):
        return given[0]

    def activation(self, operation, given, tensors):
        self.check_function(operation)
        return given[0]

    def check_function(self, layer):
        """Raise unless the activation of `layer` treats all units in the same way."""
        function = getattr(layer, "activation", None)
        ours = getattr(function, "__module__", "").startswith("keras.")
        known = ours and getattr(function, "__name__", None) in ELEMENTWISE
        if function is not None and not known:
            self.refuse(layer, f"has the activation {function}, which is not known")
        if isinstance(layer, layers.Softmax) and not isinstance(layer.axis, int):
            self.refuse(layer, "has several axes")

    def linear(self, layer, into, kernel, axes):
        """A layer with a kernel, whose units lie along `axes[1]`, and perhaps a bias."""
        self.bind(layer, kernel, axes[0], into)
        found = self.along(layer, kernel, axes[1])
        if layer.use_bias:
            self.bind(layer, layer.bias, 0, found)
        self.check_function(layer)
        return found

    def dense(self, layer, given, tensors):
        return self.linear(layer, given[0], layer.kernel, (0, 1))

    def conv(self, layer, given, tensors):
        if layer.groups != 1:
            self.refuse(layer, f"has {layer.groups} groups of channels")
        return self.linear(layer, given[0], layer.kernel, (-2, -1))

    def conv_transpose(self, layer, given, tensors):
        return self.linear(layer, given[0], layer.kernel, (-1, -2))

    def depthwise(self, layer, given, tensors):
        if layer.depth_multiplier != 1:
            self.refuse(layer, f"has a depth_multiplier of {layer.depth_multiplier}")
        self.bind(layer, layer.kernel, -2, given[0])
        if layer.use_bias:
            self.bind(layer, layer.bias, 0, given[0])
        self.check_function(layer)
        return given[0]

    def separable(self, layer, given, tensors):
        if layer.depth_multiplier != 1:
            self.refuse(layer, f"has a depth_multiplier of {layer.depth_multiplier}")
        self.bind(layer, layer.depthwise_kernel, -2, given[0])
        return self.linear(layer, given[0], layer.pointwise_kernel, (-2, -1))

    def batch_normalization(self, layer, given, tensors):
        return self.normalization(layer, given, tensors)

    def normalization(self, layer, given, tensors):
        last = len(tensors[0].shape) - 1
        if layer.axis not in (-1, last, [-1], [last]):
            self.refuse(layer, f"has axis={layer.axis}")
        for variable in layer.weights:
            self.bind(layer, variable, 0, given[0])
        return given[0]

    def prelu(self, layer, given, tensors):
        if layer.alpha.shape[-1] == 1:
            self.places[id(layer.alpha)] = {}
        else:
            self.bind(layer, layer.alpha, -1, given[0])
        return given[0]

    def embedding(self, layer, given, tensors):
        if type(layer) is not layers.Embedding:
            self.refuse(layer, "is not known")
        return self.along(layer, layer.embeddings, -1)

    def sum(self, operation, given, tensors):
        return self.merge(operation, given, tensors)

    def merge(self, operation, given, tensors):
        shapes = [t.shape for t in tensors]
        if len(given) < 2 or any(shape[-1] not in (1, shapes[0][-1]) for shape in shapes[1:]):
            self.refuse(operation, "joins a constant, or channels of different numbers")
        for groups, shape in zip(given[1:], shapes[1:], strict=True):
            if shape[-1] != 1 or shapes[0][-1] == 1:  # Else it is added to all channels.
                self.unite(operation, groups, given[0])
        return given[0]

    def concatenate(self, layer, given, tensors):
        if layer.axis in (-1, len(tensors[0].shape) - 1):
            return [group for groups in given for group in groups]
        return self.merge(layer, given, tensors)

    def flatten(self, layer, given, tensors):
        return given[0] * math.prod(tensors[0].shape[1:-1])

    def reshape(self, layer, given, tensors):
        if len(layer.target_shape) == 1:
            return self.flatten(layer, given, tensors)
        if layer.target_shape[-1] != tensors[0].shape[-1]:
            self.refuse(layer, "changes the number of channels")
        return given[0]


def held(model):
    """Indices of the weights of `model` that are neither trained nor re-estimated: a set."""
    free = {id(v) for v in [*model.trainable_weights, *statistics(batch_norms(model))]}
    return {i for i, v in enumerate(model.weights) if id(v) not in free}
