"""What a model is judged by: its loss on a batch, and which examples it gets wrong."""

import keras
from keras import ops

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
        return lambda x, y, outputs, sample_weight: model.compute_loss(
            x, y, outputs, sample_weight, training=False
        )
    given = keras.losses.get(loss)
    if not isinstance(given, keras.losses.Loss):
        given = MeanLoss(given)

    def compute_loss(x, y, outputs, sample_weight):
        return sum(map(ops.sum, model.losses), given(y, outputs, sample_weight))

    return compute_loss


class MeanLoss(keras.losses.Loss):
    """Mean over examples of `function(y_true, y_pred)`."""

    def __init__(self, function):
        super().__init__()
        self.fn = function

    def call(self, y_true, y_pred):
        return self.fn(y_true, y_pred)


class MaskedLike(keras.layers.Layer):
    """The nest `outputs` with the Keras masks of `like`, which losses look at."""

    def __init__(self):
        super().__init__(autocast=False)
        self.supports_masking = True

    def call(self, like, outputs):
        return outputs


def mistakes_of(loss):
    """Function `(y, outputs) -> True where the most probable class is wrong`.

    Returns `None` if `loss` is not one of a classification with a single output.
    """
    flat = keras.tree.flatten(loss)
    if len(flat) != 1 or flat[0] is None:
        return None
    given = keras.losses.get(flat[0])
    name = getattr(getattr(given, "fn", given), "__name__", "")
    if name == "sparse_categorical_crossentropy":
        return _sparse
    if name in ("categorical_crossentropy", "categorical_focal_crossentropy", "categorical_hinge"):
        return lambda y, outputs: ops.argmax(y, axis=-1) != ops.argmax(outputs, axis=-1)
    if name in ("binary_crossentropy", "binary_focal_crossentropy"):
        logits = getattr(given, "_fn_kwargs", {}).get("from_logits", False)
        threshold = 0.0 if logits else 0.5
        return lambda y, outputs: (ops.cast(y, "float32") > 0.5) != (outputs > threshold)
    return None


def _sparse(y, outputs):
    labels = ops.reshape(y, ops.shape(outputs)[:-1])
    return ops.cast(labels, "int32") != ops.cast(ops.argmax(outputs, axis=-1), "int32")
