"""Ensembles: the mean of probabilities, as a Keras model; greedy soups."""

import keras
import numpy as np
import pytest
from support.contract import contract_net, examples
from support.nets import LOSS, assert_equal, sgd
from support.problems import golden

import keras_smoothout as ks

FGE, SOUP = golden("fge"), golden("soup")
SPARSE = keras.losses.SparseCategoricalCrossentropy


def constant(logits):
    """A model whose outputs are `logits`, one row for each one-hot input."""
    rows, classes = np.shape(logits)
    model = keras.Sequential([keras.Input((rows,)), keras.layers.Dense(classes, use_bias=False)])
    model.set_weights([np.array(logits)])
    model.compile(loss=SPARSE(from_logits=True))
    return model


def test_golden():
    logits = FGE["inputs"]["logits"]
    members = [constant(rows) for rows in logits]
    x = np.eye(len(logits[0]))
    for activation in ("softmax", None):
        found = ks.Ensemble(members, activation).predict(x, verbose=0)
        np.testing.assert_allclose(found, FGE["expected"]["ensemble"], atol=1e-6)
    mean = ks.Ensemble(members, "linear").predict(x, verbose=0)
    contrast = np.array(keras.ops.softmax(mean))
    np.testing.assert_allclose(contrast, FGE["expected"]["mean_of_logits_softmax"], atol=1e-6)
    assert abs(contrast - FGE["expected"]["ensemble"]).max() > 0.05


def test_of_equal_members_it_is_the_member_to_the_bit():
    member = contract_net()
    x, _ = examples(8)
    one = ks.Ensemble([member], "softmax").predict(x, verbose=0)
    assert_equal([ks.Ensemble(3 * [member], "softmax").predict(x, verbose=0)], [one])


def test_the_loss_tells_the_activation():
    net = [keras.Input((2,)), keras.layers.Dense(1)]
    for loss, activation in (
        (SPARSE(from_logits=True), "softmax"),
        (SPARSE(), "linear"),
        ("sparse_categorical_crossentropy", "linear"),
        (keras.losses.BinaryCrossentropy(from_logits=True), "sigmoid"),
        ("mse", "linear"),
    ):
        member = keras.Sequential(net)
        member.compile(loss=loss)
        assert ks.Ensemble([member, member]).activation == activation
    logits, other = keras.Sequential(net), keras.Sequential(net)
    logits.compile(loss=SPARSE(from_logits=True))
    other.compile(loss="mse")
    for members in ([logits, other], [keras.Sequential(net)]):
        with pytest.raises(ValueError) as error:
            ks.Ensemble(members)
        assert "`activation`" in str(error.value) and "activation=None" in str(error.value)
    with pytest.raises(ValueError) as error:
        ks.Ensemble([logits]).compile(loss=SPARSE(from_logits=True))
    assert "`loss`" in str(error.value) and "from_logits=True" in str(error.value)


def test_what_is_no_ensemble_is_refused():
    wide = keras.Sequential([keras.Input((6,)), keras.layers.Dense(7)])
    for members in ([], None, "abc", [keras.Sequential()], [contract_net(), wide]):
        with pytest.raises(ValueError, match="`members`"):
            ks.Ensemble(members, "softmax")


class Own(keras.Model):
    """A model with a `call` of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.head = keras.layers.Dense(3)

    def call(self, x):
        return self.head(x)


keras.saving.register_keras_serializable("test_ensemble")(Own)


def own():
    model = ks.wrap(Own())
    model(np.ones((1, 6), "float32"))
    return model


@pytest.mark.parametrize("make", [contract_net, own])
def test_snapshots_make_an_ensemble_that_evaluates_saves_and_loads(make, tmp_path):
    x, y = examples()
    model = make()
    model.compile(ks.SmoothOut(sgd(), 0.01), LOSS)
    snapshots = ks.callbacks.Snapshots()
    model.fit(x, y, 16, 3, verbose=0, callbacks=[snapshots])
    ensemble = ks.Ensemble(snapshots)
    ensemble.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    logs = ensemble.evaluate(x, y, verbose=0, return_dict=True)
    outputs = [m.predict(x, verbose=0) for m in snapshots.models()]
    mean = np.mean([np.array(keras.ops.softmax(o)) for o in outputs], 0)
    np.testing.assert_allclose(ensemble.predict(x, verbose=0), mean, rtol=1e-5)
    assert logs["loss"] == pytest.approx(-np.log(mean[np.arange(len(y)), y]).mean(), rel=1e-4)
    assert logs["accuracy"] == pytest.approx(np.mean(mean.argmax(1) == y))
    members = [m.evaluate(x, y, verbose=0) for m in snapshots.models()]
    assert logs["loss"] <= np.mean(members) + 1e-6  # By convexity.
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert loaded.evaluate(x, y, verbose=0, return_dict=True) == pytest.approx(logs, rel=1e-6)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), ensemble.predict(x, verbose=0))


def test_an_ensemble_saved_before_its_first_call_is_whole(tmp_path):
    ensemble = ks.Ensemble([contract_net(0), contract_net(1)], "softmax")
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert_equal(loaded.get_weights(), ensemble.get_weights())
    x, _ = examples(8)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), ensemble.predict(x, verbose=0))


def vector_model(values):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.reshape(values, (3, 1))])
    return model


def test_golden_soup():
    points = SOUP["inputs"]["points"]
    model = vector_model(points[0])
    snapshots = [[np.reshape(point, (3, 1)).astype("float32")] for point in points]

    def score(model):
        return -np.sum(np.square(model.get_weights()[0]))

    assert ks.greedy_soup(model, snapshots, score) == SOUP["expected"]["soup_members"]
    np.testing.assert_allclose(model.get_weights()[0][:, 0], SOUP["expected"]["soup"], atol=1e-6)


def test_a_soup_has_statistics_of_its_own_and_an_error_leaves_the_model():
    x, y = examples()
    model = contract_net()
    model.compile(sgd(), LOSS)
    snapshots = ks.callbacks.Snapshots()
    model.fit(x, y, 16, 2, verbose=0, callbacks=[snapshots])
    calls = []

    def score(model):  # The later, the better: all join.
        calls.append(1)
        return len(calls)

    before = model.get_weights()
    with pytest.raises(ZeroDivisionError):
        ks.greedy_soup(model, snapshots, lambda model: 1 / 0, data=x)
    assert_equal(model.get_weights(), before)
    assert ks.greedy_soup(model, snapshots, score, data=x) == [1, 0]
    assert len(calls) == 3
    a, b = snapshots.arrays()
    np.testing.assert_allclose(model.get_weights()[0], (a[0] + b[0]) / 2, rtol=1e-6)
    soup = model.get_weights()
    ks.recalibrate(model, x)
    assert_equal(model.get_weights(), soup)
    with pytest.raises(ValueError, match="`data`"):
        ks.greedy_soup(model, snapshots, score)
    with pytest.raises(ValueError, match="`snapshots`"):
        ks.greedy_soup(model, [], score, data=x)
    with pytest.raises(ValueError, match="`snapshots`"):
        ks.greedy_soup(model, [a[1:]], score, data=x)
    model.compile(ks.SWA(sgd()), LOSS)
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="`model`"):
        ks.greedy_soup(model, snapshots, score, data=x)
