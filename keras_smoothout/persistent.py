"""Batches whose examples come and go slowly, and how far two trainings on such batches part."""

import math

import keras
import numpy as np

from keras_smoothout.batches import Endless
from keras_smoothout.checks import check_number, received

KNOWN = 8  # Masks that are kept: workers ask for batches out of their order.
DEVIATIONS = 6  # Of the number of active examples; more than that is one step in a billion.


class PersistentBatches(Endless):
    """Batches of persistent SGD: each example stays in the batch for a while, then out of it.

        P(out -> in) = 1 / time                      in each step, for each example
        P(in -> out) = (1 - share) / (share * time)

    So a share `share` of the examples is in the batch, and two steps that are k apart have a
    correlation of `(1 - 1 / (share * time))**k`. The loss is the sum over the batch divided by
    `share` times the number of all examples, whatever the size of the batch.

    Batches are padded to one size by examples of weight 0, which repeat those of the batch, so that
    the step is compiled once. BatchNormalization and plain `metrics` see the padding; use
    `weighted_metrics`.

    Args:
        x: Array of inputs; examples along the first axis.
        y: Array of targets, likewise.
        share: Share of the examples in a batch, in (0, 1].
        time: Mean number of steps for which an example is out, at least `1 / share`, where each
            step draws its batch anew. With `share=1` no example is ever out.
        seed: Seed of the draws. Defaults to `0`.
        start: Step to begin with, for a training that is resumed. `Checkpoint` sets it itself: with
            it, pass none. Defaults to `0`.
        **kwargs: As for `keras.utils.PyDataset`.

    The data set never ends, so pass `steps_per_epoch` to `fit`, and `shuffle=False`. A batch is a
    function of the seed and the step: a resumed training sees those that it would have seen.

    Raises:
        ValueError: If an argument is not as above, or `x` and `y` differ in length.

    Reduces to: full batches when `share=1`; independent batches when `time = 1 / share`.
    Differs from the paper: its update divides time into steps of length dt; here a step is the unit
        of time. Rates are those of notes on the paper, whose text was not at hand.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> x = np.arange(1000.0)[:, None]
        >>> data = ks.PersistentBatches(x, 2 * x, share=0.1, time=100)
        >>> now, next_one, later = (set(data.active(step)) for step in (0, 1, 1000))
        >>> len(now & next_one) > 0.8 * len(now), len(now & later) < 0.3 * len(now)
        (True, True)

    Reference: Mignacco and Urbani, *The effective noise of stochastic gradient descent*, 2021,
        arXiv:2112.10852.
    """

    def __init__(self, x, y, share, time, seed=0, start=0, **kwargs):
        super().__init__(x, y, seed, start, **kwargs)
        check_number("share", share, most=1)
        if not share:
            raise ValueError(f"`share` must be more than 0. {received('share', share)}")
        check_number("time", time)
        if not time * share >= 1 - 1e-9:
            raise ValueError(
                "`time` must be at least `1 / share`: no batch forgets the one before it by more "
                f"than all. {received('time', time)} with share={share}"
            )
        self.share, self.time = share, time
        mean = share * len(self.x)
        most = mean + DEVIATIONS * math.sqrt(mean * (1 - share)) + 1e-6
        self.size = max(1, min(len(self.x), math.floor(most)))
        self._known = {}  # Masks of the last steps: the chain goes on from the nearest one.

    def active(self, step):
        """Indices of the examples that are in the batch of a step."""
        at = max((known for known in self._known if known <= step), default=0)
        mask = self._known[at] if at in self._known else self._draw(0, 1)[0] < self.share
        renewed = 1 / (self.share * self.time)
        while at < step:
            at += 1
            again, new = self._draw(at, 2)
            mask = np.where(again < renewed, new < self.share, mask)
        last = sorted(self._known | {at: mask})[-KNOWN:]
        self._known = {s: mask if s == at else self._known[s] for s in last}
        return np.flatnonzero(mask)

    def _draw(self, step, rows):
        return np.random.default_rng([self.seed, step]).random((rows, len(self.x)))

    def __getitem__(self, index):
        which = self.active(index + self.start)
        size = self.size * max(1, math.ceil(len(which) / self.size))
        weights = np.zeros(size, "float32")
        weights[: len(which)] = size / (self.share * len(self.x))
        which = np.resize(which, size) if len(which) else np.zeros(size, int)
        return self.x[which], self.y[which], weights


def replica_distance(first, second):
    """Half the squared distance of the trainable weights of two models, a float.

        distance = ||w_1 - w_2||^2 / 2

    For two trainings that differ by their batches alone, its mean is the variance of the weights,
    summed over all of them, once they have settled around one minimum.

    Args:
        first: A built model.
        second: Another of the same weights.

    Raises:
        ValueError: If the shapes of the weights differ.

    Example:
        >>> import keras, keras_smoothout as ks
        >>> make = lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model, other = make(), make()
        >>> other.set_weights([w + 1 for w in model.get_weights()])
        >>> round(ks.replica_distance(model, other), 3)
        1.5

    Reference: Mignacco and Urbani, 2021, arXiv:2112.10852.
    """
    ours, theirs = (
        [keras.ops.convert_to_numpy(v).astype("float64") for v in model.trainable_variables]
        for model in (first, second)
    )
    if [w.shape for w in ours] != [w.shape for w in theirs]:
        raise ValueError(
            "`first` and `second` must have the same trainable weights. Received: shapes "
            f"{[w.shape for w in ours]} and {[w.shape for w in theirs]}"
        )
    return sum(float(np.sum((a - b) ** 2)) for a, b in zip(ours, theirs, strict=True)) / 2
