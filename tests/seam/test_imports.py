"""Imports run one way, and no backend is imported but the one that Keras runs on."""

import ast
import graphlib
import inspect
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

import keras_smoothout as ks
from keras_smoothout.method import Method
from keras_smoothout.methods import BASES, METHODS, WAYS

pytestmark = pytest.mark.tensorflow  # The source is the same on both backends.

ROOT = pathlib.Path(ks.__file__).parent
FILES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}

# The ground, floor by floor: each may import those before it, and a folder counts as one.
FLOORS = [
    "keras_internals",
    "backend",
    "saving",
    "checks",
    "labels",
    "cycles",
    "schedules",
    "weights",
    "evaluation",
    "noise",
    "moving_statistics",
    "masks",
    "kronecker",
    "kronecker_inverse",
    "fisher",
    "around",
    "asks",
    "whole",
    "method",
    "train_step",
]
LANDSCAPE = ["curvature", "sharpness", "surface", "comparison", "tracking"]

# Modules of landscape that know no model: a matrix is its products.
MATRICES = ["estimate", "curvature/krylov", "curvature/trace", "curvature/spectrum"]

# What may be imported from outside, in addition to Python, Keras and NumPy; and in which places.
OUTSIDE = {
    "tensorflow": (
        "backend/tensorflow.py",
        "backend/second_derivatives.py",
        "train_step/tensorflow.py",
        "train_step/repairs.py",
    ),
    "jax": ("backend/jax.py", "backend/convolutions.py", "train_step/repairs.py"),
    "matplotlib": ("landscape/plots.py",),
    "plotly": ("page.py", "landscape/report.py"),
    "scipy": ("landscape/",),
    "sklearn": ("datasets.py",),
    "tensorflow_datasets": ("datasets.py",),
    "google": ("datasets.py",),  # Protocol buffers, which tensorflow_datasets reads.
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
    """Names of this package's modules that `file` imports: "backend", "methods" ..."""
    parts = [name.split(".") for name in imports(file)]
    return {p[1] for p in parts if p[0] == "keras_smoothout" and len(p) > 1}


def within(folder):
    """For each module in `folder`, those of the folder that it imports, as paths without ".py"."""
    found = {}
    for file in FILES:
        if file.startswith(f"{folder}/"):
            parts = [name.split(".") for name in imports(file)]
            inside = [p[2:] for p in parts if p[:2] == ["keras_smoothout", folder]]
            paths = {"/".join(p[:n]) for p in inside for n in (1, 2)}
            found[file[len(folder) + 1 : -3]] = {
                path for path in paths if f"{folder}/{path}.py" in FILES
            }
    return found


def test_the_rules_see_the_package():
    assert modules("methods/sam.py") >= {"backend", "weights", "method"}
    assert "tensorflow" in imports("backend/tensorflow.py")
    assert {"methods/smoothout.py", "landscape/curvature/hessian.py"} <= set(FILES)
    assert all(f"{m}.py" in FILES or f"{m}/__init__.py" in FILES for m in FLOORS)


@pytest.mark.parametrize("module", FLOORS)
def test_floors(module):
    below = set(FLOORS[: FLOORS.index(module)])
    files = [f for f in FILES if f == f"{module}.py" or f.startswith(f"{module}/")]
    for file in files:
        assert modules(file) <= below | {module}, file


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith("methods/")])
def test_methods_stand_on_the_floors_and_do_not_know_the_model(file):
    below = FLOORS[: FLOORS.index("train_step")]
    assert modules(file) <= {*below, "methods"}


def test_the_model_knows_no_method():
    assert modules("model.py") <= set(FLOORS)


@pytest.mark.parametrize("module", MATRICES)
def test_landscape_of_matrices_knows_no_model(module):
    below = set(MATRICES[: MATRICES.index(module)])
    assert within("landscape")[module] <= below
    assert modules(f"landscape/{module}.py") <= {"checks", "landscape"}


def test_landscape_stands_on_the_objective():
    graph = within("landscape")
    assert {"objective", "curvature/hessian", *MATRICES} <= set(graph)
    graphlib.TopologicalSorter(graph).prepare()  # Raises where imports go round in a circle.
    assert graph["objective"] <= {"criterion", "data", "symmetry"}
    rooms = {"comparison": {"curvature", "surface"}, "tracking": {"curvature"}}
    for room in LANDSCAPE:
        theirs = {
            path.split("/")[0]
            for file, paths in graph.items()
            for path in paths
            if file.startswith(f"{room}/") and "/" in path
        }
        assert theirs <= {room} | rooms.get(room, set()), room


def test_the_package_itself_does_without_landscape_and_what_that_needs():
    for file in FILES:
        if not file.startswith("landscape/"):
            assert "landscape" not in modules(file), file


# Names that classes of ours have which are none of Keras'.
OUR_OWN = {"_dtype", "_start", "_standardize"}


def private_names_of_keras():
    """Names with one underscore that Keras' own classes have, on this backend."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    model.compile("sgd", "mse")
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(use_ema=True))
    scaled.build(model.trainable_variables)
    accumulating = keras.optimizers.Adam(gradient_accumulation_steps=2)
    accumulating.build(model.trainable_variables)
    objects = [model, keras.Model, *model.layers, scaled, scaled.inner_optimizer, accumulating]
    objects += [model.variables[0], keras.callbacks.Callback(), keras.losses.MeanSquaredError()]
    names = {name for thing in objects for name in dir(thing)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def private_names_of(file):
    """Names with one underscore that `file` reads, sets or defines as methods."""
    nodes = list(ast.walk(ast.parse(FILES[file].read_text())))
    names = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    for cls in (n for n in nodes if isinstance(n, ast.ClassDef)):
        names |= {n.name for n in cls.body if isinstance(n, ast.FunctionDef)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def test_private_names_of_keras_are_in_one_file():
    theirs = private_names_of_keras()
    assert {"_iterations", "_flatten_layers", "_loss_tracker", "_trainable_variables"} <= theirs
    assert len(private_names_of("keras_internals.py") & theirs) >= 8
    found = {file: private_names_of(file) & theirs for file in FILES}
    found = {file: names - OUR_OWN for file, names in found.items()}
    assert {f: n for f, n in found.items() if n and f != "keras_internals.py"} == {}


def test_each_private_name_says_why_and_until_when():
    tree = ast.parse(FILES["keras_internals.py"].read_text())
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            for word in ("Why: ", "Seen: ", "Until: "):
                assert word in ast.get_docstring(node), node.name


def test_no_floor_calls_upstairs_through_self():
    # What a class uses of `self` it has itself, or from a class below it, or Keras has it.
    keras_names = {name for cls in (keras.Model, keras.optimizers.SGD) for name in dir(cls)}
    keras_names |= {n for n in dir(keras.callbacks.Callback)} | {"model", "optimizer", "loss"}
    keras_names |= {"strategy", "name", "built", "distribute_strategy", "_replace"}  # Of a tuple.
    for floor in FLOORS:
        below = [f for f in FLOORS[: FLOORS.index(floor) + 1]]
        known = set(keras_names)
        for file in FILES:
            if file.split("/")[0].removesuffix(".py") in below:
                known |= defined(ast.parse(FILES[file].read_text()))
        for file in FILES:
            if file.split("/")[0].removesuffix(".py") == floor:
                used = {
                    node.attr
                    for node in ast.walk(ast.parse(FILES[file].read_text()))
                    if isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "self"
                }
                unknown = used - known - private_names_of("keras_internals.py")
                assert not unknown, f"{file} uses {unknown} of self"


def defined(tree):
    """Names that the classes of a module define: methods, attributes, and `self.x = ...`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for part in ast.walk(target):
                    if isinstance(part, ast.Attribute):
                        names.add(part.attr)
                    elif isinstance(part, ast.Name):
                        names.add(part.id)
    return names


def test_loops_and_conditions_are_the_backends():
    # Those of Keras are slow around convolutions on JAX.
    names = re.compile(r"\bops\.(cond|scan|while_loop|fori_loop|map|associative_scan)\(")
    found = {file for file in FILES if names.search(FILES[file].read_text())}
    assert found == {"backend/tensorflow.py"}


def test_one_scope_around_a_model():
    # `evaluation.at` is the only `StatelessScope` around a model; JAX' step has two for variables.
    found = {f: FILES[f].read_text().count("StatelessScope(") for f in FILES}
    assert {f: n for f, n in found.items() if n} == {"evaluation.py": 1, "train_step/jax.py": 2}


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)
def test_a_method_uses_the_seam_alone(row):
    own = {
        name
        for c in row.cls.__mro__
        if c is not Method and issubclass(c, Method)
        for name in vars(c)
    }
    assert "apply" not in own
    assert own & {"gradients", "update"}
    assert row.way in WAYS
    assert row.neutral.keys() <= inspect.signature(row.cls).parameters.keys() | set(row.neutral)


def test_every_method_is_in_the_table():
    public = {
        c
        for c in vars(ks).values()
        if inspect.isclass(c) and issubclass(c, keras.optimizers.Optimizer)
    }
    assert public == {row.cls for row in METHODS.values()} | set(BASES.values()) | {Method}


def test_no_test_imports_a_test():
    for path in pathlib.Path(__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            assert not any(n.split(".")[-1].startswith("test_") for n in names), path


def test_no_file_is_too_long():
    for file, path in FILES.items():
        assert len(path.read_text().splitlines()) <= 250, file


@pytest.mark.parametrize("file", FILES)
def test_what_comes_from_outside(file):
    for name in imports(file):
        top = name.split(".")[0]
        assert (
            top in sys.stdlib_module_names
            or top in ("keras", "numpy", "keras_smoothout")
            or file.startswith(OUTSIDE.get(top, ()))
        ), f"{file} imports {name}"
        private = name.startswith("keras.src") and file != "keras_internals.py"
        assert not private, f"{file} imports private {name}"


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
from keras_smoothout import datasets
assert keras.backend.backend() == "{backend}"
inputs = keras.Input((2,))
model = ks.Model(inputs, keras.layers.Dense(1)(inputs))
model.compile(ks.SmoothOut("sgd"), "mse")
print(model.train_on_batch(np.ones((4, 2)), np.ones((4, 1))))
assert datasets.load("digits", image_size=5)[0].shape == (1437, 5, 5, 1)
assert "{absent}" not in sys.modules
"""


def python(code, backend):
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT.parent)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )


@pytest.mark.slow
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
