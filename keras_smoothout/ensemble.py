"""`Ensemble`: several models as one, whose output is the mean of their probabilities."""

import keras
from keras import losses, ops

from keras_smoothout.checks import check_choice, check_fits, received

ACTIVATIONS = ("softmax", "sigmoid", "linear")
SIGMOID = (losses.BinaryCrossentropy, losses.BinaryFocalCrossentropy)


@keras.saving.register_keras_serializable("keras_smoothout")
class Ensemble(keras.Model):
    """Predict the mean over several models of the probabilities that each of them gives.

        output = mean_m activation(model_m(x))

    The mean of logits is another number, and not what the papers take. The ensemble is a
    `keras.Model`: compile it with a loss of probabilities (`from_logits=False`) and any metrics, to
    evaluate it; save and load it as any model. Its loss is without the members' regularizers.

    Args:
        members: List of built models of the same inputs and outputs, whose weights have the same
            shapes; or a `keras_smoothout.callbacks.Snapshots` that was passed to `fit`, which makes
            a model of each snapshot.
        activation: What makes the outputs of a member probabilities: `"softmax"`, `"sigmoid"`, or
            `"linear"` where they are so already, or are averaged as they are. Defaults to `None`:
            by the losses that the members are compiled with, and by their `from_logits`.
        **kwargs: As for `keras.Model`.

    Raises:
        ValueError: If there are no members or they do not fit together, or if `activation` is
            `None` and their losses do not tell; in `compile`, if the loss takes logits and the
            outputs are none.

    Cost: the forward passes of all members.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> members = [keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]) for _ in "ab"]
        >>> ensemble = ks.Ensemble(members, activation="softmax")
        >>> ensemble.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> ensemble.predict(np.ones((4, 2)), verbose=0).sum(1).round(3).tolist()
        [1.0, 1.0, 1.0, 1.0]

    Reference: Garipov et al., *Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs*,
        NeurIPS 2018, arXiv:1802.10026, Section 5; Huang et al., *Snapshot Ensembles: Train 1, Get M
        for Free*, ICLR 2017, arXiv:1704.00109.
    """

    def __init__(self, members, activation=None, **kwargs):
        super().__init__(**kwargs)
        members = members.models() if hasattr(members, "models") else members
        listed = isinstance(members, (list, tuple)) and len(members) > 0
        if not listed or not all(isinstance(m, keras.Model) and m.built for m in members):
            raise ValueError(
                "`members` must be a list of built models, or `Snapshots` that took some. "
                f"{received('members', members)}"
            )
        for member in members[1:]:
            check_fits("members", member.weights, members[0].weights)
        if activation is None:
            activation = activation_of(members)
        check_choice("activation", activation, ACTIVATIONS)
        self.members = list(members)
        self.activation = activation
        self.built = True

    def compile(self, optimizer=None, *args, **kwargs):
        """Configure the model, as `keras.Model.compile` does; the loss is one of probabilities.

        Args:
            optimizer: As for `keras.Model.compile`. Defaults to `None`, to evaluate only.
            *args: As for `keras.Model.compile`.
            **kwargs: As for `keras.Model.compile`.
        """
        super().compile(optimizer, *args, **kwargs)
        logits = [x for x in keras.tree.flatten(self.loss) if getattr(x, "from_logits", False)]
        if logits and self.activation != "linear":
            raise ValueError(
                "`loss` takes logits, and an ensemble returns probabilities: leave `from_logits` "
                f"at False. Received: loss={logits[0].name} with from_logits=True"
            )
        if self.optimizer is not None:  # As it is when the ensemble is loaded.
            self.optimizer.build(self.trainable_variables)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    @property
    def losses(self):
        """Nothing: the members' regularizers say nothing about the mean of their outputs."""
        return []

    def call(self, inputs, training=None):
        mean = None
        for index, member in enumerate(self.members):
            outputs = keras.tree.map_structure(
                self._probabilities, member(inputs, training=training)
            )
            if mean is None:
                mean = outputs
            else:  # Exact where all are equal.
                mean = keras.tree.map_structure(
                    lambda m, p, n=index + 1: m + (p - m) / n, mean, outputs
                )
        return mean

    def _probabilities(self, outputs):
        outputs = ops.cast(outputs, keras.backend.result_type(outputs.dtype, "float32"))
        if self.activation == "linear":
            return outputs
        return ops.softmax(outputs) if self.activation == "softmax" else ops.sigmoid(outputs)

    def get_config(self):
        members = [described(member) for member in self.members]
        return super().get_config() | {"members": members, "activation": self.activation}

    @classmethod
    def from_config(cls, config):
        members = map(keras.saving.deserialize_keras_object, config.pop("members"))
        return cls(list(members), **config)


def activation_of(members):
    """The activation that the losses of compiled `members` imply, or a `ValueError`."""
    found = {implied(x) for m in members for x in keras.tree.flatten(getattr(m, "loss", None))}
    if len(found) != 1 or None in found:
        raise ValueError(
            "`activation` must say what makes the members' outputs probabilities, where their "
            f"losses do not: one of {ACTIVATIONS}. Received: activation=None for members of the "
            f"activations {sorted(map(str, found))}"
        )
    return found.pop()


def implied(loss):
    """The activation that a loss implies; `None` without a loss, or for one that does not tell."""
    known = isinstance(loss, (str, keras.losses.Loss))
    if not (known or getattr(loss, "__module__", "").startswith("keras.")):
        return None
    if not getattr(loss, "from_logits", False):
        return "linear"
    return "sigmoid" if isinstance(loss, SIGMOID) else "softmax"


def described(model):
    """What a model is made of, without how it is trained."""
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    return config


def copy_at(model, arrays):
    """Return a copy of `model` with other weights, and its loss but no optimizer.

    Args:
        model: A built model.
        arrays: List of arrays, as of `model.get_weights()`.
    """
    check_fits("arrays", arrays, model.weights)
    copy = keras.saving.deserialize_keras_object(described(model), safe_mode=False)
    copy.set_weights(arrays)
    if getattr(model, "loss", None) is not None:
        copy.compile(optimizer=None, loss=model.loss)
    return copy
