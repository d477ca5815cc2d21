"""Properties that hold of all arguments and all shapes of batches: hypothesis looks for those not.

The examples are the same in each run. Steps are eager: each shape would be compiled anew.
"""

import dataclasses
import inspect
import json

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import layers, ops
from support.contract import fading, optimizer_of

import keras_smoothout as ks
from keras_smoothout import methods, scaling, schedules
from keras_smoothout.around import Around
from keras_smoothout.evaluation import mean_over_chunks


def examples(count):
    return hypothesis.settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


# Arguments.

SCHEDULES = st.sampled_from([fading(0.5), schedules.WarmUp(fading(0.5), 3)])
ALIKE = {  # What may stand in place of a default.
    bool: st.booleans(),
    int: st.integers(0, 6),
    float: st.one_of(st.floats(0, 1, width=32), SCHEDULES),
    str: st.sampled_from(["uniform", "normal", "absolute", "weight", "filter", "shared", "sqrt"]),
    tuple: st.sampled_from([(), ("bias",), ["bias", "gamma"], (2, 3)]),
    type(None): st.integers(1, 9),
}
ANY = st.one_of(
    *ALIKE.values(),
    st.floats(),
    st.integers(-(10**400), 10**400),
    st.none(),
    st.text("aé\n", max_size=4),
    st.lists(st.one_of(st.text("aé\n", max_size=4), st.integers(-1, 9)), max_size=2),
    st.sampled_from([np.float32(0.5), np.int64(2), np.array([0.5, 1.0]), b"sgd", 1j, {"a": 1}]),
)


WRAPPERS = tuple(row.cls for row in methods.METHODS.values())
OBJECTS = {  # And the arguments that they must have, or that Keras declares.
    **dict.fromkeys(WRAPPERS, {}),
    **dict.fromkeys(methods.BASES.values(), {}),
    ks.GhostBatchNormalization: {"momentum": 0.99, "epsilon": 0.001},
    schedules.SWALearningRate: {"learning_rate": 0.1, "swa_learning_rate": 0.05, "start": 9},
    schedules.Cyclic: {"low": 0.1, "high": 0.2, "period": 9},
    schedules.Triangular: {"low": 0.1, "high": 0.2, "period": 9},
    schedules.Join: {"first": 0.1, "second": 0.2, "steps": 9},
    schedules.ConstantRadius: {"radius": 0.1},
    schedules.AnnealedRadius: {"radius": 0.1},
    schedules.TanhRadius: {"radius": 0.1, "total_steps": 9},
    schedules.WarmUp: {"schedule": 0.1, "warmup_steps": 9},
    schedules.ScaledUntil: {"schedule": 0.1, "steps": 9, "factor": 0.5},
    schedules.Strided: {"schedule": 0.1, "stride": 2},
}
FUNCTIONS = {
    scaling.linear_scaling: {"batch_size": 8, "base_batch_size": 4},
    scaling.sqrt_scaling: {"batch_size": 8, "base_batch_size": 4},
    scaling.random_matrix_scaling: {
        "batch_size": 8,
        "base_batch_size": 4,
        "outlier": 1.0,
        "variance": 2.0,
    },
    scaling.Recipe(8, 0.1, 9, (5,)).for_batch_size: {"batch_size": 16},
    scaling.Recipe(8, 0.1, 9, (5,)).updates: {"examples": 64},
    scaling.Recipe(8, 0.1, 9, (5,)).schedule: {"examples": 64},
}
NOT_OURS = {"inner", "name", "kwargs", "why"}


def declared(make):
    """The arguments of `make`, and of the method that it is a variety of, with their defaults."""
    makers = [c for c in getattr(make, "__mro__", [make]) if "keras_smoothout" in c.__module__]
    parameters = {}
    for maker in reversed([m for m in makers if m not in (ks.Method, Around)]):
        parameters |= inspect.signature(maker).parameters
    return {name: p.default for name, p in parameters.items() if name not in NOT_OURS}


def drawn(make, needed, name, draw):
    """Arguments for `make`: `name` and perhaps another are set, each to its like or to anything."""
    defaults = declared(make) | needed
    names = {name, draw(st.sampled_from(sorted(defaults)))}
    likes = {n: draw(st.booleans()) for n in sorted(names)}
    return needed | {n: draw(ALIKE[type(defaults[n])] if likes[n] else ANY) for n in likes}


def each(table):
    """Rows (maker, needed, name), one for each argument, for `parametrize`."""
    return [
        pytest.param(make, needed, name, id=f"{make.__name__}-{name}")
        for make, needed in table.items()
        for name in declared(make) | needed
    ]


REFUSED = object()


def called(make, arguments, *inner):
    """What `make` returns, or `REFUSED` if its error names one of the arguments, and its value."""
    try:
        return make(*inner, **arguments)
    except (ValueError, TypeError) as error:
        message, known = str(error), (declared(make) | arguments).items()
        assert any(f"`{n}`" in message and f"{n}={v!r}" in message for n, v in known), error
        return REFUSED


def assert_alike(value, default):
    """Assert that `value` is what can stand in place of `default`."""
    schedule = isinstance(value, keras.optimizers.schedules.LearningRateSchedule)
    also = {float: (int, float), tuple: (list, tuple), type(None): (int, float, type(None))}
    also = also.get(type(default), type(default))
    assert schedule and isinstance(default, float) or isinstance(value, also)
    assert isinstance(value, bool) == isinstance(default, bool)


@pytest.mark.parametrize(("cls", "needed", "name"), each(OBJECTS))
@examples(15)
@hypothesis.given(data=st.data())
def test_arguments_are_kept_exactly_or_refused_by_name(cls, needed, name, data):
    arguments = drawn(cls, needed, name, data.draw)
    inner = [keras.optimizers.SGD(0.1)] * (cls in WRAPPERS)
    made = called(cls, arguments, *inner)
    if made is REFUSED:
        return
    saved = json.dumps(keras.saving.serialize_keras_object(made))
    again = keras.saving.deserialize_keras_object(json.loads(saved))
    assert type(again) is cls
    assert again.get_config() == made.get_config()
    for name, value in arguments.items():
        if name == "learning_rate":  # Keras rounds it to float32.
            continue
        assert_alike(value, (declared(cls) | needed)[name])
        kept = tuple(value) if isinstance(value, list) else value
        if not isinstance(kept, keras.optimizers.schedules.LearningRateSchedule):
            assert getattr(again, name) == kept, name


@pytest.mark.parametrize(("function", "needed", "name"), each(FUNCTIONS))
@examples(15)
@hypothesis.given(data=st.data())
def test_arguments_are_taken_or_refused_by_name(function, needed, name, data):
    arguments = drawn(function, needed, name, data.draw)
    result = called(function, arguments)
    if isinstance(result, float):
        assert np.isfinite(result) and result > 0


RECIPE = {"batch_size": 8, "learning_rate": 0.1, "epochs": 9}


@pytest.mark.parametrize(("cls", "needed", "name"), each({scaling.Recipe: RECIPE}))
@examples(15)
@hypothesis.given(data=st.data())
def test_a_recipe_is_kept_exactly_or_refused_by_name(cls, needed, name, data):
    arguments = drawn(cls, needed, name, data.draw)
    recipe = called(cls, arguments)
    if recipe is not REFUSED:
        assert cls(**dataclasses.asdict(recipe)) == recipe
        assert {name: getattr(recipe, name) for name in arguments} == arguments


# Batches.

DTYPES = ("bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64")


@st.composite
def nests(draw, rows):
    """A nest of arrays of all types, of which each element is the number of its row."""

    def leaf(dtype, shape):
        numbers = np.arange(rows).reshape(rows, *[1] * len(shape))
        return (np.zeros((rows, *shape), "int64") + numbers).astype(dtype)

    leaves = st.builds(leaf, st.sampled_from(DTYPES[1:]), st.lists(st.integers(1, 3), max_size=2))
    nest = st.recursive(
        st.one_of(leaves, st.none()),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3),
            st.tuples(inner, inner),
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
        ),
        max_leaves=5,
    )
    return np.arange(rows, dtype="float32"), draw(nest)


@examples(8)
@hypothesis.given(rows=st.integers(1, 9), size=st.integers(1, 10), data=st.data())
def test_all_arrays_of_a_nest_are_cut_alike(rows, size, data):
    def on_chunk(state, chunk, index):
        seen, chunks, apart = state
        numbers, nest = chunk
        for leaf in keras.tree.flatten(nest):
            if leaf is not None:
                spread = ops.reshape(numbers, (-1, *[1] * (len(leaf.shape) - 1)))
                apart = apart + ops.sum(ops.abs(ops.cast(leaf, "float32") - spread))
        count = ops.cast(ops.shape(numbers)[0], "float32")
        return [ops.mean(numbers)], [seen + count, chunks + 1.0, apart]

    state = [ops.zeros(()) for _ in range(3)]
    nest = data.draw(nests(rows))
    mean, state = mean_over_chunks(on_chunk, [ops.zeros(())], state, nest, size)
    assert [float(s) for s in state] == [rows, -(-rows // size), 0.0]
    assert float(mean[0]) == pytest.approx((rows - 1) / 2, rel=1e-6)


def linear():
    inputs = keras.Input((2,), dtype="float32")
    return ks.Model(inputs, layers.Dense(1, kernel_initializer="ones")(inputs))


def gradient(weights, x, y, sample_weight):
    """Of the mean over examples of `sample_weight * (x @ kernel + bias - y)**2`, by hand."""
    kernel, bias = (np.array(w, "float64") for w in weights)
    slope = 2 * (x @ kernel + bias - y) * sample_weight / len(x)
    return x.T @ slope, slope.sum(0)


@examples(8)
@hypothesis.given(
    rows=st.integers(1, 5),
    size=st.one_of(st.none(), st.integers(1, 6)),
    copies=st.integers(1, 3),
    weighted=st.booleans(),
    types=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
)
def test_a_step_is_the_mean_over_chunks_and_copies(rows, size, copies, weighted, types):
    # SGD with rate 1 goes from w to w - g. Chunk k has its own noise; g weighs it by its size.
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (rows, 2)).astype(types[0])
    y = rng.integers(0, 3, (rows, 1)).astype(types[1])
    sample_weight = rng.uniform(0, 2, rows).astype("float32")
    model, optimizer = linear(), ks.SmoothOut(keras.optimizers.SGD(1.0), 0.3, copies=copies)
    model.compile(optimizer, "mse", ghost_batch_size=size, run_eagerly=True)
    optimizer.build(model.trainable_variables)
    weights, expected = model.get_weights(), [0.0, 0.0]
    for k, start in enumerate(range(0, rows, size or rows)):
        part = slice(start, start + (size or rows))
        weight = sample_weight[part, None] if weighted else 1.0
        for copy in range(copies):
            noisy = optimizer.perturb(
                [ops.convert_to_tensor(w) for w in weights],
                optimizer.step()._replace(chunk=ops.convert_to_tensor(k)),
                ops.convert_to_tensor(copy),
            )
            noisy = [ops.convert_to_numpy(w) for w in noisy]
            grads = gradient(noisy, x[part].astype("float64"), y[part].astype("float64"), weight)
            share = len(x[part]) / rows / copies
            expected = [e + share * g for e, g in zip(expected, grads, strict=True)]
    model.train_on_batch(x, y, *[sample_weight] * weighted)
    for before, after, grad in zip(weights, model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(before - after, grad, rtol=1e-5, atol=1e-5)


@examples(6)
@hypothesis.given(
    name=st.sampled_from(["smoothout", "asam", "lookahead_smoothout"]),
    rows=st.integers(1, 5),
    size=st.one_of(st.none(), st.integers(2, 6)),
    dtype=st.sampled_from(DTYPES),
)
def test_a_step_of_any_batch_leaves_finite_weights(name, rows, size, dtype):
    # One example, as batch or as remainder, has BatchNormalization divide by sqrt(epsilon).
    rng = np.random.default_rng(0)
    inputs = keras.Input((2,), dtype="float32")
    model = ks.Model(inputs, layers.Dense(1)(layers.BatchNormalization()(inputs)))
    optimizer = optimizer_of(name, keras.optimizers.SGD(0.1, momentum=0.9))
    model.compile(optimizer, "mse", ghost_batch_size=size, run_eagerly=True)
    before = model.get_weights()
    model.train_on_batch(rng.integers(0, 3, (rows, 2)).astype(dtype), np.ones((rows, 1)))
    after = model.get_weights()
    assert all(np.all(np.isfinite(w)) for w in after)
    assert any(np.any(a != b) for a, b in zip(after, before, strict=True))
