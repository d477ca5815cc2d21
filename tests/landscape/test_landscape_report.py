"""`report.html`: whole, of this machine alone, and kept when the command is interrupted."""

import re

import numpy as np
import pytest

from keras_smoothout import page
from keras_smoothout.landscape import Density, Line, Plane, report
from keras_smoothout.landscape.measures import FROM_START, MEASURES, Measured

pytestmark = pytest.mark.tensorflow  # It knows no backend.

ROWS = [Measured("loss", 0.25, 0.0, 1, 0, 0, 0.1), Measured("error", np.nan, np.nan, 1, 0, 0, 0.1)]
X = np.linspace(-1, 1, 5)
PLANE = Plane(X, X, np.add.outer(X**2, X**2) + 1e-3, np.full((5, 5), np.nan), np.zeros((1, 2)))
DRAWN = {
    "spectra": {"a": Density(X, 1 - X**2 / 2, 0.1 + 0 * X, X[None], X[None])},
    "lines": {"a": Line(X, X**2, X**2)},
    "planes": {"a": PLANE, "b<c": PLANE},
    "ways": {"from a to b<c": Line(X, X**2, X**2)},
}


def text_of(path):
    """The page without the library that draws."""
    return re.sub(r"(?s)^.*?</script></head>", "", path.read_text(encoding="utf-8"))


def test_the_page_holds_all_and_needs_nothing_from_elsewhere(tmp_path):
    report.write(tmp_path / "report.html", {"a": ROWS, "b<c": ROWS}, DRAWN)
    text = text_of(tmp_path / "report.html")
    assert text.count("Plotly.newPlot(") == 5
    for words in ("b&lt;c", "0.25", "does not apply", "Share of wrong answers", "Spectrum"):
        assert words in text
    assert "b<c</" not in text
    whole = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", whole)
    assert 'name="viewport"' in whole
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_what_was_not_drawn_is_left_out(tmp_path):
    report.write(tmp_path / "report.html", {"a": ROWS}, {})
    assert "Plotly.newPlot(" not in text_of(tmp_path / "report.html")


def test_each_measure_has_a_sentence():
    assert set(report.MEANING) == {*MEASURES, *FROM_START}
    assert all(text.endswith(".") for text in report.MEANING.values())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (373.7, "373.7"), (-0.001234, "-0.001234"), (1e-7, "1.000e-07")],
)
def test_numbers(value, text):
    assert page.number(value) == text


def test_a_height_that_is_not_finite_leaves_a_hole(tmp_path):
    losses = PLANE.losses.copy()
    losses[0, 0] = np.inf
    report.write(
        tmp_path / "report.html", {"a": ROWS}, {"planes": {"a": PLANE._replace(losses=losses)}}
    )
    assert "Infinity" not in text_of(tmp_path / "report.html")
