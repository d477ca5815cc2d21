"""What all tests share. The backend is Keras' own: run once with each KERAS_BACKEND."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # Two logical CPUs, for MirroredStrategy.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], 2 * [tf.config.LogicalDeviceConfiguration()]
    )
else:
    import jax

    jax.config.update("jax_num_cpu_devices", 8)  # For DataParallel.


# Fixtures of modules that are expensive to make: their tests stay in one worker.
SHARED = ("method", "wrapper", "callbacks_run", "folder", "objective", "dist", "trained", "workers")


# Files about what no backend changes, or little: on JAX only a release runs them.
NEUTRAL = """
landscape_callbacks landscape_command landscape_connectivity landscape_measures
landscape_similarity landscape_spectrum landscape_surface landscape_symmetry landscape_layers
landscape_alignment landscape_plots curvature_learning_rate properties reach refusals scaling
schedules cycles find_radius ensemble averages persistent checkpoint_files roles readme strangers
benchmarks memory saving noise sample peers
""".split()
# Methods that use the seam as others do: on JAX only a release runs these batteries of them.
TWINS = set("adasmoothout asam gnp gsam awp friendlysam msam dpsgd padam lars".split())
BATTERIES = "method_battery copies".split()


@pytest.hookimpl(tryfirst=True)  # Before `-m` chooses.
def pytest_collection_modifyitems(items):
    """Leave out what is about the other backend's own machinery; group tests by what they share."""
    other = {"tensorflow": "jax", "jax": "tensorflow"}[keras.backend.backend()]
    items[:] = [i for i in items if not i.get_closest_marker(other)]
    for item in items:
        file, call = item.module.__name__.rpartition("test_")[2], getattr(item, "callspec", None)
        rows = set(call.id.split("-")) if call else set()
        twin = file in BATTERIES and rows & TWINS
        if other == "tensorflow" and (file in NEUTRAL or twin):
            item.add_marker("release")
        if item.get_closest_marker("release"):
            item.add_marker("slow")
        if file in BATTERIES and "fixedeffectiverate" in rows:  # On a net that has a scale.
            item.add_marker(pytest.mark.filterwarnings("ignore:The first gradient was not at"))
        for name in set(SHARED) & set(item.fixturenames):
            row = call.params.get(name, "") if call else ""
            item.add_marker(pytest.mark.xdist_group(f"{item.module.__name__}-{name}-{row}"))


@pytest.fixture(autouse=True)
def _fresh_state():
    keras.utils.clear_session(free_memory=False)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _exact(request):
    """Without TensorFlow's graph rewriting, for tests marked `exact`.

    It changes the last bit of a sum differently inside and outside a loop body, or eagerly, which
    would hide whether a reduction is exact. All other tests run the TensorFlow that users run.
    """
    exact = request.node.get_closest_marker("exact") and keras.backend.backend() == "tensorflow"
    if exact:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    if exact:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


@pytest.fixture
def x64():
    """Types of 64 bits, which JAX has only on demand."""
    if keras.backend.backend() == "tensorflow":
        yield
    else:
        with jax.enable_x64(True):
            yield


@pytest.fixture
def precise(float64, x64):
    """float64 all through, which JAX has to be told apart from Keras."""
