"""What pictures have in common: colours that the colour-blind can tell apart, scales, labels."""

import numpy as np

from keras_smoothout.checks import check_choice

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DECADES = 5  # A density is drawn down to this many decades below the lowest peak.
STYLES = [
    {"color": color, "marker": marker, "linestyle": line, "markersize": 4}
    for line in ("solid", "dashed", "dotted")
    for color, marker in zip(COLORS, ("o", "s", "^", "D", "v", "P", "X"), strict=True)
]


def named(results):
    """`results` as a dict from label to result."""
    results = results if isinstance(results, dict) else {"": results}
    if not 0 < len(results) <= len(STYLES):
        raise ValueError(
            f"From 1 to {len(STYLES)} results can be told apart in one picture. "
            f"Received: {len(results)}"
        )
    return results


def heights(plane, quantity):
    """Values to draw, masked where not finite; contour levels; whether by logarithm; labels."""
    check_choice("quantity", quantity, ("loss", "error"))
    values = plane.losses if quantity == "loss" else 100 * plane.errors
    if not np.isfinite(values).any():
        raise ValueError(f"There must be a finite {quantity} to draw. Received: {values!r}")
    values = np.ma.masked_invalid(values)
    low, high = values.min(), values.max()
    log = low > 0 and high > 10 * low
    levels = (np.geomspace if log else np.linspace)(low, high if high > low else low + 1.0, 17)
    step = "step along" if len(plane.points) < 2 else "distance along"
    labels = {"xlabel": f"{step} the first direction", "ylabel": f"{step} the second direction"}
    return values, levels, log, labels | {"zlabel": "loss" if quantity == "loss" else "error (%)"}


def tidy(axis, **labels):
    axis.set(**labels)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def scale(axis, values, letter="y"):
    """Set a log scale if finite, positive `values` span more than 30 to 1."""
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > 30 * values.min():
        axis.set(**{f"{letter}scale": "log"})


def legend(figure, axis, results):
    """Draw one legend next to all axes, unless there is only one result without a label."""
    if list(results) != [""]:
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", frameon=False)
