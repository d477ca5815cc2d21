"""`GradientNoiseScale`: how large a batch is still worth it, measured while a model trains."""

import contextlib
import math

import keras
from keras import ops

from keras_smoothout.callbacks.resuming import running_fit
from keras_smoothout.checks import check_share
from keras_smoothout.evaluation import sync
from keras_smoothout.model import TrainStep


class GradientNoiseScale(keras.callbacks.Callback):
    """The simple noise scale `B = S / ||G||**2`, from the ghost batches and replicas of each step.

        ||G||**2 = (b * |g_b|**2 - a * |g_a|**2) / (b - a)       of a ghost batch, a examples,
        S = (|g_a|**2 - |g_b|**2) / (1/a - 1/b)                  and of the batch, b examples
        B = mean of S / mean of ||G||**2                         running means, apart

    `G` is the gradient of all data, and `S` the variance of the gradients of single examples. To
    reach a loss with batches of `B` takes about twice as many updates as with endless ones, and
    twice as many examples as with tiny ones; batches far above it waste examples. The epoch's logs
    hold it as `gradient_noise_scale`, for the history, TensorBoard and CSVLogger: pass this
    callback before those. The gradients are those that the method asks for, so noise of SmoothOut
    that ghost batches do not share counts.

    Args:
        decay: Of the running means, for each step, in [0, 1). Defaults to `0.95`.
        batches: `NoiseScaleBatches` that `fit` trains on, whose batch size is to follow, or `None`.
            The logs then have each epoch's `batch_size`. Defaults to `None`.

    Raises:
        ValueError: If an argument is not as above; when the training begins, if the model does not
            have our train step, or neither ghost batches nor several replicas.

    Attributes:
        scales: List, the noise scale at the end of each epoch, in examples: infinite where `G` is
            lost in the noise, and NaN if no step had two ghost batches or replicas.

    Cost: 0 gradients; the norm of each ghost batch's gradient. Replicas sum up one gradient more.
    Differs from the paper: batch sizes are harmonic means where ghost batches differ in size, so
        the estimates have no bias. Weights of examples are not looked at. With BatchNormalization
        the gradient of an example depends on its ghost batch, so `S` is that of this size.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> model.compile("sgd", "mse", ghost_batch_size=8)
        >>> x = np.random.default_rng(0).normal(size=(64, 2))
        >>> scale = ks.GradientNoiseScale()
        >>> history = model.fit(x, x[:, :1], batch_size=32, verbose=0, callbacks=[scale])
        >>> scale.scales == history.history["gradient_noise_scale"]
        True

    Reference: McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018,
        arXiv:1812.06162, Appendix A.1 and Eq. (2.11).
    """

    def __init__(self, decay=0.95, batches=None):
        super().__init__()
        check_share("decay", decay)
        if batches is not None and not callable(getattr(batches, "begin", None)):
            raise ValueError(
                f"`batches` must be `NoiseScaleBatches` or None. Received: batches={batches!r}"
            )
        self.decay = decay
        self.batches = batches
        self.scales = []
        self.variables = None

    def set_model(self, model):
        super().set_model(model)
        strategy = getattr(model, "distribute_strategy", None)
        replicas = getattr(strategy, "num_replicas_in_sync", 1)
        if not isinstance(model, TrainStep) or replicas == 1 and model.ghost_batch_size is None:
            raise ValueError(
                "`GradientNoiseScale` compares gradients of parts of a batch: make the model with "
                "`keras_smoothout.wrap` or `keras_smoothout.Model`, and compile it with "
                f"`ghost_batch_size`, or train on several replicas. Received: a {type(model)}"
            )
        if self.variables is None:
            with strategy.scope() if replicas > 1 else contextlib.nullcontext():
                names = ("square", "trace", "measured")
                self.variables = [keras.Variable(0.0, trainable=False, name=n) for n in names]
        if running_fit(model) is not None:  # `on_train_begin` comes after the step is made.
            model.watch(self)

    def seen(self, values, small, large, small_rate, large_rate):
        """The next values of `variables`, as tensors.

        Args:
            values: List of tensors, the present ones.
            small: Mean squared norm of the gradients of ghost batches.
            large: Squared norm of the gradient of the batch.
            small_rate: One over the number of examples in a ghost batch.
            large_rate: One over the number of examples in the batch.
        """
        gap = small_rate - large_rate
        safe = ops.where(gap > 0, gap, 1.0)
        square = (small_rate * large - large_rate * small) / safe
        trace = (small - large) / safe
        usable = ops.logical_and(gap > 0, ops.isfinite(small + large))
        return [
            ops.where(usable, self.decay * old + (1 - self.decay) * new, old)
            for old, new in zip(values, (square, trace, 1.0), strict=True)
        ]

    def on_epoch_begin(self, epoch, logs=None):
        if self.batches is not None:
            self.batches.begin(epoch, self.scale())  # After `Checkpoint`, that of the file.

    def scale(self):
        """Return the noise scale now, in examples."""
        sync(self.model)
        square, trace, measured = (float(ops.convert_to_numpy(v)) for v in self.variables)
        return math.nan if measured == 0 else trace / square if square > 0 else math.inf

    def on_epoch_end(self, epoch, logs=None):
        self.scales.append(self.scale())
        if logs is not None:
            logs["gradient_noise_scale"] = self.scales[-1]
        if logs is not None and self.batches is not None:
            logs["batch_size"] = self.batches.batch_sizes[epoch * self.batches.updates]
