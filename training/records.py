"""What a run leaves on disk beside its checkpoints, and how it goes on from them."""

import math
import time

import keras
import numpy as np

from keras_smoothout.callbacks.resuming import skipped_steps
from keras_smoothout.checkpoint_files import checkpoints, position_of
from keras_smoothout.whole_files import whole
from training import curves


class Record(keras.callbacks.Callback):
    """After each epoch, write a row of metrics.csv.

    Args:
        workdir: Folder to write to.
        history: Rows of the earlier epochs; new rows are added to it.
        rate: Function from an epoch to the learning rate at its start.
        writes: Whether this process writes.
    """

    def __init__(self, workdir, history, rate, writes=True):
        super().__init__()
        self.workdir = workdir
        self.history = history
        self.rate = rate
        self.writes = writes

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0 and skipped_steps(self.model):
            self.began = math.nan  # An earlier process has taken the first steps.

    def on_test_begin(self, logs=None):
        self.seconds = time.perf_counter() - self.began  # Of training alone.

    def on_epoch_end(self, epoch, logs=None):
        times = {"learning_rate": self.rate(epoch), "seconds": self.seconds}
        self.history.append({"epoch": epoch + 1, **logs, **times})
        if self.writes:
            with whole(self.workdir / "metrics.csv") as path:
                curves.write(self.history, path)


def restore(model, checkpoint):
    """Set `model` to the newest checkpoint, if there is one; return the history and its position.

    Args:
        model: A compiled model.
        checkpoint: A `keras_smoothout.callbacks.Checkpoint`.

    Raises:
        ValueError: If the checkpoint is damaged or of another model. `model` then stays unchanged.
    """
    history, table = [], checkpoint.directory / "metrics.csv"
    for newest in checkpoints(checkpoint.directory)[-1:]:
        epoch = position_of(newest).epoch
        refused = f"{newest} cannot be resumed from: %s. Delete it, or begin in another --workdir."
        try:
            history = curves.read(table)[:epoch] if epoch else []
        except Exception as error:  # A damaged file can raise anything.
            raise ValueError(refused % f"metrics.csv is damaged ({error})") from error
        if [row["epoch"] for row in history] != list(range(1, epoch + 1)):
            raise ValueError(refused % f"metrics.csv has {len(history)} epochs of {epoch}")
    try:
        return history, checkpoint.restore(model)
    except ValueError as error:
        raise ValueError(str(error).replace("`directory`", "--workdir")) from error


class TerminateOnNaN(keras.callbacks.Callback):
    """End the training at the first loss that is not finite, before the epoch is saved.

    The loss of a step is that of the weights before its update: a checkpoint within the epoch can
    hold weights that the last update before it has destroyed.

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
            inside = (
                f" (delete {kept[0]} if it is of such weights)" if "-step-" in str(kept) else ""
            )
            raise FloatingPointError(
                f"The {name} is {loss} {place} of the epoch after "
                f"{kept[0] if kept else 'the start'}{inside}. Try a smaller --learning_rate, or "
                "--global_clipnorm, in another --workdir; --resume --noterminate_on_nan continues "
                "regardless."
            )
