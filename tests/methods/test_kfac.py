"""KFAC: another implementation's numbers, least squares, invariance, each layer, what is drawn."""

import contextlib
import functools

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.contract import contract_net, examples
from support.nets import LOSS, assert_equal, equal_on_both, images, sgd, two_replicas
from support.problems import TENSORFLOW, assert_close, crossentropy, golden, mlp

import keras_smoothout as ks
from keras_smoothout import backend, fisher, kronecker
from keras_smoothout.around import chain
from keras_smoothout.evaluation import Batch, state_variables
from keras_smoothout.kronecker_inverse import inverse, inverses
from keras_smoothout.methods import kfac

GOLDEN = golden("kfac")
INPUTS, EXPECTED = GOLDEN["inputs"], GOLDEN["expected"]
FREE = {"norm_constraint": None}
EACH = {"curvature_period": 1, "inverse_period": 1, **FREE}
TOLERANCE = 1e-9 if TENSORFLOW else 1e-5  # On JAX, Keras' losses are of float32.


def array(tensor):
    return ops.convert_to_numpy(tensor)


def exact(batch, weights, blocks, dtype, key):
    """The factors of the exact Fisher matrix, in place of those by labels that are drawn.

    A sum over all labels of the factors by each one, as if it were the data's: of a softmax with
    the root of its probability as weight; of a Gaussian, a step along each output.
    """
    assert key is not None
    outputs = batch(weights).outputs
    count, total = outputs.shape[-1], None
    if batch.model.loss == "mse":
        steps = (count / 2) ** 0.5 * np.eye(count)
        cases = [(outputs + ops.convert_to_tensor(step, outputs.dtype), None) for step in steps]
    else:
        roots = ops.sqrt(ops.softmax(outputs))
        cases = [(ops.full(outputs.shape[:1], c, "int32"), roots[:, c]) for c in range(count)]
    for y, root in cases:
        one = Batch(batch.model, (batch.x, y, root), batch.state)
        found = fisher.factors(one, weights, blocks, dtype, None)
        total = (
            found
            if total is None
            else [
                old + new if i % 2 else old
                for i, (old, new) in enumerate(zip(total, found, strict=True))
            ]
        )
    return total


@pytest.fixture
def exactly(monkeypatch):
    monkeypatch.setattr(kfac, "factors", exact)


def eager(model, optimizer, loss, **options):
    model.compile(optimizer, loss, run_eagerly=TENSORFLOW, **options)
    return model


def step_of(model, *batch):
    """The list of [kernel; bias] of each layer, before a step less after it."""
    before = model.get_weights()
    model.train_on_batch(*batch)
    step = [b - a for a, b in zip(model.get_weights(), before, strict=True)]
    matrices = [w.reshape(-1, w.shape[-1]) for w in step]
    pairs = zip(matrices[::2], matrices[1::2], strict=True)
    return [np.concatenate(pair) for pair in pairs]


def test_golden_empirical(precise):
    model, batch = mlp(INPUTS["net"])
    optimizer = ks.KFAC(keras.optimizers.SGD(1.0), INPUTS["lam"], decay=0.0, sampled=False, **FREE)
    step = step_of(eager(model, optimizer, crossentropy()), *batch)
    for i in range(2):
        assert_close(array(optimizer.factors[2 * i]), EXPECTED["A"][i], TOLERANCE)
        assert_close(array(optimizer.factors[2 * i + 1]), EXPECTED["empirical_G"][i], TOLERANCE)
        assert_close(step[i], EXPECTED["preconditioned_empirical"][i], TOLERANCE)


def test_golden_exact(precise, exactly):
    model, batch = mlp(INPUTS["net"])
    optimizer = ks.KFAC(keras.optimizers.SGD(1.0), INPUTS["lam"], decay=0.0, **FREE)
    step = step_of(eager(model, optimizer, crossentropy()), *batch)
    for i in range(2):
        assert_close(array(optimizer.factors[2 * i + 1]), EXPECTED["G"][i], TOLERANCE)
        assert_close(step[i], EXPECTED["preconditioned"][i], TOLERANCE)


def test_golden_run(precise, exactly):
    run = INPUTS["run"]
    model, batch = mlp(INPUTS["net"])
    inner = keras.optimizers.SGD(run["lr"], run["momentum"])
    periods = {"curvature_period": 1, "inverse_period": run["period"], **FREE}
    eager(model, ks.KFAC(inner, INPUTS["lam"], run["ema"], **periods), crossentropy())
    for step in range(1, 7):
        model.train_on_batch(*batch)
        if step in (1, 6):
            found = np.concatenate([w.ravel() for w in model.get_weights()])
            # Keras rounds learning rate and momentum to float32, and weights are up to 6.
            assert_close(found, EXPECTED[f"run_step{step}"], max(1e-6, 3 * TOLERANCE))
    loss = model.evaluate(*batch, verbose=0)
    assert loss == pytest.approx(EXPECTED["run_loss6"], rel=1e-5)


def test_golden_convolution(precise, exactly):
    given = INPUTS["conv"]
    inputs = keras.Input((5, 5, 2))
    x = layers.Flatten()(layers.Conv2D(3, 3, activation="tanh")(inputs))
    model = ks.Model(inputs, layers.Dense(3, use_bias=False, trainable=False)(x))
    model.set_weights([np.array(given[name]) for name in ("kernel", "bias", "Wd")])
    optimizer = ks.KFAC(keras.optimizers.SGD(1.0), INPUTS["lam"], decay=0.0, **FREE)
    eager(model, optimizer, crossentropy())
    before = model.get_weights()[:2]
    model.train_on_batch(np.array(given["x"]), np.array(given["y"]))
    step = [b - a for a, b in zip(model.get_weights()[:2], before, strict=True)]
    found = np.concatenate([step[0].reshape(18, 3), step[1][None]])
    places = 9  # The file's A is a sum over places and its G a mean; here it is the other way.
    assert_close(places * array(optimizer.factors[0]), EXPECTED["conv"]["A"], TOLERANCE)
    assert_close(array(optimizer.factors[1]) / places, EXPECTED["conv"]["G"], TOLERANCE)
    assert_close(found, EXPECTED["conv"]["preconditioned"], TOLERANCE)


def linear(given):
    inputs = keras.Input((3,))
    model = ks.Model(inputs, layers.Dense(2)(inputs))
    model.set_weights([np.array(given["W0"])[:3], np.array(given["W0"])[3]])
    return model


def test_one_undamped_step_of_a_linear_layer_is_least_squares(precise, exactly):
    given = INPUTS["least_squares"]
    model = eager(linear(given), ks.KFAC(keras.optimizers.SGD(1.0), 0.0, **FREE), "mse")
    model.train_on_batch(np.array(given["X"]), np.array(given["Y"]))
    kernel, bias = model.get_weights()
    assert_close(np.concatenate([kernel, bias[None]]), EXPECTED["least_squares"], TOLERANCE)


def test_with_targets_that_are_drawn_it_is_so_up_to_their_noise():
    rng = np.random.default_rng(0)
    x, true = 3 + rng.normal(size=(4096, 3)), rng.normal(size=(3, 2))
    model = linear(INPUTS["least_squares"])
    model.compile(ks.KFAC(keras.optimizers.SGD(1.0), 1e-6, **FREE), "mse")
    before = np.linalg.norm(model.get_weights()[0] - true)
    model.train_on_batch(x, x @ true)
    # G is a sample covariance of 4096 pairs: off by 3 % or so. SGD's matrix would be off by 10.
    assert np.linalg.norm(model.get_weights()[0] - true) < 0.1 * before


def test_affine_maps_of_the_inputs_make_no_difference(precise):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 4)), rng.normal(size=(32, 3))
    matrix, shift = rng.normal(size=(4, 4)) + 2 * np.eye(4), np.array([5.0, -3.0, 1.0, 9.0])
    predictions = []
    for mapped in (False, True):
        model, _ = mlp(INPUTS["net"])
        kernel, bias, *rest = model.get_weights()
        if mapped:
            back = np.linalg.solve(matrix, kernel)
            model.set_weights([back, bias - shift @ back, *rest])
        model.compile(ks.KFAC(sgd(0.1), 1e-20, **EACH), "mse")
        data = x @ matrix + shift if mapped else x
        for _ in range(3):
            model.train_on_batch(data, y)
        predictions.append(model.predict(data, verbose=0))
    assert_close(*predictions, 1e-5)
    assert np.abs(predictions[0] - mlp(INPUTS["net"])[0].predict(x, verbose=0)).max() > 0.1


CONVOLUTIONS = {
    "valid": lambda: layers.Conv2D(3, 3),
    "same": lambda: layers.Conv2D(3, (2, 3), padding="same"),
    "strides": lambda: layers.Conv2D(3, 3, strides=(2, 3), padding="same"),
    "strides, valid": lambda: layers.Conv2D(3, (3, 2), strides=2, use_bias=False),
    "dilation": lambda: layers.Conv2D(3, 3, dilation_rate=(2, 1), padding="same"),
}
CHANNELS_FIRST = {"padding": "same", "strides": (2, 1), "data_format": "channels_first"}
LAYERS = {
    **{name: (make, (2, 6, 7, 2)) for name, make in CONVOLUTIONS.items()},
    "channels first": (lambda: layers.Conv2D(3, (2, 3), **CHANNELS_FIRST), (2, 2, 6, 7)),
    "1D, channels first": (lambda: layers.Conv1D(3, 2, data_format="channels_first"), (2, 4, 7)),
    "1D": (lambda: layers.Conv1D(3, 3, strides=2, padding="same"), (2, 7, 4)),
    "causal": (lambda: layers.Conv1D(3, 2, dilation_rate=3, padding="causal"), (2, 7, 4)),
    "3D": (lambda: layers.Conv3D(3, 2, padding="same"), (2, 3, 4, 5, 2)),
    "dense": (lambda: layers.Dense(3), (5, 4)),
    "sequence": (lambda: layers.Dense(3, use_bias=False), (2, 5, 4)),
    "einsum": (lambda: layers.EinsumDense("ab,bc->ac", 3, bias_axes="c"), (5, 4)),
    "heads": (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3), "gelu", "de"), (2, 5, 4)),
    "joined": (lambda: layers.EinsumDense("abcd,cde->abe", (5, 3), None, "e"), (2, 5, 4, 2)),
    "columns first": (lambda: layers.EinsumDense("abc,dc->adb", (3, 5), None, "b"), (2, 5, 4)),
    "dots": (lambda: layers.EinsumDense("...x,xy->...y", 3, bias_axes="y"), (2, 5, 4, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_is_a_product_of_rows(name):
    # Rows in another order than the kernel's, or at other places, would give another product.
    make, shape = LAYERS[name]
    rng = np.random.default_rng(0)
    x = ops.convert_to_tensor(rng.normal(size=shape), "float32")
    layer = make()
    outputs = layer(x)
    layer.activation = None
    d = ops.convert_to_tensor(rng.normal(size=outputs.shape), "float32")
    inputs = keras.Input(batch_shape=shape)
    model = keras.Model(inputs, layer(inputs))
    weights = model.trainable_variables
    (block,) = kronecker.blocks_of(model, {id(v): i for i, v in enumerate(weights)})

    def loss(values):
        return ops.sum(model.stateless_call(values, [], x)[0] * d), None

    grads = backend.value_and_grad(loss)([backend.read(w) for w in weights])[1]
    rows, ds = array(block.inputs(x)), array(block.outputs(d))
    joined = name != "columns first" and layer.bias is not None
    assert (block.bias is not None) == joined
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1) if joined else rows
    assert block.sizes == (rows.shape[1], ds.shape[1])
    assert_close(array(block.join(grads)), rows.T @ ds, 1e-4)
    for i, part in block.split(block.join(grads)).items():
        np.testing.assert_array_equal(array(part), array(grads[i]))


class Own(layers.Dense):
    """A layer that is not known to be Dense."""


OTHERS = {
    "groups": (lambda: layers.Conv2D(4, 3, groups=2), (6, 6, 2)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3), (6, 6, 2)),
    "own class": (lambda: Own(3), (4,)),
    "a matrix for each place": (lambda: layers.EinsumDense("abc,bcd->abd", (5, 3)), (5, 4)),
    "frozen": (lambda: layers.Dense(3, trainable=False), (4,)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_weights_have_their_plain_gradient(name):
    make, shape = OTHERS[name]
    x = np.random.default_rng(0).normal(size=(8, *shape)).astype("float32")
    found = []
    for around in (lambda inner: inner, lambda inner: ks.KFAC(inner, sampled=False)):
        keras.utils.set_random_seed(0)
        inputs = keras.Input(shape)
        h = layers.Flatten()(make()(inputs))
        model = ks.Model(inputs, layers.Dense(1)(h))
        model.compile(around(keras.optimizers.SGD(0.1)), "mse")
        model.train_on_batch(x, np.ones((8, 1)))
        found.append(model.get_weights())
    if name == "frozen":
        assert_equal(*(weights[:2] for weights in found))
    else:
        assert_close(found[0][0], found[1][0], 1e-6)
    assert np.abs(found[0][-2] - found[1][-2]).max() > 1e-3  # The last layer's is another one.


def measured(model, *batch, key=(0, 1, 2), **kwargs):
    """Factors of the layers of `model` for a batch, as arrays."""
    positions = {id(v): i for i, v in enumerate(model.trainable_variables)}
    blocks = kronecker.blocks_of(model, positions)
    weights = [backend.read(v) for v in model.trainable_variables]
    state = [backend.read(v) for v in state_variables(model)]
    return list(
        map(
            array,
            fisher.factors(Batch(model, batch, state), weights, blocks, "float32", key, **kwargs),
        )
    )


def bias_only(outputs, loss, steps=None):
    """A model whose outputs are those `outputs` for any inputs, which are 0."""
    inputs = keras.Input((2,) if steps is None else (steps, 2))
    x = layers.Masking(-1.0)(inputs) if steps else inputs
    after = "linear" if isinstance(loss, str) or loss.from_logits else "softmax"
    model = ks.Model(inputs, layers.Dense(len(outputs), after)(x))
    model.set_weights([np.zeros((2, len(outputs))), np.array(outputs)])
    model.compile("sgd", loss)
    return model


@pytest.mark.parametrize("kind", ["sparse", "probabilities", "binary", "mse"])
def test_labels_are_drawn_from_the_model(kind):
    logits, count = np.array([1.0, -1.0, 0.0]), 20000
    p, q = np.exp(logits) / np.exp(logits).sum(), 1 / (1 + np.exp(-logits))
    losses = {
        "sparse": LOSS,
        "probabilities": keras.losses.CategoricalCrossentropy(),
        "binary": keras.losses.BinaryCrossentropy(from_logits=True),
        "mse": "mse",
    }
    softmax = np.diag(p) - np.outer(p, p)
    expected = {"binary": np.diag(q * (1 - q)) / 3, "mse": 2 * np.eye(3) / 3}.get(kind, softmax)
    model = bias_only(logits, losses[kind])
    a, g = measured(model, np.zeros((count, 2), "float32"), None)
    assert_close(a, np.diag([0.0, 0.0, 1.0]), 1e-6)
    assert_close(g, expected, 0.02)
    other = measured(model, np.zeros((count, 2), "float32"), None, key=(0, 1, 3))
    assert 0 < np.abs(g - other[1]).max() < 0.03


def test_examples_count_as_they_are_weighed_and_masked_steps_do_not():
    x = np.zeros((4000, 2), "float32")
    weight = np.repeat([0.0, 3.0], 2000).astype("float32")
    whole, weighed = (measured(bias_only([1.0, 0.0], LOSS), x, None, w)[1] for w in (None, weight))
    assert_close(weighed, 1.5 * whole, 0.03)
    steps = np.zeros((1000, 4, 2), "float32")
    steps[:, 1:] = -1.0  # All steps but one are masked.
    assert_close(measured(bias_only([1.0, 0.0], LOSS, 4), steps, None)[1], whole, 0.03)


def test_all_uses_of_a_shared_layer_count(monkeypatch):
    inputs = keras.Input((3,))
    shared = layers.Dense(3)
    model = ks.Model(inputs, shared(shared(inputs)))
    model.compile("sgd", "mse")
    x, y = np.random.default_rng(0).normal(size=(2, 8, 3)).astype("float32")
    kernel, bias = model.get_weights()
    middle = x @ kernel + bias
    last = 2 / 3 * (middle @ kernel + bias - y)
    a, g = measured(model, x, y, key=None)
    rows = np.concatenate([np.concatenate([x, middle]), np.ones((16, 1))], axis=1)
    ds = np.concatenate([last @ kernel.T, last])
    assert_close(a, rows.T @ rows / 16, 1e-5)
    assert_close(g, ds.T @ ds / 8, 1e-5)


def test_layers_in_loops_and_in_models_inside():
    inputs = keras.Input((None, 3))
    inside = keras.Sequential([keras.Input((3,)), layers.Dense(4, "relu", name="inside")])
    x = layers.TimeDistributed(inside)(inputs)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    model = ks.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    model.compile(ks.KFAC("sgd", 0.1), "mse")
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    model.train_on_batch(x, np.ones((4, 2)))
    optimizer = model.optimizer
    names = [block.layer.name for block in optimizer.blocks]
    assert {"inside", "query", "key", "value", "attention_output"} < set(names)
    for name, factor in zip(np.repeat(names, 2), optimizer.factors, strict=True):
        assert np.trace(array(factor)) > 0, name


def dense_net(accumulate=None, **options):
    keras.utils.set_random_seed(0)
    net = [layers.Flatten(), layers.Dense(6, "tanh"), layers.Dense(10)]
    model = ks.wrap(keras.Sequential([keras.Input((8, 8, 1)), *net]))
    inner = keras.optimizers.SGD(0.1, 0.9, gradient_accumulation_steps=accumulate)
    ghosts = options.pop("ghosts", None)
    given = {"damping": 0.1, "sampled": False, **EACH} | options
    model.compile(ks.KFAC(inner, **given), LOSS, ghost_batch_size=ghosts)
    return model


@functools.cache
def whole():
    """Weights and the optimizer's variables after three steps on one batch."""
    model = dense_net()
    x, y = images(8)
    for _ in range(3):
        model.train_on_batch(x, y)
    return model.get_weights(), list(map(array, model.optimizer.factors))


def test_ghost_batches_are_averaged():
    model = dense_net(ghosts=3)  # And one of two examples.
    x, y = images(8)
    for _ in range(3):
        model.train_on_batch(x, y)
    for found, expected in zip(
        (model.get_weights(), model.optimizer.factors), whole(), strict=True
    ):
        for a, b in zip(found, expected, strict=True):
            assert_close(array(a), b, 1e-4)


def test_accumulated_steps_are_one_step_of_their_mean():
    model = dense_net(accumulate=2)
    x, y = images(8)
    for rows in 3 * [slice(0, 4), slice(4, 8)]:
        model.train_on_batch(x[rows], y[rows])
    for found, expected in zip(
        (model.get_weights(), model.optimizer.factors), whole(), strict=True
    ):
        for a, b in zip(found, expected, strict=True):
            assert_close(array(a), b, 1e-4)


@pytest.mark.tensorflow
@pytest.mark.parametrize("sampled", [False, True])
def test_two_replicas_hold_the_factors_of_the_whole_batch(sampled):
    x, y = images(8)
    with two_replicas().scope():
        model = dense_net(sampled=sampled, norm_constraint=1e3)
    model.fit(x, y, 8, epochs=3, shuffle=False, verbose=0)
    for variable in [*model.trainable_variables, *model.optimizer.variables]:
        equal_on_both(variable)
    if not sampled:
        found = (model.get_weights(), [equal_on_both(v) for v in model.optimizer.factors])
        for a, b in zip(sum(found, []), sum(whole(), []), strict=True):
            assert_close(a, b, 1e-4)


@pytest.mark.tensorflow
def test_two_replicas_with_synchronized_normalization():
    # Its moments are summed over replicas, in the pass that measures, too.
    def run(devices, synchronized):
        with devices:
            keras.utils.set_random_seed(0)
            norm = layers.BatchNormalization(synchronized=synchronized)
            net = [layers.Flatten(), layers.Dense(6), norm, layers.Dense(10)]
            model = ks.wrap(keras.Sequential([keras.Input((8, 8, 1)), *net]))
            model.compile(ks.KFAC(sgd(), 0.1, sampled=False, curvature_period=2, **FREE), LOSS)
        model.fit(*images(8), 8, epochs=3, shuffle=False, verbose=0)
        return [*model.get_weights(), *map(array, model.optimizer.factors)]

    for a, b in zip(
        run(two_replicas().scope(), True), run(contextlib.nullcontext(), False), strict=True
    ):
        assert_close(a, b, 1e-4)


@pytest.mark.jax
def test_eight_devices_hold_the_factors_of_the_whole_batch():
    def run():
        model = dense_net(curvature_period=2)
        model.fit(*images(8), 8, epochs=3, shuffle=False, verbose=0)
        return model

    one = run()
    with keras.distribution.DataParallel().scope():
        many = run()
        assert all(len(v.value.sharding.device_set) == 8 for v in many.optimizer.factors)
    for a, b in zip(one.variables, many.variables, strict=True):
        assert_close(array(a), array(b), 1e-4)
    for a, b in zip(one.optimizer.factors, many.optimizer.factors, strict=True):
        assert_close(array(a), array(b), 1e-4)


def test_the_norm_of_a_step_is_within_the_constraint():
    x, y = images(8)
    steps = {}
    for constraint in (None, 1e9, 1e-4):
        model = dense_net(norm_constraint=constraint)
        steps[constraint] = step_of(model, x, y)
    for free, held in zip(steps[None], steps[1e9], strict=True):
        assert_close(free, held, 1e-6)
    ratios = [
        np.linalg.norm(h) / np.linalg.norm(f) for h, f in zip(steps[1e-4], steps[None], strict=True)
    ]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-4)
    plain = dense_net(exclude=("kernel", "bias"))
    gradient = step_of(plain, x, y)  # Times the learning rate, as the steps are.
    inner = sum(np.sum(g * f) for g, f in zip(gradient, steps[None], strict=True))
    assert ratios[0] == pytest.approx((1e-4 / inner) ** 0.5, rel=1e-3)
    assert ratios[0] < 0.9


def test_periods_count_updates():
    model = dense_net(curvature_period=2, inverse_period=3, decay=0.5)
    x, y = images(8)
    optimizer, seen = model.optimizer, []
    for _ in range(5):
        model.train_on_batch(x, y)
        seen.append((float(array(optimizer.measured)), array(optimizer.inverses[0]).copy()))
    assert [share for share, _ in seen] == [0.5, 0.5, 0.75, 0.75, 0.875]
    changed = [np.any(a[1] != b[1]) for a, b in zip(seen, seen[1:], strict=False)]
    assert changed == [False, False, True, False]


def test_the_pass_that_measures_leaves_no_trace():
    # Statistics and dropout masks are those of the inner optimizer's own pass.
    x, y = examples(16)
    states = []
    for options in ({}, {"exclude": ("kernel", "bias")}):
        model = contract_net()
        model.compile(ks.KFAC(sgd(), **EACH, **options), LOSS, metrics=["accuracy"])
        logs = model.train_on_batch(x, y)
        states.append([*(array(v) for v in model.non_trainable_variables), *map(np.array, logs)])
    for a, b in zip(*states, strict=True):
        assert_close(a, b, 1e-6)


def test_a_factor_of_one_number_is_not_damped():
    a, g = np.array([[2.0, 0.5], [0.5, 1.0]], "float32"), np.array([[3.0]], "float32")
    one, eye = np.ones((1, 1)), np.eye(2)
    for first, second in ((a, g), (g, a)):
        found = np.kron(*map(array, inverses(*map(ops.convert_to_tensor, (first, second)), 0.1)))
        assert_close(found, np.linalg.inv(3 * a + 0.1 * eye), 1e-5)
    found = inverses(*map(ops.convert_to_tensor, (g, g)), 0.1)
    assert_close(array(found[0]) * array(found[1]), one / 9.1, 1e-6)
    found = inverses(ops.convert_to_tensor(a), ops.zeros((2, 2)), 0.1)  # A dead layer.
    for matrix in found:
        assert_close(array(matrix), eye, 0)


def test_large_matrices_are_inverted_by_blocks():
    # Of 300 rows, in two blocks, and of a rank that is too low.
    x = np.random.default_rng(0).normal(size=(100, 300))
    matrix = x.T @ x / 100
    true = np.linalg.inv(matrix + 0.01 * np.eye(300))
    found = array(inverse(ops.convert_to_tensor(matrix, "float32"), 0.01, True))
    assert np.abs(found - true).max() < 1e-4 * np.abs(true).max()
    bare = inverse(ops.convert_to_tensor(matrix, "float32"), 0.0, True)
    assert np.all(np.isfinite(array(bare)))  # Rounding alone would make eigenvalues negative.


def test_factors_that_are_not_finite_are_left_out(monkeypatch):
    x, y = images(8)
    models = [dense_net(), dense_net(exclude=("kernel", "bias"))]
    nan = lambda batch, weights, blocks, dtype, key: [  # noqa: E731
        ops.full((n, n), np.nan, dtype) for block in blocks for n in block.sizes
    ]
    monkeypatch.setattr(kfac, "factors", nan)
    for model in models:
        model.train_on_batch(x, y)
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        assert_close(a, b, 1e-6)  # Without any curvature, the gradient is the plain one.
    assert not any(np.any(array(v)) for v in models[0].optimizer.factors)


def test_damping_can_follow_a_schedule():
    # The first update has 0.1, as the constant; the second one another value.
    x, y = images(8)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 10.0])
    models = [dense_net(), dense_net(damping=schedule)]
    for same in (True, False):
        for model in models:
            model.train_on_batch(x, y)
        found = [model.get_weights()[0] for model in models]
        assert (np.abs(found[0] - found[1]).max() < 1e-6) == same


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_layer_that_the_loss_does_not_use():
    inputs = keras.Input((3,))
    unused = layers.Dense(2)
    outputs = layers.Dense(1)(inputs) + 0 * ops.sum(ops.stop_gradient(unused(inputs)))
    model = ks.Model(inputs, outputs)
    model.compile(ks.KFAC(keras.optimizers.SGD(0.1), **EACH), "mse")
    before = unused.get_weights()
    for _ in range(2):
        assert np.isfinite(model.train_on_batch(np.ones((4, 3)), np.zeros((4, 1))))
    assert_equal(unused.get_weights(), before)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    model, (x, y) = dense_net(), images(8)
    for _ in range(3):
        model.train_on_batch(x, y)
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    assert {v.dtype for v in optimizer.factors} == {"float32"}
    for found, expected in zip(optimizer.factors, whole()[1], strict=True):
        assert np.abs(array(found) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.tensorflow
def test_xla_and_graph_take_the_same_steps():
    x, y = images(8)
    found = []
    for jit in (False, True):
        keras.utils.set_random_seed(0)
        net = [layers.Conv2D(3, 3, padding="same", activation="relu"), layers.Flatten()]
        model = ks.wrap(keras.Sequential([keras.Input((8, 8, 1)), *net, layers.Dense(10)]))
        model.compile(ks.KFAC(sgd(0.01), 0.1, curvature_period=2), LOSS, jit_compile=jit)
        for _ in range(3):
            model.train_on_batch(x, y)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        assert_close(a, b, 1e-4)


@pytest.mark.parametrize("name", ["around", "inside"])
def test_around_and_inside_of_others(name):
    make = {
        "around": lambda inner: ks.KFAC(ks.FriendlySAM(inner), 0.1),
        "inside": lambda inner: ks.SWA(ks.SAM(ks.KFAC(inner, 0.1, **EACH)), ema_decay=0.5),
    }[name]
    model, (x, y) = dense_net(), images(8)
    before = model.get_weights()
    model.compile(make(sgd(0.01)), LOSS, ghost_batch_size=4)
    assert np.isfinite(model.train_on_batch(x, y))
    found = next(one for one in chain(model.optimizer) if isinstance(one, ks.KFAC))
    assert all(np.trace(array(factor)) > 0 for factor in found.factors)
    assert all(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))


class OwnLoss(ks.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.square(y - y_pred))


UNKNOWN = {
    "mae": (ks.Model, "mae"),
    "sum": (ks.Model, keras.losses.MeanSquaredError(reduction="sum")),
    "ignore_class": (ks.Model, keras.losses.SparseCategoricalCrossentropy(ignore_class=0)),
    "two": (ks.Model, ["mse", "mse"]),
    "compute_loss": (OwnLoss, None),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_losses_whose_labels_cannot_be_drawn_are_refused(name):
    cls, loss = UNKNOWN[name]
    inputs = keras.Input((3,))
    outputs = layers.Dense(2)(inputs)
    model = cls(inputs, [outputs, outputs] if name == "two" else outputs)
    x, y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    y = {"two": [y, y], "ignore_class": np.ones(4, "int32")}.get(name, y)
    model.compile(ks.KFAC("sgd"), loss)
    with pytest.raises(ValueError, match="`sampled=True`.*`sampled=False`.*Received: loss="):
        model.train_on_batch(x, y)
    model.compile(ks.KFAC("sgd", sampled=False), loss)
    assert np.isfinite(model.train_on_batch(x, y)).all()


def test_models_that_it_cannot_see_or_work_on_are_refused():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile(ks.KFAC("sgd"), "mse")
    with pytest.raises(RuntimeError, match="`KFAC`.*keras_smoothout.wrap"):
        model.train_on_batch(np.ones((4, 3)), np.ones((4, 1)))
    model = ks.wrap(keras.Sequential([keras.Input((3,), dtype="int32"), layers.Embedding(3, 1)]))
    model.compile(ks.KFAC("sgd"), "mse")
    with pytest.raises(ValueError, match="`KFAC` needs a layer.*Received: .*embeddings"):
        model.train_on_batch(np.ones((4, 3)), np.ones((4, 3, 1)))


@pytest.mark.release
def test_digits_in_full_batches():
    # The small experiment. The rate of SGD is the best of those that were tried.
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")

    def steps(optimizer, most):
        """Number of full-batch steps to a loss under 0.01."""
        keras.utils.set_random_seed(0)
        hidden = [layers.Dense(64, "relu", kernel_initializer="he_normal") for _ in range(2)]
        model = ks.wrap(keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10)]))
        model.compile(optimizer, LOSS)
        for step in range(most):
            model.reset_metrics()
            if float(model.train_on_batch(x, y)) < 0.01:  # Before the step.
                return step
        return most

    assert steps(ks.KFAC(sgd(0.1), 0.01, **EACH), 21) <= 20
    assert steps(ks.KFAC(sgd(0.1)), 31) <= 30  # Factors and inverses of each tenth step.
    assert min(steps(sgd(rate), 50) for rate in (0.1, 0.2, 0.3, 0.4, 0.5)) == 50
