"""TrackSharpness and TrackSharpestDirections in `fit`; NudgedSGD with the directions they find."""

import csv

import keras
import numpy as np
import pytest
from keras import layers
from support.nets import LOSS, assert_equal, images, sgd, standard_net, two_replicas, values

import keras_smoothout as ks
from keras_smoothout.landscape import Objective
from keras_smoothout.landscape.measures import measures
from keras_smoothout.landscape.tracking.sharpest_directions import TrackSharpestDirections
from keras_smoothout.landscape.tracking.track import TrackSharpness

X = (np.random.default_rng(0).normal(size=(64, 3)) * [1, 2, 4]).astype("float32")
Y = (X @ [[1.0], [2.0], [-1.0]]).astype("float32")
# Loss: mean of (x w - y)**2, so the Hessian is 2 X'X / n, everywhere.
CURVATURES, DIRECTIONS = (a[..., ::-1] for a in np.linalg.eigh(2 * X.T @ X / len(X)))


def regression(optimizer=None, wrap=False):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, use_bias=False)])
    model = ks.wrap(model) if wrap else model
    model.compile(optimizer or keras.optimizers.SGD(0.01), "mse")
    return model


def fit(model, callbacks, epochs=4, batch_size=64):
    return model.fit(
        X, Y, batch_size, epochs, shuffle=False, verbose=0, callbacks=callbacks
    ).history


def test_sharpness_is_in_the_logs(tmp_path):
    model = regression()
    track = TrackSharpness(["lambda_max", "distance_from_init"], X, Y, every_epochs=2)
    start = model.get_weights()[0]
    history = fit(model, [track, keras.callbacks.CSVLogger(tmp_path / "log.csv")])
    nan, top = np.nan, pytest.approx(CURVATURES[0], rel=1e-4)
    np.testing.assert_array_equal(np.isnan(history["lambda_max"]), [True, False, True, False])
    assert history["lambda_max"][1] == top
    assert history["lambda_max"][3] == top
    moved = np.linalg.norm(model.get_weights()[0] - start)
    np.testing.assert_allclose(history["distance_from_init"][2:], [nan, moved], rtol=1e-5)
    assert history["sharpness_seconds"][1] > 10 * history["sharpness_seconds"][0] > 0
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[3]["lambda_max"]) == history["lambda_max"][3]
    assert list(track.rows) == [2, 4]
    assert track.rows[4][0].products > 0


def test_sharpness_is_in_tensorboard(tmp_path):
    import tensorflow as tf

    board = keras.callbacks.TensorBoard(tmp_path, write_graph=False)
    history = fit(regression(), [TrackSharpness("lambda_max", X, Y), board], epochs=2)
    (path,) = (tmp_path / "train").glob("events*")
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    events = [tf.compat.v1.Event.FromString(record) for record in records]
    found = {(e.step, v.tag): tf.make_ndarray(v.tensor) for e in events for v in e.summary.value}
    for step in (0, 1):
        for name in ("lambda_max", "sharpness_seconds"):
            assert found[step, f"epoch_{name}"] == pytest.approx(history[name][step], rel=1e-6)


def test_sharpness_is_that_of_the_weights_of_the_epoch():
    model = standard_net()
    model.compile(sgd(), LOSS)
    x, y = images()
    track = TrackSharpness("uniform_noise", x, y)
    history = model.fit(x, y, 16, 2, verbose=0, callbacks=[track]).history["uniform_noise"]
    (again,) = measures(Objective(model, x, y), ["uniform_noise"])
    assert again.value == history[1] != history[0]


def test_measures_of_ones_own():
    own = {"twice": lambda objective: 2 * objective.loss(objective.weights)}
    model = regression()
    history = fit(model, [TrackSharpness(own, X, Y)])
    assert history["twice"][-1] == pytest.approx(2 * model.evaluate(X, Y, verbose=0), rel=1e-5)


def test_what_does_not_apply_ends_the_training():
    with pytest.raises(ValueError, match="not that of a classifier"):
        fit(regression(), [TrackSharpness("local_energy", X, Y)])


def test_a_training_that_diverges_keeps_its_history():
    tracks = [TrackSharpness("lambda_max", X, Y), TrackSharpestDirections(X, Y, k=2)]
    history = fit(regression(keras.optimizers.SGD(1e30)), tracks, epochs=3, batch_size=16)
    assert len(history["loss"]) == 3
    assert np.isnan(history["lambda_max"]).all() and not tracks[0].rows
    np.testing.assert_array_equal(np.isfinite(history["curvature_1"]), [True, False, False])
    for name in ("curvature_2", "step_overlap", "step_length_1"):
        assert np.isnan(history[name][1:]).all()
    assert [f["step"] for f in tracks[1].found] == [0, 4, 8]


def test_another_loss_and_other_layers_from_fit_to_fit():
    inputs = keras.Input((3,))
    first = layers.Dense(2, use_bias=False, trainable=False)
    model = keras.Model(inputs, layers.Dense(1, use_bias=False)(first(inputs)))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    tracks = [
        TrackSharpness(["loss", "distance_from_init"], X, Y),
        TrackSharpestDirections(X, Y, k=2),
    ]
    start = model.get_weights()
    fit(model, tracks, epochs=1)
    assert tracks[1].directions.shape == (2, 2)
    first.trainable = True
    model.compile(keras.optimizers.SGD(0.01), "mae")
    history = model.fit(X, Y, 64, 2, initial_epoch=1, verbose=0, callbacks=tracks).history
    assert history["loss"][0] == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-5)
    moved = [a - b for a, b in zip(model.get_weights(), start, strict=True)]
    expected = sum(np.sum(m**2) for m in moved) ** 0.5
    assert history["distance_from_init"][0] == pytest.approx(expected, rel=1e-5)
    assert tracks[1].directions.shape == (8, 2)


def callbacks():
    x, y = images()
    return [
        TrackSharpness(["uniform_noise", "sam_sharpness"], x, y),
        TrackSharpestDirections(x, y, k=2, every_steps=2, steps=1, tolerance=0.1),
    ]


def test_watching_changes_nothing():
    # BatchNormalization, dropout and momentum go on as if nobody looked.
    runs = []
    for watch in ([], callbacks()):
        model = standard_net()
        model.compile(sgd(), LOSS, metrics=["accuracy"])
        history = model.fit(*images(), 16, 2, verbose=0, shuffle=False, callbacks=watch).history
        runs.append((values(model), history["loss"]))
    assert_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_sharpest_directions_of_full_batch_descent():
    # A step s = -learning_rate * gradient is learning_rate * curvature of the way to the bottom.
    model, track = regression(), TrackSharpestDirections(X, Y, k=2, steps=3, every_epochs=2)
    history = fit(model, [track])
    for i in (1, 2):
        rate = 0.01 * CURVATURES[i - 1]
        np.testing.assert_allclose(history[f"curvature_{i}"], CURVATURES[i - 1], rtol=1e-4)
        np.testing.assert_allclose(history[f"step_length_{i}"], rate, rtol=1e-3)
    np.testing.assert_allclose(
        np.abs(np.diag(track.directions.T @ DIRECTIONS[:, :2])), 1, atol=1e-4
    )
    # What is left of each step lies along the third direction.
    seconds = np.array(history["sharpest_seconds"])
    assert np.all(seconds > 0)
    assert [f["step"] for f in track.found] == [0, 2]
    assert 0.9 < history["step_overlap"][0] < 1


def test_overlap_of_steps():
    # One step from known weights, its parts along the directions by hand.
    model = regression()
    model.set_weights([np.array([[2.0], [0.0], [-0.5]])])
    gradient = DIRECTIONS * CURVATURES @ DIRECTIONS.T @ (model.get_weights()[0] - [[1], [2], [-1]])
    along = (DIRECTIONS.T @ gradient)[:, 0]
    track = TrackSharpestDirections(X, Y, k=1, steps=1)
    history = fit(model, [track], epochs=1)
    expected = along[0] ** 2 / np.sum(along**2)
    assert history["step_overlap"][0] == pytest.approx(expected, rel=1e-3)


def test_refreshed_every_so_many_steps():
    track = TrackSharpestDirections(X, Y, k=1, every_steps=3)
    fit(regression(), [track], epochs=2, batch_size=16)  # 8 steps
    assert [f["step"] for f in track.found] == [0, 3, 6]


def test_an_epoch_to_start_from():
    track = TrackSharpestDirections(X, Y, k=1, every_epochs=2)
    model = regression()
    model.fit(X, Y, 64, 4, initial_epoch=1, verbose=0, callbacks=[track])
    assert [f["step"] for f in track.found] == [0, 1]


@pytest.mark.parametrize("around", [lambda o: o, lambda o: ks.Lookahead(o, 1, 1.0)])
def test_nudged_sgd_is_handed_the_directions(around):
    # Along the sharpest of three directions the step is a tenth.
    inner = ks.NudgedSGD(keras.optimizers.SGD(0.01), 0.1, 1)
    model = regression(around(inner))
    start = DIRECTIONS.T @ (model.get_weights()[0] - [[1], [2], [-1]])
    fit(model, [TrackSharpestDirections(X, Y)], epochs=2)
    shrink = 1 - 0.01 * CURVATURES * [0.1, 1, 1]
    end = DIRECTIONS.T @ (model.get_weights()[0] - [[1], [2], [-1]])
    np.testing.assert_allclose(end[:, 0], shrink**2 * start[:, 0], rtol=1e-3)


def test_nudged_sgd_on_a_network():
    model = standard_net()
    model.compile(ks.NudgedSGD(sgd(), 0.1, 3), LOSS)
    track = TrackSharpestDirections(*images(), tolerance=0.1)
    history = model.fit(*images(), 16, 3, verbose=0, callbacks=[track]).history
    assert history["loss"][-1] < history["loss"][0]
    assert {"curvature_3", "step_length_3"} < set(history)
    assert "curvature_4" not in history
    found = [np.concatenate([v.numpy().ravel() for v in d]) for d in model.optimizer.sharpest]
    np.testing.assert_allclose(np.transpose(found), track.directions, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: TrackSharpness("hight", X, Y), "Received: hight"),
        (lambda: fit(regression(), [TrackSharpness("loss", X, Y[:3])]), "lengths [3, 64]"),
    ],
)
def test_wrong_values(wrong, words):
    with pytest.raises(ValueError) as error:
        wrong()
    assert words in str(error.value) and "Received" in str(error.value)


@pytest.mark.tensorflow
def test_two_replicas():
    """What is tracked is that of the weights that the replicas share, over all of the data."""
    with two_replicas().scope():
        model = regression(ks.NudgedSGD(keras.optimizers.SGD(0.01), directions=2), wrap=True)
    history = fit(model, [TrackSharpness("lambda_max", X, Y), TrackSharpestDirections(X, Y)])
    alone = regression(ks.NudgedSGD(keras.optimizers.SGD(0.01), directions=2), wrap=True)
    expected = fit(alone, [TrackSharpness("lambda_max", X, Y), TrackSharpestDirections(X, Y)])
    for name in ("lambda_max", "curvature_1", "step_overlap", "step_length_1", "loss"):
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-4, err_msg=name)
    assert history["lambda_max"][-1] == pytest.approx(CURVATURES[0], rel=1e-4)
