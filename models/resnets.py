"""Residual networks: for CIFAR, wide, and for ImageNet.

Reference:
    He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, arXiv:1512.03385,
    Section 4.2 (CIFAR) and Table 1 (ImageNet).
    Zagoruyko and Komodakis, *Wide Residual Networks*, BMVC 2016, arXiv:1605.07146, Table 1.
"""

from functools import partial

import keras

from models import blocks

# Blocks in each stage, by depth (He et al., Table 1); bottlenecks from 50 layers up.
IMAGENET_STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


@keras.saving.register_keras_serializable(package="models")
class IdentityShortcut(keras.layers.Layer):
    """He et al.'s option A: every `strides`-th pixel, then zeros as the further channels.

    Args:
        filters: number of channels that come out, at least those that go in.
        strides: distance of the pixels kept.
    """

    def __init__(self, filters, strides, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides

    def call(self, x):
        x = x[:, :: self.strides, :: self.strides, :]
        return keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, self.filters - x.shape[-1]]])

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}


def _identity(x, filters, strides, l2):
    return IdentityShortcut(filters, strides)(x)


def _projection(x, filters, strides, l2):
    return blocks.batch_norm(blocks.conv(x, filters, 1, strides, l2))


SHORTCUTS = {"identity": _identity, "projection": _projection}


def _residual_block(x, convs, l2, shortcut=_projection):
    """ReLU(x + convolutions(x)): BN after each of the `convs` (filters, kernel_size, strides)."""
    y = x
    for i, (filters, kernel_size, strides) in enumerate(convs):
        y = blocks.relu(y) if i else y
        y = blocks.batch_norm(blocks.conv(y, filters, kernel_size, strides, l2))
    if x.shape != y.shape:
        x = shortcut(x, filters, max(strides for _, _, strides in convs), l2)
    return blocks.relu(keras.layers.add([x, y]))


def cifar_resnet(
    depth, input_shape=(32, 32, 3), classes=10, l2=0.0, shortcut="projection", width=1
):
    """ResNet-20 to ResNet-110: three stages of basic blocks of 16, 32 and 64 filters.

    Args:
        depth: number of layers with weights, 6n+2: 20, 32, 44, 56 and 110 in the paper.
        input_shape: (height, width, channels). Defaults to `(32, 32, 3)`.
        classes: number of logits. Defaults to `10`.
        l2: weight decay of the kernels, in units of the gradient. Defaults to `0.0`.
        shortcut: "projection" (option B: 1x1 convolution and BN, as the networks of SmoothOut's
            authors have it) or "identity" (option A: no weights, as the paper has it), where a
            block changes the shape. Defaults to `"projection"`.
        width: factor of all numbers of filters. Defaults to `1`.

    Reference:
        He et al., CVPR 2016, arXiv:1512.03385, Section 4.2 and Table 6.
    """
    blocks.check_positive_int(depth=depth, width=width)
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"`depth` must be 6n+2. Received: depth={depth}")
    blocks.check_in(SHORTCUTS, shortcut=shortcut)
    inputs = blocks.image(input_shape, classes, l2)
    x = blocks.relu(blocks.batch_norm(blocks.conv(inputs, 16 * width, 3, l2=l2)))
    for stage, filters in enumerate((16 * width, 32 * width, 64 * width)):
        for block in range((depth - 2) // 6):
            strides = 2 if stage and not block else 1
            convs = [(filters, 3, strides), (filters, 3, 1)]
            x = _residual_block(x, convs, l2, SHORTCUTS[shortcut])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return blocks.classifier(inputs, x, classes, l2, f"resnet{depth}")


def wide_resnet(depth, width, input_shape=(32, 32, 3), classes=10, l2=0.0, dropout=0.0):
    """WRN-depth-width: pre-activation blocks of 16, 32 and 64 times `width` filters.

    (Hoffer et al.'s code has another "WRN-16-4": a post-activation ResNet-14, which is
    `resnet14(width=4)` here.)

    Args:
        depth: number of convolutions, 6n+4: the shortcuts count where they have weights.
        width: factor of the numbers of filters; the first convolution keeps its 16.
        input_shape: (height, width, channels). Defaults to `(32, 32, 3)`.
        classes: number of logits. Defaults to `10`.
        l2: weight decay of the kernels, in units of the gradient. Defaults to `0.0`.
        dropout: rate of the dropout between the convolutions of a block. Defaults to `0.0`.

    Reference:
        Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146, Table 1 and Section 2.4 (dropout).
    """
    blocks.check_positive_int(depth=depth, width=width)
    if depth < 10 or depth % 6 != 4:
        raise ValueError(f"`depth` must be 6n+4. Received: depth={depth}")
    inputs = blocks.image(input_shape, classes, l2)
    x = blocks.conv(inputs, 16, 3, l2=l2)
    for stage, filters in enumerate((16 * width, 32 * width, 64 * width)):
        for block in range((depth - 4) // 6):
            strides = 2 if stage and not block else 1
            y = blocks.relu(blocks.batch_norm(x))
            if strides > 1 or x.shape[-1] != filters:
                x = blocks.conv(y, filters, 1, strides, l2)
            y = blocks.relu(blocks.batch_norm(blocks.conv(y, filters, 3, strides, l2)))
            y = blocks.conv(blocks.dropout(y, dropout), filters, 3, l2=l2)
            x = keras.layers.add([x, y])
    x = keras.layers.GlobalAveragePooling2D()(blocks.relu(blocks.batch_norm(x)))
    return blocks.classifier(inputs, x, classes, l2, f"wrn{depth}_{width}")


def imagenet_resnet(depth, input_shape=(224, 224, 3), classes=1000, l2=0.0):
    """ResNet-18 to ResNet-152: a 7x7 stem, then four stages of basic or bottleneck blocks.

    The bottleneck is "v1.5", as torchvision and the large-batch literature have it: its strides
    are in the 3x3 convolution (in the paper: in the first 1x1). Shortcuts are projections.

    Args:
        depth: number of layers with weights: 18, 34, 50, 101 or 152.
        input_shape: (height, width, channels). Defaults to `(224, 224, 3)`.
        classes: number of logits. Defaults to `1000`.
        l2: weight decay of the kernels, in units of the gradient. Defaults to `0.0`.

    Reference:
        He et al., CVPR 2016, arXiv:1512.03385, Table 1; v1.5: Goyal et al., *Accurate, Large
        Minibatch SGD*, arXiv:1706.02677, Section 5.1.
    """
    blocks.check_in(IMAGENET_STAGES, depth=depth)
    inputs = blocks.image(input_shape, classes, l2)
    x = blocks.relu(blocks.batch_norm(blocks.conv(inputs, 64, 7, 2, l2)))
    x = keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D(1)(x))
    for stage, count in enumerate(IMAGENET_STAGES[depth]):
        filters = 64 * 2**stage
        for block in range(count):
            strides = 2 if stage and not block else 1
            convs = [(filters, 3, strides), (filters, 3, 1)]
            if depth >= 50:
                convs = [(filters, 1, 1), (filters, 3, strides), (4 * filters, 1, 1)]
            x = _residual_block(x, convs, l2)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return blocks.classifier(inputs, x, classes, l2, f"resnet{depth}")


resnet8 = partial(cifar_resnet, 8)
resnet14 = partial(cifar_resnet, 14)
resnet20 = partial(cifar_resnet, 20)
resnet32 = partial(cifar_resnet, 32)
resnet44 = partial(cifar_resnet, 44)
resnet56 = partial(cifar_resnet, 56)
resnet110 = partial(cifar_resnet, 110)
wrn16_4 = partial(wide_resnet, 16, 4)
wrn28_10 = partial(wide_resnet, 28, 10)
resnet18 = partial(imagenet_resnet, 18)
resnet50 = partial(imagenet_resnet, 50)
