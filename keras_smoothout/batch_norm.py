"""Ghost batch normalization: a large batch with the statistics of small ones.

`ghost_batch_size` of `compile` cuts the whole step into ghost batches. The layer does so for
BatchNormalization alone, in one pass over the batch.
"""

import keras
from keras import layers, ops

from keras_smoothout.checks import check_count, check_ghosts, check_number
from keras_smoothout.moving_statistics import batch_norms, share_of


@keras.saving.register_keras_serializable("keras_smoothout")
class GhostBatchNormalization(layers.BatchNormalization):
    """BatchNormalization whose training statistics are those of small parts of the batch.

        for each ghost batch x_k of ghost_batch_size examples, the last one with the remainder:
            y_k = gamma * (x_k - mean(x_k)) / sqrt(var(x_k) + epsilon) + beta
            moving = momentum * moving + (1 - momentum) * statistics(x_k)

    All ghost batches are normalized at once. A last one of `n` examples, less than half of
    `ghost_batch_size`, tells little: it moves the statistics by `(n - 1) / (ghost_batch_size - 1)`
    of the last line only, so a single example by nothing. In inference the layer is plain
    BatchNormalization.

    Args:
        ghost_batch_size: Number of examples that share statistics. Defaults to `128`.
        **kwargs: As for `keras.layers.BatchNormalization`, except `renorm` and `synchronized`. A
            step applies `momentum` once for each ghost batch, so choose it as for batches of
            `ghost_batch_size`.

    Raises:
        ValueError: If an argument is out of its range; if a mask is passed; if a ghost batch of one
            example has only one number in each channel.

    Reduces to: BatchNormalization when the batch is not larger than `ghost_batch_size`, up to
        rounding.
    Cost: two more passes over the inputs than BatchNormalization.
    Differs from the paper: the moving statistics are updated by one ghost batch after another, as
        in the authors' code.

    Example:
        >>> import keras_smoothout as ks, numpy as np
        >>> layer = ks.GhostBatchNormalization(ghost_batch_size=2, epsilon=0)
        >>> x = np.array([[1.0], [3.0], [10.0], [30.0]])
        >>> [float(y) for y in layer(x, training=True)[:, 0]]
        [-1.0, 1.0, -1.0, 1.0]

    Reference: Hoffer et al., *Train longer, generalize better*, NIPS 2017, arXiv:1705.08741,
        Algorithm 1.
    """

    def __init__(self, ghost_batch_size=128, **kwargs):
        check_count("ghost_batch_size", ghost_batch_size)
        if kwargs.get("renorm") or kwargs.get("synchronized"):
            raise ValueError(
                "`GhostBatchNormalization` has separate statistics for each ghost batch: leave "
                f"out `renorm` and `synchronized`. Received: {kwargs}"
            )
        check_number("momentum", kwargs.get("momentum", 0.99), most=1)
        check_number("epsilon", kwargs.get("epsilon", 0.001))
        super().__init__(**kwargs)
        self.ghost_batch_size = ghost_batch_size

    def build(self, input_shape):
        super().build(input_shape)
        check_ghosts(self.ghost_batch_size, self, input_shape)

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable):
            return super().call(inputs, training=False)
        if mask is not None:
            raise ValueError(
                "`GhostBatchNormalization` cannot leave out masked steps of its inputs. Use "
                "`keras.layers.BatchNormalization` and `ghost_batch_size` of `compile`. "
                f"Received: a mask of shape {mask.shape}"
            )
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        size, counts = self._ghosts(x)
        means = self._ghost_means(x, size, counts)  # (ghosts, channels)
        centred = x - self._spread(means, x, size)
        variances = self._ghost_means(ops.square(centred), size, counts)
        scale = ops.rsqrt(variances + self.epsilon)
        if self.gamma is not None:
            scale = scale * ops.cast(self.gamma, x.dtype)
        y = centred * self._spread(scale, x, size)
        if self.beta is not None:
            shape = [1] * len(x.shape)
            shape[self.axis] = x.shape[self.axis]
            y = y + ops.reshape(ops.cast(self.beta, x.dtype), shape)
        self._move(self.moving_mean, means, share_of(counts[-1], size))
        self._move(self.moving_variance, variances, share_of(counts[-1], size))
        return ops.cast(y, self.compute_dtype)

    def _ghosts(self, x):
        """Size of a ghost batch, no more than the batch, and the number of examples in each."""
        batch = ops.shape(x)[0]
        least = min if isinstance(batch, int) else ops.minimum
        size = least(self.ghost_batch_size, batch)
        return size, ops.minimum(size, batch - size * ops.arange(-(-batch // size)))

    def _ghost_means(self, x, size, counts):
        """Mean of each ghost batch and channel: (batch, ..., channels) to (ghosts, channels)."""
        batch, ghosts = ops.shape(x)[0], ops.shape(counts)[0]
        axes = range(1, len(x.shape))
        places = [a for a in axes if a != self.axis % len(x.shape)]
        rows = ops.mean(x, axis=places) if places else x  # (batch, channels)
        padding = ops.zeros((ghosts * size - batch, rows.shape[1]), rows.dtype)
        rows = ops.concatenate([rows, padding], axis=0)
        sums = ops.sum(ops.reshape(rows, (ghosts, size, rows.shape[1])), axis=1)
        return sums / ops.cast(counts, rows.dtype)[:, None]

    def _spread(self, ghosts, x, size):
        """Repeat rows of (ghosts, channels) for each example, to broadcast against `x`."""
        batch = ops.shape(x)[0]
        rows = ops.repeat(ghosts, size, axis=0)[:batch]
        shape = [batch, *[1] * (len(x.shape) - 1)]
        shape[self.axis] = x.shape[self.axis]
        return ops.reshape(rows, shape)

    def _move(self, variable, statistics, last):
        """`moving += (1 - momentum) * (s - moving)` for each row `s` of `statistics`.

        The last row counts for the share `last` of that.
        """
        dtype = statistics.dtype
        momentum = ops.convert_to_tensor(self.momentum, dtype)
        share = (1 - momentum) * ops.cast(last, dtype)
        age = ops.cast(ops.arange(ops.shape(statistics)[0])[::-1, None], dtype)
        decay = (1 - share) * momentum ** (age[:-1] - 1)
        recent = (1 - momentum) * ops.sum(decay * statistics[:-1], axis=0) + share * statistics[-1]
        kept = (1 - share) * momentum ** age[0]
        variable.assign(
            ops.cast(kept, variable.dtype) * variable + ops.cast(recent, variable.dtype)
        )

    def get_config(self):
        return super().get_config() | {"ghost_batch_size": self.ghost_batch_size}


def convert(model, ghost_batch_size):
    """Return a copy of `model` with `GhostBatchNormalization` in place of BatchNormalization.

    Args:
        model: A built functional or sequential `keras.Model`. It stays unchanged. If it has ghost
            batches already, they take the new size in the copy.
        ghost_batch_size: Number of examples that share statistics.

    Returns:
        A model with the same weights, not compiled.

    Raises:
        ValueError: If there is no BatchNormalization to convert; if one is inside another layer, of
            a custom class, synchronized or renormalized; if the model is subclassed or not built.

    Example:
        >>> import keras, keras_smoothout as ks
        >>> inputs = keras.Input((4,))
        >>> model = keras.Model(inputs, keras.layers.BatchNormalization()(inputs))
        >>> ks.convert(model, 64).layers[1].ghost_batch_size
        64
    """
    check_count("ghost_batch_size", ghost_batch_size)
    if not (getattr(model, "outputs", ()) and batch_norms(model, frozen=True)):
        raise ValueError(
            "`convert` replaces BatchNormalization in built functional and sequential models. "
            f"Received: model={model!r}, which is no such model or has none"
        )

    renormalized = ("renorm", "synchronized")
    norms = batch_norms(model, frozen=True)
    other = [x.path for x in norms if any(getattr(x, n, False) for n in renormalized)]
    if other:
        raise ValueError(
            "`GhostBatchNormalization` is neither synchronized nor renormalized: make those layers "
            f"plain ones before `convert`. Received: a model with {', '.join(other)}"
        )

    def ghost(layer):
        if type(layer) in (layers.BatchNormalization, GhostBatchNormalization):
            config = layer.get_config() | {"ghost_batch_size": ghost_batch_size}
            return GhostBatchNormalization.from_config(config)
        return layer.__class__.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=ghost, recursive=True)
    norms = batch_norms(copy, frozen=True)
    left = [x.path for x in norms if not isinstance(x, GhostBatchNormalization)]
    if left:
        raise ValueError(
            "`convert` cannot replace BatchNormalization inside another layer, nor a class of its "
            "own: make a `GhostBatchNormalization` there. Received: a model with "
            f"{', '.join(left)}"
        )
    copy.set_weights(model.get_weights())
    return copy
