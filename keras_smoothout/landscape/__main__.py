"""Measures how flat the minimum of a trained model is: a table, and pictures.

Examples:
  # A run of train.py knows its data. If it has several methods or seeds, name the folder of one.
  python -m keras_smoothout.landscape runs/digits-f1-sgd --out=flatness

  # Two models, a small batch's and a large one's, and the straight line between them.
  python -m keras_smoothout.landscape small.keras --compare=large.keras --dataset=cifar10
      --out=flatness

  # Your own data, x and y; a few measures and no pictures.
  python -m keras_smoothout.landscape model.keras --dataset=data.npz --out=flatness
      --measures=lambda_max,sam_sharpness --nopictures

DIR then holds measures.csv, with standard errors and costs, and each picture as PNG and SVG: the
density of the Hessian's spectrum, a random line and plane, and with --compare the measures side by
side and the lines between the models. report.html shows it all on one page, where the surface can
be turned. The models themselves are only read. Ctrl-C ends it, and keeps what is measured.
"""

import argparse
import collections
import csv
import functools
import logging
import pathlib
import sys

import keras
import numpy as np

from keras_smoothout import datasets
from keras_smoothout.checks import as_flags
from keras_smoothout.labels import check_labels
from keras_smoothout.landscape import report
from keras_smoothout.landscape.curvature.hessian import hessian
from keras_smoothout.landscape.curvature.spectrum import density
from keras_smoothout.landscape.files import flags, labels_of, load_model, number
from keras_smoothout.landscape.measures import FROM_START, MEASURES, Measured, measures, table
from keras_smoothout.landscape.objective import BATCH_NORMS, Objective

LIMITS = {
    "examples": (0, sys.maxsize),
    "image_size": (0, 10_000),
    "batch_size": (1, sys.maxsize),
    "grid": (2, 1_000),
    "seed": (0, 2**32 - 1),
}


class Parser(argparse.ArgumentParser):
    """A parser that reports any error in one line."""

    def error(self, message):
        self.exit(2, f"{message}. See python -m keras_smoothout.landscape --help\n")


def arguments(argv):
    summary, _, rest = __doc__.partition("\n\n")
    parser = Parser(
        prog="python -m keras_smoothout.landscape",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=pathlib.Path, help="a .keras file, or the folder of a train.py run")
    add("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder to write to")
    add("--dataset", help="digits, a name of tensorflow-datasets, or an .npz file with x and y")
    add("--data_dir", help="folder of prepared tensorflow-datasets")
    add("--download", action="store_true", help="let tensorflow-datasets fetch the set")
    add("--image_size", type=int, default=0, help="height and width of all images, in pixels")
    add("--split", help="split to measure on (default: train)")
    add("--examples", type=int, default=1000, help="number of examples; 0 for all (default: 1000)")
    add("--batch_size", type=int, default=500, help="examples in memory at a time (default: 500)")
    add(
        "--batch_norm", choices=BATCH_NORMS, default="evaluation", help="statistics to normalize by"
    )
    add(
        "--compare",
        type=pathlib.Path,
        action="append",
        default=[],
        metavar="OTHER",
        help="another model, a file or a folder; repeat it for more models",
    )
    add(
        "--start",
        type=pathlib.Path,
        help="the model before training, for the measures that need it",
    )
    add("--loss", help="name of a Keras loss, for a model that was saved without one")
    add("--measures", help=f"some of {','.join([*MEASURES, *FROM_START])} (default: all)")
    add("--grid", type=int, default=21, help="points along each side of the plane (default: 21)")
    add("--seed", type=int, default=0, help="seed of all random draws (default: 0)")
    add("--nopictures", dest="pictures", action="store_false", help="write measures.csv only")
    options = parser.parse_args(argv)
    for name, (least, most) in LIMITS.items():
        if not least <= getattr(options, name) <= most:
            parser.error(f"--{name} must be at least {least}, and at most {most}")
    return options


def examples(options):
    """Inputs and labels."""
    kept = flags(options.model)
    name = options.dataset or kept.get("dataset")
    if not name:
        raise ValueError("Pass --dataset: digits, a name of tensorflow-datasets, or an .npz file")
    trained = kept if name == kept.get("dataset") else {}
    train_split = trained.get("train_split", "train")
    x, y = datasets.load(
        name,
        options.data_dir or kept.get("data_dir"),
        options.split or train_split,
        options.image_size or number(kept, "image_size"),
        options.download,
        train_split,
        number(trained, "train_examples") or None,
    )
    count = options.examples or len(x)
    return x[:count], y[:count]


def fitted(x, y, model, loss):
    """Inputs and targets, as the model and its loss take them."""
    shape, given = getattr(model, "input_shape", None), x.shape
    if isinstance(shape, tuple) and not (
        len(shape) == len(given)
        and all(n in (None, m) for n, m in zip(shape[1:], given[1:], strict=True))
    ):
        raise ValueError(f"The model takes inputs of {shape[1:]}, the data has {given[1:]}")
    return x, targets(y, model, loss)


def targets(y, model, loss):
    """Labels as the loss takes them: one-hot for `categorical_crossentropy` and its like."""
    loss = keras.losses.get(loss or model.loss)
    if loss is None:
        raise ValueError("The model was saved without a loss: pass --loss")
    kind = getattr(loss, "name", None) or loss.__name__
    if "categorical" not in kind or y.ndim > 1:
        return y
    classes = model.output_shape[-1]
    check_labels("y", y, classes)
    return y if "sparse" in kind else keras.utils.to_categorical(y, classes)


def write(path, found):
    """Write a row for each model and measure."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", *Measured._fields])
        writer.writerows([label, *row] for label, rows in found.items() for row in rows)


class Steps:
    """Names each step of the work, and how many there are."""

    def __init__(self, total):
        self.total, self.done = total, 0

    def __call__(self, text):
        self.done += 1
        print(f"\n[{self.done}/{self.total}] {text}", flush=True)


def pictures(options, objectives, found, drawn, step):
    """Draw spectrum, line and plane of each model, and comparisons if there are several."""
    from keras_smoothout.landscape import plots
    from keras_smoothout.landscape.surface import slices

    out, seed, first = options.out, options.seed, next(iter(objectives))
    if len(found) > 1:
        plots.measures(found, out / "measures")
    for name, objective in objectives.items():
        step(f"Density of the spectrum of {name}")
        drawn["spectra"][name] = density(hessian(objective), min(60, objective.size), seed=seed)
    plots.spectrum(drawn["spectra"], out / "spectrum")
    for name, objective in objectives.items():
        step(f"Line and plane around {name}")
        drawn["lines"][name] = slices.line(objective, seed=seed, progress=True)
        grid = np.linspace(-1, 1, options.grid)
        plane = slices.plane(objective, x=grid, seed=seed, progress=True)
        drawn["planes"][name] = plane
        plots.contour(plane, out / f"plane_{name}")
        plots.surface(plane, out / f"surface_{name}")
    plots.line(drawn["lines"], out / "line")
    for name in list(objectives)[1:]:
        step(f"Line from {first} to {name}")
        try:
            way = slices.interpolate(objectives[first], objectives[name].model, progress=True)
        except ValueError as refusal:
            print(f"Left out: {refusal}")
        else:
            drawn["ways"][f"from {first} to {name}"] = way
            plots.interpolation(way, out / f"from_{first}_to_{name}", (first, name))


def run(options):
    paths = [options.model, *options.compare]
    labels, models = labels_of(paths), [load_model(path) for path in paths]
    start = load_model(options.start) if options.start else None
    names = options.measures.split(",") if options.measures else None
    kept = {"batch_size": options.batch_size, "batch_norm": options.batch_norm}
    x, y = examples(options)
    data = [fitted(x, y, model, options.loss) for model in models]
    options.out.mkdir(parents=True, exist_ok=True)
    found, objectives, drawn = {}, {}, collections.defaultdict(dict)
    step = Steps(len(models) if not options.pictures else 4 * len(models) - 1)

    def keep(label, row):
        found[label].append(row)
        write(options.out / "measures.csv", found)

    try:
        for label, model, own in zip(labels, models, data, strict=True):
            objectives[label] = Objective(model, *own, loss=options.loss, **kept)
            step(f"{label}: {objectives[label].size} weights, {len(x)} examples")
            found[label] = []
            each = functools.partial(keep, label)
            measures(objectives[label], names, start, options.seed, progress=True, each=each)
        if len(found) > 1:
            print(f"\n{table(found)}")
        if options.pictures:
            pictures(options, objectives, found, drawn, step)
    finally:
        if options.pictures and any(found.values()):
            report.write(options.out / "report.html", found, drawn)


def main(argv=None):
    options = arguments(argv)
    logging.getLogger("tensorflow").setLevel("ERROR")  # It warns that each model is traced.
    try:
        run(options)
    except KeyboardInterrupt:
        print(f"\nInterrupted. What was finished is in {options.out}.")
        sys.exit(130)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(as_flags(" ".join(str(error).split()), vars(options)))
    print(f"\nWritten to {options.out}")


if __name__ == "__main__":
    main()
