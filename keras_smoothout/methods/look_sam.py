"""LookSAM: SAM whose second gradient is taken once in a while, and remembered in between.

SAM's gradient is the clean one plus a part across it, which leads to flat regions and changes
slowly. LookSAM keeps the direction of that part, and adds it to the clean gradients of the steps in
between.
"""

import keras
from keras import ops

from keras_smoothout import backend
from keras_smoothout.asks import now_and_then
from keras_smoothout.checks import check_count, check_number, check_strength
from keras_smoothout.method import Method, strength_at
from keras_smoothout.weights import across, add, copies_of, norm, of_length, scale


@keras.saving.register_keras_serializable("keras_smoothout")
class LookSAM(Method):
    """SAM in every `interval`-th update, and its memory in the others.

        g = gradient(w)
        every interval updates:
            s = gradient(w + rho * g / ||g||)             norms over all weights together
            u = s - <s, g> / ||g||**2 * g;  u = u / ||u||
            w = inner_update(w, s)
        else:
            w = inner_update(w, g + alpha * ||g|| * u)

    Loss, metrics and BatchNormalization statistics are those of the clean pass. Each ghost batch
    and each replica has its own step uphill; `u` is of the mean over them, one for all. Intervals
    count updates, not accumulated steps.

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name.
        rho: Length of the step uphill, in weight norm. A float or a `LearningRateSchedule` of the
            iteration. Defaults to `0.1`.
        alpha: Length of the remembered part over that of the gradient, however short the part was.
            On small problems that is too long, and training diverges. Defaults to `0.7`.
        interval: Number of updates from one second gradient to the next. Defaults to `5`.

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `SAM` when `interval=1`; `inner` when `rho=0` and either `interval=1` or `alpha=0`.
    Cost: 1 + 1/`interval` gradients per step on average, two copies of the weights and one that is
        kept (two under gradient accumulation). Replicas sum up two gradients more.
    Differs from the paper: `1e-12` is added to norms. Norms are over all weights together; the
        paper's variant with norms per layer is left out. The defaults are those of a public
        implementation; the paper was not checked.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> optimizer = ks.LookSAM(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.05, alpha=0.1)
        >>> model.compile(optimizer, "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.1
        True

    Reference: Liu et al., *Towards Efficient and Scalable Sharpness-Aware Minimization*, CVPR 2022,
        arXiv:2203.02714.
    """

    per_copy = own_gradient = True

    def __init__(self, inner, rho=0.1, alpha=0.7, interval=5, **kwargs):
        check_strength("rho", rho)
        check_number("alpha", alpha)
        check_count("interval", interval)
        super().__init__(inner, **kwargs)
        self.rho = rho
        self.alpha = alpha
        self.interval = interval

    def build(self, variables):
        super().build(variables)
        self.across = self.slots("across") if self.interval > 1 else []

    def extras(self, weights):
        return weights if self.interval > 1 else []

    def ascends(self):
        """Whether the update that comes next takes the second gradient."""
        return ops.equal(self.iterations % self.interval, 0)

    def gradients(self, evaluate, weights, step):
        clean, copies = evaluate(weights), copies_of(self.trainable_variables)

        def sharp():
            uphill = of_length(strength_at(self.rho, step), clean.grads, copies)
            return evaluate(add(weights, 1.0, uphill)).means

        if self.interval == 1:
            return clean.of(sharp())
        found = clean.of(now_and_then(evaluate, self.ascends(), sharp, lambda: clean.means))
        return found._replace(extras={**found.extras, self: clean.grads})

    def update(self, apply, grads, variables):
        if self.interval == 1:
            apply(grads)
            return
        copies = copies_of(variables)
        clean, sharp, due = self.mean_extras(), self.mean_gradient(grads), self.ascends()
        between = ops.logical_and(ops.logical_not(due), self.due)
        length = ops.where(between, self.alpha * norm(clean, copies), 0.0)
        apply(self.plus(grads, scale(length, [backend.read(u) for u in self.across])))
        on = ops.logical_and(due, self.updated)
        backend.assign_if(
            on, self.across, lambda: of_length(1.0, across(sharp, clean, copies), copies)
        )
