"""Checkpoint: a training that is interrupted anywhere ends with the same bits and the same logs."""

import keras
import pytest
from support.nets import LOSS, assert_equal, images, standard_net, values

import keras_smoothout as ks
from keras_smoothout.callbacks import Checkpoint

TENSORFLOW = keras.backend.backend() == "tensorflow"
EXAMPLES, BATCH, EPOCHS = 40, 12, 3  # Four steps in an epoch, the last one smaller.


class Stop(keras.callbacks.Callback):
    """Ctrl-C at a step of the whole training, counted from 0, or inside a validation."""

    def __init__(self, at=None, validation=None):
        super().__init__()
        self.at, self.validation, self.seen, self.tests = at, validation, 0, 0

    def on_train_batch_end(self, batch, logs=None):
        if self.seen == self.at:
            raise KeyboardInterrupt
        self.seen += 1

    def on_test_begin(self, logs=None):
        if self.tests == self.validation:
            raise KeyboardInterrupt
        self.tests += 1


def compiled(optimizer=None, plain=False, **options):
    net = standard_net()
    model = net if plain else ks.wrap(net)
    optimizer = optimizer or ks.Lookahead(ks.SmoothOut("adam", radius=0.01), sync_period=3)
    model.compile(optimizer, LOSS, metrics=["accuracy"], **options)
    return model


def data_of(kind):
    """Data of a kind, and what `fit` needs with it. It is made again after an interruption."""
    x, y = images(EXAMPLES)
    in_order = {"shuffle": False}  # By `fit`, which would warn.
    if kind == "epochs":
        data = ks.Epochs(x, y, BATCH, seed=3)
        return {"x": data, "steps_per_epoch": data.steps_per_epoch} | in_order
    if kind == "growing":
        return {"x": ks.WarmUpBatches(x, y, {0: 6, 5: BATCH}), "steps_per_epoch": 4} | in_order
    if kind == "dataset":
        import tensorflow as tf

        rows = tf.data.Dataset.from_tensor_slices((x, y))
        return {
            "x": rows.shuffle(EXAMPLES, 5, reshuffle_each_iteration=False).batch(BATCH)
        } | in_order
    if kind == "finite":
        return {"x": Finite()}
    return {"x": x, "y": y, "batch_size": BATCH}  # Shuffled by `fit`.


class Finite(keras.utils.PyDataset):
    """Batches that `fit` orders by Python's global random numbers."""

    def __init__(self):
        super().__init__()
        self.examples = images(EXAMPLES)

    def __len__(self):
        return -(-EXAMPLES // BATCH)

    def __getitem__(self, index):
        return tuple(array[index * BATCH : (index + 1) * BATCH] for array in self.examples)


def fit(model, kind, checkpoint, *callbacks, epochs=EPOCHS, **options):
    given = data_of(kind) | {"validation_data": images(16, 1), "verbose": 0} | options
    return model.fit(epochs=epochs, callbacks=[*callbacks, checkpoint], **given).history


def interrupted(folder, kind, stops, make=compiled, epochs=EPOCHS, **options):
    """A training that is begun again after each of the `stops`; the model and all of its logs."""
    history = {}
    for stop in [*stops, None]:
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model, checkpoint = make(), Checkpoint(folder, **{"every_steps": 1} | options)
        log = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: history.update({epoch: logs})
        )
        try:
            fit(model, kind, checkpoint, log, *([stop] if stop else []), epochs=epochs)
            assert stop is None
        except KeyboardInterrupt:
            assert stop is not None
    return model, history


@pytest.mark.parametrize("kind", ["epochs", "growing", "arrays", "finite", "dataset"])
def test_interrupted_inside_epochs_is_uninterrupted_to_the_bit(tmp_path, kind):
    stops = [Stop(2), Stop(3), Stop(validation=0), Stop(1)]  # Of what is left, each time.
    whole, logs = interrupted(tmp_path / "whole", kind, [])
    parts, same = interrupted(tmp_path / "parts", kind, stops)
    assert_equal(values(whole), values(parts))
    assert logs == same and sorted(logs) == [0, 1, 2]
    assert int(parts.optimizer.iterations) == 12
