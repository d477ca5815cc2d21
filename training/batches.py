"""Batches of a data set, shuffled and augmented for training, or in order for evaluation.

The order, crops and flips of epoch `e` are a pure function of (seed, e). So a run that is resumed
at a step of epoch `e` sees the batches that the uninterrupted one would have seen.
"""

import tensorflow as tf

AUGMENTATIONS = ("none", "crop", "crop_flip")


def training(source, batch_size, epochs, augment="none", seed=0, drop_remainder=False, step=0):
    """Shuffled, augmented, normalised (images, one-hot labels), one epoch after the other.

    Args:
        source: what `load` returned.
        batch_size: in examples. An epoch's last batch is smaller if the examples do not divide.
        epochs: a `range` of epoch numbers, such as `range(3, 10)` to continue after three.
        augment: "none", "crop" (padded with black by an eighth of the size, then cropped at a
            random place) or "crop_flip" (and mirrored half of the time). Defaults to `"none"`.
        seed: seed of order, crops and flips. Defaults to `0`.
        drop_remainder: leaves out the smaller last batch. Defaults to `False`.
        step: number of batches of the first epoch that are left out. Defaults to `0`.
    """
    split, first = source.train, epochs.start

    def epoch_batches(epoch):
        tf.random.set_seed(1)  # For this function's graph alone: `shuffle` mixes it in.
        key = tf.stack([tf.cast(seed, tf.int64), epoch])
        draws = tf.random.stateless_uniform(
            (split.examples, 3), tf.random.experimental.stateless_fold_in(key, 1)
        )
        batches = split.batches(batch_size, key)
        if drop_remainder:
            batches = batches.take(split.examples // batch_size)
        if step:
            batches = batches.skip(tf.where(epoch == first, tf.constant(step, tf.int64), 0))
        return batches.map(
            lambda index, images, labels: (
                augmented(images, tf.gather(draws, index), augment),
                labels,
            ),
            tf.data.AUTOTUNE,
        )

    epochs = tf.data.Dataset.range(epochs.start, epochs.stop)
    return ready(epochs.flat_map(epoch_batches), source)


def testing(source, split, batch_size):
    """The images of a split in order, normalised, with one-hot labels."""
    return ready(split.batches(batch_size).map(lambda _, images, labels: (images, labels)), source)


def augmented(images, draws, augment):
    """Crop and mirror a batch, each image by its row of three numbers from [0, 1)."""
    if augment == "none":
        return images
    height, width = images.shape[1:3]
    pad_y, pad_x = height // 8, width // 8
    images = tf.pad(images, [(0, 0), (pad_y, pad_y), (pad_x, pad_x), (0, 0)])
    top = tf.cast(draws[:, :1] * (2 * pad_y + 1), tf.int32)  # (batch, 1)
    left = tf.cast(draws[:, 1:2] * (2 * pad_x + 1), tf.int32)  # (batch, 1)
    columns = tf.range(width)[None]
    if augment == "crop_flip":
        columns = tf.where(draws[:, 2:] < 0.5, columns, width - 1 - columns)
    images = tf.gather(images, top + tf.range(height)[None], axis=1, batch_dims=1)
    return tf.gather(images, left + columns, axis=2, batch_dims=1)


def ready(batches, source):
    """Normalised float32 images and one-hot labels, prefetched."""
    mean, deviation = source.mean.astype("float32"), source.deviation.astype("float32")

    def normalised(images, labels):
        images = (tf.cast(images, tf.float32) - mean) / deviation
        return tf.ensure_shape(images, (None, *source.image_shape)), tf.one_hot(
            labels, source.classes
        )

    by_example = tf.data.Options()  # Workers share each batch, even of sets with many files.
    by_example.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = batches.with_options(by_example)
    return batches.map(normalised, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
