"""ASAM: SAM in a ball that stretches with the weights."""

import keras
from keras import ops

from keras_smoothout.checks import check_number
from keras_smoothout.method import included
from keras_smoothout.methods.sam import SAM
from keras_smoothout.weights import multiply


@keras.saving.register_keras_serializable("keras_smoothout")
class ASAM(SAM):
    """Adaptive SAM: SAM in a ball whose axes scale with the weights.

        T = |w| + eta for kernels, embeddings and gammas; 1 for biases and betas
        e = rho * T**2 * g / ||T * g||
        w = inner_update(w, gradient(w + e))

    If a layer's weights are scaled without changing the function, the sharpness that ASAM sees
    stays the same. So one `rho` fits all layers.

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name.
        rho: Radius of the ball, in units of T. A float or a `LearningRateSchedule` of the
            iteration. Defaults to `0.5`.
        eta: Added to `|w|`, so that zero weights can move. Defaults to `0.01`.
        **kwargs: As for `SAM`.

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `inner` when `rho=0`.
    Cost: 2 gradients per step (1 + 1/`interval` on average) and two copies of the weights.
    Differs from the paper: T is 1 for biases and betas, as in the authors' code; `1e-12` is added
        to the norm.

    Example:
        >>> import keras, keras_smoothout as ks
        >>> ks.ASAM(keras.optimizers.SGD(0.1), rho=1.0, interval=2).eta
        0.01

    Reference: Kwon et al., *ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant
        Learning of Deep Neural Networks*, ICML 2021, arXiv:2102.11600, Eq. (5), Algorithm 1.
    """

    def __init__(self, inner, rho=0.5, eta=0.01, **kwargs):
        check_number("eta", eta)
        super().__init__(inner, rho, **kwargs)
        self.eta = eta

    def ascent(self, weights, grads, step):
        scaled = included(self.trainable_variables, ("bias", "beta"))
        T = [
            ops.abs(w) + self.eta if i in scaled else ops.ones_like(w)
            for i, w in enumerate(weights)
        ]
        return multiply(T, super().ascent(weights, multiply(T, grads), step))
