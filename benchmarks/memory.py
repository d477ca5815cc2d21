"""What stays in memory, and what is needed at most: `python -m benchmarks.memory growth landscape`.

growth: how much a process holds more after many steps, epochs, and cycles of compile and fit than
after the first of them, in MB. Each way to train has a process of its own; plain Keras is one.

landscape: the most that a function of `keras_smoothout.landscape` holds while it runs, in copies of
the model's weights in float32, beyond the model and the objective.

Rows are appended to benchmarks/memory.jsonl; what is there is not measured again. With --write,
the tables go into benchmarks/MEMORY.md.
"""

import argparse
import gc
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
from keras import layers

import keras_smoothout as ks
from benchmarks.generalization_gap import whole_lines

FOLDER = pathlib.Path(__file__).parent
RESULTS, TABLE = FOLDER / "memory.jsonl", FOLDER / "MEMORY.md"
BACKEND = keras.backend.backend()
BACKENDS = ("tensorflow", "jax")
COUNTS = {"steps": 3000, "epochs": 200, "cycles": 50}
FIRST = {"steps": 600, "epochs": 40, "cycles": 10}  # Before the first look: caches fill up.
WAYS = {
    "Keras": lambda: "sgd",
    "SmoothOut": lambda: ks.SmoothOut("sgd"),
    "SAM": lambda: ks.SAM("sgd"),
    "Lookahead": lambda: ks.Lookahead("sgd"),
    "ghost batches": lambda: "sgd",
}
BATCH = 8
X = np.random.default_rng(0).normal(size=(BATCH, 6)).astype("float32")
Y = np.arange(BATCH) % 3
WEIGHTS = 5_000_000


def net(units=16, norm=True):
    inputs = keras.Input((6,))
    hidden = layers.Dense(units, "relu")(inputs)
    hidden = layers.BatchNormalization()(hidden) if norm else hidden
    return keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.2)(hidden)))


def compiled(way, model):
    ghosts = {"ghost_batch_size": 4} if way == "ghost batches" else {}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(WAYS[way](), loss, jit_compile=BACKEND == "jax", **ghosts)


def trained(way, model, what, count):
    """Train by `count` of `what`."""
    if what == "cycles":
        for _ in range(count):
            compiled(way, model)
            model.fit(X, Y, BATCH, verbose=0)
    else:
        repeats = count if what == "steps" else 2
        x, y = np.tile(X, (repeats, 1)), np.tile(Y, repeats)
        model.fit(x, y, BATCH, count if what == "epochs" else 1, verbose=0)


def held(name="VmRSS"):
    """MB that this process holds, or held at most (`"VmHWM"`)."""
    gc.collect()
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def growth(way, names):
    """Measure what stays after many of each of `names`, in this process."""
    model = net() if way == "Keras" else ks.wrap(net())
    compiled(way, model)
    for what in names:
        trained(way, model, what, FIRST[what])
        before = held()
        trained(way, model, what, COUNTS[what])
        keep("growth", f"{way}: {what}", {"MB": round(held() - before, 1)})


def functions():
    """The functions of landscape by name, of an objective and another model's weights."""
    from keras_smoothout import landscape as ls
    from keras_smoothout.landscape.measures import MEASURES

    return {
        **{name: lambda o, _, n=name: ls.measures(o, [n]) for name in MEASURES},
        "eigenpairs, k=1": lambda o, _: ls.eigenpairs(ls.hessian(o), 1, max_products=40),
        "eigenpairs, k=10": lambda o, _: ls.eigenpairs(ls.hessian(o), 10, max_products=60),
        "density": lambda o, _: ls.density(ls.hessian(o), probes=2),
        "hutch_plus_plus": lambda o, _: ls.hutch_plus_plus(ls.hessian(o)),
        "line": lambda o, _: ls.line(o, alphas=[0.0, 1.0]),
        "plane": lambda o, _: ls.plane(o, x=[0.0, 1.0]),
        "interpolate": lambda o, other: ls.interpolate(o, other, [0.0, 1.0]),
        "plane_through": lambda o, other: ls.plane_through(o, other, mirrored(other), 2),
        "connect": lambda o, other: ls.connect(o, ls.straight(o, other), epochs=1),
        "profile": lambda o, other: ls.profile(o, ls.straight(o, other), points=3),
    }


def mirrored(weights):
    return [w[::-1].copy() for w in weights]


def landscape(names):
    """Measure functions by name, on a model with `WEIGHTS` weights."""
    from keras_smoothout import landscape as ls

    model = net(WEIGHTS // 10, norm=False)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    objective = ls.Objective(model, X, Y)
    objective.loss_and_gradient(objective.weights)
    rng = np.random.default_rng(0)
    other = [(w + 0.01 * rng.normal(size=w.shape)).astype("float32") for w in objective.weights]
    for name in names:
        before = held()
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # Now is the most so far.
        functions()[name](objective, other)
        found = (held("VmHWM") - before) * 2**20 / (4 * objective.size)
        keep("landscape", name, {"copies": round(found, 1)})


def recorded():
    return list(map(json.loads, whole_lines(RESULTS)))


def left(part, names):
    """Those of `names` that have no row yet."""
    done = [row["name"] for row in recorded() if (row["part"], row["backend"]) == (part, BACKEND)]
    return [name for name in names if name not in done]


def keep(part, name, numbers):
    with open(RESULTS, "a") as file:
        row = {"part": part, "backend": BACKEND, "name": name} | numbers
        file.write(json.dumps(row) + "\n")


def started(*names):
    """Measure in a process of its own, whose allocator gives large blocks back."""
    command = [sys.executable, "-m", "benchmarks.memory", "--here", *names]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    subprocess.run(command, env=environment, check=True)


def tables():
    rows = {(row["part"], row["backend"], row["name"]): row for row in recorded()}

    def cells(part, unit, keys):
        found = [rows.get((part, *key), {}).get(unit) for key in keys]
        return " | ".join("" if number is None else f"{number:.0f}" for number in found)

    lines = ["| MB more after | 3,000 steps | 200 epochs | 50 cycles |", 4 * "| --- " + "|"]
    for backend in BACKENDS:
        for way in WAYS:
            numbers = cells("growth", "MB", [(backend, f"{way}: {what}") for what in COUNTS])
            lines.append(f"| {way}, {backend} | {numbers} |")
    lines += ["", f"| copies of the weights | {' | '.join(BACKENDS)} |", 3 * "| --- " + "|"]
    for name in functions():
        numbers = cells("landscape", "copies", [(backend, name) for backend in BACKENDS])
        lines.append(f"| {name} | {numbers} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help="growth, landscape")
    parser.add_argument("--here", nargs="+", metavar="NAME", help="measure in this process")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.here:
        way, *names = given.here
        growth(way, names) if way in WAYS else landscape(given.here)
        return
    for way in WAYS if "growth" in given.parts else ():
        if names := left("growth", [f"{way}: {what}" for what in COUNTS]):
            started(way, *(name.partition(": ")[2] for name in names))
    if "landscape" in given.parts and left("landscape", functions()):
        started(*left("landscape", functions()))
    print(tables())
    if given.write:
        TABLE.write_text(HEAD + tables() + "\n")


HEAD = """# Memory

`python -m benchmarks.memory growth landscape --write`, with each `KERAS_BACKEND`. First what a
process holds more after 3,000 steps, 200 epochs, and 50 cycles of compile and fit of a small model,
in MB. Then the most that functions of `keras_smoothout.landscape` hold for a model of 5 million
weights and a batch of 8, in copies of its weights in float32.

No object of Python is left of SmoothOut's cycles on TensorFlow, and nothing is compiled again. What
stays is in TensorFlow's runtime; what it is for is not known.

"""

if __name__ == "__main__":
    main()
