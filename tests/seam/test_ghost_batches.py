"""Ghost batches: sizes, gradients, moving statistics, losses and metrics of the train step."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.nets import LOSS, dense_net, on_batch, sgd
from support.problems import (
    PRECISE,
    TENSORFLOW,
    TOLERANCE,
    assert_close,
    batch_norm_net,
    crossentropy,
    flat,
    golden,
    mlp,
    quadratic,
    trajectory,
)

import keras_smoothout as ks
from keras_smoothout import keras_internals


class GivenNoise(ks.Method):
    """SmoothOut with given draws: chunk `k` of step `t` adds `noise[t * chunks + k]`."""

    statistics = "perturbed"  # As in the files.

    def __init__(self, inner, noise, chunks):
        super().__init__(inner)
        self.noise = [ops.convert_to_tensor(n, keras.config.floatx()) for n in noise]
        self.chunks = chunks

    def gradients(self, evaluate, weights, step):
        k = ops.cast(step.iteration, "int32") * self.chunks + ops.cast(step.chunk, "int32")
        return evaluate([w + ops.take(n, k, 0) for w, n in zip(weights, self.noise, strict=True)])


def draws(raw, radius):
    """Noise for each weight, shaped (draws, *weight), from the file's list of draws."""
    return [radius * np.array(per_weight) for per_weight in zip(*raw, strict=True)]


@PRECISE
@pytest.mark.parametrize(
    ("factor", "size", "weighting"),
    [(1.0, 4, ""), (1.0, 3, "|weighted_by_chunk_size"), (30.0, 3, "|weighted_by_chunk_size")],
)
def test_golden_smoothout(factor, size, weighting):
    # 8 examples in chunks of 4 + 4 and 3 + 3 + 2, one draw a chunk, mean gradient weighted by size.
    # With the loss times 30 the clip is active: it acts on the mean over the chunks.
    g = golden("smoothout_ghost")
    inputs = g["inputs"]
    model, batch = mlp(inputs["mlp"])
    batch.append(np.full(8, factor, keras.config.floatx()))
    inner = keras.optimizers.SGD(inputs["lr"], inputs["momentum"], global_clipnorm=inputs["clip"])
    optimizer = GivenNoise(inner, draws(inputs["raw"], inputs["a"]), -(-8 // size))
    weights = trajectory(model, optimizer, batch, 3, ghost_batch_size=size, run_eagerly=False)
    expected = g["expected"][f"loss_factor={factor}|absolute|a=0.05|ghost chunk={size}{weighting}"]
    assert_close(weights, expected, TOLERANCE["momentum"] if factor == 1.0 else 2e-5)


@PRECISE
def test_golden_batch_norm_moves_chunk_after_chunk():
    # Batches of 8, 8, 6 in chunks of 4: the moving statistics go through all chunks in order. The
    # third batch has chunks of 4 and 2, which the file's mean counts alike and ours by size, so
    # the weights are comparable before it and the statistics, which only see these, up to it.
    g = golden("batchnorm_interplay")
    net, expected = g["inputs"]["net"], g["expected"]["smoothout_ghost"]
    model, norm, batches = batch_norm_net(net)
    noise = draws(g["inputs"]["raw"], g["inputs"]["a"])
    noise[2:4] = [0 * n for n in noise[2:4]]  # None for gamma and beta.
    optimizer = GivenNoise(keras.optimizers.SGD(net["lr"], net["momentum"]), noise, 2)
    model.compile(optimizer, crossentropy(), ghost_batch_size=g["inputs"]["ghost"])
    for t in range(3):
        model.train_on_batch(*batches[t])
        assert_close(
            [norm.moving_mean.numpy(), norm.moving_variance.numpy()],
            expected["moving_mean_and_variance_after_each_step"][t],
            TOLERANCE["momentum"],
        )
        if t < 2:
            assert_close(
                flat(model.trainable_variables), expected["weights"][t], TOLERANCE["momentum"]
            )


# From here on in float32, and against what `keras.Model` does.


def crossing_net(dropout=0.3):
    """A dense net with BatchNormalization, dropout and L2, whose examples feel each other."""
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    hidden = layers.Dense(6, kernel_regularizer=keras.regularizers.L2(0.01))(x)
    hidden = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(hidden))
    return keras.Model(x, layers.Dense(3)(layers.Dropout(dropout, seed=1)(hidden)))


def examples(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 4)).astype("float32"), rng.integers(0, 3, count)


def chunks_by_hand(x, y, size):
    """Mean of the chunks' losses and gradients weighted by size, and the last state.

    Each chunk is one step of plain SGD with learning rate 1 from the same weights; what is not
    trainable (moving statistics, the seed of the dropout masks) goes on from chunk to chunk, but
    for moving statistics after a last chunk of one example, which has no variance.
    """
    model = crossing_net()
    model.compile(keras.optimizers.SGD(1.0), LOSS, run_eagerly=TENSORFLOW)
    start = [v.numpy() for v in model.trainable_variables]
    loss, gradient = 0.0, 0.0
    for i in range(0, len(x), size):
        for variable, value in zip(model.trainable_variables, start, strict=True):
            variable.assign(value)
        xs, ys = x[i : i + size], y[i : i + size]
        moving = [(v, v.numpy()) for v in model.non_trainable_variables if "moving" in v.name]
        loss += len(xs) / len(x) * on_batch(model, xs, ys)["loss"]
        step = np.concatenate([w.ravel() for w in start]) - flat(model.trainable_variables)
        gradient += len(xs) / len(x) * step
        for variable, value in moving if len(xs) == 1 else ():
            variable.assign(value)
    return loss, gradient, flat(model.non_trainable_variables)


# 11 examples: 4 + 4 + 3, 5 + 5 + 1, one chunk of 11, and a batch smaller than the ghost batch.
@pytest.mark.parametrize("size", [4, 5, 11, 100] if TENSORFLOW else [4, 100])
def test_is_the_mean_over_chunks_weighted_by_size(size):
    x, y = examples(11)
    loss, gradient, state = chunks_by_hand(x, y, size)
    model = ks.wrap(crossing_net())
    start = flat(model.trainable_variables)
    model.compile(keras.optimizers.SGD(1.0), LOSS, ghost_batch_size=size)
    assert on_batch(model, x, y)["loss"] == pytest.approx(loss, rel=1e-6)
    assert_close(start - flat(model.trainable_variables), gradient, 1e-6)
    # The moving statistics, and the counter of the dropout masks: one a chunk.
    assert_close(flat(model.non_trainable_variables), state, 1e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("jit_compile", "sizes", "dropout"), [(False, [8, 11, 3], 0.3), (True, [11, 3], 0.0)]
)
def test_batches_of_unknown_size_are_like_known_ones(jit_compile, sizes, dropout):
    # Whole chunks; chunks and a rest; less than a chunk. XLA draws other dropout masks.
    import tensorflow as tf

    def compiled(**options):
        model = ks.wrap(crossing_net(dropout))
        model.compile(sgd(), LOSS, metrics=["accuracy"], ghost_batch_size=4, **options)
        return model

    batches = [examples(n, seed=n) for n in sizes]
    signature = (tf.TensorSpec((None, 4)), tf.TensorSpec((None,), tf.int64))
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    model = compiled(jit_compile=jit_compile)
    logs = model.fit(data, steps_per_epoch=len(sizes), shuffle=False, verbose=0).history
    expected, means = compiled(run_eagerly=True), {"loss": 0.0, "accuracy": 0.0}
    for x, y in batches:
        for name, value in on_batch(expected, x, y).items():
            means[name] += len(x) / sum(sizes) * value
    assert {name: value[0] for name, value in logs.items()} == pytest.approx(means, rel=1e-6)
    assert_close(flat(model.variables), flat(expected.variables), 1e-6)


def test_steps_per_execution():
    x, y = examples(22)
    weights = []
    for steps in (1, 2):
        model = ks.wrap(crossing_net())
        model.compile(sgd(), LOSS, ghost_batch_size=4, steps_per_execution=steps)
        model.fit(x, y, batch_size=11, shuffle=False, verbose=0)
        weights.append(flat(model.variables))
    assert_close(*weights, 1e-6)


class Trace(layers.Layer):
    """Passes its input on and takes down the shape of it, whenever Python comes by."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def call(self, x):
        self.shapes.append(x.shape)
        return x


@pytest.mark.parametrize("optimizer", [sgd, lambda: ks.SAM(ks.SmoothOut(sgd()), interval=2)])
def test_sees_no_more_than_a_chunk_and_is_traced_once(optimizer):
    x, y = examples(11)
    inputs = keras.Input((4,))
    trace = Trace()
    model = ks.Model(inputs, layers.Dense(3)(trace(inputs)))
    model.compile(optimizer(), LOSS, ghost_batch_size=4)
    trace.shapes.clear()
    model.train_on_batch(x, y)
    # Symbolic calls to build the model see the batch size None, or on JAX the whole batch.
    assert {(4, 4), (3, 4)} <= set(trace.shapes) <= {(4, 4), (3, 4), (None, 4), (11, 4)}
    assert trace.shapes.count((11, 4)) <= 1
    trace.shapes.clear()
    model.train_on_batch(x, y)
    model.train_on_batch(x, y)
    assert not trace.shapes


# Without BatchNormalization and dropout the examples do not feel each other, and the mean over
# chunks is the gradient of the whole batch: gradient accumulation, in the memory of one chunk.
WHOLE = {"run_eagerly": TENSORFLOW}


def heads(outputs):
    """A net of two inputs and two outputs, in a dict or a list, without the layers named above."""
    keras.utils.set_random_seed(0)
    x = {"a": keras.Input((4,), name="a"), "b": keras.Input((2,), name="b")}
    hidden = layers.Dense(5, "tanh")(ops.concatenate([x["a"], x["b"]], -1))
    label, value = layers.Dense(3, name="label")(hidden), layers.Dense(1, name="value")(hidden)
    return keras.Model(x, {"label": label, "value": value} if outputs is dict else [label, value])


@pytest.mark.parametrize("outputs", [dict, list])
def test_multiple_inputs_and_outputs(outputs):
    a, y = examples(11)
    x = {"a": a, "b": a[:, :2] ** 2}
    structure = (lambda d: d) if outputs is dict else (lambda d: list(d.values()))
    y = structure({"label": y, "value": a[:, :1]})
    logs = []
    for wrap, ghost in ((lambda m: m, WHOLE), (ks.wrap, {"ghost_batch_size": 4})):
        model = wrap(heads(outputs))
        model.compile(
            sgd(),
            structure({"label": LOSS, "value": "mse"}),
            metrics=structure({"label": ["accuracy"], "value": ["mae"]}),
            loss_weights=structure({"label": 1.0, "value": 0.3}),
            **ghost,
        )
        for _ in range(2):
            log = on_batch(model, x, y)
        logs.append((log, flat(model.trainable_variables)))
    (expected, weights), (actual, ghosted) = logs
    assert {"loss", "label_accuracy", "value_mae"} <= set(actual)
    assert actual == pytest.approx(expected, rel=1e-6)
    assert_close(ghosted, weights, 1e-6)


@pytest.mark.parametrize("weighting", ["sample_weight", "class_weight"])
def test_equals_the_whole_batch_and_logs_its_means(weighting):
    # Two epochs of 11 and 5 examples in chunks of 4: loss, accuracy and weighted accuracy are
    # means over examples, of whatever chunk.
    x, y = examples(16)
    options = {
        "sample_weight": {"sample_weight": np.linspace(0.1, 3, 16).astype("float32")},
        "class_weight": {"class_weight": {0: 0.2, 1: 1.0, 2: 3.0}},
    }[weighting]
    results = []
    for wrap, ghost in ((lambda m: m, WHOLE), (ks.wrap, {"ghost_batch_size": 4})):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4,))
        net = layers.Dense(3)(layers.Dense(5, "tanh", kernel_regularizer="l2")(inputs))
        model = wrap(keras.Model(inputs, net))
        model.compile(sgd(), LOSS, metrics=["accuracy"], weighted_metrics=["accuracy"], **ghost)
        logs = model.fit(x, y, 11, epochs=2, shuffle=False, verbose=0, **options).history
        results.append((logs, flat(model.variables)))
    (expected, weights), (actual, ghosted) = results
    assert set(actual) == set(expected)
    for name in expected:
        assert actual[name] == pytest.approx(expected[name], rel=1e-6)
    assert_close(ghosted, weights, 1e-6)


def test_each_chunk_has_a_draw_of_its_own():
    # On the quadratic SmoothOut's gradient is h (w + u), so the mean over two chunks has the mean
    # of the two draws; `perturb` tells them.
    h, w = np.array([1.0, 10.0, 0.5]), np.array([1.0, -1.0, 2.0])
    model, _ = quadratic({"h": h.tolist(), "w0": w})
    optimizer = ks.SmoothOut(keras.optimizers.SGD(0.1), 0.3)
    optimizer.build(model.trainable_variables)
    weights = [ops.convert_to_tensor(w, "float32")]
    noise = [
        ops.convert_to_numpy(optimizer.perturb(weights, ks.Step(0, 0, chunk), 0)[0]) - w
        for chunk in range(2)
    ]
    assert abs(noise[0] - noise[1]).max() > 0.01
    after = trajectory(model, optimizer, [np.zeros((2, 1))], 1, ghost_batch_size=1)
    assert_close(after[0], w - 0.1 * h * (w + (noise[0] + noise[1]) / 2), 1e-6)


@pytest.mark.jax
def test_all_devices_share_each_ghost_batch():
    """Otherwise each of them computes all ghost batches."""
    from training import topologies

    shapes, flops = ((128, 8, 8, 1), (128, 10)), []
    for size in (None, 32):
        model = ks.wrap(dense_net(64))
        model.compile(sgd(), keras.losses.CategoricalCrossentropy(True), ghost_batch_size=size)
        model.optimizer.build(model.trainable_variables)
        keras_internals.build_by(model, [np.zeros((2, *s[1:]), "float32") for s in shapes])
        step = topologies.compiled(model, shapes, keras.distribution.DataParallel())
        flops.append(step.cost_analysis()["flops"])
    assert flops[1] < 2 * flops[0]
