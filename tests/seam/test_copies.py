"""`Copies`: each copy is trained as the model alone, for all kinds of models and optimizers."""

import contextlib
import re

import keras
import numpy as np
import pytest
from keras import layers
from support.contract import COPIED, close, optimizer_of
from support.copies import assign, assigned, quadratic_copies, small_net
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

import keras_smoothout as ks
from keras_smoothout import methods, noise

TENSORFLOW = keras.backend.backend() == "tensorflow"
X = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 24)


def scattered(model, copies=3, **options):
    """Copies at different weights, and each of them as a model of its own."""
    model = ks.Copies(model, copies, **options)
    noise = np.random.default_rng(2).normal(size=(copies, assigned(model).shape[1]))
    assign(model, assigned(model) + 0.1 * noise)
    return model, [ks.wrap(model.copy(i)) for i in range(copies)]


def together_and_alone(model, optimizer, x, y, steps=3, copies=3, weights=None, **compiled):
    """Variables after training, of all copies and of each model alone; and the losses."""
    model, alone = scattered(model, copies)
    loss = compiled.pop("loss", LOSS)
    model.compile(optimizer(), loss, **compiled)
    given = [data for data in (x, y, weights) if data is not None]
    with one_draw(copies):
        for _ in range(steps):
            logged = model.train_on_batch(*given, return_dict=True)["loss"]
            model.reset_metrics()
    size, losses = len(y) // copies, []
    for i, one in enumerate(alone):
        one.compile(optimizer(), loss, **compiled)
        for _ in range(steps):
            part = [data[i * size : (i + 1) * size] for data in given]
            found = one.train_on_batch(*part, return_dict=True)["loss"]
            one.reset_metrics()
        losses.append(float(found))
    stacks = [np.array(model.stacked(v)) for v in model.copied().variables]
    ours = [[stack[i] for stack in stacks] for i in range(copies)]
    assert float(logged) == pytest.approx(np.mean(losses), rel=1e-5)
    return ours, [[np.array(v) for v in one.variables] for one in alone]


@pytest.mark.exact
@pytest.mark.parametrize("copies", [2, 3])
def test_each_copy_is_trained_as_the_model_alone(copies):
    # With BatchNormalization, dropout and L2; to the bit on TensorFlow.
    x, y = images(8 * copies)
    ours, alone = together_and_alone(standard_net(), sgd, x, y, copies=copies)
    for mine, theirs in zip(ours, alone, strict=True):
        assert_equal(mine, theirs) if TENSORFLOW else close(mine, theirs, 1e-6)
    assert np.abs(ours[0][0] - ours[1][0]).max() > 1e-2


CLASSES = {name: row.cls for name, row in methods.METHODS.items()} | methods.BASES
REFUSED = {"kfac", "nudgedsgd"}  # Their matrices and directions are those of one model.
APART = [name for name in CLASSES if name not in REFUSED | COPIED]  # The others see each other.
VARIETIES = {
    "fixedeffectiverate-filters": lambda inner: ks.FixedEffectiveRate(
        inner, per="filter", others=1.0
    ),
}


@contextlib.contextmanager
def one_draw(copies):
    """Have each copy draw the noise of a model alone, and not that of its place in the stack."""
    normal, perturbed = noise.normal, noise._perturbed

    def same(like, *key):
        return keras.ops.stack([normal(like[0], *key)] * copies)

    def moved(weight, radius, key, distribution, scale, _):
        each = keras.ops.unstack(weight, copies)
        return keras.ops.stack([perturbed(w, radius, key, distribution, scale, None) for w in each])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "normal", same)
        patch.setattr(noise, "_perturbed", moved)
        yield


@pytest.mark.parametrize("name", [*APART, *VARIETIES])
def test_a_method_does_to_each_copy_what_it_does_to_a_model(name):
    # With different gradients in each copy, a norm of all of them would differ from each one's.
    def made():
        return VARIETIES[name](sgd()) if name in VARIETIES else optimizer_of(name)

    ours, alone = together_and_alone(small_net(), made, X, Y, copies=2, run_eagerly=TENSORFLOW)
    for mine, theirs in zip(ours, alone, strict=True):
        close(mine, theirs, 1e-5)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_of_one_model_is_refused_before_any_work(name):
    model, made = ks.Copies(small_net(), 2), optimizer_of(name)
    message = f"each of the `Copies` alone, and `{type(made).__name__}` .* models one by one"
    with pytest.raises(ValueError, match=message):
        model.compile(ks.SAM(made), LOSS)
    assert not made.built


def trained(optimizer, steps=3, model=None, **compiled):
    """Variables of copies after some steps."""
    model = model or scattered(small_net())[0]
    model.compile(optimizer, LOSS, **compiled)
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return [np.array(v) for v in model.variables]


@pytest.mark.exact
def test_reductions():
    expected = trained(sgd())
    for optimizer in (
        ks.ReplicatedSGD(sgd(), coupling=0.0),
        ks.EntropySGD(sgd(), langevin_steps=0),
        ks.EntropySGD(ks.ReplicatedSGD(sgd(), coupling=0.0), langevin_steps=0),
    ):
        assert_equal(trained(optimizer), expected) if TENSORFLOW else close(
            trained(optimizer), expected, 1e-6
        )
    assert np.abs(trained(ks.ReplicatedSGD(sgd(), 0.5))[0] - expected[0]).max() > 1e-3


def test_sample_weights_are_those_of_the_part():
    weights = np.linspace(0, 2, 24, dtype="float32")
    ours, alone = together_and_alone(small_net(), sgd, X, Y, weights=weights)
    for mine, theirs in zip(ours, alone, strict=True):
        close(mine, theirs, 1e-6)


def test_parts_differ_by_one_example_at_most():
    # 7 examples for 3 copies: 2, 2 and 3. Each copy's gradient is that of its own mean.
    model, alone = scattered(small_net(dropout=0.0))
    model.compile(sgd(), LOSS)
    model.train_on_batch(X[:7], Y[:7])
    ends = [0, 2, 4, 7]
    for i, one in enumerate(alone):
        one.compile(sgd(), LOSS)
        one.train_on_batch(X[ends[i] : ends[i + 1]], Y[ends[i] : ends[i + 1]])
        close(
            [assigned(model)[i]],
            [np.concatenate([np.ravel(w) for w in one.trainable_weights])],
            1e-5,
        )


@pytest.mark.parametrize("inference", ["centre", "mean", 1])
def test_inference(inference, tmp_path):
    model, alone = scattered(small_net(), inference=inference)
    model.compile(sgd(), LOSS, metrics=["accuracy"])
    model.fit(X, Y, 24, 2, verbose=0)
    alone = [model.copy(i) for i in range(3)]
    expected = {
        "centre": lambda: model.centre().predict(X, verbose=0),
        "mean": lambda: np.mean([one.predict(X, verbose=0) for one in alone], 0),
        1: lambda: alone[1].predict(X, verbose=0),
    }[inference]()
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, rtol=1e-4, atol=1e-5)
    plain = ks.wrap(model.centre() if inference == "centre" else alone[1])
    plain.compile(loss=LOSS)
    if inference != "mean":  # L2 included.
        loss = plain.evaluate(X, Y, verbose=0)
        assert model.evaluate(X, Y, verbose=0)[0] == pytest.approx(loss, rel=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    assert loaded.inference == inference


def test_the_centre_and_one_copy_are_plain_models_to_recalibrate():
    model, _ = scattered(small_net())
    centre = model.centre()
    assert type(centre) is type(model.copied())
    for variable, mean in zip(centre.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable, np.mean(np.array(mean), 0), rtol=1e-6, atol=1e-7)
    before = np.array(centre.layers[1].moving_mean)
    ks.recalibrate(centre, X)
    assert np.any(np.array(centre.layers[1].moving_mean) != before)
    weights = assigned(model).astype("float64")
    expected = np.linalg.norm(weights - weights.mean(0), axis=1)
    np.testing.assert_allclose(model.distances(), expected, rtol=1e-5)


def test_save_clone_and_resume(tmp_path):
    model = ks.Copies(small_net(dropout=0.0), 3, initial="different")
    assert len({w.tobytes() for w in assigned(model)}) == 3
    trained(ks.Lookahead(ks.SAM(sgd(), 0.1), 2), model=model)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "of.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal(values(loaded), values(model))
    for one in (model, loaded):
        one.train_on_batch(X, Y)
    assert_equal(values(loaded), values(model))
    clone = keras.models.clone_model(model)
    assert (clone.copies, clone.initial) == (3, "different")
    clone.load_weights(tmp_path / "of.weights.h5", skip_mismatch=False)
    assert [w.shape for w in clone.get_weights()] == [w.shape for w in model.get_weights()]


@keras.saving.register_keras_serializable("copies")
class Residual(keras.Model):
    """A subclassed model with two inputs and two outputs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside, self.a, self.b = layers.Dense(6), layers.Dense(3), layers.Dense(1)
        self.drop = layers.Dropout(0.5)

    def call(self, inputs, training=None):
        x = inputs["x"] + self.drop(self.inside(inputs["z"]), training=training)
        return {"a": self.a(x), "b": self.b(x)}


def test_a_subclassed_model_of_dicts(tmp_path):
    inputs, targets = {"x": X, "z": X[::-1].copy()}, {"a": Y, "b": X[:, :1]}
    net = Residual()
    net(inputs)
    model = ks.Copies(net, 3, initial="different")
    model.compile(ks.ReplicatedSGD(sgd(0.002), 0.1), {"a": LOSS, "b": "mse"})
    before = assigned(model)
    logs = [model.train_on_batch(inputs, targets, return_dict=True)["loss"] for _ in range(20)]
    assert logs[-1] < logs[0]
    assert np.all(np.any(assigned(model) != before, 1))
    assert model.predict(inputs, verbose=0)["a"].shape == (24, 3)
    model.save(tmp_path / "model.keras")
    assert_equal(
        keras.saving.load_model(tmp_path / "model.keras").get_weights(), model.get_weights()
    )


def test_masks_of_outputs_are_those_of_the_part():
    words = np.array([[1, 2, 0], [3, 0, 0], [2, 2, 2], [1, 3, 0]])
    y = np.ones((4, 3, 1))

    def net():
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [keras.Input((3,)), layers.Embedding(4, 3, mask_zero=True), layers.Dense(1)]
        )

    ours, alone = together_and_alone(net(), sgd, words, y, copies=2, loss="mse")
    for mine, theirs in zip(ours, alone, strict=True):
        close(mine, theirs, 1e-6)


def test_frozen_layers_and_constraints():
    net = small_net()
    net.layers[1].trainable = False
    net.layers[0].kernel.constraint = keras.constraints.UnitNorm(axis=0)
    model, _ = scattered(net)
    frozen = np.array(model.stacked(net.layers[1].gamma))
    trained(sgd(), model=model)
    assert_equal([np.array(model.stacked(net.layers[1].gamma))], [frozen])
    kernel = np.array(model.stacked(net.layers[0].kernel))
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=1), 1, rtol=1e-5)
    net.layers[0].trainable = False
    trained(sgd(), model=model)
    assert_equal([np.array(model.stacked(net.layers[0].kernel))], [kernel])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    model = ks.Copies(small_net(), 2)
    scaled = isinstance(_compiled(model).optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    before = assigned(model)
    model.train_on_batch(X, Y)
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert np.all(np.isfinite(assigned(model))) and np.any(assigned(model) != before)
    assert model.predict(X, verbose=0).dtype == np.dtype(model.copied().compute_dtype)


def _compiled(model, **options):
    model.compile(ks.SmoothOut(ks.ReplicatedSGD(sgd(), 0.1), 0.01), LOSS, **options)
    return model


def test_ghost_batches_are_cut_into_parts():
    # Two ghost batches of 12 examples, 4 for each copy: the mean of their gradients.
    ghosts, whole = scattered(small_net(dropout=0.0))[0], scattered(small_net(dropout=0.0))[0]
    ghosts.compile(keras.optimizers.SGD(0.1), LOSS, ghost_batch_size=12)
    whole.compile(keras.optimizers.SGD(0.1), LOSS)
    ghosts.train_on_batch(X, Y)
    start, moved = assigned(whole), []
    for half in (slice(0, 12), slice(12, 24)):
        assign(whole, start)
        whole.train_on_batch(X[half], Y[half])
        moved.append(assigned(whole))
    close([assigned(ghosts)], [np.mean(moved, 0)], 1e-5)


def test_noise_is_that_of_each_copy():
    # The norm of the noise of a filter, in each copy, is a tenth of that of the filter.
    model, _ = scattered(small_net())
    model.compile(ks.AdaSmoothOut(sgd(), 0.1, exclude=()), LOSS)
    model.optimizer.build(model.trainable_variables)
    weights = [np.array(v) for v in model.trainable_variables]
    step = model.optimizer.step()
    noisy = model.optimizer.perturb([keras.ops.convert_to_tensor(w) for w in weights], step, 0)
    noise = np.array(noisy[0]) - weights[0]
    sizes = np.linalg.norm(noise, axis=1) / np.linalg.norm(weights[0], axis=1)
    np.testing.assert_allclose(sizes, 0.1, rtol=1e-3)
    (bias,) = [i for i, v in enumerate(model.trainable_variables) if v.name == "bias"]
    change = np.abs(np.array(noisy[bias]) - weights[bias])
    np.testing.assert_allclose(change, 0.1 * np.abs(weights[bias]), rtol=1e-3)


def test_clean_statistics_are_those_of_each_copy():
    # The noise would move the statistics far away, in each copy to another place.
    model, alone = scattered(small_net(dropout=0.0))
    for one in (model, *alone):
        one.compile(ks.SmoothOut(keras.optimizers.SGD(0.0), 1.0), LOSS)
    model.train_on_batch(X, Y)
    ours = np.array(model.stacked(model.copied().layers[1].moving_mean))
    for i, one in enumerate(alone):
        one.train_on_batch(X[8 * i : 8 * i + 8], Y[8 * i : 8 * i + 8])
        (norm,) = [x for x in one.layers if isinstance(x, layers.BatchNormalization)]
        np.testing.assert_allclose(ours[i], norm.moving_mean, rtol=1e-5, atol=1e-6)
    assert np.abs(ours[0] - ours[1]).max() > 1e-3


def test_parle_is_entropy_sgd_around_coupled_copies():
    # On h x^2 / 2: each chain runs alone; the update has the spring to the centre of the copies.
    h, coupling, step_size = 2.0, 0.25, 0.1
    start = np.array([[1.0], [3.0]])
    chain = {"langevin_steps": 2, "scope": 0.5, "scoping": 0.0, "thermal_noise": 0.0}
    inner = ks.ReplicatedSGD(keras.optimizers.SGD(0.5), coupling)
    optimizer = ks.EntropySGD(inner, step_size=step_size, averaging=0.5, **chain)
    model, batch = quadratic_copies([h], start)
    model.compile(optimizer)
    for _ in range(2):
        model.train_on_batch(*batch)
    x = mu = start
    for _ in range(2):
        x = x - step_size * (h * x + 0.5 * (x - start))
        mu = (mu + x) / 2
    expected = start - 0.5 * (start - mu + coupling * (start - start.mean()))
    close(model.get_weights(), [expected], 1e-6)
    # The other way round, each step of the chain has the spring, and the update has none.
    optimizer = ks.ReplicatedSGD(
        ks.EntropySGD(keras.optimizers.SGD(0.5), step_size=step_size, averaging=0.5, **chain),
        coupling,
    )
    model, batch = quadratic_copies([h], start)
    model.compile(optimizer)
    for _ in range(2):
        model.train_on_batch(*batch)
    x = mu = start
    for _ in range(2):
        pull = coupling * (start - start.mean())
        x = x - step_size * (h * x + pull + 0.5 * (x - start))
        mu = (mu + x) / 2
    close(model.get_weights(), [start - 0.5 * (start - mu)], 1e-6)


@pytest.mark.tensorflow
def test_two_replicas_train_all_copies():
    def made():
        return _compiled(scattered(small_net(dropout=0.0), 2)[0])

    with two_replicas().scope():
        many = made()
    many.fit(X, Y, 24, 3, shuffle=False, verbose=0)
    for variable in [*many.trainable_variables, *many.optimizer.variables]:
        equal_on_both(variable)


@pytest.mark.tensorflow
def test_two_replicas_share_the_moving_statistics_of_each_copy():
    def made():
        model = scattered(small_net(dropout=0.0), 2)[0]
        model.compile(sgd(), LOSS)
        return model, [model.stacked(v) for v in model.copied().layers[1].non_trainable_variables]

    with two_replicas().scope():
        many, shared = made()
    many.fit(X, Y, 24, shuffle=False, verbose=0)
    halves = []
    for half in (slice(0, 12), slice(12, 24)):
        one, alone = made()
        one.train_on_batch(X[half], Y[half])
        halves.append([v.numpy() for v in alone])
    assert len(shared) == 2
    for ours, first, second in zip(shared, *halves, strict=True):
        found = equal_on_both(ours)
        np.testing.assert_allclose(found, (first + second) / 2, rtol=1e-5, atol=1e-6)
        assert np.abs(found - first).max() > 1e-3 and np.abs(found[0] - found[1]).max() > 1e-3


class Own(keras.Model):
    """A model with a step of its own."""

    def train_step(self, *given):
        return super().train_step(*given)

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ks.Copies(small_net(), 2, inference="best"), "inference='best'"),
        (lambda: ks.Copies(small_net(), 2, inference=2), "inference=2"),
        (lambda: ks.Copies(ks.Copies(small_net(), 2), 2), "`model`"),
        (lambda: ks.Copies(keras.Sequential([layers.Dense(2)]), 2), "`model`"),
        (lambda: ks.Copies(None, 2), "model=None"),
        (lambda: ks.Copies(small_net(), 2).copy(2), "index=2"),
        (lambda: ks.recalibrate(ks.Copies(small_net(), 2), X), "copies.centre()"),
        (lambda: _fit(sgd(), X[:1], Y[:1]), "a batch of 1"),
        (lambda: _fit(sgd(), X[:9], Y[:9]), "a batch of 1"),
        (lambda: _fit(keras.optimizers.SGD(clipnorm=1.0)), "clipnorm=1.0"),
        (lambda: _fit(ks.SAM(keras.optimizers.Adam(global_clipnorm=2.0))), "global_clipnorm=2.0"),
        (lambda: _fit(keras.optimizers.Lamb()), "optimizer=Lamb"),
        (lambda: _fit(ks.NudgedSGD("sgd")), "optimizer=NudgedSGD"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def _fit(optimizer, x=X, y=Y):
    model = ks.Copies(small_net(), 2)
    model.compile(optimizer, LOSS)
    model.fit(x, y, 8, verbose=0)


def test_stateful_layers_are_refused():
    net = keras.Sequential([keras.Input(batch_shape=(2, 3, 1)), layers.LSTM(2, stateful=True)])
    with pytest.raises(ValueError, match="stateful"):
        ks.Copies(net, 2)


def on_devices():
    """One copy on each of eight devices, with its part of the batch."""
    mesh = keras.distribution.DeviceMesh((8,), ["copies"])
    layout = keras.distribution.LayoutMap(mesh)
    layout["copies/.*"] = ("copies",)
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="copies")


X32 = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y32 = np.random.default_rng(1).integers(0, 3, 32)


def eight(optimizer):
    model = ks.Copies(small_net(), 8, initial="different")
    model.compile(optimizer, LOSS, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return model


# What a step makes travel: the number of times that all kernels do, by each kind of message.
TRAFFIC = {
    "alone": (sgd, {}),
    "ring": (lambda: ks.DPSGD(sgd(), "ring"), {"collective-permute": 2}),
    "exponential": (lambda: ks.DPSGD(sgd(), "exponential"), {"collective-permute": 3}),
    "complete": (lambda: ks.DPSGD(sgd(), "complete"), {"all-reduce": 1}),
    "coupled": (lambda: ks.ReplicatedSGD(sgd(), 0.1), {"all-reduce": 1}),
}


FAST = ("alone", "ring")


@pytest.mark.jax
@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.release) for n in TRAFFIC]
)
def test_a_copy_on_each_device(name):
    import jax

    make, expected = TRAFFIC[name]
    one = eight(make())
    history = one.fit(X32, Y32, 32, 2, shuffle=False, verbose=0).history
    with on_devices().scope():
        distribution = keras.distribution.distribution()
        many = eight(make())
        logs = many.fit(X32, Y32, 32, 2, shuffle=False, verbose=0).history
        outputs = many.predict(X32, verbose=0)
        mesh = distribution.device_mesh.backend_mesh
        cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("copies"))
        for variable in many.trainable_variables:
            assert variable.value.addressable_shards[0].data.shape == (1, *variable.shape[1:])
        batch = [jax.device_put(array, cut) for array in (X32, Y32)]
        names = ("trainable_variables", "non_trainable_variables", "optimizer_variables")
        state = many._get_jax_state(**dict.fromkeys((*names, "metrics_variables"), True))
        program = jax.jit(many.train_step).lower(state, tuple(batch)).compile().as_text()
    close([assigned(many)], [assigned(one)], 1e-5)
    np.testing.assert_allclose(outputs, one.predict(X32, verbose=0), rtol=1e-4, atol=1e-5)
    for key, numbers in history.items():
        assert logs[key] == pytest.approx(numbers, rel=1e-4)
    found = {}
    for kind in ("all-reduce", "all-gather", "collective-permute", "all-to-all"):
        messages = " ".join(re.findall(rf"= (.*) {kind}(?:-start)?\(", program))
        kernels = len(re.findall(r"f32\[(?:1,)?6,8\]", messages))
        if kernels:
            found[kind] = kernels
    assert found == expected


def transformer():
    """A small encoder of words, of two classes."""
    words = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 8)(words)
    attended = layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x)
    x = layers.LayerNormalization()(x + attended)
    x = layers.LayerNormalization()(x + layers.Dense(8)(layers.Dense(16, "gelu")(x)))
    return keras.Model(words, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


@pytest.mark.release
def test_a_transformer_trains_as_copies():
    keras.utils.set_random_seed(0)
    words = np.random.default_rng(0).integers(0, 9, (60, 6))
    y = (words[:, 0] > 4).astype("int32")
    model = ks.Copies(transformer(), 3)
    model.compile(ks.ReplicatedSGD("adam", 0.1), LOSS, metrics=["accuracy"])
    history = model.fit(words, y, 60, 60, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]


@pytest.mark.release
@pytest.mark.tensorflow
def test_a_resnet_of_keras_trains_as_copies():
    keras.utils.set_random_seed(0)
    net = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=3)
    model = ks.Copies(net, 2)
    x = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    y = np.arange(8) % 3
    model.compile(ks.DPSGD(keras.optimizers.SGD(0.01)), "sparse_categorical_crossentropy")
    before = model.stacked(net.layers[2].kernel).numpy()
    losses = [model.train_on_batch(x, y) for _ in range(3)]
    after = model.stacked(net.layers[2].kernel).numpy()
    assert np.all(np.isfinite(losses)) and np.all(np.any(after != before, (1, 2, 3, 4)))
    assert model.predict(x, verbose=0).shape == (8, 3)
