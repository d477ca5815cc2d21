"""The networks in which sharp minima were first measured: F1 and C1 to C4.

C1 and C2 are the shallow and the deep network for CIFAR-10, C3 and C4 the same for CIFAR-100.
(F2, for the TIMIT speech data, is left out.)

Reference:
    Keskar et al., *On Large-Batch Training for Deep Learning: Generalization Gap and Sharp
    Minima*, ICLR 2017, arXiv:1609.04836, Table 1 and Appendix B. Padding, biases and dropout are
    those of its authors' published code (keskarnitish/large-batch-training).
"""

import keras

from models import blocks


def _dense_bn_relu(x, units, l2):
    return blocks.relu(blocks.batch_norm(blocks.dense(x, units, l2)))


def f1(input_shape=(28, 28, 1), classes=10, l2=0.0):
    """F1, for MNIST: five fully connected layers of 512 units with BN-ReLU.

    Args:
        input_shape: (height, width, channels). Defaults to `(28, 28, 1)`.
        classes: number of logits. Defaults to `10`.
        l2: weight decay of the kernels, in units of the gradient. Defaults to `0.0`.

    Reference:
        Keskar et al., ICLR 2017, arXiv:1609.04836, Appendix B; `mnist_f1` of Hoffer et al.
    """
    inputs = blocks.image(input_shape, classes, l2)
    x = keras.layers.Flatten()(inputs)
    for _ in range(5):
        x = _dense_bn_relu(x, 512, l2)
    return blocks.classifier(inputs, x, classes, l2, "f1")


def c1(input_shape=(32, 32, 3), classes=10, l2=0.0, dropout=0.5, width=1, name="c1"):
    """C1, for CIFAR-10, after AlexNet: two 5x5 convolutions and two fully connected layers.

    Args:
        input_shape: (height, width, channels). Defaults to `(32, 32, 3)`.
        classes: number of logits. Defaults to `10`.
        l2: weight decay of the kernels, in units of the gradient. Defaults to `0.0`.
        dropout: rate of the dropout after the fully connected layers. Defaults to `0.5`.
        width: factor of all numbers of filters and units, a fraction or more. Defaults to `1`.
        name: name of the model. Defaults to `"c1"`.

    Differs from the paper:
        1. The paper's text has convolutions of strides 2; its authors' code, and this, strides 1.
        2. In the `cifar10_shallow` of Hoffer et al. and SmoothOut, pooling comes before BN and
           without padding (7x7 pixels remain, here 8x8), and only the logits have a bias.

    Reference:
        Keskar et al., ICLR 2017, arXiv:1609.04836, Appendix B.
    """
    sizes = [width * size for size in (64, 384, 192)]
    if not all(size > 0 and size == int(size) for size in sizes):
        raise ValueError(f"`width` must make 64, 384 and 192 whole. Received: width={width}")
    filters, *dense = map(int, sizes)
    inputs = blocks.image(input_shape, classes, l2)
    x = inputs
    for _ in range(2):
        x = blocks.relu(blocks.batch_norm(blocks.conv(x, filters, 5, l2=l2, use_bias=True)))
        x = blocks.max_pool(x, 3)
    x = keras.layers.Flatten()(x)
    for units in dense:
        x = blocks.dropout(_dense_bn_relu(x, units, l2), dropout)
    return blocks.classifier(inputs, x, classes, l2, name)


def c2(input_shape=(32, 32, 3), classes=10, l2=0.0, name="c2"):
    """C2, for CIFAR-10: VGG-16's convolutions with BN and dropout, then 512 units.

    Dropout has the rate 0.3 in the first stack, 0.4 in the others, 0.5 around the 512 units.

    Args:
        input_shape: (height, width, channels). Defaults to `(32, 32, 3)`.
        classes: number of logits. Defaults to `10`.
        l2: weight decay of the kernels, in units of the gradient. Defaults to `0.0`.
        name: name of the model. Defaults to `"c2"`.

    Reference:
        Keskar et al., ICLR 2017, arXiv:1609.04836, Appendix B.
    """
    inputs = blocks.image(input_shape, classes, l2)
    x = blocks.vgg_features(inputs, (2, 2, 3, 3, 3), l2, rates=(0.3, 0.4, 0.4, 0.4, 0.4))
    x = blocks.dropout(keras.layers.Flatten()(x), 0.5)
    x = blocks.dropout(_dense_bn_relu(x, 512, l2), 0.5)
    return blocks.classifier(inputs, x, classes, l2, name)


def c3(input_shape=(32, 32, 3), classes=100, l2=0.0, dropout=0.5, width=1):
    """C3: `c1` for CIFAR-100."""
    return c1(input_shape, classes, l2, dropout, width, name="c3")


def c4(input_shape=(32, 32, 3), classes=100, l2=0.0):
    """C4: `c2` for CIFAR-100."""
    return c2(input_shape, classes, l2, name="c4")
