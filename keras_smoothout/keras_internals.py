"""The private names of Keras that this package relies on, and nothing else.

Each entry says why it is needed, in which version it was last seen, and until when. No other file
of the package uses a private name of Keras; `tests/seam/test_imports.py` keeps it so.
"""

import contextlib

import keras
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.backend.common import global_state
from keras.src.models import functional
from keras.src.utils import python_utils, tracking

# Why: `Model(inputs, outputs)` must be one, and Keras exports the class under no public name.
# Seen: 3.15.1. Until: `keras.models.Functional` exists.
Functional = functional.Functional

# Why: a loss leaves out masked steps, also of outputs that are cut or joined.
# Seen: 3.15.1. Until: Keras reads and sets masks under public names.
mask_of, set_mask = get_keras_mask, set_keras_mask

# Why: `evaluate` inside `fit` is given what `fit` was, in each epoch, and says so by this argument.
# Seen: 3.15.1. Until: validation in `fit` does not go through `evaluate`.
EXAMINED = "_use_cached_eval_dataset"


def calls(optimizer):
    """The variable that counts the calls of `optimizer.apply`.

    Why: `iterations` stands still while gradients accumulate, and noise must not.
    Seen: 3.15.1. Until: Keras counts calls under a public name.
    """
    return optimizer._iterations


def trainable_variables(optimizer):
    """The variables that `optimizer` was built with.

    Why: an optimizer built for one model must not silently be used for another.
    Seen: 3.15.1. Until: Keras' optimizers say what they were built with.
    """
    return optimizer._trainable_variables


def own_variables(optimizer):
    """The variables of `optimizer`, without those of the optimizer inside it.

    Why: an optimizer around another lists both under `variables`.
    Seen: 3.15.1. Until: never; this is how Keras' `LossScaleOptimizer` does it.
    """
    return optimizer._variables


def learning_rate(optimizer):
    """The learning rate of `optimizer` as it was given: a variable, a schedule or a callable.

    Why: the public property evaluates the schedule.
    Seen: 3.15.1. Until: the schedule has a public name.
    """
    return optimizer._learning_rate


def index(optimizer, variable):
    """The position of `variable` among those that `optimizer` was built with.

    Why: `update_step` is given one variable at a time; Keras' own guide for optimizers uses it.
    Seen: 3.15.1. Until: `update_step` is given the position.
    """
    return optimizer._get_variable_index(variable)


def check_known(optimizer, variables):
    """Raise unless `optimizer` was built with `variables`.

    Why: an optimizer around a built one must refuse other variables with Keras' message.
    Seen: 3.15.1. Until: `build` refuses them itself.
    """
    optimizer._check_variables_are_known(variables)


@tracking.no_automatic_dependency_tracking  # Else the weights would be the optimizer's variables.
def set_built(optimizer, variables, inside):
    """Make `variables` known to `optimizer`, with the averages that the one `inside` keeps.

    Why: Keras' `build` would add averages and accumulators, which belong to the innermost optimizer
    alone; and `keras.callbacks.SwapEMAWeights` looks for the averages in the outermost one.
    Seen: 3.15.1. Until: averages and accumulators have public names.
    """
    optimizer._trainable_variables = list(variables)
    keys = map(optimizer._var_key, variables)
    optimizer._trainable_variables_indices = {key: i for i, key in enumerate(keys)}
    optimizer.built = True
    if (averages := getattr(inside, "_model_variables_moving_average", None)) is not None:
        optimizer._model_variables_moving_average = averages


def accumulated(optimizer):
    """The sums of gradients that `optimizer` has accumulated since its last update.

    Why: a method's own moments use the gradient of a whole update.
    Seen: 3.15.1. Until: the accumulators have a public name.
    """
    return optimizer._accumulated_gradients


def layers(model):
    """All layers of `model`, at any depth, without `model` itself.

    Why: `model.layers` ends at the first nested layer.
    Seen: 3.15.1. Until: Keras walks layers under a public name.
    """
    return model._flatten_layers(include_self=False)


def nodes(model):
    """The calls of operations that make a functional `model`, each after those it depends on.

    Why: permutations and scales of units follow from which layer feeds which.
    Seen: 3.15.1. Until: Keras walks the graph of a model under a public name.
    """
    return [node for _, at in sorted(model._nodes_by_depth.items(), reverse=True) for node in at]


def loss_tracker(model):
    """The metric that averages the loss of `model`.

    Why: our own step must log the loss as Keras' step does.
    Seen: 3.15.1. Until: it has a public name.
    """
    return model._loss_tracker


def build_by(model, batch):
    """Build `model`, its compiled loss, its metrics and its optimizer for `batch`, or its types.

    Why: a first `train_on_batch` or traced step would create variables inside a loop.
    Seen: 3.15.1. Until: `compile` or `build` does it.
    """
    batch = keras.tree.map_structure(lambda v: v if hasattr(v, "dtype") else None, batch)
    model._symbolic_build(data_batch=batch)  # An optional input that is not there has no type.


@contextlib.contextmanager
def unreduced(optimizer):
    """Have `optimizer` apply gradients that are no replica's share, on TensorFlow.

    Why: it would sum them over the one replica, and TensorFlow keeps the graph of every sum.
    Seen: 3.15.1 on TensorFlow 2.21. Until: either lets go of the graph.
    """
    vars(optimizer)["_all_reduce_sum_gradients"] = list
    try:
        yield
    finally:
        del vars(optimizer)["_all_reduce_sum_gradients"]


def under_strategy(model):
    """Whether `model` was made in the scope of a `tf.distribute` strategy.

    Why: there `fit` has built the model before the step is traced.
    Seen: 3.15.1. Until: `build_by` is not needed.
    """
    return getattr(model, "_distribute_strategy", None) is not None  # JAX has none.


def emptied(variable):
    """Whether `variable` has lost its value, as on JAX while `fit` holds the values of a model.

    Why: an error in the first step leaves it so.
    Seen: 3.15.1. Until: `fit` restores the values itself.
    """
    return variable._value is None


def begin_at(model, epoch):
    """Have the `fit` that is about to begin its epochs begin with this one; `None` undoes it.

    Why: a training that is resumed knows the epoch only when its callbacks have begun.
    Seen: 3.15.1, where `keras.callbacks.BackupAndRestore` does it. Until: it has a public name.
    """
    model._initial_epoch = epoch


def many_workers(model):
    """Whether several processes train `model` under a `tf.distribute` strategy.

    Why: `tf.distribute` says so under no public name, nor does Keras.
    Seen: 3.15.1 on TensorFlow 2.21. Until: either does.
    """
    strategy = getattr(model, "_distribute_strategy", None)
    return strategy is not None and getattr(strategy.extended, "_num_workers", 1) > 1


def writes_hdf5():
    """Whether a whole model is being written in Keras' older format, or read from it.

    Why: it leaves out what `get_compile_config` says, and `save_model` does not call `Model.save`.
    Seen: 3.15.1. Until: Keras drops the format.
    """
    return bool(global_state.get_global_attribute("use_legacy_config"))


# Why: a class whose `get_config` is not marked by it must name the arguments of its constructor.
# Seen: 3.15.1. Until: `get_config` of a mixin can leave them to Keras.
default_config = python_utils.default


class LocalBatch:
    """Mixin: `fit` learns the shapes of a batch from this worker's part of it.

    Why: with `MultiWorkerMirroredStrategy` Keras averages a batch over workers to learn its shapes,
    which fails (keras-team/keras#20585).
    Seen: 3.15.1. Until: that issue is closed.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if many_workers(self) and iterator is not None:
            batch, iterator = next(next(iter(iterator))[2]), None
            local = self.distribute_strategy.experimental_local_results
            data_batch = keras.tree.map_structure(lambda v: local(v)[0], batch)
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)


class JaxState:
    """Mixin: tells, by `state_is_whole`, when the model holds all that a step on JAX has made.

    Why: between giving memory away and here an interrupt loses all weights, and here it does not.
    Seen: 3.15.1. Until: Keras keeps its weights whole under Ctrl-C.
    """

    @property
    def _jax_state(self):
        return vars(self).get("_held_state")

    @_jax_state.setter
    def _jax_state(self, state):
        vars(self)["_held_state"] = state  # Not tracked: these are no weights of the model.
        if state is not None:
            self.state_is_whole()

    def _purge_model_variables(self, **which):
        self.state_is_given()
        super()._purge_model_variables(**which)

    def state_is_given(self):
        """Called when a step is about to take the values of the model's variables."""

    def state_is_whole(self):
        """Called after each step."""
