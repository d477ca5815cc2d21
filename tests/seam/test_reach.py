"""What belongs to the inner optimizer reaches through methods, nests of them and loss scaling.

The table holds every public name of every optimizer of Keras, so a new one fails here until it is
decided what a method does with it.
"""

import inspect

import keras
import numpy as np
import pytest
from keras.optimizers.schedules import ExponentialDecay
from support.nets import LOSS, images, standard_net

import keras_smoothout as ks
from keras_smoothout.around import Around, LossScaleOptimizer, arguments, chain
from keras_smoothout.methods import BASES, METHODS

# Optimizers that others go around. `MultiOptimizer` is a set of them; see the last tests.
INNER = [
    cls
    for cls in vars(keras.optimizers).values()
    if inspect.isclass(cls)
    and issubclass(cls, keras.optimizers.Optimizer)
    and cls
    not in (
        keras.optimizers.Optimizer,
        keras.optimizers.LossScaleOptimizer,
        keras.optimizers.MultiOptimizer,
    )
] + list(BASES.values())

# A method's own, as each is about its own state and update.
OWN = {
    "add_optimizer_variables",
    "add_variable",
    "add_variable_from_reference",
    "apply",
    "apply_gradients",
    "assign",
    "assign_add",
    "assign_sub",
    "attach",
    "build",
    "built",
    "check_asked",
    "extras",
    "from_config",
    "get_config",
    "gradients",
    "name",
    "per_copy",
    "stateless_apply",
    "statistics",
}
# Of all variables: the method's own and the inner optimizer's.
WHOLE = {"load_own_variables", "save_own_variables", "set_weights", "variables"}
# Calls that reach through.
CALLS = {"exclude_from_weight_decay", "finalize_variable_values", "scale_loss", "update_step"}
# Read only, in Keras as well.
READ = {"iterations"}
# Functions and constants of one class, which are read through.
OF_ONE_CLASS = {
    "asks_elsewhere",
    "keeps_weights",
    "keeps_zeros",
    "lr_adjust",
    "own_gradient",
    "transforms",
    "posterior",
    "transpose_last_axis",
    "zeropower_via_newtonschulz5",
}

VALUES = {
    "clipnorm": 0.5,
    "clipvalue": 0.5,
    "global_clipnorm": 0.5,
    "ema_momentum": 0.5,
    "ema_overwrite_frequency": 3,
    "gradient_accumulation_steps": 3,
    "learning_rate": 0.5,
    "loss_scale_factor": 2.0,
    "use_ema": True,
    "weight_decay": 0.25,
}


def public(cls):
    return {name for name in dir(cls()) if not name.startswith("_")}


def around(inner, depth):
    """A method around `inner`, or a nest, or a nest in loss scaling."""
    optimizer = ks.SAM(inner, rho=0.25)
    if depth > 1:
        optimizer = ks.Lookahead(ks.SmoothOut(optimizer))
    return LossScaleOptimizer(optimizer) if depth > 2 else optimizer


@pytest.mark.parametrize("cls", INNER)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_each_setting_is_read_and_written_through(cls, depth):
    names = public(cls) - OWN - WHOLE - CALLS - READ - OF_ONE_CLASS
    assert {*VALUES} <= names
    for name in sorted(names):
        inner = cls()
        optimizer = around(inner, depth)
        if any(name in arguments(type(o)) - arguments(Around) for o in chain(optimizer)[:-1]):
            continue  # Such as `rho` of RMSprop, which SAM's hides; the next test is about these.
        before = getattr(inner, name)
        value = VALUES.get(name, 0.125 if isinstance(before, float) else "other")
        if depth == 3 and name == "loss_scale_factor":
            with pytest.raises(ValueError, match="loss_scale_factor=2.0"):
                optimizer.loss_scale_factor = value
            continue
        assert getattr(optimizer, name) is before or getattr(optimizer, name) == before, name
        setattr(optimizer, name, value)
        found, reached = getattr(inner, name), getattr(optimizer, name)
        assert found == value or float(found) == value, name
        assert reached is found or reached == found, name


def test_a_method_hides_an_argument_of_the_same_name_and_inner_reaches_it():
    inner = keras.optimizers.RMSprop(rho=0.75)
    optimizer = ks.Lookahead(ks.SAM(inner, rho=0.25))
    optimizer.rho = 0.5
    assert (optimizer.rho, optimizer.inner.rho, inner.rho) == (0.5, 0.5, 0.75)


class Remembering(ks.Method):
    """A method of a user, whose own state has the name of a setting of others."""

    def build(self, variables):
        super().build(variables)
        self.radius = self.add_variable((), "ones", name="radius")
        self.rho = [self.add_variable((), "ones", name="rho")]


@pytest.mark.parametrize("inner", [lambda: ks.SmoothOut("sgd", radius=0.25), lambda: ks.SAM("sgd")])
def test_the_state_of_a_method_is_no_setting_of_the_one_inside(inner):
    optimizer = Remembering(ks.Lookahead(inner()))
    settings = optimizer.inner.get_config()
    optimizer.build([keras.Variable([1.0], name="w")])
    assert float(optimizer.radius.numpy()) == float(optimizer.rho[0].numpy()) == 1.0
    assert optimizer.inner.get_config() == settings


def test_what_nobody_knows_is_an_attribute_error():
    optimizer = ks.Lookahead(ks.SAM("sgd"))
    with pytest.raises(AttributeError, match="momentun"):
        _ = optimizer.momentun
    optimizer.mine = 1  # As Keras' optimizers, ours take notes.
    assert optimizer.mine == 1
    assert "mine" not in vars(optimizer.inner)


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)
def test_no_method_loses_a_setting(row):
    inner = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer = row.cls(inner)
    optimizer.weight_decay = 0.0
    optimizer.beta_1 = 0.5
    assert (inner.weight_decay, inner.beta_1) == (0.0, 0.5)


def trained(optimizer, steps=2):
    model = ks.wrap(standard_net())
    model.compile(optimizer, LOSS)
    x, y = images(8)
    for _ in range(steps):
        model.train_on_batch(x, y)
    return model


def equal(a, b):
    return all(np.array_equal(x.numpy(), y.numpy()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("nest", [lambda o: ks.SAM(o, rho=0.0), lambda o: ks.Lookahead(ks.SAM(o))])
def test_weight_decay_excludes_through(nest):
    models = []
    for named in ([], ["kernel", "bias", "beta", "gamma"]):
        optimizer = nest(keras.optimizers.AdamW(0.01, weight_decay=0.5))
        optimizer.exclude_from_weight_decay(var_names=named)
        models.append(trained(optimizer, 1))
    reference = nest(keras.optimizers.AdamW(0.01, weight_decay=0.5))
    reference.weight_decay = 0.0
    decayed, excluded = (m.trainable_variables for m in models)
    assert not equal(decayed, excluded)
    assert equal(trained(reference, 1).trainable_variables, excluded)


@pytest.mark.parametrize("depth", [1, 2])
def test_state_is_saved_and_loaded_whole(depth):
    optimizer = trained(around(keras.optimizers.Adam(0.01), depth)).optimizer
    store = {}
    optimizer.save_own_variables(store)
    assert len(store) == len(optimizer.variables) > len(chain(optimizer)[-1].variables)
    other = trained(around(keras.optimizers.Adam(0.01), depth), 1).optimizer
    assert not equal(optimizer.variables, other.variables)
    other.load_own_variables(store)
    assert equal(optimizer.variables, other.variables)
    third = trained(around(keras.optimizers.Adam(0.01), depth), 1).optimizer
    third.set_weights([v.numpy() for v in optimizer.variables])
    assert equal(optimizer.variables, third.variables)
    with pytest.raises(ValueError, match="`weights`"):
        third.set_weights([v.numpy() for v in optimizer.variables[1:]])


def test_a_file_holds_the_inner_state_once(tmp_path):
    import h5py

    model = trained(around(keras.optimizers.Adam(0.01), 2))
    model.save_weights(tmp_path / "model.weights.h5")
    held = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file["optimizer"].visititems(
            lambda name, item: held.append(name) if isinstance(item, h5py.Dataset) else None
        )
    assert len(held) == len(model.optimizer.variables)


def test_the_loss_scale_of_compile_reaches_through():
    keras.config.set_dtype_policy("mixed_float16")
    inner = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    model = trained(ks.Lookahead(ks.SAM(inner)))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    model.optimizer.weight_decay = 0.0
    model.optimizer.beta_1 = 0.5
    model.optimizer.rho = 0.125
    assert (inner.weight_decay, inner.beta_1) == (0.0, 0.5)
    assert model.optimizer.inner_optimizer.inner.rho == 0.125


def test_a_loss_scale_of_ones_own_stays_the_same_object():
    keras.config.set_dtype_policy("mixed_float16")
    inner = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    given = keras.optimizers.LossScaleOptimizer(ks.SAM(inner), initial_scale=8.0)
    model = trained(given)
    assert model.optimizer is given
    given.weight_decay = 0.0
    assert inner.weight_decay == 0.0
    again = keras.optimizers.deserialize(keras.optimizers.serialize(given))
    assert isinstance(again, LossScaleOptimizer)
    assert (again.initial_scale, again.rho) == (8.0, 0.05)


def test_a_schedule_is_read_through_and_kept():
    schedule = ExponentialDecay(0.5, 1, 0.5)
    optimizer = trained(ks.Lookahead(ks.SAM(keras.optimizers.SGD(schedule))), 2).optimizer
    assert float(optimizer.learning_rate) == 0.125
    with pytest.raises(TypeError, match="LearningRateSchedule"):
        optimizer.learning_rate = 0.1


def test_a_set_of_optimizers_inside():
    sets = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1, momentum=0.9))
    sets["dense.*"] = keras.optimizers.Adam(0.01)
    model = trained(ks.SAM(keras.optimizers.MultiOptimizer(sets)))
    assert len(model.optimizer.optimizers) == 2
    with pytest.raises(AttributeError, match="individual sub-optimizers"):
        _ = model.optimizer.learning_rate
