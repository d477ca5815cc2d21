"""`import keras_smoothout` leaves Keras, the backend and Python as they were."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

STATE = """
import logging, os, random, signal, sys, warnings
import keras, numpy as np
from keras.src.backend.common import global_state
BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
else:
    import jax

LOGGERS = [n for n, v in logging.root.manager.loggerDict.items() if hasattr(v, "level")]
keras.random.uniform(())  # From here on Keras has a global seed, whose state a draw would change.

def logged(name):
    logger = logging.getLogger(name)
    return name, logger.level, list(logger.handlers), list(logger.filters), logger.propagate

def drawn():
    return np.asarray(global_state.get_global_attribute("global_seed_generator").state).tolist()

def pictures():
    matplotlib = sys.modules.get("matplotlib")  # Keras imports it where it is installed.
    return matplotlib and repr(sorted(dict.items(matplotlib.rcParams), key=lambda item: item[0]))

def state():
    config = keras.config
    found = {
        "keras": {k: repr(v) for k, v in vars(global_state.GLOBAL_STATE_TRACKER).items()},
        "settings": [config.floatx(), config.epsilon(), config.image_data_format(),
                     config.is_traceback_filtering_enabled()],
        "objects": {k for k in keras.saving.get_custom_objects() if "keras_smoothout>" not in k},
        "random": [random.getstate(), repr(np.random.get_state(legacy=False)), drawn()],
        "numpy": [np.geterr(), np.get_printoptions()],
        "environment": dict(os.environ), "path": list(sys.path), "warnings": list(warnings.filters),
        "signals": [signal.getsignal(s) for s in signal.valid_signals()],
        "logging": [logging.root.manager.disable, *map(logged, ("", *LOGGERS))],
        "pictures": pictures(),
        "hooks": [sys.excepthook, sys.displayhook], "limit": sys.getrecursionlimit(),
    }
    if BACKEND == "tensorflow":
        found["tensorflow"] = [tf.config.optimizer.get_experimental_options(),
                               tf.config.get_soft_device_placement(),
                               tf.config.get_visible_devices(),
                               tf.executing_eagerly(), tf.config.functions_run_eagerly(),
                               tf.distribute.has_strategy(), tf.get_logger().level, tf.nn.moments]
    else:
        found["jax"] = dict(jax.config.values)
    return found

def named():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Add()([keras.layers.Dense(2)(inputs), inputs]))
    return [layer.name for layer in model.layers], model.get_layer("add").name, model.name
"""

SAME = (
    STATE
    + """
before, drawing = state(), "matplotlib.pyplot" in sys.modules
import keras_smoothout, keras_smoothout.landscape
after = state()
for part in before:
    assert before[part] == after[part], (part, before[part], after[part])
assert ("matplotlib.pyplot" in sys.modules) == drawing
print(named())
"""
)

PLAIN = STATE + "\nprint(named())\n"

POLICY = """
import keras, keras_smoothout as ks
keras.config.set_floatx("float64")
dense = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
inputs = keras.Input((2,))
ours = ks.Model(inputs, keras.layers.Dense(1)(inputs))
print({v.dtype for v in (*dense.variables, *ours.variables)}, inputs.dtype)
"""


def run(code, backend):
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


BACKENDS = pytest.mark.parametrize(
    "backend",
    [
        pytest.param("tensorflow", marks=pytest.mark.tensorflow),
        pytest.param("jax", marks=pytest.mark.jax),
    ],
)


@pytest.mark.slow
@BACKENDS
def test_all_global_state_is_as_before_and_names_are_those_of_a_fresh_process(backend):
    assert run(SAME, backend) == run(PLAIN, backend)


@pytest.mark.slow
@BACKENDS
def test_the_floating_point_type_can_still_be_chosen(backend):
    assert run(POLICY, backend) == "{'float64'} float64\n"
