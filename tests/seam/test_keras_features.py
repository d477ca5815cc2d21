"""What Keras offers to its users works with these optimizers, and at radius 0 to the same numbers.

The first half is a table: each case trains a model with Keras' own step and with ours, and compares
weights, optimizer state and logs. The rest looks at what the table cannot see.
"""

import contextlib
import functools
import io
import types

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.nets import assert_equal, on_batch, sgd, values

import keras_smoothout as ks

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SUM = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
register = keras.saving.register_keras_serializable("test_keras_features")


def features(count=16):
    return np.random.default_rng(0).normal(size=(count, 3)).astype("float32")


def labels(count=16):
    return np.random.default_rng(1).integers(0, 2, count)


def dense(units=4, **kwargs):
    return layers.Dense(units, activation="tanh", **kwargs)


def functional(*hidden):
    inputs = keras.Input((3,))
    x = inputs
    for layer in hidden or [dense()]:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def arrays(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


def frozen(layer):
    layer.trainable = False
    return layer


@register
class Subclassed(keras.Model):
    """A model in Keras' third style."""

    def __init__(self, rate=0.5, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.hidden = dense()
        self.dropout = layers.Dropout(rate, seed=1)
        self.head = layers.Dense(2)

    def call(self, inputs, training=None):
        return self.head(self.dropout(self.hidden(inputs), training=training))

    def get_config(self):
        return super().get_config() | {"rate": self.rate}


class WithoutTraining(keras.Model):
    """A model whose `call` has no argument `training`."""

    def __init__(self):
        super().__init__()
        self.hidden = dense()
        self.head = layers.Dense(2)

    def call(self, inputs):
        return self.head(self.hidden(inputs))


class WithLoss(layers.Layer):
    """Adds a loss that depends on its weight and on its input."""

    def __init__(self, factor=0.1, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1],), initializer="ones", name="kernel")

    def call(self, inputs):
        self.add_loss(self.factor * ops.sum(ops.square(self.kernel)))
        self.add_loss(0.1 * ops.mean(ops.square(inputs)))
        return inputs * self.kernel


class WithUnused(layers.Layer):
    """Has a weight that no output depends on."""

    def build(self, shape):
        self.unused = self.add_weight(shape=(2,), initializer="ones", name="unused")

    def call(self, inputs):
        return inputs


class Batches(keras.utils.PyDataset):
    """Two batches of different sizes, weighted."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        part = slice(0, 9) if index == 0 else slice(9, 16)
        return features()[part], labels()[part], np.linspace(0, 2, 16, dtype="float32")[part]


def dicts():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((3,), name="b")}
    x = layers.Concatenate()([inputs["a"], dense(3)(inputs["b"])])
    outputs = {"kind": layers.Dense(2, name="kind")(x), "size": layers.Dense(1, name="size")(x)}
    return keras.Model(inputs, outputs)


def only_own_loss():
    inputs = keras.Input((3,))
    return keras.Model(inputs, WithLoss()(dense()(inputs)))


def embedding():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(7, 3)(inputs))
    return keras.Model(inputs, layers.Dense(2)(x))


def words():
    return np.random.default_rng(0).integers(0, 6, (16, 5))


# On TensorFlow, half of the table runs eagerly, which takes a fifth of the time.
EAGERLY = keras.backend.backend() == "tensorflow"


def case(build=functional, inner=sgd, compile=(), fit=(), marks=(), tolerance=0.0):
    return types.SimpleNamespace(
        build=build,
        inner=inner,
        compile=dict(compile),
        fit=dict(fit),
        marks=marks,
        tolerance=tolerance,
    )


L2 = keras.regularizers.L2(0.1)
DECAY = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
SGD = {
    "class_name": "SGD",
    "config": {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "clipvalue": 0.01},
}
UNUSED = [pytest.mark.filterwarnings("ignore:Gradients do not exist")]
CASES = {
    # Data and losses.
    "batches_of_two_sizes_with_weights": case(
        compile={"run_eagerly": EAGERLY, "weighted_metrics": ["accuracy"]},
        fit={"x": Batches(), "y": None, "batch_size": None},
    ),
    "class_weight_and_validation_split": case(
        compile={"run_eagerly": EAGERLY},
        fit={"class_weight": {0: 0.5, 1: 3.0}, "validation_split": 0.5},
    ),
    "dicts": case(
        dicts,
        compile={
            "run_eagerly": EAGERLY,
            "loss": {"kind": SPARSE, "size": "mse"},
            "loss_weights": {"kind": 1.0, "size": 0.3},
            "metrics": {"kind": ["accuracy"], "size": ["mae"]},
        },
        fit={
            "x": {"a": features(), "b": features() ** 2},
            "y": {"kind": labels(), "size": features()[:, :1]},
        },
    ),
    "no_loss_but_of_layers": case(
        only_own_loss,
        compile={"run_eagerly": EAGERLY, "loss": None, "metrics": None},
        fit={"y": None},
    ),
    "losses_of_layers": case(
        lambda: functional(
            dense(kernel_regularizer=L2, activity_regularizer=L2, bias_constraint="unit_norm"),
            WithLoss(),
        ),
        compile={"run_eagerly": EAGERLY},
    ),
    # The inner optimizer.
    "clipnorm_weight_decay_and_ema": case(
        inner=lambda: keras.optimizers.Adam(
            0.1,
            clipnorm=0.1,
            weight_decay=0.1,
            use_ema=True,
            ema_momentum=0.5,
            ema_overwrite_frequency=2,
        ),
        compile={"run_eagerly": EAGERLY},
    ),
    "global_clipnorm_loss_scale_and_schedule": case(
        inner=lambda: keras.optimizers.SGD(DECAY, global_clipnorm=0.1, loss_scale_factor=8.0),
        compile={"run_eagerly": EAGERLY},
    ),
    "optimizer_by_config": case(inner=lambda: SGD, compile={"run_eagerly": EAGERLY}),
    # How the step is run.
    "steps_per_execution": case(compile={"steps_per_execution": 2}),
    "run_eagerly": case(compile={"run_eagerly": True}),
    "jit_compile": case(compile={"jit_compile": True}),
    # Layers and models.
    "frozen": case(
        lambda: functional(
            frozen(dense()), layers.BatchNormalization(), frozen(layers.BatchNormalization())
        )
    ),
    "unused": case(
        lambda: functional(dense(), WithUnused()),
        lambda: keras.optimizers.SGD(0.1, weight_decay=0.1),
        marks=UNUSED,
    ),
    # TensorFlow's sparse gradients add up in another order.
    "embedding": case(embedding, fit={"x": words()}, tolerance=1e-6),
    "recurrent": case(lambda: functional(layers.Reshape((3, 1)), layers.SimpleRNN(3))),
    "nested": case(
        lambda: functional(keras.Sequential([dense(3), layers.Dropout(0.5, seed=1)]), functional())
    ),
    "sequential": case(lambda: keras.Sequential([keras.Input((3,)), dense(), layers.Dense(2)])),
    "unbuilt_sequential": case(lambda: keras.Sequential([dense(), layers.Dense(2)])),
    "subclassed": case(Subclassed),
    "without_training": case(WithoutTraining),
}


def train(model, optimizer, compile=(), fit=()):
    """Two steps, of 8 examples each; returns the logs of their epoch."""
    model.compile(optimizer, **{"loss": SPARSE, "metrics": ["accuracy"]} | dict(compile))
    data = {"x": features(), "y": labels(), "batch_size": 8, "shuffle": False, "verbose": 0}
    return model.fit(**data | dict(fit)).history


def same(a, b, tolerance=0.0):
    """Equal to the bit; on JAX as far as XLA, which fuses every program in its own way, can."""
    tolerance = 1e-6 if keras.backend.backend() == "jax" else tolerance
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=f"array {i}")


@pytest.mark.parametrize("case", [pytest.param(c, id=i, marks=c.marks) for i, c in CASES.items()])
@pytest.mark.exact
def test_radius_0_is_keras_itself(case):
    keras.utils.set_random_seed(1)
    plain = case.build()
    plain_logs = train(plain, case.inner(), case.compile, case.fit)
    keras.utils.set_random_seed(1)
    model = ks.wrap(case.build())
    optimizer = ks.SmoothOut(case.inner(), radius=0.0)
    logs = train(model, optimizer, case.compile, case.fit)
    same(model.get_weights(), plain.get_weights(), case.tolerance)
    same(arrays(optimizer.inner.variables), arrays(plain.optimizer.variables), case.tolerance)
    assert list(logs) == list(plain_logs)
    for name in logs:
        assert logs[name] == pytest.approx(plain_logs[name]), name


def test_radius_matters():
    # Or the equalities above might hold of a step that has no noise to add.
    plain = functional()
    noisy = ks.wrap(keras.models.clone_model(plain))
    noisy.set_weights(plain.get_weights())
    train(plain, sgd())
    train(noisy, ks.SmoothOut(sgd(), radius=0.1))
    for a, b in zip(plain.get_weights(), noisy.get_weights(), strict=True):
        assert np.any(a != b)


def test_a_plain_optimizer_makes_the_steps_of_keras():
    keras.utils.set_random_seed(1)
    plain = functional()
    model = ks.wrap(keras.models.clone_model(plain))
    model.set_weights(plain.get_weights())
    assert train(model, sgd()) == train(plain, sgd())
    assert_equal(values(model), values(plain))


def test_optimizer_by_name():
    assert type(ks.SAM("adam").inner) is keras.optimizers.Adam
    assert float(ks.SmoothOut("sgd").learning_rate) == pytest.approx(0.01)


# Regularizers and other losses that depend on the weights.


def one_weight(extra):
    """A linear model whose loss is `extra` times the squared norm of its weight, plus an MSE."""
    inputs = keras.Input((3,))
    return {
        "regularizer": lambda: ks.Model(
            inputs,
            layers.Dense(1, use_bias=False, kernel_regularizer=keras.regularizers.L2(extra))(
                inputs
            ),
        ),
        "add_loss": lambda: ks.Model(
            inputs, ops.sum(WithLoss(extra, name="scale")(inputs), axis=-1, keepdims=True)
        ),
    }


@pytest.mark.parametrize("kind", ["regularizer", "add_loss"])
def test_gradients_of_weight_losses_are_those_at_the_noisy_weights(kind):
    # MSE and noise u are those of extra = 0, so the gradients differ by extra * 2 (w + u).
    extra, rate, steps = 0.25, 0.5, {}
    for factor in (0.0, extra):
        model = one_weight(factor)[kind]()
        weight = model.trainable_variables[0]
        weight.assign(np.ones(weight.shape))
        optimizer = ks.SmoothOut(keras.optimizers.SGD(rate), radius=0.5)
        model.compile(optimizer, "mse")
        optimizer.build(model.trainable_variables)
        noise = optimizer.perturb([weight.value], optimizer.step(), 0)[0] - 1.0
        model.train_on_batch(features(), features()[:, :1])
        steps[factor] = arrays([weight])[0]
    noise = ops.convert_to_numpy(noise)
    assert np.min(np.abs(noise)) > 1e-3
    np.testing.assert_allclose(
        steps[extra] - steps[0.0], -rate * extra * 2 * (1.0 + noise), rtol=1e-4
    )


@pytest.mark.tensorflow  # JAX takes an unused weight's gradient for zero.
def test_unused_variables_stay_and_are_warned_of():
    model = ks.wrap(functional(dense(), WithUnused()))
    inner = keras.optimizers.SGD(0.1, weight_decay=0.1)
    with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
        train(model, ks.Lookahead(ks.SmoothOut(inner, radius=0.1), sync_period=1))
    np.testing.assert_array_equal(model.layers[2].unused.numpy(), 1.0)


# The learning rate.


def nested():
    return ks.Lookahead(ks.SmoothOut(sgd(), radius=0.05), sync_period=3)


def test_learning_rate_is_that_of_the_innermost():
    innermost = sgd(0.1)
    optimizer = ks.Lookahead(ks.SAM(ks.SmoothOut(innermost)))
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    optimizer.learning_rate = 0.02
    assert float(innermost.learning_rate) == pytest.approx(0.02)
    assert float(optimizer.learning_rate) == pytest.approx(0.02)
    innermost.learning_rate = 0.03
    assert float(optimizer.learning_rate) == pytest.approx(0.03)


def test_learning_rate_schedule_reaches_the_weights():
    # 0.1, 0.05, ... as Keras counts: by the updates of the innermost optimizer.
    optimizer = ks.SAM(ks.SmoothOut(keras.optimizers.SGD(DECAY)))
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    optimizer.inner.inner.iterations.assign(2)
    assert float(optimizer.learning_rate) == pytest.approx(0.025)
    with pytest.raises(TypeError, match="not settable"):
        optimizer.learning_rate = 0.1


def test_learning_rate_scheduler():
    model = ks.wrap(functional())
    weights = []
    logs = train(
        model,
        ks.SAM(ks.SmoothOut("sgd")),
        fit={
            "epochs": 3,
            "callbacks": [
                keras.callbacks.LearningRateScheduler(lambda epoch, rate: [0.5, 0.25, 0.0][epoch]),
                keras.callbacks.LambdaCallback(
                    on_epoch_end=lambda epoch, logs: weights.append(model.get_weights())
                ),
            ],
        },
    )
    assert logs["learning_rate"] == [0.5, 0.25, 0.0]
    assert np.any(weights[0][0] != weights[1][0])
    assert_equal(weights[1], weights[2])


# Callbacks.


@functools.cache
def _run_with_callbacks(folder):
    run = types.SimpleNamespace(csv=folder / "log.csv", best=folder / "best.keras", weights=[])
    keras.utils.set_random_seed(0)
    model = ks.wrap(functional(dense(), layers.BatchNormalization()))
    callbacks = keras.callbacks
    fit = {
        "epochs": 9,
        "validation_split": 0.5,
        "batch_size": 4,
        "verbose": 1,
        "callbacks": [
            callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9),
            callbacks.EarlyStopping("loss", patience=3, min_delta=1e9),
            callbacks.CSVLogger(run.csv),
            callbacks.ModelCheckpoint(run.best, "val_loss", save_best_only=True),
            callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: run.weights.append(model.get_weights())
            ),
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()) as output:
        run.logs = train(model, nested(), fit=fit)
    run.output = output.getvalue()
    return run


@pytest.fixture
def callbacks_run(tmp_path_factory):
    """A fit with many callbacks, in which no epoch but the first counts as progress."""
    folder = tmp_path_factory.getbasetemp() / "callbacks"
    folder.mkdir(exist_ok=True)
    return _run_with_callbacks(folder)


def test_reduce_lr_on_plateau(callbacks_run):
    assert callbacks_run.logs["learning_rate"] == pytest.approx([0.1, 0.1, 0.05, 0.025])


def test_early_stopping(callbacks_run):
    assert len(callbacks_run.weights) == 4


def test_csv_logger(callbacks_run):
    logged = np.genfromtxt(callbacks_run.csv, delimiter=",", names=True)
    assert {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"} <= set(logged.dtype.names)
    np.testing.assert_allclose(logged["loss"], callbacks_run.logs["loss"])


def test_progress_bar(callbacks_run):
    assert "Epoch 4/9" in callbacks_run.output
    last = f"val_loss: {callbacks_run.logs['val_loss'][-1]:.4f}"
    for text in (" - loss: ", " - accuracy: ", last, "2/2"):
        assert text in callbacks_run.output


def test_model_checkpoint(callbacks_run):
    best = np.argmin(callbacks_run.logs["val_loss"])
    model = keras.saving.load_model(callbacks_run.best)
    assert_equal(model.get_weights(), callbacks_run.weights[best])
    assert isinstance(model.optimizer.inner, ks.SmoothOut)


def test_swap_ema_weights():
    seen = {}
    for wrapped in (lambda inner: inner, lambda inner: ks.Lookahead(ks.SmoothOut(inner, 0.0), 100)):
        keras.utils.set_random_seed(0)
        model, swap = functional(), keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        fit = {"epochs": 3, "validation_data": (features(), labels()), "callbacks": [swap]}
        seen[wrapped] = train(
            ks.wrap(model), wrapped(keras.optimizers.SGD(0.1, use_ema=True)), fit=fit
        )
    plain, ours = seen.values()
    assert plain == ours and plain["val_loss"][-1] != plain["loss"][-1]


class Interrupted(Exception):
    """Stands for the machine that goes away."""


def test_backup_and_restore(tmp_path):
    def run(seed, folder, interrupt=()):
        keras.utils.set_random_seed(seed)
        model = ks.wrap(functional(dense(), layers.BatchNormalization()))

        def begin(epoch, logs):
            epochs.append(epoch)
            if epoch in interrupt:
                raise Interrupted

        callbacks = [
            keras.callbacks.BackupAndRestore(tmp_path / folder),
            keras.callbacks.LambdaCallback(on_epoch_begin=begin),
        ]
        train(model, nested(), fit={"epochs": 4, "callbacks": callbacks})
        return values(model)

    epochs = []
    uninterrupted = run(1, "uninterrupted")
    with pytest.raises(Interrupted):
        run(1, "interrupted", [2])
    epochs.clear()
    assert_equal(run(2, "interrupted"), uninterrupted)
    assert epochs == [2, 3]


@pytest.mark.tensorflow
def test_tensorboard(tmp_path):
    model = ks.wrap(functional())
    board = keras.callbacks.TensorBoard(tmp_path, histogram_freq=1, update_freq="batch")
    train(model, nested(), fit={"callbacks": [board]})
    assert list(tmp_path.glob("train/events.out.tfevents.*"))


@pytest.mark.tensorflow
def test_tensorflow_checkpoint(tmp_path):
    import tensorflow as tf

    def model(seed):
        keras.utils.set_random_seed(seed)
        model = ks.wrap(functional(dense(), layers.BatchNormalization()))
        model.compile(nested(), SPARSE)
        model.optimizer.build(model.trainable_variables)
        return model, tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    def step(model):
        for _ in range(3):
            model.train_on_batch(features(), labels())

    first, checkpoint = model(1)
    step(first)
    path = checkpoint.write(tmp_path / "checkpoint")
    step(first)
    second, checkpoint = model(2)
    checkpoint.read(path).assert_consumed()
    step(second)
    assert_equal(values(first), values(second))


# Models of all kinds: each trains, saves, loads without `custom_objects`, and goes on.


@register
class OfOurs(ks.Model):
    """A subclass of our model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = dense()
        self.head = layers.Dense(2)

    def call(self, inputs):
        return self.head(self.hidden(inputs))


@register
class MixedFunctional(ks.TrainStep, keras.Model):
    """A class of one's own with our train step, made of inputs and outputs."""


@register
class MixedSubclass(ks.TrainStep, keras.Model):
    """A class of one's own with our train step and `call`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = Subclassed(0.0)

    def call(self, inputs, training=None):
        return self.body(inputs, training=training)


def functional_of(cls):
    model = functional()
    return cls(model.input, model.output)


MODELS = {
    "functional": lambda: functional_of(ks.Model),
    "functional_mixed": lambda: functional_of(MixedFunctional),
    "subclass": OfOurs,
    "subclass_mixed": MixedSubclass,
    "wrapped_functional": lambda: ks.wrap(functional()),
    "wrapped_sequential": lambda: ks.wrap(keras.Sequential([dense(), layers.Dense(2)])),
    "wrapped_subclass": lambda: ks.wrap(Subclassed(0.0)),
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_models_of_all_kinds(build, tmp_path):
    model = build()
    train(model, nested(), {"ghost_batch_size": 8})
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert loaded.ghost_batch_size == 8
    assert_equal(values(loaded), values(model))
    for m in (model, loaded):
        m.fit(features(), labels(), 8, shuffle=False, verbose=0)
    assert_equal(values(loaded), values(model))
    assert_equal(arrays([loaded(features())]), arrays([model(features())]))


def test_wrap_shares_weights_and_is_idempotent():
    model = functional()
    wrapped = ks.wrap(model)
    assert ks.wrap(wrapped) is wrapped
    assert wrapped.name == model.name
    for a, b in zip(wrapped.variables, model.variables, strict=True):
        assert a is b
    before = model.get_weights()
    train(wrapped, nested())
    assert np.any(model.get_weights()[0] != before[0])


class Tenfold(keras.Model):
    """A functional model with a `call` of its own."""

    def call(self, *args, **kwargs):
        return 10 * super().call(*args, **kwargs)


class TenfoldSequential(keras.Sequential):
    """A sequential one."""

    def call(self, *args, **kwargs):
        return 10 * super().call(*args, **kwargs)


@pytest.mark.parametrize("cls", [Tenfold, TenfoldSequential])
def test_wrap_keeps_a_call_of_the_model_itself(cls):
    inputs = keras.Input((3,))
    net = dense(2)
    model = cls([inputs, net]) if issubclass(cls, keras.Sequential) else cls(inputs, net(inputs))
    x = features()
    outputs = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(ks.wrap(model)(x)), outputs)


def test_a_step_that_does_not_ask_is_refused_also_after_one_that_did():
    model, optimizer = functional(), ks.SmoothOut("sgd")
    train(ks.wrap(model), optimizer)
    model.compile(optimizer, SPARSE)
    with pytest.raises(RuntimeError, match="keras_smoothout.wrap"):
        model.fit(features(), labels(), 8, verbose=0)


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight", "none"])
@pytest.mark.parametrize("listed", [False, True])
def test_chunks_refuse_a_loss_that_is_not_a_mean_over_examples(reduction, listed):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    losses = [loss] if listed else loss
    with pytest.raises(ValueError, match=f"`ghost_batch_size`.*loss=.*{reduction}"):
        ks.wrap(functional()).compile("sgd", losses, ghost_batch_size=4)
    ks.wrap(functional()).compile("sgd", losses)
    mean = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean")
    ks.wrap(functional()).compile("sgd", mean, ghost_batch_size=4)


@pytest.mark.tensorflow  # On JAX, Keras refuses the layer.
def test_a_draw_that_would_be_the_same_in_each_step_is_refused():
    class Noisy(layers.Layer):
        def call(self, x):
            return x + keras.random.normal(ops.shape(x))

    with pytest.raises(ValueError, match="`keras.random.SeedGenerator`"):
        train(ks.wrap(functional(Noisy())), nested())


class MadeOfLayers(ks.Model):
    """A functional model in its own class."""

    def __init__(self, units=2, **kwargs):
        inputs = keras.Input((3,))
        super().__init__(inputs, layers.Dense(units)(inputs), **kwargs)
        self.units = units

    def get_config(self):
        return {"units": self.units}


class MadeOfThem(MadeOfLayers):
    """One that inherits it."""


@pytest.mark.parametrize("cls", [MadeOfLayers, MadeOfThem])
def test_a_functional_model_in_its_own_class_leaves_others_as_they_are(cls, tmp_path):
    bases = ks.Model.__bases__
    model = cls()
    assert ks.Model.__bases__ == bases and isinstance(model, ks.Model)
    train(model, nested())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", {cls.__name__: cls})
    assert type(loaded) is cls
    assert_equal(loaded.get_weights(), model.get_weights())
    train(ks.wrap(keras.Sequential([layers.Dense(2)])), nested())


def test_wrap_refuses_to_leave_out_what_the_model_overrides():
    class Own(keras.Model):
        def fit(self, *args, **kwargs):
            return super().fit(*args, **kwargs)

    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="a model with its own fit"):
        ks.wrap(Own(inputs, layers.Dense(2)(inputs)))


def test_evaluate_and_predict_are_those_of_the_model():
    model = functional(dense(), layers.Dropout(0.5), layers.BatchNormalization())
    wrapped = ks.wrap(model)
    train(wrapped, nested())
    model.compile(loss=SPARSE, metrics=["accuracy"])
    x, y = features(), labels()
    found = wrapped.evaluate(x, y, verbose=0), wrapped.test_on_batch(x, y)
    with ks.weights_of(wrapped):  # The slow weights of `Lookahead`.
        assert found == (model.evaluate(x, y, verbose=0), model.test_on_batch(x, y))
    found = wrapped.predict(x, verbose=0), wrapped.predict_on_batch(x)
    with ks.weights_of(wrapped):
        np.testing.assert_array_equal(
            found, (model.predict(x, verbose=0), model.predict_on_batch(x))
        )


def test_clone_model():
    model = ks.wrap(functional())
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert isinstance(clone, ks.Model)
    assert train(clone, nested()) == train(model, nested())
    assert_equal(values(clone), values(model))


def test_train_on_batch_is_a_step_of_fit():
    first = ks.wrap(functional())
    second = keras.models.clone_model(first)
    second.set_weights(first.get_weights())
    logs = train(first, nested())
    second.compile(nested(), SPARSE, metrics=["accuracy"])
    losses = []
    for part in (slice(0, 8), slice(8, 16)):
        batch_logs = on_batch(second, features()[part], labels()[part])
        losses.append(batch_logs["loss"])
    assert_equal(values(second), values(first))
    assert np.mean(losses) == pytest.approx(logs["loss"][0])


def test_ghost_batches_on_batch():
    # `train_on_batch` passes `sample_weight=None` where `fit` passes nothing.
    first = ks.wrap(functional())
    second = keras.models.clone_model(first)
    second.set_weights(first.get_weights())
    train(first, sgd(), {"ghost_batch_size": 3}, {"batch_size": 16})
    second.compile(sgd(), SPARSE, metrics=["accuracy"], ghost_batch_size=3)
    second.train_on_batch(features(), labels())
    assert_equal(values(second), values(first))


def test_own_loss_and_metrics_see_a_batch_once():
    # SAM evaluates the loss twice; a tracker in `compute_loss` counts the clean pass alone.
    def own(*bases):
        class Own(*bases):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.seen = keras.metrics.Sum(name="seen")
                self.squares = keras.metrics.Mean(name="squares")

            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
                self.seen.update_state(ops.ones_like(y))
                return ops.mean(ops.square(y_pred[:, 0] - ops.cast(y, y_pred.dtype)))

            def compute_metrics(self, x, y, y_pred, sample_weight=None):
                self.squares.update_state(ops.square(y_pred))
                return {"seen": self.seen.result(), "squares": self.squares.result()}

            @property
            def metrics(self):
                return [self.seen, self.squares]

        return functional_of(Own)

    keras.utils.set_random_seed(0)
    plain = train(own(keras.Model), sgd(), {"loss": None})
    keras.utils.set_random_seed(0)
    ours = train(own(ks.TrainStep, keras.Model), ks.SAM(sgd(), rho=0.0), {"loss": None})
    assert ours["seen"] == plain["seen"] == [16.0]
    assert ours["squares"] == pytest.approx(plain["squares"])


def test_summary_counts_the_optimizer():
    # 26 weights in its variables; SGD has momenta, iteration and rate; each wrapper an iteration;
    # Lookahead a copy, and a number of each variable.
    model = ks.wrap(functional())
    train(model, nested())
    lines = []
    model.summary(print_fn=lines.append)
    assert model.count_params() == 26
    assert f"Optimizer params: {26 + 2 + 2 + 26 + len(model.trainable_variables)}" in "\n".join(
        lines
    )


def test_weights_for_an_unbuilt_optimizer_are_not_lost_in_silence(tmp_path):
    # Lookahead around SGD without momentum: the inner optimizer has nothing to complain about.
    def model():
        model = ks.wrap(functional())
        model.compile(ks.Lookahead("sgd"), SPARSE)
        return model

    first = model()
    first.train_on_batch(features(), labels())
    first.save_weights(tmp_path / "model.weights.h5")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer 'lookahead"):
        model().load_weights(tmp_path / "model.weights.h5")


@pytest.mark.tensorflow  # On JAX, Keras builds before the first step.
@pytest.mark.parametrize("given", ["fit", "train_on_batch", "generator"])
def test_the_first_step_is_traced_once_and_no_batch_is_lost(given):
    model, traces, seen = ks.wrap(functional(layers.BatchNormalization(), dense())), [], []
    model.compile(ks.SmoothOut(keras.optimizers.SGD(0.1, 0.9)), SPARSE, metrics=["accuracy"])
    step = model.train_step

    def traced(data):
        traces.append(1)
        return step(data)

    def batches():
        for i in range(3):
            seen.append(i)
            yield features(), labels()

    model.train_step = traced
    if given == "fit":
        model.fit(features(), labels(), 8, verbose=0)
    elif given == "train_on_batch":
        model.train_on_batch(features(), labels())
    else:
        model.fit(batches(), steps_per_epoch=3, shuffle=False, verbose=0)
        assert seen == [0, 1, 2] and int(model.optimizer.iterations) == 3
    assert len(traces) == 1
