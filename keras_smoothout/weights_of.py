"""`weights_of`: put the weights that an optimizer wants evaluated into the model for a while."""

import contextlib

from keras import ops

from keras_smoothout import backend
from keras_smoothout.asks import evaluation_weights
from keras_smoothout.moving_statistics import batch_norms, copied, statistics
from keras_smoothout.recalibrate import recalibrate


@contextlib.contextmanager
def weights_of(model, data=None, batch_size=500):
    """Let `model` hold the weights that its optimizer wants evaluated, inside a `with` block.

    Averages and slow weights are kept in addition to the weights in training. `evaluate`, `predict`
    and validation use them on their own; saving, exporting and the landscape use the model's
    weights. After the block, weights and moving statistics are as before, to the bit.

    Args:
        model: A built `keras.Model`. Without weights of that kind it keeps its own.
        data: Inputs to re-estimate BatchNormalization's moving statistics on, as for
            `keras_smoothout.recalibrate`; the model's own describe the weights in training.
            Defaults to `None`: the statistics stay.
        batch_size: Number of examples in a batch, if `data` is arrays. Defaults to `500`.

    Yields:
        `model`.

    Raises:
        ValueError: As `recalibrate`, if `data` is not `None`.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([np.array([[0.0]])])
        >>> model.compile(ks.Lookahead(keras.optimizers.SGD(0.5), sync_period=2), "mse")
        >>> loss = model.train_on_batch(np.array([[1.0]]), np.array([[1.0]]))
        >>> with ks.weights_of(model):
        ...     float(model.get_weights()[0][0, 0])  # The slow weight, before it moves.
        0.0
        >>> float(model.get_weights()[0][0, 0])
        1.0
    """
    weights = evaluation_weights(getattr(model, "optimizer", None))
    moving = [] if copied(model) else statistics(batch_norms(model))
    variables = [*model.trainable_variables, *moving]
    restore = backend.snapshot(variables)
    try:
        if weights is not None:
            for variable, weight in zip(model.trainable_variables, weights, strict=True):
                variable.assign(ops.copy(weight))
        if data is not None:
            recalibrate(model, data, batch_size)
        yield model
    finally:
        restore()
