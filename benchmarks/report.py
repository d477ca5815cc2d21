"""Tables and figures of benchmarks/generalization_gap.jsonl: `python -m benchmarks.report`.

Writes benchmarks/RESULTS.md and its figures, and the table between the marks of README.md. Every
number is computed from the runs, one per line.
"""

import argparse
import collections
import json
import math
import pathlib
import statistics

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from scipy import stats

from benchmarks.generalization_gap import ROWS

HERE = pathlib.Path(__file__).parent
README = HERE.parent / "README.md"
MARKS = "<!-- evidence: python -m benchmarks.report -->", "<!-- end of evidence -->"
BASELINES = "SGD", "+ ghost batches"  # What the others are compared with.
# Okabe and Ito's palette with a marker each, which the colour-blind can tell apart.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = [
    {"marker": marker, "linestyle": line}
    for marker, line in (("o", "solid"), ("s", "dashed"), ("^", "dotted"), ("D", "dashdot"))
]
TITLES = {
    "f1": "F1 on 20,000 images of Fashion-MNIST, 15 epochs of the base recipe",
    "f1-full": "F1 on all 60,000 images of Fashion-MNIST, 5 epochs",
    "resnet8": "ResNet-8 on 5,000 images of CIFAR-10 at 16 x 16 pixels, 8 epochs",
    "noise": "Radius and copies: F1 on 20,000 images of Fashion-MNIST, 15 epochs, ghosts of 128",
}
MEASURES = {  # name: value of a run, format, unit
    "test accuracy": (lambda run: 100 * run["test_accuracy"], ".2f", "%"),
    "test loss": (lambda run: run["test_loss"], ".3f", "nats"),
    "train-test gap": (
        lambda run: 100 * (run["train_accuracy"] - run["test_accuracy"]),
        ".2f",
        "%",
    ),
    "sharpness": (lambda run: run["sharpness"], ".3f", "nats"),
    "relative sharpness": (lambda run: run["relative_sharpness"], ".3f", "nats"),
    "re-estimated accuracy": (lambda run: 100 * run["recalibrated_accuracy"], ".2f", "%"),
}
SOME = {  # Not all runs have them.
    "sharpness": "sharpness",
    "relative sharpness": "relative_sharpness",
    "re-estimated accuracy": "recalibrated_accuracy",
    "train-test gap": "train_accuracy",
}
COSTS = {  # The same for all seeds: the seconds are those of one timed run.
    "updates": lambda run: run["updates"],
    "CPU seconds": lambda run: run["epochs"] * run["epoch_seconds"],
}


def read(path):
    """Nested dicts: setting, label, batch size, seed, run; labels in the order of `ROWS`."""
    tree = collections.defaultdict(lambda: collections.defaultdict(dict))
    for line in path.read_text().splitlines():
        run = json.loads(line)
        cells = tree[run["experiment"]][run["label"]]
        cells.setdefault(run["batch_size"], {})[run["seed"]] = run
    for name in [name for name in tree if name.endswith("-timing")]:
        timings, rows = tree.pop(name), tree.get(name.removesuffix("-timing"), {})
        for label, cells in rows.items():
            for size, runs in cells.items():
                (timed,) = timings[label][size].values()
                for run in runs.values():
                    run["epoch_seconds"] = timed["cpu_seconds_per_epoch"]
    for rows in tree.values():
        for label in [label for label in ROWS if label in rows]:
            rows[label] = rows.pop(label)
    return tree


def has(name, cell):
    """Whether the runs of a cell have a measure."""
    return all(SOME.get(name, "flags") in run for run in cell.values())


def mean_std(name, cell):
    """`mean ± std (n)` of a measure over the seeds of a cell."""
    measure, form, _ = MEASURES[name]
    values = [measure(run) for run in cell.values()]
    spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{spread} ({len(values)})"


def difference(name, cell, baseline):
    """Mean difference of paired seeds, and its 95 % confidence interval by Student's t."""
    measure, form, _ = MEASURES[name]
    both = cell.keys() & baseline.keys()
    if len(both) < 2:
        return ""
    if all(cell[seed]["flags"] == baseline[seed]["flags"] for seed in both):
        return "the same runs"
    pairs = [measure(cell[seed]) - measure(baseline[seed]) for seed in sorted(both)]
    mean, error = statistics.mean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs))
    reach = stats.t.ppf(0.975, len(pairs) - 1) * error
    return f"{mean:+{form}} [{mean - reach:+{form}}, {mean + reach:+{form}}]"


def table(heads, lines):
    """A Markdown table. The first head is for the labels; a line is a label and its cells."""
    rows = [heads, ["---"] * len(heads), *([label, *cells] for label, cells in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def batch_sizes(rows):
    return sorted({size for cells in rows.values() for size in cells})


def filled(name, rows, sizes):
    """The lines of a table of one measure."""
    return [(k, [mean_std(name, c[s]) if s in c else "" for s in sizes]) for k, c in rows.items()]


def compared(name, rows, baselines):
    """The lines of a table of differences from the baseline of each batch size."""
    return [
        (k, [difference(name, c.get(s, {}), baseline) for s, baseline in baselines.items()])
        for k, c in rows.items()
    ]


def any_run(cells):
    """One of the runs of a label."""
    return next(iter(next(iter(cells.values())).values()))


def section(setting, rows, tuning):
    """All tables of a setting, and links to its figures."""
    sizes = batch_sizes(rows)
    heads = ["batch size", *map(str, sizes)]
    made = {any_run(cells)["versions"] for cells in rows.values()}
    lines = [f"## {TITLES.get(setting, setting)}", f"{', '.join(sorted(made))}; CPU."]
    for name, (_, _, unit) in MEASURES.items():
        if not has(name, next(iter(next(iter(rows.values())).values()))):
            continue
        lines += [f"### {name} ({unit}), mean ± std (n)", table(heads, filled(name, rows, sizes))]
    for name, cost in COSTS.items():
        cells = [
            (k, [f"{cost(any_run({s: c[s]})):.0f}" if s in c else "" for s in sizes])
            for k, c in rows.items()
        ]
        lines += [f"### {name} of a run", table(heads, cells)]
    for name in ("test accuracy", "test loss") if setting != "noise" else ():
        for i, label in enumerate(BASELINES, 1):
            others = {k: cells for k, cells in rows.items() if k not in BASELINES[:i]}
            cells = compared(name, others, {size: rows[label].get(size, {}) for size in sizes})
            heading = f"### {name} minus that of {label}, same seeds, 95 % confidence"
            lines += [heading, table(heads, cells)]
    if setting != "noise":
        name, label, small = "test accuracy", BASELINES[0], sizes[0]
        cells = compared(name, rows, dict.fromkeys(sizes, rows[label][small]))
        what = f"{name} minus that of {label} at {small}, same seeds, 95 % confidence"
        lines += [f"### what is left of the gap: {what}", table(heads, cells)]
    if tuning:
        some = {label: any_run(cells) for label, cells in tuning.items()}
        methods = list(dict.fromkeys(run["tunes"] for run in some.values()))
        order = sorted(some, key=lambda k: (methods.index(some[k]["tunes"]), some[k]["rate"]))
        name = "test accuracy"  # On the images held out for validation.
        cells = filled(name, {label: tuning[label] for label in order}, sizes)
        lines += ["### trials of the learning rate: validation accuracy (%)", table(heads, cells)]
    figures = ("radius",) if setting == "noise" else ("batch_size", "time")
    lines += [f"![{setting}](figures/{setting}_{name}.png)" for name in figures]
    return "\n\n".join(lines)


def styles(rows):
    """A style for each label: rows of the same tuned rate share a colour."""
    families = [ROWS[label].rate for label in rows]
    colors = dict(zip(dict.fromkeys(families), COLORS, strict=False))
    return {
        label: {"color": colors[family], **LINES[families[:i].count(family)]}
        for i, (label, family) in enumerate(zip(rows, families, strict=True))
    }


def save(figure, name):
    (HERE / "figures").mkdir(exist_ok=True)
    figure.savefig(HERE / "figures" / f"{name}.png", dpi=130)
    plt.close(figure)


def tidy(axis, **labels):
    axis.set(**labels)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def worst(rows):
    """Test accuracy of the baseline at its worst batch size."""
    measure = MEASURES["test accuracy"][0]
    return min(statistics.mean(map(measure, cell.values())) for cell in rows[BASELINES[0]].values())


def by_batch_size(setting, rows):
    """Accuracy, loss and gap over batch size: means, and one standard error either side."""
    names = ("test accuracy", "test loss", "train-test gap")
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        measure, _, unit = MEASURES[name]
        for label, style in styles(rows).items():
            cells = rows[label]
            sizes = sorted(cells)
            values = [[measure(run) for run in cells[size].values()] for size in sizes]
            errors = [stats.sem(v) if len(v) > 1 else 0.0 for v in values]
            means = [statistics.mean(v) for v in values]
            axis.errorbar(sizes, means, errors, **style, markersize=5, label=label)
        tidy(axis, xscale="log", xlabel="batch size", ylabel=f"{name} ({unit})")
        axis.set_xticks(batch_sizes(rows), map(str, batch_sizes(rows)))
        axis.minorticks_off()
    axes[0].set_ylim(
        bottom=max(axes[0].get_ylim()[0], worst(rows) - 3)
    )  # Below it training failed.
    axes[1].set_yscale("log")
    axes[1].yaxis.set_major_formatter("{x:g}")
    axes[1].yaxis.set_minor_formatter("{x:.2g}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(TITLES.get(setting, setting))
    save(figure, f"{setting}_batch_size")


def by_time(setting, rows):
    """Test accuracy over CPU seconds of training, mean over seeds, a panel for each batch size."""
    sizes = batch_sizes(rows)
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(4 * len(sizes), 4.4), sharey=True, layout="constrained"
    )
    for axis, size in zip(axes, sizes, strict=True):
        for label, style in styles(rows).items():
            runs = list(rows[label].get(size, {}).values())
            if not runs:
                continue
            points = list(zip(*(run["curve"] for run in runs), strict=True))
            seconds = [point[0][0] * runs[0]["epoch_seconds"] for point in points]
            accuracy = [100 * statistics.mean(p[1] for p in point) for point in points]
            axis.plot(seconds, accuracy, **style, markersize=3, label=label)
        tidy(axis, xscale="log", xlabel="CPU seconds", title=f"batch size {size}")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    axes[0].set_ylabel("test accuracy (%)")
    runs = [run for cells in rows.values() for cell in cells.values() for run in cell.values()]
    best = max(100 * point[1] for run in runs for point in run["curve"])
    axes[0].set_ylim(worst(rows) - 8, best + 0.5)
    handles = {}
    for axis in axes:
        handles |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles, loc="outside right center", frameon=False)
    figure.suptitle(f"{TITLES.get(setting, setting)}: accuracy for equal time")
    save(figure, f"{setting}_time")


def by_radius(setting, rows):
    """Accuracy, loss and sharpness over the radius, a line for each batch size."""
    names = ("test accuracy", "test loss", "sharpness")
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    labels = [label for label in rows if "copies" not in label]
    radii = [float(label.split()[1]) for label in labels]
    for size, color in zip(batch_sizes(rows), COLORS, strict=False):
        for axis, name in zip(axes, names, strict=True):
            measure, _, unit = MEASURES[name]
            values = [list(map(measure, rows[label][size].values())) for label in labels]
            errors = [stats.sem(v) if len(v) > 1 else 0.0 for v in values]
            means = [statistics.mean(v) for v in values]
            axis.errorbar(radii, means, errors, color=color, marker="o", label=f"batch size {size}")
            tidy(axis, xlabel="radius", ylabel=f"{name} ({unit})")
            axis.set_xscale("symlog", linthresh=0.01)
            axis.set_xticks(radii, map("{:g}".format, radii))
            axis.minorticks_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(TITLES[setting])
    save(figure, f"{setting}_radius")


EVIDENCE = ("SGD", "+ ghost batches", "SmoothOut", "SAM", "LAMB + SAM")


def evidence(rows, sizes=(128, 2048, 8192)):
    """The README's table: test accuracy and loss of five methods."""
    columns = [(size, name) for size in sizes for name in ("test accuracy", "test loss")]
    heads = ["", *(f"{size}: {name.removeprefix('test ')}" for size, name in columns)]
    cells = [
        (k, [mean_std(n, rows[k][s]) if s in rows[k] else "" for s, n in columns]) for k in EVIDENCE
    ]
    return table(heads, cells)


def put(page, marks, text):
    """Replace the text between two marks of a page."""
    before, rest = page.read_text().split(marks[0])
    _, after = rest.split(marks[1], 1)
    page.write_text(f"{before}{marks[0]}\n{text}\n{marks[1]}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=pathlib.Path, default=HERE / "generalization_gap.jsonl")
    args = parser.parse_args()
    tree = read(args.results)
    text = [
        "# Results",
        f"Written by `python -m benchmarks.report` from [the runs]({args.results.name}); "
        "[generalization_gap.py](generalization_gap.py) says how they were made.",
    ]
    for setting, rows in tree.items():
        if setting.endswith("-tuning"):
            continue
        if setting == "noise":
            by_radius(setting, rows)
        else:
            by_batch_size(setting, rows)
            by_time(setting, rows)
        text.append(section(setting, rows, tree.get(f"{setting}-tuning")))
    (HERE / "RESULTS.md").write_text("\n\n".join(text) + "\n")
    put(README, MARKS, evidence(tree["f1"]))


if __name__ == "__main__":
    main()
