"""What are `find_radius` and `find_rho` worth? `python -m benchmarks.radius --data_dir=DIR`.

In each setting of benchmarks/converged.py, for each method whose number has been tuned there:
trains SGD with the small batch for three epochs at its tuned rate (with wrong labels, at the one
tuned for stopping early), asks for a suggestion on 1,024 training images, and trains the method
with it, five seeds. The rule was fitted to SmoothOut in `resnet8` and `noisy`.

The lines go to benchmarks/converged.jsonl, where the tuned runs are. Kill it at any point and start
it again. Without `--data_dir` it trains nothing, and writes the table of docs/large_batches.md.
"""

import argparse
import pathlib

import keras_smoothout as ks
from benchmarks import converged, report
from benchmarks import generalization_gap as gap
from training import courses, runs

PAGE = report.HERE.parent / "docs" / "large_batches.md"
MARKS = "<!-- python -m benchmarks.radius -->", "<!-- end of the table -->"
SETTINGS = [setting for setting, of in converged.SETTINGS.items() if not of.only]
EPOCHS, EXAMPLES = 3, 1024
SEARCHES = {
    "SmoothOut": lambda *data: ks.find_radius(*data),
    "AdaSmoothOut": lambda *data: ks.find_radius(*data, scale="filter"),
    "SAM": lambda *data: ks.find_rho(*data),
}
FITTED = (("resnet8", "SmoothOut"), ("noisy", "SmoothOut"))


def brief(setting, label, done):
    """The search of a method: a run of the small batch that is cut short, at a constant rate."""
    small = converged.SMALL
    tuned_as = f"{small}, stopped early" if converged.SETTINGS[setting].early else small
    values = converged.tuned(setting, tuned_as, done)
    run = converged.run_of(setting, small, converged.SETTINGS[setting].tuning_seeds[0], values)
    dropped = ("--epochs", "--warmup_epochs", "--lr_schedule")
    kept = [flag for flag in run["flags"] if not flag.startswith(dropped)]
    flags = [*kept, f"--epochs={EPOCHS}"]
    return run | {"experiment": f"{setting}-suggested", "label": label, "flags": flags}


def searched(run, data_dir):
    """The run, with what the search suggests after it."""
    f, source, (x, y), _ = gap.prepared(run, data_dir)
    model = runs.build(f, f.method, f.seed, source, courses.plan(f, len(x)))
    model.fit(gap.Shuffled(x, y, f.batch_size, f.seed), epochs=EPOCHS, shuffle=False, verbose=0)
    found = SEARCHES[run["label"]](model, x[:EXAMPLES], y[:EXAMPLES])
    return run | {"suggested": float(f"{found.radius:.2g}"), "versions": gap.VERSIONS}


def at(setting, label, value, done):
    """The runs of a method with a suggested number, which may be the tuned one."""
    values = converged.tuned(setting, label, done)
    name = label if values[converged.ROWS[label].tunes] == value else f"{label}, as suggested"
    values |= {converged.ROWS[label].tunes: value}
    made = [converged.run_of(setting, label, seed, values) for seed in converged.SEEDS]
    return [run | {"label": name} for run in made]


def complete(done, path, data_dir):
    """Train what has no line yet."""
    for setting in SETTINGS:
        for label in SEARCHES:
            if converged.tuned(setting, label, done) is None:
                continue
            run = brief(setting, label, done)
            gap.complete([run], done, path, lambda run: searched(run, data_dir))
            trained = at(setting, label, done[gap.key(run)]["suggested"], done)
            gap.complete(trained, done, path, lambda run: converged.trained(run, data_dir))


def table(done):
    """Each suggestion beside the tuned best, and what both reach."""
    lines = []
    for setting in SETTINGS:
        for label in SEARCHES:
            values = converged.tuned(setting, label, done)
            found = done.get(gap.key(brief(setting, label, done))) if values else None
            if not found:
                continue
            best, value = values[converged.ROWS[label].tunes], found["suggested"]
            columns = [label, f"{best:.2g}", f"{value:.2g}", f"{value / best:.2f}"]
            columns.append("fitted" if (setting, label) in FITTED else "not fitted")
            for name in (label, at(setting, label, value, done)[0]["label"]):
                cell = converged.runs_of(setting, name, done)
                columns.append(report.mean_std("test accuracy", cell) if cell else "")
            lines.append((setting, columns))
    heads = ["setting", "method", "tuned best", "suggested", "ratio", "the rule was"]
    heads += ["test accuracy, tuned (%)", "as suggested"]
    return report.table(heads, lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data_dir", help="folder of prepared tfds sets; without, writes the table"
    )
    parser.add_argument("--results", type=pathlib.Path, default=converged.RESULTS)
    args = parser.parse_args()
    if args.data_dir:
        complete(gap.resumed(args.results), args.results, args.data_dir)
    else:
        report.put(PAGE, MARKS, table(gap.recorded(args.results)))


if __name__ == "__main__":
    main()
