"""The files of a training in a folder, each named by the position that it was written at."""

import re
from typing import NamedTuple

import numpy as np

from keras_smoothout import saved_state, whole_files

NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.npz")


class Position(NamedTuple):
    """Where a training is: after `epoch` whole epochs, and `step` steps of the next one."""

    epoch: int = 0
    step: int = 0

    def __str__(self):
        return f"epoch {self.epoch}" + f", step {self.step}" * bool(self.step)


def path_of(directory, position):
    """The file of a position: `epoch-000003.npz`, or `epoch-000003-step-000000500.npz`."""
    step = f"-step-{position.step:09d}" if position.step else ""
    return directory / f"epoch-{position.epoch:06d}{step}.npz"


def position_of(path):
    """The position that a file is of."""
    epoch, step = NAME.fullmatch(path.name).groups()
    return Position(int(epoch), int(step or 0))


def checkpoints(directory):
    """All files of positions in a folder, the newest last."""
    found = directory.iterdir() if directory.exists() else ()
    return sorted((path for path in found if NAME.fullmatch(path.name)), key=position_of)


class Files:
    """A folder of which the newest `keep` files stay, and the one with the best value.

    Args:
        directory: A path, local or in a store.
        keep: Number of files, or `None` for all.
        sign: 1 if higher values are better, -1 if lower ones are, 0 if there are none.
    """

    def __init__(self, directory, keep, sign):
        self.directory, self.keep, self.sign = directory, keep, sign
        self.best = None  # Value and position.

    def open(self):
        """Make the folder and lock it, and delete what a killed process was writing."""
        self.directory.mkdir(parents=True, exist_ok=True)
        whole_files.hold(self.directory)
        for path in self.directory.glob(f"{whole_files.UNFINISHED}epoch-*.npz"):
            path.unlink()

    def close(self):
        """Unlock the folder."""
        whole_files.release(self.directory)

    def write(self, position, model, training):
        """Write all state of `model`, and the dict of arrays `training`, to a whole file."""
        arrays = saved_state.of(saved_state.variables(model))
        arrays |= {f"{saved_state.FIT}{name}": array for name, array in training.items()}
        with whole_files.whole(path_of(self.directory, position)) as path:
            saved_state.write(path, arrays)
        best = self.best and path_of(self.directory, self.best[1])
        for path in checkpoints(self.directory)[: -self.keep] if self.keep else ():
            if path != best:
                path.unlink()

    def read(self, path, model):
        """Set `model` to the state in a file, and return the arrays about the training.

        Raises:
            ValueError: If the file is damaged or of another model, which then stays as it is.
        """
        if not model.built:
            raise ValueError(
                "`model` must be built to be continued: give it a `keras.Input`, or call it on a "
                f"batch before. Received: {model.name}, which has no weights yet"
            )
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        state, training = saved_state.read(path, model)
        saved_state.assign(saved_state.variables(model), state)
        return training

    def find_best(self):
        """Look for the best value in all files; a damaged one has none."""
        self.best = None
        for path in checkpoints(self.directory) if self.sign else ():
            try:
                value = saved_state.load_one(path, f"{saved_state.FIT}value")
            except Exception:  # A damaged file can raise anything.
                continue
            self.is_better(float(value), position_of(path))

    def is_better(self, value, position):
        """Whether `value` is better than the best one, which it then replaces."""
        known = self.sign and not np.isnan(value)
        better = known and (self.best is None or self.sign * (value - self.best[0]) > 0)
        if better:
            self.best = value, position
        return bool(better)
