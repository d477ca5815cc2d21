"""What is compiled outlives a reset of TensorFlow's context, as tests of other packages do it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.tensorflow

# In a process of its own: the reset forgets the devices of the other tests.
SCRIPT = """
import keras, numpy as np
from tensorflow.python.eager import context
import keras_smoothout as ks
from keras_smoothout import landscape

x, y = np.ones((4, 3), "float32"), np.ones((4, 1), "float32")

def use(**options):
    model = ks.wrap(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
    model.compile(ks.SmoothOut("sgd"), "mse", **options)
    model.fit(x, y, verbose=0)
    landscape.expected_sharpness(landscape.Objective(model, x, y), draws=2)

use(run_eagerly=True)
use()
context._reset_context()
use(run_eagerly=True)
use()
"""


def test_functions_compiled_before_a_reset_work_after_it():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
