"""SAM and ASAM: descend the loss at the worst point of a ball around the weights.

Two gradients per step. The first finds the direction in which the loss rises most. The second is
taken after a step of length `rho` in that direction. The inner optimizer then applies the second
gradient to the weights as they were before that step.
"""

import keras

from keras_smoothout import backend
from keras_smoothout.asks import now_and_then
from keras_smoothout.checks import PERTURBATIONS, check_choice, check_count, check_strength
from keras_smoothout.method import Method, strength_at
from keras_smoothout.weights import add, copies_of, of_length


@keras.saving.register_keras_serializable("keras_smoothout")
class SAM(Method):
    """Sharpness-aware minimization: descend the gradient of a point uphill.

        g = gradient(w)
        e = rho * g / ||g||                    norm over all weights together
        w = inner_update(w, gradient(w + e))   same examples, same dropout masks

    Loss, metrics and BatchNormalization statistics are those of the first, clean pass. Regularizers
    are part of the loss in both passes; clipping and weight decay act on the second gradient alone.

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name.
        rho: Radius of the ball, in weight norm. A float or a `LearningRateSchedule` of the
            iteration. Defaults to `0.05`.
        interval: Take the second gradient on every `interval`-th step only; the other steps are the
            inner optimizer's own. Defaults to `1`.
        perturbation: `"replica"` for a separate ascent on each replica (and ghost batch), which
            is m-sharpness; `"shared"` for one ascent along the sum over replicas. Defaults to
            `"replica"`.

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `inner` when `rho=0`.
    Cost: 2 gradients per step (1 + 1/`interval` on average) and two copies of the weights.
    Differs from the paper: `1e-12` is added to the norm.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> model.compile(ks.SAM(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.05), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.01
        True

    Reference: Foret et al., *Sharpness-Aware Minimization for Efficiently Improving
        Generalization*, ICLR 2021, arXiv:2010.01412, Eq. (2) and (3), Algorithm 1.
    """

    per_copy = True

    def __init__(self, inner, rho=0.05, interval=1, perturbation="replica", **kwargs):
        check_strength("rho", rho)
        check_count("interval", interval)
        check_choice("perturbation", perturbation, PERTURBATIONS)
        super().__init__(inner, **kwargs)
        self.rho = rho
        self.interval = interval
        self.perturbation = perturbation

    def gradients(self, evaluate, weights, step):
        clean = evaluate(weights)
        shared = self.perturbation == "shared"
        uphill = backend.all_reduce_sum(clean.grads) if shared else clean.grads

        def sharp():
            return evaluate(add(weights, 1.0, self.ascent(weights, uphill, step))).means

        due = self.interval == 1 or step.iteration % self.interval == 0
        return clean.of(now_and_then(evaluate, due, sharp, lambda: clean.means))

    def ascent(self, weights, grads, step):
        """The step `e` from `weights` to the worst point of the ball, to first order."""
        copies = copies_of(self.trainable_variables)
        return of_length(strength_at(self.rho, step), grads, copies)
