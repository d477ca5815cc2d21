"""A model and a batch as a pure function of the weights: `evaluate(weights) -> Evaluation`."""

import contextlib
from typing import NamedTuple

import keras
from keras import ops

from keras_smoothout import backend, keras_internals
from keras_smoothout.checks import check_loss
from keras_smoothout.weights import lerp


class Evaluation(NamedTuple):
    """What one forward and backward pass gives.

    Attributes:
        loss: Scalar, mean loss of the batch, regularizers included.
        grads: List of tensors, the gradient of `loss` for each weight.
        outputs: What the model returned for the batch.
        state: List of tensors, the model's non-trainable variables and metrics after the pass.
        connected: List of booleans, whether the loss uses each weight, or `None` if all are used.
            JAX cannot tell.
        weights: List of tensors, the weights of the pass, or `None` if they are not known.
        extras: Dictionary from a method to the list of tensors that it hands on from `gradients` to
            `update`, averaged over ghost batches and replicas as `grads` are.
    """

    loss: object
    grads: list
    outputs: object
    state: list
    connected: list | None = None
    weights: list | None = None
    extras: dict = {}

    @property
    def means(self):
        """What is averaged over ghost batches: gradients and extras, a list of tensors."""
        return [*self.grads, *(tensor for handed in self.extras.values() for tensor in handed)]

    def of(self, means):
        """This evaluation with other `means`."""
        rest = iter(means)
        grads = [next(rest) for _ in self.grads]
        extras = {m: [next(rest) for _ in handed] for m, handed in self.extras.items()}
        return Evaluation(self.loss, grads, *self[2:-1], extras)


class Step(NamedTuple):
    """Where in a training run a gradient is asked for.

    Attributes:
        iteration: Number of steps before this one; under gradient accumulation, several of them
            make one update.
        replica: Index of the replica, 0 on one device.
        chunk: Index of the ghost batch within the replica's batch.
    """

    iteration: object
    replica: object = 0
    chunk: object = 0


def present(data):
    """The arrays of a nest, in order: an optional input that is not given is `None`."""
    return [array for array in keras.tree.flatten(data) if array is not None]


def length(data):
    """Number of examples in a batch: an integer, or a tensor while it is not known."""
    return ops.shape(present(data)[0])[0]


def rows_of(data, rows):
    """The examples `rows`, a slice, of each array of a nest."""
    return keras.tree.map_structure(lambda x: x if x is None else x[rows], data)


def sync(model):
    """Put into the variables of `model` what `fit` on JAX holds of them elsewhere."""
    getattr(model, "jax_state_sync", lambda: None)()


def state_variables(model):
    """Everything that a training step of `model` can change in addition to its weights."""
    return [*model.non_trainable_variables, *remembered(model), *model.metrics_variables]


def remembered(model):
    """The states that stateful recurrent layers keep from batch to batch."""
    found = keras_internals.layers(model)
    recurrent = [x for x in found if isinstance(x, keras.layers.RNN) and x.stateful]
    return keras.tree.flatten([layer.states for layer in recurrent])


@contextlib.contextmanager
def at(model, weights, state):
    """Have `model` be at `weights` and `state`: what it computes, or assigns, stays inside.

    Args:
        model: A built `keras.Model`.
        weights: List of tensors, one for each trainable variable.
        state: List of tensors for the first of `state_variables(model)`: all of them, or those of
            the non-trainable variables.

    Yields:
        A `keras.StatelessScope`, whose `get_current_value(variable)` has what was assigned.
    """
    variables = state_variables(model)[: len(state)]
    mapping = [
        *zip(model.trainable_variables, weights, strict=True),
        *zip(variables, state, strict=True),
    ]
    with keras.StatelessScope(mapping, collect_losses=True, initialize_variables=False) as scope:
        yield scope


class Batch:
    """One batch as `evaluate(weights)`: call it with weights, get an `Evaluation` at these weights.

    Nothing is assigned. Every call starts from the same `state`, so two calls see the same dropout
    masks and each of them updates BatchNormalization's statistics once, in its own `state`.

    Args:
        model: A built and compiled Keras model.
        data: What the model's `train_step` receives: `x`, `(x, y)` or `(x, y, sample_weight)`.
        state: List of tensors, the values of `state_variables(model)` before the pass.
        loss_scale: Factor on the loss during the backward pass, for float16.
    """

    def __init__(self, model, data, state, loss_scale=1.0):
        self.model = model
        self.x, self.y, self.sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self.state = state
        self.loss_scale = loss_scale

    def __call__(self, weights):
        differentiate = backend.value_and_grad(self._loss)
        (_, (loss, outputs, state)), grads, connected = differentiate(weights)
        if not isinstance(self.loss_scale, float) or self.loss_scale != 1.0:
            grads = [g / ops.cast(self.loss_scale, g.dtype) for g in grads]
        return Evaluation(loss, grads, outputs, state, connected, weights)

    def loss(self, weights):
        """The loss alone, by a forward pass."""
        _, (loss, _, _) = self._loss(weights)
        return loss

    def _loss(self, weights):
        model = self.model
        with at(model, weights, self.state) as scope:
            before = [scope.get_current_value(v) for v in model.trainable_variables]
            outputs = model(self.x, training=True)
            check_loss(model)
            after = map(scope.get_current_value, model.trainable_variables)
            assigned = [new is not old for new, old in zip(after, before, strict=True)]
            self._check_kept(assigned)
            loss = model.compute_loss(self.x, self.y, outputs, self.sample_weight)
        return loss * self.loss_scale, (loss, outputs, self._values(scope))

    def _check_kept(self, assigned):
        """Raise if values that layers have assigned to their trainable weights would be lost."""
        if any(assigned) and backend.KEEPS_ASSIGNED:
            variables = zip(self.model.trainable_variables, assigned, strict=True)
            names = [variable.path for variable, is_new in variables if is_new]
            raise ValueError(
                "A layer assigns one of its trainable weights when it is called. Keras' own step "
                "keeps the value; here, where gradients are asked for at other weights, it would "
                "be lost. Use a constraint, as in `kernel_constraint`, or a callback. Received: an "
                f"update of {', '.join(names)}"
            )

    def metrics(self, evaluation, weights):
        """`evaluation.state` after the model's loss and metrics have seen this batch."""
        model = self.model
        size = length(self.x)
        with at(model, weights, evaluation.state) as scope:
            keras_internals.loss_tracker(model).update_state(
                backend.unscale_loss(evaluation.loss), sample_weight=size
            )
            model.compute_metrics(self.x, self.y, evaluation.outputs, self.sample_weight)
        return self._values(scope)

    def _values(self, scope):
        model = self.model
        known = [
            *state_variables(model),
            *model.trainable_variables,
            *keras_internals.loss_tracker(model).variables,
        ]
        if scope.state_mapping.keys() - set(map(id, known)):
            raise ValueError(
                "Something in the model changes a variable that is not the model's, and the change "
                "would be lost. A layer that draws numbers must hold a "
                "`keras.random.SeedGenerator`, and pass it as `seed`. Received: an update of a "
                "variable outside of the model, such as the global random seed"
            )
        return [scope.get_current_value(v) for v in state_variables(model)]


def mean_over_chunks(on_chunk, like, state, data, size):
    """Mean over chunks of `size` examples of `data`, and the state after the last of them.

    Args:
        on_chunk: Function from `(state, data, index)` to the chunk's tensors, such as its
            gradients, and the next state.
        like: List of tensors, shaped as those of a chunk.
        state: List of tensors, the state before the first chunk.
        data: Nested structure of tensors whose first axes are the batch.
        size: Number of examples in a chunk; the last chunk holds the remainder. `None` for one.
    """
    batch = length(data)
    if size is None or isinstance(batch, int) and batch <= size:
        return on_chunk(state, data, 0)
    full = batch // size

    def add_chunk(carry, index, data):
        mean, state = carry
        tensors, state = on_chunk(state, data, index)
        count = ops.cast(length(data), "float32")
        seen = ops.cast(index * size, "float32") + count
        return lerp(mean, tensors, count / seen), state

    carry = [ops.zeros_like(t) for t in like], state
    whole = rows_of(data, slice(full * size))

    def stacked(x):
        return backend.spread(ops.reshape(x, (full, size, *ops.shape(x)[1:])))

    chunks = keras.tree.map_structure(lambda x: x if x is None else stacked(x), whole)
    carry = backend.scan(lambda carry, x: add_chunk(carry, *x), carry, (ops.arange(full), chunks))
    rest = rows_of(data, slice(full * size, None))
    if isinstance(batch, int):
        return add_chunk(carry, full, rest) if batch % size else carry
    return backend.cond(batch % size > 0, lambda: add_chunk(carry, full, rest), lambda: carry)
