"""`FluctuationDissipation`: a callback that tells when SGD has settled, and how hot it is there."""

import keras
import numpy as np

from keras_smoothout.around import chain
from keras_smoothout.evaluation import sync
from keras_smoothout.method import Method

SCALING = keras.optimizers.LossScaleOptimizer  # It skips steps.


class FluctuationDissipation(keras.callbacks.Callback):
    """Both sides of the fluctuation-dissipation relation of SGD, and its effective temperature.

        fluctuation = mean of w . g
        dissipation = mean of (1 + momentum) / (2 * learning_rate) * ||dw||^2
        temperature = dissipation / number of weights

    The means are over the steps of an epoch, `w` are the weights before a step, `g` is the gradient
    that the step applies, regularizers included, and `dw` the step. The two sides are equal once
    the distribution of the weights no longer changes: compare them to tell whether a learning rate
    has done its work. On a quadratic loss `temperature` is the mean of curvature times variance.

    The gradient follows from two steps of SGD, so that none is asked for:
    `g = (momentum * dw_before - dw) / learning_rate`. The epoch's logs hold `fluctuation`,
    `dissipation` and `temperature`, for the history, TensorBoard and CSVLogger: pass this callback
    before those.

    Raises:
        ValueError: When the training begins, if the innermost optimizer is not
            `keras.optimizers.SGD` without Nesterov's momentum, clipping, weight decay, averages and
            gradient accumulation; if a method around it moves weights itself; if several steps make
            an execution.

    Attributes:
        found: List of dicts, one for each epoch.

    Cost: the weights are read after each step, and two copies of them are kept.
    Differs from the paper: the relation was derived for this form, with `dw` the step, and checked
        on quadratics; the text of the paper was not at hand.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(keras.optimizers.SGD(0.1), "mse")
        >>> rng = np.random.default_rng(0)
        >>> x, y = np.ones((1500, 1)), rng.normal(size=(1500, 1))
        >>> history = model.fit(
        ...     x, y, 1, 2, verbose=0, callbacks=[ks.FluctuationDissipation()], shuffle=False
        ... ).history
        >>> bool(abs(history["fluctuation"][-1] / history["dissipation"][-1] - 1) < 0.1)
        True

    Reference: Yaida, *Fluctuation-dissipation relations for stochastic gradient descent*, ICLR
        2019, arXiv:1810.00004.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    def _weights(self):
        sync(self.model)
        arrays = [keras.ops.convert_to_numpy(v) for v in self.model.trainable_variables]
        return np.concatenate([np.ravel(a).astype("float64") for a in arrays])

    def on_train_begin(self, logs=None):
        inner = chain(self.model.optimizer)[-1]
        config = inner.get_config()
        idle = ("nesterov", "clipnorm", "global_clipnorm", "clipvalue", "weight_decay", "use_ema")
        given = {n: config[n] for n in (*idle, "gradient_accumulation_steps") if config.get(n)}
        constrained = [v.path for v in self.model.trainable_variables if v.constraint]
        scaling = self.model.optimizer if isinstance(self.model.optimizer, SCALING) else None
        if constrained or scaling is not None:
            raise ValueError(
                "`FluctuationDissipation` takes each step for that of the gradient: leave out "
                f"constraints and the scaling of the loss. Received: {constrained or scaling.name}"
            )
        moving = [
            type(method).__name__
            for method in chain(self.model.optimizer)
            if isinstance(method, Method) and type(method).update is not Method.update
        ]
        if type(inner) is not keras.optimizers.SGD or given or moving:
            raise ValueError(
                "`FluctuationDissipation` is about `keras.optimizers.SGD`, alone or in methods "
                "that leave its update as it is, without Nesterov's momentum, clipping, weight "
                "decay, averages or accumulation. Received: "
                f"optimizer={inner.name} with {given}, inside of {moving}"
            )
        if getattr(self.model, "steps_per_execution", 1) != 1:
            raise ValueError(
                "`FluctuationDissipation` looks at each step: compile with "
                "`steps_per_execution=1`. Received: "
                f"steps_per_execution={self.model.steps_per_execution}"
            )
        self._inner, self._momentum = inner, float(inner.momentum)
        self._place, self._before = self._weights(), None

    def on_epoch_begin(self, epoch, logs=None):
        self._sums, self._steps = np.zeros(2), 0

    def on_train_batch_begin(self, batch, logs=None):
        self._rate = float(keras.ops.convert_to_numpy(self._inner.learning_rate))

    def on_train_batch_end(self, batch, logs=None):
        place = self._weights()
        step = place - self._place
        if self._before is None:  # The velocity of an earlier `fit` is not known.
            gradient = None if self._momentum else -step / self._rate
        else:
            gradient = (self._momentum * self._before - step) / self._rate
        if gradient is not None:
            share = (1 + self._momentum) / (2 * self._rate)
            self._sums += self._place @ gradient, share * (step @ step)
            self._steps += 1
        self._place, self._before = place, step

    def on_epoch_end(self, epoch, logs=None):
        fluctuation, dissipation = self._sums / self._steps if self._steps else 2 * [np.nan]
        self.found.append(
            {
                "fluctuation": float(fluctuation),
                "dissipation": float(dissipation),
                "temperature": float(dissipation / len(self._place)),
            }
        )
        if logs is not None:
            logs |= self.found[-1]
