"""LAMB: Adam whose step in each layer is in proportion to the norm of the layer's weights.

LAMB is to Adam what LARS is to SGD. Weight decay is part of the step whose norm is taken. In
`keras.optimizers.Lamb` it is not, so Keras' class is LAMB only without decay.
"""

import keras
from keras import ops

from keras_smoothout import backend, keras_internals
from keras_smoothout.checks import check_names, check_number, check_rate
from keras_smoothout.method import included
from keras_smoothout.weights import along, copies_of, norm


@keras.saving.register_keras_serializable("keras_smoothout")
class LAMB(keras.optimizers.Optimizer):
    """Layer-wise adaptive moments for batch training.

        m = beta_1 * m + (1 - beta_1) * g               m_hat = m / (1 - beta_1**t)
        v = beta_2 * v + (1 - beta_2) * g**2            v_hat = v / (1 - beta_2**t)
        r = m_hat / (sqrt(v_hat) + epsilon) + decay * w
        w = w - learning_rate * ||w|| / ||r|| * r       for each weight w

    Where `||w||` or `||r||` is 0, the trust ratio `||w|| / ||r||` is 1. Works in any Keras model,
    and inside any method.

    Args:
        learning_rate: A float, a `LearningRateSchedule` or a callable. Defaults to `0.001`.
        beta_1: Decay of the mean gradient. Defaults to `0.9`.
        beta_2: Decay of the mean squared gradient. Defaults to `0.999`.
        epsilon: Added to the root of the mean squared gradient. Defaults to `1e-6`.
        decay: Weight decay inside the trust ratio, the paper's lambda. (Keras' `weight_decay` acts
            outside of it.) Defaults to `0.0`.
        clip: Largest trust ratio, or `None` for no limit; with one it is LAMBC. Defaults to `None`.
        exclude: Names of variables or layers without decay and ratio; they are compared with the
            parts of each variable's path. `"vector"` stands for all that have one axis or none.
            Defaults to `("vector", "bias", "gamma", "beta", "alpha")`: biases, normalizations and
            slopes.
        **kwargs: As for any Keras optimizer: `clipnorm`, `use_ema`, `name` ...

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `keras.optimizers.Lamb` when `decay=0` and nothing is excluded, up to rounding.
    Cost: 1 gradient per step and two copies of the weights that are kept, as for Adam.
    Differs from the paper: the ratio's function phi is the identity, and biases and normalizations
        are excluded, as in the authors' code.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(ks.LAMB(0.1), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.1
        True

    Reference: You et al., *Large Batch Optimization for Deep Learning: Training BERT in 76
        minutes*, ICLR 2020, arXiv:1904.00962, Algorithm 2. Fong et al., *Improving Layer-wise
        Adaptive Rate Methods using Trust Ratio Clipping*, 2020, arXiv:2011.13584 (`clip`).
    """

    per_copy = True

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        decay=0.0,
        clip=None,
        exclude=("vector", "bias", "gamma", "beta", "alpha"),
        **kwargs,
    ):
        check_rate("learning_rate", learning_rate)
        for name, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            check_number(name, value, most=1)
        check_number("epsilon", epsilon)
        check_number("decay", decay)
        if clip is not None:
            check_number("clip", clip)
        check_names("exclude", exclude)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta_1 = float(beta_1)  # A NumPy number would multiply a variable in its own way.
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)
        self.decay = float(decay)
        self.clip = clip
        self.exclude = tuple(exclude)

    def build(self, variables):
        super().build(variables)
        self._m, self._v = self.add_optimizer_variables(variables, ["momentum", "velocity"])
        self._adapted = included(variables, self.exclude)
        self._copies = copies_of(variables)

    def update_step(self, gradient, variable, learning_rate):
        i = keras_internals.index(self, variable)
        w = ops.convert_to_tensor(variable)
        g = ops.cast(backend.dense(gradient), w.dtype)
        t = ops.cast(self.iterations + 1, keras.backend.result_type(w.dtype, "float32"))
        m, v = self._m[i], self._v[i]
        self.assign_add(m, (g - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(g) - v) * (1 - self.beta_2))
        # m_hat is m times a scalar, which joins the others: each pass over a weight takes time.
        factor = 1 / (1 - self.beta_1**t)
        r = m / (ops.sqrt(v / ops.cast(1 - self.beta_2**t, w.dtype)) + self.epsilon)
        if i in self._adapted:
            if self.decay:
                r = r + ops.cast(self.decay / factor, w.dtype) * w
            w_norm, r_norm = norm([w], self._copies), norm([r], self._copies) * factor
            ratio = ops.where(ops.logical_and(w_norm > 0, r_norm > 0), w_norm / r_norm, 1.0)
            ratio = ratio if self.clip is None else ops.minimum(ratio, self.clip)
            factor = factor * ratio
        self.assign_sub(variable, along(ops.multiply(learning_rate, factor), w) * r)

    def get_config(self):
        own = ("beta_1", "beta_2", "epsilon", "decay", "clip", "exclude")
        return super().get_config() | {name: getattr(self, name) for name in own}
