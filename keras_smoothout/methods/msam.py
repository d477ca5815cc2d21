"""MSAM: SAM whose second point costs nothing, as the momentum has been there already.

The gradient is taken at a step of length `rho` against the momentum of past gradients, where the
optimizer is heading, in place of SAM's step along the gradient of this batch.
"""

import keras

from keras_smoothout import backend
from keras_smoothout.checks import STATISTICS, check_choice, check_number, check_strength
from keras_smoothout.method import Method, strength_at
from keras_smoothout.weights import add, copies_of, of_length


@keras.saving.register_keras_serializable("keras_smoothout")
class MSAM(Method):
    """Momentum-SAM: descend the gradient of a point ahead along the momentum.

        g = gradient(w - rho * v / ||v||)      norm over all weights together
        w = inner_update(w, g)
        v = momentum * v + g                   g: mean over replicas and accumulated steps

    The sign is minus: `v` points along gradients, so the point is where momentum leads. The
    perturbation is added to a copy; the weights never carry it. Loss and metrics are those of the
    one pass. In the first step `v` is 0.

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name.
        rho: Length of the step ahead, in weight norm. A float or a `LearningRateSchedule` of the
            iteration. Defaults to `0.3`.
        momentum: Decay of the velocity, in [0, 1]; the `momentum` of SGD or the `beta_1` of Adam in
            the paper, whose velocity is the inner optimizer's. Defaults to `0.9`.
        statistics: `"clean"` for BatchNormalization's moving statistics of `w`, which the model is
            evaluated with, by a forward pass in addition; `"perturbed"` for those of the one pass.
            Defaults to `"clean"`.

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `inner` when `rho=0`.
    Cost: 1 gradient per step, one copy of the weights and one that is kept; with
        BatchNormalization, a forward pass of 32 examples, or of a sixteenth of the batch.
    Differs from the paper: the velocity is the method's own, so `inner` can be any optimizer;
        weight decay acts on the weights themselves, not on the perturbed ones.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> model.compile(ks.MSAM(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.05), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.01
        True

    Reference: Becker et al., *Momentum-SAM: Sharpness Aware Minimization without Computational
        Overhead*, 2024, arXiv:2401.12033, the update rule of its Algorithm 1.
    """

    per_copy = True

    def __init__(self, inner, rho=0.3, momentum=0.9, statistics="clean", **kwargs):
        check_strength("rho", rho)
        check_number("momentum", momentum, most=1)
        check_choice("statistics", statistics, STATISTICS)
        super().__init__(inner, **kwargs)
        self.rho = rho
        self.momentum = momentum
        self.statistics = statistics

    def build(self, variables):
        super().build(variables)
        self.velocity = self.slots("velocity")

    def gradients(self, evaluate, weights, step):
        if self.rho == 0:
            return evaluate(weights)
        velocity = [backend.read(v) for v in self.velocity]
        copies = copies_of(self.trainable_variables)
        ahead = of_length(strength_at(self.rho, step), velocity, copies)
        return evaluate(add(weights, -1.0, ahead))

    def update(self, apply, grads, variables):
        mean = self.mean_gradient(grads)
        apply(grads)
        backend.assign_if(
            self.updated,
            self.velocity,
            lambda: add(mean, self.momentum, [backend.read(v) for v in self.velocity]),
        )
