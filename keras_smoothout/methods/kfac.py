"""K-FAC: natural gradient descent, with the Fisher matrix of each layer as two small factors.

The Fisher matrix says how far a step moves the model's predictions. For a layer that multiplies
rows by a matrix, it is about the Kronecker product of two matrices: one of the rows, one of the
gradients at the outputs. Its inverse is the product of their inverses.
"""

import weakref

import keras
from keras import ops

from keras_smoothout import backend
from keras_smoothout.asks import batch_of, now_and_then
from keras_smoothout.checks import (
    check_count,
    check_integer,
    check_names,
    check_number,
    check_share,
    check_strength,
    check_switch,
)
from keras_smoothout.fisher import factors, likelihood
from keras_smoothout.kronecker import blocks_of
from keras_smoothout.kronecker_inverse import inverses, solve, within
from keras_smoothout.method import Method, included
from keras_smoothout.weights import chosen, dot, lerp, scale


@keras.saving.register_keras_serializable("keras_smoothout")
class KFAC(Method):
    """Descend the gradient times the inverse of the Fisher matrix, layer by layer.

        A = decay * A + (1 - decay) * mean of a a^T         a: inputs of the layer, and a 1
        G = decay * G + (1 - decay) * mean of d d^T         d: gradients at its outputs
        P = (A + pi * sqrt(damping))^-1 g (G + sqrt(damping) / pi)^-1      g = [kernel; bias]
        w = inner_update(w, P * min(1, sqrt(norm_constraint / (learning_rate^2 <P, g>))))

    `pi` is the root of the mean eigenvalue of A over that of G. The averages start at 0 and are
    debiased. Layers are Dense, EinsumDense that multiplies by a matrix, and Conv1D, 2D and 3D
    without groups, at any depth; all uses of a shared layer count. All other weights have their
    plain gradient. With the bias in A, it makes no difference which affine map inputs went through,
    but for damping. Momentum is the inner optimizer's.

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name; SGD with
            momentum in the paper.
        damping: What is added to the eigenvalues of the Fisher matrix, in units of the loss over
            squared weights: steps are shorter where it is large. A float or a
            `LearningRateSchedule` of the update; 0 only where all factors can be inverted.
            Defaults to `0.01`.
        decay: Of the averages, for each update that measures, in [0, 1). Defaults to `0.95`.
        curvature_period: Number of updates from one that measures the factors to the next. Defaults
            to `10`.
        inverse_period: Number of updates from one that inverts them to the next. Defaults to `10`.
        sampled: Whether labels are drawn from the model's own predictions, for the Fisher matrix.
            If not, they are those of the data: the empirical one, which vanishes with the loss. The
            loss is then any. Defaults to `True`.
        norm_constraint: Largest squared norm of a step of these layers, by the damped Fisher
            matrix, in units of the loss and before momentum; or `None`. Without it, factors that
            are some updates old can have training diverge. It suits crossentropy; squared errors of
            large targets need more, or none. Defaults to `0.01`.
        exclude: Names of weights or layers that have their plain gradient. Defaults to `()`.
        seed: Integer, of the labels. Defaults to `0`.

    Raises:
        ValueError: If an argument is out of its range; in `build`, if no layer is left, or the loss
            is no mean of squared errors or of crossentropies (softmax or sigmoid), and
            `sampled=True`.
        RuntimeError: If the model does not have our train step.

    Reduces to: `inner` when `exclude` names all layers.
    Cost: 1 gradient per step. Every `curvature_period` updates, one more pass over the batch and
        the products of rows; every `inverse_period`, two inverses for each layer. Keeps four
        matrices for each layer: two as wide as its rows, two as its outputs. A step multiplies them
        by the gradient, which takes as long as a gradient where the batch is half as large as the
        layer is wide. Replicas sum up the factors in each step, and the gradient once more; with
        synchronized BatchNormalization, they take the pass over the batch in each step, too.
    Differs from the paper: damping and momentum do not adapt to the loss. The split of the damping
        by traces and the constraint are those of public implementations; the papers were not
        checked. Of a convolution, A is a
        mean over places and G a sum; only their product matters. Ghost batches and replicas draw
        labels of their own. An example of weight v counts v times in G and once in A; with
        `sampled=False`, its gradient is v times as long. Padding counts in A.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> optimizer = ks.KFAC(keras.optimizers.SGD(0.5), damping=1e-3, norm_constraint=None)
        >>> model.compile(optimizer, "mse")
        >>> x = 100 + np.random.default_rng(0).normal(size=(64, 2))  # SGD would need 0.00004.
        >>> history = model.fit(x, x @ [[1.0], [2.0]], batch_size=64, epochs=20, verbose=0)
        >>> history.history["loss"][-1] < 0.1
        True

    Reference: Martens and Grosse, *Optimizing Neural Networks with Kronecker-factored Approximate
        Curvature*, ICML 2015, arXiv:1503.05671, Sections 3 and 6.3; for convolutions, Grosse and
        Martens, ICML 2016, arXiv:1602.01407.
    """

    own_gradient = True
    known_model = None

    def __init__(
        self,
        inner,
        damping=0.01,
        decay=0.95,
        curvature_period=10,
        inverse_period=10,
        sampled=True,
        norm_constraint=0.01,
        exclude=(),
        seed=0,
        **kwargs,
    ):
        check_strength("damping", damping)
        check_share("decay", decay)
        check_count("curvature_period", curvature_period)
        check_count("inverse_period", inverse_period)
        check_switch("sampled", sampled)
        if norm_constraint is not None:
            check_number("norm_constraint", norm_constraint)
        check_names("exclude", exclude)
        check_integer("seed", seed)
        super().__init__(inner, **kwargs)
        self.damping = damping
        self.decay = decay
        self.curvature_period = curvature_period
        self.inverse_period = inverse_period
        self.sampled = sampled
        self.norm_constraint = norm_constraint
        self.exclude = tuple(exclude)
        self.seed = seed

    def attach(self, model):
        vars(self)["known_model"] = weakref.ref(model)  # Keras would track, and save, a model.

    def build(self, variables):
        if self.known_model is None:
            self.check_asked()
        positions = {id(variables[i]): i for i in included(variables, self.exclude)}
        vars(self)["blocks"] = blocks_of(self.known_model(), positions)
        if variables and not self.blocks and not self.exclude:
            raise ValueError(
                "`KFAC` needs a layer that it can precondition: Dense, EinsumDense that multiplies "
                "by a matrix, or a convolution, of Keras' own classes, with a kernel that is "
                f"trained. Received: a model of the weights {[v.path for v in variables]}"
            )
        if self.sampled and self.blocks:
            likelihood(self.known_model())
        wide = {v.dtype for v in variables} & {"float64"} or {"float32"}
        vars(self)["wide"] = next(iter(wide))
        super().build(variables)
        pairs = [(b, size) for b in self.blocks for size in b.sizes]
        self.factors, self.inverses = (
            [
                self.add_variable((n, n), "zeros", self.wide, name=f"{b.layer.name}_{name}")
                for b, n in pairs
            ]
            for name in ("factor", "inverse")
        )
        self.measured = self.add_variable((), "zeros", self.wide, name="measured")

    def extras(self, weights):
        return [ops.zeros((n, n), self.wide) for block in self.blocks for n in block.sizes]

    def every(self, period):
        """Whether the update that comes next is one in `period`."""
        return True if period == 1 else ops.equal(self.iterations % period, 0)

    def gradients(self, evaluate, weights, step):
        found, due = evaluate(weights), self.every(self.curvature_period)
        if not self.blocks:
            return found

        def measured():
            key = (self.seed, *step) if self.sampled else None
            return factors(batch_of(evaluate), weights, self.blocks, self.wide, key)

        handed = now_and_then(evaluate, due, measured, lambda: self.extras(weights))
        return found._replace(extras={**found.extras, self: handed})

    def update(self, apply, grads, variables):
        if not self.blocks:
            apply(grads)
            return
        new, due = self.mean_extras(), self.due
        averages = [*self.factors, self.measured]

        def moved():
            kept = [backend.read(v) for v in averages]
            found = lerp(kept, [*new, 1.0], ops.convert_to_tensor(1 - self.decay, self.wide))
            return chosen(ops.isfinite(dot(found, found)), found, kept)

        on = ops.logical_and(due, self.every(self.curvature_period))
        backend.assign_if(on, averages, moved)
        on = ops.logical_and(due, self.every(self.inverse_period))
        backend.assign_if(on, self.inverses, self.inverted)
        apply(self.preconditioned(grads))

    def inverted(self):
        """The inverses of all factors, a list like them."""
        damping = self.damping
        damping = damping(self.iterations) if callable(damping) else damping
        whole = scale(1 / backend.read(self.measured), [backend.read(v) for v in self.factors])
        pairs = zip(whole[::2], whole[1::2], strict=True)
        return [m for a, g in pairs for m in inverses(a, g, damping)]

    def preconditioned(self, grads):
        """The gradients of this call, times the inverses."""
        matrices = [backend.read(v) for v in self.inverses]
        if not self.gradient_accumulation_steps and self.norm_constraint is None:
            return solve(self.blocks, matrices, grads)  # Linear: each replica does it to its share.
        mean = self.mean_gradient(grads)
        step = solve(self.blocks, matrices, mean)
        whole = within(self.norm_constraint, step, mean, self.blocks, self.learning_rate)
        change = [ops.where(self.due, w - m, 0.0) for w, m in zip(whole, mean, strict=True)]
        return self.plus(grads, change)
