"""Ctrl-C within a step on JAX, where the model's memory is given away: the weights are kept."""

import signal

import keras
import numpy as np
import pytest
from keras import layers

import keras_smoothout as ks

pytestmark = pytest.mark.jax
X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
Y = np.arange(12) % 3
CALLS = {  # What is interrupted, and the function of Keras that its step is.
    "fit": (lambda model: model.fit(X, Y, 4, verbose=0), "train_function"),
    "train_on_batch": (lambda model: model.train_on_batch(X, Y), "train_function"),
    "evaluate": (lambda model: model.evaluate(X, Y, 4, verbose=0), "test_function"),
    "predict": (lambda model: model.predict(X, 4, verbose=0), "predict_function"),
    "validation": (
        lambda model: model.fit(X, Y, 4, validation_data=(X, Y), verbose=0),
        "test_function",
    ),
}


@pytest.fixture(autouse=True)
def python_handles_interrupts():
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, kept)


def trained():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    x = layers.BatchNormalization()(layers.Dense(4)(inputs))
    model = ks.Model(inputs, layers.Dense(3)(x))
    model.compile(ks.SmoothOut("adam"), keras.losses.SparseCategoricalCrossentropy(True))
    for name in CALLS:
        CALLS[name][0](model)
    return model


def values(model):
    return [v.numpy() for v in [*model.variables, *model.optimizer.variables]]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_around_the_giving_away_of_memory_keeps_the_model_whole(name, when):
    call, function = CALLS[name]
    model, steps = trained(), []
    kept, before = getattr(model, function), values(model)

    def interrupted(*args):
        if when == "before":
            signal.raise_signal(signal.SIGINT)
        result = kept(*args)
        if when == "after":  # The old memory is gone, and Keras does not know of the new one yet.
            signal.raise_signal(signal.SIGINT)
        steps.append(when)
        return result

    setattr(model, function, interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(model)
    assert len(steps) == 1  # The step was ended, and no other was begun.
    trains = function == "train_function" or name == "validation"
    changed = [np.any(a != b) for a, b in zip(values(model), before, strict=True)]
    assert any(changed) == trains
    setattr(model, function, kept)
    for again in CALLS.values():
        again[0](model)


def test_a_second_ctrl_c_does_not_wait():
    model = trained()

    def stuck(*args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("The second one was ignored.")

    model.test_function = stuck
    with pytest.raises(KeyboardInterrupt):
        model.evaluate(X, Y, 4, verbose=0)
    assert all(np.all(np.isfinite(v)) for v in values(model))


def test_a_handler_of_the_users_own_is_left_alone():
    heard, model = [], trained()
    signal.signal(signal.SIGINT, lambda *args: heard.append(args))
    kept = model.test_function

    def signalled(*args):
        signal.raise_signal(signal.SIGINT)
        return kept(*args)

    model.test_function = signalled
    try:
        model.evaluate(X, Y, 12, verbose=0)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert len(heard) == 1
