"""LARS: SGD whose step in each layer is in proportion to the norm of the layer's weights.

Large batches need large learning rates. The largest one that a layer tolerates is about the ratio
of its weights' norm to its gradient's norm. The trust ratio gives each layer its own rate.
"""

import keras
from keras import ops

from keras_smoothout import backend, keras_internals
from keras_smoothout.checks import check_names, check_number, check_rate, check_switch
from keras_smoothout.method import included
from keras_smoothout.weights import along, copies_of, norm


@keras.saving.register_keras_serializable("keras_smoothout")
class LARS(keras.optimizers.SGD):
    """Layer-wise adaptive rate scaling.

        ratio = trust_coefficient * ||w|| / (||g|| + decay * ||w||)    for each weight w
        v = momentum * v + learning_rate * ratio * (g + decay * w)
        w = w - v

    Where `||w||` or `||g||` is 0 the ratio is 1. Works in any Keras model, and inside any method.

    Args:
        learning_rate: A float, a `LearningRateSchedule` or a callable. Defaults to `1.0`.
        momentum: Float in [0, 1]. Defaults to `0.9`.
        nesterov: Whether to use Nesterov's momentum. Defaults to `False`.
        trust_coefficient: Length of a step relative to the norm of the weights, before learning
            rate and momentum; the paper's eta. Defaults to `0.001`.
        decay: Weight decay in the gradient, inside the ratio (Keras' `weight_decay` acts outside of
            it). If it is not 0, leave L2 regularizers out of the model. Defaults to `0.0`.
        exclude: Names of variables or layers to step as plain SGD does, without ratio and `decay`;
            they are compared with the parts of each variable's path. `"vector"` stands for all that
            have one axis or none. Defaults to `("vector", "bias", "gamma", "beta", "alpha")`:
            biases, normalizations and slopes.
        **kwargs: As for `keras.optimizers.SGD`.

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `keras.optimizers.SGD` for what is in `exclude`.
    Cost: 1 gradient per step and one copy of the weights that is kept, as for SGD with momentum.
    Differs from the paper: biases and normalizations are excluded, as in all later work.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(ks.LARS(0.1, trust_coefficient=0.1), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.1
        True

    Reference: You et al., *Large Batch Training of Convolutional Networks*, 2017, arXiv:1708.03888,
        Eq. (6), Algorithm 1.
    """

    per_copy = True

    def __init__(
        self,
        learning_rate=1.0,
        momentum=0.9,
        nesterov=False,
        trust_coefficient=0.001,
        decay=0.0,
        exclude=("vector", "bias", "gamma", "beta", "alpha"),
        **kwargs,
    ):
        check_rate("learning_rate", learning_rate)
        check_number("momentum", momentum, most=1)
        check_switch("nesterov", nesterov)
        check_number("trust_coefficient", trust_coefficient)
        check_number("decay", decay)
        check_names("exclude", exclude)
        super().__init__(learning_rate, float(momentum), nesterov, **kwargs)
        self.trust_coefficient = trust_coefficient
        self.decay = decay
        self.exclude = tuple(exclude)

    def build(self, variables):
        super().build(variables)
        self._adapted = included(variables, self.exclude)
        self._copies = copies_of(variables)

    def update_step(self, gradient, variable, learning_rate):
        if keras_internals.index(self, variable) in self._adapted:
            w = ops.convert_to_tensor(variable)
            g = ops.cast(backend.dense(gradient), w.dtype)
            w_norm, g_norm = (norm([x], self._copies) for x in (w, g))
            ratio = self.trust_coefficient * w_norm / (g_norm + self.decay * w_norm)
            ratio = ops.where(ops.logical_and(w_norm > 0, g_norm > 0), ratio, 1.0)
            gradient = g + self.decay * w if self.decay else g
            # One factor: SGD multiplies by the learning rate in any case.
            learning_rate = along(ops.multiply(learning_rate, ratio), w)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        own = ("trust_coefficient", "decay", "exclude")
        return super().get_config() | {name: getattr(self, name) for name in own}
