"""Centred kernel alignment and the taxonomy's numbers: another package's, closed forms, models."""

import keras
import numpy as np
import pytest
from keras import layers
from support.landscape import text_net, trained
from support.nets import LOSS, assert_equal, standard_net
from support.problems import golden

from keras_smoothout.landscape.comparison.connectivity import connect
from keras_smoothout.landscape.comparison.path import profile, straight, summary
from keras_smoothout.landscape.comparison.similarity import cka, linear_cka
from keras_smoothout.landscape.comparison.taxonomy import table, taxonomy
from keras_smoothout.landscape.objective import Objective

pytestmark = pytest.mark.tensorflow  # CKA is NumPy around `predict`.

GOLDEN = golden("cka")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_golden(index):
    pair, expected = GOLDEN["inputs"]["pairs"][index], GOLDEN["expected"]["pairs"][index]
    x, y = np.array(pair["X"]), np.array(pair["Y"])
    assert linear_cka(x, y) == pytest.approx(expected["linear"], rel=1e-12)
    wide = np.hstack([x, np.zeros((len(x), 20))])  # More columns than rows: the other formula.
    assert linear_cka(wide, y) == pytest.approx(expected["linear"], rel=1e-12)


@pytest.mark.parametrize("columns", [4, 60])
def test_invariances(columns):
    x, y = RNG.normal(size=(30, columns)), RNG.normal(size=(30, 5))
    rotation = np.linalg.qr(RNG.normal(size=(columns, columns)))[0]
    assert linear_cka(x, x) == pytest.approx(1.0)
    assert linear_cka(x, -3 * x @ rotation + 7) == pytest.approx(1.0)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x))
    assert 0 < linear_cka(x, y) < 0.9


def test_independent_features_are_not_alike():
    # E||Y'X||^2 = n p q, ||X'X||^2 = n^2 p + n p^2 + O(n p): for p = q = 3, n = 3000 about p / n.
    x, y = RNG.normal(size=(2, 3000, 3))
    assert 0 < linear_cka(x, y) < 5 * 3 / 3000


def test_models():
    a, b = standard_net(0), standard_net(1)
    x = RNG.normal(size=(30, 8, 8, 1)).astype("float32")
    before = [np.array(v) for v in a.variables]
    assert cka(a, a, x) == pytest.approx(1.0)
    assert cka(a, b, x, batch_size=7) == pytest.approx(
        linear_cka(a(x, training=False), b(x, training=False)), rel=1e-4
    )
    hidden = [keras.Model(m.input, m.layers[3].output)(x, training=False) for m in (a, b)]
    assert cka(a, b, x, layer=3) == pytest.approx(linear_cka(*hidden), rel=1e-4)
    assert cka(a, a, x, layer=a.layers[1].name) == pytest.approx(1.0)
    assert_equal([np.array(v) for v in a.variables], before)


class Shuffled(keras.utils.PyDataset):
    """Batches of seven in an order that differs from pass to pass."""

    x = RNG.normal(size=(28, 8, 8, 1)).astype("float32")

    def __len__(self):
        return 4

    def __getitem__(self, i):
        self.order = RNG.permutation(28) if i == 0 else self.order
        return self.x[self.order[7 * i : 7 * i + 7]]


def test_data_in_another_order_each_time():
    a, b = standard_net(0), standard_net(1)
    assert cka(a, a, Shuffled()) == pytest.approx(1.0)
    assert cka(a, b, Shuffled()) == pytest.approx(cka(a, b, Shuffled.x), rel=1e-4)


def test_models_of_several_inputs():
    inputs = [keras.Input((8,)), keras.Input((8,))]
    model = keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(inputs)))
    x = list(RNG.normal(size=(2, 30, 8)).astype("float32"))
    other = keras.models.clone_model(model)
    found = cka(model, other, x, batch_size=20)
    assert found == pytest.approx(linear_cka(model(x), other(x)), rel=1e-4)


def test_models_on_text():
    (model, x), (other, _) = text_net(), text_net()
    assert 0 < cka(model, other, x) <= 1


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def several_outputs():
    inputs = keras.Input((2,))
    return keras.Model(inputs, [layers.Dense(1)(inputs), layers.Dense(2)(inputs)])


X = RNG.normal(size=(8, 2)).astype("float32")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: linear_cka(X, X[:5]), "the same examples"),
        (lambda: linear_cka(X, 0 * X), "features that differ"),
        (lambda: linear_cka(X, X * np.nan), "features that differ"),
        (lambda: cka(Subclassed(), Subclassed(), X, layer="dense"), "layer='dense'"),
        (lambda: cka(several_outputs(), several_outputs(), X), "`layer`"),
        (lambda: taxonomy([Subclassed()], X, X), "`models`"),
        (lambda: taxonomy(3 * [None], X, X, sharpness={"trace": [1.0]}), "each of 3 models"),
    ],
)
def test_wrong_values(wrong, words):
    with pytest.raises(ValueError) as error:
        wrong()
    assert words in str(error.value) and "Received" in str(error.value)


def small(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(4, "tanh"), layers.Dense(3)])
    model.compile(loss=LOSS)
    return model


def test_taxonomy():
    models, y = [small(seed) for seed in range(3)], np.arange(8) % 3

    def join(objective, other):
        return connect(objective, straight(objective, other), 3)

    given = {"lambda_max": [3.0, 2.0, 1.0], "size": lambda objective: objective.size}
    found = taxonomy(models, X, y, sharpness=given, join=join, batch_size=4)
    objective = Objective(models[0], X, y, batch_size=4)
    expected = summary(profile(objective, join(objective, models[2])), "error")
    assert found["mode_connectivity"][1] == pytest.approx(expected["mode_connectivity"])
    assert found["barrier"][1] == pytest.approx(expected["barrier"], abs=1e-6)
    assert found["cka"][1] == pytest.approx(cka(models[0], models[2], X))
    flat = [np.concatenate([w.ravel() for w in model.get_weights()]) for model in models]
    assert found["distance"][2] == pytest.approx(np.linalg.norm(flat[1] - flat[2]))
    assert found["loss"][1] == pytest.approx(
        Objective(models[1], X, y).loss(models[1].get_weights())
    )
    assert found["lambda_max"].tolist() == [3.0, 2.0, 1.0]
    assert found["size"].tolist() == 3 * [27.0]
    lines = table(found).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(found)
    assert lines[3].split() == ["lambda_max", "2", "1", "3"]


def test_taxonomy_with_batch_normalization():
    # Curves are trained by the statistics of each batch, judged by those of the place.
    (a, x, y), (b, _, _) = trained(0), trained(1)

    def join(objective, other):
        return connect(objective, straight(objective, other), 2)

    found = taxonomy([a, b], x, y, sharpness={}, join=join, batch_size=16)
    batches = Objective(a, x, y, batch_size=16, batch_norm="training")
    expected = summary(profile(Objective(a, x, y), join(batches, b), recalibrate_on=x), "error")
    assert found["mode_connectivity"][0] == pytest.approx(expected["mode_connectivity"])
    assert found["loss"][1] == pytest.approx(b.evaluate(x, y, verbose=0), rel=1e-5)


def test_taxonomy_measures_sharpness_itself():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
    other = keras.models.clone_model(model)
    for m in (model, other):
        m.compile(loss="mse")
    x = np.array([[1.0, 0.0], [0.0, 2.0]])  # The Hessian is diag(1, 4); there is no error.
    found = taxonomy([model, other], x, np.zeros((2, 1)), join=straight)
    np.testing.assert_allclose(found["lambda_max"], [4.0, 4.0], rtol=1e-5)
    np.testing.assert_allclose(found["hessian_trace"], [5.0, 5.0], rtol=1e-5)
    assert np.isnan(found["error"]).all()
    chord = Objective(model, x, np.zeros((2, 1)))
    expected = summary(profile(chord, straight(chord, other)))["mode_connectivity"]
    np.testing.assert_allclose(found["mode_connectivity"], [expected])
