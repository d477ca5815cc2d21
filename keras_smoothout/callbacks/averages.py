"""`Averages`: validation of the averaged weights with moving statistics of their own."""

import contextlib

import keras

from keras_smoothout.checks import check_count, check_repeats
from keras_smoothout.weights_of import weights_of


class Shown:
    """Mixin for a callback: validate `weights()`, with the moving statistics of `data`.

    `None` stands for the weights that the optimizer wants evaluated, and for its own statistics.
    """

    data = None
    batch_size = 500
    _swapped = None

    def weights(self):
        """The weights to validate, a list, or `None` for those that the optimizer wants."""
        return None

    def _held(self):
        return weights_of(self.model, self.data, self.batch_size, self.weights())

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.on_test_end()
        if self.model.built:
            with self._held():  # Refuses wrong data before an epoch is lost.
                pass

    def on_test_begin(self, logs=None):
        self.on_test_end()
        # `evaluate` of our models closes its stack also after an error.
        self._swapped = getattr(self.model, "until_evaluated", None) or contextlib.ExitStack()
        self._swapped.enter_context(self._held())

    def on_test_end(self, logs=None):
        if self._swapped is not None:
            self._swapped.close()


class Averages(Shown, keras.callbacks.Callback):
    """Validate an average of weights with re-estimated statistics, and train on without it.

    Before each validation in `fit`, and in `evaluate(callbacks=[...])`, the model holds the weights
    that its optimizer wants evaluated (`SWA`, `Lookahead`), and BatchNormalization the moving
    statistics of `data` at these weights; afterwards all is as before, to the bit. So `val_loss`
    and whatever monitors it are those of the average, while checkpoints hold the weights in
    training: save the average inside `with ks.weights_of(model, data)`.

    Works in any Keras model. In a plain `keras.Model`, an error or Ctrl-C during validation leaves
    the average in the model; in ours it does not.

    Args:
        data: Inputs to re-estimate on, as for `keras_smoothout.recalibrate`: an array of training
            inputs, or batches that can be gone through again. Defaults to `None`: the statistics
            stay those of the weights in training.
        batch_size: Number of examples in a batch, if `data` is arrays. Defaults to `500`.

    Raises:
        ValueError: If an argument is not as above; when the training begins, as `recalibrate`.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> norm = keras.layers.BatchNormalization()
        >>> layers = [keras.Input((2,)), keras.layers.Dense(4), norm, keras.layers.Dense(1)]
        >>> model = ks.wrap(keras.Sequential(layers))
        >>> model.compile(ks.SWA("sgd", start=10), "mse")
        >>> x = np.random.default_rng(0).normal(size=(64, 2))
        >>> averages = ks.callbacks.Averages(x)
        >>> fitted = model.fit(x, x[:, :1], 8, 5, validation_data=(x, x[:, :1]), verbose=0,
        ...     callbacks=[averages])
        >>> len(fitted.history["val_loss"])
        5
    """

    def __init__(self, data=None, batch_size=500):
        super().__init__()
        check_repeats("data", data)
        check_count("batch_size", batch_size)
        self.data = data
        self.batch_size = batch_size
