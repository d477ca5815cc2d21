"""Every argument of every public object refuses wrong values, by its name and what it received.

The table is generated: from the signatures of the methods, and from one valid call of all else. A
new argument is in it by its default, whose type says what is wrong for it.
"""

import math

import keras
import numpy as np
import pytest
from keras.optimizers import SGD

import keras_smoothout as ks
from keras_smoothout import methods, scaling, schedules
from training.methods import arguments

NUMBERS = (-0.1, math.nan, math.inf, 1e39, 10**400, "0.1", True, None, [0.1], np.float32(0.1))
COUNTS = (0, -1, 1.5, True, "1", np.int64(2), 10**100)
WRONG = {  # The type of a valid value: what is none.
    float: NUMBERS,
    int: COUNTS,
    bool: ("no", 0, None),
    str: ("other", None, 3, np.array(["weight"])),
    tuple: ("gamma", 3, None, [1], b"gamma"),
}
MORE = {  # Arguments with a limit of their own, or with other values that are right.
    "slow_step_size": (*NUMBERS, 1.1),
    "momentum": (*NUMBERS, 1.1),
    "beta_1": (*NUMBERS, 1.5),
    "beta_2": (*NUMBERS, 1.5),
    "alpha": (*NUMBERS, 1.5),
    "partial": (*NUMBERS, 0.6),
    "seed": (1.5, True, None, "1"),
    "start": COUNTS[1:],
    "examples": tuple(v for v in COUNTS if v is not None),
    "milestones": (5, "5", None, (5.0,), ("5",), (9,), (5, 4)),
    "batch_sizes": (8, None, "8", [8], {}, {1: 2}, {0: 0}),
    "rule": ("other", -1.0, math.nan, None),
}
X, Y = np.ones((9, 2)), np.ones(9)
RECIPE = scaling.Recipe(8, 0.1, 9, (5,))
CALLS = {  # Objects, and a valid call of each.
    ks.GhostBatchNormalization: {"ghost_batch_size": 8, "momentum": 0.9, "epsilon": 0.1},
    schedules.ConstantRadius: {"radius": 0.1},
    schedules.AnnealedRadius: {"radius": 0.1, "decay": 0.5},
    schedules.TanhRadius: {"radius": 0.1, "total_steps": 9, "steepness": 1.0},
    scaling.linear_scaling: {"batch_size": 8, "base_batch_size": 4},
    scaling.sqrt_scaling: {"batch_size": 8, "base_batch_size": 4},
    scaling.random_matrix_scaling: {
        "batch_size": 8,
        "base_batch_size": 4,
        "outlier": 1.0,
        "variance": 1.0,
        "examples": 64,
        "adaptive": False,
    },
    scaling.Recipe: {"batch_size": 8, "learning_rate": 0.1, "epochs": 9, "milestones": (5,)},
    RECIPE.for_batch_size: {"batch_size": 64, "rule": "sqrt", "regime_adaptation": True},
    RECIPE.updates: {"examples": 64},
    RECIPE.schedule: {"examples": 64, "decay": 0.5},
    ks.WarmUpBatches: {"x": X, "y": Y, "batch_sizes": {0: 2}, "seed": 3, "start": 3},
    ks.DistanceFromInit: {"points_per_decade": 3},
}


def rows():
    """Rows (call, name, valid value): one for each argument."""
    for row in methods.METHODS.values():
        for name, default in arguments(row.cls).items():
            yield pytest.param(
                lambda cls=row.cls, **wrong: cls(SGD(), **wrong),
                name,
                default,
                id=f"{row.cls.__name__}-{name}",
            )
    for cls in methods.BASES.values():
        for name, default in arguments(cls).items():
            yield pytest.param(cls, name, default, id=f"{cls.__name__}-{name}")
    for call, valid in CALLS.items():
        for name, value in valid.items():
            if not isinstance(value, np.ndarray):
                yield pytest.param(
                    lambda call=call, valid=valid, **wrong: call(**valid | wrong),
                    name,
                    value,
                    id=f"{call.__name__}-{name}",
                )


@pytest.mark.parametrize(("call", "name", "valid"), list(rows()))
def test_a_wrong_value_is_refused_by_name(call, name, valid):
    call(**{name: valid})
    values = MORE.get(name) or WRONG[type(valid)]
    if name == "seed" and valid == 3:  # Of data: no negative ones.
        values = COUNTS[1:]
    for value in values:
        with pytest.raises(ValueError) as error:
            call(**{name: value})
        message = str(error.value)
        assert name in message.replace("`", "").split("Received")[0], message
        shown = repr(value) if not isinstance(value, dict) else name
        assert "Received: " in message and (shown in message or f"{value}" in message), message


def test_a_numpy_number_is_told_its_cure():
    with pytest.raises(ValueError) as error:
        ks.SAM("sgd", np.float32(0.1))
    assert "`rho.item()`" in str(error.value)


@pytest.mark.parametrize("row", methods.METHODS.values(), ids=methods.METHODS)
def test_what_is_common_to_all_optimizers_is_the_inner_ones(row):
    with pytest.raises(ValueError) as error:
        row.cls(SGD(), clipnorm=1.0)
    assert f"{row.cls.__name__}(keras.optimizers.SGD(0.1, clipnorm=1.0" in str(error.value)
    for inner in (None, "sgdd", 3, SGD):
        with pytest.raises(ValueError) as error:
            row.cls(inner)
        assert "inner=None" in str(error.value) or str(inner) in str(error.value)
    with pytest.raises(ValueError) as error:
        row.cls(keras.optimizers.LossScaleOptimizer(SGD()))
    assert "`LossScaleOptimizer`" in str(error.value)
