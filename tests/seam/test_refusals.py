"""Every argument that the package checks refuses wrong values, by its name and what it received.

The table is generated: from the signatures of the methods, and from one valid call of all else. A
new argument is in it by its default, whose type says what is wrong for it. The last test reads the
source: what it checks has a row here.
"""

import ast
import functools
import inspect
import math
import pathlib
import re
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras.optimizers import SGD
from support.contract import BASES, COPIED, METHODS, contract_net, optimizer_of
from support.copies import quadratic_copies
from support.problems import quadratic

import keras_smoothout as ks
from keras_smoothout import landscape, methods, scaling, schedules
from keras_smoothout.landscape import style
from training.methods import arguments

NUMBERS = (-0.1, math.nan, math.inf, 1e39, 10**400, "0.1", True, None, [0.1], np.float32(0.1))
COUNTS = (0, -1, 1.5, True, "1", np.int64(2), 10**100)
WRONG = {  # The type of a valid value: what is none.
    float: NUMBERS,
    int: COUNTS,
    bool: ("no", 0, None),
    str: ("other", None, 3, np.array(["weight"])),
    tuple: ("gamma", 3, None, [1], b"gamma"),
    type(None): (object(),),
}
FROM_0 = tuple(value for value in COUNTS if value != 0)
FROM_2 = (*COUNTS, 1)
STRENGTHS = (*NUMBERS, lambda step: 0.1)  # A schedule is welcome, another function is not.
MORE = {  # Arguments with a limit of their own, or with other values that are right.
    "radius": STRENGTHS,
    "rho": STRENGTHS,
    "step_size": STRENGTHS,
    "scope": STRENGTHS,
    "coupling": STRENGTHS,
    "damping": STRENGTHS,
    "langevin_steps": FROM_0,
    "automatic_after": FROM_0,
    "averaging": (*NUMBERS, 1.1),
    "inner_momentum": (*NUMBERS, 1.1),
    "slow_step_size": (*NUMBERS, 1.1),
    "momentum": (*NUMBERS, 1.1),
    "beta_1": (*NUMBERS, 1.5),
    "beta_2": (*NUMBERS, 1.5),
    "alpha": (*NUMBERS, 1.5),
    "partial": (*NUMBERS, 0.6),
    "seed": (1.5, True, None, "1"),
    "milestones": (5, "5", None, (5.0,), ("5",), (9,), (5, 4)),
    "batch_sizes": (8, None, "8", [8], {}, {1: 2}),
    "rule": ("other", -1.0, math.nan, None),
    "warmup_epochs": FROM_0,
    "every_minutes": tuple(value for value in NUMBERS if value is not None),
    "mode": ("other", 3),
    "Epochs-seed": FROM_0,
    "share": (*NUMBERS, 0.0, 1.1),
    "PersistentBatches-seed": FROM_0,
    "PersistentBatches-start": FROM_0,
    "WarmUpBatches-seed": FROM_0,
    "WarmUpBatches-start": FROM_0,
    "NoiseScaleBatches-seed": FROM_0,
    "NoiseScaleBatches-most": (*(c for c in COUNTS if c is not None), 1),
    "NoiseScaleBatches-batch_sizes": (8, "8", [8], {}, {1: 2}),
    "KFAC-decay": (*NUMBERS, 1.0),
    "norm_constraint": tuple(value for value in NUMBERS if value is not None),
    "GradientNoiseScale-decay": (*NUMBERS, 1.0),
    "sample-draw": FROM_0,
    "AWP-gamma": STRENGTHS,
    "LookSAM-alpha": NUMBERS,
    "sparsity": (*NUMBERS, 1.0),
    "fraction": (*NUMBERS, 1.1),
    "RigL-period": FROM_2,
    "lmbda": (*NUMBERS, 1.5),
    "ess": (*(value for value in NUMBERS if value is not None), 0.5),
    "SWA-start": FROM_0,
    "Snapshots-start": FROM_0,
    "LAWA-start": FROM_0,
    "ema_decay": (*NUMBERS, 1.1),
    "interpolation": (*NUMBERS, 1.1),
    "memory": (*NUMBERS, 1.1),
    "data": (iter([1.0]),),
    "first": STRENGTHS,
    "second": STRENGTHS,
    "directory": (3, b"folder", True),
    "draws": FROM_2,
    "grid": FROM_2,
    "points": FROM_2,
    "probes": FROM_2,
    "products": (*COUNTS, 5),
    "fisher_trace-examples": FROM_2,
    "t": (-0.1, 1.1, math.nan, math.inf),  # Of NumPy, too.
    "q": (*NUMBERS, 1.1),
    "beta": (*NUMBERS, 0.0),
    "gamma": (*NUMBERS, 0.0),
    "step": (*NUMBERS, 0.0, 1.1),
    "floor": (*NUMBERS, 0.0, 1.1),
    "confidence": (*NUMBERS, 1.0),
    "names": ("loss", 3, (1,)),
    "tolerance": tuple(value for value in NUMBERS if value is not None),
    "chance": tuple(value for value in NUMBERS if value is not None),
    "width": tuple(value for value in NUMBERS if value is not None),
}


class Call(NamedTuple):
    """A public class or function, valid values of its arguments, and what comes before them."""

    of: object
    valid: dict
    first: object = tuple


@functools.cache
def objective():
    """An `Objective` of a classifier with four weights."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return landscape.Objective(model, np.eye(2, dtype="float32"), np.arange(2))


def gaussian():
    """A model whose optimizer has a Gaussian around the weights."""
    model = contract_net()
    model.compile(ks.IVON(ess=9.0), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def shallow():
    """A net of one hidden layer, its start, and data."""
    layers = [keras.layers.Dense(2, use_bias=False) for _ in range(2)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    return model, model.get_weights(), np.eye(2), np.arange(2)


def ends():
    """Two other points, and the first one's straight path."""
    return [np.zeros((2, 2))], [np.eye(2)]


X, Y = np.ones((9, 2)), np.ones(9)
A = np.diag([1.0, 2.0, 3.0])
RECIPE = scaling.Recipe(8, 0.1, 9, (5,))
PATH = landscape.Path([[np.zeros(2)], [np.ones(2)]])
GEODESIC = landscape.Geodesic(PATH.points, [np.full(2, -1)])
PROFILE = landscape.Profile(*np.ones((4, 2)))
PLANE = landscape.Plane(np.arange(2), np.arange(2), np.eye(2), np.eye(2), np.zeros((1, 2)))
CALLS = [
    *(Call(r.cls, arguments(r.cls), lambda: (SGD(),)) for r in methods.METHODS.values()),
    *(Call(cls, arguments(cls)) for cls in methods.BASES.values()),
    Call(ks.GhostBatchNormalization, {"ghost_batch_size": 8, "momentum": 0.9, "epsilon": 0.1}),
    Call(ks.Model.compile, {"ghost_batch_size": 8}, lambda: (contract_net(), "sgd", "mse")),
    Call(ks.convert, {"ghost_batch_size": 8}, lambda: (contract_net(),)),
    Call(ks.recalibrate, {"batch_size": 8}, lambda: (contract_net(), np.eye(6))),
    Call(
        ks.find_radius,
        {"scale": "filter", "distribution": "normal", "exclude": ("gamma",), "draws": 2}
        | {"batch_size": 2, "seed": 3, "chance": 9.0},
        lambda: (objective().model, np.eye(2, dtype="float32"), np.arange(2)),
    ),
    Call(
        ks.find_rho,
        {"batch_size": 1, "chance": 9.0, "adaptive": True},
        lambda: (objective().model, np.eye(2, dtype="float32"), np.arange(2)),
    ),
    Call(ks.WarmUpBatches, {"batch_sizes": {0: 2}, "seed": 3, "start": 3}, lambda: (X, Y)),
    Call(
        ks.NoiseScaleBatches,
        {"batch_size": 2, "updates": 3, "most": 9, "batch_sizes": {0: 2}, "seed": 3},
        lambda: (X, Y),
    ),
    Call(ks.GradientNoiseScale, {"decay": 0.9}),
    Call(ks.sample, {"draw": 3}, lambda: (gaussian(),)),
    Call(ks.PersistentBatches, {"share": 0.5, "time": 9.0, "seed": 3, "start": 3}, lambda: (X, Y)),
    Call(ks.DistanceFromInit, {"points_per_decade": 3}),
    Call(ks.Epochs, {"batch_size": 2, "seed": 3, "drop_remainder": True}, lambda: (X, Y)),
    Call(
        ks.callbacks.Checkpoint,
        {"every_epochs": 1, "every_steps": 2, "every_minutes": 1.0, "keep": 2},
        lambda: ("folder",),
    ),
    Call(
        ks.callbacks.Checkpoint,
        {"mode": "min"},
        lambda: ("folder", 1, None, None, 2, "val_loss"),
    ),
    Call(ks.callbacks.Averages, {"data": X, "batch_size": 8}),
    Call(ks.callbacks.Snapshots, {"start": 3, "period": 2, "keep": 2, "directory": "folder"}),
    Call(ks.callbacks.LAWA, {"window": 2, "start": 3, "data": X, "batch_size": 8}),
    Call(ks.Ensemble, {"activation": "softmax"}, lambda: ([contract_net()],)),
    Call(
        ks.greedy_soup,
        {"data": np.eye(6), "batch_size": 8},
        lambda: (model := contract_net(), [model.get_weights()], lambda model: 0.0),
    ),
    Call(schedules.SWALearningRate, {"learning_rate": 0.1, "swa_learning_rate": 0.1, "start": 9}),
    Call(schedules.Cyclic, {"low": 0.1, "high": 0.1, "period": 9}),
    Call(schedules.Triangular, {"low": 0.1, "high": 0.1, "period": 9}),
    Call(schedules.Join, {"first": 0.1, "second": 0.1, "steps": 9}),
    Call(schedules.ConstantRadius, {"radius": 0.1}),
    Call(schedules.AnnealedRadius, {"radius": 0.1, "decay": 0.5}),
    Call(schedules.TanhRadius, {"radius": 0.1, "total_steps": 9, "steepness": 1.0}),
    Call(schedules.WarmUp, {"schedule": 0.1, "warmup_steps": 9, "start": 0.1}),
    Call(schedules.Strided, {"stride": 3}, lambda: (0.1,)),
    Call(ks.Copies, {"copies": 2, "initial": "same"}, lambda: (contract_net(),)),
    Call(schedules.ScaledUntil, {"steps": 9, "factor": 0.5}, lambda: (0.1,)),
    Call(scaling.linear_scaling, {"batch_size": 8, "base_batch_size": 4}),
    Call(scaling.sqrt_scaling, {"batch_size": 8, "base_batch_size": 4}),
    Call(
        scaling.random_matrix_scaling,
        {"batch_size": 8, "base_batch_size": 4, "outlier": 1.0, "variance": 1.0}
        | {"examples": 64, "adaptive": False},
    ),
    Call(
        scaling.Recipe,
        {"batch_size": 8, "learning_rate": 0.1, "epochs": 9, "milestones": (5,)}
        | {"warmup_epochs": 2, "ghost_batch_size": 4},
    ),
    Call(
        scaling.Recipe.for_batch_size,
        {"batch_size": 64, "rule": "sqrt", "regime_adaptation": True},
        lambda: (RECIPE,),
    ),
    Call(scaling.Recipe.updates, {"examples": 64}, lambda: (RECIPE,)),
    Call(scaling.Recipe.schedule, {"examples": 64, "decay": 0.5}, lambda: (RECIPE,)),
    # Landscape.
    Call(
        landscape.Objective,
        {"batch_size": 8, "batch_norm": "evaluation"},
        lambda: (objective().model, X, Y),
    ),
    Call(
        landscape.eigenpairs,
        {"k": 1, "which": "top", "tolerance": 0.1, "basis": 3, "max_products": 9},
        lambda: (A,),
    ),
    Call(landscape.lanczos, {"steps": 2}, lambda: (A,)),
    Call(landscape.density, {"probes": 2, "grid": 9, "width": 0.1}, lambda: (A, 3)),
    Call(landscape.hutchinson, {"probes": 2}, lambda: (A,)),
    Call(landscape.hutch_plus_plus, {"products": 6}, lambda: (A,)),
    Call(
        landscape.expected_sharpness,
        {"radius": 0.1, "distribution": "uniform", "scale": "absolute", "draws": 2}
        | {"exclude": ("gamma",)},
        lambda: (objective(),),
    ),
    Call(landscape.local_energy, {"strength": 0.1, "draws": 2}, lambda: (objective(),)),
    Call(
        landscape.local_entropy,
        {"beta": 1.0, "gamma": 1.0, "step": 0.5, "draws": 2, "temperatures": 1},
        lambda: (objective(),),
    ),
    Call(
        landscape.keskar_sharpness,
        {"radius": 0.1, "iterations": 1, "repeats": 1, "dimensions": 1},
        lambda: (objective(),),
    ),
    Call(landscape.sam_sharpness, {"rho": 0.1, "steps": 1}, lambda: (objective(),)),
    Call(landscape.fisher_trace, {"examples": 2}, lambda: (objective(),)),
    Call(
        landscape.pac_bayes_sigma,
        {"tolerance": 0.9, "draws": 2, "steps": 1},
        lambda: (objective(),),
    ),
    Call(
        landscape.pac_bayes_bound,
        {"confidence": 0.9, "draws": 2},
        lambda: (objective(), objective().weights),
    ),
    Call(
        landscape.shallow_bound,
        {"beta": 1.0, "activation": "erf", "hidden_sigma": 0.1, "passes": 1}
        | {"confidence": 0.9, "seed": 3},
        lambda: shallow(),
    ),
    Call(landscape.kl_inverse, {"q": 0.1, "c": 0.1}),
    Call(landscape.measures, {"names": ("loss",)}, lambda: (objective(),)),
    Call(
        landscape.plane_through,
        {"points": 2, "margin": 0.1},
        lambda: (objective(), *ends()),
    ),
    Call(landscape.Path, {"curve": "bezier"}, lambda: (PATH.points,)),
    Call(landscape.Path.__call__, {"t": 0.5}, lambda: (PATH,)),
    Call(landscape.straight, {"bends": 1}, lambda: (objective(), *ends()[:1])),
    Call(
        landscape.connect,
        {"epochs": 1, "weight_decay": 0.1},
        lambda: (objective(), landscape.straight(objective(), ends()[0])),
    ),
    Call(
        landscape.profile,
        {"points": 2},
        lambda: (objective(), landscape.straight(objective(), ends()[0])),
    ),
    Call(landscape.Geodesic.__call__, {"t": 0.5}, lambda: (GEODESIC,)),
    Call(landscape.match, {"restarts": 1, "seed": 3}, lambda: 2 * (objective().model,)),
    Call(landscape.ways, {"normal": True}, lambda: 2 * (objective().model,)),
    Call(
        landscape.barriers,
        {"points": 2, "quantity": "loss"},
        lambda: (*2 * [objective().model], np.eye(2, dtype="float32"), np.arange(2)),
    ),
    Call(landscape.summary, {"quantity": "loss"}, lambda: (PROFILE,)),
    Call(style.heights, {"quantity": "loss"}, lambda: (PLANE,)),
    Call(landscape.cka, {"batch_size": 2}, lambda: (*2 * [objective().model], np.eye(2))),
    Call(
        landscape.CurvatureLearningRate,
        {"rule": "heavy_ball", "every_epochs": 1, "lanczos_steps": 9, "floor": 0.1, "scale": 1.0},
        lambda: (X, Y),
    ),
    Call(
        landscape.TrackSharpestDirections,
        {"k": 1, "every_epochs": 1, "every_steps": 1, "steps": 1, "tolerance": 0.1},
        lambda: (X, Y),
    ),
    Call(landscape.TrackSharpness, {"every_epochs": 1}, lambda: ("loss", X, Y)),
]
ROWS = [
    pytest.param(call, name, id=f"{call.of.__qualname__}-{name}")
    for call in CALLS
    for name in call.valid
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.of.__qualname__)
def test_valid_values_are_taken(call):
    call.of(*call.first(), **call.valid)


def wrong_values(call, name):
    """Values that are wrong for an argument, by its own row or by the type of a valid one."""
    own = MORE.get(f"{call.of.__qualname__}-{name}", MORE.get(name))
    return WRONG[type(call.valid[name])] if own is None else own


@pytest.mark.parametrize(("call", "name"), ROWS)
def test_a_wrong_value_is_refused_by_name(call, name):
    for value in wrong_values(call, name):
        with pytest.raises(ValueError) as error:
            call.of(*call.first(), **call.valid | {name: value})
        message = str(error.value)
        assert f"`{name}`" in message and f"{name}={value!r}" in message, message


def checked(path):
    """Names of the arguments that a file of the package checks."""
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    checks = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id.startswith("check_")]
    firsts = [c.args[0] for c in checks if c.args]
    return {a.value for a in firsts if isinstance(a, ast.Constant) and isinstance(a.value, str)}


def test_every_argument_that_is_checked_has_a_row():
    # "step of batch_sizes" is in test_callbacks.
    package, found, rows = pathlib.Path(ks.__file__).parent, set(), set()
    for path in package.rglob("*.py"):
        found |= {(path.name, name) for name in checked(path) if name.isidentifier()}
    for call in CALLS:
        for of in inspect.getmro(call.of) if inspect.isclass(call.of) else [call.of]:
            if of.__module__.startswith("keras_smoothout"):
                file = pathlib.Path(inspect.getsourcefile(of)).name
                rows |= {(file, name) for name in call.valid}
    assert len(found) > 80
    # Labels are in test_errors, test_landscape_objective and test_landscape_command; endless data
    # in test_errors and test_recalibrate; weights that do not fit in test_averages, test_ensemble.
    elsewhere = {(file, "y") for file in ("data.py", "__main__.py")}
    elsewhere |= {("recalibrate.py", "data"), ("data.py", "x"), ("weights_of.py", "weights")}
    elsewhere |= {("ensemble.py", "members"), ("ensemble.py", "arrays"), ("soup.py", "snapshots")}
    assert found - rows == elsewhere


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


KEEPING = {"lookahead", "swa", "schedulefree"}
ASKING = "smoothout adasmoothout sam asam msam gnp gsam friendlysam looksam awp kfac".split()
TRANSFORMING = {"entropysgd", "rigl", *KEEPING}
REFUSED = dict.fromkeys(ASKING, {"entropysgd"}) | {  # Outer method: what must not be inside.
    **dict.fromkeys(["schedulefree", "nudgedsgd", "fixedeffectiverate", "rigl"], TRANSFORMING),
    "lookahead": {"rigl"},
    "entropysgd": {"entropysgd", "looksam", "kfac", "ivon", "rigl"},
    "dpsgd": {"entropysgd", "lookahead", "rigl"},
    "noisy": {"entropysgd", "lookahead", "rigl"},
}
NEVER = (  # In neither order.
    {"entropysgd", "looksam"},
    {"entropysgd", "kfac"},
    {"entropysgd", "ivon"},
    {"entropysgd", "rigl"},
    {"lookahead", "rigl"},
    {"schedulefree", "rigl"},
)
NOISY = {"noisy": lambda inner: ks.SmoothOut(inner, 0.1, denoise=False)}
CLASSES = {name: row.cls for name, row in methods.METHODS.items()} | methods.BASES
OUTER = [*METHODS, "noisy"]


def inside(name):
    """The optimizer of a row, to go inside of another."""
    return around(name, SGD(0.01)) if name in METHODS else optimizer_of(name)


def around(name, inner):
    """The method of a row; without K-FAC's layers, of which the quadratic problems have none."""
    return (METHODS | NOISY)[name](*([inner, 0.0] if name == "kfac" else [inner]))


@pytest.mark.parametrize("outer", OUTER)
def test_what_must_not_be_inside(outer):
    names, make = {cls.__name__: n for n, cls in CLASSES.items()}, (CLASSES | NOISY)[outer]
    for inner, one in CLASSES.items():
        if inner not in REFUSED.get(outer, ()):
            make(inside(inner))
            continue
        two = CLASSES.get(outer, ks.SmoothOut)
        for nest in (lambda inner: inner, ks.ReplicatedSGD):  # Deeper, too.
            with pytest.raises(ValueError) as error:
                make(nest(CLASSES[inner]() if inner in BASES else CLASSES[inner]("sgd")))
            message = str(error.value)
            assert f"`{one.__name__}`" in message and f"`{two.__name__}`" in message
        advised = re.search(r"put `(\w+)` around `(\w+)`", message)
        assert bool(advised) == ({outer, inner} not in NEVER and one is not two)
        if advised:
            CLASSES[names[advised[1]]](inside(names[advised[2]]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The first gradient was not at")
@pytest.mark.parametrize("outer", OUTER)
def test_what_is_not_refused_trains(outer):
    """Some are refused in `compile`, as they do not treat each copy alone."""
    for inner in CLASSES.keys() - REFUSED.get(outer, set()):
        copied = {outer, inner} & COPIED
        if copied:
            model, batch = quadratic_copies([1.0, 3.0], np.array([[2.0, -1.0], [1.0, 2.0]]))
        else:
            model, batch = quadratic({"h": [1.0, 3.0], "w0": [2.0, -1.0]})
        (before,) = model.get_weights()
        optimizer = around(outer, inside(inner))
        settings = keras.optimizers.serialize(optimizer)
        both = (CLASSES.get(outer, ks.SmoothOut), CLASSES[inner])
        if copied and not all(getattr(cls, "per_copy", False) for cls in both):
            with pytest.raises(
                ValueError, match="`optimizer` must treat each of the `Copies` alone"
            ):
                model.compile(optimizer)
            continue
        model.compile(optimizer, run_eagerly=keras.backend.backend() == "tensorflow")
        for _ in range(2):
            model.train_on_batch(*batch)
        (after,) = model.get_weights()
        assert np.all(np.isfinite(after)) and np.any(after != before), inner
        assert keras.optimizers.serialize(optimizer) == settings, inner
