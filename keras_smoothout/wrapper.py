"""An optimizer around an optimizer: `Wrapper`, and how nested wrappers ask for a gradient."""

import inspect
import warnings

import keras
from keras.optimizers.schedules import LearningRateSchedule

from keras_smoothout import backend
from keras_smoothout.evaluation import Step


class Wrapper(keras.optimizers.Optimizer):
    """Base of all methods: behaves as the optimizer `inner`, but for what a method overrides.

    A method overrides `gradients` (where gradients are asked for, and how they are combined),
    `after_update` (what happens to the weights after the inner optimizer's step), or both. Every
    argument of its constructor is kept as an attribute of the same name, which is all that
    `get_config` needs. Learning rate, clipping, weight decay, gradient accumulation and moving
    averages are the inner optimizer's.

    Args:
        inner: A Keras optimizer, its config, or its name. Another wrapper is welcome.
        name: Name of the optimizer. Defaults to the name of the class in snake case.
    """

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
        self._asked = False

    def step(self):
        """The `Step` that comes next on this replica."""
        return Step(backend.read(self._iterations), backend.replica())

    def gradients(self, evaluate, weights, step):
        """Return the `Evaluation` whose gradients the inner optimizer applies.

        Args:
            evaluate: Pure function from a list of weights to an `Evaluation` of this batch.
            weights: List of tensors, the weights before the step.
            step: A `Step`: iteration, replica and ghost batch.
        """
        return evaluate(weights)

    def after_update(self, variables):
        """Change `variables`, the trainable ones, after the inner optimizer has updated them."""

    def build(self, variables):
        variables = list(variables)
        super().build(variables)
        if self.inner.built:
            self.inner._check_variables_are_known(variables)
        else:
            self.inner.build(variables)
        averages = getattr(self.inner, "_model_variables_moving_average", None)
        if averages is not None:  # `SwapEMAWeights` looks for them here.
            self._model_variables_moving_average = averages

    def apply(self, grads, trainable_variables=None):
        if not grads:  # All layers are frozen.
            return
        if type(self).gradients is not Wrapper.gradients and not self._asked:
            raise RuntimeError(
                f"`{type(self).__name__}` has to ask for its gradients, but this model's train "
                "step computed them alone. Compile it into `keras_smoothout.wrap(model)`, build "
                "the model as `keras_smoothout.Model(inputs, outputs)`, or mix "
                "`keras_smoothout.TrainStep` into your own class."
            )
        if not self.built:
            self.build(trainable_variables)
        self.inner.apply(grads, trainable_variables or self._trainable_variables)
        self.after_update(self._trainable_variables)
        self._iterations.assign_add(1)
        self._asked = False

    @property
    def variables(self):
        return [*self._variables, *self.inner.variables]

    @property
    def iterations(self):
        return self.inner.iterations

    @property
    def learning_rate(self):
        return self.inner.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner.learning_rate = learning_rate

    @property
    def loss_scale_factor(self):
        return self.inner.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor):
        if hasattr(self, "inner"):  # Keras sets it before there is one.
            self.inner.loss_scale_factor = factor

    def scale_loss(self, loss):
        return self.inner.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner.finalize_variable_values(var_list)

    def save_own_variables(self, store):
        """Save the variables that are not the inner optimizer's: Keras saves that by itself."""
        for i, variable in enumerate(self._variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store):
        if len(store.keys()) != len(self._variables):
            warnings.warn(
                f"Skipping variable loading for optimizer '{self.name}', because it has "
                f"{len(self._variables)} variables whereas the saved optimizer has "
                f"{len(store.keys())}. Build it before loading.",
                stacklevel=2,
            )
            return
        for i, variable in enumerate(self._variables):
            variable.assign(store[str(i)])

    def get_config(self):
        classes = [c for c in type(self).__mro__ if issubclass(c, Wrapper)]
        names = {n: None for c in classes for n in inspect.signature(c).parameters if n != "kwargs"}
        config = {n: getattr(self, n) for n in names}
        serialize = keras.saving.serialize_keras_object
        return {
            n: serialize(v)
            if isinstance(v, (keras.optimizers.Optimizer, LearningRateSchedule))
            else v
            for n, v in config.items()
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        deserialize = keras.saving.deserialize_keras_object
        return cls(
            **{
                n: deserialize(v, custom_objects) if isinstance(v, dict) else v
                for n, v in config.items()
            }
        )


def gradients(optimizer, evaluate, weights, step):
    """The `Evaluation` that `optimizer` asks for: outermost wrapper first, `evaluate` last."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if not isinstance(optimizer, Wrapper):
        return evaluate(weights)
    optimizer._asked = True
    return optimizer.gradients(
        lambda weights: gradients(optimizer.inner, evaluate, weights, step), weights, step
    )


def included(variables, exclude):
    """Indices of the `variables` of whose path no part is in `exclude`."""
    return tuple(i for i, v in enumerate(variables) if not set(v.path.split("/")) & set(exclude))


def strength_at(value, step):
    """Value of a float or a schedule at `step`."""
    return value(step.iteration) if callable(value) else value
