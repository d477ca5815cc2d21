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
import math
import pathlib
import statistics
from typing import NamedTuple

import keras_smoothout as ks
from benchmarks import generalization_gap as gap
from training import courses, runs

RESULTS = pathlib.Path(__file__).with_suffix(".jsonl")
SEEDS, TUNING_SEEDS = range(5), (100, 101)


class Row(NamedTuple):
    """A line of the tables.

    Args:
        large: whether it has the large batch.
        ghosts: whether it has ghost batches.
        tunes: the option that is its own.
        start: where the search for it begins.
        method: its method.
        rate_of: the row whose tuned learning rate it has, unless it tunes its own.
    """

    large: bool
    ghosts: bool
    tunes: str
    start: float
    method: str = "sgd"
    rate_of: str | None = None


GHOSTS = "SGD + ghost batches"
ROWS = {
    "SGD, small batch": Row(False, False, "learning_rate", 0.2),
    "SGD": Row(True, False, "learning_rate", 0.4),
    GHOSTS: Row(True, True, "learning_rate", 0.4),
    "SmoothOut": Row(True, True, "radius", 0.08, "smoothout", GHOSTS),
    "AdaSmoothOut": Row(True, True, "radius", 0.4, "adasmoothout", GHOSTS),
    "SAM": Row(True, True, "rho", 0.1, "sam", GHOSTS),
    "LAMB": Row(True, True, "learning_rate", 0.02, "lamb"),
}
CORE = 4  # Rows that are done before the others are begun.
CIFAR = ("--dataset=cifar10", "--image_size=16", "--train_examples=4096")


class Setting(NamedTuple):
    """A network, its data and its batch sizes."""

    flags: tuple
    small: int = 64
    large: int = 1024
    ghost: int = 128
    epochs: int = 60
    warmup: int = 3
    held_out: int = 45000  # Training images that tuning leaves for training.
    rows: tuple = tuple(ROWS)


SETTINGS = {"resnet8": Setting((*CIFAR, "--model=resnet8")), "c1": Setting((*CIFAR, "--model=c1"))}


def run_of(setting, label, seed, values):
    """A run before it is trained; `values` are those of its tuned options."""
    row, its = ROWS[label], SETTINGS[setting]
    batch = its.large if row.large else its.small
    flags = [*its.flags, f"--method={row.method}", f"--batch_size={batch}"]
    flags += [f"--epochs={its.epochs}", f"--warmup_epochs={its.warmup}", "--lr_schedule=cosine"]
    flags += [f"--{name}={value:g}" for name, value in values.items()]
    flags += [f"--ghost_batch_size={its.ghost}"] if row.ghosts else []
    experiment = setting
    if seed in TUNING_SEEDS:
        experiment = f"{setting}-tuning"
        split = its.held_out
        flags += [f"--train_split=train[:{split}]", f"--test_split=train[{split}:]"]
        label = f"{label}, {row.tunes} {values[row.tunes]:g}"
    names = ("experiment", "label", "batch_size", "seed", "flags")
    return dict(zip(names, (experiment, label, batch, seed, flags), strict=True))


def trials(setting, label, done):
    """The values of the row's own number that are tried, and the mean success of each so far."""
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
    shuffled = gap.Shuffled(x, y, f.batch_size, f.seed)
    clock = gap.Clock()
    model.fit(shuffled, epochs=f.epochs, shuffle=False, verbose=0, callbacks=[clock])
    numbers = {"cpu_seconds": round(sum(clock.seconds), 1)}
    for name, (images, labels) in (("train", (x, y)), ("test", test)):
        measured = model.evaluate(images, labels, 500, verbose=0, return_dict=True)
        numbers |= {f"{name}_{metric}": float(value) for metric, value in measured.items()}
    ks.recalibrate(model, x)
    measured = model.evaluate(*test, 500, verbose=0, return_dict=True)
    numbers |= {f"recalibrated_{metric}": float(value) for metric, value in measured.items()}
    return run | numbers | {"versions": gap.VERSIONS}


def table(setting, done):
    """Mean and deviation of each row, and its paired gain over ghost batches."""
    names = ("", "n", "number", "test", "gain over ghosts", "recalibrated", "test loss", "train")
    rows = [names, ["---"] * len(names)]
    for label in SETTINGS[setting].rows:
        found = [r for r in done.values() if (r["experiment"], r["label"]) == (setting, label)]
        if not found:
            continue
        columns = [[100 * r[k] for r in found] for k in ("test_accuracy", "recalibrated_accuracy")]
        values = tuned(setting, label, done)
        own = f"{ROWS[label].tunes} {values[ROWS[label].tunes]:g}"
        losses = [r["test_loss"] for r in found]
        train = statistics.mean(100 * r["train_accuracy"] for r in found)
        test, again = map(spread, columns)
        gain = paired(setting, label, done) if ROWS[label].large and label != GHOSTS else ""
        rows.append([label, len(found), own, test, gain, again, spread(losses), f"{train:.1f}"])
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def spread(values):
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if values[1:] else 0:.2f}"


STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78}  # 97.5 % points, by degrees of freedom.


def paired(setting, label, done):
    """Mean difference to ghost batches over the seeds that both have, and its 95 % interval."""
    pairs = [
        [done.get((setting, name, SETTINGS[setting].large, s)) for name in (label, GHOSTS)]
        for s in SEEDS
    ]
    gains = [100 * (a["test_accuracy"] - b["test_accuracy"]) for a, b in pairs if a and b]
    if len(gains) < 2:
        return "-"
    half = STUDENT[len(gains) - 1] * statistics.stdev(gains) / math.sqrt(len(gains))
    mean = statistics.mean(gains)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", choices=SETTINGS, help="one of the networks; default: all")
    parser.add_argument("--data_dir", help="folder of prepared tfds sets; prints tables without")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    done = gap.resumed(args.results)
    for setting in [args.setting] if args.setting else SETTINGS:
        if args.data_dir:
            complete(setting, done, args)
        print(f"\n{setting}\n{table(setting, done)}")


def complete(setting, done, args):
    """Tune every row, then train all of them seed by seed; the main rows first."""

    def train(run):
        if gap.key(run) not in done:
            done[gap.key(run)] = trained(run, args.data_dir)
            gap.record(args.results, done[gap.key(run)])
            print(gap.key(run), done[gap.key(run)]["test_accuracy"], flush=True)

    first = SETTINGS[setting].rows[:CORE]
    for labels in (first, SETTINGS[setting].rows[CORE:]):
        for label in labels:
            while tuned(setting, label, done) is None:
                for _, runs_ in trials(setting, label, done)[0].values():
                    for run in runs_:
                        train(run)
        for seed in SEEDS:
            for label in labels:
                train(run_of(setting, label, seed, tuned(setting, label, done)))


if __name__ == "__main__":
    main()
