"""IVON: Newton's method on the loss averaged over a Gaussian whose width it learns.

The weights are the mean of a Gaussian, and an estimate of the Hessian's diagonal is its precision.
Each gradient is taken at a draw. Its product with the draw estimates the Hessian, so width and step
follow from the same gradient. It is SmoothOut with a learned radius for each weight.
"""

import keras
from keras import ops

from keras_smoothout import backend, keras_internals, noise
from keras_smoothout.asks import Asks
from keras_smoothout.checks import check_integer, check_number, check_rate


@keras.saving.register_keras_serializable("keras_smoothout")
class IVON(Asks, keras.optimizers.Optimizer):
    """Improved variational online Newton: a Gaussian around the weights, learned with them.

        e = z / sqrt(ess * (h + decay))                   z standard normal
        g = gradient(w + e)
        m = beta_1 * m + (1 - beta_1) * g                 m_hat = m / (1 - beta_1**t)
        f = ess * (h + decay) * e * g
        h = beta_2 * h + (1 - beta_2) * f + (1 - beta_2)**2 / 2 * (h - f)**2 / (h + decay)
        w = w - learning_rate * (hess_init + decay) * (m_hat + decay * w) / (h + decay)

    The draw is a pure function of seed and update, one for all ghost batches and replicas. Loss and
    metrics are those at the draw; evaluation and prediction use the mean `w`, and
    `keras_smoothout.sample` makes draws to predict with. A weight's radius is
    `1 / sqrt(ess * (h + decay))`. Not around another optimizer, but inside any method.

    Args:
        learning_rate: A float, a `LearningRateSchedule` or a callable. Defaults to `0.1`.
        ess: Effective sample size: the number of training examples, or less for more noise. It must
            be given, as an optimizer sees no data; `train.py` gives it. Defaults to `None`.
        hess_init: First value of `h`. Larger is less noise at first. Defaults to `0.5`.
        beta_1: Decay of the mean gradient. Defaults to `0.9`.
        beta_2: Decay of the Hessian's estimate. Defaults to `0.99999`; shorter trainings need less.
        decay: Precision of the prior over `ess`, which acts as weight decay. (Keras' `weight_decay`
            acts outside.) Defaults to `1e-4`.
        clip_radius: Largest size of an element of the step before the learning rate, or `None`.
            Defaults to `None`.
        seed: Integer. Defaults to `0`.
        **kwargs: As for any Keras optimizer: `clipnorm`, `use_ema`, `name` ...

    Raises:
        ValueError: If an argument is out of its range; in `build`, if `ess` is `None`.
        RuntimeError: In `apply`, if the train step did not ask for the gradients.

    Reduces to: nothing. With `beta_2=1` the width stays, and the step is that of SGD with debiased
        momentum and weight decay, at draws of one width.
    Cost: 1 gradient per step, one copy of the weights and two that are kept, as for Adam; with
        BatchNormalization, a forward pass of 32 examples, or of a sixteenth of the batch.
    Differs from the paper: one draw per update. The rule is that of the authors' code; the paper
        was not checked.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> model.compile(ks.IVON(0.1, ess=1000.0), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.1
        True

    Reference: Shen et al., *Variational Learning is Effective for Large Deep Networks*, ICML 2024,
        arXiv:2402.17641.
    """

    per_copy = own_gradient = True

    def __init__(
        self,
        learning_rate=0.1,
        ess=None,
        hess_init=0.5,
        beta_1=0.9,
        beta_2=0.99999,
        decay=1e-4,
        clip_radius=None,
        seed=0,
        **kwargs,
    ):
        check_rate("learning_rate", learning_rate)
        if ess is not None:
            check_number("ess", ess, least=1)
        for name, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            check_number(name, value, most=1)
        check_number("hess_init", hess_init)
        check_number("decay", decay)
        if clip_radius is not None:
            check_number("clip_radius", clip_radius)
        check_integer("seed", seed)
        if hess_init + decay == 0:
            raise ValueError(
                "`hess_init` or `decay` must be more than 0: else the Gaussian has no width. "
                f"Received: hess_init={hess_init}, decay={decay}"
            )
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.ess = None if ess is None else float(ess)
        self.hess_init = float(hess_init)
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.decay = float(decay)
        self.clip_radius = clip_radius
        self.seed = seed

    def build(self, variables):
        if self.ess is None:
            raise ValueError(
                "`ess` must be the number of training examples, which an optimizer does not see, "
                "or less for more noise: `IVON(ess=len(x))`. Received: ess=None"
            )
        super().build(variables)
        constant = keras.initializers.Constant(self.hess_init)
        self._m, self._h = self.add_optimizer_variables(
            variables, ["momentum", "hessian"], initializer=["zeros", constant]
        )

    def gradients(self, evaluate, weights, step):
        return evaluate(self.posterior(weights))

    def posterior(self, weights, *key):
        """Return a draw around `weights`: that of the next update, or the one of `key`.

        Args:
            weights: List of tensors, the mean.
            *key: Integers.
        """
        return [w + self._draw(i, w.dtype, *key) for i, w in enumerate(weights)]

    def _draw(self, i, dtype, *key):
        """The noise `e` of weight number `i`."""
        h = backend.read(self._h[i])
        z = ops.cast(self._normal(i, h, *key), h.dtype)
        return ops.cast(z / ops.sqrt(self.ess * (h + self.decay)), dtype)

    def _normal(self, i, like, *key):
        """Standard normal numbers for weight number `i`."""
        # Tensors, as TensorFlow would compile once for each number.
        parts = [ops.cast(part, "int32") for part in (*(key or (self.iterations,)), i)]
        return noise.normal(like, self.seed, len(key), *parts)

    def apply(self, grads, trainable_variables=None):
        if grads:  # Or all layers are frozen.
            self.check_asked()
        super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        i = keras_internals.index(self, variable)
        w = ops.convert_to_tensor(variable)
        g = ops.cast(backend.dense(gradient), w.dtype)
        t = ops.cast(self.iterations + 1, keras.backend.result_type(w.dtype, "float32"))
        h = ops.convert_to_tensor(self._h[i])
        m = self.beta_1 * self._m[i] + (1 - self.beta_1) * g
        f = self.ess * (h + self.decay) * self._draw(i, w.dtype) * g
        correction = (1 - self.beta_2) ** 2 / 2 * ops.square(h - f) / (h + self.decay)
        new = self.beta_2 * h + (1 - self.beta_2) * f + correction
        m_hat = m / ops.cast(1 - self.beta_1**t, w.dtype)
        step = (m_hat + self.decay * w) / (new + self.decay)
        if self.clip_radius is not None:
            step = ops.clip(step, -self.clip_radius, self.clip_radius)
        rate = ops.cast(learning_rate, w.dtype) * (self.hess_init + self.decay)
        self.assign(self._m[i], m)
        self.assign(self._h[i], new)
        self.assign_sub(variable, rate * step)

    def get_config(self):
        own = ("ess", "hess_init", "beta_1", "beta_2", "decay", "clip_radius", "seed")
        return super().get_config() | {name: getattr(self, name) for name in own}
