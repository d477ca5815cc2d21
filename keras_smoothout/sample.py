"""`sample`: put a draw from the Gaussian that an optimizer has learned into the model."""

from keras_smoothout import backend
from keras_smoothout.around import chain
from keras_smoothout.checks import check_count
from keras_smoothout.weights_of import weights_of


def sample(model, draw=0, data=None, batch_size=500):
    """Let `model` hold a draw around its weights, inside a `with` block.

    The mean of the class probabilities of several draws is the prediction of the whole Gaussian,
    which is less certain than the one at the mean weights. After the block, weights and moving
    statistics are as before, to the bit.

    Args:
        model: A built `keras.Model` whose optimizer is `IVON`, or a method around it.
        draw: Number of the draw; each has its own. Defaults to `0`.
        data: Inputs to re-estimate BatchNormalization's moving statistics on, as for
            `keras_smoothout.recalibrate`. Defaults to `None`: the statistics stay.
        batch_size: Number of examples in a batch, if `data` is arrays. Defaults to `500`.

    Yields:
        `model`.

    Raises:
        ValueError: If the optimizer has learned no Gaussian, or has averages that would be
            evaluated in place of the draw; if `draw` is no integer >= 0; as `recalibrate`.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
        >>> model.compile(ks.IVON(0.1, ess=100.0), "mse")
        >>> x = np.linspace(-1.0, 1.0, 100)[:, None]
        >>> history = model.fit(x, 2 * x, epochs=20, verbose=0)
        >>> outputs = []
        >>> for draw in range(8):
        ...     with ks.sample(model, draw):
        ...         outputs.append(model.predict(x, verbose=0))
        >>> bool(np.std(outputs, axis=0).min() > 0)
        True
    """
    check_count("draw", draw, least=0)
    optimizer = getattr(model, "optimizer", None)
    nest = [] if optimizer is None else chain(optimizer)
    gaussians = [one for one in nest if hasattr(type(one), "posterior") and one.built]
    if not gaussians:
        raise ValueError(
            "`model` must be trained by `IVON`, or a method around it, which learns the Gaussian "
            f"to draw from. Received: a model with the optimizer {optimizer}"
        )
    weights = [backend.read(variable) for variable in model.trainable_variables]
    return weights_of(model, data, batch_size, gaussians[0].posterior(weights, draw))
