"""How a model with our train step is saved, and compiled again when it is loaded."""

import inspect
import warnings

import keras

from keras_smoothout import keras_internals

HDF5 = (".h5", ".hdf5")
CURE = (
    "A whole model in HDF5 has neither the class of its train step nor `ghost_batch_size`, so it "
    "could not be loaded. Save it as `model.keras`, or weights alone by "
    "`model.save_weights('model.weights.h5')`. Received: "
)


def serialized(config):
    """`config`, a dict of arguments, with optimizers and schedules as their own configs."""
    objects = (keras.optimizers.Optimizer, keras.optimizers.schedules.LearningRateSchedule)
    serialize = keras.saving.serialize_keras_object
    return {n: serialize(v) if isinstance(v, objects) else v for n, v in config.items()}


def deserialized(config, custom_objects=None):
    """The arguments of a `serialized` config."""
    deserialize = keras.saving.deserialize_keras_object
    return {
        n: deserialize(v, custom_objects) if isinstance(v, dict) else v for n, v in config.items()
    }


class Saving:
    """Mixin: saves `ghost_batch_size`, and refuses Keras' older format, which would lose it."""

    ghost_batch_size = None

    def save(self, filepath, *args, **kwargs):
        """Save the model, as `keras.Model.save` does.

        Args:
            filepath: As for `keras.Model.save`; must end in `.keras`.
            *args: As for `keras.Model.save`.
            **kwargs: As for `keras.Model.save`.

        Raises:
            ValueError: If the file is HDF5 (`.h5`, `.hdf5`).
        """
        if str(filepath).endswith(HDF5):
            raise ValueError(f"{CURE}filepath={str(filepath)!r}")
        return super().save(filepath, *args, **kwargs)

    @keras_internals.default_config
    def get_config(self):
        if keras_internals.writes_hdf5():
            raise ValueError(f"{CURE}{type(self).__name__} {self.name!r}")
        return super().get_config()

    def get_compile_config(self):
        config, size = super().get_compile_config(), self.ghost_batch_size
        return config if config is None or size is None else config | {"ghost_batch_size": size}

    def compile_from_config(self, config):
        refusing = [c for c in own_compiles(type(self)) if not takes(c, config)]
        if refusing:
            name, signature = refusing[0].__name__, inspect.signature(refusing[0].compile)
            warnings.warn(
                f"The model is not compiled: `{name}.compile` takes other arguments than were "
                "saved. Call `compile`, or let the class override `get_compile_config` and "
                f"`compile_from_config`. Received: `compile{signature}`",
                stacklevel=2,
            )
            return
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)


def own_compiles(cls):
    """The classes among the bases of `cls`, a model, that define `compile` before Keras does."""
    order = cls.__mro__
    return [base for base in order[: order.index(keras.Model)] if "compile" in vars(base)]


def takes(cls, config):
    """Whether `cls.compile` takes the arguments in `config`, and names no others."""
    _, *parameters = inspect.signature(cls.compile).parameters.values()
    variadic = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    named = {p.name for p in parameters if p not in variadic}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in variadic)
    ours = set() if issubclass(cls, Saving) else {"ghost_batch_size"}  # `TrainStep` keeps it.
    return named <= {*config, "ghost_batch_size"} and (open_ended or {*config} - ours <= named)
