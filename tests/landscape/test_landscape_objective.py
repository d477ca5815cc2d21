"""The loss over a data set as a function of the weights: what it is, and that nothing changes."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.contract import contract_net
from support.nets import LOSS, assert_equal, two_replicas

from keras_smoothout.landscape import Objective

X = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
Y = np.arange(48) % 3


def compiled(model=None, loss=LOSS):
    """`model`, or a net with L2, BatchNormalization and dropout."""
    model = contract_net() if model is None else model
    model.compile(loss=loss)
    return model


def dense(units, activation=None, **kwargs):
    """One layer on five inputs."""
    return keras.Sequential([keras.Input((5,)), layers.Dense(units, activation, **kwargs)])


def table(examples=20, seed=0):
    return np.random.default_rng(seed).normal(size=(examples, 5)).astype("float32")


def test_loss_is_what_keras_evaluates():
    model = compiled()
    weight = np.random.default_rng(1).uniform(size=48).astype("float32")
    objective = Objective(model, X, Y, weight, batch_size=20)
    expected = model.evaluate(X, Y, sample_weight=weight, batch_size=48, verbose=0)
    np.testing.assert_allclose(objective.loss(objective.weights), expected, rtol=1e-5)
    assert objective.examples == 48
    assert objective.size == model.count_params() - 16  # Two moving statistics of 8 units.


def test_gradient_and_products_do_not_depend_on_the_batch_size():
    model = compiled()
    whole, parts = (Objective(model, X, Y, batch_size=n) for n in (48, 24))
    vector = whole.unflatten(np.random.default_rng(0).normal(size=whole.size))
    for name in ("hvp", "gauss_newton_product"):
        a, b = (getattr(o, name)(o.weights, vector) for o in (whole, parts))
        np.testing.assert_allclose(whole.flatten(a), whole.flatten(b), atol=1e-5)
    (la, a), (lb, b) = (o.loss_and_gradient(o.weights) for o in (whole, parts))
    np.testing.assert_allclose(la, lb, rtol=1e-6)
    np.testing.assert_allclose(whole.flatten(a), whole.flatten(b), atol=1e-6)


def test_gradient_is_the_slope_of_the_loss():
    objective = Objective(compiled(), X, Y)
    gradient = objective.loss_and_gradient(objective.weights)[1]
    norm = np.linalg.norm(objective.flatten(gradient))
    ahead, behind = (
        objective.loss(
            [w + s * 0.01 / norm * g for w, g in zip(objective.weights, gradient, strict=True)]
        )
        for s in (1, -1)
    )
    np.testing.assert_allclose((ahead - behind) / 0.02, norm, rtol=1e-2)


def test_one_batch_alone():
    objective = Objective(compiled(), X, Y, batch_size=32)
    first, last = objective.batches()
    a, b = (objective.loss_and_gradient(objective.weights, batch)[0] for batch in (first, last))
    np.testing.assert_allclose((32 * a + 16 * b) / 48, objective.loss(objective.weights), rtol=1e-6)


def test_another_loss_than_the_compiled_one_keeps_the_regularizers():
    model = compiled()
    expected = Objective(model, X, Y).loss([np.array(w) for w in model.trainable_variables])
    uncompiled = contract_net()
    found = Objective(uncompiled, X, Y, loss=LOSS)
    np.testing.assert_allclose(found.loss(found.weights), expected, rtol=1e-6)
    regression = Objective(dense(1), table(), table()[:, :1], loss="mse")
    prediction = table() @ regression.weights[0]
    expected = np.mean((prediction - table()[:, :1]) ** 2)
    np.testing.assert_allclose(regression.loss(regression.weights), expected, rtol=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("loss", [None, LOSS])
def test_replicas_do_not_divide_the_loss(loss):
    # Keras' losses and regularizers do inside a strategy, for the sum over its replicas.
    model, found = compiled(), []
    for scope in (contextlib.nullcontext(), two_replicas().scope()):
        with scope:
            objective = Objective(model, X, Y, loss=loss)
            vector = objective.weights
            product = objective.gauss_newton_product(objective.weights, vector)
            found.append([*objective.evaluate(objective.weights), objective.flatten(product)])
    for outside, inside in zip(*found, strict=True):
        np.testing.assert_allclose(inside, outside, rtol=1e-5)


def test_error_of_classifications():
    x, labels = table(), np.arange(20) % 3
    logits = x @ np.eye(5, 3, dtype="float32")
    wrong = np.mean(logits.argmax(1) != labels)
    for loss, y, units, exact in (
        (LOSS, labels, 3, wrong),
        (LOSS, labels[:, None].astype("float32"), 3, wrong),
        (keras.losses.CategoricalCrossentropy(True), np.eye(3)[labels], 3, wrong),
        (keras.losses.BinaryCrossentropy(True), labels[:, None] > 0, 1, None),
        (keras.losses.BinaryCrossentropy(True), labels > 0, 1, None),
        ("binary_crossentropy", labels[:, None] > 0, 1, None),
    ):
        model = compiled(dense(units, "sigmoid" if isinstance(loss, str) else None), loss)
        objective = Objective(model, x, y, batch_size=8)
        weights = [np.eye(5, units), np.zeros(units)]
        exact = np.mean((x[:, :1] > 0) != (labels[:, None] > 0)) if exact is None else exact
        np.testing.assert_allclose(objective.evaluate(weights)[1], exact, rtol=1e-6)
    objective = Objective(compiled(dense(1), "mse"), x, x[:, :1])
    loss, error = objective.evaluate(objective.weights)
    assert loss == objective.loss(objective.weights)
    assert np.isnan(error)


def test_errors_do_not_count_what_the_loss_leaves_out():
    # All is predicted as class 0. Steps of zeros are masked, and so are the losses of class 2.
    x = table(24).reshape(4, 6, 5) * (np.arange(6) > 1)[:, None]
    y = np.array(4 * [[1, 1, 0, 1, 2, 2]])
    for ignored, expected in ((None, 3 / 4), (2, 1 / 2)):
        loss = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=ignored)
        model = keras.Sequential([keras.Input((6, 5)), layers.Masking(), layers.Dense(3)])
        objective = Objective(compiled(model, loss), x, y)
        error = objective.evaluate([np.zeros((5, 3)), np.array([1.0, 0.0, 0.0])])[1]
        np.testing.assert_allclose(error, expected, rtol=1e-6)
    model = keras.Sequential([keras.Input((6, 5)), layers.Masking(), layers.Dense(1)])
    objective = Objective(
        compiled(model, keras.losses.BinaryCrossentropy(True)), x, y[..., None] > 0
    )
    error = objective.evaluate([np.zeros((5, 1)), -np.ones(1)])[1]
    np.testing.assert_allclose(error, 3 / 4, rtol=1e-6)


def test_error_of_outputs_in_a_nest():
    inputs, x, y = keras.Input((5,)), table(), np.arange(20) % 3
    a, b = (layers.Dense(3, name=name)(inputs) for name in "ab")
    for outputs, loss, targets, single in (
        ({"a": a}, {"a": LOSS}, {"a": y}, True),
        ({"a": a, "b": b}, {"a": LOSS}, {"a": y, "b": y}, False),
        ([a], LOSS, [y], True),
        ([a, b], LOSS, [y, y], False),
    ):
        objective = Objective(compiled(keras.Model(inputs, outputs), loss), x, targets)
        found, error = objective.evaluate(objective.weights)
        assert found == objective.loss(objective.weights)
        wrong = np.mean(np.argmax(x @ objective.weights[0], axis=1) != y)
        np.testing.assert_allclose(error, wrong if single else np.nan, rtol=1e-6)


def test_batch_norm_modes():
    # Without dropout, training mode differs from evaluation in BatchNormalization alone.
    inputs = keras.Input((5,))
    outputs = layers.Dense(3)(layers.BatchNormalization()(layers.Dense(4)(inputs)))
    model = compiled(keras.Model(inputs, outputs), LOSS)
    x, y = table(), np.arange(20) % 3
    for mode, training in (("evaluation", False), ("training", True)):
        objective = Objective(model, x, y, batch_norm=mode)
        expected = float(LOSS(y, model(x, training=training)))
        np.testing.assert_allclose(objective.loss(objective.weights), expected, rtol=1e-5)
        model.layers[2].moving_mean.assign(np.zeros(4))
        model.layers[2].moving_variance.assign(np.ones(4))


def test_frozen_batch_norm_stays_in_evaluation():
    model = contract_net()
    model.layers[2].trainable = False
    modes = [Objective(compiled(model), X, Y, batch_norm=m) for m in ("evaluation", "training")]
    losses = [o.loss(o.weights) for o in modes]
    assert losses[0] == losses[1]


def test_state_that_is_assigned_is_used():
    model = compiled()
    objective = Objective(model, X, Y)
    before = objective.loss(objective.weights)
    model.layers[2].moving_mean.assign(np.ones(8))
    assert objective.loss(objective.weights) == before
    objective.state = Objective(model, X, Y).state
    assert objective.loss(objective.weights) == Objective(model, X, Y).loss(objective.weights)
    assert objective.loss(objective.weights) != before


def values(model):
    return [np.array(ops.convert_to_numpy(v)) for v in model.variables]


CALLS = {
    "loss": lambda o: o.loss(o.weights),
    "evaluate": lambda o: o.evaluate(o.weights),
    "loss_and_gradient": lambda o: o.loss_and_gradient(o.weights),
    "hvp": lambda o: o.hvp(o.weights, o.weights),
    "gauss_newton_product": lambda o: o.gauss_newton_product(o.weights, o.weights),
}


class Interrupted:
    """Batches; during `armed` a pass, Ctrl-C is hit before the second."""

    armed = False

    def __iter__(self):
        yield X[:24], Y[:24]
        if self.armed:
            raise KeyboardInterrupt
        yield X[24:], Y[24:]


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_the_model_never_changes_and_survives_interrupts(mode):
    model = compiled()
    data = Interrupted()
    objective = Objective(model, data, batch_norm=mode)
    before, attributes = values(model), [set(vars(layer)) for layer in model.layers]
    for call in CALLS.values():
        expected = call(objective)
        data.armed = True
        with pytest.raises(KeyboardInterrupt):
            call(objective)
        data.armed = False
        np.testing.assert_equal(call(objective), expected)
        assert_equal(values(model), before)
    assert [set(vars(layer)) for layer in model.layers] == attributes
    assert not model.optimizer.built  # Else layers that are frozen now could not be trained later.


class Interrupt(layers.Layer):
    """Hits Ctrl-C while the model is traced."""

    armed = False

    def call(self, x):
        if self.armed:
            raise KeyboardInterrupt
        return x


def test_an_interrupt_while_compiling():
    inputs = keras.Input((5,))
    key = Interrupt()
    model = compiled(keras.Model(inputs, key(layers.BatchNormalization()(inputs))), LOSS)
    objective = Objective(model, table(), np.arange(20) % 5, batch_norm="training")
    before, attributes = values(model), set(vars(model.layers[1]))
    for call in CALLS.values():
        key.armed = True
        with pytest.raises(KeyboardInterrupt):
            call(objective)
        key.armed = False
        call(objective)
        assert_equal(values(model), before)
        assert set(vars(model.layers[1])) == attributes


class Traces(layers.Layer):
    """Counts how often Python runs through it."""

    count = 0

    def call(self, x):
        self.count += 1
        return x


def test_each_method_is_compiled_once():
    traces = Traces()
    model = compiled(keras.Sequential([keras.Input((5,)), traces, layers.Dense(3)]), LOSS)
    objective = Objective(model, table(), np.arange(20) % 3, batch_size=10)
    for call in CALLS.values():
        call(objective)
        before = traces.count
        call(objective)
        assert traces.count == before


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return X[24 * i :][:24], Y[24 * i :][:24]


class Endless(Sequence):
    num_batches = None


def test_forms_of_data():
    model = compiled()
    expected = Objective(model, X, Y, batch_size=24)
    lists = [[X[:24], Y[:24]], [X[:0], Y[:0]], [X[24:], Y[24:]]]
    for data in (Sequence(), lists, list(map(tuple, lists)), Interrupted()):
        objective = Objective(model, data)
        assert objective.examples == 48
        assert objective.loss(objective.weights) == expected.loss(objective.weights)


@pytest.mark.tensorflow
def test_tf_data():
    import tensorflow as tf

    model = compiled()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(24)
    objective = Objective(model, data)
    expected = Objective(model, X, Y, batch_size=24).loss(objective.weights)
    assert objective.loss(objective.weights) == expected
    with pytest.raises(ValueError, match="`x`.*_RepeatDataset"):
        Objective(model, data.repeat())
    objective = Objective(model, data.repeat().take(2))
    assert objective.loss(objective.weights) == expected


def test_named_inputs_and_several_outputs():
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    model = keras.Model(
        {"a": a, "b": b}, {"sum": layers.Dense(1)(a), "kind": layers.Dense(3)(layers.Add()([a, b]))}
    )
    model.compile(loss={"sum": "mse", "kind": LOSS})
    x, labels = table(), np.arange(20) % 3
    objective = Objective(model, {"a": x, "b": -x}, {"sum": x[:, :1], "kind": labels}, batch_size=8)
    expected = np.mean((model.predict({"a": x, "b": -x}, verbose=0)["sum"] - x[:, :1]) ** 2)
    loss, error = objective.evaluate(objective.weights)
    np.testing.assert_allclose(loss, expected + np.log(3), rtol=1e-5)  # a + b is 0: all alike.
    assert np.isnan(error)
    vector = objective.unflatten(np.random.default_rng(0).normal(size=objective.size))
    hvp, product = (
        f(objective.weights, vector) for f in (objective.hvp, objective.gauss_newton_product)
    )
    np.testing.assert_allclose(  # Both losses are convex in outputs that are linear in weights.
        objective.flatten(hvp), objective.flatten(product), atol=1e-6
    )


class Sum(layers.Layer):
    """Sum of two inputs, whose mean it adds to the loss."""

    def call(self, inputs):
        total = ops.add(*inputs)
        self.add_loss(ops.mean(total))
        return total


def test_several_inputs_without_targets():
    inputs = [keras.Input((5,)), keras.Input((5,))]
    model = compiled(keras.Model(inputs, Sum()([layers.Dense(1)(i) for i in inputs])), None)
    x = [table(), -2 * table()]
    for data in (x, [(x,)], [([a[:10] for a in x],), ([a[10:] for a in x],)]):
        objective = Objective(model, data)
        assert objective.examples == 20
        expected = np.mean(sum(a @ w for a, w in zip(x, objective.weights[::2], strict=True)))
        np.testing.assert_allclose(objective.loss(objective.weights), expected, rtol=1e-4)


def test_vectors():
    objective = Objective(compiled(), X, Y)
    vector = objective.flatten(objective.weights)
    assert vector.dtype == "float64"
    assert vector.shape == (objective.size,)
    assert_equal(objective.unflatten(vector), objective.weights)
    assert objective.unflatten(vector)[0].dtype == "float32"


def test_progress_counts_batches(capsys):
    objective = Objective(compiled(), X, Y, batch_size=24, progress=True)
    assert capsys.readouterr().out == ""
    objective.loss(objective.weights)
    assert "Unknown" in capsys.readouterr().out


class Own(keras.Model):
    """A classifier that is no functional model."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(3)

    def call(self, x):
        return self.head(x)


@pytest.mark.parametrize("wrong", [3, -1, 0.5, np.nan])
@pytest.mark.parametrize("loss", [None, LOSS])
@pytest.mark.parametrize("own", [False, True])
def test_labels_that_are_no_classes(wrong, loss, own):
    # One of 48. JAX would take the loss of any label for 0.
    model = Own() if own else contract_net()
    model(X)
    if loss is None:
        model.compile(loss="sparse_categorical_crossentropy")
    y = np.where(np.arange(48) == 30, wrong, Y)
    message = r"`y` must hold whole numbers in \[0, 2\]"
    with pytest.raises(ValueError, match=message):
        Objective(model, X, y, loss=loss)
    late = Objective(model, [(X[:24], y[:24]), (X[24:], ops.convert_to_tensor(y[24:]))], loss=loss)
    with pytest.raises(ValueError, match=message):
        late.loss(late.weights)
    weight = (np.arange(48) != 30).astype("float32")
    assert Objective(model, X, y, weight, loss=loss).examples == 48


class OldLoss(keras.Sequential):
    """A loss in the signature of Keras 3.4 and before."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return ops.mean((y_pred - y) ** 2) / 2


def test_a_compute_loss_of_the_old_signature():
    model = OldLoss([keras.Input((5,)), layers.Dense(1, use_bias=False)])
    x = table()
    objective = Objective(compiled(model, "mse"), x, x[:, :1])
    e = x @ objective.weights[0] - x[:, :1]
    np.testing.assert_allclose(objective.loss(objective.weights), np.mean(e**2) / 2, rtol=1e-5)
    found = objective.hvp(objective.weights, [np.ones((5, 1))])[0]
    np.testing.assert_allclose(found[:, 0], x.T @ x.sum(axis=1) / 20, rtol=1e-4)


def generator():
    yield X, Y


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: Objective("model", X, Y),
            "`model`.*Received: model=model",
        ),
        (lambda m: Objective(keras.Sequential([layers.Dense(1)]), X, Y), "must be a built"),
        (
            lambda m: Objective(keras.Sequential([keras.Input((5,)), layers.ReLU()]), X, Y),
            "trainable weights",
        ),
        (lambda m: Objective(dense(1), X, Y), "`loss`"),
        (
            lambda m: Objective(compiled(dense(1), None), table()).loss(dense(1).get_weights()),
            "`loss`.*loss=None",
        ),
        (lambda m: Objective(m, X, Y[:9]), r"`y`.*lengths \[9, 48\]"),
        (lambda m: Objective(m, X[:0], Y[:0]), r"at least 1. Received: lengths \[0\]"),
        (
            lambda m: Objective(m, generator()),
            "can be gone through more than once.*not a generator",
        ),
        (lambda m: Objective(m, []), "at least one batch"),
        (
            lambda m: Objective(m, [X[:24], X[24:]]),
            r"inputs or batches: .*Received: x with 2 arrays",
        ),
        (lambda m: Objective(m, (X, Y)), "inputs or batches"),
        (lambda m: Objective(m, [(X[:0], Y[:0])]), "at least one batch of examples"),
        (lambda m: Objective(m, Endless()), "`x`.*Received: endless.*Endless"),
        (lambda m: Objective(m, Sequence(), None, Y), "`sample_weight` goes with arrays"),
        (
            lambda m: Objective(m, X, Y, loss=keras.losses.MeanSquaredError("sum")),
            "Received: .* with reduction='sum'",
        ),
        (lambda m: Objective(m, X, Y).loss([X]), "Weights and vectors must be lists of arrays"),
        (lambda m: Objective(m, X, Y).hvp(values(m)[:1], []), "Received: shapes"),
        (lambda m: Objective(m, X, Y).unflatten(X[0]), "must have the shape"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(compiled())
