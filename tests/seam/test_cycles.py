"""Learning rates for averages and ensembles: those of the papers' codes."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from support.problems import golden

from keras_smoothout.schedules import Cyclic, Join, SWALearningRate, Triangular

GOLDEN, FGE, AVERAGING = golden("cycles")["expected"], golden("fge"), golden("averaging")
SCHEDULES = [
    SWALearningRate(0.1, 0.05, start=40),
    Cyclic(0.01, 0.05, period=7),
    Triangular(0.01, 0.05, period=8),
    Join(SWALearningRate(0.1, 0.05, 30), Triangular(0.01, 0.05, period=8), steps=30),
    Join(0.3, 0.2, steps=5),
]


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("swa")])
def test_swa_of_the_reference(name):
    # One step an epoch, as in the file.
    given = dict(part.split("=") for part in name.split("|")[1:])
    schedule = SWALearningRate(float(given["lr"]), float(given["swa_lr"]), int(given["start"]))
    rates = [float(schedule(step)) for step in range(int(given["epochs"]))]
    np.testing.assert_allclose(rates, GOLDEN[name], rtol=2e-6)


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("fge")])
def test_triangle_at_quarters_of_epochs(name):
    given = dict(part.split("=") for part in name.split("|")[1:])
    schedule = Triangular(float(given["a2"]), float(given["a1"]), 4 * int(given["cycle"]))
    rates = [float(schedule(step)) for step in range(24)]
    np.testing.assert_allclose(rates, np.ravel(GOLDEN[name]), rtol=2e-6, atol=1e-8)


def test_triangle_of_the_reference_and_its_members():
    inputs, steps = FGE["inputs"], FGE["inputs"]["iterations"]
    period = inputs["c"] * steps
    schedule = Triangular(inputs["a2"], inputs["a1"], period)
    rates = np.array([float(schedule(step)) for step in range(inputs["epochs"] * steps)])
    np.testing.assert_allclose(rates, np.ravel(FGE["expected"]["rates"]), rtol=2e-6, atol=1e-8)
    # A member is taken after `period // 2` updates, and then once in a cycle.
    updates = [(epoch + 1) * steps for epoch in FGE["expected"]["member_epochs"]]
    assert updates == list(range(period // 2, len(rates) + 1, period))


def test_cyclic_of_the_reference():
    given = AVERAGING["inputs"]["cyclic"]
    schedule = Cyclic(given["a2"], given["a1"], given["c"])
    rates = [float(schedule(step)) for step in range(11)]
    np.testing.assert_allclose(rates, AVERAGING["expected"]["cyclic_rate"], rtol=2e-6)
    assert rates[4] == rates[9] == pytest.approx(given["a2"])  # Averaged after updates 5 and 10.


def test_one_after_the_other():
    first, second = SWALearningRate(0.1, 0.05, 10), Cyclic(0.01, 0.05, 4)
    joined = Join(first, second, steps=10)
    assert [float(joined(t)) for t in range(10)] == [float(first(t)) for t in range(10)]
    assert [float(joined(t)) for t in range(10, 20)] == [float(second(t)) for t in range(10)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_values_and_config(schedule):
    value = ops.convert_to_tensor(schedule(ops.convert_to_tensor(7, "int32")))
    assert value.shape == () and keras.backend.standardize_dtype(value.dtype) == "float32"
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(schedule)
    assert json.dumps(keras.saving.serialize_keras_object(copy)) == json.dumps(config)
    for t in (0, 10, 60):
        np.testing.assert_array_equal(copy(t), schedule(t))
    optimizer = keras.optimizers.SGD(schedule)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert float(again.learning_rate) == float(schedule(0))
