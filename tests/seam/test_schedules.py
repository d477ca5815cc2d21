"""Schedules of the strength over the iterations."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from support.problems import golden

from keras_smoothout.schedules import AnnealedRadius, ConstantRadius, TanhRadius

GOLDEN = golden("smoothout_analytic")
LAWS = GOLDEN["expected"]["strength_schedules"]
SCHEDULES = [
    ConstantRadius(0.02),
    AnnealedRadius(0.02, decay=0.7),
    TanhRadius(0.02, total_steps=100, steepness=4.0),
]


# `expected` (closed forms) are factors on the radius. The tanh of a float32 close to -1 leaves 6e-8
# of 1 in the sum, and the decay is a power of at most 1000.
@pytest.mark.parametrize(
    ("schedule", "law"),
    [
        (ConstantRadius(0.3), "constant"),
        (AnnealedRadius(0.3), "anneal_index_055"),
        (TanhRadius(0.3, LAWS["T"]), "tanh_scale_10"),
        (TanhRadius(0.3, LAWS["T"], steepness=4.0), "tanh_scale_4"),
    ],
)
def test_factors_of_the_reference(schedule, law):
    for t, factor in zip(LAWS["t"], LAWS[law], strict=True):
        for step in (t, ops.convert_to_tensor(t, "int32")):
            np.testing.assert_allclose(schedule(step), 0.3 * factor, rtol=2e-6, atol=5e-8)


def test_shapes_of_the_curves():
    # (1 + t)^(-1) of the variance at decay=1: at t = 3 the radius has halved.
    assert float(AnnealedRadius(0.2, decay=1.0)(3)) == pytest.approx(0.1)
    assert float(AnnealedRadius(0.2, decay=0.0)(1000)) == pytest.approx(0.2)
    # Half way at half time, point symmetric about it: r(T/2 + t) + r(T/2 - t) = radius.
    tanh = TanhRadius(0.2, total_steps=200)
    assert float(tanh(100)) == pytest.approx(0.1)
    assert float(tanh(80) + tanh(120)) == pytest.approx(0.2)
    assert float(tanh(80)) < float(tanh(100)) < float(tanh(120))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_value_is_a_float32_scalar(schedule):
    value = ops.convert_to_tensor(schedule(ops.convert_to_tensor(7, "int32")))
    assert value.shape == () and keras.backend.standardize_dtype(value.dtype) == "float32"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_config_round_trip(schedule):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(schedule)
    assert copy.get_config() == schedule.get_config()
    for t in (0, 10, 60):
        np.testing.assert_array_equal(copy(t), schedule(t))
