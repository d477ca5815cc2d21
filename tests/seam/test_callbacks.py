"""DistanceFromInit, and batches that grow, in `fit`."""

import csv

import keras
import numpy as np
import pytest
from keras import layers

import keras_smoothout as ks

X = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
Y = (X @ [[1.0], [2.0], [-1.0]]).astype("float32")


def compiled(rate=0.01):
    keras.utils.set_random_seed(0)
    model = ks.wrap(keras.Sequential([keras.Input((3,)), layers.Dense(1)]))
    model.compile(ks.SmoothOut(keras.optimizers.SGD(rate)), "mse")
    return model


def test_distance_from_init(tmp_path):
    model = compiled()
    start = np.concatenate([w.ravel() for w in model.get_weights()])
    path, log = tmp_path / "distance.csv", tmp_path / "log.csv"
    callback = ks.DistanceFromInit(path, points_per_decade=5)
    logger = keras.callbacks.CSVLogger(log)
    history = model.fit(X, Y, 2, 3, verbose=0, callbacks=[callback, logger]).history
    end = np.concatenate([w.ravel() for w in model.get_weights()])
    steps, distances = zip(*callback.distances, strict=True)
    assert steps == (1, 2, 3, 5, 8, 13, 21, 32, 33, 52, 64, 82, 96)
    assert distances[-1] == pytest.approx(np.linalg.norm(end - start), rel=1e-6)
    assert 0 < distances[0] < distances[-1]
    assert history["distance_from_init"][-1] == distances[-1]
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["step"]), float(r["distance"])) for r in rows] == list(callback.distances)
    with open(log, newline="") as file:
        assert "distance_from_init" in next(csv.reader(file))


def test_the_steps_of_an_execution_and_of_an_update_are_all_counted():
    model, callback = compiled(), ks.DistanceFromInit()
    model.compile(ks.SmoothOut("sgd"), "mse", steps_per_execution=4)
    model.fit(X, Y, 4, 2, verbose=0, callbacks=[callback])
    steps = len(X) // 4
    assert [step for step, _ in callback.distances][-1] == 2 * steps
    # A second training goes on counting, by steps also where several make an update.
    model, callback = compiled(), ks.DistanceFromInit()
    model.compile(ks.SmoothOut(keras.optimizers.SGD(gradient_accumulation_steps=4)), "mse")
    for _ in range(2):
        model.fit(X, Y, 4, 1, verbose=0, callbacks=[callback])
    seen = [step for step, _ in callback.distances]
    assert seen == sorted(set(seen)) and {steps, 2 * steps} <= set(seen)


def test_steps_that_overflow_are_counted():
    keras.config.set_dtype_policy("mixed_float16")
    model, callback = compiled(), ks.DistanceFromInit(points_per_decade=100)
    for _ in range(2):
        model.fit(X, 1e30 * Y, 8, 1, verbose=0, callbacks=[callback])
    assert int(model.optimizer.iterations) == 0  # No step has updated the weights.
    assert [step for step, _ in callback.distances] == [*range(1, 17)]


def test_a_row_that_was_cut_off_is_dropped(tmp_path):
    model, path = compiled(), tmp_path / "distance.csv"
    model.fit(X, Y, 8, 1, verbose=0, callbacks=[ks.DistanceFromInit(path, 100)])
    whole = path.read_text()
    path.write_text(whole + "1")  # Of step 10, perhaps.
    start = [np.zeros_like(w) for w in model.get_weights()]
    callback = ks.DistanceFromInit(path, 100, start)
    model.fit(X, Y, 8, 1, verbose=0, callbacks=[callback])
    assert [step for step, _ in callback.distances] == [*range(1, 17)]
    assert path.read_text().startswith(whole)


def test_the_first_distance_is_the_first_step():
    model = compiled()
    start = model.get_weights()
    callback = ks.DistanceFromInit()
    model.fit(X, Y, 64, 1, verbose=0, callbacks=[callback])
    moved = np.concatenate(
        [(a - b).ravel() for a, b in zip(model.get_weights(), start, strict=True)]
    )
    assert callback.distances == [(1, pytest.approx(np.linalg.norm(moved), rel=1e-6))]


def test_watching_changes_nothing():
    watched, plain = compiled(), compiled()
    watched.fit(X, Y, 8, 2, shuffle=False, verbose=0, callbacks=[ks.DistanceFromInit()])
    plain.fit(X, Y, 8, 2, shuffle=False, verbose=0)
    for a, b in zip(watched.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_growing_batches_show_every_example_once_a_pass():
    x = np.arange(60)
    data = ks.WarmUpBatches(x, x, {0: 6, 10: 20, 13: 30}, seed=1)
    sizes = [len(data[i][0]) for i in range(17)]
    assert sizes == 10 * [6] + 3 * [20] + 4 * [30]
    seen = np.concatenate([data[i][0] for i in range(17)])
    for start in range(0, 240, 60):
        assert sorted(seen[start : start + 60]) == list(x)
    assert list(seen[:60]) != list(seen[60:120])  # Another order.
    assert all(np.array_equal(*data[i]) for i in range(17))
    later = ks.WarmUpBatches(x, x, {0: 6, 10: 20, 13: 30}, seed=1, start=5)
    np.testing.assert_array_equal(later[7][0], data[12][0])


def test_growing_batches_of_tensors():
    data = ks.WarmUpBatches(*map(keras.ops.convert_to_tensor, (X, Y)), {0: 4})
    array = ks.WarmUpBatches(X, Y, {0: 4})
    for ours, theirs in zip(data[3], array[3], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_growing_batches_train():
    model, data = compiled(), ks.WarmUpBatches(X, Y, {0: 4, 6: 32})
    history = model.fit(data, steps_per_epoch=5, epochs=8, shuffle=False, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert int(model.optimizer.iterations) == 40
    # By hand, the same batches.
    other = compiled()
    for i in range(40):
        other.train_on_batch(*data[i])
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: ks.WarmUpBatches(X, Y, {0: -8}), "batch_sizes[0]=-8"),
        (lambda: ks.WarmUpBatches(X, Y, {0: 8, -1: 8}), "step of batch_sizes=-1"),
        (lambda: ks.WarmUpBatches(X, Y[:3], {0: 8}), "64 inputs, 3 targets"),
    ],
)
def test_wrong_values(wrong, words):
    with pytest.raises(ValueError) as error:
        wrong()
    assert words in str(error.value) and "Received" in str(error.value)
