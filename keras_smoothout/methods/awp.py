"""AWP: descend the loss at weights that were perturbed against it, layer by layer.

Each layer moves uphill by a fixed share of its own norm, so all layers are perturbed alike, however
large their weights and gradients. SAM has one ball around all weights together.
"""

import keras
from keras import ops

from keras_smoothout.checks import check_names, check_strength
from keras_smoothout.method import Method, included, strength_at
from keras_smoothout.weights import copies_of, norm, of_length


@keras.saving.register_keras_serializable("keras_smoothout")
class AWP(Method):
    """Adversarial weight perturbation: SAM with a ball around each weight, relative to its norm.

        g = gradient(w)
        e = gamma * ||w|| * g / ||g||          for each kernel w by itself; 0 for the others
        w = inner_update(w, gradient(w + e))   same examples, same dropout masks

    Loss, metrics and BatchNormalization statistics are those of the first, clean pass.

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name.
        gamma: Norm of a weight's perturbation over the norm of the weight. A float or a
            `LearningRateSchedule` of the iteration. Defaults to `0.005`.
        exclude: Names of variables or layers that are not perturbed, compared with the parts of
            each variable's path. `"vector"` stands for all that have one axis or none. Defaults to
            `("vector", "bias", "gamma", "beta")`.

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `inner` when `gamma=0`.
    Cost: 2 gradients per step and two copies of the weights.
    Differs from the paper: its loss is that of adversarial inputs, which are yours to make. One
        step uphill, as there. `1e-12` is added to the norm. The rule and the default of `gamma` are
        from memory of the paper and were not checked.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> model.compile(ks.AWP(keras.optimizers.SGD(0.1, momentum=0.9), gamma=0.01), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.01
        True

    Reference: Wu et al., *Adversarial Weight Perturbation Helps Robust Generalization*, NeurIPS
        2020, arXiv:2004.05884.
    """

    per_copy = True

    def __init__(self, inner, gamma=0.005, exclude=("vector", "bias", "gamma", "beta"), **kwargs):
        check_strength("gamma", gamma)
        check_names("exclude", exclude)
        super().__init__(inner, **kwargs)
        self.gamma = gamma
        self.exclude = tuple(exclude)

    def gradients(self, evaluate, weights, step):
        clean = evaluate(weights)
        adverse, gamma = list(weights), strength_at(self.gamma, step)
        copies = copies_of(self.trainable_variables)
        for i in included(self.trainable_variables, self.exclude):
            w, g = weights[i], clean.grads[i]
            size = norm([w], copies)
            adverse[i] = w + of_length(ops.cast(gamma, size.dtype) * size, [g], copies)[0]
        return clean.of(evaluate(adverse).means)
