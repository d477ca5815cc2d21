"""The networks in `models`: sizes as published, weight decay, any image size, saving."""

import contextlib
import math

import keras
import numpy as np
import pytest

import models
from models import resnets

# NumPy 2's complaint of how Keras reads its own variables.
pytestmark = [
    pytest.mark.tensorflow,  # Layers are Keras' own on both backends.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@contextlib.contextmanager
def shapes_only():
    """Models built here have weights of known shapes and no values: 138M of them in no time."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:  # Or the next scope would initialize these weights.
        keras.utils.clear_session(free_memory=False)


def parameters(build, *args, **kwargs):
    with shapes_only():
        model = build(*args, **kwargs)
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def kernels(model):
    return [w for w in model.trainable_weights if w.path.endswith("kernel")]


# A stage of n blocks of f filters has 2n convolutions of 9 f^2, the first but for 9 f^2 / 2 where
# the stage before has f / 2 filters, and 2n BN of 2 f; before all this, a convolution of 27 x 16
# and a BN of 32; after it, 650 weights. The sum is 97,216 n - 21,926, He et al.'s Table 6 has it
# rounded (0.27M, 0.46M, 0.66M, 0.85M, 1.7M).
@pytest.mark.parametrize(
    ("depth", "count"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)],
)
def test_cifar_resnets_have_the_published_sizes(depth, count):
    assert count == 97_216 * (depth - 2) // 6 - 21_926
    assert parameters(models.cifar_resnet, depth, shortcut="identity") == count


def test_projections_add_two_convolutions_at_any_depth():
    # Option B has 1x1 convolutions and BN where the width changes: 16 x 32 + 64, 32 x 64 + 128.
    assert parameters(models.resnet8) == 97_216 - 21_926 + 2_752
    assert parameters(models.resnet20) == 269_722 + 2_752 == 272_474


def test_cifar_resnet_width_multiplies_every_number_of_filters():
    # The derivation above in f = 16 k: terms of two widths (kernels) have k^2, the others k.
    kernels_and_bn = 97_216 * 3 - 21_926 - 10 - 27 * 16 - 64 * 10
    bn = 2 * (16 + 6 * (16 + 32 + 64))
    expected = (kernels_and_bn - bn) * 4 + 2 * (bn + 27 * 16 + 64 * 10) + 10
    assert parameters(models.resnet20, shortcut="identity", width=2) == expected


# WRN: Zagoruyko and Komodakis, Table 5, have 2.7M and 36.5M; exactly: published logs of this
# architecture (osmr/imgclsmob has WRN-28-10).
# ResNet-18 and -50, VGG with BN: "num_params" in torchvision's tables of weights.
# VGG for CIFAR: published for the one linear layer after the convolutions, with their biases
# (kuangliu/pytorch-cifar); VGG-16: 14,710,464 in kernels, 4,224 biases, 8,448 in BN, 5,130.
# F1: 785 x 512 + 4 x 513 x 512 + 5 x 1,024 (BN) + 5,130.
# C1: 76 x 64 + 1,601 x 64 + 4,097 x 384 + 385 x 192 + 2 (64 + 64 + 384 + 192) (BN) + 1,930.
# C2: VGG-16's convolutions (14,723,136) + 513 x 512 + 1,024 (BN) + 5,130; C3, C4: 90 more rows.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("wrn16_4", 2_748_890),
        ("wrn28_10", 36_479_194),
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("vgg11", 9_231_114),
        ("vgg13", 9_416_010),
        ("vgg16", 14_728_266),
        ("vgg19", 20_040_522),
        ("f1", 1_462_794),
        ("c1", 1_757_834),
        ("c2", 14_991_946),
        ("c3", 1_757_834 + 90 * 193),
        ("c4", 14_991_946 + 90 * 513),
    ],
)
def test_the_others_have_the_published_sizes(name, count):
    assert parameters(models.BUILDERS[name]) == count


def test_c1_at_half_width():
    # 76 x 32 + 801 x 32 + 2,049 x 192 + 193 x 96 + 2 (32 + 32 + 192 + 96) (BN) + 970.
    assert parameters(models.c1, width=0.5) == 441_674


@pytest.mark.parametrize(
    ("depth", "count"),
    [(11, 132_868_840), (13, 133_053_736), (16, 138_365_992), (19, 143_678_248)],
)
def test_vggs_have_the_published_sizes_on_imagenet(depth, count):
    assert parameters(models.vgg, depth, (224, 224, 3), 1000) == count


def check_shapes(name, shape):
    with shapes_only():
        model = models.build(name, shape, 7, 1e-4)
    assert model.name == name
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 7)


@pytest.mark.parametrize("name", models.NAMES)
def test_every_network_takes_small_images(name):
    check_shapes(name, (8, 8, 1))


@pytest.mark.parametrize("name", ["resnet8", "wrn16_4", "resnet18", "resnet50", "vgg11", "c1"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 5, 2), (1, 1, 1)])
def test_every_kind_of_network_takes_images_of_any_size(name, shape):
    check_shapes(name, shape)


FAMILIES = {  # One small network of each kind.
    "projection": lambda **kw: models.cifar_resnet(8, **kw),
    "identity": lambda **kw: models.cifar_resnet(8, shortcut="identity", **kw),
    "wide": lambda **kw: models.wide_resnet(10, 2, dropout=0.3, **kw),
    "vgg": models.vgg11,
    "f1": models.f1,
    "c1": models.c1,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_save_and_load(family, tmp_path):
    model = FAMILIES[family](input_shape=(8, 8, 1), classes=3)
    x = images(2, 8, 8, 1)
    y = model.predict_on_batch(x)
    assert y.shape == (2, 3)
    assert np.isfinite(y).all()
    assert abs(y.sum(axis=1) - 1).min() > 1e-3  # Logits, no probabilities.
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for weight, saved in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), saved.numpy())
    np.testing.assert_allclose(loaded.predict_on_batch(x), y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["projection", "f1", "c1"])
def test_forward_of_28_pixels(family):
    model = FAMILIES[family](input_shape=(28, 28, 1))
    assert model.predict_on_batch(images(2, 28, 28, 1)).shape == (2, 10)


@pytest.mark.parametrize("family", ["projection", "wide", "f1", "c1"])
def test_l2_is_the_weight_decay_of_kernels(family):
    model = FAMILIES[family](input_shape=(8, 8, 1), classes=3, l2=0.1)
    expected = sum(0.1 / 2 * np.sum(np.square(w.numpy(), dtype="float64")) for w in kernels(model))
    assert len(model.losses) == len(kernels(model))
    np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-5)
    # Every weight that is not a vector (a bias, a scale) is a kernel.
    assert all(len(w.shape) > 1 for w in kernels(model))
    assert sum(len(w.shape) > 1 for w in model.trainable_weights) == len(kernels(model))


@pytest.mark.parametrize("family", ["projection", "wide", "f1", "c1"])
def test_without_l2_there_are_no_losses(family):
    with shapes_only():
        model = FAMILIES[family]()
        assert model.losses == []
        assert all(getattr(layer, "kernel_regularizer", None) is None for layer in model.layers)


def test_identity_shortcut_subsamples_and_appends_zeros():
    x = images(2, 5, 4, 3)
    y = keras.ops.convert_to_numpy(resnets.IdentityShortcut(7, 2)(x))
    assert y.shape == (2, 3, 2, 7)
    np.testing.assert_array_equal(y[..., :3], x[:, ::2, ::2, :])
    np.testing.assert_array_equal(y[..., 3:], 0)


def test_strided_convolutions_are_centred_where_the_shortcuts_are():
    # Of a kernel that is 1 at its centre and 0 elsewhere, pixels 0, 2, 4, ... come out.
    for size, kernel_size in ((8, 3), (7, 3), (8, 7)):
        inputs = keras.Input((size, size, 1))
        model = keras.Model(inputs, models.blocks.conv(inputs, 1, kernel_size, 2))
        kernel = np.zeros((kernel_size, kernel_size, 1, 1))
        kernel[kernel_size // 2, kernel_size // 2] = 1
        model.set_weights([kernel])
        x = images(1, size, size, 1)
        y = keras.ops.convert_to_numpy(model(x))
        np.testing.assert_allclose(y, x[:, ::2, ::2], rtol=1e-6)


def test_initialisation_and_batch_norm():
    keras.utils.set_random_seed(0)
    model = models.resnet8(width=2)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            fan_in = math.prod(layer.kernel.shape[:3])
            assert np.std(layer.kernel.numpy()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.1)
            assert not layer.use_bias
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)


def test_vgg_head():
    with shapes_only():
        assert len(kernels(models.vgg11((64, 64, 3)))) == 8 + 1
        assert len(kernels(models.vgg11((64, 64, 3), head="mlp"))) == 8 + 3
        assert len(kernels(models.vgg11((128, 128, 3)))) == 8 + 3
        assert len(kernels(models.vgg11((128, 128, 3), head="linear"))) == 8 + 1


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_are_float32_under_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = models.f1((8, 8, 1))
        assert model.layers[-2].compute_dtype == policy.removeprefix("mixed_")
        assert model.predict_on_batch(images(1, 8, 8, 1)).dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.cifar_resnet(21), r"`depth` must be 6n\+2. Received: depth=21"),
        (lambda: models.cifar_resnet(2), r"`depth` must be 6n\+2. Received: depth=2"),
        (lambda: models.cifar_resnet(-4), "`depth` must be a positive integer. Received: depth=-4"),
        (lambda: models.cifar_resnet(20.0), "`depth` must be .* Received: depth=20.0"),
        (lambda: models.resnet20(width=0.5), "`width` must be .* Received: width=0.5"),
        (lambda: models.resnet20(shortcut="A"), "`shortcut` must be .* Received: shortcut=A"),
        (lambda: models.wide_resnet(17, 4), r"`depth` must be 6n\+4. Received: depth=17"),
        (lambda: models.wide_resnet(16, 0), "`width` must be .* Received: width=0"),
        (lambda: models.wrn16_4(dropout=1.0), "`dropout` must be .* Received: dropout=1.0"),
        (lambda: models.imagenet_resnet(19), "`depth` must be .* Received: depth=19"),
        (lambda: models.vgg(12), "`depth` must be .* Received: depth=12"),
        (lambda: models.vgg11(head="dense"), "`head` must be .* Received: head=dense"),
        (lambda: models.f1(classes=0), "`classes` must be .* Received: classes=0"),
        (lambda: models.f1(l2=-1e-4), "`l2` must be >= 0. Received: l2=-0.0001"),
        (lambda: models.f1(28), "`input_shape` must be .* Received: input_shape=28"),
        (lambda: models.f1((28, 28)), r"`input_shape` must be .* Received: input_shape=\(28, 28\)"),
        (lambda: models.c1(width=0.3), "`width` must make .* whole. Received: width=0.3"),
        (lambda: models.c1((None, 8, 1)), "`input_shape` must be .* Received: input_shape="),
        (lambda: models.build("r20", (8, 8, 1), 2), "resnet20, .* c4. Received: name=r20"),
    ],
)
def test_bad_arguments_raise(build, message):
    with shapes_only(), pytest.raises(ValueError, match=message):
        build()


def test_build_passes_options_on():
    with shapes_only():
        model = models.build("resnet8", (8, 8, 1), np.int64(2), shortcut="identity", width=2)
        assert any(isinstance(layer, resnets.IdentityShortcut) for layer in model.layers)
        assert model.layers[-1].kernel.shape == (128, 2)
