"""`Snapshots`: a callback that keeps the weights of several moments of a training."""

import os
import pathlib
import re

import keras
import numpy as np

from keras_smoothout.callbacks.resuming import Counting
from keras_smoothout.checks import check_count, received
from keras_smoothout.ensemble import copy_at
from keras_smoothout.evaluation import sync
from keras_smoothout.whole_files import whole


class Snapshots(Counting):
    """Keep all weights of the model at several updates, moving statistics included.

        after update t, if t >= start and (t - start) % period == 0: keep

    Updates are steps of `fit`, or under gradient accumulation as many steps as make an update; also
    with `EntropySGD`, whose own updates are fewer. If an execution has several steps
    (`steps_per_execution`), the snapshot is of the end of the execution.

    Snapshots are copies in the host's memory, or files. Each has the moving statistics that it was
    trained with, so a member of an ensemble needs no others.

    Args:
        start: Number of updates before the first snapshot, counted from the first `fit`. Defaults
            to `0`.
        period: Number of updates between two, or `None` for the end of each epoch. Defaults to
            `None`.
        keep: Number of the newest to keep, or `None` for all. Defaults to `None`.
        directory: Folder for files `snapshot-00000100.npz`, by update, or `None` for memory. Those
            that are there, up to the update where training begins, are taken over, so a training
            that is resumed continues them. Defaults to `None`.

    Raises:
        ValueError: If an argument is not as above.

    Attributes:
        updates: List of the updates after which the snapshots were taken.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
        >>> model.compile("sgd", "sparse_categorical_crossentropy")
        >>> snapshots = ks.callbacks.Snapshots(start=2, period=4)
        >>> x = np.ones((8, 2))
        >>> history = model.fit(x, x[:, 0], batch_size=1, verbose=0, callbacks=[snapshots])
        >>> snapshots.updates
        [2, 6]
        >>> ks.Ensemble(snapshots).predict(x, verbose=0).shape
        (8, 2)
    """

    def __init__(self, start=0, period=None, keep=None, directory=None):
        super().__init__()
        check_count("start", start, 0)
        if period is not None:
            check_count("period", period)
        if keep is not None:
            check_count("keep", keep)
        if directory is not None and not isinstance(directory, (str, os.PathLike)):
            raise ValueError(
                f"`directory` must be a path or None. {received('directory', directory)}"
            )
        self.start = start
        self.period = period
        self.keep = keep
        self.directory = directory
        self._kept = {}  # Arrays or a file, by update.
        self._accumulated = 1  # Steps for an update.

    @property
    def updates(self):
        return list(self._kept)

    def arrays(self):
        """The snapshots, oldest first: lists of arrays as of `model.get_weights()`."""
        return [
            _read(kept) if isinstance(kept, pathlib.Path) else kept for kept in self._kept.values()
        ]

    def models(self):
        """A model for each snapshot, oldest first, with the loss of the model in training."""
        return [copy_at(self.model, arrays) for arrays in self.arrays()]

    def begin(self):
        self._accumulated = self.model.optimizer.gradient_accumulation_steps or 1
        if self.directory is not None and not self._kept:
            folder = pathlib.Path(self.directory)
            folder.mkdir(parents=True, exist_ok=True)
            found = {int(re.findall(r"\d+", p.stem)[0]): p for p in folder.glob("snapshot-*.npz")}
            self._kept = {t: found[t] for t in sorted(found) if t <= self.update}
            self._forget()

    def stepped(self, before):
        last = before // self._accumulated
        if self.period is not None and self._due(self.update) > self._due(last):
            self.take()

    def on_epoch_end(self, epoch, logs=None):
        if self.period is None and self.update >= self.start:
            self.take()

    @property
    def update(self):
        """Number of updates so far."""
        return self.steps // self._accumulated

    def _due(self, update):
        """Number of snapshots that are due up to an update."""
        first = max(self.start, 0) or self.period
        return 0 if update < first else 1 + (update - first) // self.period

    def take(self):
        """Keep the weights as they are, if those of this update are not kept yet."""
        if self.update in self._kept:
            return
        sync(self.model)
        arrays = [np.array(keras.ops.convert_to_numpy(v)) for v in self.model.weights]
        if self.directory is not None:
            path = pathlib.Path(self.directory) / f"snapshot-{self.update:08d}.npz"
            with whole(path) as unfinished:
                np.savez(unfinished, *map(_plain, arrays))
            arrays = path
        self._kept[self.update] = arrays
        self._forget()

    def _forget(self):
        for update in self.updates[: -self.keep] if self.keep else ():
            kept = self._kept.pop(update)
            if isinstance(kept, pathlib.Path):
                kept.unlink()


def _plain(array):
    """An array of a type that NumPy's files know."""
    return array if array.dtype.kind in "fiub" else array.astype("float32")


def _read(path):
    with np.load(path) as file:
        return [file[name] for name in file]
