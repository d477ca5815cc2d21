"""What a train step costs on a Cloud TPU, by its real compiler and without a TPU: TPU.md.

    pip install "jax[tpu]"
    KERAS_BACKEND=jax python -m benchmarks.tpu

The compiler in libtpu compiles for chips that are not there. Each row is the step that `fit` takes,
in mixed_bfloat16, with the batch cut over all chips: floating-point operations of a chip, bytes
that it reads and writes, memory for temporary values and for arguments, how often and how many
bytes chips exchange, and whether the step calls the host. One JSON line for each row goes to
benchmarks/tpu.jsonl; what has a line is not compiled again. `--write` only writes the page.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np

import keras_smoothout as ks
import models
from keras_smoothout import keras_internals
from training import topologies

RESULTS = pathlib.Path(__file__).with_suffix(".jsonl")
PAGE = pathlib.Path(__file__).with_name("TPU.md")
TOPOLOGIES = ("v5e:2x2", "v5e:4x4", "v5p:2x2x2", "v6e:4x4")
MODELS = {  # name: shape of an image, classes, and the global batch.
    "resnet20": ((32, 32, 3), 10, 2048),
    "resnet50": ((224, 224, 3), 1000, 1024),
}
METHODS = {  # name: optimizer around another, arguments of compile.
    "SGD": (lambda inner: inner, {}),
    "SmoothOut": (ks.SmoothOut, {}),
    "SmoothOut, perturbed statistics": (lambda o: ks.SmoothOut(o, statistics="perturbed"), {}),
    "AdaSmoothOut": (ks.AdaSmoothOut, {}),
    "SAM": (ks.SAM, {}),
    "Lookahead": (ks.Lookahead, {}),
    "LAMB": (lambda inner: ks.LAMB(0.01), {}),
    "SWA": (ks.SWA, {}),
    "SGD, ghost batches of 128": (lambda inner: inner, {"ghost_batch_size": 128}),
    "SmoothOut, ghost batches of 128": (ks.SmoothOut, {"ghost_batch_size": 128}),
}
HEADS = ["", "method", "GFLOP", "of SGD", "GB", "of SGD", "temporary, MB", "arguments, MB"]
HEADS += ["exchanges", "exchanged, MB", "host", "s to compile"]


def step_of(name, method):
    """A compiled model, and the shapes of a batch."""
    shape, classes, batch_size = MODELS[name]
    keras.config.set_dtype_policy("mixed_bfloat16")
    around, options = METHODS[method]
    model = ks.wrap(models.build(name, shape, classes, 1e-4))
    optimizer = around(keras.optimizers.SGD(0.1, momentum=0.9))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **options)
    model.optimizer.build(model.trainable_variables)
    keras_internals.build_by(model, (np.ones((2, *shape), "float32"), np.eye(2, classes)))
    return model, ((batch_size, *shape), (batch_size, classes))


def measured(name, method, topology):
    """The numbers of a row."""
    chips = topologies.chips(topology)
    model, shapes = step_of(name, method)
    cost = topologies.cost(model, shapes, topologies.data_parallel(chips))
    row = {"model": name, "method": method, "topology": topology, "chips": len(chips)}
    row |= {"batch_size": shapes[0][0]} | cost._asdict()
    return row | {"seconds": round(cost.seconds, 1)}


def recorded():
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rows = map(json.loads, lines)
    return {(row["model"], row["method"], row["topology"]): row for row in rows}


def table(rows):
    """A line for each method of a model on a topology, beside SGD's."""
    from benchmarks import report

    sgd, lines = rows.get("SGD"), []
    for method, row in rows.items():
        ratios = [f"{row[k] / sgd[k]:.3f}" if sgd else "" for k in ("flops", "bytes")]
        cells = [method, f"{row['flops'] / 1e9:.1f}", ratios[0], f"{row['bytes'] / 1e9:.2f}"]
        cells += [ratios[1], f"{row['temporary'] / 1e6:.0f}", f"{row['arguments'] / 1e6:.1f}"]
        cells += [str(row["exchanges"]), f"{row['exchanged'] / 1e6:.2f}"]
        lines.append(("", [*cells, ", ".join(row["host"]) or "no", f"{row['seconds']:.0f}"]))
    return report.table(HEADS, lines).replace("|  |", "|")


def write(done):
    """Write the page."""
    text = [
        "# The step on a TPU, as its compiler has it",
        "Written by `python -m benchmarks.tpu` from [its lines](tpu.jsonl), without a TPU: what is "
        "compiled, not how fast it runs. Numbers are of one chip and one step. The compiler counts "
        "the loop over ghost batches once; here it is multiplied by their number.",
    ]
    groups = {}
    for (name, method, topology), row in done.items():
        groups.setdefault((name, topology, row["chips"], row["batch_size"]), {})[method] = row
    for (name, topology, chips, size), rows in groups.items():
        text += [f"## {name}, batch of {size}, {topology} ({chips} chips)", table(rows)]
    PAGE.write_text("\n\n".join(text) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["resnet20"])
    parser.add_argument("--topologies", nargs="+", choices=TOPOLOGIES, default=["v5e:2x2"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--row", nargs=3, help="compile this model, method and topology, alone")
    parser.add_argument("--write", action="store_true", help="only write the page")
    args = parser.parse_args()
    if args.row:
        print(json.dumps(measured(*args.row)))
        return
    wanted = [(m, k, t) for t in args.topologies for m in args.models for k in args.methods]
    for row in [] if args.write else wanted:
        if row in recorded():
            continue
        command = [sys.executable, "-m", "benchmarks.tpu", "--row", *row]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{row} was not compiled:\n{done.stderr[-3000:]}")
        with open(RESULTS, "a") as file:
            file.write(f"{done.stdout.splitlines()[-1]}\n")
        print(done.stdout.splitlines()[-1], flush=True)
    write(recorded())


if __name__ == "__main__":
    main()
