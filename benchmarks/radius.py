"""What is `find_radius` worth? `python -m benchmarks.radius --data_dir=DIR`.

In each setting of benchmarks/converged.py whose radius has been tuned: trains SGD with the small
batch for three epochs at its tuned rate (with wrong labels, at the one tuned for stopping early),
asks `find_radius` on 1,024 training images, and compares its suggestion with the tuned best. The
rule was fitted to `resnet8` and `noisy`. Writes the table of docs/large_batches.md.
"""

import argparse

import keras_smoothout as ks
from benchmarks import converged, report
from benchmarks import generalization_gap as gap
from training import courses, runs

PAGE = report.HERE.parent / "docs" / "large_batches.md"
MARKS = "<!-- python -m benchmarks.radius -->", "<!-- end of the table -->"
EPOCHS, EXAMPLES, FITTED = 3, 1024, ("resnet8", "noisy")
SCALES = {"SmoothOut": "absolute", "AdaSmoothOut": "filter"}


def brief(setting, done):
    """A run of the small batch that is cut short, at a constant rate."""
    label = converged.SMALL
    tuned_as = f"{label}, stopped early" if converged.SETTINGS[setting].early else label
    values = converged.tuned(setting, tuned_as, done)
    run = converged.run_of(setting, label, converged.SETTINGS[setting].tuning_seeds[0], values)
    dropped = ("--epochs", "--warmup_epochs", "--lr_schedule")
    kept = [flag for flag in run["flags"] if not flag.startswith(dropped)]
    return run | {"flags": [*kept, f"--epochs={EPOCHS}"]}


def suggested(setting, scale, done, data_dir):
    """The radius that `find_radius` suggests after a brief training."""
    f, source, (x, y), _ = gap.prepared(brief(setting, done), data_dir)
    model = runs.build(f, f.method, f.seed, source, courses.plan(f, len(x)))
    model.fit(gap.Shuffled(x, y, f.batch_size, f.seed), epochs=EPOCHS, shuffle=False, verbose=0)
    return ks.find_radius(model, x[:EXAMPLES], y[:EXAMPLES], scale=scale).radius


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", required=True, help="folder of prepared tfds sets")
    args = parser.parse_args()
    done, lines = gap.recorded(converged.RESULTS), []
    for setting in converged.SETTINGS:
        for label, scale in SCALES.items():
            if converged.tuned(setting, label, done) is None:
                continue
            best = converged.tuned(setting, label, done)["radius"]
            radius = suggested(setting, scale, done, args.data_dir)
            columns = [label, f"{best:.2g}", f"{radius:.2g}", f"{radius / best:.2f}"]
            lines.append((setting, [*columns, "fitted" if setting in FITTED else "not fitted"]))
    heads = ["setting", "method", "tuned best", "suggested", "ratio", "the rule was"]
    report.put(PAGE, MARKS, report.table(heads, lines))


if __name__ == "__main__":
    main()
