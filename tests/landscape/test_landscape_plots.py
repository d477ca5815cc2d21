"""Pictures: they are written, say what their axes are, and show the numbers they were given."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from keras_smoothout.landscape import plots
from keras_smoothout.landscape.curvature.spectrum import Density
from keras_smoothout.landscape.measures import Measured
from keras_smoothout.landscape.surface.results import Line, Plane, Profile

pytestmark = pytest.mark.tensorflow  # Pictures are NumPy's.

PLACES = np.linspace(0.0, 1.0, 5)
LOSSES = np.array([0.5, 0.7, 0.6, 0.55, 0.9])
ERRORS = np.array([0.1, 0.2, 0.15, 0.1, 0.3])
LINE = Line(PLACES, LOSSES, ERRORS)
REGRESSION = Line(PLACES, 100 * LOSSES, np.full(5, np.nan))
PROFILE = Profile(PLACES, LOSSES, ERRORS, 2 * PLACES)
X, Y = np.linspace(-1, 1, 4), np.linspace(0, 2, 3)
HEIGHTS = 0.1 + X**2 + Y[:, None] ** 4  # From 0.2 to 17: a log scale.
PLANE = Plane(X, Y, HEIGHTS, HEIGHTS / 20, np.array([[0.0, 0.0], [0.5, 1.0]]))
GRID = np.linspace(-1, 4, 50)
DENSITY = Density(
    GRID, np.exp(-(GRID**2)), 0.1 * np.exp(-(GRID**2)), np.zeros((1, 2)), np.ones((1, 2)) / 2
)
ROWS = [Measured("lambda_max", 3.0, 0.5, 0, 0, 0, 0), Measured("sam", np.nan, np.nan, 0, 0, 0, 0)]
HISTORY = {"lambda_max": [5.0, np.nan, 3.0], "hessian_trace": ([2, 4], [50.0, 2000.0])}

DRAWN = {
    "spectrum": lambda path: plots.spectrum({"a": DENSITY, "b": DENSITY}, path),
    "line": lambda path: plots.line({"a": LINE, "b": LINE}, path),
    "line_of_a_regression": lambda path: plots.line(REGRESSION, path),
    "curve": lambda path: plots.curve(PROFILE, path),
    "interpolation": lambda path: plots.interpolation(LINE, path),
    "contour": lambda path: plots.contour(PLANE, path, ("a", "b")),
    "surface": lambda path: plots.surface(PLANE, path),
    "training": lambda path: plots.training({"a": HISTORY, "b": HISTORY}, path),
    "measures": lambda path: plots.measures({"a": ROWS, "b": ROWS[:1]}, path),
}


@pytest.mark.parametrize("name", DRAWN)
def test_written_as_png_and_svg_with_named_axes(name, tmp_path):
    figure = DRAWN[name](tmp_path / "new" / "picture")
    png, svg = (tmp_path / "new" / f"picture.{kind}" for kind in ("png", "svg"))
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 5000
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    for axis in figure.axes:
        assert axis.get_title() or axis.get_ylabel()
    assert figure.axes[0].get_title() or figure.axes[0].get_xlabel()


def test_the_same_picture_has_the_same_bytes(tmp_path):
    for path in (tmp_path / "a", tmp_path / "b.png", tmp_path / "c.1.svg"):
        plots.curve(PROFILE, path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("a.png", "a.svg", "b.png", "b.svg", "c.1.png", "c.1.svg")
    ]
    for kind in ("png", "svg"):
        assert len({path.read_bytes() for path in tmp_path.glob(f"*.{kind}")}) == 1


def data(axis):
    return [np.array(line.get_data()) for line in axis.lines]


def test_lines_show_loss_and_error():
    figure = plots.line({"small": LINE, "large": REGRESSION})
    loss, error = figure.axes
    np.testing.assert_array_equal(data(loss), [[PLACES, LOSSES], [PLACES, 100 * LOSSES]])
    np.testing.assert_array_equal(data(error)[0], [PLACES, 100 * ERRORS])
    assert (loss.get_ylabel(), error.get_ylabel()) == ("loss", "error (%)")
    assert loss.get_yscale() == "log"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["small", "large"]
    styles = {(line.get_color(), line.get_marker()) for line in loss.lines}
    assert len(styles) == 2 and len({marker for _, marker in styles}) == 2


def test_one_result_has_no_legend_and_no_empty_panel():
    figure = plots.line(REGRESSION)
    assert len(figure.axes) == 1 and not figure.legends
    assert figure.axes[0].get_yscale() == "linear"


def test_curves_are_drawn_over_t():
    np.testing.assert_array_equal(data(plots.curve(PROFILE).axes[0]), [[PLACES, LOSSES]])


def test_interpolation_has_loss_left_and_accuracy_right():
    figure = plots.interpolation(LINE, ends=("SB", "LB"))
    left, right = figure.axes
    np.testing.assert_array_equal(data(left)[2], [PLACES, LOSSES])
    np.testing.assert_array_equal(data(right)[0], [PLACES, 100 * (1 - ERRORS)])
    assert right.get_ylabel() == "accuracy (%)"
    assert [(t.get_text(), t.get_position()[0]) for t in left.texts] == [("SB", 0), ("LB", 1)]
    assert [line.get_xdata()[0] for line in left.lines[:2]] == [0, 1]
    assert len(plots.interpolation(REGRESSION).axes) == 1


def test_contours_lie_between_lowest_and_highest():
    figure = plots.contour(PLANE, names=("one", "two"))
    axis, bar = figure.axes
    filled = axis.collections[0]
    assert filled.levels[0] == pytest.approx(HEIGHTS.min())
    assert filled.levels[-1] == pytest.approx(HEIGHTS.max())
    np.testing.assert_allclose(
        np.diff(np.log(filled.levels)), np.log(filled.levels[1] / filled.levels[0])
    )
    np.testing.assert_array_equal(np.array(data(axis))[:, :, 0], PLANE.points)
    assert [text.get_text() for text in axis.texts] == ["one", "two"]
    assert bar.get_ylabel() == "loss"
    assert axis.get_aspect() == 1.0


def test_surfaces_have_the_heights_of_the_plane():
    (axis,) = plots.surface(PLANE).axes
    assert axis.zz_dataLim.intervalx.tolist() == np.log10([HEIGHTS.min(), HEIGHTS.max()]).tolist()
    assert axis.xy_dataLim.intervalx.tolist() == [-1, 1]
    assert len(axis.collections[0].get_facecolor()) == 3 * 2
    assert axis.zaxis.get_major_formatter()(1.0, 0) == "10"
    (axis,) = plots.surface(PLANE, quantity="error").axes
    assert axis.get_zlabel() == "error (%)"


def test_what_is_not_finite_is_left_out():
    losses = HEIGHTS.copy()
    losses[0, 0], losses[1, 1] = np.inf, np.nan
    plane = PLANE._replace(losses=losses)
    assert plots.contour(plane).axes[0].collections[0].levels[-1] == pytest.approx(HEIGHTS.max())
    plots.surface(plane)
    flat = PLANE._replace(losses=np.full_like(HEIGHTS, 2.0))
    plots.contour(flat)
    plots.surface(flat)


def test_spectrum_shows_density_and_its_error():
    (axis,) = plots.spectrum(DENSITY).axes
    np.testing.assert_array_equal(data(axis), [[GRID, DENSITY.density]])
    assert axis.get_yscale() == "log" and axis.get_xlabel() == "eigenvalue"
    band = axis.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx((1.1 * DENSITY.density).max())
    assert axis.get_ylim()[0] == pytest.approx(1e-5 * DENSITY.density.max())


def test_spectra_of_unlike_reach_have_panels_of_their_own():
    wide = DENSITY._replace(grid=20 * GRID, density=DENSITY.density / 20)
    together = plots.spectrum({"a": DENSITY, "b": DENSITY})
    assert len(together.axes) == 1 and len(together.legends) == 1
    left, right = plots.spectrum({"narrow": DENSITY, "wide": wide}).axes
    assert (left.get_title(), right.get_title()) == ("narrow", "wide")
    np.testing.assert_array_equal(data(right), [[wide.grid, wide.density]])
    assert left.get_xlim()[1] < 10 < right.get_xlim()[1]


def test_training_has_a_panel_for_each_measure_and_skips_what_was_not_measured():
    top, trace = plots.training({"run": HISTORY, "other": {"lambda_max": [1.0]}}).axes
    assert [d.tolist() for d in data(top)] == [[[1, 3], [5, 3]], [[1], [1]]]
    assert [d.tolist() for d in data(trace)][0] == [[2, 4], [50, 2000]]
    assert (top.get_ylabel(), trace.get_ylabel()) == ("lambda max", "hessian trace")
    assert (top.get_yscale(), trace.get_yscale()) == ("linear", "log")
    assert top.get_xlabel() == "epoch"
    (alone,) = plots.training({"sharpness": [1.0, 2.0]}, xlabel="step").axes
    assert data(alone)[0].tolist() == [[1, 2], [1, 2]] and alone.get_xlabel() == "step"


def test_measures_have_a_panel_each_and_bars():
    figure = plots.measures({"SB": ROWS, "LB": [ROWS[0]._replace(value=9.0)]})
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("lambda max", "sam")
    assert [line.get_xdata()[0] for line in first.lines if len(line.get_xdata()) == 1][0] == 3.0
    bars = [c.get_segments()[0][:, 0].tolist() for c in first.collections]
    assert bars == [[2.5, 3.5], [8.5, 9.5]]
    assert [text.get_text() for text in first.get_yticklabels()] == ["SB", "LB"]
    wide = plots.measures({"a": [ROWS[0]._replace(measure=str(i)) for i in range(5)]}, columns=3)
    assert len(wide.axes) == 5


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: plots.line({}), "From 1 to 21 results"),
        (lambda: plots.line({str(i): LINE for i in range(22)}), "From 1 to 21 results"),
        (lambda: plots.surface(PLANE._replace(losses=HEIGHTS * np.nan)), "a finite loss"),
    ],
)
def test_wrong_values(wrong, words):
    with pytest.raises(ValueError) as error:
        wrong()
    assert words in str(error.value) and "Received" in str(error.value)
