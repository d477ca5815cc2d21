"""What a run leaves on disk: whole files only, so that it can be killed at any moment."""

import contextlib
import os
import time

import keras
import numpy as np

from training import plots


@contextlib.contextmanager
def whole(path):
    """A path to write to, which takes the place of `path` at the end: a whole file or none."""
    temporary = path.with_name(f"unfinished-{path.name}")
    yield temporary
    os.replace(temporary, path)


class Record(keras.callbacks.Callback):
    """After each epoch, a row of metrics.csv and a checkpoint, whose name holds the epoch.

    Args:
        workdir: Folder to write to.
        history: Rows of the epochs before; those to come are added to it.
    """

    def __init__(self, workdir, history):
        super().__init__()
        self.workdir = workdir
        self.history = history

    def on_epoch_begin(self, epoch, logs=None):
        self.rate = float(1.0 * self.model.optimizer.learning_rate)
        self.began = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.seconds = time.perf_counter() - self.began  # of training alone

    def on_epoch_end(self, epoch, logs=None):
        times = {"learning_rate": self.rate, "seconds": self.seconds}
        self.history.append({"epoch": epoch + 1, **logs, **times})
        with whole(self.workdir / "metrics.csv") as path:
            plots.write(self.history, path)
        older = checkpoints(self.workdir)
        with whole(self.workdir / f"epoch-{epoch + 1:06d}.npz") as path:
            np.savez(path, *[variable.numpy() for variable in variables(self.model)])
        for path in older:
            path.unlink()


def checkpoints(workdir):
    return sorted(workdir.glob("epoch-*.npz"))


def variables(model):
    """All that the next epoch depends on, also the state of dropout, which Keras does not save."""
    return [*model.variables, *model.optimizer.variables]


def restore(model, workdir):
    """Sets `model` to the newest checkpoint, if there is one. Returns the history up to it."""
    for newest in checkpoints(workdir)[-1:]:
        for variable, value in zip(variables(model), np.load(newest).values(), strict=True):
            variable.assign(value)
        return plots.read(workdir / "metrics.csv")[: int(newest.stem[len("epoch-") :])]
    return []
