"""Every example runs, is as long as it should be, and fails where a number leaves its band."""

import ast
import importlib
import math
import os
import pathlib

import keras
import pytest

from examples import __main__ as gallery
from examples import common

pytestmark = pytest.mark.tensorflow  # What an example shows is no matter of the backend.


def example(name):
    return importlib.import_module(f"examples.{name}")


def source(name):
    return (common.FOLDER / f"{name}.py").read_text()


def prepared(name):
    """Whether the data that an example needs are there: only one reads what has to be fetched."""
    folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR", ""))
    return name != "shallow_pac_bayes" or (folder / "mnist").is_dir()


@pytest.fixture(autouse=True)
def _policy():
    """An example may compute in float64; what it sets, it must put back."""
    before = keras.config.floatx(), keras.config.dtype_policy().name
    yield
    assert (keras.config.floatx(), keras.config.dtype_policy().name) == before


@pytest.mark.slow  # Five seconds each, mostly to compile.
@pytest.mark.parametrize("name", common.NAMES)
def test_runs_when_shrunk(name):
    claims, figure = example(name).main(quick=True)
    common.check(claims, quick=True)
    assert all(math.isfinite(c.measured) and c.error >= 0 and c.low < c.high for c in claims)
    assert all(axis.has_data() for axis in figure.axes)


@pytest.mark.release
@pytest.mark.parametrize("name", [n for n in common.NAMES if prepared(n)])
def test_claims_hold(name, tmp_path):
    module = example(name)
    common.run(module.main, module.__doc__, [f"--out={tmp_path}"])
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.png", f"{name}.txt"}


def test_data_that_are_not_prepared_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"'mnist' is not prepared in {tmp_path}"):
        example("shallow_pac_bayes").main(quick=False)


@pytest.mark.parametrize("name", common.NAMES)
def test_is_short_and_says_what_it_is(name):
    assert 40 <= len(source(name).splitlines()) <= 100
    doc = ast.get_docstring(ast.parse(source(name)))
    assert f"python -m examples.{name}" in doc and "Reference: " in doc


@pytest.mark.parametrize("name", common.NAMES)
def test_picture_is_committed_and_small(name):
    assert (common.FIGURES / f"{name}.png").stat().st_size < 60_000


def test_the_gallery_is_that_of_the_runs():
    assert gallery.PAGE.read_text() == gallery.page()


GOOD = common.Claim("within", 1.0, 0.1, 0.5, 1.5, theory=1.1)
BAD = common.Claim("outside", 2.0, 0.1, 0.5, 1.5)


@pytest.mark.parametrize("measured", [2.0, 0.4, math.nan])
def test_a_claim_outside_its_band_fails(measured, tmp_path, capsys):
    bad = BAD._replace(measured=measured)

    def main(quick):
        return [GOOD, bad], common.panels(1)[0]

    with pytest.raises(SystemExit, match="outside") as error:
        common.run(main, "A claim that is wrong.", [f"--out={tmp_path}"])
    assert isinstance(error.value.code, str)  # Python prints it and exits with code 1.
    assert "1 ± 0.1" in capsys.readouterr().out


def test_a_shrunk_run_checks_what_promises_to_hold():
    common.check([GOOD, BAD], quick=True)
    with pytest.raises(ValueError, match="outside"):
        common.check([GOOD, BAD._replace(quick=True)], quick=True)
    with pytest.raises(ValueError, match="none"):
        common.check([])
