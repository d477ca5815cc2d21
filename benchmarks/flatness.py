"""Is the minimum of a large batch sharper? `python -m benchmarks.flatness --data_dir=DIR`.

Trains F1 on 20,000 images of Fashion-MNIST as benchmarks/generalization_gap.py does, with its tuned
rates. SGD has a small and a large batch. SmoothOut at the radii 0 (ghost batches and its rate
alone), 0.02 and 0.04, and SAM, have the large batch. Takes every measure of
`keras_smoothout.landscape` on the first 1,000 training images, and appends one JSON line per run to
benchmarks/flatness.jsonl. Runs that have a line are not repeated. Then writes the table of
docs/landscape.md and its figure from the lines; with --table it does only that.
"""

import argparse
import pathlib
import statistics

from scipy import stats

from benchmarks import generalization_gap as gap
from benchmarks.report import HERE, put, table

RESULTS = HERE / "flatness.jsonl"
PAGE = HERE.parent / "docs" / "landscape.md"
MARKS = "<!-- python -m benchmarks.flatness -->", "<!-- end of the table -->"
SMALL, LARGE, EXAMPLES = 128, 2048, 1000
LABELS = ("SGD", "SmoothOut 0", "SmoothOut 0.02", "SmoothOut 0.04", "SAM")
KINDS = [("SGD", SMALL), *((label, LARGE) for label in LABELS)]
OUTCOMES = {"test_error": "error", "test_loss": "loss"}


def cells():
    """The runs, one seed after the other."""
    rates = gap.tuned(gap.recorded(gap.RESULTS), "f1")
    runs = [*gap.grid("f1", rates), *gap.noise("noise", rates)]
    runs = [run | {"experiment": "flatness"} for run in runs]
    return sorted(
        (run for run in runs if (run["label"], run["batch_size"]) in KINDS),
        key=lambda run: run["seed"],
    )


def measured(run, data_dir):
    """Train a run, and return it with its results on test data and every measure."""
    from keras_smoothout import landscape

    f, source, (x, y), test = gap.prepared(run, data_dir)
    model = gap.runs.build(f, f.method, f.seed, source, gap.courses.plan(f, len(x)))
    start = landscape.Objective(model, x[:EXAMPLES], y[:EXAMPLES]).weights
    shuffled = gap.Shuffled(x, y, f.batch_size, f.seed)
    model.fit(shuffled, epochs=f.epochs, shuffle=False, verbose=0)
    tested = model.evaluate(*test, 5000, verbose=0, return_dict=True)
    objective = landscape.Objective(model, x[:EXAMPLES], y[:EXAMPLES])
    rows = landscape.measures(objective, start=start)
    outcome = {"test_error": 1 - tested["accuracy"], "test_loss": tested["loss"]}
    outcome["versions"] = gap.VERSIONS
    return run | outcome | {"measures": {row.measure: row[1:7] for row in rows}}


def groups(done):
    """Dict from the name of a kind to its runs."""
    return {
        f"{label}, {size}": [
            run for run in done if (run["label"], run["batch_size"]) == (label, size)
        ]
        for label, size in KINDS
    }


def values(runs, name):
    """Values of a measure or an outcome, over the seeds."""
    return [run[name] if name in OUTCOMES else run["measures"][name][0] for run in runs]


def lines(done):
    """The table: mean and deviation over seeds, and how the measure ranks all models."""
    found = groups(done)
    for name in (*OUTCOMES, *done[0]["measures"]):
        row = []
        for runs in found.values():
            numbers = values(runs, name)
            row.append(f"{statistics.mean(numbers):.3g} ± {statistics.stdev(numbers):.2g}")
        for outcome in OUTCOMES:
            tau = stats.kendalltau(values(done, name), values(done, outcome)).statistic
            row.append("" if name in OUTCOMES else f"{tau:+.2f}")
        yield name.replace("_", " "), row


def page(done):
    """The table of docs/landscape.md."""
    heads = ["", *groups(done), *(f"τ, test {name}" for name in OUTCOMES.values())]
    seeds = min(map(len, groups(done).values()))
    return f"Mean ± std, n = {seeds}.\n\n{table(heads, lines(done))}"


def picture(done):
    """A panel for each measure: the mean of each kind and its standard error over seeds."""
    from keras_smoothout.landscape import plots
    from keras_smoothout.landscape.measures import Measured

    def row(name, runs):
        numbers = values(runs, name)
        return Measured(name, statistics.mean(numbers), stats.sem(numbers), 0, 0, 0, 0.0)

    names = [*OUTCOMES, *done[0]["measures"]]
    found = {kind: [row(name, runs) for name in names] for kind, runs in groups(done).items()}
    plots.measures(found).savefig(HERE / "figures" / "flatness.png", dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", help="folder of prepared tfds sets")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    done = gap.resumed(args.results)
    for run in [] if args.table else cells():
        if gap.key(run) not in done:
            done[gap.key(run)] = found = measured(run, args.data_dir)
            gap.record(args.results, found)
            print(gap.key(run), f"test error {100 * found['test_error']:.2f} %", flush=True)
    done = list(done.values())
    picture(done)
    put(PAGE, MARKS, page(done))


if __name__ == "__main__":
    main()
