"""The networks of the large-batch literature, as plain functional Keras models.

    model = models.resnet20(input_shape=(32, 32, 3), classes=10, l2=1e-4)
    model = models.build("resnet20", (32, 32, 3), 10, l2=1e-4, shortcut="identity")

Outputs are logits (losses take `from_logits=True`), float32 also under mixed precision.
`l2` is the weight decay as papers and PyTorch state it: each kernel w adds `l2 / 2 * sum(w ** 2)`
to the loss, thus `l2 * w` to the gradient; biases and batch norm are left alone.
Images have their channels last and any size, from one pixel up. Weights are drawn by Keras' global
seed: `keras.utils.set_random_seed` before. Models with `shortcut="identity"` hold a layer of
this package: `import models` before `keras.saving.load_model`.
"""

from models.resnets import (
    cifar_resnet,
    imagenet_resnet,
    resnet8,
    resnet14,
    resnet18,
    resnet20,
    resnet32,
    resnet44,
    resnet50,
    resnet56,
    resnet110,
    wide_resnet,
    wrn16_4,
    wrn28_10,
)
from models.small import c1, c2, c3, c4, f1
from models.vgg import vgg, vgg11, vgg13, vgg16, vgg19

BUILDERS = {
    "resnet8": resnet8,
    "resnet14": resnet14,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "wrn16_4": wrn16_4,
    "wrn28_10": wrn28_10,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "vgg11": vgg11,
    "vgg13": vgg13,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "f1": f1,
    "c1": c1,
    "c2": c2,
    "c3": c3,
    "c4": c4,
}
NAMES = tuple(BUILDERS)

__all__ = ["BUILDERS", "NAMES", "build", "cifar_resnet", "imagenet_resnet", "vgg", "wide_resnet"]
__all__ += NAMES


def build(name, input_shape, classes, l2=0.0, **options):
    """Builds a network by its name.

    Args:
        name: one of `NAMES`.
        input_shape: (height, width, channels).
        classes: number of logits.
        l2: weight decay of the kernels, in units of the gradient. Defaults to `0.0`.
        **options: further arguments of the builder: `shortcut`, `width`, `dropout`, `head`.
    """
    if name not in BUILDERS:
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}. Received: name={name}")
    return BUILDERS[name](input_shape, classes, l2, **options)
