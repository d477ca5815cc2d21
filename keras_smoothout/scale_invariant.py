"""Which kernels of a model BatchNormalization makes free of scale: `scale_invariant`."""

import itertools

import keras
from keras import layers

from keras_smoothout.copies import Copies
from keras_smoothout.graph import functional, walk

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
CONVOLUTIONS += (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


def scale_invariant(model):
    """Paths of the kernels whose norm the output of `model` does not depend on, in training.

    They are those of Dense and convolutions without activation, with or without bias, that feed
    only BatchNormalization that is not frozen. Transposed convolutions are left out: their filters
    do not lie along the last axis. Multiplied by a number, each gives the same outputs,
    up to the epsilon of BatchNormalization.

    Args:
        model: A built functional or sequential model, or `Copies` of one.

    Returns:
        Tuple of strings, for the `weights` of `FixedEffectiveRate`.

    Raises:
        ValueError: If `model`, or a model inside of it, has a `call` of its own.

    Example:
        >>> import keras, keras_smoothout as ks
        >>> inputs = keras.Input((4,))
        >>> x = keras.layers.Dense(8, name="first")(inputs)
        >>> x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        >>> ks.scale_invariant(keras.Model(inputs, keras.layers.Dense(2, name="last")(x)))
        ('first/kernel',)
    """
    found, spoiled = {}, set()
    copied = isinstance(model, Copies)
    single = model.copied() if copied else model

    def rule(operation, given, tensors):
        normalizes = isinstance(operation, layers.BatchNormalization) and operation.trainable
        if not normalizes:
            spoiled.update(*given)
        if not isinstance(operation, (layers.Dense, *CONVOLUTIONS)):
            return itertools.repeat(frozenset())
        path = (model.stacked(operation.kernel) if copied else operation.kernel).path
        found[path] = operation.trainable
        if operation.activation is not keras.activations.linear:
            spoiled.add(path)
        return [frozenset([path])]

    spoiled.update(*walk(single, [frozenset()] * len(functional(single).inputs), rule))
    return tuple(path for path, trained in found.items() if trained and path not in spoiled)
