"""The train step that lets an optimizer ask for gradients: `TrainStep`, `Model`, `wrap`."""

import functools

import keras
from keras import layers

from keras_smoothout import keras_internals, train_step
from keras_smoothout.around import reach_through
from keras_smoothout.asks import asking
from keras_smoothout.checks import check_count, check_ghosts, check_mean
from keras_smoothout.evaluation import length
from keras_smoothout.keras_internals import Functional
from keras_smoothout.labels import examine
from keras_smoothout.moving_statistics import check_alone
from keras_smoothout.saving import Saving


class TrainStep(train_step.Repairs, Saving):
    """Mixin for a `keras.Model`: `class MyModel(TrainStep, keras.Model)`.

        grads = mean over ghost batches of optimizer.gradients(evaluate, weights, step)
        optimizer.apply(grads)

    The order is the same everywhere: chunk -> perturb -> gradient -> mean over chunks -> the
    method's update -> mean over replicas -> clip -> inner update. With a plain Keras optimizer and
    no ghost batches the step is `keras.Model`'s own.
    """

    _reached = False  # Whether the train step that runs has come to ours.
    _watcher = None  # A callback that sees the norms of the gradients of a step, or `None`.

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        order, name = cls.__mro__, cls.__name__
        if keras.Model in order and order.index(keras.Model) < order.index(TrainStep):
            raise TypeError(
                "`TrainStep` goes before the class whose train step it replaces: "
                f"`class {name}(keras_smoothout.TrainStep, keras.Model)`. Received: class "
                f"{name}({', '.join(base.__name__ for base in cls.__bases__)})"
            )
        if "train_step" in vars(cls) and order.index(cls) < order.index(TrainStep):
            cls.train_step = calling_ours(cls.train_step)

    def compile(self, *args, ghost_batch_size=None, **kwargs):
        """Configure the model for training, as `keras.Model.compile` does.

        Args:
            *args: As for `keras.Model.compile`.
            ghost_batch_size: Number of examples in one chunk of the (per-replica) batch, or `None`
                for the whole batch. Each chunk has BatchNormalization statistics, dropout masks and
                perturbations of its own; the gradients are averaged, weighted by chunk size, so a
                smaller last chunk counts for what it holds (by examples, also where a mask leaves
                out some of their steps). In moving statistics it counts in full, but a last chunk
                of less than half the size hardly counts there, and one example not at all. The
                memory for activations is that of one chunk. Defaults to `None`.
            **kwargs: As for `keras.Model.compile`.
        """
        super().compile(*args, **kwargs)
        reach_through(self.optimizer)
        for method in asking(self.optimizer) if self.optimizer is not None else ():
            method.attach(self)
        if ghost_batch_size is not None:
            check_count("ghost_batch_size", ghost_batch_size)
            check_mean(self.loss)
            check_alone(self, ghost_batch_size)
        self.ghost_batch_size = ghost_batch_size

    def fit(self, x=None, y=None, batch_size=None, *args, **kwargs):
        """Train the model, as `keras.Model.fit` does; what it refuses, `evaluate` refuses, too.

        Args:
            x: As for `keras.Model.fit`.
            y: As for `keras.Model.fit`.
            batch_size: As for `keras.Model.fit`.
            *args: As for `keras.Model.fit`.
            **kwargs: As for `keras.Model.fit`.

        Raises:
            ValueError: If `batch_size` is 0, a NumPy array is empty, or NumPy labels for sparse
                categorical crossentropy, those of `validation_data` too, are fractions or lie
                outside of the classes of a functional or built model. (There, elsewhere, Keras'
                loss is NaN on GPUs and under XLA, and plausible on JAX. A NaN among the inputs ends
                in a NaN loss, at which `keras.callbacks.TerminateOnNaN` stops.)
        """
        examine("fit", self, x, y, batch_size, *args, **kwargs)
        try:
            return super().fit(x, y, batch_size, *args, **kwargs)
        finally:
            if self._watcher is not None:
                self.watch(None)

    def watch(self, watcher):
        """Have a callback see the norms of the gradients of each step, until `fit` ends.

        Args:
            watcher: It has `variables` and `seen`, as `keras_smoothout.GradientNoiseScale`; or
                `None` for none. Steps are traced again.
        """
        vars(self)["_watcher"] = watcher  # Not tracked: its variables are none of the model.
        self.train_function = self.test_function = None

    def make_train_function(self, force=False):
        had = self.train_function
        super().make_train_function(force)
        if self._asks and self.train_function is not had:
            self.train_function = train_step.built_first(self, self.train_function)

    def train_step(self, *given):
        self._reached = True
        if self._asks:
            self._check_base()
            train_step.build(self, given[-1])
        if not (self._asks and self.trainable_variables):
            return train_step.plain(self, super().train_step, *given)
        self._check_step(given[-1])
        return train_step.train(self, *given)

    def test_step(self, *given):
        return train_step.test(self, super().test_step, *given)

    def predict_step(self, *given):
        return train_step.predict(self, super().predict_step, *given)

    def train_on_batch(self, *args, **kwargs):
        examine("train_on_batch", self, *args, **kwargs)
        return super().train_on_batch(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        examine("evaluate", self, *args, **kwargs)
        with train_step.at_evaluation_weights(self), train_step.undone(self):
            return super().evaluate(*args, **kwargs)

    def predict(self, *args, **kwargs):
        with train_step.at_evaluation_weights(self):
            return super().predict(*args, **kwargs)

    def test_on_batch(self, *args, **kwargs):
        examine("test_on_batch", self, *args, **kwargs)
        with train_step.at_evaluation_weights(self):
            return super().test_on_batch(*args, **kwargs)

    def predict_on_batch(self, *args, **kwargs):
        with train_step.at_evaluation_weights(self):
            return super().predict_on_batch(*args, **kwargs)

    @property
    def metrics_variables(self):
        return [*super().metrics_variables, *getattr(self._watcher, "variables", ())]

    @property
    def _asks(self):
        """Whether gradients are asked for by us: by a method, or ghost batch by ghost batch."""
        asked = self.ghost_batch_size is not None or self._watcher is not None
        return asked or self.optimizer is not None and bool(asking(self.optimizer))

    def _check_base(self):
        """Raise if a base class has a train step of its own, which ours would skip."""
        order = type(self).__mro__
        bases = order[order.index(TrainStep) + 1 : order.index(keras.Model)]
        skipped = [base.__name__ for base in bases if "train_step" in vars(base)]
        if skipped:
            raise ValueError(
                f"`{skipped[0]}.train_step` would be skipped: methods and ghost batches come "
                "with a train step of their own. Write what it does as `compute_loss`, or use an "
                f"optimizer of Keras. Received: a {type(self).__name__}"
            )

    def _check_step(self, data):
        """Raise if the optimizer knows other variables, or there is nothing to learn from."""
        optimizer, ours = self.optimizer, self.trainable_variables
        known = keras_internals.trainable_variables(
            getattr(optimizer, "inner_optimizer", optimizer)
        )
        if [id(v) for v in ours] != [id(v) for v in known]:
            shared = len({id(v) for v in ours} & {id(v) for v in known})
            raise ValueError(
                "An optimizer is for one model, and for the layers that were trainable when it was "
                "built. Call `compile` again with a new one. Received: an optimizer built with "
                f"{len(known)} variables, of which the model trains {shared} and {len(ours)} in all"
            )
        if isinstance(length(data), int) and length(data) == 0:
            raise ValueError("A batch must hold examples. Received: an empty batch")
        for layer in keras_internals.layers(self) if self.ghost_batch_size == 1 else ():
            if isinstance(layer, layers.BatchNormalization) and layer.trainable:
                check_ghosts(1, layer, layer.get_build_config()["input_shape"])


def calling_ours(own):
    """`own`, a train step in a class before `TrainStep`, which must come to ours by `super()`."""

    @functools.wraps(own)
    def train_step(self, *args, **kwargs):
        self._reached = False
        result = own(self, *args, **kwargs)
        if self._asks and not self._reached:
            raise ValueError(
                "Methods and ghost batches come with a train step of their own: call "
                "`super().train_step` in yours, or write what it does as `compute_loss`. Received: "
                f"`{own.__qualname__}`, which does not call it"
            )
        return result

    return train_step


@keras.saving.register_keras_serializable("keras_smoothout")
class Model(TrainStep, keras.Model):
    """`keras.Model` whose optimizer may ask for gradients: `Model(inputs, outputs)` or a subclass.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> inputs = keras.Input((4,))
        >>> model = ks.Model(inputs, keras.layers.Dense(1)(inputs))
        >>> model.compile(ks.SmoothOut("sgd", radius=0.01), "mse", ghost_batch_size=8)
        >>> history = model.fit(np.ones((32, 4)), np.ones((32, 1)), batch_size=32, verbose=0)
    """

    def __new__(cls, *args, **kwargs):
        if cls is Model and (len(args) == 2 or "outputs" in kwargs):
            return super().__new__(FunctionalModel)
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        if len(args) == 2 or "outputs" in kwargs:
            functional(type(self))
        super().__init__(*args, **kwargs)


@keras.saving.register_keras_serializable("keras_smoothout")
class FunctionalModel(Model, Functional):
    """What `Model(inputs, outputs)` makes; with it, `Model` itself stays open to subclassing."""


def functional(cls):
    """Put `FunctionalModel` in the place of `Model` among the bases of `cls`.

    Keras puts its own class in the place of `keras.Model`, which would change `Model` for all.
    """
    if cls is Model:
        return FunctionalModel
    if issubclass(cls, Model) and not issubclass(cls, Functional):
        cls.__bases__ = tuple(map(functional, cls.__bases__))
    return cls
