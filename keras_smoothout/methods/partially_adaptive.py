"""Padam: divide by a power of the gradient's magnitude, between SGD's power 0 and Adam's 1.

Fully adaptive steps fit fast but generalise worse; partially adaptive ones keep most of the speed.
"""

import keras
from keras import ops

from keras_smoothout import backend, keras_internals
from keras_smoothout.checks import check_number, check_rate


@keras.saving.register_keras_serializable("keras_smoothout")
class PartiallyAdaptive(keras.optimizers.Optimizer):
    """Partially adaptive momentum (Padam); GadamX is its average over the end of training.

        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2            v_max = max(v_max, v)
        step = sqrt(1 - beta_2**t) / (1 - beta_1**t)
        w = w - learning_rate * step * m / (sqrt(v_max) + epsilon)**(2 * partial)

    Works in any Keras model, and inside any method.

    Args:
        learning_rate: A float, a `LearningRateSchedule` or a callable; choose it as for SGD rather
            than for Adam. Defaults to `0.1`.
        partial: Exponent p of the squared gradient that the step is divided by, in [0, 0.5].
            Defaults to `0.125`.
        beta_1: Decay of the mean gradient. Defaults to `0.9`.
        beta_2: Decay of the mean squared gradient. Defaults to `0.999`.
        epsilon: Added to the root of the largest mean squared gradient. Defaults to `1e-8`.
        **kwargs: As for any Keras optimizer: `weight_decay` (decoupled), `clipnorm`, `name` ...

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: AMSGrad when `partial=0.5`; SGD with momentum when `partial=0`, except for the
        factor `(1 - beta_1) * step` of the learning rate.
    Cost: 1 gradient per step and three copies of the weights that are kept.
    Differs from the paper: has the bias corrections of the authors' code, which the algorithm in
        the paper leaves out.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(ks.PartiallyAdaptive(0.3, partial=0.125), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.1
        True

    Reference: Chen et al., *Closing the Generalization Gap of Adaptive Gradient Methods in Training
        Deep Neural Networks*, IJCAI 2020, arXiv:1806.06763, Algorithm 1.
    """

    per_copy = True

    def __init__(
        self, learning_rate=0.1, partial=0.125, beta_1=0.9, beta_2=0.999, epsilon=1e-8, **kwargs
    ):
        check_rate("learning_rate", learning_rate)
        check_number("partial", partial, most=0.5)
        for name, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            check_number(name, value, most=1)
        check_number("epsilon", epsilon)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.partial = float(partial)
        self.beta_1 = float(beta_1)  # A NumPy number would multiply a variable in its own way.
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)

    def build(self, variables):
        super().build(variables)
        names = ["momentum", "velocity", "max_velocity"]
        self._m, self._v, self._v_max = self.add_optimizer_variables(variables, names)

    def update_step(self, gradient, variable, learning_rate):
        i = keras_internals.index(self, variable)
        g = ops.cast(backend.dense(gradient), variable.dtype)
        t = ops.cast(self.iterations + 1, keras.backend.result_type(g.dtype, "float32"))
        m = self.beta_1 * self._m[i] + (1 - self.beta_1) * g
        v = self.beta_2 * self._v[i] + (1 - self.beta_2) * ops.square(g)
        v_max = ops.maximum(self._v_max[i], v)
        step = ops.cast(ops.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t), g.dtype)
        self.assign(self._m[i], m)
        self.assign(self._v[i], v)
        self.assign(self._v_max[i], v_max)
        scale = (ops.sqrt(v_max) + self.epsilon) ** (2 * self.partial)
        self.assign_sub(variable, ops.cast(learning_rate, g.dtype) * step * m / scale)

    def get_config(self):
        own = ("partial", "beta_1", "beta_2", "epsilon")
        return super().get_config() | {name: getattr(self, name) for name in own}
