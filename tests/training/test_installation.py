"""The wheel in bare environments, and what an import says where a backend is missing."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]

MISSING = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "{absent}":
            raise ModuleNotFoundError("No module named '{absent}'", name="{absent}")

sys.meta_path.insert(0, Absent())
import {module}
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
    code = MISSING.format(absent=backend, module="keras_smoothout")
    process = run(sys.executable, "-c", code, KERAS_BACKEND=backend)
    assert process.returncode != 0
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert f"keras-smoothout[{backend}]" in last
    assert "KERAS_BACKEND" in last


@pytest.mark.tensorflow  # JAX does not work without SciPy itself.
def test_the_landscape_names_its_extra():
    code = MISSING.format(absent="scipy", module="keras_smoothout.landscape")
    last = run(sys.executable, "-c", code).stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: `keras_smoothout.landscape` needs SciPy")
    assert "keras-smoothout[landscape]" in last


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Wheel and sdist of this checkout, built from a copy of it and checked."""
    folder, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source") / "copy"
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "runs")
    shutil.copytree(ROOT, source, ignore=left_out)
    succeeded(run(sys.executable, "-m", "build", "--outdir", folder, source))
    succeeded(run(sys.executable, "-m", "twine", "check", "--strict", *folder.iterdir()))
    yield folder
    shutil.rmtree(folder)
    shutil.rmtree(source)


@pytest.fixture
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture
def environment(tmp_path):
    """A bare environment. It is large, so it goes when the test ends."""
    folder = tmp_path / "environment"
    succeeded(run(sys.executable, "-m", "venv", folder))
    yield folder
    shutil.rmtree(folder)


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
    extras = set(re.findall(r"^Provides-Extra: (\S+)$", text, re.MULTILINE))
    assert extras == {"tensorflow", "jax", "landscape", "train", "docs", "test"}
    for word in ("Keywords: ", "Apache-2.0", "Python :: 3.11", "Description-Content-Type: "):
        assert word in text


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_sdist_holds_all_that_a_wheel_is_built_from(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    ours = {str(p.relative_to(ROOT)) for p in (ROOT / "keras_smoothout").rglob("*.py")}
    assert names >= ours | {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"}


@pytest.mark.slow
@pytest.mark.tensorflow  # Once: it installs both backends itself.
@pytest.mark.parametrize(("backend", "other"), [("tensorflow", "jax"), ("jax", "tensorflow")])
def test_the_first_block_of_the_readme_runs_in_a_bare_environment(
    wheel, environment, backend, other, tmp_path
):
    python = environment / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    succeeded(run(*pip, "-c", ROOT / "constraints.txt", f"{wheel}[{backend}]"))

    def there(code, **environment):
        return run(python, "-c", code, cwd=tmp_path, **environment)

    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    output = succeeded(there(block, KERAS_BACKEND=backend))
    assert float(re.search(r"'accuracy': ([\d.]+)", output)[1]) > 0.8
    where = succeeded(there("import keras_smoothout as ks; print(ks)", KERAS_BACKEND=backend))
    assert str(environment) in where
    assert "ModuleNotFoundError" in there(f"import {other}").stderr
    missing = there("import keras_smoothout", KERAS_BACKEND=other).stderr
    assert f"keras-smoothout[{other}]" in missing
