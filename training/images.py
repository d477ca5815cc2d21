"""Images: scikit-learn's digits, or any image classification set of tfds, in memory or streamed."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_smoothout.checks import check_labels
from keras_smoothout.datasets import MEMORY_BYTES, MOMENT_EXAMPLES, digits, prepared


class Split(NamedTuple):
    """A finite, ordered list of labelled images.

    Args:
        examples: how many there are.
        batches: `batches(batch_size, key)` gives one pass of (index, image, label) batches: in
            order when `key` is `None`, else shuffled by the pair of integers `key`.
    """

    examples: int
    batches: Callable


class Source(NamedTuple):
    """The two splits of a data set and what a model has to know about it."""

    train: Split
    test: Split
    image_shape: tuple  # (height, width, channels)
    classes: int
    mean: np.ndarray  # (channels,) of the training images
    deviation: np.ndarray  # (channels,) of the training images


def load(
    name,
    data_dir=None,
    download=False,
    train_split="train",
    test_split="test",
    image_size=None,
    train_examples=None,
    seed=0,
):
    """Opens a data set, downloading only if told so.

    Args:
        name: "digits", or a tfds name such as "cifar10".
        data_dir: folder of prepared tfds sets. Defaults to tfds' own, `~/tensorflow_datasets`.
        download: whether tfds may download and prepare the set. Defaults to `False`.
        train_split: tfds' name of the split to train on. Defaults to `"train"`.
        test_split: tfds' name of the split to test on. Defaults to `"test"`.
        image_size: height and width, in pixels, that all images are resized to. Defaults to
            `None`: as they are.
        train_examples: train on so many examples, drawn by `seed` if the split is held in memory,
            else the first ones. Defaults to `None`: all.
        seed: seed of that draw. Defaults to `0`.
    """
    if name == "digits":
        opened = open_digits(image_size)
    else:
        opened = open_tfds(name, data_dir, download, train_split, test_split, image_size)
    (train, test), image_shape, classes = opened
    for wanted, split in ((train_split, train), (test_split, test)):
        streams = isinstance(split, tf.data.Dataset)
        labels = next(split.batch(100).as_numpy_iterator())[1] if streams else split[1]
        check_labels(f"labels of {name}, {wanted}", labels, classes)
    if train_examples:
        train = subset(train, train_examples, seed)
    streams = isinstance(train, tf.data.Dataset)
    train, test = as_split(train), as_split(test)
    mean, deviation = moments(train, MOMENT_EXAMPLES if streams else train.examples)
    if not np.all(np.isfinite([mean, deviation])):
        raise ValueError(f"The training images of '{name}' hold pixels that are not finite.")
    return Source(train, test, image_shape, classes, mean, deviation)


def open_digits(image_size):
    splits = [(resized(images, image_size).numpy(), labels) for images, labels in digits()]
    return splits, splits[0][0].shape[1:], 10


def open_tfds(name, data_dir, download, train_split, test_split, image_size):
    builder, image, label = prepared(name, data_dir, download, image_size)
    height, width = (image_size, image_size) if image_size else image.shape[:2]

    def open_split(split):
        try:
            examples = builder.info.splits[split].num_examples
            dataset = builder.as_dataset(split=split, as_supervised=True)
        except (ValueError, KeyError) as error:
            raise ValueError(f"'{name}' has no images in the split '{split}': {error}") from error
        dataset = dataset.map(
            lambda image, label: (resized(image, image_size), label), tf.data.AUTOTUNE
        )
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(examples))
        if examples * height * width * image.shape[2] > MEMORY_BYTES:
            return dataset
        return next(dataset.batch(examples).as_numpy_iterator())

    splits = open_split(train_split), open_split(test_split)
    return splits, (height, width, image.shape[2]), label.num_classes


def resized(images, size):
    """One image or a batch, squeezed to `size` x `size` pixels."""
    if not size:
        return tf.convert_to_tensor(images)
    pixels = tf.image.resize(images, (size, size), antialias=True)
    return tf.saturate_cast(tf.round(pixels), images.dtype)


def subset(split, examples, seed):
    in_memory = not isinstance(split, tf.data.Dataset)
    available = len(split[1]) if in_memory else int(split.cardinality())
    if examples > available:
        raise ValueError(
            f"`train_examples` must be <= {available}, the size of the training split. "
            f"Received: train_examples={examples}"
        )
    if not in_memory:
        return split.take(examples)
    drawn = np.random.default_rng(seed).permutation(available)[:examples]
    return split[0][drawn], split[1][drawn]


def as_split(split):
    """A `Split` from arrays (images, labels), or from a `Dataset` of such pairs."""
    if isinstance(split, tf.data.Dataset):
        return streamed(split)
    images, labels = split
    with tf.device("CPU:0"):
        images, labels = tf.constant(images), tf.constant(labels)

    def batches(batch_size, key=None):
        order = tf.range(len(labels))
        if key is not None:
            order = tf.random.experimental.stateless_shuffle(order, key)
        return (
            tf.data.Dataset.from_tensor_slices(order)
            .batch(batch_size)
            .map(lambda index: (index, tf.gather(images, index), tf.gather(labels, index)))
        )

    return Split(len(labels), batches)


def streamed(dataset):
    """Shuffles through a buffer of at most `MEMORY_BYTES`, so only locally if the set is larger."""
    examples = int(dataset.cardinality())
    image = dataset.element_spec[0]
    buffer = min(examples, max(1, MEMORY_BYTES // (math.prod(image.shape) * image.dtype.size)))

    def batches(batch_size, key=None):
        numbered = dataset.enumerate()
        if key is not None:
            seed = tf.random.stateless_uniform((), key, maxval=tf.int64.max, dtype=tf.int64)
            numbered = numbered.shuffle(buffer, seed=seed, reshuffle_each_iteration=False)
        return numbered.map(lambda index, example: (index, *example)).batch(batch_size)

    return Split(examples, batches)


def moments(split, examples):
    """Mean and standard deviation of each channel over the first so many examples."""
    pixels, total, squares = 0, 0.0, 0.0
    for _, images, _ in split.batches(100).take(math.ceil(examples / 100)):
        images = images.numpy().astype("float64")
        pixels += images[..., 0].size
        total = total + images.sum((0, 1, 2))  # (channels,)
        squares = squares + (images**2).sum((0, 1, 2))  # (channels,)
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    return mean, np.where(deviation > 0, deviation, 1)  # A constant channel is only centred.
