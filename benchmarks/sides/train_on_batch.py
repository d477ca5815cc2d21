"""What Keras 3 and tf_keras share: the network in their layers, and `train_on_batch`."""

import numpy as np

from benchmarks import closed_forms
from benchmarks.sides.networks import batch, network, start


class Layers:
    def __init__(self, keras):
        self.layers, self.l2 = keras.layers, keras.regularizers.L2

    def dense(self, x, units, bias=True, l2=0.0):
        penalty = self.l2(l2) if l2 else None
        return self.layers.Dense(units, use_bias=bias, kernel_regularizer=penalty)(x)

    def conv(self, x, filters, size, strides):
        padded = strides > 1 and size > 1
        x = self.layers.ZeroPadding2D(size // 2)(x) if padded else x
        padding = "valid" if padded else "same"
        return self.layers.Conv2D(filters, size, strides, padding, use_bias=False)(x)

    def norm(self, x, affine=True):
        options = {"momentum": closed_forms.NORM_MOMENTUM, "epsilon": closed_forms.NORM_EPSILON}
        return self.layers.BatchNormalization(**options, center=affine, scale=affine)(x)

    def relu(self, x):
        return self.layers.ReLU()(x)

    def flatten(self, x):
        return self.layers.Flatten()(x)

    def pool(self, x):
        return self.layers.GlobalAveragePooling2D()(x)


def contender(keras, name, optimizer, around, averages):
    """A step and the weights that it leaves.

    `around(model)` is what is compiled; `averages(variables)` are the weights that count.
    """
    x, y = batch(name)
    inputs = keras.Input(x.shape[1:])
    plain = keras.Model(inputs, network(name, Layers(keras), inputs))
    for variable, value in zip(plain.trainable_variables, start(name), strict=False):
        variable.assign(value)
    model = around(plain)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, "mse" if start(name) else crossentropy)

    def weights():
        values = averages(plain.trainable_variables)
        moving = plain.non_trainable_variables[:1]
        return [list(map(np.asarray, arrays)) for arrays in (values, moving)]

    return lambda: model.train_on_batch(x, y), weights
