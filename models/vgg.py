"""VGG networks with batch normalization, for small and for large images.

Reference:
    Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*,
    ICLR 2015, arXiv:1409.1556, Table 1.
"""

from functools import partial

import keras

from models import blocks

# Convolutions in each stack, by depth: the paper's configurations A, B, D and E.
STACKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg(depth, input_shape=(32, 32, 3), classes=10, l2=0.0, head=None, dropout=0.5):
    """VGG-11, 13, 16 or 19: stacks of 3x3 convolution-BN-ReLU with pooling after each.

    Args:
        depth: number of layers with weights in the paper: 11, 13, 16 or 19.
        input_shape: (height, width, channels). Defaults to `(32, 32, 3)`.
        classes: number of logits. Defaults to `10`.
        l2: weight decay of the kernels, in units of the gradient. Defaults to `0.0`.
        head: "linear" (mean over the pixels, then the logits: the usual network for CIFAR) or
            "mlp" (the paper's two layers of 4096 units, with dropout). Defaults to `None`: "mlp"
            for images of at least 128x128 pixels, "linear" for smaller ones.
        dropout: rate of the dropout in the "mlp" head. Defaults to `0.5`.

    Differs from the paper:
        batch normalization before each ReLU of the convolutions, He's initialisation.

    Reference:
        Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556, Table 1 and Section 3.1 (dropout).
    """
    blocks.check_in(STACKS, depth=depth)
    blocks.check_in((None, "linear", "mlp"), head=head)
    inputs = blocks.image(input_shape, classes, l2)
    x = blocks.vgg_features(inputs, STACKS[depth], l2)
    if head is None:
        head = "mlp" if min(input_shape[:2]) >= 128 else "linear"
    if head == "linear":
        x = keras.layers.GlobalAveragePooling2D()(x)
    else:
        x = keras.layers.Flatten()(x)
        for _ in range(2):
            x = blocks.dropout(blocks.relu(blocks.dense(x, 4096, l2)), dropout)
    return blocks.classifier(inputs, x, classes, l2, f"vgg{depth}")


vgg11 = partial(vgg, 11)
vgg13 = partial(vgg, 13)
vgg16 = partial(vgg, 16)
vgg19 = partial(vgg, 19)
