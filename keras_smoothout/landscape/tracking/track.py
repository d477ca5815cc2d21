"""Callbacks that look at the landscape while a model trains: `Track`, `TrackSharpness`.

They measure the loss over fixed examples and leave the training alone: weights, moving statistics
and random states stay the same, to the bit. The epoch's logs hold what they find, for the history,
TensorBoard and CSVLogger: pass these callbacks before those. The logs hold nan if nothing was
measured or the loss is not finite. They also hold the time taken.
"""

import time

import keras
import numpy as np

from keras_smoothout.checks import check_count
from keras_smoothout.evaluation import sync
from keras_smoothout.landscape.measures import FROM_START, MEASURES, measures
from keras_smoothout.landscape.objective import Objective


class Track(keras.callbacks.Callback):
    """Base of callbacks that hold an `Objective` of the model in training, a new one in each `fit`.

    Args:
        x: As for `Objective`: some of the training data.
        y: As for `Objective`.
        sample_weight: As for `Objective`.
        **options: Those of `Objective`: `batch_size`, `batch_norm`, `loss`, `progress`.
    """

    def __init__(self, x, y=None, sample_weight=None, **options):
        super().__init__()
        self.objective = None
        self._data, self._options = (x, y, sample_weight), options

    def on_train_begin(self, logs=None):
        self.objective = Objective(self.model, *self._data, **self._options)

    def look(self):
        """Move the objective to the present weights and state of the model."""
        sync(self.model)
        model, numbers = self.model, keras.ops.convert_to_numpy
        self.objective.weights = [np.array(numbers(v)) for v in model.trainable_variables]
        self.objective.state = [np.array(numbers(v)) for v in model.non_trainable_variables]


class TrackSharpness(Track):
    """Measure the sharpness every few epochs, by any of `measures`.

    The logs hold each measure by its name, and `sharpness_seconds`. Distances are from the weights
    at the start of the first `fit` of the model.

    Args:
        measures: Name or list of names, of `keras_smoothout.landscape.measures`; or a dict from
            names to functions of an `Objective`.
        x: Some of the training data, as for `Objective`.
        y: As for `Objective`.
        sample_weight: As for `Objective`.
        every_epochs: Number of epochs from one measurement to the next. Defaults to `1`.
        seed: Integer: the same noise is drawn in every epoch. Defaults to `0`.
        **options: Those of `Objective`: `batch_size`, `batch_norm`, `loss`, `progress`.

    Attributes:
        rows: Dict from the number of finished epochs to a list of `Measured`, with standard errors
            and costs.

    Raises:
        ValueError: If a measure is unknown; in `fit`, if one does not apply to the model.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> from keras_smoothout.landscape import TrackSharpness
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(keras.optimizers.SGD(0.01), "mse")
        >>> x = np.array([[1.0, 0.0], [0.0, 3.0]])
        >>> track = TrackSharpness("lambda_max", x, x[:, :1])
        >>> history = model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[track])
        >>> np.round(history.history["lambda_max"], 3).tolist()  # Of (w1**2 + 9 * w2**2) / 2.
        [9.0, 9.0]
    """

    def __init__(
        self, measures, x, y=None, sample_weight=None, *, every_epochs=1, seed=0, **options
    ):
        check_count("every_epochs", every_epochs)
        super().__init__(x, y, sample_weight, **options)
        self.measures = [measures] if isinstance(measures, str) else measures
        unknown = set(self.measures) - {*MEASURES, *FROM_START}
        if unknown and not isinstance(self.measures, dict):
            raise ValueError(
                f"`measures` must be of {', '.join([*MEASURES, *FROM_START])}. Received: "
                f"{', '.join(sorted(unknown))}"
            )
        self.every_epochs = every_epochs
        self.seed = seed
        self.rows = {}

    def on_train_begin(self, logs=None):
        if self.objective is None or self.objective.model is not self.model:
            self._first = {}
        super().on_train_begin(logs)
        pairs = zip(self.model.trainable_variables, self.objective.weights, strict=True)
        self.start = [self._first.setdefault(id(v), w) for v, w in pairs]

    def on_epoch_end(self, epoch, logs=None):
        began, values = time.perf_counter(), dict.fromkeys(self.measures, np.nan)
        if (epoch + 1) % self.every_epochs == 0:
            self.look()
            if np.isfinite(self.objective.loss(self.objective.weights)):
                rows = measures(self.objective, self.measures, self.start, self.seed)
                self.rows[epoch + 1] = rows
                values = {row.measure: row.value for row in rows}
        if logs is not None:
            logs |= values | {"sharpness_seconds": time.perf_counter() - began}
