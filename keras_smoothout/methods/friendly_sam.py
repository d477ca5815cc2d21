"""Friendly SAM: SAM that perturbs along what is special to the batch.

The gradient of a batch is the gradient of all data plus noise. Climbing along the former hurts
generalization, and SAM's gain comes from the noise. A running mean of gradients stands in for the
gradient of all data, and is taken off before the step uphill.
"""

import keras
from keras import ops

from keras_smoothout import backend, keras_internals
from keras_smoothout.checks import check_number, check_strength
from keras_smoothout.method import Method, strength_at
from keras_smoothout.weights import add, copies_of, lerp, of_length


@keras.saving.register_keras_serializable("keras_smoothout")
class FriendlySAM(Method):
    """SAM whose step uphill leaves out the running mean of the gradients.

        g = gradient(w)
        p = g - sigma * m                      m is 0 in the first update
        w = inner_update(w, gradient(w + rho * p / ||p||))
        m = lmbda * m + (1 - lmbda) * g        g: mean over replicas and accumulated steps

    The first update sets `m = g`. Loss, metrics and BatchNormalization statistics are those of the
    first, clean pass; both passes see the same examples and dropout masks. Each ghost batch and
    each replica has its own `p`; they share one `m`, which moves once in an update.

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name.
        rho: Length of the step, in weight norm. A float or a `LearningRateSchedule` of the
            iteration. Defaults to `0.1`.
        sigma: Share of the running mean that is taken off. Defaults to `1.0`.
        lmbda: Decay of the running mean, in [0, 1]. Defaults to `0.9`.

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `SAM` when `sigma=0`; `inner` when `rho=0`.
    Cost: 2 gradients per step, two copies of the weights and one that is kept (two under gradient
        accumulation). Replicas sum up one gradient more.
    Differs from the paper: `1e-12` is added to the norm; with ghost batches and replicas, `m` is of
        their mean. The rule is that of the authors' code; the defaults were not checked.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> model.compile(ks.FriendlySAM(keras.optimizers.SGD(0.1, momentum=0.9), 0.05), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.01
        True

    Reference: Li et al., *Friendly Sharpness-Aware Minimization*, CVPR 2024, arXiv:2403.12350.
    """

    per_copy = True

    def __init__(self, inner, rho=0.1, sigma=1.0, lmbda=0.9, **kwargs):
        check_strength("rho", rho)
        check_number("sigma", sigma)
        check_number("lmbda", lmbda, most=1)
        super().__init__(inner, **kwargs)
        self.rho = rho
        self.sigma = sigma
        self.lmbda = lmbda

    def build(self, variables):
        super().build(variables)
        self.mean = self.slots("mean")

    def extras(self, weights):
        return weights

    def gradients(self, evaluate, weights, step):
        clean = evaluate(weights)
        special = add(clean.grads, -self.sigma, [backend.read(m) for m in self.mean])
        copies = copies_of(self.trainable_variables)
        uphill = of_length(strength_at(self.rho, step), special, copies)
        sharp = clean.of(evaluate(add(weights, 1.0, uphill)).means)
        return sharp._replace(extras={**sharp.extras, self: clean.grads})

    def update(self, apply, grads, variables):
        first = backend.read(keras_internals.calls(self)) < (self.gradient_accumulation_steps or 1)
        clean, mean = self.mean_extras(), [backend.read(m) for m in self.mean]
        apply(grads)
        share = ops.where(first, 1.0, 1 - self.lmbda)
        backend.assign_if(self.updated, self.mean, lambda: lerp(mean, clean, share))
