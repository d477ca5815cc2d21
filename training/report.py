"""comparison.html: the curves, the closing table and the flags of a comparison, on one page."""

import html
import statistics

from plotly import graph_objects

from keras_smoothout import page
from keras_smoothout.landscape.style import COLORS
from training import curves


def write(found, path, title):
    """Write the page.

    Args:
        found: Histories and summaries, each a dict from a method to those of its runs, and the
            flags, one per line.
        path: File to write.
        title: Words above all.
    """
    histories, summaries, flags = found
    figures = [drawn(histories, metric) for metric in ("loss", "accuracy")]
    rows = [(method, "", *numbers) for method, *numbers in curves.cells(summaries)]
    parts = [
        page.heading("After training"),
        page.table(["method", "", *curves.HEADS[1:]], rows),
        page.heading("While training"),
        page.side_by_side(figures),
        page.heading("Flags"),
        f"<pre>{html.escape(flags)}</pre>",
    ]
    page.write(path, title, parts)


def drawn(histories, metric):
    """A metric over the epochs: a colour for each method, dotted for training."""
    traces = []
    for i, (method, runs) in enumerate(histories.items()):
        for column, dash in ((metric, "dot"), (f"val_{metric}", "solid")):
            values = zip(*([row[column] for row in run] for run in runs), strict=True)
            traces.append(
                graph_objects.Scatter(
                    x=[row["epoch"] for row in runs[0]],
                    y=list(map(statistics.mean, values)),
                    name=f"{method}, {'test' if dash == 'solid' else 'train'}",
                    line={"color": COLORS[i % len(COLORS)], "dash": dash},
                )
            )
    layout = {"xaxis": {"title": "epoch"}, "legend": {"orientation": "h", "y": -0.2}}
    layout["yaxis"] = {"title": metric, "type": "log" if metric == "loss" else "linear"}
    caption = "A mean over seeds; click on a name to hide it."
    return page.figure(traces, caption, height=460, **layout)
