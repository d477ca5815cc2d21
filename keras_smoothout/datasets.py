"""Data by name: scikit-learn's digits, a set of tensorflow-datasets, or an .npz file.

`opened` reads images for trainings and for `load`, so both see the same pixels. `load` also shifts
and scales them as a training does: each channel has mean 0 and deviation 1 over the examples that
the network is trained on.
"""

import math
import os
import pathlib
import zipfile
import zlib
from typing import NamedTuple

import keras
import numpy as np

from keras_smoothout.labels import check_labels

MEMORY_BYTES = 2**30  # Of pixels; what is more is streamed.
BATCH = 100  # Images at once, where all are read.
MOMENT_EXAMPLES = 10_000  # Streamed parts estimate mean and deviation from their first ones.


class Part(NamedTuple):
    """Labelled images of one size, in order: a split of a data set, or some examples of it.

    Args:
        name: Of the data set and its split, for messages.
        examples: How many there are.
        shape: (height, width, channels).
        classes: How many there are.
        arrays: Images and labels, or `None` if they are streamed.
        stream: `tf.data.Dataset` of (image, label), or `None` if they are in memory.
    """

    name: str
    examples: int
    shape: tuple
    classes: int
    arrays: tuple | None = None
    stream: object = None

    def batches(self, size):
        """Iterate over NumPy arrays (images, labels), in order."""
        if self.stream is not None:
            return self.stream.batch(size).as_numpy_iterator()
        starts = range(0, self.examples, size)
        return (tuple(array[i : i + size] for array in self.arrays) for i in starts)


def load(
    dataset,
    data_dir=None,
    split="train",
    image_size=None,
    download=False,
    train_split="train",
    train_examples=None,
):
    """Inputs and integer labels, or whatever an .npz file holds as `x` and `y`.

    Args:
        dataset: `"digits"`, a name of tensorflow-datasets, or the path of an `.npz` file with `x`
            and `y`, which are taken as they are.
        data_dir: Folder of prepared tensorflow-datasets. Defaults to `None`, their own.
        split: Split of tensorflow-datasets, as in `"train[:5000]"`; `"train"` or `"test"` of the
            digits. Defaults to `"train"`.
        image_size: Height and width, in pixels, that all images are resized to. Defaults to
            `None`: as they are.
        download: Whether tensorflow-datasets may fetch the set. Defaults to `False`.
        train_split: Split that the network is trained on. Defaults to `"train"`.
        train_examples: Number of examples of it that the training drew. Defaults to `None`: all.

    Raises:
        ValueError: If there is no such data, or it does not fit into memory.
    """
    if dataset.endswith(".npz"):
        return open_npz(pathlib.Path(dataset))
    options = data_dir, download, image_size
    trained = opened(dataset, train_split, *options)
    if train_examples:
        trained = subset(trained, train_examples)
    part = held(trained) if split == train_split else opened(dataset, split, *options)
    if part.arrays is None:
        height, width, _ = part.shape
        raise ValueError(
            f"{part.name} has {part.examples} images of {height}x{width}, too many at once: take a "
            "part of them, as in `split=train[:10000]`"
        )
    images, labels = part.arrays
    mean, deviation = moments(trained)
    return (images - mean.astype("float32")) / deviation.astype("float32"), labels


def open_npz(path):
    """Arrays `x` and `y` of a file, of numbers."""
    try:
        with zipfile.ZipFile(path), np.load(path) as file:  # An .npy file is no zip file.
            arrays = file["x"], file["y"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} must be an .npz file with arrays x and y: {error}") from error
    for name, array in zip("xy", arrays, strict=True):
        if array.ndim < 1 or array.dtype.kind not in "biuf":
            raise ValueError(
                f"{path} must hold numbers, the examples along the first axis. Received: {name} of "
                f"shape {array.shape} and dtype {array.dtype}"
            )
    return arrays


def opened(dataset, split, data_dir=None, download=False, image_size=None):
    """Return a split as a `Part`, in memory if it fits. The arguments are those of `load`.

    Raises:
        ValueError: If there is no such data set or split, or its images or labels cannot be used.
        FileNotFoundError: If the data set is not prepared.
    """
    if dataset == "digits":
        part = open_digits(split, image_size)
    else:
        part = held(open_tfds(dataset, split, data_dir, download, image_size))
    labels = part.arrays[1] if part.arrays else next(part.batches(BATCH))[1]
    check_labels(f"labels of {part.name}", labels, part.classes)
    return part


def open_digits(split, image_size):
    """1,437 training or 360 test images of 8x8x1, split once and for all, by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in ("train", "test"):
        reason = "its splits are train and test"
        raise ValueError(f"'digits' has no images in the split '{split}': {reason}")
    data = load_digits()
    options = {"test_size": 360, "stratify": data.target, "random_state": 0}
    images = data.images[..., None].astype("uint8")
    if image_size:
        check_size(image_size, len(images), 1)
        images = keras.ops.convert_to_numpy(resized(images, image_size))
    images, labels = train_test_split(images, data.target, **options)[split == "test" :: 2]
    return Part(f"digits/{split}", len(labels), images.shape[1:], 10, (images, labels))


def described(dataset, data_dir, image_size):
    """The builder of a classification set, which need not be there; the images' shape; classes."""
    import tensorflow_datasets as tfds  # A reader of files, on both backends.
    from google.protobuf.json_format import ParseError

    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            "`dataset` must be 'digits' or a name of https://www.tensorflow.org/datasets/catalog. "
            f"Received: dataset={dataset}"
        ) from None
    except ParseError as error:
        raise ValueError(
            f"Dataset '{dataset}' is damaged: delete it, and pass `download` to fetch it again. "
            f"{error}"
        ) from error
    pair = [builder.info.features[key] for key in builder.info.supervised_keys or ()]
    kinds = tfds.features.Image, tfds.features.ClassLabel
    if len(pair) != 2 or not all(map(isinstance, pair, kinds)):
        raise ValueError(
            "`dataset` must hold one image and one class label per example. "
            f"Received: dataset={dataset} with {builder.info.features}"
        )
    if None in pair[0].shape and not image_size:
        raise ValueError(
            f"The images of '{dataset}' vary in size. Pass `image_size` to resize them."
        )
    size = (image_size, image_size) if image_size else pair[0].shape[:2]
    return builder, (*size, pair[0].shape[2]), pair[1].num_classes


def open_tfds(dataset, split, data_dir, download, image_size):
    builder, shape, classes = described(dataset, data_dir, image_size)
    if download:
        builder.download_and_prepare()
    if not builder.is_prepared():
        raise FileNotFoundError(
            f"Dataset '{dataset}' is not prepared in {builder.data_dir}. Pass `download` to fetch "
            "it, or `data_dir` to name the folder that holds it."
        )
    try:
        examples = builder.info.splits[split].num_examples
        stream = builder.as_dataset(split=split, as_supervised=True)
    except (KeyError, ValueError) as error:
        raise ValueError(f"'{dataset}' has no images in the split '{split}': {error}") from error
    if image_size:
        check_size(image_size, BATCH, shape[2])
        stream = stream.map(lambda x, y: (resized(x, image_size), y), os.cpu_count())
    return Part(f"{dataset}/{split}", examples, shape, classes, stream=stream)


def check_size(image_size, images, channels):
    """Raise unless so many resized images fit into memory at once."""
    most = math.isqrt(MEMORY_BYTES // (images * channels))
    if image_size > most:
        raise ValueError(
            f"`image_size` must be <= {most}, for {images} images in memory at once. "
            f"Received: image_size={image_size}"
        )


def resized(images, size):
    """Squeeze one image or a batch to `size` x `size` pixels of the same type, integers rounded."""
    options = {"antialias": True, "data_format": "channels_last", "dtype": images.dtype}
    return keras.layers.Resizing(size, size, **options)(images)


def held(part):
    """Return the same part, in memory if it fits."""
    if part.stream is None or part.examples * math.prod(part.shape) > MEMORY_BYTES:
        return part
    return part._replace(arrays=next(part.batches(part.examples)), stream=None)


def subset(part, train_examples, seed=0):
    """Return `train_examples` of a part: drawn by `seed` from memory, or the first of a stream."""
    if train_examples > part.examples:
        raise ValueError(
            f"`train_examples` must be <= {part.examples}, the size of the training split. "
            f"Received: train_examples={train_examples}"
        )
    if part.arrays is None:
        return part._replace(examples=train_examples, stream=part.stream.take(train_examples))
    drawn = np.random.default_rng(seed).permutation(part.examples)[:train_examples]
    return part._replace(examples=train_examples, arrays=tuple(a[drawn] for a in part.arrays))


def moments(part):
    """Return mean and standard deviation of each channel, both (channels,) in float64."""
    if part.stream is not None:
        part = part._replace(stream=part.stream.take(MOMENT_EXAMPLES))
    pixels, total, squares = 0, 0.0, 0.0
    for images, _ in part.batches(BATCH):
        images = images.astype("float64")
        pixels += images[..., 0].size
        total = total + images.sum((0, 1, 2))  # (channels,)
        squares = squares + (images**2).sum((0, 1, 2))  # (channels,)
    if not np.all(np.isfinite(squares)):
        raise ValueError(f"The images of {part.name} hold pixels that are not finite.")
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    return mean, np.where(deviation > 0, deviation, 1)  # A constant channel is only centred.
