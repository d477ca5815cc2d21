"""Strange trainings, by tables of what a `fit` can be given: cases of `benchmarks.strangers`."""

import random
import re
import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_smoothout as ks
from keras_smoothout import methods

EXAMPLES, SHAPE, CLASSES, BATCH = 21, (6,), 3, 8
X = np.random.default_rng(0).normal(size=(EXAMPLES, *SHAPE)).astype("float32")
Y = np.arange(EXAMPLES) % CLASSES
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return X[BATCH * i :][:BATCH], Y[BATCH * i :][:BATCH]


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([layers.Dense(5, "relu"), layers.BatchNormalization()])
        self.head = layers.Dense(CLASSES)

    def call(self, inputs, training=None):
        return self.head(self.inner(inputs, training=training))


class OwnWithStep(ks.TrainStep, Own):
    pass


def net(*hidden, frozen=False):
    model = keras.Sequential([keras.Input(SHAPE), *hidden, layers.Dense(CLASSES)])
    model.trainable = not frozen
    return ks.wrap(model)


def shared():
    inputs, dense = keras.Input(SHAPE), layers.Dense(SHAPE[0], "tanh")
    return ks.Model(
        inputs, layers.Dense(CLASSES)(layers.Add()([dense(inputs), dense(dense(inputs))]))
    )


def method(row):
    """The row of a method; bad is one that needs several copies of the model."""

    def make():
        return row.cls(keras.optimizers.SGD(0.01))

    return ("copies", make) if row.copies else make


# The tables: name -> what it makes. A pair (word, what) is bad, and its refusal must hold the word.
DATA = {
    "arrays": lambda: ((X, Y), {"batch_size": BATCH}),
    "one batch": lambda: ((X, Y), {"batch_size": 64}),
    "batches of one": lambda: ((X[:2], Y[:2]), {"batch_size": 1}),
    "float64": lambda: ((X.astype("float64"), Y.astype("int8")), {"batch_size": BATCH}),
    "float labels": lambda: ((X, Y[:, None].astype("float32")), {"batch_size": BATCH}),
    "tensors": lambda: (tuple(map(keras.ops.convert_to_tensor, (X, Y))), {"batch_size": BATCH}),
    "tf.data": lambda: ((tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH),), {}),
    "PyDataset": lambda: ((Sequence(),), {}),
    "generator": lambda: (((Sequence()[i % 3] for i in range(99)),), {"steps_per_epoch": 3}),
    "validation": lambda: ((X, Y, BATCH), {"validation_data": (X[:5], Y[:5])}),
    "too large a label": ("y", lambda: ((X, Y + 1), {"batch_size": BATCH})),
    "half a label": ("y", lambda: ((X, Y + 0.5), {"batch_size": BATCH})),
    "no examples": ("x", lambda: ((X[:0], Y[:0]), {"batch_size": BATCH})),
    "unequal lengths": ("(?i)cardinality|length", lambda: ((X, Y[:-1]), {"batch_size": BATCH})),
    "batch size 0": ("batch_size", lambda: ((X, Y), {"batch_size": 0})),
    "other shape": ("(?i)shape|incompatible", lambda: ((X[:, :4], Y), {"batch_size": BATCH})),
}
MODELS = {
    "dense": lambda: net(layers.Dense(5, "tanh")),
    "linear": net,
    "batch norm": lambda: net(layers.Dense(5), layers.BatchNormalization(), layers.ReLU()),
    "ghost norm": lambda: net(layers.Dense(5), ks.GhostBatchNormalization(4), layers.ReLU()),
    "layer norm": lambda: net(layers.Dense(5), layers.LayerNormalization(), layers.Dropout(0.3)),
    "convolution": lambda: net(layers.Reshape((6, 1)), layers.Conv1D(2, 3), layers.Flatten()),
    "recurrent": lambda: net(layers.Reshape((3, 2)), layers.GRU(3)),
    "L2": lambda: net(layers.Dense(5, kernel_regularizer="l2", kernel_constraint="max_norm")),
    "shared": shared,
    "frozen": lambda: net(layers.Dense(5), frozen=True),
    "own, wrapped": lambda: ks.wrap(Own()),
    "own": OwnWithStep,
}
METHODS = {
    **{name: method(row) for name, row in methods.METHODS.items()},
    **{name: lambda c=cls: c(0.01) for name, cls in methods.BASES.items()},
    "ivon": lambda: ks.IVON(0.01, ess=1000.0),
    "sgd": lambda: "sgd",
    "adam": lambda: keras.optimizers.Adam(0.01, use_ema=True),
    "accumulating": lambda: ks.SAM(keras.optimizers.SGD(0.01, gradient_accumulation_steps=2)),
    "nested": lambda: ks.Lookahead(ks.SmoothOut(ks.SAM("adam")), sync_period=2),
    "copies": lambda: ks.SmoothOut("sgd", copies=2, antithetic=True, distribution="normal"),
    "schedule": lambda: ks.SAM("sgd", rho=ks.schedules.AnnealedRadius(0.1)),
    "radius < 0": ("radius", lambda: ks.SmoothOut("sgd", radius=-0.1)),
    "radius nan": ("radius", lambda: ks.SmoothOut("sgd", radius=float("nan"))),
    "no inner": ("inner", lambda: ks.SAM(None)),
    "rate inside": ("learning_rate", lambda: ks.SAM("sgd", learning_rate=0.1)),
    "period 0": ("sync_period", lambda: ks.Lookahead("sgd", sync_period=0)),
    "NumPy": ("copies", lambda: ks.SmoothOut("sgd", copies=np.int64(2))),
}
GHOSTS = {str(size): size for size in (None, 2, 3, 8, 1000)}
GHOSTS |= {f"bad {size!r}": ("ghost_batch_size", size) for size in (0, -1, 2.5, "2", True)}
POLICIES = {name: name for name in ("float32", "mixed_float16", "mixed_bfloat16")}
RUNS = {
    "graph": {"jit_compile": False},
    "XLA": {"jit_compile": True},
    "eager": {"run_eagerly": True},
}
WEIGHTS = {
    "none": {},
    "some 0": {"sample_weight": (np.arange(EXAMPLES) % 2).astype("float32")},
    "by class": {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
}
AXES = {"data": DATA, "model": MODELS, "method": METHODS, "ghosts": GHOSTS, "policy": POLICIES}
AXES |= {"run": RUNS, "weights": WEIGHTS}
OFTEN = {"ghosts": "None", "run": "eager", "weights": "none"}  # In half of the cases.


def drawn(number):
    """The rows of a case, by axis; about half of the cases have a bad one."""
    rng, rows = random.Random(f"fit {number}"), {}
    for axis, table in AXES.items():
        good = [name for name, row in table.items() if not bad(row)]
        often = axis in OFTEN and rng.random() < 0.5
        rows[axis] = OFTEN[axis] if often else rng.choice([*table] if rng.random() < 0.3 else good)
    return rows


def bad(row):
    return isinstance(row, tuple)


def made(row):
    """What a row makes, which may raise."""
    what = row[1] if bad(row) else row
    return what() if callable(what) else what


def fit(rows):
    """The model of a case, and what came of it: an error, or `None`."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(rows["policy"])
    model = made(MODELS[rows["model"]])
    model(X[:1])  # Its number of classes is known now.
    given = {axis: AXES[axis][name] for axis, name in rows.items()}
    try:
        arrays, options = made(given["data"])
        if len(arrays) > 1:
            options |= {
                n: w if n == "class_weight" else w[: len(arrays[1])]
                for n, w in made(given["weights"]).items()
            }
        model.compile(
            made(given["method"]),
            LOSS,
            ghost_batch_size=made(given["ghosts"]),
            **made(given["run"]),
        )
        model.fit(*arrays, epochs=2 if len(arrays) > 1 else 1, verbose=0, **options)
    except Exception as error:
        model.compile("sgd", LOSS, run_eagerly=True)
        return model, error
    return model, None


def check_usable(model):
    """Raise unless `model` trains, evaluates and predicts with numbers that are finite."""
    loss = model.fit(X, Y, BATCH, verbose=0).history["loss"]
    numbers = [loss, model.evaluate(X, Y, BATCH, verbose=0), model.predict(X, BATCH, verbose=0)]
    for found in [*numbers, *model.get_weights()]:
        assert np.all(np.isfinite(np.asarray(found, "float32"))), "not finite"
    assert loss[0] < 100, f"a loss of {loss[0]}"


def outcome(number):
    """What came of a case, and why: `success`, `refusal` or `fault`."""
    rows = drawn(number)
    given = {axis: AXES[axis][name] for axis, name in rows.items()}
    if rows["model"] == "frozen" and rows["method"] in methods.METHODS:
        del given["method"]  # It has no weights to be for copies of.
    words = [row[0] for row in given.values() if bad(row)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, error = fit(rows)
        said = f"{type(error).__name__}: {error}" if error else ""
        try:
            check_usable(model)
        except Exception as after:
            return "fault", f"{rows} {said[:200]} afterwards: {type(after).__name__}: {after}"[:600]
    if error is None:
        return ("fault", f"{rows} taken in silence") if words else ("success", "")
    clear = isinstance(error, (ValueError, TypeError)) and any(
        re.search(w, str(error)) for w in words
    )
    return ("refusal", "") if clear else ("fault", f"{rows} {said}"[:600])
