"""RigL: another implementation's densities, masks and trajectories; that what is 0 stays so."""

import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.nets import (
    LOSS,
    assert_equal,
    equal_on_both,
    images,
    sgd,
    standard_net,
    two_replicas,
    values,
)
from support.problems import PRECISE, TENSORFLOW, assert_close, crossentropy, flat, golden, mlp

import keras_smoothout as ks
from keras_smoothout.around import chain, slots_of
from keras_smoothout.masks import counts
from keras_smoothout.methods import BASES

RIGL = golden("rigl")
FOREVER = 10**9


@pytest.mark.parametrize("name", RIGL["expected"]["sparsities"])
def test_golden_densities(name):
    net, _, sparsity = name.partition("|")
    shapes = RIGL["inputs"]["lists"][net]
    expected, sizes = RIGL["expected"]["sparsities"][name], [np.prod(s) for s in shapes]
    found = counts(shapes, float(sparsity), "erk")
    left = [size - int(s * size) for s, size in zip(expected["erk"], sizes, strict=True)]
    assert found == left
    whole = len(sizes) / sum(sizes)  # A kernel rounds up.
    assert 0 <= sum(found) / sum(sizes) - expected["density_erk"] + 1e-9 <= whole
    uniform = counts(shapes, float(sparsity), "uniform")
    assert uniform == [size - int(float(sparsity) * size) for size in sizes]
    assert 0 <= sum(found) - sum(uniform) <= len(sizes)


def test_sparsity_that_no_kernel_can_have_leaves_all_dense():
    assert counts([(2, 1), (1, 3)], 0.1, "erk") == [2, 3]
    assert counts([(2, 2)], 0.0, "erk") == [4]


@PRECISE
def test_golden_update():
    given, expected = RIGL["inputs"]["update"], RIGL["expected"]["update"]
    w = keras.Variable(np.array(given["w"]), name="kernel")
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer = ks.RigL(inner, 16.001 / 30, "uniform", given["fraction"], period=2, end=FOREVER)
    optimizer.build([w])
    optimizer.apply([ops.zeros((5, 6), w.dtype)])
    mask = np.array(given["mask"])
    optimizer.masks[0].assign(mask)
    w.assign(np.array(given["w"]) * mask)
    momentum = inner.momentums[0]
    momentum.assign(np.ones_like(mask))
    optimizer.apply([ops.convert_to_tensor(given["g"], w.dtype)])
    after = np.array(expected["mask"])
    np.testing.assert_array_equal(np.array(optimizer.masks[0]), after)
    assert_close(np.array(w), after * expected["w"], 1e-7)  # The reference masks when it is used.
    np.testing.assert_array_equal(np.array(momentum), mask * after)  # New ones are 0.
    np.testing.assert_array_equal(after > mask, expected["grown"])


@PRECISE
def test_golden_run():
    # Training goes on through two updates of the masks, at which no other weight changes.
    given, expected = RIGL["inputs"]["run"], RIGL["expected"]["run"]
    model, (x, y) = mlp(given["net"])
    inner = keras.optimizers.SGD(given["lr"], given["momentum"])
    optimizer = ks.RigL(inner, 0.5, "uniform", given["f0"], period=4, end=12)
    model.compile(optimizer, crossentropy())
    optimizer.build(model.trainable_variables)
    for mask, name, kernel, weight in zip(
        optimizer.masks, ("mask1", "mask2"), ("W1", "W2"), model.weights[::2], strict=True
    ):
        mask.assign(np.array(given[name]))
        weight.assign(np.array(given["net"][kernel]) * np.array(given[name]))
    updates = {update["t"]: update for update in expected["updates"]}
    for t in range(1, 15):
        rows = slice(2 * ((t - 1) % 4), 2 * ((t - 1) % 4) + 2)
        before = flat(model.trainable_variables)
        model.train_on_batch(x[rows], y[rows])
        if t in updates:
            for mask, name in zip(optimizer.masks, ("mask1", "mask2"), strict=True):
                np.testing.assert_array_equal(np.array(mask), updates[t][name])
            kept = flat(model.trainable_variables) != 0
            assert_equal([flat(model.trainable_variables)[kept]], [before[kept]])
        assert_zeros(model)
    assert_close(flat(model.trainable_variables), expected["final"], 1e-6 if TENSORFLOW else 1e-5)
    logits = ops.convert_to_tensor(model(x))
    assert float(crossentropy()(y, logits)) == pytest.approx(expected["loss"], abs=1e-5)


def assert_zeros(model, optimizer=None):
    """Assert that masked weights are 0, and the masks as many as at the start; return the masks."""
    optimizer = optimizer or model.optimizer
    masks = [np.array(m) for m in optimizer.masks]
    kernels = {v.path: np.array(v) for v in model.trainable_variables}
    on = [v.path for v in model.trainable_variables if optimizer.densities().get(v.path, 1.0) < 1]
    assert len(on) == len(masks) > 0
    for path, mask in zip(on, masks, strict=True):
        assert set(np.unique(mask)) == {0.0, 1.0}
        assert not np.any(kernels[path][mask == 0]), path
        assert np.mean(mask) == pytest.approx(optimizer.densities()[path], abs=1e-6)
    return masks


INNER = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "decay": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "clipped": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.1, amsgrad=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),  # Whose state is not 0 at the start.
    "muon": lambda: keras.optimizers.Muon(0.01),  # Steps that are dense for sparse gradients.
    "lars": lambda: ks.LARS(1.0),
    "sam": lambda: ks.SAM(sgd(), 0.1),
    "msam": lambda: ks.MSAM(sgd(), 0.1),
    "nudged": lambda: ks.FixedEffectiveRate(keras.optimizers.SGD(0.001), others=1.0),
}


def trained(optimizer, steps=5, seen=lambda model: None, batch=8, **compiled):
    model = ks.wrap(standard_net())
    model.compile(optimizer, LOSS, **compiled)
    x, y = images(batch)
    for _ in range(steps):
        model.train_on_batch(x, y)
        seen(model)
    return model


def moving(inner, **options):
    return ks.RigL(inner, **{"sparsity": 0.5, "period": 2, "end": 9} | options)


@pytest.mark.filterwarnings("ignore:The first gradient was not at")
@pytest.mark.parametrize(
    "name", [n if n == "sam" else pytest.param(n, marks=pytest.mark.tensorflow) for n in INNER]
)
def test_masked_weights_are_zero_after_each_step(name):
    found = []
    model = trained(moving(INNER[name]()), seen=lambda m: found.append(assert_zeros(m)))
    counts = {tuple(np.sum(mask) for mask in masks) for masks in found}
    assert len(counts) == 1
    for before, after, moves in zip(found, found[1:], (True, False, True, False), strict=False):
        changed = any(np.any(a != b) for a, b in zip(before, after, strict=True))
        assert changed == moves
    assert all(np.all(np.isfinite(w)) for w in model.get_weights())
    assert np.sum(model.get_weights()[0] != 0) > 0


@pytest.mark.tensorflow
def test_a_method_around_it_may_move_masked_weights_for_a_gradient_only():
    trained(ks.SAM(moving(sgd()), 0.1), seen=lambda m: assert_zeros(m, m.optimizer.inner))
    model = trained(
        ks.SWA(moving(sgd(), end=2)), seen=lambda m: assert_zeros(m, chain(m.optimizer)[1])
    )
    with ks.weights_of(model):  # The masks have never moved, so the average is as sparse.
        assert_zeros(model, model.optimizer.inner)


def test_masks_are_there_before_the_first_gradient():
    optimizer = moving(sgd())
    model = ks.wrap(standard_net())
    before = model.get_weights()
    model.compile(optimizer, LOSS)
    optimizer.build(model.trainable_variables)
    assert_zeros(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new[new != 0], old[new != 0])
    again = moving(sgd())
    again.build(model.trainable_variables)
    assert_equal(*([np.array(m) for m in o.masks] for o in (optimizer, again)))
    other = moving(sgd(), seed=1)
    other.build(model.trainable_variables)
    assert np.any(np.array(other.masks[0]) != np.array(optimizer.masks[0]))


@pytest.mark.parametrize("eagerly", [pytest.param(True, marks=pytest.mark.tensorflow), False])
def test_the_first_gradient_is_that_of_masked_weights(eagerly):
    found = []
    for built in (True, False):
        model, optimizer = ks.wrap(standard_net()), moving(sgd())
        model.compile(optimizer, LOSS, run_eagerly=eagerly)
        if built:
            optimizer.build(model.trainable_variables)
        x, y = images(8)
        model.fit(x, y, 8, verbose=0)
        found.append(model.get_weights())
    assert_equal(*found)


@pytest.mark.tensorflow
def test_state_that_is_made_in_the_first_step_of_a_loop():
    import tensorflow as tf

    found = []
    for built in (True, False):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), layers.Dense(6, "tanh"), layers.Dense(1)])
        optimizer = moving(sgd())
        if built:
            optimizer.build(model.trainable_variables)

        @tf.function(jit_compile=True)
        def step(x, model=model, optimizer=optimizer):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x) - 1.0))
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

        step(tf.ones((4, 3)))
        found.append(assert_zeros(model, optimizer))
        step(tf.ones((4, 3)))
        assert_zeros(model, optimizer)
    assert_equal(*found)


@pytest.mark.tensorflow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_half_precision(dtype):
    w = keras.Variable(np.ones((6, 6)), dtype=dtype, name="kernel")
    optimizer = ks.RigL(keras.optimizers.SGD(0.1, 0.9), 0.5, "uniform", period=2, end=FOREVER)
    optimizer.build([w])
    for k in range(1, 5):
        optimizer.apply([ops.cast(np.arange(36).reshape(6, 6) % (k + 5), dtype)])
        mask = np.array(optimizer.masks[0])
        assert mask.sum() == 18 and not np.any(np.array(w)[mask == 0])


def test_growth_takes_the_largest_gradients_and_random_growth_does_not():
    w0 = np.random.default_rng(0).normal(size=(20, 30)).astype("float32")
    g = np.random.default_rng(1).normal(size=(20, 30)).astype("float32")
    grown = {}
    for growth in ("gradient", "random"):
        w = keras.Variable(w0, name="kernel")
        optimizer = ks.RigL("sgd", 0.8, "uniform", period=2, end=FOREVER, growth=growth)
        optimizer.build([w])
        optimizer.apply([ops.zeros((20, 30))])
        mask = np.array(optimizer.masks[0])
        optimizer.apply([ops.convert_to_tensor(g)])
        after = np.array(optimizer.masks[0])
        assert after.sum() == mask.sum() == 120
        grown[growth] = np.abs(g[after > mask])
        dropped = np.abs(w0[mask > after])
        assert dropped.max() <= np.sort(np.abs(w0[mask > 0]))[35]  # 36 = 0.3 * 120
    assert grown["gradient"].min() > 1.0
    assert len(grown["random"]) > 25 and grown["random"].min() < 0.3


def test_active_weights_of_zero_are_kept_before_masked_ones():
    # Or dead units would give their masks away: all weights of their kernels may be 0.
    w = keras.Variable(np.zeros((4, 4), "float32"), name="kernel")
    optimizer = ks.RigL("sgd", 0.5, "uniform", fraction=0.0001, period=2, end=FOREVER)
    optimizer.build([w])
    before = np.array(optimizer.masks[0])
    for _ in range(4):
        optimizer.apply([ops.ones((4, 4))])
        w.assign(np.zeros((4, 4)))
    assert_equal([before], [np.array(optimizer.masks[0])])


@pytest.mark.tensorflow
@pytest.mark.parametrize("options", [{"fraction": 0.0}, {"end": 2}])
def test_static_masks(options):
    first, found = [], []
    trained(moving(sgd(), **options), seen=lambda m: found.append(assert_zeros(m)))
    first = found[0]
    for masks in found:
        assert_equal(first, masks)


@pytest.mark.tensorflow
def test_masks_stay_from_the_end_on():
    found = []
    trained(moving(sgd(), end=4), 8, seen=lambda m: found.append(assert_zeros(m)))
    assert any(np.any(a != b) for a, b in zip(found[0], found[1], strict=True))
    for masks in found[2:]:
        assert_equal(found[1], masks)


@pytest.mark.tensorflow
@pytest.mark.parametrize("growth", ["gradient", "random"])
def test_accumulated_steps_are_one_step_of_their_mean(growth):
    # What is grown depends on the dense gradient of both halves, and is counted by updates.
    x, y = images(8)

    def run(accumulate, batches):
        keras.utils.set_random_seed(0)
        net = [layers.Flatten(), layers.Dense(6, "tanh"), layers.Dense(10)]
        model = keras.Sequential([keras.Input((8, 8, 1)), *net])
        inner = keras.optimizers.SGD(0.1, 0.9, gradient_accumulation_steps=accumulate)
        model.compile(moving(inner, growth=growth), LOSS)
        model.optimizer.build(model.trainable_variables)
        for rows in batches:
            model.train_on_batch(x[rows], y[rows])
            assert_zeros(model)
        return model

    halves, whole = run(2, 5 * [slice(0, 4), slice(4, 8)]), run(None, 5 * [slice(0, 8)])
    assert_equal(assert_zeros(halves), assert_zeros(whole))
    for a, b in zip(halves.get_weights(), whole.get_weights(), strict=True):
        assert_close(a, b, 1e-6)
    for a, b in zip(halves.optimizer.inner.momentums, whole.optimizer.inner.momentums, strict=True):
        assert_close(a.numpy(), b.numpy(), 1e-6)


@pytest.mark.parametrize(
    "policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.tensorflow)]
)
def test_mixed_precision_and_ghost_batches(policy):
    keras.config.set_dtype_policy(policy)
    model = ks.wrap(standard_net())
    model.compile(moving(sgd(0.01)), LOSS, ghost_batch_size=4)
    x, y = images(8)
    for _ in range(4):
        model.train_on_batch(x, y)
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        assert_zeros(model, optimizer)
    assert all(np.all(np.isfinite(w)) for w in model.get_weights())


@pytest.mark.tensorflow
def test_ghost_batches_grow_by_their_mean_gradient():
    found = []
    for size in (4, None):
        keras.utils.set_random_seed(0)
        net = [layers.Flatten(), layers.Dense(6, "tanh"), layers.Dense(10)]
        model = ks.wrap(keras.Sequential([keras.Input((8, 8, 1)), *net]))
        model.compile(moving(sgd()), LOSS, ghost_batch_size=size)
        x, y = images(8)
        for _ in range(3):
            model.train_on_batch(x, y)
        found.append(assert_zeros(model))
    assert_equal(*found)


@pytest.mark.tensorflow
def test_two_replicas_hold_one_mask_that_follows_the_mean_gradient():
    x, y = images(8)

    def net():
        keras.utils.set_random_seed(0)
        body = [layers.Flatten(), layers.Dense(6, "tanh"), layers.Dense(10)]
        model = ks.wrap(keras.Sequential([keras.Input((8, 8, 1)), *body]))
        model.compile(moving(sgd()), LOSS)
        return model

    with two_replicas().scope():
        many = net()
    one = net()
    for model in (many, one):
        model.fit(x, y, 8, epochs=3, shuffle=False, verbose=0)
    for variable in [*many.trainable_variables, *many.optimizer.variables]:
        first, *rest = two_replicas().experimental_local_results(variable.value)
        for other in rest:
            assert_equal([first.numpy()], [other.numpy()])
    assert_equal([m.numpy() for m in many.optimizer.masks], assert_zeros(one))
    for a, b in zip(many.get_weights(), one.get_weights(), strict=True):
        assert_close(a, b, 1e-5)


@pytest.mark.tensorflow
def test_masks_that_are_made_in_the_scope_of_two_replicas():
    with two_replicas().scope():
        model, optimizer = standard_net(), moving(sgd())
        optimizer.build(model.trainable_variables)
    assert_equal([equal_on_both(m) for m in optimizer.masks], assert_zeros(model, optimizer))
    for variable in model.trainable_variables:
        equal_on_both(variable)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    # Interrupted between two updates of the masks, and with random growth.
    model = trained(moving(sgd(), growth="random"), 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x, y = images(8)
    for variable, other in zip(loaded.variables, model.variables, strict=True):
        variable.assign(np.array(other))  # The state of dropout, which Keras does not save.
    for one in (model, loaded):
        for _ in range(3):
            one.train_on_batch(x, y)
    assert_equal(values(loaded), values(model))


KERAS = [
    cls
    for cls in vars(keras.optimizers).values()
    if isinstance(cls, type)
    and issubclass(cls, keras.optimizers.Optimizer)
    and cls.__name__ not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
]


@pytest.mark.parametrize("cls", [*KERAS, *BASES.values()])
def test_the_state_of_each_weight_is_found_in_every_optimizer(cls):
    # Two weights of one shape, one whose path begins as the other's, and two of the same path.
    shapes = [(3, 4), (3, 4), (5, 4), (3, 4), (3, 4)]
    names = ["kernel", "kernel_more", "kernel_of", "kernel", "bias"]
    weights = [keras.Variable(np.ones(s), name=n) for s, n in zip(shapes, names, strict=True)]
    optimizer = cls(ess=1.0) if cls is ks.IVON else cls()
    optimizer.build(weights)
    state = [v for v in optimizer.variables if len(v.shape) == 2 and min(v.shape) > 1]
    per_weight = len(state) // len(weights)
    found = slots_of(state, weights)
    assert sorted(found) == sorted(per_weight * [*range(len(weights))])
    for index, slot in zip(found, state, strict=True):
        assert slot.name.startswith(names[index]) and tuple(slot.shape) == shapes[index]


@pytest.mark.tensorflow
def test_layers_that_are_dense_or_excluded_are_left_alone():
    model = standard_net()
    paths = [v.path for v in model.trainable_variables if len(v.shape) > 1]
    optimizer = ks.RigL(sgd(), 0.5)
    optimizer.build(model.trainable_variables)
    assert optimizer.densities() == {paths[0]: 1.0, paths[1]: pytest.approx(0.49, abs=0.02)}
    optimizer = ks.RigL(sgd(), 0.5, "uniform", exclude=("vector", model.layers[1].name))
    optimizer.build(model.trainable_variables)
    assert optimizer.densities() == {paths[1]: 0.5}


@pytest.mark.tensorflow
def test_what_would_set_or_average_its_weights_is_refused():
    for make in (
        lambda: ks.Lookahead(ks.RigL("sgd")),
        lambda: ks.NudgedSGD(ks.SAM(ks.RigL("sgd"))),
        lambda: ks.EntropySGD(ks.RigL("sgd")),
        lambda: ks.SmoothOut(ks.RigL("sgd"), denoise=False),
    ):
        with pytest.raises(ValueError, match="`inner` must not be `RigL`"):
            make()
    for inner, message in (
        (ks.SWA("sgd"), "must not be `SWA`.*put `SWA` around `RigL`.*Received: inner=SWA"),
        (ks.Lookahead("sgd"), "`inner` must not be `Lookahead`.*Received: inner=Lookahead"),
        (ks.SAM(keras.optimizers.Ftrl()), "Received: inner=ftrl"),
    ):
        with pytest.raises(ValueError, match=message):
            ks.RigL(inner)
    with pytest.raises(ValueError, match="use_ema=True in averaging"):
        ks.RigL(keras.optimizers.SGD(use_ema=True, name="averaging"))


def test_a_pruned_model_is_plain_keras_and_the_same_function(tmp_path):
    model = trained(ks.SWA(moving(sgd(), end=2), start=2), 4)
    with ks.weights_of(model):
        plain, expected = ks.pruned(model), model.predict(images(8)[0], verbose=0)
        masks = assert_zeros(model, model.optimizer.inner)
    plain.save(tmp_path / "plain.keras")
    with zipfile.ZipFile(tmp_path / "plain.keras") as file:
        assert b"keras_smoothout" not in file.read("config.json")
    loaded = keras.saving.load_model(tmp_path / "plain.keras")
    assert_close(loaded.predict(images(8)[0], verbose=0), expected, 1e-6)
    kernels = [w for w in loaded.get_weights() if np.ndim(w) > 1]
    for kernel, mask in zip(kernels[-len(masks) :], masks, strict=True):
        assert np.sum(kernel != 0) == np.sum(mask)
    plain.set_weights([np.zeros_like(w) for w in plain.get_weights()])
    assert np.any(model.get_weights()[0])  # Its own weights.


@pytest.mark.tensorflow
@pytest.mark.parametrize("sequential", [True, False])
def test_a_plain_model_is_pruned_as_what_it_is(sequential):
    inputs = keras.Input((20,))
    dense = layers.Dense(10)
    model = keras.Sequential([inputs, dense]) if sequential else keras.Model(inputs, dense(inputs))
    model.compile(ks.RigL("sgd", 0.5), "mse")
    model.fit(np.ones((4, 20)), np.ones((4, 10)), verbose=0)
    plain = ks.pruned(model)
    assert type(plain) is type(model)
    assert_equal(plain.get_weights(), model.get_weights())
    assert np.sum(plain.get_weights()[0] != 0) == 100


class OwnCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = layers.Dense(4)

    def call(self, x):
        return self.head(x)


@pytest.mark.tensorflow
def test_what_is_not_sparse_or_needs_this_package_is_not_pruned():
    x = np.ones((4, 3), "float32")
    net = [layers.Dense(4), ks.GhostBatchNormalization(2, name="ghosts"), layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *net])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="`model` must have been trained with.*optimizer="):
        ks.pruned(model)
    model.compile(ks.RigL("sgd", 0.5), "mse")
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"Received: Sequential with layers \['ghosts'\]"):
        ks.pruned(model)
    model.layers[0].kernel.assign(np.ones((3, 4)))
    with pytest.raises(ValueError, match="Received: 1 of .*kernel for a mask of 0.5"):
        ks.pruned(model)
    own = ks.wrap(OwnCall())
    own.compile(ks.RigL("sgd", 0.5), "mse")
    own.fit(x, x[:, :1], verbose=0)
    with pytest.raises(ValueError, match="Received: Wrapped with its own `call`"):
        ks.pruned(own)


def test_density_is_logged_and_how_much_masks_move():
    x = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    model = ks.wrap(keras.Sequential([keras.Input((8,)), layers.Dense(8), layers.Dense(8)]))
    optimizer = ks.RigL(sgd(), 0.75, "uniform", fraction=0.5, period=2, end=4, exclude=("bias",))
    model.compile(optimizer, "mse")
    callback = ks.callbacks.TrackMasks()
    history = model.fit(x, x, 16, 3, verbose=0, callbacks=[callback]).history
    assert history["density"] == [0.25] * 3
    # One update of the masks, at t = 2 of 6, which replaces a quarter but for what comes back.
    first, *later = history["new_weights"]
    assert 0 < first <= 0.25
    assert later == [0.0, 0.0]
    model.compile(keras.optimizers.SGD(name="plain"), "mse")
    with pytest.raises(ValueError, match="`TrackMasks`.*optimizer='plain'"):
        model.fit(x, x, verbose=0, callbacks=[ks.callbacks.TrackMasks()])
