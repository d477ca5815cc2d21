"""What is left of runs: their history as a file, the closing table and the picture."""

import csv
import itertools
import math
import statistics

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from keras_smoothout.landscape import plots

COLUMNS = {
    "train acc": ("train_accuracy", ".4f"),
    "test acc": ("test_accuracy", ".4f"),
    "train loss": ("train_loss", ".4f"),
    "test loss": ("test_loss", ".4f"),
}
SPEEDS = {
    "s/epoch": ("seconds_per_epoch", ".3g"),
    "images/s": ("images_per_second", ",.0f"),
}
HEADS = ["method", "seeds", *COLUMNS, *SPEEDS]
# Okabe and Ito's palette, which the colour-blind can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = {"train": (0, (2, 2)), "test": "solid"}


def write(history, path):
    """Writes a history, a list of rows from column to number, as CSV."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)


def read(path):
    """Reads what `write` wrote, and counts as integers."""

    def number(text):
        return int(text) if text.isdecimal() else float(text)

    rows = csv.DictReader(path.read_text().splitlines())
    return [{key: number(value) for key, value in row.items()} for row in rows]


def table(summaries):
    """Aligned lines, one for each method: mean and standard deviation over its seeds.

    Args:
        summaries: from the name of a method to the summaries of its runs.
    """
    lines = [HEADS, *cells(summaries)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def worth(summaries, batch_size):
    """Lines that say how large a batch is still worth it, one for each method that knows.

    Args:
        summaries: from the name of a method to the summaries of its runs.
        batch_size: of these runs.
    """
    for method, runs in summaries.items():
        scales = [run["gradient_noise_scale"] for run in runs if "gradient_noise_scale" in run]
        if not scales:
            continue
        scale = max(0.0, statistics.median(scales))
        yield (
            f"{method}, gradient noise scale {scale:.3g}: batches of {batch_size} take "
            f"{1 + scale / batch_size:.3g} times the fewest updates and "
            f"{1 + (batch_size / scale if scale else math.inf):.3g} times the fewest examples"
        )


def cells(summaries):
    """A line of text for each method: its name, the number of its seeds, and its numbers."""
    for method, runs in summaries.items():
        line = [method, str(len(runs))]
        for key, form in [*COLUMNS.values(), *SPEEDS.values()]:
            values = [run[key] for run in runs]
            spread = len(runs) > 1 and (key, form) in COLUMNS.values()
            deviation = f" ± {statistics.stdev(values):{form}}" if spread else ""
            line.append(f"{statistics.mean(values):{form}}{deviation}")
        yield line


def distances(path, picture, title):
    """Draws what `DistanceFromInit` wrote to `path`: distance over log(step)."""
    lines = path.read_text().splitlines()
    rows = [(float(row["step"]), float(row["distance"])) for row in csv.DictReader(lines)]
    figure, axis = plt.subplots(figsize=(5.5, 4.2), layout="constrained")
    axis.plot(*zip(*rows, strict=True), color=COLORS[0], marker=".")
    axis.set(xscale="log", xlabel="step", ylabel="distance from the initial weights", title=title)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def learning(histories, path, title):
    """Draws loss and accuracy over the epochs: a colour for each method, solid for test.

    Args:
        histories: from the name of a method to the histories of its runs, which are drawn as their
            mean and the range between them.
        path: file to write.
        title: words above the picture.
    """
    height = max(4.2, 0.5 * len(histories))  # Room for two lines of the legend for each method.
    figure, axes = plt.subplots(1, 2, figsize=(11, height), layout="constrained")
    figure.suptitle(title)
    for axis, metric in zip(axes, ("loss", "accuracy"), strict=True):
        for (method, runs), color in zip(histories.items(), itertools.cycle(COLORS)):
            for split, column in (("train", metric), ("test", f"val_{metric}")):
                values = list(zip(*([row[column] for row in run] for run in runs), strict=True))
                epochs = [row["epoch"] for row in runs[0]]
                axis.plot(
                    epochs,
                    [statistics.mean(value) for value in values],
                    color=color,
                    linestyle=STYLES[split],
                    marker="o" if len(epochs) == 1 else None,
                    label=f"{method}, {split}",
                )
                if len(runs) > 1:
                    low, high = map(min, values), map(max, values)
                    axis.fill_between(epochs, list(low), list(high), color=color, alpha=0.15, lw=0)
        axis.set(xlabel="epoch", title=metric)
        axis.locator_params(axis="x", integer=True)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log")
    late = [row for runs in histories.values() for run in runs for row in run[len(run) // 5 :]]
    error = 1.01 - min(row[column] for row in late for column in ("accuracy", "val_accuracy"))
    axes[1].set_ylim(1 - 1.1 * error, 1 + 0.05 * error)  # Cuts off the rise of the first epochs.
    axes[1].legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def search(found, path, name):
    """Draws the range test that found the option `name`."""
    plots.radius(found, name=name).savefig(path, dpi=160)
