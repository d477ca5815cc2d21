"""Interruption: signals are heard between steps, the state is saved, and handlers are put back."""

import signal

import keras
import numpy as np
import pytest
from keras import layers

import keras_smoothout as ks
from keras_smoothout.callbacks import Checkpoint, Interruption
from keras_smoothout.checkpoint_files import checkpoints, position_of

X, Y = np.ones((12, 3), "float32"), np.ones((12, 1), "float32")
NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers():
    """Python's own, which must be there again after each training."""
    kept = [signal.getsignal(number) for number in NUMBERS]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    found = [signal.getsignal(number) for number in NUMBERS]
    for number, handler in zip(NUMBERS, kept, strict=True):
        signal.signal(number, handler)
    assert found == [signal.default_int_handler, signal.SIG_DFL]


class Send(keras.callbacks.Callback):
    """Send a signal at the second call of a hook."""

    def __init__(self, number, hook="on_train_batch_end", times=1):
        super().__init__()
        self.calls = 0

        def send(*_, **__):
            self.calls += 1
            for _ in range(times if self.calls == 2 else 0):
                signal.raise_signal(number)

        setattr(self, hook, send)


def compiled(wrap=False):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model = ks.wrap(model) if wrap else model
    model.compile(keras.optimizers.SGD(0.1, 0.9), "mse")
    return model


def fit(model, callbacks, epochs=3):
    model.fit(X, Y, 4, epochs, verbose=0, validation_data=(X, Y), callbacks=callbacks)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_saves_and_ends(tmp_path, number, error, first, wrap):
    """Wherever the callback stands in the list."""
    checkpoint = Checkpoint(tmp_path)
    callbacks = [Send(number), checkpoint]
    callbacks.insert(0 if first else 2, Interruption(checkpoint))
    model = compiled(wrap)
    with pytest.raises(error) as ended:
        fit(model, callbacks)
    assert error is KeyboardInterrupt or ended.value.code == 143
    assert [tuple(position_of(path)) for path in checkpoints(tmp_path)] == [(0, 2)]
    assert checkpoint.saved and int(model.optimizer.iterations) == 2
    fit(model, [checkpoint, Interruption(checkpoint)])
    assert int(model.optimizer.iterations) == 9


@pytest.mark.parametrize(
    ("within", "at", "left"),
    [pytest.param("a trace", 3, (1, 0), marks=pytest.mark.jax), ("a step", 2, (0, 2))],
)
def test_a_signal_within_a_step_disturbs_nothing(tmp_path, within, at, left):
    # On JAX the model is whole neither while a step is traced, as for a smaller last batch, nor
    # while one runs, and Keras' `Callback.model` puts what it holds into the variables.
    began, sent, checkpoint = [], [], Checkpoint(tmp_path, every_steps=1)
    begin = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda *_, **__: began.append(1))

    def send(here):
        if here == within and len(began) == at and not sent:
            sent.append(1)
            signal.raise_signal(signal.SIGTERM)

    class Sending(layers.Dense):
        def call(self, inputs):
            send("a trace")
            return super().call(inputs)

    keras.utils.set_random_seed(0)
    model = ks.wrap(keras.Sequential([keras.Input((3,)), layers.Dropout(0.2), Sending(1)]))
    model.compile(ks.SmoothOut(keras.optimizers.SGD(0.1, 0.9)), "mse", metrics=["mae"])
    model.make_train_function()
    step = model.train_function

    def sending(*given):
        result = step(*given)
        send("a step")
        return result

    model.train_function = sending
    with pytest.raises(SystemExit):
        model.fit(X, Y, 5, 2, verbose=0, callbacks=[begin, checkpoint, Interruption(checkpoint)])
    assert sent and int(model.optimizer.iterations) == at
    assert position_of(checkpoints(tmp_path)[-1]) == left


@pytest.mark.parametrize(
    ("hook", "options", "left"),
    [
        ("on_epoch_begin", {}, (1, 0)),
        ("on_test_batch_end", {"every_steps": 2}, (0, 3)),  # At once: it is saved.
        ("on_test_batch_end", {}, (1, 0)),  # After the epoch.
        ("on_epoch_end", {"every_steps": 2}, (2, 0)),
    ],
)
def test_a_signal_outside_of_steps_loses_nothing(tmp_path, hook, options, left):
    checkpoint = Checkpoint(tmp_path, **options)
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), [checkpoint, Interruption(checkpoint), Send(signal.SIGINT, hook)])
    assert position_of(checkpoints(tmp_path)[-1]) == left


def test_without_a_checkpoint_the_training_ends_after_the_step():
    model = compiled()
    with pytest.raises(KeyboardInterrupt):
        fit(model, [Interruption(), Send(signal.SIGINT)])
    assert int(model.optimizer.iterations) == 2


def test_a_second_signal_does_not_wait():
    steps = []

    class Steps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append(batch)

    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), [Interruption(), Send(signal.SIGINT, times=2), Steps()])
    assert steps == [0]


def test_a_handler_of_the_users_own_is_called_and_kept():
    heard = []

    def own(number, frame):
        heard.append(number)

    signal.signal(signal.SIGTERM, own)
    with pytest.raises(SystemExit):
        fit(compiled(), [Interruption(), Send(signal.SIGTERM)])
    assert heard == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is own
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_signal_that_is_ignored_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    model = compiled()
    fit(model, [Interruption(), Send(signal.SIGINT)])
    assert int(model.optimizer.iterations) == 9
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.SIG_IGN


def test_after_a_fit_that_failed_signals_are_heard():
    """Its `on_train_end` is never called, and its handlers are still there."""

    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fit(compiled(), [Interruption(), Fail()])
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_signals_that_the_program_notes_itself(tmp_path):
    noted, checkpoint = [], Checkpoint(tmp_path)
    send = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: noted.append(15))
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), [send, checkpoint, Interruption(checkpoint, noted)])
    assert position_of(checkpoints(tmp_path)[-1]) == (0, 1) and noted == [15]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"checkpoint": "runs/a"}, "checkpoint=runs/a"), ({"noted": 15}, "noted=15")],
)
def test_wrong_values(wrong, words):
    with pytest.raises(ValueError, match=words):
        Interruption(**wrong)
