"""The wheel in bare environments, and what an import says where a backend is missing."""

import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]

MISSING = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "{backend}":
            raise ModuleNotFoundError("No module named '{backend}'", name="{backend}")

sys.meta_path.insert(0, Absent())
import keras_smoothout
"""


def run(*command, cwd=ROOT, **environment):
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment,
        timeout=900,
    )


def succeeded(process):
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-3000:]
    return process.stdout


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_missing_backend_is_named_with_its_extra(backend):
    code = MISSING.format(backend=backend)
    process = run(sys.executable, "-c", code, KERAS_BACKEND=backend)
    assert process.returncode != 0
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert f"keras-smoothout[{backend}]" in last
    assert "KERAS_BACKEND" in last


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built and checked."""
    folder = tmp_path_factory.mktemp("dist")
    succeeded(run(sys.executable, "-m", "build", "--outdir", folder, ROOT))
    succeeded(run(sys.executable, "-m", "twine", "check", "--strict", *folder.iterdir()))
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    ours = {str(p.relative_to(ROOT)) for p in (ROOT / "keras_smoothout").rglob("*.py")}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {n for n in names if n.endswith(".py")} == ours
    (metadata,) = [n for n in names if n.endswith("METADATA")]
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    requirements = re.findall(r"^Requires-Dist: (\S+)(.*)$", text, re.MULTILINE)
    always = {re.split(r"[><=\[]", name)[0] for name, rest in requirements if "extra" not in rest}
    assert always == {"keras", "numpy"}
    for word in ("Keywords: ", "Apache-2.0", "Python :: 3.11", "Description-Content-Type: "):
        assert word in text


@pytest.mark.slow
@pytest.mark.tensorflow  # Once: it installs both backends itself.
@pytest.mark.parametrize(("backend", "other"), [("tensorflow", "jax"), ("jax", "tensorflow")])
def test_the_first_block_of_the_readme_runs_in_a_bare_environment(wheel, backend, other, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    succeeded(run(sys.executable, "-m", "venv", tmp_path / "venv"))
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    constraints = ROOT / "constraints.txt"
    succeeded(run(*pip, "-c", constraints, f"{wheel}[{backend}]"))
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    output = succeeded(run(python, "-c", block, cwd=tmp_path, KERAS_BACKEND=backend))
    assert re.search(r"\d\.\d", output)
    absent = run(python, "-c", f"import {other}", cwd=tmp_path)
    assert "ModuleNotFoundError" in absent.stderr
