"""Data by name: scikit-learn's digits, a set of tensorflow-datasets, or an .npz file.

Images come as a network is shown them in training: each channel has mean 0 and deviation 1 over the
examples that it is trained on.
"""

import pathlib

import keras
import numpy as np

MEMORY_BYTES = 2**30  # Of pixels; a training streams what is more.
MOMENT_EXAMPLES = 10_000  # Streamed splits estimate mean and deviation from the first so many.
READ = 1000  # Images at a time.


def load(
    name,
    data_dir=None,
    split="train",
    image_size=None,
    download=False,
    train_split="train",
    train_examples=None,
):
    """Inputs and integer labels, or whatever an .npz file holds as `x` and `y`.

    Args:
        name: `"digits"`, a name of tensorflow-datasets, or the path of an `.npz` file with `x` and
            `y`, which are taken as they are.
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
    if name.endswith(".npz"):
        return open_npz(pathlib.Path(name))

    def opened(split, first=None):
        if name == "digits":
            return open_digits(split, image_size)
        return open_tfds(name, data_dir, split, image_size, download, first)

    first = min(MOMENT_EXAMPLES, train_examples or MOMENT_EXAMPLES)
    images, labels = trained = opened(train_split, None if split == train_split else first)
    if train_examples is not None and train_examples < len(labels):
        drawn = np.random.default_rng(0).permutation(len(labels))[:train_examples]
        trained = images[drawn], labels[drawn]
    mean = trained[0].mean((0, 1, 2), dtype="float64")  # (channels,)
    deviation = trained[0].std((0, 1, 2), dtype="float64")  # (channels,)
    deviation = np.where(deviation > 0, deviation, 1).astype("float32")
    images, labels = trained if split == train_split else opened(split)
    return (images - mean.astype("float32")) / deviation, labels


def open_npz(path):
    """Arrays `x` and `y` of a file."""
    try:
        with np.load(path) as file:
            return file["x"], file["y"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} must be an .npz file with arrays x and y: {error}") from error


def digits():
    """1,437 training and 360 test images of 8x8x1 with labels, split once and for all, by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    options = {"test_size": 360, "stratify": data.target, "random_state": 0}
    images = data.images[..., None].astype("uint8")
    train_x, test_x, train_y, test_y = train_test_split(images, data.target, **options)
    return (train_x, train_y), (test_x, test_y)


def open_digits(split, image_size):
    if split not in ("train", "test"):
        raise ValueError(f"The splits of digits are train and test. Received: split={split}")
    images, labels = digits()[split == "test"]
    return resized(images, image_size), labels


def prepared(name, data_dir, download, image_size):
    """The builder of a classification set, its feature of images, and that of labels."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            "`dataset` must be 'digits' or a name of https://www.tensorflow.org/datasets/catalog. "
            f"Received: dataset={name}"
        ) from None
    pair = [builder.info.features[key] for key in builder.info.supervised_keys or ()]
    kinds = tfds.features.Image, tfds.features.ClassLabel
    if len(pair) != 2 or not all(map(isinstance, pair, kinds)):
        raise ValueError(
            "`dataset` must hold one image and one class label per example. "
            f"Received: dataset={name} with {builder.info.features}"
        )
    if download:
        builder.download_and_prepare()
    if not builder.is_prepared():
        raise FileNotFoundError(
            f"Dataset '{name}' is not prepared in {builder.data_dir}. Pass `download` to fetch it, "
            "or `data_dir` to name the folder that holds it."
        )
    if None in pair[0].shape and not image_size:
        raise ValueError(f"The images of '{name}' vary in size. Pass `image_size` to resize them.")
    return builder, *pair


def open_tfds(name, data_dir, split, image_size, download, first=None):
    """Images and labels of a split: all, or the `first` ones where all do not fit into memory."""
    builder, image, _ = prepared(name, data_dir, download, image_size)
    height, width = (image_size, image_size) if image_size else image.shape[:2]
    try:
        examples = builder.info.splits[split].num_examples
    except (KeyError, ValueError):
        known = ", ".join(builder.info.splits)
        raise ValueError(f"The splits of {name} are {known}. Received: split={split}") from None
    dataset = builder.as_dataset(split=split, as_supervised=True)
    if not 0 < examples * height * width * image.shape[2] <= MEMORY_BYTES:
        if not (first and examples):
            raise ValueError(
                f"{split} of {name} has {examples} images of {height}x{width}, none or too many at "
                "once: take a part of them, as in `split=train[:10000]`"
            )
        dataset = dataset.take(first)
    batches = dataset.batch(1 if None in image.shape else READ)
    read = ((resized(x, image_size), y) for x, y in batches.as_numpy_iterator())
    return tuple(map(np.concatenate, zip(*read, strict=True)))


def resized(images, size):
    """Images squeezed to `size` x `size` pixels, whole numbers as before."""
    if not size:
        return images
    pixels = keras.ops.cast(images, "float32")
    pixels = keras.ops.image.resize(
        pixels, (size, size), antialias=True, data_format="channels_last"
    )
    limits = np.iinfo(images.dtype)
    pixels = np.clip(np.round(keras.ops.convert_to_numpy(pixels)), limits.min, limits.max)
    return pixels.astype(images.dtype)
