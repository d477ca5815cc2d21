"""What a run leaves on disk: whole files only, so that it can be killed at any moment."""

import hashlib
import itertools
import re
import time
import zipfile

import keras
import numpy as np

from training import curves, signals
from training.workdirs import whole

CHECKPOINT = re.compile(r"epoch-(\d+)\.npz")


class Record(keras.callbacks.Callback):
    """After each epoch, write a row of metrics.csv and a checkpoint, named by the epoch.

    Args:
        workdir: Folder to write to.
        history: Rows of the earlier epochs; new rows are added to it.
        keep: Number of newest checkpoints to keep, in addition to that of the best epoch.
        writes: Whether this process writes.
    """

    def __init__(self, workdir, history, keep=2, writes=True):
        super().__init__()
        self.workdir = workdir
        self.history = history
        self.keep = keep
        self.writes = writes

    def on_epoch_begin(self, epoch, logs=None):
        self.rate = float(1.0 * self.model.optimizer.learning_rate)
        self.began = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.seconds = time.perf_counter() - self.began  # of training alone

    def on_epoch_end(self, epoch, logs=None):
        times = {"learning_rate": self.rate, "seconds": self.seconds}
        self.history.append({"epoch": epoch + 1, **logs, **times})
        if not self.writes:
            return
        with whole(self.workdir / "metrics.csv") as path:
            curves.write(self.history, path)
        with whole(checkpoint(self.workdir, epoch + 1)) as path:
            save(self.model, path)
        best = max(self.history, key=lambda row: row["val_accuracy"])["epoch"]
        for path in checkpoints(self.workdir)[: -self.keep]:
            if path != checkpoint(self.workdir, best):
                path.unlink()


def checkpoint(workdir, epoch):
    return workdir / f"epoch-{epoch:06d}.npz"


def checkpoints(workdir):
    """All of them, the newest last."""
    found = [path for path in workdir.iterdir() if CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=epoch_of)


def epoch_of(path):
    return int(CHECKPOINT.fullmatch(path.name)[1])


def variables(model):
    """All that the next epoch depends on, even the state of dropout, which Keras does not save."""
    return [*model.variables, *model.optimizer.variables]


def named(values):
    """Dict of arrays by the place and the path of their variables, as a checkpoint has them."""
    return {f"{i:04d}/{variable.path}": value for i, (variable, value) in enumerate(values)}


def digest(arrays):
    """SHA-256 over names, types, shapes and numbers."""
    found = hashlib.sha256()
    for name, array in arrays.items():
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest().encode()


def save(model, path):
    """Write an .npz file of all variables, whose comment is their digest."""
    arrays = named((variable, variable.numpy()) for variable in variables(model))
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a") as file:
        file.comment = digest(arrays)


def load(path):
    """Return the arrays of a checkpoint, by name, and the digest that `save` added."""
    with path.open("rb") as file, np.load(file) as archive:
        return dict(archive), archive.zip.comment


def difference(model, arrays):
    """Say what the first array is that is not as a model's variable, or return `None`."""
    ours = [kind(*row) for row in named((v, v) for v in variables(model)).items()]
    theirs = [kind(*row) for row in arrays.items()]
    for a, b in itertools.zip_longest(theirs, ours, fillvalue="none"):
        if a != b:
            return f"its array is {a}, where this model has {b}"
    return None


def kind(name, value):
    """Name, type and shape. Keras numbers names by what a process has made before: no numbers."""
    path = re.sub(r"_\d+(?=[/_]|$)", "", name.partition("/")[2])
    return f"{path or name}, {value.dtype} {tuple(value.shape)}"


def restore(model, workdir):
    """Set `model` to the newest checkpoint, if there is one, and return the history up to it.

    Raises:
        ValueError: If the checkpoint is damaged or of another model. `model` then stays unchanged.
    """
    for newest in checkpoints(workdir)[-1:]:
        epoch = epoch_of(newest)
        refused = f"{newest} cannot be resumed from: %s. Delete it, or begin in another --workdir."
        try:
            arrays, said = load(newest)
            history = curves.read(workdir / "metrics.csv")[:epoch]
        except Exception as error:  # A damaged file can raise anything.
            raise ValueError(refused % f"it or metrics.csv is damaged ({error})") from error
        differs = difference(model, arrays)
        if differs:
            raise ValueError(refused % f"it is of another model or method ({differs})")
        if said != digest(arrays):
            raise ValueError(refused % "it is damaged or changed (its digest is of other arrays)")
        if [row["epoch"] for row in history] != list(range(1, epoch + 1)):
            raise ValueError(refused % f"metrics.csv has {len(history)} epochs of {epoch}")
        for variable, value in zip(variables(model), arrays.values(), strict=True):
            variable.assign(value)
        return history
    return []


class Interruption(keras.callbacks.Callback):
    """End the training after the step in which a signal came, see `training.signals`.

    During a validation, end it after the epoch, which the callbacks before this one have saved by
    then.
    """

    def on_train_batch_end(self, batch, logs=None):
        signals.check()

    def on_epoch_end(self, epoch, logs=None):
        signals.check()


class TerminateOnNaN(keras.callbacks.Callback):
    """End the training at the first loss that is not finite, before such weights are saved.

    Raises:
        FloatingPointError: With the step, or the validation, and the checkpoint that is left.
    """

    def __init__(self, workdir):
        super().__init__()
        self.workdir = workdir

    def on_train_batch_end(self, batch, logs=None):
        self._check("loss", logs["loss"], f"at step {batch + 1}")

    def on_epoch_end(self, epoch, logs=None):  # Shows what the last step of the epoch did.
        self._check("validation loss", logs["val_loss"], "at the end")

    def _check(self, name, loss, place):
        if not np.isfinite(loss):
            kept = [path.name for path in checkpoints(self.workdir)[-1:]]
            raise FloatingPointError(
                f"The {name} is {loss} {place} of the epoch after "
                f"{kept[0] if kept else 'the start'}. Try a smaller --learning_rate, or "
                "--global_clipnorm, in another --workdir; --resume --noterminate_on_nan continues "
                "regardless."
            )
