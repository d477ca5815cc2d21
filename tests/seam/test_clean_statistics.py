"""Moving statistics are those of the clean weights, which a model is evaluated at."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from sklearn.datasets import load_digits
from support.nets import LOSS, images, sgd, standard_net, two_replicas

import keras_smoothout as ks
from keras_smoothout.moving_statistics import COUNTED, FEWEST, SHARE

X, Y = images()


class Uphill(ks.Method):
    """A user's own method: the gradient of a point nearby, and nothing said of statistics."""

    def gradients(self, evaluate, weights, step):
        return evaluate([w + 0.1 for w in weights])


class OwnEvaluation(ks.Method):
    """One that makes its `Evaluation` itself."""

    def gradients(self, evaluate, weights, step):
        there = evaluate([w + 0.1 for w in weights])
        return ks.Evaluation(*there[:4], connected=there.connected)


PERTURBING = {
    "smoothout": lambda **kw: ks.SmoothOut(sgd(), 0.2, **kw),
    "copies": lambda **kw: ks.SmoothOut(sgd(), 0.2, copies=2, antithetic=True, **kw),
    "adasmoothout": lambda **kw: ks.AdaSmoothOut(sgd(), 0.5, **kw),
    "msam": lambda **kw: ks.MSAM(sgd(), 0.5, **kw),
    "nested": lambda **kw: ks.Lookahead(ks.SAM(ks.SmoothOut(sgd(), 0.2, **kw)), 2),
}
OWN = {"own": lambda: Uphill(sgd()), "own evaluation": lambda: OwnEvaluation(sgd())}


def compiled(optimizer, **options):
    model = ks.wrap(standard_net())
    model.compile(optimizer, LOSS, **options)
    return model


def norm(model):
    return next(x for x in model.layers if isinstance(x, layers.BatchNormalization))


def moving(model):
    return [np.array(v) for v in norm(model).non_trainable_variables]


def clean_pass(model, x, momentum):
    """Moving statistics after a plain pass over `x` at the weights that `model` has now."""
    twin = standard_net()
    twin.set_weights(model.get_weights())
    norm(twin).momentum = momentum
    twin(x, training=True)
    return moving(twin)


def momentum(seen):
    """Of passes of `seen` examples, so that the mean over them counts for `COUNTED` examples.

    The weights `(1 - m) * m**k` of the passes are worth `(1 + m) / (1 - m)` equal ones.
    """
    found = max(0.0, (COUNTED - seen) / (COUNTED + seen))
    assert seen >= COUNTED or (1 + found) / (1 - found) == pytest.approx(COUNTED / seen)
    return found


def close(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["smoothout", "own"])
@pytest.mark.parametrize(
    ("examples", "size", "seen"),
    [
        (20, None, 20),
        (48, None, FEWEST),
        (528, None, 33),  # A sixteenth.
        (529, None, 34),  # Rounded up.
        (7000, 2000, 438),
        (48, 10, FEWEST),
    ],
)
def test_they_are_those_of_some_examples_at_the_clean_weights(name, examples, size, seen):
    x, y = images(examples)
    model = compiled((PERTURBING | OWN)[name](), ghost_batch_size=size)
    for _ in range(3):
        expected = clean_pass(model, x[:seen], momentum(max(seen, FEWEST)))
        model.train_on_batch(x, y)
        close(moving(model), expected)
    assert seen == min(examples, max(FEWEST, -(-examples // SHARE)))


@pytest.mark.parametrize("name", [*PERTURBING, *OWN])
def test_every_method_that_asks_elsewhere_has_them(name):
    model = compiled((PERTURBING | OWN)[name](), ghost_batch_size=30)
    for _ in range(3):
        expected = clean_pass(model, X[:FEWEST], momentum(FEWEST))
        model.train_on_batch(X, Y)
        close(moving(model), expected)


@pytest.mark.slow
@pytest.mark.parametrize("own", [0.99, 0.3, 0.0])
def test_the_momentum_of_the_layer_is_an_upper_bound(own):
    model = standard_net()
    norm(model).momentum = own
    model = ks.wrap(model)
    model.compile(ks.SmoothOut(sgd(), 0.2), LOSS)
    expected = clean_pass(model, X[:FEWEST], min(own, momentum(FEWEST)))
    model.train_on_batch(X, Y)
    close(moving(model), expected)
    assert norm(model).momentum == own


@pytest.mark.parametrize(
    ("name", "ghosts"), [("smoothout", None), ("copies", 10), ("msam", 10), ("nested", None)]
)
@pytest.mark.exact
def test_nothing_else_differs(name, ghosts):
    weights, others = [], []
    for statistics in ("clean", "perturbed"):
        model = compiled(PERTURBING[name](statistics=statistics), ghost_batch_size=ghosts)
        for _ in range(3):
            loss = model.train_on_batch(X, Y)
        weights.append([np.array(v) for v in (*model.trainable_variables, loss)])
        others.append(moving(model))
    close(*weights)
    assert max(np.abs(a - b).max() for a, b in zip(*others, strict=True)) > 1e-3


def test_perturbed_statistics_are_those_of_the_pass():
    model = compiled(ks.SmoothOut(sgd(), 0.2, statistics="perturbed"))
    model.optimizer.build(model.trainable_variables)
    twin = compiled(sgd())
    start = [ops.copy(v) for v in model.trainable_variables]
    noisy = model.optimizer.perturb(start, ks.Step(0), 0)
    for variable, value in zip(twin.trainable_variables, noisy, strict=True):
        variable.assign(ops.copy(value))
    for m in (model, twin):
        m.train_on_batch(X, Y)
    close(moving(model), moving(twin))


@pytest.mark.parametrize("method", [ks.SAM, ks.ASAM, ks.GNP])
def test_a_method_whose_pass_is_clean_has_no_other(method):
    model = compiled(method(sgd()))
    for _ in range(3):
        expected = clean_pass(model, X, norm(model).momentum)
        model.train_on_batch(X, Y)
        close(moving(model), expected)


def accuracies(statistics, radius, ghosts):
    """Test accuracy in percent: as trained, and with re-estimated statistics."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(x))
    x, y = x[order].astype("float32") / 16, y[order]
    keras.utils.set_random_seed(0)
    net = [keras.Input((64,))]
    for _ in range(3):
        net += [layers.Dense(64), layers.BatchNormalization(), layers.ReLU()]
    model = ks.wrap(keras.Sequential([*net, layers.Dense(10)]))
    rate = keras.optimizers.schedules.CosineDecay(0.1, 20 * 4)
    optimizer = ks.AdaSmoothOut(
        keras.optimizers.SGD(rate, momentum=0.9), radius, statistics=statistics
    )
    model.compile(optimizer, LOSS, metrics=["accuracy"], ghost_batch_size=ghosts)
    model.fit(x[:1024], y[:1024], 256, epochs=20, verbose=0)
    as_trained = model.evaluate(x[1024:], y[1024:], 773, verbose=0)[1]
    ks.recalibrate(model, x[:1024])
    return 100 * as_trained, 100 * model.evaluate(x[1024:], y[1024:], 773, verbose=0)[1]


@pytest.mark.parametrize(("radius", "ghosts"), [(0.4, 64), (1.2, None)])
def test_a_model_is_about_as_good_as_with_re_estimated_statistics(radius, ghosts):
    as_trained, re_estimated = accuracies("clean", radius, ghosts)
    assert as_trained > re_estimated - 1.5  # 12 of 773 examples.


@pytest.mark.slow
def test_perturbed_statistics_lose_points():
    as_trained, re_estimated = accuracies("perturbed", 1.2, None)
    assert as_trained < re_estimated - 5


@pytest.mark.tensorflow
def test_on_two_replicas_synchronized_layers_share_them():
    with two_replicas().scope():
        model = ks.wrap(standard_net())
        norm(model).synchronized = True
        model.compile(ks.SmoothOut(sgd(), 0.2), LOSS)
    expected = clean_pass(model, X, momentum(FEWEST))  # 24 examples on each.
    model.fit(X, Y, batch_size=len(X), shuffle=False, verbose=0)
    close(moving(model), expected)


def test_with_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    model = compiled(ks.SmoothOut(sgd(), 0.2), ghost_batch_size=24)
    expected = clean_pass(model, X[:FEWEST], momentum(FEWEST))
    model.train_on_batch(X, Y)
    for a, b in zip(moving(model), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3)
