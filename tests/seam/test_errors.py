"""Wrong uses raise an error that names the argument, what was received, and what to do instead."""

import itertools
import re

import keras
import numpy as np
import pytest
from keras import layers
from keras.optimizers import SGD
from support.contract import BASES, METHODS, optimizer_of
from support.nets import LOSS, assert_equal

import keras_smoothout as ks
from keras_smoothout import scaling
from keras_smoothout.labels import check_fit


class OwnTrainStep(keras.Model):
    """A model with a step of its own."""

    def train_step(self, *args):
        return {}


class OwnLoss(keras.Model):
    """A model with a loss of its own."""

    def compute_loss(self, *args, **kwargs):
        return 0.0


def batches(**options):
    return ks.WarmUpBatches(
        **{"x": np.ones((9, 2)), "y": np.ones(9), "batch_sizes": {0: 2}} | options
    )


ARGUMENTS = [  # What the generated table of test_refusals.py does not hold.
    (lambda: ks.SmoothOut(SGD(), copies=3, antithetic=True), "copies=3"),
    (lambda: ks.SmoothOut(SGD(), antithetic=True), "copies=1"),
    (lambda: ks.SAM(SGD(), learning_rate=0.1, use_ema=True), "['learning_rate', 'use_ema']"),
    (
        lambda: scaling.random_matrix_scaling(8, 4, 0.0, 1.0, examples=8),
        "outlier=0.0, variance=1.0, examples=8",
    ),
    (lambda: ks.DistanceFromInit(5), "path=5"),
    (lambda: batches(x=np.zeros((0, 2)), y=np.zeros(0)), "`x`"),
    (lambda: batches(y=[1, 2]), "y=[1, 2]"),
    (lambda: batches(x=np.array(1.0)), "`x`"),
    (lambda: ks.wrap(OwnTrainStep()), "class OwnTrainStep(keras_smoothout.TrainStep, keras.Model)"),
    (lambda: ks.wrap(OwnLoss()), "own compute_loss"),
    (lambda: ks.wrap(layers.Dense(1)), "`wrap`"),
]


def small(cls, units=2):
    inputs = keras.Input((3,))
    x = layers.Dense(units)(inputs)
    return cls(inputs, layers.Dense(1)(x))


def step(model):
    model.train_on_batch(np.ones((4, 3), "float32"), np.ones((4, 1), "float32"))


def weights(model):
    return [keras.ops.convert_to_numpy(w) for w in [*model.weights, *model.optimizer.variables]]


@pytest.mark.parametrize(("use", "message"), ARGUMENTS, ids=[m for _, m in ARGUMENTS])
def test_wrong_arguments(use, message):
    with pytest.raises(ValueError) as error:
        use()
    assert message in str(error.value)


def test_inner_is_required():
    with pytest.raises(TypeError, match="inner"):
        ks.SAM()


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize(
    "method",
    [
        ks.SmoothOut,
        ks.AdaSmoothOut,
        ks.SAM,
        ks.ASAM,
        lambda inner: ks.Lookahead(ks.SmoothOut(inner)),
        lambda inner: ks.Lookahead(ks.Lookahead(ks.SAM(inner))),
    ],
)
def test_a_model_that_does_not_ask_for_gradients(method, policy):
    keras.config.set_dtype_policy(policy)
    model = small(keras.Model)
    model.compile(method(SGD(0.1, momentum=0.9)), "mse")
    model.optimizer.build(model.trainable_variables)
    before = weights(model)
    with pytest.raises(RuntimeError) as error:
        step(model)
    for cure in ("keras_smoothout.wrap(model)", "keras_smoothout.Model(inputs, outputs)"):
        assert cure in str(error.value)
    assert "`keras_smoothout.TrainStep` into your own class" in str(error.value)
    for a, b in zip(weights(model), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_layers_frozen_after_compile():
    model = small(ks.Model)
    model.compile(ks.SmoothOut("sgd"), "mse")
    model.optimizer.build(model.trainable_variables)
    model.layers[1].trainable = False
    with pytest.raises(ValueError, match="built with 4 variables, of which the model trains 2 and"):
        step(model)
    model.compile(ks.SmoothOut("sgd"), "mse")
    before = weights(model)
    step(model)
    changed = [np.any(a != b) for a, b in zip(weights(model)[:4], before[:4], strict=True)]
    assert changed == [False, False, True, True]


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
@pytest.mark.parametrize("name", [*METHODS, *BASES])
def test_all_layers_frozen(name):
    model = small(ks.Model)
    model.trainable = False
    model.compile(optimizer_of(name), "mse", run_eagerly=True)
    before = model.get_weights()
    step(model)
    assert_equal(model.get_weights(), before)


@pytest.mark.parametrize("units", [2, 3])
@pytest.mark.parametrize("ghosts", [None, 2])
def test_an_optimizer_is_for_one_model(units, ghosts):
    optimizer = SGD(0.1, momentum=0.9) if ghosts else ks.SmoothOut("sgd")
    first, second = small(ks.Model), small(ks.Model, units)
    for model in (first, second):
        model.compile(optimizer, "mse", ghost_batch_size=ghosts)
    step(first)
    before = weights(second)
    with pytest.raises(ValueError, match="An optimizer is for one model.*the model trains 0 and 4"):
        step(second)
    assert_equal(weights(second), before)
    second.compile(ks.SmoothOut("sgd"), "mse")
    step(second)


def test_an_inner_optimizer_is_for_one_model():
    inner = SGD(0.1)
    inner.build(small(ks.Model).trainable_variables)
    model = small(ks.Model)
    model.compile(ks.SmoothOut(inner), "mse")
    with pytest.raises(ValueError, match="Unknown variable"):
        step(model)


X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
Y = np.arange(12) % 3


def classifier(*between, cls=ks.Model):
    """Three classes, with layers between their inputs and logits."""
    x = inputs = keras.Input((3,))
    for layer in between:
        x = layer(x)
    return cls(inputs, layers.Dense(3)(x))


def normed(shape=(3,), **options):
    inputs = keras.Input(shape)
    x = layers.BatchNormalization(name="norm", **options)(inputs)
    return ks.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def unbuilt():
    return keras.Sequential([layers.Dense(3), layers.BatchNormalization()])


def fitting(x=X, y=Y, loss=LOSS, fit=(), **compiled):
    """A use of a model: compile it and fit two batches."""

    def use(model):
        model.compile(**{"optimizer": ks.SmoothOut("sgd"), "loss": loss} | compiled)
        model.fit(x, y, **{"batch_size": 6, "verbose": 0, "shuffle": False} | dict(fit))

    return use


def on_batch(model):
    model.compile(ks.SmoothOut("sgd"), LOSS)
    model.train_on_batch(X[:0], Y[:0])


def in_a_loop(model):
    """Train on batches of which Keras has not seen the size before: a loop of one's own."""
    model.compile(ks.SmoothOut("sgd"), LOSS)
    if keras.backend.backend() == "tensorflow":
        model.train_step((X[:0], Y[:0]))
    else:
        model.fit(((X[:0], Y[:0]) for _ in range(1)), shuffle=False, verbose=0)


def changed(place, value):
    return np.where(np.arange(12) == place, value, Y)


def wrong_order():
    class Wrong(keras.Model, ks.TrainStep):
        pass


class Alone(ks.Model):
    """A model whose own step does not come to ours."""

    def train_step(self, *given):
        return keras.Model.train_step(self, *given)


class Counted(ks.Model):
    """A model whose own step does."""

    steps = 0

    def train_step(self, *given):
        self.steps += 1
        return super().train_step(*given)


class Base(keras.Model):
    def train_step(self, *given):
        return super().train_step(*given)


class Above(ks.TrainStep, Base):
    """A model above one with a step of its own."""


def own(cls):
    """A classifier of a class with a step of its own."""

    class Classifier(cls):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(3)
            self(X)

        def call(self, inputs):
            return self.head(inputs)

    return Classifier


def watching(**options):
    return fitting(fit={"callbacks": [ks.DistanceFromInit(**options)]})


# Parts of a message, with anything between them.
LABELS = "`y` ... [0, 2], ... Received: y in "
SIZE = "`batch_size` ... batch_size="
ONE = "`norm` ... `ghost_batch_size` ... ghost_batch_size=1"
CONVERT = "`convert` ... Received: model="
START = "`start` ... Received: start of shapes "
USES = [  # The model, its use, the error, and words of it.
    (classifier, fitting(y=changed(11, 3)), ValueError, LABELS + "[0, 3], of dtype int64"),
    (classifier, fitting(y=changed(11, -1)), ValueError, LABELS + "[-1, 2]"),
    (classifier, fitting(y=changed(11, 1.5)), ValueError, LABELS + "[0.0, 2.0], of dtype float64"),
    (classifier, fitting(y=changed(11, np.nan)), ValueError, LABELS + "[nan, nan]"),
    (classifier, fitting(y=changed(11, 3)[:, None]), ValueError, LABELS),
    (classifier, fitting(y=Y + 1, loss="sparse_categorical_crossentropy"), ValueError, LABELS),
    (classifier, fitting(y=Y + 1, optimizer="sgd"), ValueError, LABELS),
    (classifier, fitting(y=np.eye(3)[Y]), ValueError, "target.shape=(6, 3), output.shape=(6, 3)"),
    (classifier, fitting(X[:0], Y[:0]), ValueError, "`x` ... x of shape (0, 3)"),
    (classifier, fitting(y=Y[:0]), ValueError, "`y` ... y of shape (0,)"),
    (classifier, on_batch, ValueError, "`x` ... x of shape (0, 3)"),
    (classifier, in_a_loop, ValueError, "Received: an empty batch"),
    (classifier, fitting(y=Y[:5]), ValueError, "same number of samples"),
    *(
        (classifier, fitting(fit={"batch_size": size}), ValueError, f"{SIZE}{size}")
        for size in (0, -6, 6.0)
    ),
    (classifier, fitting(X[:, :2]), ValueError, "expected shape=(None, 3), found shape=(6, 2)"),
    (classifier, fitting(loss=None), ValueError, "`loss` ... loss=None"),
    (classifier, fitting(optimizer="smoothout"), ValueError, "optimizer identifier: smoothout"),
    (classifier, fitting(optimizer=ks.SmoothOut), ValueError, "optimizer identifier: <class"),
    (normed, fitting(ghost_batch_size=1), ValueError, ONE),
    (normed, fitting(ghost_batch_size=1, optimizer="sgd"), ValueError, ONE),
    (
        lambda: normed((1, 1, 3)),
        fitting(X[:, None, None], ghost_batch_size=1),
        ValueError,
        ONE,
    ),
    (
        classifier,
        lambda model: classifier(ks.GhostBatchNormalization(1, name="norm")),
        ValueError,
        ONE,
    ),
    (normed, lambda model: ks.recalibrate(None, X), ValueError, "`model` ... model=None"),
    (normed, lambda model: ks.recalibrate(unbuilt(), X), ValueError, "`model` ... model=<Seq"),
    (normed, lambda model: ks.recalibrate(model, X[:0]), ValueError, "`data` ... Received: none"),
    (normed, lambda model: ks.recalibrate(model, None), ValueError, "`data` ... data=None"),
    (
        normed,
        lambda model: ks.recalibrate(model, batches()),
        ValueError,
        "`data` must end ... islice",
    ),
    (normed, lambda model: ks.recalibrate(model, np.inf * X), ValueError, "`data` must be finite"),
    (normed, lambda model: ks.recalibrate(model, X[:, :2]), ValueError, "found shape=(12, 2)"),
    (normed, lambda model: ks.convert(None, 2), ValueError, CONVERT),
    (normed, lambda model: ks.convert(unbuilt(), 2), ValueError, CONVERT),
    (normed, lambda model: ks.convert(ks.wrap(unbuilt()), 2), ValueError, CONVERT),
    (classifier, lambda model: ks.convert(model, 2), ValueError, CONVERT),
    (own(Alone), fitting(), RuntimeError, "`SmoothOut` has to ask for its gradients"),
    (
        own(Alone),
        fitting(optimizer="sgd", ghost_batch_size=3),
        ValueError,
        "`super().train_step` ... `Alone.train_step`",
    ),
    (own(Above), fitting(), ValueError, "`Base.train_step` ... Received: a Classifier"),
    (
        own(Above),
        fitting(optimizer="sgd", ghost_batch_size=3),
        ValueError,
        "`Base.train_step` ... Received: a Classifier",
    ),
    (classifier, lambda model: wrong_order(), TypeError, "Wrong(keras_smoothout.TrainStep, keras"),
    (classifier, watching(start=[X]), ValueError, f"{START}[(12, 3)]"),
    (
        classifier,
        watching(start=[1.0, 2.0]),
        ValueError,
        f"{START}[(),",
    ),
    (classifier, watching(path="/no/such/folder/file"), OSError, "/no/such/folder/file"),
    (classifier, watching(path=__file__), ValueError, f"`path` ... path={__file__}"),
]


def in_order(parts, message):
    """Whether a message holds the parts, one after the other."""
    return re.search(".*".join(map(re.escape, parts.split(" ... "))), message, re.DOTALL)


@pytest.mark.parametrize(("build", "use", "error", "message"), USES, ids=[m for *_, m in USES])
def test_wrong_uses_leave_the_model_as_it_was(build, use, error, message):
    model = build()
    before = model.get_weights()
    with pytest.raises(error) as raised:
        use(model)
    assert in_order(message, str(raised.value)), raised.value
    assert_equal(model.get_weights(), before)


@pytest.mark.parametrize("cls", [Counted, Alone, Above])
def test_a_train_step_of_the_users_own_is_kept(cls):
    model = own(cls)()
    before = model.get_weights()
    fitting(optimizer=ks.SmoothOut("sgd") if cls is Counted else "sgd")(model)
    assert cls is not Counted or model.steps
    assert np.any(model.get_weights()[0] != before[0])


@pytest.mark.tensorflow  # On JAX, `fit` builds the model before, and so does ours.
def test_there_is_no_distance_from_no_weights():
    use = fitting(optimizer="sgd", fit={"callbacks": [ks.DistanceFromInit()]})
    with pytest.raises(ValueError) as raised:
        use(keras.Sequential([layers.Dense(3)]))
    assert in_order(START, str(raised.value)), raised.value


@pytest.mark.parametrize(
    ("labels", "loss", "weights"),
    [
        (Y, LOSS, None),
        (Y.astype("float32")[:, None], "sparse_categorical_crossentropy", None),
        (Y + 1, keras.losses.SparseCategoricalCrossentropy(ignore_class=3), None),
        (Y - 1, LOSS, np.sign(Y)),
        (Y - 1.5, "mse", None),
        (list(Y + 1), LOSS, None),
    ],
)
def test_labels_that_are_right_or_not_looked_into(labels, loss, weights):
    model = classifier()
    model.compile("sgd", loss)
    check_fit(model, X, labels, np.int64(4), weights, (X, labels, weights))


@pytest.mark.parametrize("wrong", [Y + 1, Y - 1, Y + 0.5, np.where(Y == 2, np.nan, Y)])
@pytest.mark.parametrize(
    ("loss", "nest"),
    [(LOSS, lambda y: y), ([LOSS], lambda y: [y[:, None]]), ({"a": LOSS}, lambda y: {"a": y})],
)
def test_labels_that_are_no_classes(wrong, loss, nest):
    model = classifier()
    model.compile("sgd", loss)
    for name, y, validation in (("y", wrong, Y), ("y of validation_data", Y, wrong)):
        with pytest.raises(ValueError, match=f"`{name}` must hold whole numbers in .0, 2."):
            model.fit(X, nest(y), 6, 1, 0, None, 0.0, (X, nest(validation)))


class Called(ks.Model):
    """A model that knows neither its inputs nor its outputs."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(3)

    def call(self, inputs):
        return self.head(inputs)


GIVEN = {
    "fit": lambda model, y: model.fit(X, y, 4, verbose=0),
    "evaluate": lambda model, y: model.evaluate(X, y, 4, verbose=0),
    "train_on_batch": lambda model, y: model.train_on_batch(X, y),
    "test_on_batch": lambda model, y: model.test_on_batch(x=X, y=y),
}


@pytest.mark.parametrize("make", [classifier, Called])
@pytest.mark.parametrize("name", GIVEN)
def test_labels_are_checked_wherever_they_enter(name, make):
    model = make()
    model(X)
    model.compile("sgd", LOSS, run_eagerly=True)
    before = model.get_weights()
    for wrong in (Y + 1, Y + 0.5):
        with pytest.raises(ValueError, match="`y` must hold whole numbers in .0, 2."):
            GIVEN[name](model, wrong)
    assert_equal(model.get_weights(), before)
    GIVEN[name](model, Y)


def test_a_model_that_needs_values_is_called_without_them_once():
    called = []

    class Counting(Called):
        def call(self, inputs):
            called.append(inputs)
            return super().call(inputs) * len([1 for x in np.asarray(inputs) if x[0] > 0])

    model = Counting()
    model(X)
    model.compile("sgd", LOSS, run_eagerly=True)
    called.clear()
    for _ in range(3):
        check_fit(model, X, Y)
    assert len(called) == 1
    with pytest.raises(ValueError, match="`y`"):  # What can be said without the outputs is said.
        check_fit(model, X, Y - 1)
    if keras.backend.backend() == "tensorflow":  # JAX' steps have no values.
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (lambda: classifier(), X),
        (lambda: normed((2, 2, 3)), np.repeat(X, 4, 0).reshape(12, 2, 2, 3)),
        (lambda: normed(trainable=False), X),
    ],
    ids=["without", "images", "frozen"],
)
def test_ghost_batches_of_one_are_for_what_has_a_variance(model, x):
    model = model()
    fitting(x, ghost_batch_size=1)(model)
    assert all(np.all(np.isfinite(w)) for w in model.get_weights())


class Failing(Called):
    """Its loss fails in one call: where the model is built, traced or trained."""

    fails = -1

    def compute_loss(self, *args, **kwargs):
        self.fails -= 1
        if self.fails == 0:
            raise FloatingPointError("once")
        return super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize("name", ["fit", "train_on_batch"])
def test_an_error_in_the_first_step_leaves_a_model_that_trains(name):
    for call in itertools.count(1):  # The loss is called once or more, to build and to trace.
        models = Failing(), Failing()
        for model in models:
            keras.utils.set_random_seed(0)
            model(X)
            model.compile(ks.Lookahead(SGD(0.1, momentum=0.9)), LOSS)
        failing, other = models
        failing.set_weights(other.get_weights())
        failing.fails = call
        try:
            GIVEN[name](failing, Y)
        except FloatingPointError:
            pass
        else:
            break
        for model in models:
            losses = [np.ravel(model.train_on_batch(X, Y))[0], model.evaluate(X, Y, verbose=0)]
            assert np.all(np.isfinite(losses))
        assert_equal(failing.get_weights(), other.get_weights())
    assert call > 1
