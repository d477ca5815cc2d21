"""The ghost layer against BatchNormalization chunk by chunk, and models converted to it."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.nets import LOSS, images, standard_net, two_replicas
from support.problems import PRECISE, TENSORFLOW, golden

import keras_smoothout as ks
from keras_smoothout import backend

GOLDEN = golden("ghost_batch_norm")
CASES = GOLDEN["inputs"]["cases"]
TOLERANCE = (
    {"rtol": 1e-9, "atol": 1e-9} if TENSORFLOW else {"rtol": 2e-4, "atol": 5e-5}  # float32
)


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def built(case, batch=None):
    options = {"momentum": case["momentum"], "epsilon": case["eps"]}
    layer = ks.GhostBatchNormalization(case["ghost"], **options)
    layer.build((batch, *np.shape(case["x"][0])[1:]))
    layer.gamma.assign(case["gamma"])
    layer.beta.assign(case["beta"])
    return layer


def passes(layer, x, dy):
    """Outputs, gradients and moving statistics of one training step."""
    variables = [layer.gamma, layer.beta]

    def loss(weights):
        scope = keras.StatelessScope(zip(variables, weights[1:], strict=True))
        with scope:
            y = layer(weights[0], training=True)
        moving = [scope.get_current_value(v) for v in (layer.moving_mean, layer.moving_variance)]
        return ops.sum(y * dy), (y, moving)

    weights = [ops.convert_to_tensor(x), *(backend.read(v) for v in variables)]
    (_, (y, moving)), grads, _ = backend.value_and_grad(loss)(weights)
    return y, grads, moving


@PRECISE
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden(case):
    layer, expected = built(case), GOLDEN["expected"][case["name"]]
    for x, dy, step in zip(case["x"], case["dy"], expected["steps"], strict=True):
        dtype = keras.config.floatx()
        y, grads, moving = passes(layer, np.array(x, dtype), np.array(dy, dtype))
        layer.moving_mean.assign(moving[0])
        layer.moving_variance.assign(moving[1])
        found = [y, *grads, *moving]
        names = ["y", "dx", "dgamma", "dbeta", "moving_mean", "moving_variance"]
        for name, value in zip(names, found, strict=True):
            np.testing.assert_allclose(numbers(value), step[name], **TOLERANCE, err_msg=name)
    inference = layer(np.array(case["x"][0], keras.config.floatx()), training=False)
    key = "inference_y_of_x0_after_3_steps"
    np.testing.assert_allclose(numbers(inference), expected[key], **TOLERANCE)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("batch", [1, 4, 7, 12])
def test_is_batch_normalization_chunk_by_chunk(batch, axis):
    x = np.random.default_rng(0).normal(3, 2, (batch, 3, 5, 4)).astype("float32")
    ghost = ks.GhostBatchNormalization(4, axis=axis)
    plain = layers.BatchNormalization(axis=axis)
    y = numbers(ghost(x, training=True))
    chunks = [numbers(plain(x[i : i + 4], training=True)) for i in range(0, batch, 4)]
    np.testing.assert_allclose(y, np.concatenate(chunks), rtol=1e-4, atol=1e-4)
    for a, b in zip(ghost.variables, plain.variables, strict=True):
        np.testing.assert_allclose(numbers(a), numbers(b), rtol=1e-5, atol=1e-6)
    again = numbers(ghost(x, training=False))
    np.testing.assert_allclose(again, numbers(plain(x, training=False)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("batch", "share"), [(9, 0), (10, 1 / 7), (11, 2 / 7), (12, 1), (4, 1)])
def test_a_small_last_ghost_batch_hardly_moves_the_statistics(batch, share):
    x = np.random.default_rng(0).normal(3, 2, (batch, 5)).astype("float32")
    layer = ks.GhostBatchNormalization(8, momentum=0.9)
    layer(x, training=True)
    expected = [np.zeros(5), np.ones(5)]  # Mean and variance.
    for part, counts in ((x[:8], 1), (x[8:], share)):
        for i, new in enumerate((part.mean(0), part.var(0)) if len(part) else ()):
            expected[i] = expected[i] + 0.1 * counts * (new - expected[i])
    found = [numbers(layer.moving_mean), numbers(layer.moving_variance)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_ghost_batch_of_any_size_costs_no_more_than_the_batch():
    layer = ks.GhostBatchNormalization(2**30)
    x = np.random.default_rng(0).normal(3, 2, (6, 5)).astype("float32")
    plain = layers.BatchNormalization()
    expected = numbers(plain(x, training=True))
    np.testing.assert_allclose(numbers(layer(x, training=True)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(numbers(layer.moving_variance), numbers(plain.moving_variance))


def test_without_gamma_and_beta():
    layer = ks.GhostBatchNormalization(2, center=False, scale=False, epsilon=0.0)
    y = numbers(layer(np.array([[1.0], [3.0], [10.0], [30.0]]), training=True))
    np.testing.assert_allclose(y[:, 0], [-1, 1, -1, 1], rtol=1e-5)


def test_a_frozen_layer_infers():
    layer = ks.GhostBatchNormalization(2)
    x = np.array([[1.0], [3.0], [10.0]], "float32")
    layer.build(x.shape)
    layer.trainable = False
    np.testing.assert_allclose(numbers(layer(x, training=True)), x, rtol=1e-3)
    assert float(layer.moving_mean[0]) == 0


@pytest.mark.parametrize("jit", [False, True])
def test_trains_saves_and_loads(tmp_path, jit):
    model = ks.convert(standard_net(), 8)
    model.compile(keras.optimizers.SGD(0.1), LOSS, jit_compile=jit)
    x, y = images(44)  # The last batch is smaller: TensorFlow sees batches of unknown size.
    model.fit(x, y, 20, 2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [x.ghost_batch_size for x in loaded.layers if hasattr(x, "ghost_batch_size")] == [8]
    for size in (1, 3, 44):
        np.testing.assert_array_equal(loaded.predict(x[:size], verbose=0), model.predict(x[:size]))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    x = np.random.default_rng(0).normal(100, 2, (12, 5)).astype("float32")
    exact = numbers(ks.GhostBatchNormalization(4)(x, training=True))
    layer = ks.GhostBatchNormalization(4, dtype=policy)
    y = layer(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype != "float32"
    assert layer.moving_mean.dtype == "float32"
    # The input is rounded before: 0.25 of a deviation of 2 in bfloat16 at 100.
    np.testing.assert_allclose(numbers(ops.cast(y, "float32")), exact, atol=0.3)


@pytest.mark.tensorflow
def test_two_replicas():
    # Moving statistics are each replica's own, as those of Keras' layer.
    with two_replicas().scope():
        model = ks.convert(standard_net(), 4)
        model.compile(keras.optimizers.SGD(0.1), LOSS)
    x, y = images(16)
    model.fit(x, y, 16, 2, verbose=0)
    for variable in model.trainable_variables:
        first, second = variable.value.values
        np.testing.assert_array_equal(first.numpy(), second.numpy(), err_msg=variable.path)
    first, second = next(v for v in model.variables if v.name == "moving_mean").value.values
    assert np.any(first.numpy() != second.numpy()) and np.all(first.numpy() != 0)


@pytest.mark.tensorflow
@pytest.mark.parametrize("method", [None, ks.Lookahead, ks.SAM])
def test_our_step_shares_the_statistics_of_replicas(method):
    """They are the mean of what each replica of a plain model would hold, and on both the same."""

    def statistics(method=None, plain=False):
        with two_replicas().scope():
            model = standard_net() if plain else ks.wrap(standard_net())
            sgd = keras.optimizers.SGD(0.1)
            model.compile(method(sgd) if method else sgd, LOSS)
        x, y = images(16)
        model.fit(x, y, 16, 3, shuffle=False, verbose=0)
        moving = [v for v in model.variables if "moving" in v.name]
        return [[part.numpy() for part in v.value.values] for v in moving]

    own, shared = statistics(plain=True), statistics(method)
    for (first, second), (a, b) in zip(own, shared, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.any(first != second)
        if method is None:
            np.testing.assert_allclose(a, (first + second) / 2, rtol=1e-5, atol=1e-6)


class OwnNormalization(layers.BatchNormalization):
    pass


def nested():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.BatchNormalization()])
    inputs = keras.Input((3,))
    x = layers.BatchNormalization(momentum=0.5, name="first")(inputs)
    return keras.Model(inputs, inner(x))


@pytest.mark.parametrize("make", [standard_net, nested])
def test_convert_keeps_weights_and_inference(make):
    model = make()
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    before = model.get_weights()
    copy = ks.convert(model, 8)
    x = rng.normal(size=(5, *model.input_shape[1:])).astype("float32")
    np.testing.assert_array_equal(copy.predict(x, verbose=0), model.predict(x, verbose=0))
    for a, b, c in zip(before, model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    kinds = {type(layer) for layer in copy._flatten_layers()}
    assert layers.BatchNormalization not in kinds and ks.GhostBatchNormalization in kinds
    momenta = [x.momentum for x in model._flatten_layers() if hasattr(x, "moving_mean")]
    ghosts = [x for x in copy._flatten_layers() if hasattr(x, "moving_mean")]
    assert [x.momentum for x in ghosts] == momenta
    assert {x.ghost_batch_size for x in ghosts} == {8}


def test_convert_gives_ghosts_a_new_size():
    twice = ks.convert(ks.convert(nested(), 8), 4)
    assert {x.ghost_batch_size for x in twice._flatten_layers() if hasattr(x, "moving_mean")} == {4}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            lambda: ks.convert(
                keras.Sequential(
                    [keras.Input((3, 2)), layers.TimeDistributed(layers.BatchNormalization())]
                ),
                8,
            ),
            "cannot replace BatchNormalization inside another layer",
        ),
        (
            lambda: ks.convert(keras.Sequential([keras.Input((3,)), OwnNormalization()]), 8),
            "nor a class of its own",
        ),
        (
            lambda: ks.convert(
                keras.Sequential([keras.Input((3,)), layers.BatchNormalization(renorm=True)]), 8
            ),
            "neither synchronized nor renormalized",
        ),
        (lambda: ks.GhostBatchNormalization(8, renorm=True), "`renorm`"),
        (
            lambda: ks.GhostBatchNormalization(2)(
                np.ones((4, 3, 2)), training=True, mask=np.ones((4, 3), bool)
            ),
            "cannot leave out masked steps",
        ),
        (
            lambda: ks.convert(keras.Sequential([keras.Input((3,))]), 8),
            "which is no such model or has none",
        ),
    ],
)
def test_wrong_uses(wrong, words):
    with pytest.raises(ValueError) as error:
        wrong()
    assert words in str(error.value) and "Received" in str(error.value)


def test_a_frozen_backbone_is_converted_and_stays_frozen():
    backbone = standard_net()
    backbone.trainable = False
    x = images(6)[0]
    model = keras.Sequential([keras.Input(x.shape[1:]), backbone, layers.Dense(2)])
    copy = ks.convert(model, 4)
    norms = [v for v in copy._flatten_layers() if isinstance(v, ks.GhostBatchNormalization)]
    assert norms and not any(layer.trainable for layer in norms)
    np.testing.assert_allclose(numbers(copy(x)), numbers(model(x)), rtol=1e-5)
    for frozen in (True, False):  # To be tuned after all: then in ghost batches.
        copy.trainable = not frozen
        before = [numbers(layer.moving_mean) for layer in norms]
        copy(x, training=True)
        after = [numbers(layer.moving_mean) for layer in norms]
        assert all(np.array_equal(a, b) == frozen for a, b in zip(after, before, strict=True))


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "method",
    [
        lambda: ks.SAM("sgd", 0.1, interval=2, perturbation="shared"),
        lambda: ks.LookSAM("sgd", interval=2),
    ],
)
def test_synchronized_where_only_some_steps_evaluate_again(method):
    # TensorFlow refuses to sum over replicas in a condition.
    def run(devices, synchronized):
        with devices:
            keras.utils.set_random_seed(0)
            norm = layers.BatchNormalization(synchronized=synchronized)
            model = ks.wrap(
                keras.Sequential([keras.Input((3,)), layers.Dense(4), norm, layers.Dense(1)])
            )
            model.compile(method(), "mse")
        x = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
        model.fit(x, x[:, :1], 8, shuffle=False, verbose=0)
        return model.get_weights()

    found = run(two_replicas().scope(), True)
    if isinstance(method(), ks.LookSAM):  # Each replica goes uphill by itself.
        assert all(np.all(np.isfinite(w)) for w in found)
    else:
        for a, b in zip(found, run(contextlib.nullcontext(), False), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.tensorflow
def test_ghost_batches_are_not_for_synchronized_normalization():
    with two_replicas().scope():
        norm = layers.BatchNormalization(synchronized=True)
        model = ks.wrap(keras.Sequential([keras.Input((3,)), norm, layers.Dense(1)]))
        with pytest.raises(ValueError, match="`ghost_batch_size` normalizes.*ghost_batch_size=2"):
            model.compile("sgd", "mse", ghost_batch_size=2)
