"""Data: splits, normalisation, and batches that are a pure function of (seed, epoch)."""

import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_smoothout import datasets
from keras_smoothout.datasets import Part, moments
from training import batches
from training.images import Source, as_split, load, mislabelled

pytestmark = pytest.mark.tensorflow  # Reading data is the same on both backends.

TFDS = Path(__file__).parents[3] / "shared" / "tfds"
SHAPE = (16, 8, 3)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def colours(examples=10, streamed=False):
    """A source of random colour images, held in memory or streamed."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (examples, *SHAPE)).astype("uint8")
    labels = np.arange(examples) % 3
    pairs = (images, labels)
    held = {"stream": tf.data.Dataset.from_tensor_slices(pairs)} if streamed else {"arrays": pairs}
    part = Part("colours", examples, SHAPE, 3, **held)
    split = as_split(part)
    return Source(split, split, SHAPE, 3, *moments(part)), images, labels


def shown(source, epochs, batch_size=4, augment="crop_flip", seed=0, **options):
    """The batches of each of the `epochs`, as NumPy arrays."""
    stream = batches.training(source, batch_size, epochs, augment, seed, **options)
    return list(stream.as_numpy_iterator())


def same(a, b):
    return len(a) == len(b) and all(
        np.array_equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


def pixels(source, images):
    """The images before normalisation."""
    return np.round(images * source.deviation + source.mean).astype(int)


def test_digits_are_split_once_and_by_class(digits):
    assert (digits.image_shape, digits.classes) == ((8, 8, 1), 10)
    assert (digits.train.examples, digits.test.examples) == (1437, 360)
    again = load("digits", seed=1)
    for split, other in ((digits.train, again.train), (digits.test, again.test)):
        (_, images, labels), (_, others, _) = (next(iter(s.batches(2000))) for s in (split, other))
        np.testing.assert_array_equal(images, others)
        assert np.ptp(np.bincount(labels)) <= split.examples / 100


def test_pixels_have_mean_0_and_deviation_1_in_each_channel():
    for source, images, _ in (colours(), colours(streamed=True)):
        np.testing.assert_allclose(source.mean, images.mean((0, 1, 2)))
        np.testing.assert_allclose(source.deviation, images.std((0, 1, 2)))
        ((normal, _),) = batches.testing(source, source.test, 10).as_numpy_iterator()
        np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(normal.std((0, 1, 2)), 1, atol=1e-5)


def test_a_constant_channel_is_only_centred():
    pairs = np.full((4, 2, 2, 1), 7, "uint8"), np.zeros(4, int)
    assert moments(Part("grey", 4, (2, 2, 1), 1, arrays=pairs)) == (7, 1)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_epoch_is_a_pure_function_of_seed_and_epoch(streamed):
    source, _, _ = colours(streamed=streamed)
    whole = shown(source, range(3))
    assert same(shown(source, range(3)), whole)
    assert same(shown(source, range(1, 3)), whole[3:])
    assert not same(whole[:3], whole[3:6])
    assert not same(shown(source, range(1), seed=1), whole[:3])


@pytest.mark.parametrize("streamed", [False, True])
def test_an_epoch_shows_each_example_once(streamed):
    source, images, labels = colours(streamed=streamed)
    x, y = (np.concatenate(part) for part in zip(*shown(source, range(1), 4, "none"), strict=True))
    order = [
        int(np.flatnonzero((images == image).all((1, 2, 3)))[0]) for image in pixels(source, x)
    ]
    assert sorted(order) == list(range(10)) != order
    np.testing.assert_array_equal(y, np.eye(3)[labels[order]])


def test_the_last_batch_is_smaller_or_left_out():
    source, _, _ = colours()
    sizes = [len(x) for x, _ in shown(source, range(2))]
    assert sizes == [4, 4, 2, 4, 4, 2]
    assert [len(x) for x, _ in shown(source, range(2), drop_remainder=True)] == [4, 4, 4, 4]
    assert [len(x) for x, _ in batches.testing(source, source.test, 4)] == [4, 4, 2]


def test_an_image_is_cropped_and_mirrored_alike_in_any_batch_size():
    source, _, _ = colours()
    for sizes in ((1, 10), (3, 4)):
        x, y = (
            np.concatenate([images for images, _ in shown(source, range(1), size)])
            for size in sizes
        )
        np.testing.assert_array_equal(x, y)


def test_crops_are_windows_of_the_padded_image_and_flips_mirror_them():
    source, images, _ = colours()
    padded = np.pad(images, [(0, 0), (2, 2), (1, 1), (0, 0)])  # an eighth of 16 and of 8
    seen = set()
    for augment, mirrored in (("crop", (1,)), ("crop_flip", (1, -1))):
        windows = {
            padded[i, top : top + 16, left : left + 8][:, ::step].tobytes(): (top, left, step)
            for i in range(10)
            for top in range(5)
            for left in range(3)
            for step in mirrored
        }
        for x, _ in shown(source, range(20), 10, augment):
            seen |= {windows[image.astype("uint8").tobytes()] for image in pixels(source, x)}
    assert len(seen) == 5 * 3 * 2  # Every window is drawn, as it is and mirrored.


def test_a_part_of_the_training_images_is_drawn_by_seed():
    first, again, other = (
        next(iter(load("digits", train_examples=20, seed=seed).train.batches(20)))[1].numpy()
        for seed in (0, 0, 1)
    )
    assert first.shape == (20, 8, 8, 1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(ValueError, match="`train_examples` must be <= 1437.*Received: .*=2000"):
        load("digits", train_examples=2000)


def test_a_share_of_the_labels_is_wrong_wherever_an_image_is_shown():
    share = load("digits", train_examples=50, label_noise=0.2)
    plain = load("digits", train_examples=50)
    (index, images, labels), *_ = share.train.batches(50, (3, 4)).as_numpy_iterator()
    (_, others, right), *_ = plain.train.batches(50, (3, 4)).as_numpy_iterator()
    np.testing.assert_array_equal(images, others)
    assert np.sum(labels != right) == 10 and set(labels) <= set(range(10))
    assert labels.dtype == right.dtype
    in_order = np.concatenate([y for _, _, y in share.train.batches(7).as_numpy_iterator()])
    np.testing.assert_array_equal(labels, in_order[index])
    tests = [next(s.test.batches(360).as_numpy_iterator())[2] for s in (share, plain)]
    np.testing.assert_array_equal(*tests)
    for streamed in (False, True):
        source, _, right = colours(30, streamed)
        for index, _, labels in mislabelled(source.train, 1.0, 3).batches(30, (1, 2)):
            assert not np.any(labels == right[index])
    assert mislabelled(source.train, 0.0, 3) is source.train


def test_images_are_resized():
    source = load("digits", image_size=12)
    assert source.image_shape == (12, 12, 1)
    ((x, _), *_) = batches.testing(source, source.test, 5)
    assert x.shape == (5, 12, 12, 1)


def test_labels_of_a_stream_are_looked_at_too(monkeypatch):
    def streamed(dataset, split, *_):
        pairs = np.ones((4, 2, 2, 1)), [0, 1, 2, 3 if split == "test" else 0]
        stream = tf.data.Dataset.from_tensor_slices(pairs)
        return Part(f"{dataset}/{split}", 4, (2, 2, 1), 3, stream=stream)

    monkeypatch.setattr(datasets, "open_tfds", streamed)
    monkeypatch.setattr(datasets, "MEMORY_BYTES", 1)
    with pytest.raises(ValueError, match=r"`labels of any/test` must .* Received: .* in \[0, 3\]"):
        load("any")


def test_a_missing_set_tells_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="`download`.*`data_dir`"):
        load("cifar10", data_dir=tmp_path)
    with pytest.raises(
        ValueError, match="must be 'digits' or a name of.*Received: dataset=no_such"
    ):
        load("no_such", data_dir=tmp_path)
    with pytest.raises(ValueError, match="one image and one class label"):
        load("imdb_reviews", data_dir=tmp_path, download=False)


@pytest.mark.parametrize("split", ["train[:0]", "val"])
def test_a_split_without_images(monkeypatch, split):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(2, 2, 1)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    keys = {"features": features, "supervised_keys": ("image", "label")}
    info = types.SimpleNamespace(
        splits={"train[:0]": types.SimpleNamespace(num_examples=0)}, **keys
    )

    def as_dataset(**options):
        raise ValueError("Instruction [] corresponds to no data!")

    builder = types.SimpleNamespace(info=info, is_prepared=lambda: True, as_dataset=as_dataset)
    monkeypatch.setattr(tfds, "builder", lambda *_, **__: builder)
    with pytest.raises(ValueError, match="'any' has no images in the split '(train.:0.|val)': "):
        load("any", train_split=split)


@pytest.mark.skipif(not TFDS.exists(), reason="no prepared tfds sets")
def test_a_set_of_tfds_is_the_same_in_memory_and_streamed(monkeypatch):
    places = {"train_split": "train[:300]", "test_split": "test[:50]", "data_dir": TFDS}
    memory = load("fashion_mnist", **places)
    monkeypatch.setattr(datasets, "MEMORY_BYTES", 28 * 28 * 20)
    streamed = load("fashion_mnist", **places)
    assert (memory.image_shape, memory.classes) == ((28, 28, 1), 10)
    assert (memory.train.examples, memory.test.examples) == (300, 50)
    np.testing.assert_allclose(memory.mean, streamed.mean)
    for a, b in zip(memory.train.batches(64), streamed.train.batches(64), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    assert same(shown(streamed, range(1, 2)), shown(streamed, range(2))[75:])
