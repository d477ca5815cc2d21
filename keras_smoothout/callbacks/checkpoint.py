"""`Checkpoint`: all state of a training in whole files, from which it goes on to the bit."""

import os
import time

import keras
import numpy as np

from keras_smoothout import keras_internals, random_state, saved_state, whole_files
from keras_smoothout.callbacks.resuming import METRICS, Resumed, running_fit, seek, watched
from keras_smoothout.checkpoint_files import Files, Position, checkpoints, path_of, position_of
from keras_smoothout.checks import check_choice, check_count, check_number, received
from keras_smoothout.evaluation import sync

SIGNS = {"min": -1, "max": 1}
HIGHER = ("accuracy", "acc", "auc", "precision", "recall", "f1_score", "iou")


class Checkpoint(keras.callbacks.Callback):
    """Save all state of a training, and continue there when the same `fit` is run again.

    A file holds the weights, moving statistics, the optimizer with the slots and counters of all
    methods, averages, loss scale, the seeds of dropout (which Keras' own files leave out), the
    metrics of the epoch, and the states of Python's and NumPy's global random numbers. It is
    written to a temporary file, flushed and renamed, so a process can be killed at any moment. On
    CPUs a training that is continued ends with the same weights, to the bit, as one that was not
    interrupted, also if that happened inside an epoch. `docs/checkpoints.md` says which data that
    holds for, and when `keras.callbacks.OrbaxCheckpoint` serves better.

    Args:
        directory: Folder to save to, a string or path. It is locked while a `fit` saves there.
        every_epochs: Save after so many epochs. Defaults to `1` if none of the three is given.
        every_steps: Save when so many steps have been taken since the last time, and before each
            validation. Defaults to `None`.
        every_minutes: Likewise, after so many minutes. Defaults to `None`.
        keep: Number of newest files to keep, or `None` for all. An old one is deleted when the
            new one is whole. Defaults to `2`.
        best: Name of a value in the logs of an epoch, such as `"val_loss"`. The file of the epoch
            where it is best is kept as well. Defaults to `None`.
        mode: `"min"` or `"max"`, which of them is best. Defaults to `None`: `"max"` for names
            that end in one of accuracy, acc, auc, precision, recall, f1_score and iou, and `"min"`
            for those that end in loss.
        writes: Whether this process writes; of several that train together, one does. Defaults
            to `True`.

    Raises:
        ValueError: If an argument is not as above; when the training begins, if the newest file is
            damaged or of another model (which then is unchanged), another process saves in
            `directory`, or the data cannot go to the position.

    Attributes:
        position: `(epoch, step)` where the training is.

    The position is in steps of the epoch. Data that has a method `seek(epoch, step, steps)` is told
    where to begin (`ks.Epochs` has it); of other data, the batches before are read and dropped. Put
    this callback after those that write files of their own.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np, tempfile
        >>> x = np.ones((64, 4), "float32")
        >>> data = ks.Epochs(x, x[:, :1], batch_size=8)
        >>> def train(directory, epochs):
        ...     keras.utils.set_random_seed(0)
        ...     model = ks.wrap(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
        ...     model.compile(ks.SmoothOut("sgd"), "mse")
        ...     checkpoint = ks.callbacks.Checkpoint(directory, every_steps=5)
        ...     return model.fit(data, epochs=epochs, steps_per_epoch=8, shuffle=False, verbose=0,
        ...                      callbacks=[checkpoint]).epoch
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     train(directory, 2), train(directory, 3), train(directory, 3)
        ([0, 1], [2], [])
    """

    def __init__(
        self,
        directory,
        every_epochs=None,
        every_steps=None,
        every_minutes=None,
        keep=2,
        best=None,
        mode=None,
        writes=True,
    ):
        super().__init__()
        if not isinstance(directory, (str, os.PathLike)) or not str(directory):
            raise ValueError(f"`directory` must be a path. {received('directory', directory)}")
        counts = {"every_epochs": every_epochs, "every_steps": every_steps, "keep": keep}
        for name, value in counts.items():
            if value is not None:
                check_count(name, value)
        if every_minutes is not None:
            check_number("every_minutes", every_minutes)
        if best is not None and not isinstance(best, str):
            raise ValueError(f"`best` must be the name of a value. {received('best', best)}")
        if best is not None and mode is None:
            mode = "min" if best.endswith("loss") else "max" if best.endswith(HIGHER) else mode
        if best is not None:
            check_choice("mode", mode, tuple(SIGNS))
        self._inside = every_steps is not None or every_minutes is not None
        self.directory = whole_files.as_path(directory)
        self.every_epochs = every_epochs or (None if self._inside else 1)
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self.best, self.writes = best, writes
        self._files = Files(self.directory, keep, SIGNS[mode] if best else 0)
        self.position, self._saved, self._resumed = None, None, None

    def restore(self, model):
        """Set `model` to the newest file, if there is one, and return its position.

        `fit` does this by itself. Call it where the data has to be made for the position; nothing
        is then read and dropped.

        Args:
            model: A compiled model with all of its weights.
        """
        self._resumed = self._newest(model, reads=False)
        return self._resumed.position if self._resumed else Position()

    def restore_best(self, model):
        """Set `model`, and its optimizer, to the file of the best epoch, and return its position.

        Args:
            model: A compiled model with all of its weights.
        """
        self._files.find_best()
        if self._files.best is None:
            raise ValueError(
                f"`best` must have been saved in {self.directory}. {received('best', self.best)}"
            )
        _, position = self._files.best
        self._files.read(path_of(self.directory, position), model)
        return position

    def save(self):
        """Save the state of the training now, unless that is done."""
        if self.position is None or self.saved:
            return
        if self.writes:
            sync(self.model)
            training = self._random | {"value": np.array(self._logged)}
            if not keras_internals.many_workers(self.model):
                inside = self.position.step > 0
                metrics = self.model.metrics_variables if inside else watched(self.model)
                metrics = saved_state.of(metrics)
                training |= {f"{METRICS}{name}": array for name, array in metrics.items()}
            self._files.write(self.position, self.model, training)
        self._saved, self._steps, self._time = self.position, 0, time.monotonic()

    @property
    def saved(self):
        """Whether the present state is in a file."""
        return self.position == self._saved

    def _newest(self, model, reads, first=0):
        for path in checkpoints(self.directory)[-1:]:
            self._check_first(first, position_of(path))
            return Resumed(position_of(path), self._files.read(path, model), reads)
        return None

    def on_train_begin(self, logs=None):
        fit = running_fit(self.model) or {}
        if self.writes:
            self._files.open()
        first = fit.get("initial_epoch", 0)
        if self._resumed is None and self.position != (first, 0):
            self._resumed = self._newest(self.model, reads=True, first=first)
        self._files.find_best()
        validation = fit.get("validation_data") is not None or fit.get("validation_split")
        self._validates, self._seldom = bool(validation), fit.get("validation_freq", 1) != 1
        self._steps, self._time, self._logged = 0, time.monotonic(), np.nan
        self.position, self._saved, self._random = Position(first), None, random_state.get()
        if self._resumed:
            self.position = self._saved = self._resumed.position
            self._check_first(first, self.position)
        sought = seek(fit.get("x"), self.position, self.params.get("steps"))
        if self._resumed:
            self._resumed = self._resumed._replace(reads=self._resumed.reads and not sought)
            keras_internals.begin_at(self.model, self.position.epoch)
            if self.params.get("verbose"):
                print(f"Continuing {self.directory} after {self.position}.")

    def _check_first(self, epoch, position):
        if epoch > position.epoch:
            raise ValueError(
                f"`initial_epoch` must be left out: {self.directory} is at {position}, and the "
                f"training goes on there. Received: initial_epoch={epoch}"
            )

    def on_epoch_begin(self, epoch, logs=None):
        resumed, self._resumed = self._resumed, None
        if resumed:
            keras_internals.begin_at(self.model, None)
            self._check_first(epoch, self.position)
            if "python" in resumed.arrays:
                random_state.set(resumed.arrays)
        self._epoch, self._random = epoch, random_state.get()
        if resumed:
            resumed.skip(self.model)
        else:
            self.position = Position(epoch)

    def on_train_batch_end(self, batch, logs=None):
        done = Position(self._epoch, batch + 1)
        if done <= self.position:  # One of those before the checkpoint.
            return
        self._steps += done.step - self.position.step
        self.position = done
        steps = self.params.get("steps")
        validation = self._inside and self._validates and steps and done.step >= steps
        if validation or self._due():
            self.save()

    def _due(self):
        """Whether enough steps or minutes have passed since the last time."""
        minutes = (time.monotonic() - self._time) / 60
        steps = self.every_steps is not None and self._steps >= self.every_steps
        return steps or self.every_minutes is not None and minutes >= self.every_minutes

    def on_epoch_end(self, epoch, logs=None):
        steps, logs = self.params.get("steps"), logs or {}
        if self.model.stop_training and steps and self.position.step < steps:
            return  # Stopped inside the epoch, as by `TerminateOnNaN`.
        self.position, self._random = Position(epoch + 1), random_state.get()
        unknown = self.best and self.best not in logs and not self._seldom
        self._logged = float(logs.get(self.best, np.nan))
        better = self._files.is_better(self._logged, self.position)
        last = self.model.stop_training or epoch + 1 == self.params.get("epochs")
        whole = self.every_epochs and (epoch + 1) % self.every_epochs == 0
        if better or last or whole or self._due() or unknown:
            self.save()
        self._logged = np.nan
        if unknown:  # The epoch is not lost.
            raise ValueError(
                f"`best` must be one of {sorted(logs)}, which the epochs log. "
                f"{received('best', self.best)}"
            )

    def on_train_end(self, logs=None):
        keras_internals.begin_at(self.model, None)
        self.close()

    def close(self):
        """Let other processes save in the folder."""
        if self.writes:
            self._files.close()
