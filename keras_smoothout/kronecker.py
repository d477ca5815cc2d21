"""Layers that multiply rows by a matrix.

The kernel and bias of such a layer are one matrix `[kernel; bias]`, and its inputs are rows with a
1 at the end. Its block of the curvature is about `A x G`: `A` of the rows, `G` of the gradients at
the outputs. A convolution multiplies the patches that its kernel sees.
"""

import itertools
import math

from keras import layers, ops

from keras_smoothout import keras_internals


class Rows:
    """Dense, as a matrix.

    Args:
        layer: A built layer.
        kernel: Position of its kernel among the weights of a model.
        bias: Position of its bias, or `None` if it has none or keeps it apart.
    """

    def __init__(self, layer, kernel, bias):
        self.layer, self.kernel, self.bias = layer, kernel, bias
        self.shape = tuple(layer.kernel.shape)
        rows, columns = (math.prod(self.shape[i] for i in axes) for axes in self.axes())
        self.rows, self.sizes = rows, (rows + (bias is not None), columns)

    def axes(self):
        """Axes of the kernel that are rows of the matrix, and those that are columns."""
        *rows, column = range(len(self.shape))
        return rows, [column]

    def inputs(self, x):
        """Inputs of a call as rows."""
        return ops.reshape(x, (-1, self.rows))

    def outputs(self, s):
        """Outputs of a call, or gradients there, as rows."""
        return ops.reshape(s, (-1, self.sizes[1]))

    def join(self, weights):
        """The matrix `[kernel; bias]` of the layer, from a list of all weights of the model."""
        order = [i for part in self.axes() for i in part]
        kernel = ops.reshape(ops.transpose(weights[self.kernel], order), (self.rows, -1))
        if self.bias is None:
            return kernel
        return ops.concatenate([kernel, ops.reshape(weights[self.bias], (1, -1))], axis=0)

    def split(self, matrix):
        """Kernel and bias of `[kernel; bias]`, by their positions."""
        order = [i for part in self.axes() for i in part]
        kernel = ops.reshape(matrix[: self.rows], [self.shape[i] for i in order])
        found = {self.kernel: ops.transpose(kernel, [order.index(i) for i in range(len(order))])}
        if self.bias is not None:
            found[self.bias] = ops.reshape(matrix[-1], self.layer.bias.shape)
        return found


class Einsum(Rows):
    """EinsumDense, where no letter of the kernel stands in both inputs and outputs."""

    def axes(self):
        given, kernel, _ = letters(self.layer.equation)
        rows = [i for i, c in enumerate(kernel) if c in given]
        return rows, [i for i in range(len(kernel)) if i not in rows]

    def inputs(self, x):
        given, kernel, _ = letters(self.layer.equation, inputs=len(x.shape))
        return super().inputs(at_the_end(x, given, [c for c in kernel if c in given]))

    def outputs(self, s):
        _, kernel, out = letters(self.layer.equation, outputs=len(s.shape))
        return super().outputs(at_the_end(s, out, [c for c in kernel if c in out]))


class Patches(Rows):
    """A convolution, as the product of patches and a matrix."""

    def inputs(self, x):
        return super().inputs(patches(self.layer, self._channels_last(x)))

    def outputs(self, s):
        return super().outputs(self._channels_last(s))

    def _channels_last(self, x):
        return x if self.layer.data_format == "channels_last" else ops.moveaxis(x, 1, -1)


KINDS = {layers.Dense: Rows, layers.EinsumDense: Einsum}
KINDS |= dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D), Patches)


def blocks_of(model, positions):
    """The layers of `model`, at any depth, that multiply rows by a matrix.

    A layer of a class that is derived from Keras' own is none of them: its `call` is not known.

    Args:
        model: A built model.
        positions: Dictionary from the identity of a variable to its position among the weights.
            Layers with other kernels are left out, and other biases are kept apart.
    """
    found = []
    for layer in keras_internals.layers(model):
        kind, kernel = KINDS.get(type(layer)), positions.get(id(getattr(layer, "kernel", None)))
        if kind is not None and kernel is not None and is_matrix(layer):
            bias = positions.get(id(layer.bias)) if adds_to_columns(layer) else None
            found.append(kind(layer, kernel, bias))
    return found


def is_matrix(layer):
    """Whether the kernel of `layer` is one matrix for all rows."""
    if not isinstance(layer, layers.EinsumDense):
        return getattr(layer, "groups", 1) == 1
    given, kernel, out = map(set, letters(layer.equation))
    return not given & kernel & out and kernel <= given | out and given ^ out <= kernel


def adds_to_columns(layer):
    """Whether the bias of `layer` is one number for each column of its matrix, in their order."""
    if not isinstance(layer, layers.EinsumDense):
        return True
    given, kernel, out = letters(layer.equation)
    columns = [c for c in kernel if c not in given]
    return columns == [c for c in out if c in (layer.bias_axes or "")] and set(columns) <= set(out)


def letters(equation, inputs=None, outputs=None):
    """Letters of the inputs, the kernel and the outputs in an equation of einsum: three strings.

    Args:
        equation: The equation, in which dots may stand for several letters.
        inputs: Number of axes of the inputs. Defaults to `None`.
        outputs: Number of axes of the outputs, in place of it. Without both, dots are one letter.
    """
    left, out = equation.replace(" ", "").split("->")
    given, kernel = left.split(",")
    rank, known = (inputs, given) if inputs else (outputs, out)
    count = rank - len(known.replace("...", "")) if rank else 1
    dots = "".join(chr(0x100 + i) for i in range(count))
    return [part.replace("...", dots) for part in (given, kernel, out)]


def at_the_end(tensor, names, last):
    """`tensor`, whose axes have `names`, with the axes `last` moved to the end, in this order."""
    first = [c for c in names if c not in last]
    return ops.transpose(tensor, [names.index(c) for c in [*first, *last]])


def patches(layer, x):
    """What the kernel of a convolution sees of `x` at each place, along the last axis.

    They are in the order of the kernel: its places, the last one fastest, then channels.
    """
    axes = list(zip(layer.kernel_size, layer.strides, layer.dilation_rate, strict=True))
    pads, counts = [], []
    for length, (size, stride, dilation) in zip(ops.shape(x)[1:-1], axes, strict=True):
        span = (size - 1) * dilation + 1
        low, high = padding(layer.padding, length, span, stride)
        pads.append((low, high))
        counts.append((length + low + high - span) // stride + 1)
    if layer.padding != "valid":
        x = ops.pad(x, [(0, 0), *pads, (0, 0)])
    parts = []
    for place in itertools.product(*(range(size) for size, _, _ in axes)):
        seen = [
            slice(i * dilation, i * dilation + (count - 1) * stride + 1, stride)
            for i, count, (_, stride, dilation) in zip(place, counts, axes, strict=True)
        ]
        parts.append(x[(slice(None), *seen)])
    return ops.concatenate(parts, axis=-1)


def padding(kind, length, span, stride):
    """Zeros before and after an axis of `length` that a window of `span` goes along."""
    if kind == "valid":
        return 0, 0
    if kind == "causal":
        return span - 1, 0
    most = max if isinstance(length, int) else ops.maximum
    total = most((-(-length // stride) - 1) * stride + span - length, 0)
    return total // 2, total - total // 2
