"""What the examples share: a claim and its band, the command line, the table and the picture.

An example ends with `common.run(main, __doc__)`, where `main(quick)` returns a list of `Claim` and
a Matplotlib figure. Examples are checked on TensorFlow.
"""

import argparse
import math
import pathlib
import sys
import time
from typing import NamedTuple

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import keras_smoothout as ks
from keras_smoothout.landscape.style import tidy

FOLDER = pathlib.Path(__file__).parent
FIGURES = FOLDER / "figures"  # What the gallery shows: docs/examples.md.
QUICK = pathlib.Path("runs/examples")
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in ("__main__", "common"))


class Claim(NamedTuple):
    """A number that was measured, and the band that it must be in.

    Attributes:
        name: What was measured, a few words.
        measured: The number.
        error: Its standard error; 0 if chance has no part in it.
        low: Lower end of the band.
        high: Upper end of the band.
        theory: What the theory says, or `None` if it says no number.
        quick: Whether the band also holds for a run with `--quick`. Defaults to `False`.
    """

    name: str
    measured: float
    error: float
    low: float
    high: float
    theory: float | None = None
    quick: bool = False

    @property
    def holds(self):
        return self.low <= self.measured <= self.high


def near(name, estimate, theory, tolerance, quick=False):
    """Return the claim that `estimate`, a value and its error, is near `theory`."""
    value, error = map(float, estimate)
    band = theory - tolerance, theory + tolerance
    return Claim(name, value, error, *band, theory=float(theory), quick=quick)


class LossOf(keras.layers.Layer):
    """A layer whose weights have a loss that is a formula.

    Args:
        function: Loss of a batch and the weights, `function(x, w)`.
        **starts: The array that each weight starts from, by its name.
    """

    def __init__(self, function, **starts):
        dtype = str(next(iter(starts.values())).dtype)
        super().__init__(dtype=dtype)
        self.function = function
        self.ws = [
            self.add_weight(v.shape, keras.initializers.Constant(v), dtype, name=name)
            for name, v in starts.items()
        ]

    def call(self, x):
        self.add_loss(self.function(x, *self.ws))
        return x

    def model(self):
        """Return the model, of the package's class, that is made of this layer."""
        inputs = keras.Input((1,), dtype=self.compute_dtype)
        return ks.Model(inputs, self(inputs))

    def trained(self, optimizer, steps, every=1):
        """Return the weights before each `every` of the `steps`, and at the end: (times, ...) each.

        It is compiled by XLA: without it, TensorFlow 2.21 may move one weight before it takes the
        gradient of the next, where they multiply each other.
        """
        model, way = self.model(), []
        model.compile(optimizer, steps_per_execution=every, jit_compile=True)
        note = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda *_, **__: way.append(model.get_weights())
        )
        model.fit(np.zeros((steps, 1)), batch_size=1, callbacks=[note], verbose=0)
        return [np.array(w) for w in zip(*way, model.get_weights(), strict=True)]


def panels(columns, width=4.0, height=3.2, **options):
    """Return a figure and its `columns` axes, side by side."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns, **options)


def labelled(axis, **labels):
    """Give an axis its labels, a grid and a legend."""
    tidy(axis, **labels)
    axis.legend(frameon=False)


def points(axis, x, values, **style):
    """Draw the mean over the first axis of `values`, with its standard error."""
    values = np.asarray(values)
    error = values.std(0, ddof=1) / len(values) ** 0.5
    axis.errorbar(x, values.mean(0), error, **{"fmt": "o"} | style)


def number(value):
    """Return four digits of a number; a dash for `None`."""
    return "-" if value is None else f"{value:.4g}"


def table(claims):
    """Return the lines of a table: claim, theory, measured ± standard error, band."""
    rows = [("claim", "theory", "measured", "band")]
    for claim in claims:
        error = f" ± {claim.error:.1g}" if claim.error else ""
        band = f"[{number(claim.low)}, {number(claim.high)}]"
        rows.append((claim.name, number(claim.theory), number(claim.measured) + error, band))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def check(claims, quick=False):
    """Raise unless each claim is in its band; with `quick`, only those that promise it."""
    if not claims:
        raise ValueError("An example must have a claim. Received: none")
    for claim in claims:
        checked = claim.quick or not quick
        if not math.isfinite(claim.measured) or checked and not claim.holds:
            band = f"[{number(claim.low)}, {number(claim.high)}]"
            received = f"{number(claim.measured)} ± {claim.error:.1g}"
            raise ValueError(f"`{claim.name}` must be in {band}. Received: {received}")


def save(figure, path):
    """Write a small PNG file: its colours are a palette."""
    figure.savefig(path, dpi=110)
    with Image.open(path) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def run(main, doc, arguments=None):
    """Run an example: print its claims, save `<name>.png` and `<name>.txt`, check the bands.

    Args:
        main: Function `quick -> (list of Claim, figure)`, defined in the example's file.
        doc: The example's docstring.
        arguments: Arguments of the command line. Defaults to `None`, those of the process.

    Raises:
        SystemExit: With code 1 and a sentence, if a claim leaves its band.
    """
    show = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=show)
    parser.add_argument("--quick", action="store_true", help="shrink it to a few seconds")
    where = f"folder for the picture and the table; {FIGURES.name} next to the examples, or {QUICK}"
    parser.add_argument("--out", type=pathlib.Path, help=where)
    options = parser.parse_args(arguments)
    name = pathlib.Path(main.__code__.co_filename).stem
    keras.utils.set_random_seed(0)
    started = time.process_time()
    claims, figure = main(options.quick)
    seconds = time.process_time() - started
    lines = [*table(claims), f"{seconds:.0f} CPU seconds"]
    print(f"{name}: {doc.splitlines()[0]}", *lines, sep="\n")
    out = options.out or (QUICK if options.quick else FIGURES)
    out.mkdir(parents=True, exist_ok=True)
    save(figure, out / f"{name}.png")
    (out / f"{name}.txt").write_text("\n".join(lines) + "\n")
    try:
        check(claims, options.quick)
    except ValueError as error:
        sys.exit(f"{name}: {error}")
