"""`report.html`: what was measured around one or several models, to read and to turn around."""

import numpy as np
from plotly import graph_objects

from keras_smoothout import page
from keras_smoothout.landscape.style import COLORS, DECADES, heights

MEANING = {
    "loss": "Mean loss of the examples, regularizers included.",
    "error": "Share of wrong answers.",
    "gradient_norm": "How far from a minimum this is: 0 at one.",
    "lambda_max": "Curvature in the sharpest direction; gradient descent is stable at learning "
    "rates below two over it.",
    "lambda_min": "Curvature in the direction that bends down most: below 0, this is no minimum.",
    "hessian_trace": "Curvature of all directions together.",
    "gauss_newton_trace": "The part of the trace that comes from the outputs alone, never below 0.",
    "fisher_trace": "How strongly single examples pull at the weights, in different directions.",
    "gradient_noise_scale": "About the batch size beyond which more examples help little.",
    "keskar_sharpness": "Highest rise of the loss in a small box around the weights, in percent.",
    "keskar_manifold": "The same within a random subspace of 100 dimensions.",
    "sam_sharpness": "Rise of the loss one step uphill: what SAM keeps low.",
    "sam_ascent": "The same with ten steps uphill.",
    "uniform_noise": "Rise of the loss under the uniform noise of SmoothOut.",
    "normal_noise": "The same under normal noise.",
    "filter_noise": "The same under noise in proportion to each filter.",
    "local_energy": "Rise of the error under noise in proportion to each weight.",
    "local_entropy": "How much of the neighbourhood has a low loss: higher is flatter.",
    "pac_bayes_sigma": "Largest noise that the error hardly feels: larger is flatter.",
    "distance_from_init": "How far training has moved the weights.",
    "pac_bayes_bound": "Upper bound on the error of noisy weights, with high probability.",
}


def write(path, found, pictures):
    """Write the page.

    Args:
        path: File to write.
        found: Dict from the label of a model to its rows of `measures`.
        pictures: Dict of what was drawn, of which each may be missing: `"spectra"`, `"lines"`,
            `"planes"` and `"ways"`, each a dict from label to result.
    """
    parts = [page.heading("Measures"), measures(found)]
    for name, function in PICTURES.items():
        if pictures.get(name):
            parts += function(pictures[name])
    page.write(path, f"How flat is the minimum of {' and of '.join(found)}?", parts)


def measures(found):
    """A table of values with standard errors, and what each means."""
    labels = list(found)
    names = dict.fromkeys(row.measure for rows in found.values() for row in rows)
    cells = {(label, row.measure): cell(row) for label in labels for row in found[label]}
    rows = [
        (name, MEANING.get(name, ""), *(cells.get((label, name), "") for label in labels))
        for name in names
    ]
    return page.table(["measure", "", *labels], rows)


def cell(row):
    if np.isnan(row.value):
        return "does not apply"
    error = f" ± {page.number(row.standard_error, 2)}" if row.standard_error else ""
    return f"{page.number(row.value)}{error}"


def spectra(found):
    text = "Density of the Hessian's eigenvalues. Sharp directions lie far to the right."
    figures = []
    for (label, density), color in zip(found.items(), COLORS, strict=False):
        low, high = (density.density + sign * density.standard_error for sign in (-1, 1))
        top = np.log10(density.density.max())
        axis = {"type": "log", "title": "density", "range": [top - DECADES, top + 0.5]}
        traces = [
            curve(density.grid, density.density, label, color),
            band(density.grid, np.maximum(low, 10.0 ** (top - 2 * DECADES)), high, color),
        ]
        layout = {"xaxis": {"title": "eigenvalue"}, "yaxis": axis, "showlegend": False}
        figures.append(page.figure(traces, f"{label}. {text}", **layout))
    return [page.heading("Spectrum"), page.side_by_side(figures)]


def lines(found):
    text = "Loss along a random direction whose filters are as long as those of the weights."
    traces = [
        curve(line.alphas, line.losses, label, color)
        for (label, line), color in zip(found.items(), COLORS, strict=False)
    ]
    layout = {"xaxis": {"title": "step"}, "yaxis": {"title": "loss"}}
    return [page.heading("Along a line"), page.figure(traces, text, **layout)]


def planes(found):
    text = "Turn it with the mouse or a finger."
    return [
        page.heading("Around the minimum"),
        page.side_by_side(surface(label, plane, text) for label, plane in found.items()),
    ]


def surface(label, plane, text):
    values, _, log, labels = heights(plane, "loss")
    values = values.filled(np.nan)
    trace = graph_objects.Surface(
        x=plane.x,
        y=plane.y,
        z=values,
        surfacecolor=np.log10(values) if log else values,
        colorscale="Viridis",
        showscale=False,
        hovertemplate="loss %{z:.3g}<extra></extra>",
    )
    scene = {
        "xaxis": {"title": "first direction"},
        "yaxis": {"title": "second direction"},
        "zaxis": {"title": labels["zlabel"], "type": "log" if log else "linear"},
    }
    return page.figure([trace], f"{label}. {text}", scene=scene)


def ways(found):
    figures = []
    for label, way in found.items():
        traces = [curve(way.alphas, way.losses, "loss", COLORS[0])]
        layout = {"xaxis": {"title": "alpha"}, "yaxis": {"title": "loss"}}
        if np.isfinite(way.errors).any():
            traces.append(curve(way.alphas, 100 * way.errors, "error (%)", COLORS[1], yaxis="y2"))
            layout["yaxis2"] = {"title": "error (%)", "overlaying": "y", "side": "right"}
            layout["yaxis2"] |= {"tickmode": "auto", "showgrid": False}
        figures.append(page.figure(traces, f"The straight line {label}.", **layout))
    return [page.heading("Between the models"), page.side_by_side(figures)]


PICTURES = {"spectra": spectra, "lines": lines, "planes": planes, "ways": ways}


def curve(x, y, label, color, **options):
    y = np.where(np.isfinite(y), y, np.nan)
    return graph_objects.Scatter(x=x, y=y, name=label, line={"color": color}, **options)


def band(x, low, high, color):
    """The range between two curves."""
    return graph_objects.Scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        line={"width": 0},
        fillcolor=color,
        opacity=0.2,
        hoverinfo="skip",
        showlegend=False,
    )
