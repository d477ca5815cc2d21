"""`Whole`: the whole of an update, over ghost batches, replicas and accumulated calls."""

from keras import ops

from keras_smoothout import backend, keras_internals
from keras_smoothout.around import chain
from keras_smoothout.asks import handed


class Whole:
    """Mixin for a method: when an update is complete, its gradient, loss and extras."""

    _sums = ()  # Variables: the extras so far, under gradient accumulation.

    @property
    def updated(self):
        """Whether the last call was an update: one in several is under gradient accumulation."""
        return self._completed(0)

    @property
    def due(self):
        """Whether the next call will be an update."""
        return self._completed(1)

    def _completed(self, further):
        """Whether an update is complete after `further` calls, 0 or 1; some methods skip calls."""
        if isinstance(self.inner, Whole):
            return self.inner._completed(further)
        steps = self.inner.gradient_accumulation_steps
        return (keras_internals.calls(self.inner) + further) % steps == 0 if steps else True

    def mean_gradient(self, grads):
        """Return the gradient of an update, before `apply(grads)` in the call that completes it.

        It is the mean over replicas and, under gradient accumulation, over the calls of the update.
        A weight that the loss does not use has a gradient of 0.
        """
        innermost, grads = chain(self)[-1], self.unscaled(grads)
        steps = innermost.gradient_accumulation_steps
        if steps:
            before = map(backend.read, keras_internals.accumulated(innermost))
            grads = [(b + g) / steps for b, g in zip(before, grads, strict=True)]
        return backend.all_reduce_sum(grads)

    def unscaled(self, grads):
        """Return this replica's share of the gradient of a call, without the loss scale."""
        factor = chain(self)[-1].loss_scale_factor or 1.0
        pairs = zip(grads, self.trainable_variables, strict=True)
        return [ops.zeros_like(v) if g is None else backend.dense(g) / factor for g, v in pairs]

    def plus(self, grads, addition):
        """Return `grads`, changed so that their `mean_gradient` is greater by the list `addition`.

        Only in the call that completes an update; the others add nothing.
        """
        share = self.share(float(self.gradient_accumulation_steps or 1))
        return [
            g if g is None else backend.dense(g) + ops.cast(share, a.dtype) * a
            for g, a in zip(grads, addition, strict=True)
        ]

    def mean_extras(self):
        """Return the extras of an update, before `apply(grads)`; it must be called in each call.

        They are means over replicas and, under gradient accumulation, over the calls of the update.
        """
        means, steps = list(handed()[0].get(self, ())), self.gradient_accumulation_steps
        if self._sums:
            begins = keras_internals.calls(chain(self)[-1]) % steps == 0
            before = [ops.where(begins, 0, backend.read(s)) for s in self._sums]
            sums = [b + m for b, m in zip(before, means, strict=True)]
            for variable, value in zip(self._sums, sums, strict=True):
                variable.assign(value)
            means = [s / steps for s in sums]
        return backend.all_reduce_sum(means)

    def mean_loss(self):
        """Return the mean loss of the batch over replicas, in `update` but in no condition."""
        loss = handed()[1]
        if loss is None:
            raise RuntimeError(
                f"`{type(self).__name__}` has to know the loss, which this model's train step does "
                "not tell: use `keras_smoothout.wrap(model)`."
            )
        return ops.cast(backend.all_reduce_sum([loss])[0], "float32")

    def share(self, gradient):
        """This replica's share of `gradient`, in the unit of the gradients that `update` is given.

        What a method adds to a gradient is summed over replicas like the gradient itself.
        """
        scale = chain(self)[-1].loss_scale_factor or 1.0
        return gradient * scale / backend.unscale_loss(ops.ones((), "float32"))
