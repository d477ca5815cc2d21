"""The method battery: what every optimizer of the package's tables keeps to.

It goes by the tables `keras_smoothout.methods.METHODS` and `BASES`, so a new method is tested here
by its row alone.
"""

import functools
import json
import types

import keras
import numpy as np
import pytest
from support.contract import (
    BASES,
    BATCH,
    COPIED,
    METHODS,
    STEPS,
    alone,
    arrays,
    close,
    compiled,
    contract_net,
    examples,
    fit,
    optimizer_of,
    same,
)
from support.nets import LOSS, assert_equal, sgd, values

import keras_smoothout as ks
from keras_smoothout.asks import Asks

# What Keras' own step trains, which TensorFlow traces twice.
PLAIN = [name for name, cls in BASES.items() if not issubclass(cls, Asks)]


def restore_dropout(model, saved):
    """Put back the state of the dropout layers, which Keras does not save."""
    for variable, value in zip(model.variables, saved, strict=False):
        if "seed_generator" in variable.path:
            variable.assign(value)


@functools.cache
def _run(method, folder):
    run = types.SimpleNamespace(
        method=method, model=folder / "model.keras", weights=folder / ".weights.h5", traces=[]
    )
    traces = []
    model = compiled(method)
    run.start = values(model)
    train_step = model.train_step

    def traced(*args):
        traces.append(1)
        return train_step(*args)

    model.train_step = traced
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: run.traces.append(len(traces))
    )
    fit(model, callbacks=[count])
    run.half = values(model)
    del model.train_step
    model.save(run.model)
    model.save_weights(run.weights)
    fit(model, 1, 1)
    run.end = values(model)
    return run


@pytest.fixture(params=[*METHODS, *BASES], scope="module")
def method(request):
    """Each optimizer in turn: all tests of one, then all of the next."""
    return request.param


@pytest.fixture(params=METHODS, scope="module")
def wrapper(request):
    """Each optimizer around another in turn."""
    return request.param


@pytest.fixture
def run(method, tmp_path_factory):
    """A run of two epochs that was never interrupted, and what it saved after the first."""
    folder = tmp_path_factory.getbasetemp() / f"contract_{method}"
    folder.mkdir(exist_ok=True)
    return _run(method, folder)


def test_config_round_trip(method):
    optimizer = optimizer_of(method)
    config = json.dumps(keras.optimizers.serialize(optimizer))
    again = keras.optimizers.deserialize(json.loads(config))
    assert type(again) is type(optimizer)
    assert json.dumps(keras.optimizers.serialize(again)) == config


def test_config_round_trip_with_the_inner_optimizer(wrapper):
    inner = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(0.1, 100), weight_decay=0.01, clipnorm=1.0
    )
    optimizer = METHODS[wrapper](inner)
    config = json.dumps(keras.optimizers.serialize(optimizer))
    again = keras.optimizers.deserialize(json.loads(config))
    assert json.dumps(keras.optimizers.serialize(again)) == config
    while not isinstance(optimizer, keras.optimizers.AdamW):
        assert type(again) is type(optimizer)
        assert isinstance(again, ks.Method)
        optimizer, again = optimizer.inner, again.inner
    assert again.get_config() == inner.get_config()


def test_training_changes_every_variable(run):
    # Or the equalities below would hold of a run that does nothing.
    for i, variable in enumerate(contract_net().variables):
        assert np.any(run.start[i] != run.half[i]), variable.path
        assert np.any(run.half[i] != run.end[i]), variable.path


def test_no_retrace(run):
    once = keras.backend.backend() == "tensorflow" and run.method not in PLAIN
    assert run.traces[0] == 1 if once else run.traces[0] > 0
    assert run.traces == STEPS * run.traces[:1]


def test_a_run_repeats_and_validation_does_not_disturb_it(run):
    model = compiled(run.method)
    fit(model, 2, validation_data=examples(8))
    assert_equal(values(model), run.end)


def test_save_then_resume(run):
    model = keras.saving.load_model(run.model)
    restore_dropout(model, run.half)
    assert_equal(values(model), run.half)
    model.predict(examples(8)[0], verbose=0)
    fit(model, 1, 1)
    assert_equal(values(model), run.end)


def test_load_weights(run):
    # All the state there is, so training goes on as in the test before.
    model = compiled(run.method, seed=1)
    model.optimizer.build(model.trainable_variables)
    model.load_weights(run.weights)
    restore_dropout(model, run.half)
    assert_equal(values(model), run.half)


@functools.cache
def plain():
    """Two epochs by the inner optimizer alone, as Keras trains."""
    model = contract_net()
    model.compile(sgd(), LOSS, metrics=["accuracy"])
    return fit(model, 2).history, arrays(model.variables)


def test_reduces_to_its_inner_optimizer(wrapper):
    model = compiled(wrapper, strength=0.0)
    history = fit(model, 2).history
    expected, variables = plain()
    # TensorFlow rewrites the graph of a stack of one copy in another way.
    close(alone(model), variables, 1e-6) if wrapper in COPIED else same(alone(model), variables)
    for name, numbers in expected.items():
        assert history[name] == pytest.approx(numbers, rel=1e-5)


@pytest.mark.tensorflow  # On JAX, a step by single operations takes half a minute.
@pytest.mark.exact
def test_eager_equals_graph(method):
    weights = []
    for eagerly in (True, False):
        model = compiled(method, dropout=0.0, run_eagerly=eagerly)
        x, y = examples(BATCH)
        for _ in range(2):
            model.train_on_batch(x, y)
        weights.append(arrays([*model.variables, *model.optimizer.variables]))
    assert_equal(*weights)


@pytest.mark.parametrize("base", PLAIN)
def test_the_gradient_of_an_embedding(base):
    # TensorFlow hands its rows to the optimizer of a plain model, and a whole gradient to ours.
    words, y = np.array([[1, 2], [2, 2], [4, 1]]), np.array([[0.0], [1.0], [2.0]])
    weights = []
    for inside in (False, True):
        keras.utils.set_random_seed(0)
        net = [keras.layers.Embedding(6, 3), keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((2,)), *net])
        optimizer = optimizer_of(base)
        model = ks.wrap(model) if inside else model
        model.compile(ks.SmoothOut(optimizer, radius=0.0) if inside else optimizer, "mse")
        model.optimizer.build(model.trainable_variables)
        for _ in range(3):
            model.train_on_batch(words, y)
        weights.append(model.get_weights())
    close(*weights, 1e-5)
