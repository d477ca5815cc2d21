"""Imports run one way, and no backend is imported but the one that Keras runs on."""

import ast
import graphlib
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

import keras_smoothout as ks

ROOT = pathlib.Path(ks.__file__).parent
FILES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}

# Each may import those before it.
FOUNDATION = ["backend", "checks", "schedules", "weights", "evaluation", "noise", "wrapper"]

# Modules of landscape that know no model: a matrix is its products.
MATRICES = ["estimate", "krylov", "trace", "spectrum"]

# What may be imported from outside, beside Python, Keras and NumPy; and in which file or folder.
OUTSIDE = {
    "tensorflow": ("backend/tensorflow.py",),
    "jax": ("backend/jax.py",),
    "matplotlib": ("landscape/plots.py",),
    "scipy": ("landscape/",),
    "sklearn": ("landscape/datasets.py",),
    "tensorflow_datasets": ("landscape/datasets.py",),
}


def imports(file):
    """Full names of all modules and objects that `file` imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(FILES[file].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules(file):
    """Names of this package's modules that `file` imports: "backend", "sam" ..."""
    parts = [name.split(".") for name in imports(file)]
    return {p[1] for p in parts if p[0] == "keras_smoothout" and len(p) > 1}


def landscape():
    """For each module of landscape, those that it imports from there."""
    found = {}
    for file in FILES:
        if file.startswith("landscape/"):
            parts = [name.split(".") for name in imports(file)]
            found[pathlib.Path(file).stem] = {
                p[2] for p in parts if p[:2] == ["keras_smoothout", "landscape"]
            }
    return found


def methods():
    """Modules that define the optimizers."""
    classes = [c for c in vars(ks).values() if inspect.isclass(c) and issubclass(c, ks.Method)]
    return {c.__module__.split(".")[1] for c in classes if c is not ks.Method}


def test_the_rules_see_the_package():
    assert {"smoothout", "sam", "lookahead"} <= methods()
    assert modules("sam.py") >= {"backend", "weights", "wrapper"}
    assert "tensorflow" in imports("backend/tensorflow.py")
    assert {f"{m}.py" for m in FOUNDATION[1:]} <= set(FILES)


@pytest.mark.parametrize("module", FOUNDATION)
def test_foundation(module):
    below = set(FOUNDATION[: FOUNDATION.index(module)])
    files = [f for f in FILES if f == f"{module}.py" or f.startswith(f"{module}/")]
    for file in files:
        assert modules(file) <= below | {module}, file


@pytest.mark.parametrize("method", sorted(methods()))
def test_methods_stand_on_the_foundation_and_do_not_know_the_model(method):
    assert modules(f"{method}.py") <= set(FOUNDATION) | methods()


def test_the_model_knows_no_method():
    assert modules("model.py") <= set(FOUNDATION)


@pytest.mark.parametrize("module", MATRICES)
def test_landscape_of_matrices_knows_no_model(module):
    below = set(MATRICES[: MATRICES.index(module)])
    assert landscape()[module] <= below
    assert modules(f"landscape/{module}.py") <= {"checks", "landscape"}


def test_landscape_stands_on_the_objective():
    graph = landscape()
    assert {"objective", "hessian", *MATRICES} <= set(graph)
    graphlib.TopologicalSorter(graph).prepare()  # Raises where imports go round in a circle.
    assert graph["objective"] <= {"criterion", "data"}
    assert not graph["hessian"] & {"measures", "surface", "connectivity", "plots", *MATRICES}


def test_the_package_itself_does_without_landscape_and_what_that_needs():
    reached, new = set(), {"__init__"}
    while new:
        reached |= new
        new = set().union(*(modules(f"{m}.py") for m in new if f"{m}.py" in FILES)) - reached
    assert {"sam", "backend"} <= reached
    assert "landscape" not in reached


@pytest.mark.parametrize("file", FILES)
def test_what_comes_from_outside(file):
    for name in imports(file):
        top = name.split(".")[0]
        assert (
            top in sys.stdlib_module_names
            or top in ("keras", "numpy", "keras_smoothout")
            or file.startswith(OUTSIDE.get(top, ()))
        ), f"{file} imports {name}"
        assert not name.startswith("keras.src"), f"{file} imports private {name}"


@pytest.mark.parametrize("name", ["utils.py", "base.py", "helpers.py", "common.py", "registry.py"])
def test_no_module_without_a_subject(name):
    assert not [file for file in FILES if file.split("/")[-1] == name]


TRAIN = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "{absent}":
            raise ModuleNotFoundError("No module named '{absent}'", name=name)

sys.meta_path.insert(0, Absent())
import keras, numpy as np, keras_smoothout as ks
assert keras.backend.backend() == "{backend}"
inputs = keras.Input((2,))
model = ks.Model(inputs, keras.layers.Dense(1)(inputs))
model.compile(ks.SmoothOut("sgd"), "mse")
print(model.train_on_batch(np.ones((4, 2)), np.ones((4, 1))))
assert "{absent}" not in sys.modules
"""


def python(code, backend):
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT.parent)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )


@pytest.mark.parametrize(("backend", "absent"), [("jax", "tensorflow"), ("tensorflow", "jax")])
def test_one_backend_runs_where_the_other_is_not_installed(backend, absent):
    run = python(TRAIN.format(backend=backend, absent=absent), backend)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.strip()) >= 0


def test_other_backends_are_refused_with_a_cure():
    run = python("import keras_smoothout", "numpy")
    assert run.returncode != 0
    for text in (
        "ImportError: keras_smoothout runs on Keras' tensorflow and jax backends. ",
        "Set KERAS_BACKEND=tensorflow or KERAS_BACKEND=jax before the first `import keras`. ",
        "Received: KERAS_BACKEND=numpy",
    ):
        assert text in run.stderr
