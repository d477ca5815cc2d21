"""What closes the gap at convergence: `python -m benchmarks.converged --data_dir=DIR`.

Networks on CIFAR-10 at 16 x 16 pixels, 4,096 images, no augmentation, 60 epochs, by the end of
which SGD fits every training image. A small batch against a large one, then the large one with one
thing after the other.

Each row has one number of its own, tuned at its batch size on the last 5,000 training images by
seeds that are not reported: trials a factor of two apart, and one more beyond the best as long as
that is the highest or the lowest. SGD, SGD in ghost batches and LAMB tune their learning rate; what
goes around SGD in ghost batches has the rate of those and tunes its radius or rho.

One JSON line per run goes to benchmarks/converged.jsonl. Kill it at any point and start it again:
runs that have a line are not repeated. Without `--data_dir` it prints the tables.
"""

import argparse
import pathlib
import statistics
from typing import NamedTuple

import keras_smoothout as ks
from benchmarks import generalization_gap as gap
from benchmarks import report
from training import courses, runs

RESULTS = pathlib.Path(__file__).with_suffix(".jsonl")
SEEDS, TUNING_SEEDS = range(5), (100, 101)
SMALL, LARGE, GHOST, EPOCHS, HELD_OUT = 64, 1024, 128, 60, 45000


class Row(NamedTuple):
    """A line of the tables.

    Args:
        batch_size: small or large.
        ghosts: whether it has ghost batches.
        tunes: the option that is its own.
        start: where the search for it begins.
        method: its method.
        rate_of: the row whose tuned learning rate it has, unless it tunes its own.
    """

    batch_size: int
    ghosts: bool
    tunes: str
    start: float
    method: str = "sgd"
    rate_of: str | None = None


GHOSTS = "SGD + ghost batches"
ROWS = {
    "SGD, small batch": Row(SMALL, False, "learning_rate", 0.2),
    "SGD": Row(LARGE, False, "learning_rate", 0.4),
    GHOSTS: Row(LARGE, True, "learning_rate", 0.4),
    "SmoothOut": Row(LARGE, True, "radius", 0.08, "smoothout", GHOSTS),
    "AdaSmoothOut": Row(LARGE, True, "radius", 0.4, "adasmoothout", GHOSTS),
    "SAM": Row(LARGE, True, "rho", 0.1, "sam", GHOSTS),
    "LAMB": Row(LARGE, True, "learning_rate", 0.02, "lamb"),
}
FIRST = 4  # Rows that are finished before the others are begun.
SETTINGS = ("resnet8", "c1")  # Networks.


def run_of(setting, label, seed, values):
    """A run before it is trained; `values` are those of its tuned options."""
    row = ROWS[label]
    flags = ["--dataset=cifar10", "--image_size=16", "--train_examples=4096", f"--model={setting}"]
    flags += [f"--method={row.method}", f"--batch_size={row.batch_size}", f"--epochs={EPOCHS}"]
    flags += ["--warmup_epochs=3", "--lr_schedule=cosine"]
    flags += [f"--{name}={value:g}" for name, value in values.items()]
    flags += [f"--ghost_batch_size={GHOST}"] if row.ghosts else []
    experiment = setting
    if seed in TUNING_SEEDS:
        experiment = f"{setting}-tuning"
        flags += [f"--train_split=train[:{HELD_OUT}]", f"--test_split=train[{HELD_OUT}:]"]
        label = f"{label}, {row.tunes} {values[row.tunes]:g}"
    names = ("experiment", "label", "batch_size", "seed", "flags")
    return dict(zip(names, (experiment, label, row.batch_size, seed, flags), strict=True))


def trials(setting, label, done):
    """The runs that try the row's own number, by power of two, and the best options or `None`."""
    row, found = ROWS[label], {}
    powers = [-1, 0, 1]
    while True:
        for power in powers:
            values = fixed(setting, label, done) | {row.tunes: row.start * 2.0**power}
            runs_ = [run_of(setting, label, seed, values) for seed in TUNING_SEEDS]
            found[power] = values, runs_
        lines = {p: [done.get(gap.key(r)) for r in found[p][1]] for p in powers}
        if not all(map(all, lines.values())):
            return found, None
        best = max(powers, key=lambda p: statistics.mean(r["test_accuracy"] for r in lines[p]))
        if min(powers) < best < max(powers):
            return found, found[best][0]
        powers = [best - 1, *powers] if best == min(powers) else [*powers, best + 1]


def fixed(setting, label, done):
    """The options that another row has tuned."""
    source = ROWS[label].rate_of
    return {"learning_rate": tuned(setting, source, done)["learning_rate"]} if source else {}


def tuned(setting, label, done):
    """The tuned options of a row, or `None` while a trial is missing."""
    return trials(setting, label, done)[1]


def trained(run, data_dir):
    """The numbers of one run."""
    f, source, (x, y), test = gap.prepared(run, data_dir)
    model = runs.build(f, f.method, f.seed, source, courses.plan(f, len(x)))
    shuffled, clock = gap.Shuffled(x, y, f.batch_size, f.seed), gap.Clock()
    model.fit(shuffled, epochs=f.epochs, shuffle=False, verbose=0, callbacks=[clock])
    numbers = {"cpu_seconds": round(sum(clock.seconds), 1)}
    numbers |= gap.measured(model, "train", x, y) | gap.measured(model, "test", *test)
    ks.recalibrate(model, x)
    return run | numbers | gap.measured(model, "recalibrated", *test) | {"versions": gap.VERSIONS}


def table(setting, done):
    """What each row reaches, and its gain over ghost batches, paired by seed."""
    cells = {
        label: {
            run["seed"]: run
            for run in done.values()
            if (run["experiment"], run["label"]) == (setting, label)
        }
        for label in ROWS
    }
    lines = []
    for label, cell in cells.items():
        if cell:
            own = ROWS[label].tunes
            columns = [f"{own} {tuned(setting, label, done)[own]:g}"]
            columns.append(report.difference("test accuracy", cell, cells[GHOSTS]))
            columns += [report.mean_std(name, cell) for name in NAMES]
            lines.append((label, columns))
    return report.table(["", "its own number", "gain over ghost batches (%)", *NAMES], lines)


NAMES = ("test accuracy", "re-estimated accuracy", "test loss", "train-test gap")


def complete(setting, done, path, data_dir):
    """Tune each row, then train all of them seed by seed; the first rows before the others."""

    def train(runs_):
        gap.complete(runs_, done, path, lambda run: trained(run, data_dir))

    for labels in (list(ROWS)[:FIRST], list(ROWS)[FIRST:]):
        for label in labels:
            while tuned(setting, label, done) is None:
                train(
                    [run for _, runs_ in trials(setting, label, done)[0].values() for run in runs_]
                )
        train([run_of(setting, k, s, tuned(setting, k, done)) for s in SEEDS for k in labels])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", choices=SETTINGS, help="one of the networks; default: all")
    parser.add_argument("--data_dir", help="folder of prepared tfds sets; prints tables without")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    done = gap.resumed(args.results) if args.data_dir else gap.recorded(args.results)
    for setting in [args.setting] if args.setting else SETTINGS:
        if args.data_dir:
            complete(setting, done, args.results, args.data_dir)
        print(f"\n{setting}\n{table(setting, done)}")


if __name__ == "__main__":
    main()
