"""`TrackMasks`: a callback that says how sparse a network is, and how much its masks still move."""

import math

import keras
import numpy as np

from keras_smoothout.around import chain
from keras_smoothout.checks import received
from keras_smoothout.evaluation import sync


class TrackMasks(keras.callbacks.Callback):
    """Share of entries that are weights of a sparse network, and share of weights that are new.

        density = sum(mask) / number of entries         over all kernels that `RigL` may mask
        new_weights = 1 - share of the masks' ones that were there an epoch before

    They are measured at the end of each epoch, and are in its logs, for the history, TensorBoard
    and CSVLogger: pass this callback before those. `optimizer.densities()` is the density of each
    kernel.

    Raises:
        ValueError: When the training begins, if no optimizer of the model is a
            `keras_smoothout.RigL`.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> net = [keras.layers.Dense(8, "relu"), keras.layers.Dense(8)]
        >>> model = ks.wrap(keras.Sequential([keras.Input((8,)), *net]))
        >>> model.compile(ks.RigL("sgd", sparsity=0.75, period=2), "mse")
        >>> x = np.random.default_rng(0).normal(size=(64, 8))
        >>> history = model.fit(x, x, verbose=0, callbacks=[ks.callbacks.TrackMasks()]).history
        >>> history["density"]
        [0.25]
    """

    def on_train_begin(self, logs=None):
        found = [one for one in chain(self.model.optimizer) if hasattr(one, "densities")]
        if not found:
            raise ValueError(
                "`TrackMasks` is for `keras_smoothout.RigL`. "
                f"{received('optimizer', self.model.optimizer.name)}"
            )
        self._optimizer = found[-1]

    def on_epoch_begin(self, epoch, logs=None):
        self._before = self._masks()

    def on_train_batch_end(self, batch, logs=None):
        if self._before is None:  # The first step has made the masks, and not moved them.
            self._before = self._masks()

    def on_epoch_end(self, epoch, logs=None):
        sizes = {v.path: math.prod(v.shape) for v in self._optimizer.trainable_variables}
        densities, after = self._optimizer.densities(), self._masks()
        if logs is not None:
            left = sum(density * sizes[path] for path, density in densities.items())
            logs["density"] = left / sum(sizes[path] for path in densities)
            logs["new_weights"] = 1 - float(self._before @ after / np.sum(after))

    def _masks(self):
        sync(self.model)
        if not self._optimizer.built:
            return None
        masks = [np.ravel(mask).astype("float64") for mask in map(np.array, self._optimizer.masks)]
        return np.concatenate(masks or [np.ones(1)])
