"""Saving and loading: models with a `compile` of their own, and Keras' older format."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from support.contract import arrays
from support.nets import assert_equal

import keras_smoothout as ks

X, Y = np.ones((8, 3), "float32"), np.ones((8, 2), "float32")
register = keras.saving.register_keras_serializable("saving")


class Called(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


@register
class OtherNames(ks.TrainStep, Called):
    def compile(self, rate):
        super().compile(ks.Lookahead(keras.optimizers.SGD(rate)), "mse")


class OtherNamesInside(Called):
    def compile(self, own_optimizer, own_loss):
        super().compile(own_optimizer, own_loss)


@register
class MixedAround(ks.TrainStep, OtherNamesInside):
    pass


@register
class OneMore(ks.TrainStep, Called):
    """Loaded without `scale`, it would be another model without a word."""

    def compile(self, *args, scale=1.0, **kwargs):
        super().compile(*args, **kwargs)
        self.scale = scale


@register
class PassesOn(ks.TrainStep, Called):
    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)


@register
class Remembers(OneMore):
    def get_compile_config(self):
        return super().get_compile_config() | {"scale": self.scale}


@register
class Functional(ks.Model):
    def compile(self, rate):
        super().compile(keras.optimizers.SGD(rate), "mse", ghost_batch_size=4)


def functional():
    inputs = keras.Input((3,))
    return Functional(inputs, layers.Dense(2)(inputs))


def saved(model, tmp_path):
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    return model


@pytest.mark.parametrize(
    "make, arguments",
    [
        (OtherNames, (0.1,)),
        (MixedAround, ("sgd", "mse")),
        (OneMore, ("sgd", "mse")),
        (functional, (0.1,)),
    ],
)
def test_a_compile_that_takes_other_arguments_is_left_to_the_user(make, arguments, tmp_path):
    model = make()
    model.compile(*arguments)
    saved(model, tmp_path)
    with pytest.warns(UserWarning, match=r"not compiled: `\w+\.compile`.*Received: `compile\("):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="not compiled"):
        clone = keras.models.clone_model(model)
    assert getattr(loaded, "optimizer", None) is getattr(clone, "optimizer", None) is None
    assert_equal(arrays(loaded.weights), arrays(model.weights))
    loaded.compile(*arguments)
    loaded.fit(X, Y, verbose=0)


@pytest.mark.parametrize("make", [PassesOn, Remembers])
def test_a_compile_that_takes_what_was_saved_is_called(make, tmp_path):
    model = make()
    options = {"scale": 3.0} if make is Remembers else {}
    model.compile(ks.SmoothOut("adam", radius=0.05), "mse", ghost_batch_size=4, **options)
    saved(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.ghost_batch_size == 4
    assert loaded.optimizer.radius == 0.05
    assert vars(loaded).get("scale") == options.get("scale")
    assert_equal(arrays(loaded.optimizer.variables), arrays(model.optimizer.variables))


def net():
    model = ks.wrap(keras.Sequential([keras.Input((3,)), layers.Dense(2)]))
    model.compile("sgd", "mse", ghost_batch_size=4)
    return model


WRITES = {
    "save": lambda model, path: model.save(path),
    "save_model": lambda model, path: keras.saving.save_model(model, path),
    "checkpoint": lambda model, path: model.fit(
        X, Y, verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(path)]
    ),
}


@pytest.mark.parametrize(
    "name, ending", [("save", "h5"), ("save", "hdf5"), ("save_model", "h5"), ("checkpoint", "h5")]
)
def test_hdf5_is_refused_with_a_cure(name, ending, tmp_path):
    path = str(tmp_path / f"model.{ending}")
    with pytest.raises(ValueError, match=r"save_weights.*Received: "):
        WRITES[name](net(), path)


def test_a_refused_save_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "model.h5"
    path.write_text("kept")
    with pytest.raises(ValueError, match="filepath"):
        net().save(path)
    assert path.read_text() == "kept"


def test_weights_alone_can_be_hdf5(tmp_path):
    model, other = net(), net()
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert_equal(arrays(other.weights), arrays(model.weights))


def test_a_class_without_get_config_is_refused_as_by_keras():
    class Sized(ks.TrainStep, Called):
        def __init__(self, units):
            super().__init__()

    class PlainlySized(Called):
        def __init__(self, units):
            super().__init__()

    errors = []
    for cls in (PlainlySized, Sized):  # A name alone would make another model of it.
        with pytest.raises(Exception, match="get_config") as error:
            cls(5).get_config()
        errors.append(error.type)
    assert errors[0] is errors[1]
