"""What a model is judged by: its loss on a batch, and the share that it gets wrong."""

import inspect

import keras
import numpy as np
from keras import ops

from keras_smoothout import backend, keras_internals
from keras_smoothout.checks import check_loss

MEANS = ("sum_over_batch_size", "mean")


def loss_of(model, loss=None):
    """Function `(x, y, outputs, sample_weight) -> mean loss of the batch, model.losses included`.

    Args:
        model: A `keras.Model`, compiled if `loss` is `None`.
        loss: Keras loss or its name, or `None` for what the model is trained with.

    Raises:
        ValueError: If there is no loss, or one that is not a mean over examples.
    """
    for part in keras.tree.flatten(model.loss if loss is None else loss):
        reduction = getattr(part, "reduction", "mean")
        if reduction not in MEANS:
            raise ValueError(
                f"The loss must be a mean over examples: one of reduction={MEANS}. "
                f"Received: {part} with reduction={reduction!r}"
            )
    if loss is None:
        if not model.compiled:
            raise ValueError("The model has no loss: compile it, or pass `loss`.")

        takes = inspect.signature(model.compute_loss).parameters  # Its own may be of older Keras.
        options = {"training": False} if "training" in takes else {}

        def compiled_loss(x, y, outputs, sample_weight):
            check_loss(model)
            loss = model.compute_loss(x, y, outputs, sample_weight, **options)
            return backend.unscale_loss(loss)

        return compiled_loss
    given = keras.losses.get(loss)
    if not isinstance(given, keras.losses.Loss):
        given = MeanLoss(given)

    def compute_loss(x, y, outputs, sample_weight):
        loss = backend.unscale_loss(given(y, outputs, sample_weight))
        return sum(map(ops.sum, model.losses), loss)

    return compute_loss


def build_loss(model, batch):
    """Let the compiled loss of `model` make its variables; the optimizer stays unchanged."""
    optimizer = model.optimizer
    try:
        model.optimizer = None
        keras_internals.build_by(model, batch)
    finally:
        model.optimizer = optimizer


class MeanLoss(keras.losses.Loss):
    """Mean over examples of `function(y_true, y_pred)`."""

    def __init__(self, function, dtype=None):
        super().__init__(dtype=dtype)
        self.fn = function

    def call(self, y_true, y_pred):
        return self.fn(y_true, y_pred)


class MaskedLike(keras.layers.Layer):
    """The nest `outputs` with the Keras masks of `like`, which losses use."""

    def __init__(self):
        super().__init__(autocast=False)
        self.supports_masking = True

    def call(self, like, outputs):
        return outputs


def error_of(loss):
    """Function `(y, outputs) -> share of wrong predictions in a batch`.

    It is nan unless `loss` is a loss of classification and there is exactly one output. As in the
    loss, masked steps and labels that equal its `ignore_class` do not count.
    """
    flat = keras.tree.flatten(loss)
    given = keras.losses.get(flat[0]) if len(flat) == 1 else None
    name = getattr(getattr(given, "fn", given), "__name__", "")
    config = given.get_config() if name in KINDS and hasattr(given, "get_config") else {}
    ignored = config.get("ignore_class")
    masked_mean = MeanLoss(lambda values, outputs: values, "float32")

    def error(y, outputs):
        y, outputs = keras.tree.flatten(y), keras.tree.flatten(outputs)
        if name not in KINDS or not len(y) == len(outputs) == 1:
            return np.nan
        wrong, labels = KINDS[name](y[0], outputs[0], 0.0 if config.get("from_logits") else 0.5)
        counted = ops.ones_like(wrong) if ignored is None else labels != ignored
        wrong, counted = ops.cast(wrong, "float32"), ops.cast(counted, "float32")
        wrong, counted = (masked_mean(v, outputs[0]) for v in (wrong * counted, counted))
        return ops.divide_no_nan(wrong, counted)

    return error


def _sparse(y, outputs, threshold):
    labels = ops.cast(ops.reshape(y, ops.shape(outputs)[:-1]), "int32")
    return labels != ops.cast(ops.argmax(outputs, axis=-1), "int32"), labels


def _categorical(y, outputs, threshold):
    return _sparse(ops.argmax(y, axis=-1), outputs, threshold)


def _binary(y, outputs, threshold):
    labels = ops.cast(ops.reshape(y, ops.shape(outputs)), "float32") > 0.5
    return ops.mean(ops.cast(labels != (outputs > threshold), "float32"), axis=-1), labels


KINDS = {
    "sparse_categorical_crossentropy": _sparse,
    "categorical_crossentropy": _categorical,
    "categorical_focal_crossentropy": _categorical,
    "categorical_hinge": _categorical,
    "binary_crossentropy": _binary,
    "binary_focal_crossentropy": _binary,
}
