"""What closes the gap at convergence: `python -m benchmarks.converged --data_dir=DIR`.

A small batch against a large one, then the large one with one thing after the other, each trained
until SGD fits every training image. Settings: `resnet8` and `c1` (C1 at half width) on CIFAR-10 at
16 x 16 pixels, 4,096 images, no augmentation; `resnet8-256` and `resnet8-2048`, the former at other
large batches, for a curve over the batch size; `mnist` (F1 on 2,048 images); `noisy` (F1 on 8,192
images of Fashion-MNIST, a fifth of whose labels are wrong), where SGD stopped early is a row, too.

Each row has one number of its own, tuned at its batch size on the last 5,000 training images by
seeds that are not reported: trials a constant factor apart, and one more beyond the best as long as
that is the highest or the lowest. SGD, SGD in ghost batches and LAMB tune their learning rate; what
goes around SGD in ghost batches has the rate of those and tunes its radius or rho. (With wrong
labels, SGD does best at a rate that is too small to fit them. What regularizes by itself has the
rate at which ghost batches do best when they are stopped early.)

One JSON line per run goes to benchmarks/converged.jsonl. Kill it at any point and start it again:
runs that have a line are not repeated. Without `--data_dir` it trains nothing, and writes
CONVERGED.md, its figure and the table of the README from the lines.
"""

import argparse
import pathlib
import statistics
import textwrap
from typing import NamedTuple

import keras
from matplotlib import pyplot as plt

import keras_smoothout as ks
from benchmarks import generalization_gap as gap
from benchmarks import report
from training import courses, runs

RESULTS = pathlib.Path(__file__).with_suffix(".jsonl")
SEEDS, GHOST = range(5), 128
PAGE = report.HERE.parent / "docs" / "large_batches.md"
MARKS = "<!-- python -m benchmarks.converged -->", "<!-- end of the table -->"
NOISE = {"sharpness": (0.02, "absolute"), "relative_sharpness": (0.4, "filter")}


class Row(NamedTuple):
    """A line of the tables.

    Args:
        large: whether its batch is the large one.
        ghosts: whether it has ghost batches.
        tunes: the option that is its own, or `None`.
        start: where the search for it begins.
        flags: its method.
        source: the row whose tuned options it has, too.
        share: its epochs, as a share of those of the setting.
        stops: the row that it is like, but for being stopped early at a rate tuned for that.
    """

    large: bool
    ghosts: bool
    tunes: str | None
    start: float = 0.0
    flags: tuple = ("--method=sgd",)
    source: str | None = None
    share: float = 1.0
    stops: str | None = None


SMOOTHOUT, SAM = ("--method=smoothout",), ("--method=sam",)
SMALL, LARGE, GHOSTS = "SGD, small batch", "SGD", "SGD + ghost batches"
STOPPED = f"{GHOSTS}, stopped early"
ROWS = {
    SMALL: Row(False, False, "learning_rate", 0.2),
    LARGE: Row(True, False, "learning_rate", 0.4),
    GHOSTS: Row(True, True, "learning_rate", 0.4),
    "SmoothOut": Row(True, True, "radius", 0.08, SMOOTHOUT, GHOSTS),
    "AdaSmoothOut": Row(True, True, "radius", 0.4, ("--method=adasmoothout",), GHOSTS),
    "SAM": Row(True, True, "rho", 0.1, SAM, GHOSTS),
    "SAM, half the epochs": Row(True, True, None, flags=SAM, source="SAM", share=0.5),
    "SmoothOut, annealed": Row(
        True, True, None, flags=(*SMOOTHOUT, "--radius_schedule=annealed"), source="SmoothOut"
    ),
    "SmoothOut, tanh": Row(
        True, True, None, flags=(*SMOOTHOUT, "--radius_schedule=tanh"), source="SmoothOut"
    ),
    "SmoothOut, no ghosts": Row(True, False, None, flags=SMOOTHOUT, source="SmoothOut"),
    "LAMB": Row(True, False, "learning_rate", 0.02, ("--method=lamb",)),
    "SmoothOut, small batch": Row(False, False, "radius", 0.04, SMOOTHOUT, SMALL),
    f"{SMALL}, stopped early": Row(False, False, "learning_rate", 0.2, stops=SMALL),
    STOPPED: Row(True, True, "learning_rate", 0.4, stops=GHOSTS),
}
FIRST = 4  # Rows that are finished before the others are begun.
SHORT = (SMALL, LARGE, GHOSTS, "SmoothOut", "SAM")  # Those of the README.


class Setting(NamedTuple):
    """Data and a network.

    Args:
        flags: what all runs share.
        sizes: the small and the large batch.
        epochs: of each run.
        held_out: where the training images that the search is validated on begin.
        tuning_seeds: those of the search.
        early: whether it has the rows that are stopped early.
        rates: learning rates that the searches begin with, unless they are those of the row.
        only: the labels of its rows, or none for all.
    """

    flags: tuple
    sizes: tuple
    epochs: int
    held_out: int
    tuning_seeds: tuple = (100, 101)
    early: bool = False
    rates: tuple = ()
    only: tuple = ()


CIFAR = ("--dataset=cifar10", "--image_size=16", "--train_examples=4096")
C1 = ("--model=c1", "--width=0.5", "--dropout=0")
MNIST = ("--dataset=mnist", "--train_examples=2048", "--model=f1")
NOISY = ("--dataset=fashion_mnist", "--train_examples=8192", "--label_noise=0.2", "--model=f1")
WIDE = tuple(1e-4 * 4**power for power in range(7))  # With wrong labels, the least may be the best.
SETTINGS = {
    "resnet8": Setting((*CIFAR, "--model=resnet8"), (64, 1024), 60, 45000),
    "c1": Setting((*CIFAR, *C1), (64, 1024), 60, 45000),
    "noisy": Setting(NOISY, (64, 2048), 60, 55000, (100,), True, WIDE),
    "mnist": Setting(MNIST, (64, 2048), 100, 55000),
    **{
        f"resnet8-{size}": Setting(
            (*CIFAR, "--model=resnet8"), (64, size), 60, 45000, (100,), only=(GHOSTS, "SmoothOut")
        )
        for size in (256, 2048)
    },
}


def run_of(setting, label, seed, values):
    """A run before it is trained; `values` are those of its tuned options."""
    row, of = ROWS[label], SETTINGS[setting]
    batch_size, epochs, experiment = of.sizes[row.large], round(row.share * of.epochs), setting
    flags = [*of.flags, *row.flags, f"--batch_size={batch_size}", f"--epochs={epochs}"]
    flags += ["--warmup_epochs=3", "--lr_schedule=cosine"]
    flags += [f"--{name}={value:g}" for name, value in values.items()]
    flags += [f"--ghost_batch_size={GHOST}"] if row.ghosts else []
    if seed in of.tuning_seeds or of.early:
        flags.append(f"--train_split=train[:{of.held_out}]")
    if seed in of.tuning_seeds:
        flags.append(f"--test_split=train[{of.held_out}:]")
        experiment = f"{setting}-tuning"
        label = f"{row.stops or label}, {row.tunes} {values[row.tunes]:g}"
    names = ("experiment", "label", "batch_size", "seed", "flags")
    return dict(zip(names, (experiment, label, batch_size, seed, flags), strict=True))


def trials(setting, label, done):
    """The runs that try the row's own number, by its values, and the best options or `None`."""
    row, of, source = ROWS[label], SETTINGS[setting], source_of(setting, label)
    others = tuned(setting, source, done) if source else {}
    rates = of.rates if row.tunes == "learning_rate" else ()
    values = rates or (row.start / 2, row.start, row.start * 2)
    while True:
        options = {value: others | {row.tunes: value} for value in values}
        found = {
            value: [run_of(setting, label, seed, options[value]) for seed in of.tuning_seeds]
            for value in values
        }
        lines = {value: [done.get(gap.key(run)) for run in found[value]] for value in values}
        if not all(map(all, lines.values())):
            return found, None
        name = "stopped_accuracy" if row.stops else "test_accuracy"
        best = max(values, key=lambda value: statistics.mean(r[name] for r in lines[value]))
        if best == values[0]:
            values = (values[0] ** 2 / values[1], *values)
        elif best == values[-1]:
            values = (*values, values[-1] ** 2 / values[-2])
        else:
            return found, options[best]


def source_of(setting, label):
    """The row whose tuned options this one has."""
    source = ROWS[label].source
    return STOPPED if SETTINGS[setting].early and source == GHOSTS else source


def tuned(setting, label, done):
    """The tuned options of a row, or `None` while a trial is missing."""
    source = source_of(setting, label)
    others = tuned(setting, source, done) if source else {}
    return trials(setting, label, done)[1] if others is not None and ROWS[label].tunes else others


def trained(run, data_dir):
    """The numbers of one run."""
    f, source, (x, y), test = gap.prepared(run, data_dir)
    setting = SETTINGS[run["experiment"].removesuffix("-tuning")]
    reported = run["experiment"] in SETTINGS
    model = runs.build(f, f.method, f.seed, source, courses.plan(f, len(x)))
    callbacks = [gap.Clock()]
    if setting.early:
        options = {name: getattr(f, name) for name in runs.DATA_OPTIONS}
        options["test_split"] = f"train[{setting.held_out}:]"
        _, _, held_out = gap.arrays(*options.values())
        callbacks.append(Watched(held_out, test, f.epochs // 15))
    shuffled = gap.Shuffled(x, y, f.batch_size, f.seed)
    model.fit(shuffled, epochs=f.epochs, shuffle=False, verbose=0, callbacks=callbacks)
    numbers = {"cpu_seconds": round(sum(callbacks[0].seconds), 1)}
    numbers |= gap.measured(model, "train", x, y) | gap.measured(model, "test", *test)
    for watched in callbacks[1:]:
        numbers |= watched.best
    ks.recalibrate(model, x)
    numbers |= gap.measured(model, "recalibrated", *test)
    for name, noise in NOISE.items() if reported else ():
        numbers[name] = gap.sharpness(model, x, y, *noise)
    return run | numbers | {"versions": gap.VERSIONS}


class Watched(keras.callbacks.Callback):
    """Test results where the accuracy on held-out images is highest, looked at each few epochs."""

    def __init__(self, held_out, test, every):
        super().__init__()
        self.held_out, self.test, self.every, self.highest = held_out, test, every, 0.0

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        accuracy = gap.measured(self.model, "held_out", *self.held_out)["held_out_accuracy"]
        if accuracy > self.highest:
            self.highest = accuracy
            self.best = gap.measured(self.model, "stopped", *self.test)
            self.best |= {"stopped_epoch": epoch + 1}


def rows(setting):
    """The labels of a setting."""
    of = SETTINGS[setting]
    return [k for k, row in ROWS.items() if k in (of.only or ROWS) and (of.early or not row.stops)]


def runs_of(experiment, label, done):
    """The runs of a label by their seeds."""
    wanted = experiment, label
    return {
        run["seed"]: run for run in done.values() if (run["experiment"], run["label"]) == wanted
    }


def cell(setting, label, done):
    """The runs of a row by their seeds; its test results are those of where it stopped."""
    found = runs_of(setting, label, done)
    if ROWS[label].stops:
        names = {"test_accuracy": "stopped_accuracy", "test_loss": "stopped_loss"}
        kept = {"flags": "flags"} | names
        found = {seed: {k: run[v] for k, v in kept.items()} for seed, run in found.items()}
    return found


NAMES = ("test accuracy", "re-estimated accuracy", "test loss", "train-test gap", "sharpness")
NAMES += ("relative sharpness",)
TITLES = {
    "resnet8": "ResNet-8 on 4,096 images of CIFAR-10 at 16 x 16 pixels, 60 epochs",
    "c1": "C1 at half width, without dropout, on the same images",
    "noisy": "F1 on 8,192 images of Fashion-MNIST, a fifth of the labels wrong, 60 epochs",
    "mnist": "F1 on 2,048 images of MNIST, 100 epochs",
    "resnet8-256": "ResNet-8 as above, at batch size 256",
    "resnet8-2048": "ResNet-8 as above, at batch size 2048",
}
OTHERS = {size: f"resnet8-{size}" for size in (256, 2048)}
CURVE = {  # label: the setting and the row at each batch size of ResNet-8.
    "SGD, from 256 on in ghost batches": {
        64: ("resnet8", SMALL),
        1024: ("resnet8", GHOSTS),
        **{size: (setting, GHOSTS) for size, setting in OTHERS.items()},
    },
    "SmoothOut": {
        64: ("resnet8", "SmoothOut, small batch"),
        1024: ("resnet8", "SmoothOut"),
        **{size: (setting, "SmoothOut") for size, setting in OTHERS.items()},
    },
}


def found(setting, done):
    """The rows that have been trained, with their runs by seed."""
    pairs = ((label, cell(setting, label, done)) for label in rows(setting))
    return {label: runs_ for label, runs_ in pairs if runs_}


def table(setting, done, names=NAMES, labels=ROWS):
    """What each row reaches, and its gain over ghost batches, paired by seed."""
    cells, lines = found(setting, done), []
    for label, runs_ in cells.items():
        if label not in labels:
            continue
        own = ROWS[label].tunes
        columns = [f"{own} {tuned(setting, label, done)[own]:g}" if own else ""]
        baseline = cells.get(GHOSTS, {}) if label != GHOSTS else {}
        columns.append(report.difference("test accuracy", runs_, baseline))
        columns += [
            report.mean_std(name, runs_) if report.has(name, runs_) else "" for name in names
        ]
        size = SETTINGS[setting].sizes[ROWS[label].large]
        lines.append((f"{label} ({size})", columns))
    return report.table(["", "its own number", "gain over ghost batches (%)", *names], lines)


def summary(done):
    """A line for each setting: is there a gap, and what does SmoothOut do about it?"""
    lines = []
    for setting, of in SETTINGS.items():
        cells = found(setting, done)
        if "SmoothOut" not in cells:
            continue
        small = found("resnet8", done)[SMALL] if of.only else cells[SMALL]
        accuracies = [
            report.mean_std("test accuracy", runs_)
            for runs_ in (small, cells[GHOSTS], cells["SmoothOut"])
        ]
        gain = report.difference("test accuracy", cells["SmoothOut"], cells[GHOSTS])
        radius = f"{tuned(setting, 'SmoothOut', done)['radius']:.2g}"
        sizes = f"{of.sizes[0]}, {of.sizes[1]}"
        lines.append((TITLES[setting], [sizes, *accuracies, gain, radius]))
    heads = ["", "batches", "SGD, small", "ghost batches, large", "SmoothOut, large"]
    return report.table([*heads, "gain over ghost batches", "its radius"], lines)


def search(setting, done):
    """The trials: accuracy on the images held out, a mean over the tuning seeds."""
    tried = {}
    for run in done.values():
        if run["experiment"] == f"{setting}-tuning":
            tried.setdefault(run["label"], {})[run["seed"]] = run
    lines = [(label, [report.mean_std("test accuracy", tried[label])]) for label in sorted(tried)]
    return report.table(["", "validation accuracy (%)"], lines)


def draw(done):
    """Test accuracy and loss of each row, a column for each setting."""
    settings = [k for k in SETTINGS if found(k, done) and not SETTINGS[k].only]
    size = 6 * len(settings), 6
    figure, axes = plt.subplots(2, len(settings), figsize=size, layout="constrained", squeeze=False)
    for column, setting in zip(axes.T, settings, strict=True):
        cells = found(setting, done)
        for axis, name in zip(column, ("test accuracy", "test loss"), strict=True):
            measure, _, unit = report.MEASURES[name]
            for place, (label, runs_) in enumerate(cells.items()):
                values = [measure(run) for run in runs_.values()]
                color = report.COLORS[ROWS[label].large + (ROWS[label].large and label != LARGE)]
                axis.plot(values, [place] * len(values), ".", color=color, alpha=0.4)
                axis.plot(statistics.mean(values), place, "o", color=color)
            axis.set_yticks(range(len(cells)), cells)
            axis.invert_yaxis()
            report.tidy(axis, xlabel=f"{name} ({unit})")
        column[0].set_title(textwrap.fill(TITLES[setting], 48), fontsize=10)
    report.save(figure, "converged")


def draw_curve(done):
    """Test accuracy and loss of ResNet-8 against the batch size, with standard deviations."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, name in zip(axes, ("test accuracy", "test loss"), strict=True):
        measure, _, unit = report.MEASURES[name]
        for (label, places), color in zip(CURVE.items(), report.COLORS, strict=False):
            cells = {size: cell(*place, done) for size, place in sorted(places.items())}
            values = {size: [measure(run) for run in c.values()] for size, c in cells.items() if c}
            means = [statistics.mean(v) for v in values.values()]
            spreads = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values.values()]
            axis.errorbar(list(values), means, spreads, marker="o", color=color, label=label)
        report.tidy(axis, xlabel="batch size", ylabel=f"{name} ({unit})", xscale="log")
        axis.set_xticks(*2 * [[64, 256, 1024, 2048]])
        axis.minorticks_off()
    axes[0].legend(frameon=False)
    report.save(figure, "batch_size")


def write(done):
    """Write the page, its figures, and the tables of the README and of the docs."""
    text = [
        "# At convergence",
        f"Written by `python -m benchmarks.converged` from [the runs]({RESULTS.name}); "
        "[converged.py](converged.py) says how they were made. Mean ± std (number of seeds); gains "
        "are paired by seed, with 95 % confidence.",
        "![each method in each setting](figures/converged.png)",
        "![ResNet-8 against the batch size](figures/batch_size.png)",
    ]
    for setting in SETTINGS:
        if found(setting, done):
            text += [f"## {TITLES[setting]}", table(setting, done)]
            text += ["### The search", search(setting, done)]
    (report.HERE / "CONVERGED.md").write_text("\n\n".join(text) + "\n")
    draw(done)
    draw_curve(done)
    names = ("test accuracy", "test loss")
    report.put(report.README, MARKS, table("resnet8", done, names, SHORT))
    report.put(PAGE, MARKS, summary(done))


def complete(setting, done, path, data_dir):
    """Tune each row, then train all of them seed by seed; the first rows before the others."""

    def train(runs_):
        gap.complete(runs_, done, path, lambda run: trained(run, data_dir))

    for labels in (rows(setting)[:FIRST], rows(setting)[FIRST:]):
        for label in labels:
            while tuned(setting, label, done) is None:
                train([run for runs_ in trials(setting, label, done)[0].values() for run in runs_])
        train([run_of(setting, k, s, tuned(setting, k, done)) for s in SEEDS for k in labels])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", choices=SETTINGS, help="one of the settings; default: all")
    parser.add_argument("--data_dir", help="folder of prepared tfds sets; without, writes the page")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    if not args.data_dir:
        write(gap.recorded(args.results))
        return
    done = gap.resumed(args.results)
    for setting in [args.setting] if args.setting else SETTINGS:
        complete(setting, done, args.results, args.data_dir)
        print(f"\n{setting}\n{table(setting, done)}")


if __name__ == "__main__":
    main()
