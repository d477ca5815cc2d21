"""What each large-batch method is worth: `python -m benchmarks.generalization_gap --data_dir=DIR`.

Trains a grid of method x batch size x seed and appends one JSON line per run to
benchmarks/generalization_gap.jsonl. Kill it at any point and start it again: runs that have a line
are not repeated. `python -m benchmarks.report` turns the lines into RESULTS.md and figures.

A run is a list of train.py's flags. Learning rates are tuned at each batch size on the last 5,000
training images (seed 100), for plain SGD as for each row of `RATES`: four trials a factor
of two apart, then one more beyond the best as long as that is the highest or the lowest; the other
rows change one thing about one of these and keep its rate. The rate falls as a cosine. Radii and
rho are not tuned at each batch size: 0.02 for SmoothOut and 0.3 for AdaSmoothOut are from a first
look at F1 at 2048, 30 epochs, with two seeds, at the test loss; rho is its paper's.

The recorded runs of SmoothOut and AdaSmoothOut kept the moving statistics of the perturbed passes,
which was the only way then; a run of today keeps those of the clean weights.

Settings: `f1` (Fashion-MNIST, 20,000 images), `f1-full` (all 60,000 for as many updates, smallest
and largest batch, at the rates of `f1`), `resnet8` (CIFAR-10, 5,000 images of 16 x 16 pixels),
`noise` (radius and copies of SmoothOut at the rates of `f1`, and how flat the minimum is).
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import time
from typing import NamedTuple

import keras
import numpy as np

from keras_smoothout.noise import perturb
from keras_smoothout.scaling import Recipe, sqrt_scaling
from training import courses, options, runs

VERSIONS = f"keras {keras.__version__}, {keras.backend.backend()}"
RESULTS = pathlib.Path(__file__).with_suffix(".jsonl")
BASE, GHOST, SEEDS, TUNING_SEED = 128, 128, range(5), 100
BATCH_SIZES = (128, 512, 2048, 8192)
# Learning rates to try are `RATES`, scaled by the sqrt rule, times these powers of two.
POWERS = range(-2, 2)
RATES = {"SGD": 0.05, "SmoothOut": 0.05, "SAM": 0.05, "LARS": 4.0, "LAMB": 0.01}
RATES |= {"LAMB + SmoothOut": 0.01, "LAMB + SAM": 0.01}


class Row(NamedTuple):
    """A line of the tables.

    Args:
        rate: whose tuned rate it has.
        ghosts: whether it has ghost batches.
        flags: its method.
        adapts: whether its epochs are stretched to as many updates as small batches have.
    """

    rate: str
    ghosts: bool
    flags: tuple = ()
    adapts: bool = False


SMOOTHOUT = ("--method=smoothout", "--radius=0.02")
ROWS = {
    "SGD": Row("SGD", False),
    "+ sqrt rate": Row("SGD", False),
    "+ ghost batches": Row("SGD", True),
    "+ regime adaptation": Row("SGD", True, adapts=True),
    "SmoothOut": Row("SmoothOut", True, SMOOTHOUT),
    "SmoothOut + regime adaptation": Row("SmoothOut", True, SMOOTHOUT, adapts=True),
    "AdaSmoothOut": Row("SmoothOut", True, ("--method=adasmoothout", "--radius=0.3")),
    "SAM": Row("SAM", True, ("--method=sam", "--rho=0.05")),
    "ASAM": Row("SAM", True, ("--method=asam", "--rho=0.5")),
    "LARS": Row("LARS", True, ("--method=lars",)),
    "LAMB": Row("LAMB", True, ("--method=lamb",)),
    "LAMB + SmoothOut": Row("LAMB + SmoothOut", True, ("--method=smoothout+lamb", "--radius=0.02")),
    "LAMB + SAM": Row("LAMB + SAM", True, ("--method=sam+lamb", "--rho=0.05")),
}
F1 = ["--dataset=fashion_mnist", "--model=f1"]
RESNET = ["--dataset=cifar10", "--image_size=16", "--model=resnet8", "--l2=1e-4"]
RESNET += ["--train_examples=5000"]
REGIME_MOST = 2048  # At 8192, regime adaptation asks for 64 times the epochs.
ADAPTING = tuple(label for label, row in ROWS.items() if row.adapts)
NOT_CONVOLUTIONAL = (*ADAPTING, "+ sqrt rate", "ASAM", "LARS", "LAMB + SmoothOut", "LAMB + SAM")
NOT_FULL = (*ADAPTING, "AdaSmoothOut", "SAM", "ASAM", "LAMB + SmoothOut")


class Setting(NamedTuple):
    """A network and its data, and which cells of the grid are trained.

    Args:
        flags: what all runs share.
        epochs: of the base recipe.
        held_out: number of training images left for tuning; the rest is for validation.
        batch_sizes: those of the grid.
        without: rows that are left out.
        rates: the setting whose tuned rates are taken, if not its own.
    """

    flags: list
    epochs: int
    held_out: int
    batch_sizes: tuple = BATCH_SIZES
    without: tuple = ()
    rates: str | None = None


SETTINGS = {
    "f1": Setting([*F1, "--train_examples=20000"], 15, 55000),
    "f1-full": Setting(F1, 5, 55000, (128, 8192), NOT_FULL, rates="f1"),
    "resnet8": Setting(RESNET, 8, 45000, (128, 2048), NOT_CONVOLUTIONAL),
    "noise": Setting([*F1, "--train_examples=20000"], 15, 55000, (128, 2048), rates="f1"),
}
RADII = (0.0, 0.01, 0.02, 0.04, 0.08)
COPIES = (4,)  # One copy is the row of the same radius.


def line(experiment, label, batch_size, seed, flags, recipe):
    """A run before it is trained."""
    flags = [*flags, f"--batch_size={batch_size}", f"--learning_rate={recipe.learning_rate:.6g}"]
    flags += [f"--epochs={recipe.epochs}", "--lr_schedule=cosine"]
    if recipe.ghost_batch_size and recipe.ghost_batch_size < batch_size:
        flags.append(f"--ghost_batch_size={recipe.ghost_batch_size}")
    names = ("experiment", "label", "batch_size", "seed", "flags")
    return dict(zip(names, (experiment, label, batch_size, seed, flags), strict=True))


def key(run):
    return run["experiment"], run["label"], run["batch_size"], run["seed"]


def trial(setting, label, batch_size, power):
    """One learning rate of a row."""
    common, epochs, held_out, *_ = SETTINGS[setting]
    row = ROWS[label]
    split = [f"--train_split=train[:{held_out}]", f"--test_split=train[{held_out}:]"]
    rate = float(f"{2.0**power * RATES[label] * sqrt_scaling(batch_size, BASE):.3g}")
    ghost = min(GHOST, batch_size) if row.ghosts else None
    recipe = Recipe(batch_size, rate, epochs, ghost_batch_size=ghost)
    name, flags = f"{label}, rate {rate:g}", [*common, *split, *row.flags]
    run = line(f"{setting}-tuning", name, batch_size, TUNING_SEED, flags, recipe)
    return run | {"tunes": label, "rate": rate}


def success(run):
    """What the best trial has most of."""
    return run["test_accuracy"], -run["test_loss"]


def tuning(setting, done):
    """The trials of the learning rates, as far as those done tell which are needed."""
    for batch_size in SETTINGS[setting].batch_sizes:
        for label in RATES:
            if label in SETTINGS[setting].without:
                continue
            powers = [*POWERS]
            while True:
                trials = [trial(setting, label, batch_size, power) for power in powers]
                if any(key(run) not in done for run in trials):
                    break
                best = max(range(len(trials)), key=lambda i: success(done[key(trials[i])]))
                if 0 < best < len(trials) - 1:
                    break
                powers = [powers[0] - 1, *powers] if best == 0 else [*powers, powers[-1] + 1]
            yield from trials


def tuned(done, setting):
    """The best rate of each tuned row at each batch size.

    Raises:
        SystemExit: If a trial is missing.
    """
    if any(key(run) not in done for run in tuning(setting, done)):
        raise SystemExit(f"Rates of {setting} are not tuned to the end: run --setting={setting}.")
    trials = [run for run in done.values() if run["experiment"] == f"{setting}-tuning"]
    return {(run["tunes"], run["batch_size"]): run["rate"] for run in sorted(trials, key=success)}


def grid(setting, rates):
    """All runs of a setting, one seed after the other, the longest at the end."""
    common, epochs, _, batch_sizes, without, _ = SETTINGS[setting]
    small = Recipe(BASE, rates["SGD", BASE], epochs)
    runs_ = []
    for seed in SEEDS:
        for batch_size in batch_sizes:
            for label, row in ROWS.items():
                if label in without or row.adapts and batch_size > REGIME_MOST:
                    continue
                if batch_size == BASE and (row.adapts or label.startswith("+")):
                    continue  # At the base batch size nothing is added.
                recipe = small.for_batch_size(
                    batch_size,
                    rule=rates[row.rate, batch_size] / small.learning_rate,
                    regime_adaptation=row.adapts,
                    ghost_batch_size=min(GHOST, batch_size) if row.ghosts else None,
                )
                if label == "+ sqrt rate":
                    recipe = small.for_batch_size(batch_size, rule="sqrt")
                runs_.append(line(setting, label, batch_size, seed, [*common, *row.flags], recipe))
                runs_[-1]["epochs"] = recipe.epochs
    return sorted(runs_, key=lambda run: run["epochs"])


def noise(setting, rates):
    """Radius and copies of SmoothOut, one seed after the other."""
    common, epochs, _, batch_sizes, _, _ = SETTINGS[setting]
    for seed in SEEDS:
        for batch_size in batch_sizes:
            rate = rates["SmoothOut", batch_size]
            recipe = Recipe(batch_size, rate, epochs, ghost_batch_size=BASE)
            for radius in RADII:
                flags = ["--method=smoothout", f"--radius={radius}"]
                name = f"SmoothOut {radius:g}"
                yield line(setting, name, batch_size, seed, [*common, *flags], recipe)
            for copies in COPIES:
                flags = ["--method=smoothout", "--radius=0.02", f"--copies={copies}"]
                name = f"SmoothOut 0.02, {copies} copies"
                yield line(setting, name, batch_size, seed, [*common, *flags], recipe)


def sharpness(model, x, y, radius=0.02, scale="absolute", draws=5):
    """Mean rise of the training loss under uniform noise, SmoothOut's own measure of flatness."""
    variables = model.trainable_variables
    clean = [keras.ops.convert_to_numpy(v).copy() for v in variables]  # JAX frees what it is given.
    moved = tuple(i for i, v in enumerate(variables) if v.name in ("kernel", "bias"))
    losses = []
    for draw in range(draws + 1):  # The first without noise.
        weights = [keras.ops.convert_to_tensor(w) for w in clean]
        noisy = perturb(
            weights, radius if draw else 0.0, TUNING_SEED, draw, moved=moved, scale=scale
        )
        for variable, value in zip(variables, noisy, strict=True):
            variable.assign(value)
        losses.append(float(model.evaluate(x, y, 5000, verbose=0)[0]))
    for variable, value in zip(variables, clean, strict=True):
        variable.assign(value)
    return statistics.mean(losses[1:]) - losses[0]


@functools.lru_cache(maxsize=2)
def arrays(*where):
    """Normalised (images, one-hot labels) of the two splits."""
    source = runs.images.load(*where)
    splits = []
    for split in (source.train, source.test):
        ((_, images, labels),) = split.batches(split.examples).as_numpy_iterator()
        images = (images - source.mean) / source.deviation
        splits.append((images.astype("float32"), np.eye(source.classes, dtype="float32")[labels]))
    return source, *splits


class Shuffled(keras.utils.PyDataset):
    """Batches in a new order in each epoch; that of `fit` on TensorFlow, once seeded, is one."""

    def __init__(self, x, y, batch_size, seed):
        super().__init__()
        self.x, self.y, self.batch_size = x, y, batch_size
        self.random = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, index):
        which = self.order[index * self.batch_size :][: self.batch_size]
        return self.x[which], self.y[which]

    def on_epoch_end(self):
        self.order = self.random.permutation(len(self.x))


class Clock(keras.callbacks.Callback):
    """CPU seconds of each epoch's training; they hardly depend on what else the machine does."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        getattr(self.model, "jax_state_sync", lambda: None)()
        self.model.trainable_variables[0].numpy()  # JAX returns from a step before it is done.
        self.seconds.append(time.process_time() - self.began)


def timed(run, data_dir):
    """The same run for four epochs without validation: CPU seconds of one, after the first."""
    f, source, (x, y), _ = prepared(run, data_dir)
    model = runs.build(f, f.method, f.seed, source, courses.plan(f, len(x)))
    clock = Clock()
    shuffled = Shuffled(x, y, f.batch_size, f.seed)
    model.fit(shuffled, epochs=4, shuffle=False, verbose=0, callbacks=[clock])
    return run | {"cpu_seconds_per_epoch": round(statistics.mean(clock.seconds[1:]), 3)}


def prepared(run, data_dir):
    """The options of a run, its data, and a session that starts from its seed."""
    flags = [f"--seed={run['seed']}", f"--data_dir={data_dir}", "--verbose=0", *run["flags"]]
    options.parse(["train.py", *flags])
    f = options.FLAGS
    keras.backend.clear_session()
    source, train, test = arrays(*(getattr(f, name) for name in runs.DATA_OPTIONS))
    keras.utils.set_random_seed(f.seed)
    return f, source, train, test


def measured(model, name, x, y):
    """Loss and metrics of a model on some examples, under names that begin with `name`."""
    found = model.evaluate(x, y, 5000, verbose=0, return_dict=True)
    return {f"{name}_{metric}": float(value) for metric, value in found.items()}


def trained(run, data_dir):
    """The numbers of one run."""
    if run["experiment"].endswith("-timing"):
        return timed(run, data_dir)
    f, source, (x, y), test = prepared(run, data_dir)
    course = courses.plan(f, len(x))
    model = runs.build(f, f.method, f.seed, source, course)
    every = max(1, f.epochs // 15)
    history = model.fit(
        Shuffled(x, y, f.batch_size, f.seed),
        epochs=f.epochs,
        shuffle=False,
        validation_data=test,
        validation_batch_size=5000,
        validation_freq=every,
        verbose=0,
    ).history
    numbers = {"updates": course.step_at(f.epochs), "epochs": f.epochs}
    for name, examples in (("train", (x, y)), ("test", test)):
        numbers |= measured(model, name, *examples)
    if run["experiment"] == "noise":
        numbers["sharpness"] = sharpness(model, x, y)
    curve = zip(history["val_accuracy"], history["val_loss"], strict=True)
    numbers["curve"] = [
        [every * i, *(round(value, 4) for value in point)] for i, point in enumerate(curve, 1)
    ]
    return run | numbers | {"versions": VERSIONS}


def whole_lines(path):
    """The lines of a file, without a last one that a kill has cut off."""
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def recorded(path):
    """The runs that have a whole line, by key."""
    return {key(run): run for run in map(json.loads, whole_lines(path))}


def resumed(path):
    """The same, before lines are added to them: one that was cut off is removed."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    return recorded(path)


def record(path, run):
    """Append the line of a run, on disk when this returns."""
    with open(path, "a") as file:
        file.write(json.dumps(run) + "\n")
        file.flush()
        os.fsync(file.fileno())


def complete(runs_, done, path, train):
    """Train those that have no line, and add it to `done` and to the file; whether there were any.

    Raises:
        SystemExit: If a line is of other flags.
    """
    known = len(done)
    for i, run in enumerate(runs_, 1):
        old = done.get(key(run))
        if old is None:
            done[key(run)] = train(run)
            record(path, done[key(run)])
            print(f"{i}/{len(runs_)} {key(run)}", flush=True)
        elif old["flags"] != run["flags"]:
            raise SystemExit(
                f"{path} holds {key(run)} with other flags, {old['flags']}: remove its line, or "
                f"name other --results. Expected: {run['flags']}"
            )
    return len(done) > known


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", default="f1", choices=SETTINGS)
    parser.add_argument("--data_dir", help="folder of prepared tfds sets")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    done = resumed(args.results)

    def completed(runs_):
        return complete(runs_, done, args.results, lambda run: trained(run, args.data_dir))

    source = SETTINGS[args.setting].rates
    if source is None:
        while completed(list(tuning(args.setting, done))):
            pass
    rates = tuned(done, source or args.setting)
    cells = list((noise if args.setting == "noise" else grid)(args.setting, rates))
    name = f"{args.setting}-timing"
    completed([run | {"experiment": name} for run in cells if run["seed"] == SEEDS[0]])
    completed(cells)


if __name__ == "__main__":
    main()
