"""One HTML file of text, tables and interactive figures that needs nothing from elsewhere."""

import html

import numpy as np
from plotly import graph_objects, io, offline

from keras_smoothout.whole_files import whole

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222 }
body { margin: 0 auto; max-width: 72rem; padding: 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .95rem }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #ddd }
th, td { text-align: left; vertical-align: top }
th.number, td.number { text-align: right; white-space: nowrap }
.number { font-variant-numeric: tabular-nums }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
figure { margin: 1rem 0 } figcaption { color: #555 }
small { display: block; min-width: 11rem; color: #555 }
.side { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)) }
.side { gap: 1rem } .side > figure { min-width: 0; overflow: hidden }
"""
LAYOUT = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 40, "b": 50}}


def write(path, title, parts):
    """Write the page; its parts are HTML, in order.

    The library that draws is inside the file once, about 5 MB.
    """
    script = f"<script>{offline.get_plotlyjs()}</script>"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{html.escape(title)}</title><style>{STYLE}</style>{script}"
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *parts])
    text = f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def heading(text):
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text):
    return f"<p>{html.escape(text)}</p>"


def table(heads, rows):
    """A table of text: a row is a label, a sentence about it or "", and cells with numbers."""

    def line(kind, label, sentence, *cells):
        below = f"<small>{html.escape(sentence)}</small>" if sentence else ""
        texts = (f'<{kind} class="number">{html.escape(str(cell))}</{kind}>' for cell in cells)
        return f"<tr><{kind}>{html.escape(label)}{below}</{kind}>{''.join(texts)}</tr>"

    lines = [line("th", *heads), *(line("td", *row) for row in rows)]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def figure(traces, caption="", height=420, **layout):
    """An interactive figure of Plotly's traces."""
    drawn = graph_objects.Figure(traces, LAYOUT | {"height": height} | layout)
    options = {"responsive": True, "displaylogo": False}
    inner = io.to_html(drawn, config=options, include_plotlyjs=False, full_html=False)
    return f"<figure>{inner}<figcaption>{html.escape(caption)}</figcaption></figure>"


def side_by_side(figures):
    figures = list(figures)
    return f'<div class="side">{"".join(figures)}</div>' if len(figures) > 1 else figures[0]


def number(value, digits=4):
    """A number with so many digits, by powers of ten if it is far from 1."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")
    return f"{value:.{digits - 1}e}"
