"""GNP: descend the loss plus a penalty on the norm of its gradient.

The penalty's gradient is a product with the Hessian; a finite difference of two gradients stands in
for it. SAM is the special case that uses the gradient uphill alone.
"""

import keras

from keras_smoothout.checks import check_number, check_strength
from keras_smoothout.method import Method, strength_at
from keras_smoothout.weights import add, copies_of, of_length, scale


@keras.saving.register_keras_serializable("keras_smoothout")
class GNP(Method):
    """Gradient norm penalty: `L(w) + alpha * rho * ||gradient(w)||`, to first order in `rho`.

        g = gradient(w)
        s = gradient(w + rho * g / ||g||)      norm over all weights together
        w = inner_update(w, (1 - alpha) * g + alpha * s)

    Loss, metrics and BatchNormalization statistics are those of the first, clean pass; both passes
    see the same examples and dropout masks.

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name.
        rho: Length of the step uphill, in weight norm. A float or a `LearningRateSchedule` of the
            iteration. Defaults to `0.05`.
        alpha: Share of the gradient uphill, in [0, 1]; the weight of the penalty is `alpha * rho`.
            Defaults to `0.8`.

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `inner` when `alpha=0`; `SAM` when `alpha=1`.
    Cost: 2 gradients per step and two copies of the weights.
    Differs from the paper: `1e-12` is added to the norm.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> model.compile(ks.GNP(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.05), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.01
        True

    Reference: Zhao et al., *Penalizing Gradient Norm for Efficiently Improving Generalization in
        Deep Learning*, ICML 2022, arXiv:2202.03599; the update is that of its authors' code.
    """

    per_copy = True

    def __init__(self, inner, rho=0.05, alpha=0.8, **kwargs):
        check_strength("rho", rho)
        check_number("alpha", alpha, most=1)
        super().__init__(inner, **kwargs)
        self.rho = rho
        self.alpha = alpha

    def gradients(self, evaluate, weights, step):
        clean = evaluate(weights)
        copies = copies_of(self.trainable_variables)
        uphill = of_length(strength_at(self.rho, step), clean.grads, copies)
        sharp = evaluate(add(weights, 1.0, uphill)).means
        return clean.of(add(scale(1 - self.alpha, clean.means), self.alpha, sharp))
