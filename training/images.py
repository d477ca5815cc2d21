"""The images of a training: a `Split` to train on, another to test on, in shuffled batches."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_smoothout import datasets


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
    dataset,
    data_dir=None,
    download=False,
    train_split="train",
    test_split="test",
    image_size=None,
    train_examples=None,
    label_noise=0.0,
    seed=0,
):
    """Opens the splits to train and to test on. The arguments are those of `datasets.load`.

    `label_noise` is the share of the training labels that are wrong. `seed` is that of their draw,
    and of `train_examples`, if the training split is in memory.
    """
    train, test = (
        datasets.opened(dataset, split, data_dir, download, image_size)
        for split in (train_split, test_split)
    )
    if train_examples:
        train = datasets.subset(train, train_examples, seed)
    splits = mislabelled(as_split(train), label_noise, train.classes, seed), as_split(test)
    return Source(*splits, train.shape, train.classes, *datasets.moments(train))


def as_split(part):
    """A `Split` of the images that `datasets.opened` gave."""
    if part.stream is not None:
        return streamed(part)
    with tf.device("CPU:0"):
        images, labels = map(tf.constant, part.arrays)

    def batches(batch_size, key=None):
        order = tf.range(len(labels))
        if key is not None:
            order = tf.random.experimental.stateless_shuffle(order, key)
        return (
            tf.data.Dataset.from_tensor_slices(order)
            .batch(batch_size)
            .map(lambda index: (index, tf.gather(images, index), tf.gather(labels, index)))
        )

    return Split(part.examples, batches)


def mislabelled(split, share, classes, seed=0):
    """The same images, a `share` of them under the label of another class, drawn by `seed`."""
    if not share:
        return split
    rng = np.random.default_rng(seed)
    shift = np.zeros(split.examples, "int64")
    wrong = rng.permutation(split.examples)[: round(share * split.examples)]
    shift[wrong] = rng.integers(1, classes, len(wrong))
    with tf.device("CPU:0"):
        shift = tf.constant(shift)

    def relabelled(index, image, label):
        moved = tf.cast(label, tf.int64) + tf.gather(shift, index)
        return index, image, tf.cast(moved % classes, label.dtype)

    return Split(split.examples, lambda *given: split.batches(*given).map(relabelled))


def streamed(part):
    """Shuffles through a buffer of at most `MEMORY_BYTES`, so only locally if the set is larger."""
    image_bytes = math.prod(part.shape) * part.stream.element_spec[0].dtype.size
    buffer = min(part.examples, max(1, datasets.MEMORY_BYTES // image_bytes))

    def batches(batch_size, key=None):
        numbered = part.stream.enumerate()
        if key is not None:
            seed = tf.random.stateless_uniform((), key, maxval=tf.int64.max, dtype=tf.int64)
            numbered = numbered.shuffle(buffer, seed=seed, reshuffle_each_iteration=False)
        return numbered.map(lambda index, example: (index, *example)).batch(batch_size)

    return Split(part.examples, batches)
