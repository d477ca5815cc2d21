"""The mean loss of a model over a data set as a function of its weights: `Objective`."""

import contextlib
import functools

import keras
import numpy as np
from keras import ops

from keras_smoothout import backend
from keras_smoothout.checks import check_choice, check_count, check_model
from keras_smoothout.evaluation import at
from keras_smoothout.landscape.criterion import MaskedLike, build_loss, error_of, loss_of
from keras_smoothout.landscape.data import Batches, count
from keras_smoothout.landscape.symmetry import check_symmetry
from keras_smoothout.moving_statistics import batch_norms, recent_statistics
from keras_smoothout.weights import add

BATCH_NORMS = ("evaluation", "training")


class Objective:
    """Mean loss of a model over a data set as a function of its weights; the model never changes.

        loss(w) = sum over batches b of n_b * loss_b(w) / sum over b of n_b

    `loss_b` is the mean over the `n_b` examples of a batch, regularizers and `add_loss` included.
    All methods are pure functions of the weights: nothing is assigned, so an interrupt has nothing
    to restore. Dropout is off. Each method is compiled once, and holds one batch in memory.

    Args:
        model: A built `keras.Model`. Under mixed_float16 the loss is not scaled here.
        x: Array of inputs, or a nest of arrays. Or, without `y`, batches that can be read more than
            once: a `tf.data.Dataset`, `keras.utils.PyDataset` or a list, of `(x,)`, `(x, y)` or
            `(x, y, sample_weight)`.
        y: Targets, array or nest of arrays.
        sample_weight: Weights of the examples. As in Keras, the loss is divided by the number of
            examples, not by the sum of their weights.
        batch_size: Number of examples in a batch, if `x` is an array. With masks or ignored classes
            the loss depends on it: Keras' `loss_b` is the mean over what counts in the batch.
            Defaults to `500`.
        batch_norm: What BatchNormalization normalizes by: `"evaluation"`, the moving statistics in
            `state`, or `"training"`, the statistics of each batch, where layers are not frozen. The
            latter makes the loss depend on how the data is cut into batches. Defaults to
            `"evaluation"`.
        loss: Keras loss, its name, or `None` for the compiled one. Defaults to `None`.
        progress: Whether to show a progress bar that counts batches. Defaults to `False`.

    Attributes:
        weights: List of arrays, the model's trainable weights when this was made.
        state: List of arrays, its non-trainable variables then, including moving statistics. Every
            method uses them; assign others to use other statistics.
        size: Number of trainable parameters.
        examples: Number of examples.

    Raises:
        ValueError: If the model is not built, or has no trainable weights or no loss that is a
            mean; if the data is empty, endless or of unequal lengths, or labels are no classes.

    Example:
        >>> import keras, numpy as np
        >>> from keras_smoothout.landscape import Objective
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(loss="mse")
        >>> objective = Objective(model, np.array([[1.0], [3.0]]), np.array([[2.0], [6.0]]))
        >>> objective.loss([np.array([[1.0]])])  # Mean of (1 - 2)**2 and (3 - 6)**2.
        5.0
        >>> float(objective.hvp(objective.weights, [np.array([[1.0]])])[0][0, 0])
        10.0
    """

    def __init__(
        self,
        model,
        x,
        y=None,
        sample_weight=None,
        *,
        batch_size=500,
        batch_norm="evaluation",
        loss=None,
        progress=False,
    ):
        check_count("batch_size", batch_size)
        check_choice("batch_norm", batch_norm, BATCH_NORMS)
        check_model(model)
        self.model = model
        self.batch_norm = batch_norm
        self._loss_of = loss_of(model, loss)
        self._error_of = error_of(model.loss if loss is None else loss)
        self._data = Batches(model, x, y, sample_weight, batch_size, loss)
        self._bar = keras.utils.Progbar(None, unit_name="batch") if progress else None
        self._dtype = "float64" if model.variable_dtype == "float64" else "float32"
        self._functions, self._symmetric = {}, set()
        self.weights = [np.array(ops.convert_to_numpy(v)) for v in model.trainable_variables]
        self.state = [np.array(ops.convert_to_numpy(v)) for v in model.non_trainable_variables]
        self.size = sum(w.size for w in self.weights)
        if loss is None:
            build_loss(model, next(self.batches()))

    @property
    def examples(self):
        """Number of examples in the data set."""
        return self._data.examples

    def batches(self):
        """Iterate over the batches: tuples `(x, y, sample_weight)`."""
        for batch in self._data:
            yield batch
            if self._bar is not None:
                self._bar.add(1)

    def loss(self, weights):
        """Mean loss at `weights`, a float."""
        (loss,) = self._mean(self._loss, 1, (), weights)
        return float(loss)

    def evaluate(self, weights):
        """Mean loss and error at `weights`, two floats.

        The error is the share of wrong predictions if there is a single output and the loss is one
        of Keras' cross-entropies, focal cross-entropies or the categorical hinge; else it is nan.
        As in the loss, masked steps and labels of `ignore_class` do not count.
        """
        loss, error = self._mean(self._loss_and_error, 2, (), weights)
        return float(loss), float(error)

    def loss_and_gradient(self, weights, batch=None):
        """Mean loss at `weights` and its gradient, over the data or one of its `batches()`."""
        loss, *gradient = self._mean(self._gradient, 1, self.weights, weights, batch=batch)
        return float(loss), gradient

    def hvp(self, weights, vector, batch=None):
        """Hessian of the mean loss at `weights` times `vector`: a list like `weights`."""
        return self._product(self._hessian, weights, vector, batch)

    def gauss_newton_product(self, weights, vector, batch=None):
        """Generalized Gauss-Newton matrix at `weights` times `vector`: a list like `weights`.

            G = mean over examples of J' H J + Hessian of the model's own losses

        `J` is the Jacobian of the model's outputs, `H` the Hessian of the loss with respect to
        them. Losses that the model adds itself, by regularizers of weights or activities or by
        `add_loss`, enter with their full Hessian. So `G` differs from the Hessian of the objective
        only in the term with second derivatives of the outputs. With logits as outputs
        (`from_logits=True`) and a cross-entropy, `G` is the Fisher matrix; if the softmax is part
        of the model, it is not.
        """
        return self._product(self._gauss_newton, weights, vector, batch)

    def flatten(self, arrays):
        """One float64 vector of all numbers in `arrays`, a list like `weights`."""
        return np.concatenate([np.ravel(np.asarray(a)).astype("float64") for a in arrays])

    def unflatten(self, vector):
        """List like `weights`, in their shapes and dtypes, of the numbers in `vector`."""
        vector = np.asarray(vector)
        if vector.shape != (self.size,):
            expected = f"`vector` must have the shape ({self.size},)"
            raise ValueError(f"{expected}. Received: shape {vector.shape}")
        ends = np.cumsum([w.size for w in self.weights])[:-1]
        pairs = zip(np.split(vector, ends), self.weights, strict=True)
        return [np.reshape(p, w.shape).astype(w.dtype) for p, w in pairs]

    def tensors(self, arrays):
        """Tensors of `arrays`, a list like `weights`, in the dtypes of `weights`."""
        shapes, expected = ([tuple(np.shape(a)) for a in b] for b in (arrays, self.weights))
        if shapes != expected:
            raise ValueError(
                f"Weights and vectors must be lists of arrays of shapes {expected}. "
                f"Received: shapes {shapes}"
            )
        pairs = zip(arrays, self.weights, strict=True)
        return [ops.convert_to_tensor(a, dtype=str(w.dtype)) for a, w in pairs]

    def _product(self, function, weights, vector, batch):
        """Product with a matrix, once it has been found symmetric on one batch."""
        product = functools.partial(self._mean, function, 0, self.weights)
        if function.__name__ not in self._symmetric:
            one = next(iter(self._data)) if batch is None else batch
            check_symmetry(lambda w, v: product(w, v, batch=one), self.tensors(weights), self.model)
            self._symmetric.add(function.__name__)
        return product(weights, vector, batch=batch)

    def _mean(self, function, scalars, like, *points, batch=None):
        """Mean of `function(*points, state, batch)`, `scalars` scalars and arrays like `like`."""
        points = [self.tensors(p) for p in points]
        state = [ops.convert_to_tensor(s) for s in self.state]
        total = [np.zeros((), self._dtype)] * scalars + [np.zeros_like(a) for a in like]
        add, seen = self._adding(function), 0
        for data in self.batches() if batch is None else [batch]:
            total = add(total, np.float32(count(data)), *points, state, data)
            seen += count(data)
        return [t / t.dtype.type(seen) for t in map(ops.convert_to_numpy, total)]

    def _adding(self, function):
        """`(total, factor, ...) -> total + factor * function(...)`, compiled once."""

        def accumulate(total, factor, *given):
            pairs = zip(total, function(*given), strict=True)
            return [t + ops.cast(factor, t.dtype) * ops.cast(new, t.dtype) for t, new in pairs]

        return self._functions.setdefault(function.__name__, backend.compiled(accumulate))

    def _pass(self, weights, state, data, outputs=None):
        """The model's outputs, unless given; its loss on them; the list of its own losses."""
        x, y, sample_weight = data
        model = self.model
        with contextlib.ExitStack() as stack:
            if self.batch_norm == "training":
                stack.enter_context(recent_statistics(batch_norms(model)))
            stack.enter_context(at(model, weights, state))
            if outputs is None:
                outputs = model(x, training=False)
            return outputs, self._loss_of(x, y, outputs, sample_weight), model.losses

    def _loss(self, *given):
        return [self._pass(*given)[1]]

    def _loss_and_error(self, weights, state, data):
        outputs, loss, _ = self._pass(weights, state, data)
        return [loss, self._error_of(data[1], outputs)]

    def _gradient(self, weights, *given):
        differentiate = backend.value_and_grad(lambda w: (self._pass(w, *given)[1], None))
        (loss, _), gradient, _ = differentiate(weights)
        return [loss, *gradient]

    def _hessian(self, weights, vector, *given):
        return backend.hessian_product(lambda w: self._pass(w, *given)[1], weights, vector)

    def _gauss_newton(self, weights, vector, *given):
        like, _, own_losses = self._pass(weights, *given)

        def outputs_at(weights):
            return keras.tree.flatten(self._pass(weights, *given)[0])

        def loss_on(outputs):
            outputs = MaskedLike()(like, keras.tree.pack_sequence_as(like, outputs))
            return self._pass(weights, *given, outputs)[1]

        outputs, pushforward, pullback = backend.linearize(outputs_at, weights)
        curved = backend.hessian_product(loss_on, outputs, pushforward(vector))
        product = pullback(curved)
        if not own_losses:
            return product
        own = backend.hessian_product(
            lambda w: sum(map(ops.sum, self._pass(w, *given)[2])), weights, vector
        )
        return add(product, 1.0, own)
