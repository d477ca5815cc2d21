"""The train step around any model: `wrap`."""

import keras

from keras_smoothout.keras_internals import Functional
from keras_smoothout.model import Model, TrainStep

LEFT_OUT = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics", "fit")
LEFT_OUT += ("metrics",)


@keras.saving.register_keras_serializable("keras_smoothout")
class Wrapped(Model):
    """The model that `wrap` puts around a subclassed or unbuilt one: it calls `model`."""

    def __init__(self, model, **kwargs):
        super().__init__(**kwargs)
        self.model = model

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)

    def get_config(self):
        return super().get_config() | {"model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("model")), **config)


def overridden(model):
    """Names of what the class of `model` has of its own and a model around it would leave out."""
    known = (keras.Model, Model)
    return [n for n in LEFT_OUT if getattr(type(model), n) not in [getattr(c, n) for c in known]]


def wrap(model):
    """Give `model` the train step that lets its optimizer ask for gradients.

    Args:
        model: A `keras.Model`. A functional or sequential model comes back as a `Model` of the same
            layers. A model with its own `call` is called from within a new model. Weights are
            shared. Compile the result, not `model`.

    Raises:
        ValueError: If the class of `model` overrides one of the `Trainer` methods that the new
            model would not call.
    """
    if isinstance(model, TrainStep):
        return model
    if not isinstance(model, keras.Model):
        raise ValueError(f"`wrap` takes a `keras.Model`. Received: model={model}")
    own = overridden(model)
    if own:
        name = type(model).__name__
        raise ValueError(
            f"`wrap` would leave out what `{name}` overrides. Mix the train step into its class, "
            f"`class {name}(keras_smoothout.TrainStep, keras.Model)`, and write what its own "
            f"`train_step` does as `compute_loss`. Received: a model with its own {', '.join(own)}"
        )
    call = type(model).call
    if call is keras.Sequential.call and model.built:
        return Model(model.inputs[0], model.outputs[0], name=model.name)
    if call is Functional.call:
        return Model(model.input, model.output, name=model.name)
    return Wrapped(model, name=model.name)
