"""GSAM: SAM that also lowers the surrogate gap, the rise of the loss from the weights to the peak.

SAM's gradient lowers the loss uphill, which can hide a sharp minimum: near it, a low peak may come
from a low loss rather than from a small rise. GSAM climbs the loss of the weights themselves in the
direction that leaves the loss uphill as it is, so that the gap between the two closes.
"""

import keras

from keras_smoothout.checks import check_number, check_strength
from keras_smoothout.method import Method, strength_at
from keras_smoothout.weights import across, add, copies_of, of_length


@keras.saving.register_keras_serializable("keras_smoothout")
class GSAM(Method):
    """Surrogate gap minimization: SAM, minus the part of the clean gradient across its own.

        g = gradient(w)
        s = gradient(w + rho * g / ||g||)             norm over all weights together
        w = inner_update(w, s - alpha * (g - <g, s> / ||s||**2 * s))

    Loss, metrics and BatchNormalization statistics are those of the first, clean pass; both passes
    see the same examples and dropout masks. The projection is taken in each ghost batch and on each
    replica.

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name.
        rho: Length of the step uphill, in weight norm. A float or a `LearningRateSchedule` of the
            iteration. In the paper it falls with the learning rate: for a cosine decay to 0, pass
            `CosineDecay(rho, steps, alpha=least / rho)`. Defaults to `0.05`.
        alpha: Weight of the part of the clean gradient across the one uphill, in [0, 1]. Defaults
            to `0.4`.

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `SAM` when `alpha=0`; `inner` when, besides, `rho=0`.
    Cost: 2 gradients per step and two copies of the weights.
    Differs from the paper: `1e-12` is added to the norm. The rule is that of the authors' code; the
        default of `alpha` was not checked.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> model.compile(ks.GSAM(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.05), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.01
        True

    Reference: Zhuang et al., *Surrogate Gap Minimization Improves Sharpness-Aware Training*, ICLR
        2022, arXiv:2203.08065.
    """

    per_copy = True

    def __init__(self, inner, rho=0.05, alpha=0.4, **kwargs):
        check_strength("rho", rho)
        check_number("alpha", alpha, most=1)
        super().__init__(inner, **kwargs)
        self.rho = rho
        self.alpha = alpha

    def gradients(self, evaluate, weights, step):
        clean, copies = evaluate(weights), copies_of(self.trainable_variables)
        uphill = of_length(strength_at(self.rho, step), clean.grads, copies)
        sharp = evaluate(add(weights, 1.0, uphill))
        grads = add(sharp.grads, -self.alpha, across(clean.grads, sharp.grads, copies))
        return clean._replace(grads=grads, extras=sharp.extras)
