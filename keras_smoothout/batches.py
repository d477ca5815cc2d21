"""Data sets in memory whose order is a function of the seed: equal batches, or growing ones."""

import functools
import itertools

import keras
import numpy as np

from keras_smoothout.checks import check_count, check_switch, received


class Endless(keras.utils.PyDataset):
    """Batches that never end, of arrays in memory: an index counts all of them from `start` on."""

    def __init__(self, x, y, seed, start=0, **kwargs):
        super().__init__(**kwargs)
        for name, array in (("x", x), ("y", y)):
            if not getattr(array, "shape", ()) or not len(array):
                raise ValueError(
                    f"`{name}` must be an array of examples. {received(name, array)}, of "
                    f"{type(array)}"
                )
        if len(x) != len(y):
            raise ValueError(
                "`x` and `y` must have the same length. Received: "
                f"{len(x)} inputs, {len(y)} targets"
            )
        check_count("seed", seed, least=0)
        check_count("start", start, least=0)
        self.x, self.y, self.seed, self.start = np.asarray(x), np.asarray(y), seed, start

    @property
    def num_batches(self):
        return None

    def seek(self, epoch, step, steps):
        """Begin at a step of an epoch the next time that `fit` begins.

        Args:
            epoch: Number of whole epochs before.
            step: Number of steps before in this epoch.
            steps: Number of steps in an epoch.
        """
        self.start = epoch * steps + step


class Shuffled(Endless):
    """Examples in an order that is new in each pass."""

    def __init__(self, x, y, seed, start=0, **kwargs):
        super().__init__(x, y, seed, start, **kwargs)
        self._order = functools.lru_cache(maxsize=2)(self._new_order)

    def _new_order(self, number):
        return np.random.default_rng([self.seed, number]).permutation(len(self.x))


class Epochs(Shuffled):
    """Shuffled batches, in epochs that each hold every example once.

        batch t of epoch e = the t-th batch of a permutation by (seed, e)

    So a training that is resumed, at any step, sees the batches that it would have seen.
    `Checkpoint` tells the data where to begin. The data never ends, so pass `steps_per_epoch` to
    `fit`, and `shuffle=False`, since the batches are shuffled already.

    Args:
        x: Array of inputs, or a tensor or table; examples along the first axis.
        y: Array of targets, likewise.
        batch_size: Number of examples in a batch; the last one of an epoch holds what is left.
            Defaults to `32`.
        seed: Seed of the order. Defaults to `0`.
        drop_remainder: Whether an epoch leaves out a smaller last batch. Defaults to `False`.

    Attributes:
        steps_per_epoch: Number of batches in an epoch.

    Raises:
        ValueError: If an argument is not as above, `x` and `y` differ in length, or no batch is
            left.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> x = np.arange(10.0)[:, None]
        >>> data = ks.Epochs(x, 2 * x, batch_size=4)
        >>> [len(data[step][0]) for step in range(4)], data.steps_per_epoch
        ([4, 4, 2, 4], 3)
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> steps = data.steps_per_epoch
        >>> history = model.fit(data, steps_per_epoch=steps, epochs=2, shuffle=False, verbose=0)
    """

    def __init__(self, x, y, batch_size=32, seed=0, drop_remainder=False):
        super().__init__(x, y, seed)
        check_count("batch_size", batch_size)
        check_switch("drop_remainder", drop_remainder)
        self.batch_size = batch_size
        whole, rest = divmod(len(self.x), batch_size)
        self.steps_per_epoch = whole + (rest > 0 and not drop_remainder)
        if not self.steps_per_epoch:
            raise ValueError(
                f"`drop_remainder` leaves none of {len(self.x)} examples. Received: "
                f"batch_size={batch_size}"
            )

    def __getitem__(self, index):
        epoch, step = divmod(index + self.start, self.steps_per_epoch)
        which = self._order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
        return self.x[which], self.y[which]


class WarmUpBatches(Shuffled):
    """Shuffled batches whose size changes at given steps: start small, continue large.

    Small batches find the basin of a flat minimum; large ones descend it fast.

    Args:
        x: Array of inputs, or a tensor or table; examples along the first axis.
        y: Array of targets, likewise.
        batch_sizes: Dictionary from a step to the batch size from there on; it must hold step 0.
            Steps are counted over the whole training.
        seed: Seed of the order of the examples, which is new in each pass. Defaults to `0`.
        start: Step to begin with, for a training that is resumed. `Checkpoint` sets it itself: with
            it, pass none. Defaults to `0`.
        **kwargs: As for `keras.utils.PyDataset`.

    The data set never ends, so pass `steps_per_epoch` to `fit`; all epochs then have the same
    number of updates. Pass `shuffle=False` as well, since the batches are shuffled already.

    Raises:
        ValueError: If an argument is not as above, or `x` and `y` differ in length.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> x = np.arange(100.0)[:, None]
        >>> data = ks.WarmUpBatches(x, 2 * x, {0: 10, 5: 50})
        >>> [len(data[step][0]) for step in (0, 4, 5, 1000)]
        [10, 10, 50, 50]
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> history = model.fit(data, steps_per_epoch=10, epochs=2, shuffle=False, verbose=0)

    Reference: Keskar et al., *On Large-Batch Training for Deep Learning*, ICLR 2017,
        arXiv:1609.04836, Section 4 (warm-started large-batch training).
    """

    def __init__(self, x, y, batch_sizes, seed=0, start=0, **kwargs):
        if not isinstance(batch_sizes, dict) or 0 not in batch_sizes:
            raise ValueError(
                "`batch_sizes` must be a dictionary that holds the batch size from step 0 on. "
                f"Received: batch_sizes={batch_sizes!r}"
            )
        for step, size in batch_sizes.items():
            check_count("step of batch_sizes", step, least=0)
            check_count(f"batch_sizes[{step}]", size)
        super().__init__(x, y, seed, start, **kwargs)
        self.batch_sizes = dict(sorted(batch_sizes.items()))

    def __getitem__(self, index):
        index += self.start
        begin, size = 0, 0  # Examples before this step; size of its batch.
        ends = [*itertools.islice(self.batch_sizes, 1, None), index + 1]
        for (first, size), end in zip(self.batch_sizes.items(), ends, strict=True):
            begin += size * max(0, min(index, end) - first)
            if index < end:
                break
        passes, places = np.divmod(np.arange(begin, begin + size), len(self.x))
        which = np.concatenate(
            [self._order(number)[places[passes == number]] for number in np.unique(passes)]
        )
        return self.x[which], self.y[which]
