"""Data for the command line: scikit-learn's digits, a set of tensorflow-datasets, or an .npz file.

Images come as `train.py` shows them to a network: each channel has mean 0 and deviation 1 over the
examples that it is trained on.
"""

import math
import pathlib

import numpy as np

MEMORY_BYTES = 2**30  # Of pixels; train.py streams what is more.


def load(name, data_dir=None, split="train", train_examples=None):
    """Inputs and integer labels, or whatever an .npz file holds as `x` and `y`.

    Args:
        name: `"digits"`, a name of tensorflow-datasets, or the path of an `.npz` file with `x` and
            `y`, which are taken as they are.
        data_dir: Folder of prepared tensorflow-datasets. Defaults to `None`, their own.
        split: Split of tensorflow-datasets, as in `"train[:5000]"`; `"train"` or `"test"` of the
            digits. Defaults to `"train"`.
        train_examples: Number of training examples that `train.py` drew. Defaults to `None`: all.

    Raises:
        ValueError: If there is no such data, or it does not fit into memory.
    """
    if name.endswith(".npz"):
        return open_npz(pathlib.Path(name))
    images, labels = open_digits(split) if name == "digits" else open_tfds(name, data_dir, split)
    if train_examples is not None and train_examples < len(labels):
        drawn = np.random.default_rng(0).permutation(len(labels))[:train_examples]
        images, labels = images[drawn], labels[drawn]
    mean = images.mean((0, 1, 2), dtype="float64")  # (channels,)
    deviation = images.std((0, 1, 2), dtype="float64")  # (channels,)
    deviation = np.where(deviation > 0, deviation, 1).astype("float32")
    return (images - mean.astype("float32")) / deviation, labels


def open_npz(path):
    """Arrays `x` and `y` of a file."""
    try:
        with np.load(path) as file:
            return file["x"], file["y"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} must be an .npz file with arrays x and y: {error}") from error


def open_digits(split):
    """The 1,437 training or 360 test images of 8x8x1 that `train.py` makes of the digits."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in ("train", "test"):
        raise ValueError(f"The splits of digits are train and test. Received: split={split}")
    digits = load_digits()
    options = {"test_size": 360, "stratify": digits.target, "random_state": 0}
    images = digits.images[..., None].astype("uint8")
    train_x, test_x, train_y, test_y = train_test_split(images, digits.target, **options)
    return (train_x, train_y) if split == "train" else (test_x, test_y)


def open_tfds(name, data_dir, split):
    """Images and labels of a prepared classification set; nothing is downloaded."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            "The data set must be 'digits', an .npz file, or a name of "
            f"https://www.tensorflow.org/datasets/catalog. Received: {name}"
        ) from None
    keys = builder.info.supervised_keys or ()
    pair = [type(builder.info.features[key]) for key in keys]
    if pair != [tfds.features.Image, tfds.features.ClassLabel]:
        raise ValueError(
            f"{name} is no set of images with one label each; make an .npz file of it."
        )
    if not builder.is_prepared():
        raise ValueError(
            f"{name} is not prepared in {builder.data_dir}. Name the folder that holds it by "
            f"--data_dir, or run: python -c \"import tensorflow_datasets as t; t.load('{name}')\""
        )
    shape = builder.info.features[keys[0]].shape
    if None in shape:
        raise ValueError(f"The images of {name} vary in size; make an .npz file of it.")
    try:
        examples = builder.info.splits[split].num_examples
    except (KeyError, ValueError):
        known = ", ".join(builder.info.splits)
        raise ValueError(f"The splits of {name} are {known}. Received: split={split}") from None
    if examples * math.prod(shape) > MEMORY_BYTES:
        raise ValueError(
            f"{name} has {examples} images of {shape}, too many at once: take a part of them, as "
            "in --split=train[:10000]"
        )
    batches = builder.as_dataset(split=split, as_supervised=True, batch_size=examples)
    return next(iter(tfds.as_numpy(batches)))
