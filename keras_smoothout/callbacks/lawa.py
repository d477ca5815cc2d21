"""`LAWA`: validation of the mean of the last few snapshots."""

import numpy as np

from keras_smoothout.callbacks.averages import Shown
from keras_smoothout.callbacks.snapshots import Snapshots
from keras_smoothout.checks import check_count, check_repeats
from keras_smoothout.method import averages


class LAWA(Shown, Snapshots):
    """Latest weight averaging: validate the mean of the last few snapshots.

    The mean is over the copies that `Snapshots` keeps, on the host, so it costs no memory of the
    device. It is in the model during each validation in `fit` and `evaluate(callbacks=[...])`, and
    `with ks.weights_of(model, data, weights=lawa.weights())` saves it. The optimizer can be any
    that has no average itself.

    Args:
        window: Number of snapshots that are averaged. Defaults to `6`.
        start: As for `Snapshots`. Defaults to `0`.
        period: As for `Snapshots`. Defaults to `None`, the end of each epoch.
        directory: As for `Snapshots`. Defaults to `None`.
        data: As for `Averages`. Defaults to `None`.
        batch_size: As for `Averages`. Defaults to `500`.

    Raises:
        ValueError: As `Snapshots` and `Averages`; when the training begins, if the optimizer has
            weights to evaluate itself.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> lawa = ks.callbacks.LAWA(window=3)
        >>> x = np.ones((8, 2))
        >>> history = model.fit(x, x[:, 0], epochs=5, verbose=0, callbacks=[lawa])
        >>> lawa.updates
        [3, 4, 5]

    Reference: Kaddour, *Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest
        Weight Averaging*, 2022, arXiv:2209.14981. The paper's text was not checked.
    """

    def __init__(self, window=6, start=0, period=None, directory=None, data=None, batch_size=500):
        check_count("window", window)
        super().__init__(start, period, window, directory)
        check_repeats("data", data)
        check_count("batch_size", batch_size)
        self.window = window
        self.data = data
        self.batch_size = batch_size
        self._fits = False

    def on_train_begin(self, logs=None):
        if averages(self.model.optimizer):
            raise ValueError(
                "`optimizer` must not average weights itself: `callbacks.Averages` validates such "
                f"an average. Received: optimizer={type(self.model.optimizer).__name__}"
            )
        self._fits = True
        super().on_train_begin(logs)

    def on_train_end(self, logs=None):
        self._fits = False

    def on_test_begin(self, logs=None):
        if self._fits and self.period is None and self.update >= self.start:
            self.take()  # Validation comes before the end of the epoch.
        super().on_test_begin(logs)

    def weights(self):
        """The mean of the last snapshots, a list of arrays, or `None` before there is one."""
        snapshots = self.arrays()
        if not snapshots:
            return None
        ours = {id(v) for v in self.model.trainable_variables}
        trained = [i for i, v in enumerate(self.model.weights) if id(v) in ours]
        means = [np.mean([s[i] for s in snapshots], 0, "float64") for i in trained]
        return [mean.astype(snapshots[0][i].dtype) for i, mean in zip(trained, means, strict=True)]
