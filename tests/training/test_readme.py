"""The README and the docstrings do what they say: every block and every example runs."""

import doctest
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_smoothout
from benchmarks import flatness, report
from keras_smoothout import methods
from training import options

pytestmark = pytest.mark.tensorflow  # Examples and commands run once.

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(keras_smoothout.__path__, "keras_smoothout.")
    if ".backend." not in m.name
)
SHRUNK = "--dataset=digits --train_examples=256 --epochs=1 --batch_size=128 --ghost_batch_size=64"
SHRUNK += " --warmup_epochs=0"


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(start, text=README):
    lines = [line.split("#")[0].strip() for line in "".join(blocks("sh", text)).splitlines()]
    return [line for line in lines if line.startswith(start)]


@pytest.mark.parametrize("page", ["README.md", *sorted(p.name for p in ROOT.glob("docs/*.md"))])
def test_python_blocks(page, capsys):
    """In order, in one namespace; the README's first prints an accuracy that is worth showing."""
    namespace = {}
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    for block in blocks("python", path.read_text()):
        exec(compile(block, page, "exec"), namespace)
    if page == "README.md":
        assert float(re.search(r"'accuracy': ([\d.]+)", capsys.readouterr().out)[1]) > 0.85


def test_every_shell_command_is_known():
    known = [c for start in ("pip install", "make", "python train.py") for c in commands(start)]
    assert sorted(known) == sorted(commands(""))


@pytest.mark.parametrize("command", commands("make"))
def test_make_commands_exist(command):
    subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", commands("python train.py"))
def test_train_commands(command, tmp_path):
    """Each as it stands, but on a few digits."""
    shrink = [] if "--help" in command else [*SHRUNK.split(), f"--workdir={tmp_path / 'run'}"]
    arguments = [a for a in shlex.split(command)[2:] if not a.startswith(("--seeds", "--data_dir"))]
    done = subprocess.run(
        [sys.executable, "train.py", *arguments, *shrink], cwd=ROOT, capture_output=True, text=True
    )
    assert ("test acc" in done.stdout) or (
        "--help" in command and "--ghost_batch_size" in done.stdout
    )


@pytest.mark.parametrize("page", sorted(p.name for p in ROOT.glob("docs/*.md")))
def test_train_commands_of_the_pages_parse(page, monkeypatch):
    for line in commands("", (ROOT / "docs" / page).read_text()):
        environment, _, flags = line.partition("python train.py")
        if flags:
            backend = "jax" if "KERAS_BACKEND=jax" in environment else "tensorflow"
            monkeypatch.setattr(keras.backend, "backend", lambda backend=backend: backend)
            flags = flags.replace("gs://BUCKET", "nothing/here")  # No network.
            options.parse(["train.py", *shlex.split(flags)])


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_method_has_an_example_and_a_reference():
    for name in keras_smoothout.__all__:
        thing = getattr(keras_smoothout, name)
        is_method = isinstance(thing, type) and issubclass(thing, keras.optimizers.Optimizer)
        if is_method and thing is not keras_smoothout.Method:
            for part in ("Args:", "Reduces to:", "Cost:", "Differs from the paper:", "Example:"):
                assert part in thing.__doc__, (name, part)
            assert "arXiv:" in thing.__doc__, name
            assert f"`{name}`" in README, name


def test_the_evidence_is_that_of_the_runs():
    """Every number of the README's table and of RESULTS.md is computed from the committed runs."""
    tree = report.read(ROOT / "benchmarks/generalization_gap.jsonl")
    assert report.evidence(tree["f1"]) in README
    results = (ROOT / "benchmarks/RESULTS.md").read_text()
    for setting, rows in tree.items():
        if not setting.endswith("-tuning"):
            assert report.section(setting, rows, tree.get(f"{setting}-tuning")) in results


def test_the_table_of_flatness_is_that_of_the_runs():
    runs = list(flatness.gap.recorded(flatness.RESULTS).values())
    assert flatness.page(runs) in (ROOT / "docs/landscape.md").read_text()


@pytest.mark.parametrize(
    "cls", [*(row.cls for row in methods.METHODS.values()), *methods.BASES.values()]
)
def test_each_method_has_a_line_in_the_readme(cls):
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")]
    (line,) = [row for row in rows if f"| `{cls.__name__}` |" in row]
    assert "arxiv.org" in line
