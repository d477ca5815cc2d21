"""What a run leaves on disk: whole files only, so that it can be killed at any moment."""

import contextlib
import os
import signal
import time
import zipfile

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
    """Sets `model` to the newest checkpoint, if there is one. Returns the history up to it.

    Raises:
        ValueError: If the checkpoint is damaged or of another model, which is left as it was.
    """
    for newest in checkpoints(workdir)[-1:]:
        epoch = int(newest.stem[len("epoch-") :])
        refused = f"{newest} cannot be resumed from: %s. Delete it, or begin in another --workdir."
        try:
            with open(newest, "rb") as file, np.load(file) as arrays:
                values = list(arrays.values())
            history = plots.read(workdir / "metrics.csv")[:epoch]
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(refused % f"it or metrics.csv is damaged ({error})") from error
        ours, theirs = ([x.shape for x in xs] for xs in (variables(model), values))
        if ours != theirs:
            raise ValueError(refused % "it is of another model or method")
        if len(history) < epoch:
            raise ValueError(refused % f"metrics.csv has {len(history)} epochs of {epoch}")
        for variable, value in zip(variables(model), values, strict=True):
            variable.assign(value)
        return history
    return []


class Interruption(keras.callbacks.Callback):
    """Ctrl-C and SIGTERM end the training after the step they fall into; a second one at once.

    Python raises where it happens to be, and drops what is raised in a destructor.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def on_train_begin(self, logs=None):
        self.received = False
        self.kept = [signal.signal(number, self.receive) for number in self.signals]

    def receive(self, number, frame):
        self.received = True
        self.on_train_end()

    def on_train_end(self, logs=None):
        for number, handler in zip(self.signals, self.kept, strict=True):
            signal.signal(number, handler)

    def on_train_batch_end(self, batch, logs=None):
        if self.received:
            raise KeyboardInterrupt


class TerminateOnNaN(keras.callbacks.Callback):
    """Ends the training at the first step whose loss is not finite, before it is saved.

    Raises:
        FloatingPointError: With the step, and what is left.
    """

    def __init__(self, workdir):
        super().__init__()
        self.workdir = workdir

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):
            kept = [path.name for path in checkpoints(self.workdir)[-1:]]
            raise FloatingPointError(
                f"The loss is {logs['loss']} at step {batch + 1} of the epoch after "
                f"{kept[0] if kept else 'the start'}. Try a smaller --learning_rate, or "
                "--global_clipnorm; --noterminate_on_nan goes on regardless."
            )
