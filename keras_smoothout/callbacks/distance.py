"""`DistanceFromInit`: a callback that measures how far the weights go in a training."""

import csv
import os

import keras
import numpy as np

from keras_smoothout.callbacks.resuming import Counting
from keras_smoothout.checks import check_count, received
from keras_smoothout.evaluation import sync

COLUMNS = ("step", "distance")


class DistanceFromInit(Counting):
    """Distance of the weights from where they were at the start: `||w_t - w_0||`.

    On a random landscape it grows as `log(t)` (ultra-slow diffusion), at the same pace for all
    batch sizes once their learning rates are scaled. It is measured at steps evenly spaced in
    log(t), and at the end of each epoch. The epoch's logs hold it as `distance_from_init`, for the
    history, TensorBoard and CSVLogger: pass this callback before those.

    Args:
        path: CSV file to write each (step, distance) to when it is measured, or `None`. An existing
            file is continued. Defaults to `None`.
        points_per_decade: Number of measurements while `t` grows tenfold. Defaults to `20`.
        start: List of arrays, the weights to measure from, for a training that is resumed. Defaults
            to `None`: those at the start of the first `fit`.

    Raises:
        ValueError: If an argument is not as above; when the training begins, if the model is not
            built or its variables do not match `start`.

    Attributes:
        distances: List of pairs (step, distance).

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> distance = ks.DistanceFromInit()
        >>> x = np.ones((8, 2))
        >>> history = model.fit(x, x[:, :1], batch_size=1, verbose=0, callbacks=[distance])
        >>> [step for step, _ in distance.distances]
        [1, 2, 3, 4, 5, 6, 7, 8]

    Reference: Hoffer et al., *Train longer, generalize better*, NIPS 2017, arXiv:1705.08741,
        Section 3 and Figure 2.
    """

    def __init__(self, path=None, points_per_decade=20, start=None):
        super().__init__()
        check_count("points_per_decade", points_per_decade)
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise ValueError(f"`path` must be a path or None. {received('path', path)}")
        self.path = path
        self.points_per_decade = points_per_decade
        self.start = start
        self.distances = []

    def _weights(self):
        sync(self.model)
        return [keras.ops.convert_to_numpy(v) for v in self.model.trainable_variables]

    def begin(self):
        if self.start is None:
            self.start = self._weights()
        ours, theirs = ([np.shape(w) for w in ws] for ws in (self._weights(), self.start))
        if not ours or ours != theirs:
            raise ValueError(
                "`start` must hold an array for each trainable variable of the model, which must "
                f"be built. Received: start of shapes {theirs} for variables of shapes {ours}"
            )
        if self.path is not None and not self.distances and os.path.exists(self.path):
            with open(self.path, newline="") as file:
                lines = [line for line in file if line.endswith("\n")]  # Whole ones.
            head, *rows = [tuple(row) for row in csv.reader(lines)] or [COLUMNS]
            if head != COLUMNS:
                raise ValueError(
                    "`path` must be a new file, or one of `DistanceFromInit` to continue. "
                    f"Received: path={self.path} of columns {head}"
                )
            rows = [(int(step), float(distance)) for step, distance in rows]
            self.distances = [row for row in rows if row[0] <= self.steps]
        if self.path is not None:
            begun = f"{self.path}.begun"  # Replaces it in one go: a process can be killed here.
            with open(begun, "w", newline="") as file:
                csv.writer(file).writerows([COLUMNS, *self.distances])
            os.replace(begun, self.path)
        self._next = 1
        while self._next <= self.steps:  # The same steps as without an interruption.
            self._next = self._after(self._next)

    def _after(self, step):
        return max(step + 1, round(step * 10 ** (1 / self.points_per_decade)))

    def stepped(self, before):
        if self.steps >= self._next:
            self._next = self._after(self.steps)
            self._measure()

    def on_epoch_end(self, epoch, logs=None):
        if not self.distances or self.distances[-1][0] < self.steps:
            self._measure()
        if logs is not None:
            logs["distance_from_init"] = self.distances[-1][1]

    def _measure(self):
        pairs = zip(self._weights(), self.start, strict=True)
        square = sum(float(np.sum(np.square(a.astype("float64") - b))) for a, b in pairs)
        self.distances.append((self.steps, square**0.5))
        if self.path is not None:
            with open(self.path, "a", newline="") as file:
                csv.writer(file).writerow(self.distances[-1])
