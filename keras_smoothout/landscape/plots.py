"""Pictures of the landscape: each function returns a figure, and writes it as PNG and SVG.

    plots.contour(plane(objective), "pictures/plane")      pictures/plane.png, pictures/plane.svg

To compare, pass a dict from label to result in place of one result. Colour-blind readers can tell
the colours apart (Okabe and Ito's, and viridis); lines also differ by their markers.
"""

import pathlib

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from keras_smoothout.landscape import style as shared
from keras_smoothout.landscape.style import COLORS, STYLES, heights, legend, named, scale, tidy


def spectrum(densities, path=None):
    """Spectral density on a log axis, with a band of one standard error.

    If one density reaches more than ten times as far as another, each has its own panel.

    Args:
        densities: A `Density`, or a dict from label to one.
        path: Where to write it; suffixes are added. Defaults to `None`.
    """
    densities = named(densities)
    peaks = [found.density.max() for found in densities.values()]
    floor = min(peaks) * 10.0**-shared.DECADES
    reach = [np.abs(found.grid[found.density > floor]).max() for found in densities.values()]
    apart = max(reach) > 10 * min(reach)
    figure, axes = _canvas(len(densities) if apart else 1, sharey=True)
    for i, ((label, found), style) in enumerate(zip(densities.items(), STYLES, strict=False)):
        axis, color = axes[i if apart else 0], style["color"]
        axis.plot(found.grid, found.density, color=color, linestyle=style["linestyle"], label=label)
        low = np.maximum(found.density - found.standard_error, floor)
        high = found.density + found.standard_error
        axis.fill_between(found.grid, low, high, color=color, alpha=0.2, linewidth=0)
        tidy(axis, xlabel="eigenvalue", yscale="log", title=label if apart else "")
    axes[0].set(ylabel="density", ylim=(floor, 3 * max(peaks)))
    if not apart:
        legend(figure, axes[0], densities)
    return _written(figure, path)


def line(lines, path=None, xlabel="step along a filter-normalised direction"):
    """Loss and error along a line: a `Line`, or a dict from label to one."""
    return _written(_loss_and_error(lines, xlabel, lambda found: found.alphas), path)


def curve(profiles, path=None):
    """Loss and error along curves between two models: a `Profile`, or a dict from label to one."""
    return _written(_loss_and_error(profiles, "place t on the curve", lambda p: p.ts), path)


def interpolation(line, path=None, ends=("small batch", "large batch")):
    """Loss (left axis) and accuracy (right axis) on the line through two models.

    Args:
        line: A `Line` from `interpolate`, with the models at `alpha = 0` and `alpha = 1`.
        path: Where to write it; suffixes are added. Defaults to `None`.
        ends: Names of the two models. Defaults to `("small batch", "large batch")`.

    Reference: Keskar et al., *On Large-Batch Training for Deep Learning*, ICLR 2017,
        arXiv:1609.04836, Figure 3.
    """
    figure, (left,) = _canvas(width=6.4)
    for place, name in zip((0, 1), ends, strict=True):
        left.axvline(place, color="0.6", linewidth=1, zorder=0)
        left.text(place, 1.02, name, transform=left.get_xaxis_transform(), ha="center")
    left.plot(line.alphas, line.losses, **STYLES[0], label="loss")
    tidy(left, xlabel="alpha", ylabel="loss")
    scale(left, line.losses)
    left.yaxis.label.set_color(COLORS[0])
    if np.isfinite(line.errors).any():
        right = left.twinx()
        style = STYLES[1] | {"linestyle": "dashed", "label": "accuracy"}
        right.plot(line.alphas, 100 * (1 - line.errors), **style)
        right.set_ylabel("accuracy (%)", color=COLORS[1])
        right.spines["top"].set_visible(False)
    return _written(figure, path)


def contour(plane, path=None, names=(), quantity="loss"):
    """Contour lines of a `Plane`, with the models that it was laid through.

    Args:
        plane: A `Plane`.
        path: Where to write it; suffixes are added. Defaults to `None`.
        names: Names of the models, written next to them. Defaults to none.
        quantity: `"loss"` or `"error"`. Defaults to `"loss"`.
    """
    values, levels, log, labels = heights(plane, quantity)
    shape = np.ptp(plane.y) / np.ptp(plane.x)
    limited = np.clip(shape, 0.55, 1.6)
    figure = Figure(figsize=(6.4, 4.6 * limited + 0.6), layout="compressed")
    axis = figure.subplots()
    norm = (LogNorm if log else Normalize)(levels[0], levels[-1])
    filled = axis.contourf(plane.x, plane.y, values, levels, cmap="viridis", norm=norm)
    axis.contour(plane.x, plane.y, values, levels, colors="white", linewidths=0.4, alpha=0.6)
    bar = figure.colorbar(filled, label=labels.pop("zlabel"))
    bar.set_ticks(levels[::2], labels=[f"{level:.2g}" for level in levels[::2]])
    bar.minorticks_off()
    for i, (x, y) in enumerate(plane.points):
        style = STYLES[i] | {"color": "white", "markeredgecolor": "black", "markersize": 8}
        axis.plot(x, y, **style)
        if i < len(names):  # Written towards the middle.
            left, low = x > plane.x.mean(), y > plane.y.mean()
            sides = {"ha": "right" if left else "left", "va": "top" if low else "bottom"}
            sides["bbox"] = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5}
            place = (-8 if left else 8, -6 if low else 6)
            axis.annotate(names[i], (x, y), place, textcoords="offset points", **sides)
    axis.set(**labels, aspect="equal" if limited == shape else "auto")
    return _written(figure, path)


def surface(plane, path=None, quantity="loss"):
    """A `Plane` in three dimensions, with a log scale if the heights span a decade.

    Args:
        plane: A `Plane`.
        path: Where to write it; suffixes are added. Defaults to `None`.
        quantity: `"loss"` or `"error"`. Defaults to `"loss"`.
    """
    values, levels, log, labels = heights(plane, quantity)
    figure = Figure(figsize=(6.8, 5.2))
    axis = figure.add_axes((0.0, 0.06, 0.88, 1.0), projection="3d")
    z = (np.ma.log10(values) if log else values).filled(np.nan)
    x, y = np.meshgrid(plane.x, plane.y)
    axis.plot_surface(x, y, z, cmap="viridis", rcount=len(plane.y), ccount=len(plane.x))
    axis.set(**labels)
    for side in (axis.xaxis, axis.yaxis, axis.zaxis):
        side.set_major_locator(ticker.MaxNLocator(5, integer=log and side is axis.zaxis))
        side.labelpad = 8
    axis.tick_params("z", pad=8)
    axis.zaxis.labelpad = 16
    if log:
        axis.zaxis.set_major_formatter(lambda z, _: f"{10**z:.2g}")
    return _written(figure, path)


def training(histories, path=None, xlabel="epoch"):
    """Sharpness, or whatever else was tracked, over a training: a panel for each measure.

    Args:
        histories: Dict from the name of a measure to its values: one per epoch, or a pair (epochs,
            values). NaN means that nothing was measured. Or a dict from label to such a dict.
        path: Where to write it; suffixes are added. Defaults to `None`.
        xlabel: Label of the axis that counts the training. Defaults to `"epoch"`.
    """
    if not all(isinstance(history, dict) for history in histories.values()):
        histories = {"": histories}
    histories = named(histories)
    names = list(dict.fromkeys(name for history in histories.values() for name in history))
    figure, axes = _canvas(len(names), width=5.0)
    for name, axis in zip(names, axes, strict=True):
        for (label, history), style in zip(histories.items(), STYLES, strict=False):
            values = history.get(name, ())
            times = 1 + np.arange(len(values))
            if len(values) == 2 and np.ndim(values[0]) == 1:
                times, values = values
            values = np.asarray(values, "float64")
            there = np.isfinite(values)
            axis.plot(np.asarray(times)[there], values[there], **style, label=label)
        tidy(axis, xlabel=xlabel, ylabel=name.replace("_", " "))
        scale(axis, np.concatenate([line.get_ydata() for line in axis.lines]))
        axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    legend(figure, axes[0], histories)
    return _written(figure, path)


def measures(tables, path=None, columns=4):
    """Compare models by many measures: a panel for each, with bars of one standard error.

    Args:
        tables: Dict from the label of a model to its rows, as `landscape.measures` returns them.
        path: Where to write it; suffixes are added. Defaults to `None`.
        columns: Number of panels in a row. Defaults to `4`.
    """
    tables = named(tables)
    names = list(dict.fromkeys(row.measure for rows in tables.values() for row in rows))
    columns = min(columns, len(names))
    lines, height = -(-len(names) // columns), 0.9 + 0.28 * len(tables)
    figure = Figure(figsize=(2.6 * columns + 1.4, lines * height), layout="constrained")
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for (place, rows), style in zip(enumerate(tables.values()), STYLES, strict=False):
        for row in rows:
            axis, bar = axes[names.index(row.measure)], style | {"capsize": 3}
            axis.errorbar(row.value, place, xerr=row.standard_error, **bar)
    for axis, name in zip(axes, names, strict=False):
        tidy(axis, title=name.replace("_", " "))
        axis.xaxis.set_major_locator(ticker.MaxNLocator(4))
        scale(
            axis, np.array([r.value for v in tables.values() for r in v if r.measure == name]), "x"
        )
    axes[0].set_yticks(range(len(tables)), tables)
    axes[0].set_ylim(len(tables) - 0.5, -0.5)
    for axis in axes[len(names) :]:
        axis.remove()
    return _written(figure, path)


def radius(found, path=None, name="radius"):
    """Loss of moved weights against the radius, as `ks.find_radius` or `ks.find_rho` found it."""
    figure, (axis,) = _canvas()
    axis.errorbar(found.radii, found.losses, found.standard_errors, **STYLES[0])
    tidy(axis, xlabel=f"{name} ({found.radius:.3g} suggested)", ylabel="loss", xscale="log")
    scale(axis, found.losses)
    return _written(figure, path)


def _loss_and_error(results, xlabel, place):
    """A panel for the loss and, where there are any, one for errors; a line for each result."""
    results = named(results)
    errors = any(np.isfinite(found.errors).any() for found in results.values())
    figure, axes = _canvas(2 if errors else 1)
    for (label, found), style in zip(results.items(), STYLES, strict=False):
        style = style | {"label": label, "markevery": max(1, len(found.losses) // 12)}
        axes[0].plot(place(found), found.losses, **style)
        if errors:
            axes[1].plot(place(found), 100 * found.errors, **style)
    tidy(axes[0], xlabel=xlabel, ylabel="loss")
    for axis in axes:
        axis.xaxis.set_major_locator(ticker.MaxNLocator(6))
    scale(axes[0], np.concatenate([found.losses for found in results.values()]))
    if errors:
        tidy(axes[1], xlabel=xlabel, ylabel="error (%)", ylim=(0, None))
    legend(figure, axes[0], results)
    return figure


def _canvas(columns=1, width=5.2, height=4.0, **options):
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False, **options)[0]


def _written(figure, path):
    """Write `figure` as PNG and SVG, the same bytes every time, unless `path` is `None`."""
    if path is not None:
        path = pathlib.Path(path)
        path = path.with_suffix("") if path.suffix in (".png", ".svg") else path
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context({"svg.hashsalt": "keras_smoothout"}):
            figure.savefig(f"{path}.png", dpi=160)
            figure.savefig(f"{path}.svg", metadata={"Date": None})
    return figure
