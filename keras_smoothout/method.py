"""The seam: `Method`, an optimizer around an optimizer, and how a nest of them asks for a gradient.

Every method of this family differs from plain SGD in two places: where gradients are asked for, and
what is done with them. A method overrides one of two hooks, and each hook receives what would have
happened without it.
"""

import inspect

import keras

from keras_smoothout import backend, keras_internals
from keras_smoothout.around import Around, chain
from keras_smoothout.asks import Asks
from keras_smoothout.evaluation import Step
from keras_smoothout.saving import deserialized, serialized
from keras_smoothout.weights import copies_of
from keras_smoothout.whole import Whole

NESTS = (  # What the outer one does, what the inner one does, and what is then lost.
    ("asks_elsewhere", "own_point", "asks for gradients at weights of its own"),
    ("own_point", "own_gradient", "learns from the gradients themselves"),
    ("sets_weights", "restarts", "begins anew where weights are set"),
    ("sets_weights", "keeps_zeros", "keeps weights at 0 that would be set"),
    ("restarts", "keeps_zeros", "keeps weights at 0 that would be set"),
    ("transforms", "keeps_weights", "keeps weights of its own"),
)


def lost(outer, inner):
    """What is lost with an optimizer of the class `inner` inside of `outer`, or `None`."""
    pairs = ((getattr(outer, a, False) and getattr(inner, b, False), why) for a, b, why in NESTS)
    return next((why for both, why in pairs if both), None)


class Method(Asks, Whole, Around):
    """Base of all methods: behaves as the optimizer `inner`, except for what a method overrides.

        def gradients(self, evaluate, weights, step):     # where gradients are asked for
            return evaluate(weights)
        def update(self, apply, grads, variables):        # what is done with them
            apply(grads)

    Every argument of the constructor is kept as an attribute of the same name, which is all that
    `get_config` needs. Learning rate, clipping, weight decay, gradient accumulation, moving
    averages and every other setting are the inner optimizer's, and are reached through the method.

    Args:
        inner: A Keras optimizer, its config, or its name. Another method is welcome.
        name: Name of the optimizer. Defaults to the name of the class in snake case.

    Raises:
        ValueError: If `inner` is no optimizer or a `LossScaleOptimizer`, or an argument belongs to
            the inner optimizer.
        RuntimeError: In `apply`, if the method overrides `gradients` and the train step did not
            ask it.
    """

    asks_elsewhere = False  # Whether it overrides `gradients`.
    own_point = False  # Whether `gradients` asks at weights that are not those it is given.
    own_gradient = False  # Whether it learns from the gradients themselves.
    sets_weights = False  # Whether `update` sets the weights beside the inner optimizer's update.
    transforms = False  # Whether all weights that are kept would have to be set with them.
    restarts = False  # Whether it begins anew where something else has set the weights.
    keeps_weights = False  # Whether it keeps other weights, such as an average.
    keeps_zeros = False  # Whether it keeps weights at 0.
    per_copy = False  # Whether it does to each of some `Copies` what it does to a model.

    def __init__(self, inner, name=None, **kwargs):
        if kwargs:
            raise ValueError(
                f"`{type(self).__name__}` does not take {sorted(kwargs)}: what is common to all "
                "optimizers belongs to the inner one, as in "
                f"`{type(self).__name__}(keras.optimizers.SGD(0.1, clipnorm=1.0))`. "
                f"Received: {kwargs}"
            )
        if inner is None:
            raise ValueError(
                "`inner` must be a Keras optimizer, its config or its name. Received: inner=None"
            )
        inner = keras.optimizers.get(inner)
        if isinstance(inner, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                f"`{type(self).__name__}` must be inside `LossScaleOptimizer`, not around it: pass "
                "the optimizer that it wraps. `compile` adds the loss scale under mixed_float16."
            )
        super().__init__(learning_rate=lambda: self.inner.learning_rate, name=name)
        self.inner = inner
        self.check_nest(type(self))

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.asks_elsewhere = cls.gradients is not Method.gradients

    def check_nest(self, outer):
        """Raise if an optimizer inside would lose something, around which is what `outer` does."""
        for inner in map(type, chain(self.inner)):
            why, ours = lost(outer, inner), type(self)
            if why:
                never = not issubclass(inner, Method) or lost(inner, ours)
                cure = "`{1}` and it exclude each other" if never else "put `{0}` around `{1}`"
                raise ValueError(
                    f"`inner` must not be `{inner.__name__}`, which {why}: "
                    f"{cure.format(inner.__name__, ours.__name__)}. Received: "
                    f"inner={type(self.inner).__name__}"
                )

    def build(self, variables):
        super().build(variables)
        if self.gradient_accumulation_steps:
            like = self.extras([backend.read(v) for v in self.trainable_variables])
            self._sums = [self.add_variable(t.shape, "zeros", t.dtype, name="sum") for t in like]

    def update(self, apply, grads, variables):
        """Update `variables` by `grads`, and the method's state with them.

        It runs in every call, also while the inner optimizer only accumulates gradients: what
        belongs to an update depends on `self.updated` after `apply(grads)`.

        Args:
            apply: The inner optimizer's update, a function of a list of gradients.
            grads: List of tensors, this replica's share of the gradient; `None` for a weight that
                the loss does not use.
            variables: List of the model's trainable variables.
        """
        apply(grads)

    def evaluation_weights(self):
        """Return the weights to evaluate and predict with, a list, or `None` for the model's."""
        return None

    def slots(self, name, initializer="zeros"):
        """Add state that is shaped like the weights, in `build`: a list of variables.

        Args:
            name: Name of the variables.
            initializer: Keras initializer, its name, or `"weights"` to start as the weights.
                Defaults to `"zeros"`.
        """

        def initial(variable):
            weights = initializer == "weights"
            return (lambda *_, **__: backend.initial(variable)) if weights else initializer

        return [
            self.add_variable_from_reference(v, name, initial(v)) for v in self.trainable_variables
        ]

    def step(self):
        """Return the `Step` that comes next on this replica."""
        return Step(backend.read(keras_internals.calls(self)), backend.replica())

    def apply(self, grads, trainable_variables=None):
        if not grads:  # All layers are frozen.
            return
        self.check_asked()
        if not self.built:
            self.build(trainable_variables)
        given = trainable_variables or self.trainable_variables
        self.update(lambda grads: self.inner.apply(grads, given), grads, self.trainable_variables)
        keras_internals.calls(self).assign_add(1)

    def get_config(self):
        classes = [c for c in type(self).__mro__ if issubclass(c, Method)]
        names = {n: None for c in classes for n in inspect.signature(c).parameters if n != "kwargs"}
        return serialized({n: getattr(self, n) for n in names})

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**deserialized(config, custom_objects))


def evaluation_weights(optimizer):
    """Return the weights to evaluate with by the outermost method that has any, or `None`."""
    optimizers = chain(optimizer) if optimizer is not None else []
    methods = [method for method in optimizers if isinstance(method, Method)]
    wanted = (method.evaluation_weights() for method in methods if method.built)
    return next((weights for weights in wanted if weights is not None), None)


def averages(optimizer):
    """Whether a method of a nest has weights to evaluate, or may have some once it is built."""
    methods = [method for method in chain(optimizer) if isinstance(method, Method)]
    has = [type(m).evaluation_weights is not Method.evaluation_weights for m in methods]
    known = [not m.built or m.evaluation_weights() is not None for m in methods]
    return any(a and b for a, b in zip(has, known, strict=True))


def included(variables, exclude):
    """Return the indices of the `variables` that `exclude` leaves.

    Args:
        variables: List of variables.
        exclude: Names of variables or layers, compared with the parts of each variable's path.
            `"gamma"` also stands for the `scale` of RMSNormalization, and `"vector"` for whatever
            has one axis or none and is no kernel by its name: offsets, scales and slopes.
    """

    def is_excluded(variable):
        *layers, name = variable.path.split("/")
        if {*layers, name} & set(exclude) or "gamma" in exclude and name == "scale":
            return True
        if "vector" not in exclude or "kernel" in name:
            return False
        return len(variable.shape) - (copies_of([variable]) is not None) < 2

    return tuple(i for i, v in enumerate(variables) if not is_excluded(v))


def check_copies(method, variables):
    """Raise unless `variables` are those of several copies of a model, or none."""
    if variables and copies_of(variables) is None:
        raise ValueError(
            f"`{type(method).__name__}` is for several copies of the weights: compile it into "
            "`keras_smoothout.Copies(model, copies=...)`. Received: variables without an axis of "
            f"copies, such as {variables[0].path}"
        )


def strength_at(value, step):
    """Return the value of a float or a schedule at `step`."""
    return value(step.iteration) if callable(value) else value
