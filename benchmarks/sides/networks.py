"""The networks and batches that all sides share, in layers which each side brings."""

import numpy as np

from benchmarks import closed_forms

BATCHES = {  # name: shape of an image, number of them
    "f1": ((28, 28, 1), 256),
    "dense": ((28, 28, 1), 256),  # F1 without BatchNormalization.
    "resnet20": ((32, 32, 3), 128),
}


def network(name, layers, x):
    """F1 and ResNet-20 as in models/, and the problems of the closed forms."""
    if name in closed_forms.PROBLEMS:
        x = layers.dense(x, 3, bias=False, l2=closed_forms.PENALTY if name == "L2" else 0.0)
        x = layers.norm(x, affine=False) if name == "BN" else x
        return layers.dense(x, 2, bias=False)
    if name in ("f1", "dense"):
        x = layers.flatten(x)
        for _ in range(5):
            x = layers.dense(x, 512)
            x = layers.relu(layers.norm(x) if name == "f1" else x)
        return layers.dense(x, 10)
    x = layers.relu(layers.norm(layers.conv(x, 16, 3, 1)))
    for filters, strides in 3 * [(16, 1)] + [(32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)]:
        y = layers.relu(layers.norm(layers.conv(x, filters, 3, strides)))
        y = layers.norm(layers.conv(y, filters, 3, 1))
        x = layers.norm(layers.conv(x, filters, 1, strides)) if strides > 1 else x
        x = layers.relu(x + y)
    return layers.dense(layers.pool(x), 10)


def batch(name):
    """One batch: of numbers to fit for the problems, of classes for the others."""
    if name in closed_forms.PROBLEMS:
        return closed_forms.X, closed_forms.Y
    (shape, size), rng = BATCHES[name], np.random.default_rng(0)
    return rng.normal(size=(size, *shape)).astype("float32"), rng.integers(0, 10, size)


def start(name):
    """The weights that a network has to start from: none for those that are only timed."""
    return (closed_forms.W, closed_forms.V) if name in closed_forms.PROBLEMS else ()


def sync_period(name):
    """Lookahead's: its default where time is measured, less than all steps elsewhere."""
    return closed_forms.SYNC_PERIOD if name in closed_forms.PROBLEMS else 5
