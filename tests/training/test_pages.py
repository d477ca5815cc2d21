"""The pages that the commands write, in a browser: drawn, to be turned, for a phone, offline."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from support import browser

from keras_smoothout.landscape import Density, Line, Plane
from keras_smoothout.landscape import report as flatness
from keras_smoothout.landscape.measures import MEASURES, Measured
from training import report as comparison

X = np.linspace(-1, 1, 9)
PLANE = Plane(X, X, np.add.outer(X**2, 2 * X**2) + 1e-3, np.full((9, 9), np.nan), np.zeros((1, 2)))
DRAWN = {
    "spectra": {"sgd": Density(X, 1 - X**2 / 2, 0.1 + 0 * X, X[None], X[None])},
    "lines": {"sgd": Line(X, X**2, X**2)},
    "planes": {"sgd": PLANE, "smoothout": PLANE},
}
ROWS = [Measured(name, 0.25, 0.01, 1, 0, 0, 0.1) for name in MEASURES]
EPOCH = {"epoch": 1, "loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}
HISTORY = [EPOCH, EPOCH | {"epoch": 2, "loss": 0.5}]
SURFACE = "document.querySelector('.gl-container canvas')"
pytestmark = [
    pytest.mark.tensorflow,  # It knows no backend.
    pytest.mark.slow,
    pytest.mark.skipif(browser.PATH is None, reason=f"no browser: one of {browser.NAMES}"),
]


@pytest.fixture
def page(tmp_path):
    """A phone without a network."""
    with browser.opened(tmp_path / "profile") as page:
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        page.call("Emulation.setDeviceMetricsOverride", **phone)
        none = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        page.call("Network.emulateNetworkConditions", offline=True, **none)
        yield page


def is_error(event):
    kind, said = event["method"], event["params"]
    in_log = kind == "Log.entryAdded" and said["entry"]["level"] == "error"
    in_console = kind == "Runtime.consoleAPICalled" and said["type"] in ("error", "assert")
    return kind == "Runtime.exceptionThrown" or in_log or in_console


def show(page, path, figures):
    """Open a page, and check what any page must be."""
    page.call("Page.navigate", url=path.as_uri())
    page.until("document.readyState == 'complete'")
    page.until(f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {figures}")
    assert not [event for event in page.events if is_error(event)]
    asked = [e["params"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert {p["request"]["url"].partition(":")[0] for p in asked} <= {"file", "data", "blob"}
    assert page.value("document.documentElement.scrollWidth") <= 390


def picture(page):
    """The pixels of the window, (height, width, 3)."""
    png = base64.b64decode(page.call("Page.captureScreenshot")["data"])
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_the_surface_of_a_report_turns(tmp_path, page):
    path = tmp_path / "report.html"
    flatness.write(path, {"sgd": ROWS, "smoothout": ROWS}, DRAWN)
    show(page, path, 4)
    page.until(f"!!{SURFACE}")
    page.value(f"{SURFACE}.scrollIntoView({{block: 'center'}})")
    box = page.value(f"{SURFACE}.getBoundingClientRect().toJSON()")
    x, y = (round(box[k] + box[n] / 2) for k, n in (("x", "width"), ("y", "height")))
    before = picture(page)[y - 80 : y + 80, x - 80 : x + 80]
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 100  # Shades of a surface.
    mouse = {"y": y, "button": "left", "buttons": 1, "clickCount": 1}
    for kind, at in (("mousePressed", x), ("mouseMoved", x + 80), ("mouseReleased", x + 80)):
        page.call("Input.dispatchMouseEvent", type=kind, x=at, **mouse)
    after = picture(page)[y - 80 : y + 80, x - 80 : x + 80]
    assert np.mean(before != after) > 0.05


def test_a_comparison_is_drawn(tmp_path, page):
    path = tmp_path / "comparison.html"
    summary = {"train_loss": 0.1, "train_accuracy": 0.9, "test_loss": 0.1, "test_accuracy": 0.9}
    summary |= {"seconds_per_epoch": 1.0, "images_per_second": 100.0, "epochs": 2}
    found = (
        {m: [HISTORY] for m in ("sgd", "smoothout")},
        {m: [summary] for m in ("sgd", "smoothout")},
    )
    comparison.write((*found, f"--data_dir={200 * 'x'}\n"), path, "F1 on digits")
    show(page, path, 2)
