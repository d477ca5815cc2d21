"""Optimizers around optimizers: what belongs to the one inside is read and written there."""

import collections
import functools
import inspect

import keras

from keras_smoothout import keras_internals


def chain(optimizer):
    """All optimizers from `optimizer` to the innermost one, the outermost first."""
    found = [optimizer]
    while (inside := inside_of(found[-1])) is not None:
        found.append(inside)
    return found


def inside_of(optimizer):
    """The optimizer that `optimizer` goes around, or `None`."""
    names = ("inner", "inner_optimizer")
    return next((vars(optimizer)[name] for name in names if name in vars(optimizer)), None)


def state_of(optimizer):
    """What a step of `optimizer` changes besides counts, rates and accumulated gradients."""
    inside, known = chain(optimizer), keras_internals
    left_out = [find(one) for one in inside for find in (known.calls, known.learning_rate)]
    if optimizer.gradient_accumulation_steps:
        left_out += known.accumulated(inside[-1])
    ids = set(map(id, left_out))
    return [v for v in optimizer.variables if id(v) not in ids]


def slots_of(state, variables):
    """The index of the weight that each variable of an optimizer's `state` is kept for, or `None`.

    It has the weight's shape, and a name that begins with the weight's path. Slots of equal names
    are in the order of the weights.
    """
    prefixes = [f"{v.path.replace('/', '_')}_" for v in variables]
    found, seen = [], collections.Counter()
    for slot in state:
        fits = [
            i
            for i, v in enumerate(variables)
            if slot.name.startswith(prefixes[i]) and tuple(slot.shape) == tuple(v.shape)
        ]
        longest = max((len(prefixes[i]) for i in fits), default=0)
        fits = [i for i in fits if len(prefixes[i]) == longest]
        found.append(fits[seen[slot.name] % len(fits)] if fits else None)
        seen[slot.name] += 1
    return found


@functools.cache
def arguments(cls):
    """Names of all arguments that the constructors of `cls`, an optimizer, and its bases take."""
    bases = [base for base in cls.__mro__ if issubclass(base, keras.optimizers.Optimizer)]
    names = {name for base in bases for name in inspect.signature(base.__init__).parameters}
    return names - {"self", "args", "kwargs"}


def reaching(name):
    """Return a property that reads and sets the property `name` of the optimizer inside."""

    def read(self):
        return getattr(inside_of(self), name)

    def write(self, value):
        if inside_of(self) is not None:  # Keras' constructor sets it before it has one inside.
            setattr(inside_of(self), name, value)

    return property(read, write, doc=f"`{name}` of the optimizer inside.")


class Around(keras.optimizers.Optimizer):
    """Base of optimizers that go around another and pass on its settings, by name.

    An attribute that only an inner optimizer has is read there, through any number of optimizers.
    An attribute that only its constructor takes is set there. An argument of the outer optimizer
    hides one of the same name further inside; `optimizer.inner` still reaches it.
    """

    clipnorm = reaching("clipnorm")
    clipvalue = reaching("clipvalue")
    ema_momentum = reaching("ema_momentum")
    ema_overwrite_frequency = reaching("ema_overwrite_frequency")
    global_clipnorm = reaching("global_clipnorm")
    gradient_accumulation_steps = reaching("gradient_accumulation_steps")
    iterations = reaching("iterations")
    learning_rate = reaching("learning_rate")
    loss_scale_factor = reaching("loss_scale_factor")
    use_ema = reaching("use_ema")
    weight_decay = reaching("weight_decay")

    def build(self, variables):
        variables, inside = list(variables), inside_of(self)
        if inside.built:
            keras_internals.check_known(inside, variables)
        else:
            inside.build(variables)
        keras_internals.set_built(self, variables, inside)

    @property
    def trainable_variables(self):
        """The model's trainable variables, in the model's order."""
        return keras_internals.trainable_variables(self)

    @property
    def variables(self):
        return [*keras_internals.own_variables(self), *inside_of(self).variables]

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        inside_of(self).exclude_from_weight_decay(var_list, var_names)

    def finalize_variable_values(self, var_list):
        inside_of(self).finalize_variable_values(var_list)

    def scale_loss(self, loss):
        return inside_of(self).scale_loss(loss)

    def update_step(self, gradient, variable, learning_rate):
        inside_of(self).update_step(gradient, variable, learning_rate)

    def set_weights(self, weights):
        if not self.built:
            raise ValueError("`set_weights` needs `build(model.trainable_variables)` before it.")
        shapes = [tuple(v.shape) for v in self.variables]
        given = [tuple(w.shape) for w in weights]
        if shapes != given:
            raise ValueError(
                f"`weights` must hold an array for each of `variables`, of shapes {shapes}. "
                f"Received: shapes {given}"
            )
        for variable, weight in zip(self.variables, weights, strict=True):
            variable.assign(weight)

    def __getattr__(self, name):
        if name.startswith("_") or inside_of(self) is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(inside_of(self), name)

    def __setattr__(self, name, value):
        inside = inside_of(self)
        own = inside is None or hasattr(type(self), name) or name in arguments(type(self))
        # What is kept in variables is state, and no setting of the optimizer inside.
        own = own or any(isinstance(leaf, keras.Variable) for leaf in keras.tree.flatten(value))
        if own or not any(name in arguments(type(optimizer)) for optimizer in chain(inside)):
            super().__setattr__(name, value)
        else:
            setattr(inside, name, value)

    def __dir__(self):
        """All names except that of the optimizer inside: Keras would save its state twice."""
        return [name for name in super().__dir__() if name not in ("inner", "inner_optimizer")]


@keras.saving.register_keras_serializable("keras_smoothout")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer, Around):
    """Keras' `LossScaleOptimizer`, which passes on the settings of the optimizer inside."""

    @property
    def loss_scale_factor(self):
        return None

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor):
        if factor is not None:
            raise ValueError(
                "`LossScaleOptimizer` finds the scale of the loss itself: leave "
                "`loss_scale_factor` at None, or compile with `auto_scale_loss=False`. Received: "
                f"loss_scale_factor={factor}"
            )


def reach_through(optimizer):
    """Let Keras' loss scaling around one of our optimizers pass on its settings.

    Under mixed_float16, `compile` puts Keras' `LossScaleOptimizer` around the optimizer. The object
    stays the same, because the user may hold it.
    """
    inside = type(optimizer) is keras.optimizers.LossScaleOptimizer and inside_of(optimizer)
    if isinstance(inside, Around):
        object.__setattr__(optimizer, "__class__", LossScaleOptimizer)
