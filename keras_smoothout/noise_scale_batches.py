"""`NoiseScaleBatches`: data whose batch size follows the gradient noise scale."""

import math

from keras_smoothout.batches import WarmUpBatches
from keras_smoothout.checks import check_count


class NoiseScaleBatches(WarmUpBatches):
    """Shuffled batches whose size follows the gradient noise scale, from epoch to epoch.

        B = noise scale, at most twice and at least half of the epoch before, rounded down

    `keras_smoothout.GradientNoiseScale(batches=...)`, passed to `fit`, measures the noise scale and
    sets the size. All epochs have the same number of updates, so pass no `steps_per_epoch`. The
    learning rate does not follow.

    Args:
        x: Array of inputs, or a tensor or table; examples along the first axis.
        y: Array of targets, likewise.
        batch_size: Size of the batches of the first epoch. All others are multiples of it, so
            ghost batches of this size or a divisor of it stay whole.
        updates: Number of batches in an epoch.
        most: Largest batch size. Defaults to `None`: the number of examples.
        batch_sizes: Dictionary from a step to the batch size from there on, for a training that is
            resumed: the attribute of the same name of the one before. Defaults to `None`.
        seed: Seed of the order of the examples, which is new in each pass. Defaults to `0`.
        **kwargs: As for `keras.utils.PyDataset`.

    Raises:
        ValueError: If an argument is not as above, or `x` and `y` differ in length.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> x = np.random.default_rng(0).normal(size=(512, 2))
        >>> data = ks.NoiseScaleBatches(x, x[:, :1], batch_size=16, updates=20, most=128)
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> model.compile("sgd", "mse", ghost_batch_size=8)
        >>> scale = ks.GradientNoiseScale(batches=data)
        >>> history = model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[scale])
        >>> list(data.batch_sizes)
        [0, 20, 40]

    Reference: McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018,
        arXiv:1812.06162, Section 2.
    """

    def __init__(self, x, y, batch_size, updates, most=None, batch_sizes=None, seed=0, **kwargs):
        check_count("batch_size", batch_size)
        check_count("updates", updates)
        if most is not None:
            check_count("most", most, least=batch_size)
        super().__init__(
            x, y, {0: batch_size} if batch_sizes is None else batch_sizes, seed, **kwargs
        )
        self.batch_size = batch_size
        self.updates = updates
        self.most = len(self.x) if most is None else most
        self._begun = self._reset = False

    @property
    def num_batches(self):
        return self.updates

    def begin(self, epoch, scale):
        """Begin an epoch, with the noise scale at the end of the one before.

        Args:
            epoch: Number of the epoch, from 0 on.
            scale: Noise scale, in examples; infinite for twice the size, NaN for the same one.
        """
        first, self._begun = epoch * self.updates, True
        if not first <= self.start < first + self.updates:  # Else `Checkpoint` has put it there.
            self.start = first
        size = [size for step, size in self.batch_sizes.items() if step <= first][-1]
        if first not in self.batch_sizes:
            wanted = size if math.isnan(scale) else min(max(scale, size / 2), 2 * size, self.most)
            units = max(1, int(wanted / self.batch_size))
            sizes = self.batch_sizes | {first: units * self.batch_size}
            self.batch_sizes = dict(sorted(sizes.items()))

    def on_epoch_end(self):
        self._reset = True  # Keras calls it once more, before the first epoch.

    def on_epoch_begin(self):
        if self._reset and not self._begun:  # Before, on JAX, Keras looks at a batch.
            raise ValueError(
                "`callbacks` must hold `GradientNoiseScale(batches=...)`, and these batches be "
                "passed to `fit`: it begins each of their epochs. Received: an epoch that it has "
                "not begun"
            )

    def seek(self, epoch, step, steps):
        begun = max(0, epoch - (step == 0))  # The last epoch that has begun; its size is known.
        if begun * self.updates not in self.batch_sizes:
            raise ValueError(
                "`batch_sizes` must be those of the training that goes on, to the epoch where it "
                f"was: pass its `batch_sizes`. Received: {self.batch_sizes} at epoch {epoch}"
            )
        super().seek(epoch, step, steps)
