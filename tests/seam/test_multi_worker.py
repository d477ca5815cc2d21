"""MultiWorkerMirroredStrategy: two processes on loopback train every optimizer alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.contract import FAMILIES, FEW
from support.nets import two_replicas

from benchmarks.faults import free_ports

pytestmark = pytest.mark.tensorflow
WORKER = Path(__file__).parents[1] / "support" / "worker.py"
ROOT = WORKER.parents[2]


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What the two workers found: the pair of processes starts once."""
    folder = tmp_path_factory.mktemp("workers")
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "KERAS_BACKEND": "tensorflow"}
    processes = []
    for index in range(2):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        processes.append(
            subprocess.Popen(
                [sys.executable, WORKER, folder / f"{index}.json"],
                env=os.environ | environment | {"TF_CONFIG": json.dumps(config)},
                stderr=subprocess.PIPE,
            )
        )
    try:
        for process in processes:
            _, errors = process.communicate(timeout=400)
            assert process.returncode == 0, errors.decode()[-2000:]
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"{index}.json").read_text()) for index in range(2)]


@pytest.mark.slow
def test_two_workers(workers):
    for name in (*FEW, *FAMILIES):
        first, second = (worker[name] for worker in workers)
        for a, b in zip(first["weights"], second["weights"], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
        assert first["history"] == second["history"], name
        assert first["evaluated"] == second["evaluated"], name
        history = first["history"]
        assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert history["val_loss"][-1] == pytest.approx(first["evaluated"]["loss"], rel=1e-6)
        assert first["predictions"] == 48
        assert np.all(np.isfinite(history["loss"]))
    # When Keras itself no longer fails there, what our train step mends can go:
    # keras-team/keras#20585.
    assert workers[0]["plain keras"] is not None


@pytest.mark.slow
def test_two_workers_are_two_devices_of_one_process(workers):
    from support import worker  # Of TensorFlow.

    for name in FAMILIES:
        one, many = worker.run(name, two_replicas()), workers[0][name]
        assert one == many, name
