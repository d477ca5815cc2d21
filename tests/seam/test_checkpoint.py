"""Checkpoint: a training that is interrupted anywhere ends with the same bits and the same logs."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers
from support.nets import LOSS, assert_equal, images, standard_net, two_replicas, values

import keras_smoothout as ks
from keras_smoothout.callbacks import Checkpoint
from keras_smoothout.checkpoint_files import Position, checkpoints, position_of

EXAMPLES, BATCH, EPOCHS = 40, 12, 3  # Four steps in an epoch, the last one smaller.
X = np.random.default_rng(0).normal(size=(EXAMPLES, 3)).astype("float32")
Y = np.arange(EXAMPLES) % 2


class Stop(keras.callbacks.Callback):
    """Ctrl-C after a number of steps in this process, or in its first validation."""

    def __init__(self, steps=None):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        if Position(self.epoch, batch + 1) > self.begun and self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_test_begin(self, logs=None):
        if self.left is None:
            raise KeyboardInterrupt


def small():
    """Moving statistics, dropout and slots, in a net that is quick to trace."""
    keras.utils.set_random_seed(0)
    inside = [layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.3, seed=1)]
    model = keras.Sequential([keras.Input((3,)), *inside, layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"])
    return model


def nested():
    model = ks.wrap(standard_net())
    optimizer = ks.Lookahead(ks.SmoothOut("adam", radius=0.01), sync_period=3)
    model.compile(optimizer, LOSS, metrics=["accuracy"])
    return model


class Finite(keras.utils.PyDataset):
    """Batches that `fit` orders by Python's global random numbers."""

    def __len__(self):
        return -(-EXAMPLES // BATCH)

    def __getitem__(self, index):
        return tuple(array[index * BATCH : (index + 1) * BATCH] for array in (X, Y))


def given(kind, x=X, y=Y):
    """What `fit` needs for data of a kind, which is made again after an interruption."""
    in_order = {"shuffle": False, "steps_per_epoch": 4}  # By `fit`, which would warn.
    if kind == "epochs":
        return {"x": ks.Epochs(x, y, BATCH, seed=3)} | in_order
    if kind == "growing":
        return {"x": ks.WarmUpBatches(x, y, {0: 6, 5: BATCH})} | in_order
    if kind == "dataset":
        import tensorflow as tf

        rows = tf.data.Dataset.from_tensor_slices((x, y))
        rows = rows.shuffle(EXAMPLES, 5, reshuffle_each_iteration=False)
        return {"x": rows.batch(BATCH), "shuffle": False}
    if kind == "finite":
        return {"x": Finite()}
    return {"x": x, "y": y, "batch_size": BATCH}  # Shuffled by `fit`.


def run(folder, data, stops=(), make=small, validation=(X[:9], Y[:9]), epochs=EPOCHS, **options):
    """A training that is begun again after each of the `stops`; its model and all of its logs."""
    logs = {}
    for stop in [*stops, None]:
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model, checkpoint = make(), Checkpoint(folder, **({"every_steps": 1} | options))
        log = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, found: logs.update({epoch: found})
        )
        callbacks = [log, checkpoint]
        if stop is not None:
            stop.begun = position_of(checkpoints(folder)[-1]) if checkpoints(folder) else Position()
            callbacks.append(stop)
        try:
            made = {"validation_data": validation, "verbose": 0} | data()
            model.fit(epochs=epochs, callbacks=callbacks, **made)
            assert stop is None
        except KeyboardInterrupt:
            assert stop is not None
    return model, logs


@pytest.mark.parametrize("kind", ["epochs", "growing", "arrays", "finite", "dataset"])
def test_interrupted_inside_epochs_is_uninterrupted_to_the_bit(tmp_path, kind):
    """Twice within an epoch, at its last step, and in its validation; logs are those of it all."""
    whole, logs = run(tmp_path / "whole", lambda: given(kind))
    stops = [Stop(2), Stop(1), Stop(3), Stop()]
    parts, same = run(tmp_path / "parts", lambda: given(kind), stops)
    assert_equal(values(whole), values(parts))
    assert logs == same and sorted(logs) == [0, 1, 2]
    assert int(parts.optimizer.iterations) == 12


def test_all_state_of_nested_methods_goes_on(tmp_path):
    x, y = images(EXAMPLES)
    whole, logs = run(tmp_path / "a", lambda: given("epochs", x, y), (), nested, None, 2)
    parts, same = run(tmp_path / "b", lambda: given("epochs", x, y), [Stop(3)], nested, None, 2)
    assert_equal(values(whole), values(parts))
    assert logs == same


def test_what_is_saved_and_when(tmp_path):
    def left(folder, epochs=EPOCHS, validation=None, **options):
        run(tmp_path / folder, lambda: given("epochs"), (), small, validation, epochs, **options)
        return [tuple(position_of(path)) for path in checkpoints(tmp_path / folder)]

    assert left("default", every_steps=None, keep=None) == [(1, 0), (2, 0), (3, 0)]
    assert left("epochs", every_steps=None, every_epochs=2, keep=None) == [(2, 0), (3, 0)]
    steps = [(0, 3), (1, 2), (2, 1), (2, 4), (3, 0)]
    assert left("steps", every_steps=3, keep=None) == steps
    assert left("steps again", every_steps=3) == steps[-2:]
    validated = left("tests", 1, (X, Y), every_steps=3, keep=None)
    assert validated == [(0, 3), (0, 4), (1, 0)]
    every = left("minutes", 1, every_steps=None, every_minutes=0, keep=None)
    assert every == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 0)]


def test_the_best_epoch_is_kept_and_restored(tmp_path):
    class Values(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = [0.1, 0.9, 0.2, 0.9, 0.3][epoch]
            kept.append(values(self.model))

    kept, model = [], small()
    options = {"best": "score", "mode": "max", "keep": 1}
    for epochs in (3, 5):  # The best one is found again.
        callbacks = [Values(), Checkpoint(tmp_path, **options)]
        model.fit(X, Y, BATCH, epochs, verbose=0, callbacks=callbacks)
    assert [position_of(path).epoch for path in checkpoints(tmp_path)] == [2, 5]
    assert Checkpoint(tmp_path, **options).restore_best(model) == (2, 0)
    assert_equal(values(model), kept[1])
    with pytest.raises(ValueError, match="best='accuracy'"):
        Checkpoint(tmp_path / "none", best="accuracy").restore_best(model)
    with pytest.raises(ValueError, match="best='val_loss'"):
        model.fit(X, Y, verbose=0, callbacks=[Checkpoint(tmp_path / "b", best="val_loss")])


def test_a_finished_training_is_left_and_goes_on_with_more_epochs(tmp_path, capsys):
    model, checkpoint = small(), Checkpoint(tmp_path)
    model.fit(X, Y, BATCH, 2, verbose=0, callbacks=[checkpoint])
    before = values(model)
    history = model.fit(X, Y, BATCH, 2, verbose=2, callbacks=[checkpoint])
    assert (
        history.epoch == [] and f"Continuing {tmp_path} after epoch 2." in capsys.readouterr().out
    )
    assert_equal(values(model), before)
    assert model.fit(X, Y, BATCH, 3, verbose=0, callbacks=[checkpoint]).epoch == [2]
    assert model.fit(X, Y, BATCH, 1, verbose=0).epoch == [0]  # Nothing of it stays in the model.
    for path in checkpoints(tmp_path):
        path.unlink()
    model.fit(X, Y, BATCH, 3, verbose=0, callbacks=[checkpoint])
    assert [position_of(path).epoch for path in checkpoints(tmp_path)] == [2, 3]


def test_restoring_before_fit_leaves_the_data_to_the_user(tmp_path):
    whole, _ = run(tmp_path / "whole", lambda: given("epochs"), validation=None)
    model = small()
    with pytest.raises(KeyboardInterrupt):
        stop = Stop(6)
        stop.begun = Position()
        callbacks = [Checkpoint(tmp_path / "parts", every_steps=1), stop]
        model.fit(epochs=EPOCHS, verbose=0, callbacks=callbacks, **given("epochs"))
    keras.utils.clear_session(free_memory=False)
    model, checkpoint = small(), Checkpoint(tmp_path / "parts", every_steps=1)
    epoch, step = checkpoint.restore(model)
    assert (epoch, step) == (1, 2)
    order = ks.Epochs(X, Y, BATCH, seed=3)
    rest = (order[i] for i in range(4 * epoch + step, 4 * EPOCHS))
    options = {"steps_per_epoch": 4, "epochs": EPOCHS, "initial_epoch": epoch, "shuffle": False}
    model.fit(rest, callbacks=[checkpoint], verbose=0, **options)
    assert_equal(values(whole), values(model))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda folder: Checkpoint(3), "directory=3"),
        (lambda folder: Checkpoint(folder, every_epochs=0), "every_epochs=0"),
        (lambda folder: Checkpoint(folder, every_steps=1.5), "every_steps=1.5"),
        (lambda folder: Checkpoint(folder, every_minutes=-1), "every_minutes=-1"),
        (lambda folder: Checkpoint(folder, keep=0), "keep=0"),
        (lambda folder: Checkpoint(folder, best=1), "best=1"),
        (lambda folder: Checkpoint(folder, best="score"), "mode=None"),
        (lambda folder: Checkpoint(folder, best="loss", mode="least"), "mode='least'"),
        (lambda folder: ks.Epochs(X, Y, 0), "batch_size=0"),
        (lambda folder: ks.Epochs(X, Y, 50, drop_remainder=True), "batch_size=50"),
        (lambda folder: ks.Epochs(X, Y[:3]), "40 inputs, 3 targets"),
        (lambda folder: ks.Epochs(X, Y, seed=-1), "seed=-1"),
        (lambda folder: ks.Epochs(X, Y, drop_remainder=1), "drop_remainder=1"),
    ],
)
def test_wrong_values(tmp_path, wrong, words):
    with pytest.raises(ValueError) as error:
        wrong(tmp_path)
    assert words in str(error.value)


def test_what_cannot_be_continued_is_refused_before_anything_changes(tmp_path):
    model = small()
    model.fit(X, Y, BATCH, verbose=0, callbacks=[Checkpoint(tmp_path, every_steps=3, keep=None)])
    checkpoints(tmp_path)[-1].unlink()  # In the epoch, after 3 steps.
    before = values(model)

    def refused(words, model=model, **options):
        options = {"batch_size": BATCH, "epochs": 2, "verbose": 0} | options
        with pytest.raises(ValueError) as error:
            model.fit(X, Y, callbacks=[Checkpoint(tmp_path)], **options)
        assert words in str(error.value)

    refused("initial_epoch=1", initial_epoch=1)
    assert_equal(values(model), before)
    other = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    other.compile("sgd", LOSS)
    kept = other.get_weights()
    refused("of another model", other)
    assert_equal(other.get_weights(), kept)
    more = keras.metrics.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy", more])
    refused("`metrics` must be those of the interrupted training")
    model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"], steps_per_execution=2)
    refused("steps_per_execution=2")
    path = checkpoints(tmp_path)[-1]
    path.write_bytes(path.read_bytes()[:-100])
    refused(f"{path} cannot be resumed from: it is damaged")


def test_data_that_cannot_be_told_where_to_begin(tmp_path):
    data = ks.WarmUpBatches(X, Y, {0: 6}, workers=2)
    options = {"shuffle": False, "verbose": 0, "callbacks": [Checkpoint(tmp_path)]}
    with pytest.raises(ValueError, match="workers=2"):
        small().fit(data, steps_per_epoch=4, **options)
    with pytest.raises(ValueError, match="steps_per_epoch=None"):
        small().fit(ks.Epochs(X, Y), **options)
    model = ks.wrap(small())
    model.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="steps_per_epoch=None"):
        model.fit(ks.Epochs(X, Y), shuffle=False, verbose=0)


def test_a_fit_that_failed_while_it_skipped_leaves_the_next_one_whole(tmp_path):
    class Fail(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise RuntimeError

    model = small()
    stop = Stop(3)
    stop.begun = Position()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, BATCH, verbose=0, callbacks=[Checkpoint(tmp_path, every_steps=1), stop])
    with pytest.raises(RuntimeError):
        model.fit(X, Y, BATCH, verbose=0, callbacks=[Checkpoint(tmp_path), Fail()])
    assert int(model.optimizer.iterations) == 3
    model.fit(X, Y, BATCH, verbose=0)
    assert int(model.optimizer.iterations) == 7


def test_a_training_that_is_stopped_inside_an_epoch_is_not_saved_as_a_whole_one(tmp_path):
    class Halt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    model = small()
    model.fit(X, Y, BATCH, 2, verbose=0, callbacks=[Checkpoint(tmp_path), Halt()])
    assert checkpoints(tmp_path) == []


def test_what_a_killed_process_was_writing_is_deleted(tmp_path):
    (tmp_path / "unfinished-epoch-000007.npz").write_bytes(b"half of it")
    (tmp_path / "unfinished-notes.txt").touch()
    small().fit(X, Y, verbose=0, callbacks=[Checkpoint(tmp_path)])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["epoch-000001.npz", "unfinished-notes.txt"]


@pytest.mark.parametrize("start", [0, 3])
def test_epochs_are_whole_and_each_in_an_order_of_its_own(start):
    data = ks.Epochs(np.arange(10), np.arange(10), 4, seed=1)
    assert data.steps_per_epoch == 3 and len(data[2][0]) == 2
    orders = [np.concatenate([data[3 * e + i][0] for i in range(3)]) for e in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    data.seek(1, 2, 3)
    np.testing.assert_array_equal(data[start][0], ks.Epochs(data.x, data.y, 4, 1)[5 + start][0])
    dropped = ks.Epochs(np.arange(10), np.arange(10), 4, drop_remainder=True)
    assert dropped.steps_per_epoch == 2 and {len(dropped[i][0]) for i in range(9)} == {4}


@pytest.mark.tensorflow
def test_replicas_go_on_together(tmp_path):
    """Their statistics are one after each step, so one file holds the state of them all."""

    def make():
        with two_replicas().scope():
            model = ks.wrap(small())
            model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"])
        return model

    even = X[:8], Y[:8]
    whole, logs = run(tmp_path / "whole", lambda: given("epochs"), (), make, even, 2)
    parts, same = run(tmp_path / "parts", lambda: given("epochs"), [Stop(3)], make, even, epochs=2)
    for model in (whole, parts):
        for variable in model.variables:
            local = two_replicas().experimental_local_results(variable.value)
            assert_equal([local[0].numpy()], [local[1].numpy()])
    assert_equal([v.numpy() for v in whole.variables], [v.numpy() for v in parts.variables])
    assert logs.keys() == same.keys()
    assert logs[0] == pytest.approx(same[0], rel=1e-6)


def test_the_distance_is_that_of_one_training(tmp_path):
    def measured(folder, stops):
        for stop in [*stops, None]:
            keras.utils.clear_session(free_memory=False)
            model = small()
            start = [np.array(v) for v in model.trainable_variables]
            distance = ks.DistanceFromInit(tmp_path / f"{folder}.csv", 5, start)
            callbacks = [distance, Checkpoint(tmp_path / folder, every_steps=1)]
            if stop:
                stop.begun = Position()
                callbacks.append(stop)
            try:
                model.fit(epochs=EPOCHS, verbose=0, callbacks=callbacks, **given("epochs"))
            except KeyboardInterrupt:
                pass
        return distance.distances

    assert measured("parts", [Stop(6)]) == measured("whole", [])


def test_snapshots_inside_an_epoch_are_those_of_one_training(tmp_path):
    def kept(folder, stops):
        for stop in [*stops, None]:
            keras.utils.clear_session(free_memory=False)
            model = small()
            snapshots = ks.callbacks.Snapshots(2, 3, directory=tmp_path / f"{folder}-snapshots")
            callbacks = [snapshots, Checkpoint(tmp_path / folder, every_steps=1)]
            if stop:
                found = checkpoints(tmp_path / folder)
                stop.begun = position_of(found[-1]) if found else Position()
                callbacks.append(stop)
            try:
                model.fit(epochs=EPOCHS, verbose=0, callbacks=callbacks, **given("epochs"))
            except KeyboardInterrupt:
                pass
        return snapshots

    whole, parts = kept("whole", []), kept("parts", [Stop(3), Stop(3)])
    assert whole.updates == parts.updates == [2, 5, 8, 11]
    for a, b in zip(whole.arrays(), parts.arrays(), strict=True):
        assert_equal(a, b)


def test_batches_that_follow_the_noise_scale_go_on_inside_an_epoch_and_after_one(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(2, 256, 3)).astype("float32")  # Noise alone.

    def trained(folder, *fits):
        logs, sizes = {}, None
        for stops, epochs in (*fits, ([], 4)):
            keras.utils.clear_session(free_memory=False)
            keras.utils.set_random_seed(0)
            data = ks.NoiseScaleBatches(x, y, 4, updates=5, most=32, batch_sizes=sizes)
            inputs = keras.Input((3,))
            model = ks.Model(inputs, layers.Dense(3, kernel_initializer="zeros")(inputs))
            model.compile(keras.optimizers.SGD(0.05, 0.9), "mse", ghost_batch_size=2)
            log = keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, found: logs.update({epoch: dict(found)})
            )
            scale = ks.GradientNoiseScale(batches=data)
            callbacks = [Checkpoint(tmp_path / folder, every_steps=1), scale, log, *stops]
            with contextlib.suppress(KeyboardInterrupt):
                model.fit(data, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
            sizes = data.batch_sizes
        return model, logs, data.batch_sizes

    stop = Stop(8)  # After three of the five steps of the second epoch.
    stop.begun = Position()
    whole, parts, two = trained("whole"), trained("parts", ([stop], 4)), trained("two", ([], 2))
    for one in (parts, two):
        assert_equal(values(whole[0]), values(one[0]))
        assert whole[1:] == one[1:]
    sizes = list(whole[2].values())
    assert sizes[1] > sizes[0] and sizes[2] != sizes[1]  # They do follow.

    def further(**given):
        data = ks.NoiseScaleBatches(x, y, 4, updates=5, **given)
        callbacks = [Checkpoint(tmp_path / "parts"), ks.GradientNoiseScale(batches=data)]
        return whole[0].fit(data, epochs=5, shuffle=False, verbose=0, callbacks=callbacks)

    with pytest.raises(ValueError, match="`batch_sizes` must be those of the training"):
        further()
    assert further(batch_sizes=whole[2]).epoch == [4]
