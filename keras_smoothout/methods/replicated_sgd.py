"""Replicated SGD: several copies of the weights that are pulled towards their mean.

Where a minimum is wide, copies of the weights can stay near each other and still fit the data; in a
narrow one they cannot. So the mean of coupled copies ends in a wide minimum.
"""

import keras
from keras import ops

from keras_smoothout import backend
from keras_smoothout.checks import check_count, check_number, check_strength
from keras_smoothout.method import Method, check_copies, strength_at
from keras_smoothout.weights import balanced, copies_of


@keras.saving.register_keras_serializable("keras_smoothout")
class ReplicatedSGD(Method):
    """Descend the loss of each copy, with a spring from each copy to the mean of all.

        coupling_t = min(coupling * (1 + scoping)**t, largest_coupling)
        g_i = gradient_i + coupling_t * period * (w_i - mean(w))     every `period` updates
        w_i = inner_update(w_i, g_i)

    `t` counts updates from 0. The springs need `keras_smoothout.Copies`. The mean weights, which
    are evaluated there, follow the mean gradient whatever the coupling is.

    Args:
        inner: Optimizer of each copy: an instance, a config or a name.
        coupling: Strength of the springs: a float, or a `LearningRateSchedule` of the update.
            Defaults to `0.01`.
        scoping: Growth of the coupling per update. Defaults to `0.0`.
        largest_coupling: Limit of the coupling. Momentum included, the steps are stable while
            `learning_rate * coupling * period` is below 1 or so. Defaults to `1.0`.
        period: Number of updates between two pulls. Defaults to `1`.
        automatic_after: Updates without coupling, after which the unit of `coupling` is such that
            at `1.0` the springs hold as much energy as the loss at that point:
            `loss / (mean_i ||w_i - mean(w)||**2 / 2)`. `t` counts from there. Defaults to `0`: the
            unit is 1, from the start.

    Raises:
        ValueError: If an argument is out of its range; when it is built, if the variables are not
            those of a `Copies`.

    Reduces to: `inner` on each copy alone when `coupling=0`.
    Cost: 1 gradient per example, and the copies of the weights.
    Differs from the paper: `inner` can be any optimizer. The authors' later code pulls by
        `2 * coupling / copies` in our terms and multiplies the learning rate by `copies`; its unit
        is the loss of the first epoch, where ours is that of one batch.

    Example:
        >>> import keras, keras_smoothout as ks
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> copies = ks.Copies(model, copies=3, initial="different")
        >>> copies.compile(ks.ReplicatedSGD(keras.optimizers.SGD(0.1), coupling=0.1), "mse")
        >>> copies.optimizer.build(copies.trainable_variables)
        >>> before = copies.distances()
        >>> copies.optimizer.apply([0 * v.value for v in copies.trainable_variables])
        >>> (copies.distances() / before).round(3).tolist()
        [0.99, 0.99, 0.99]

    Reference: Baldassi et al., *Unreasonable effectiveness of learning neural networks*, PNAS 2016,
        arXiv:1605.06444; for deep networks Pittorino et al., *Entropic gradient descent algorithms
        and wide flat minima*, ICLR 2021, arXiv:2006.07897, Section 4 (from notes on it).
    """

    per_copy = True

    def __init__(
        self,
        inner,
        coupling=0.01,
        scoping=0.0,
        largest_coupling=1.0,
        period=1,
        automatic_after=0,
        **kwargs,
    ):
        check_strength("coupling", coupling)
        check_number("scoping", scoping)
        check_number("largest_coupling", largest_coupling)
        check_count("period", period)
        check_count("automatic_after", automatic_after, least=0)
        super().__init__(inner, **kwargs)
        self.coupling = coupling
        self.scoping = scoping
        self.largest_coupling = largest_coupling
        self.period = period
        self.automatic_after = automatic_after

    def build(self, variables):
        check_copies(self, variables)
        super().build(variables)
        if self.automatic_after:
            self.scale = self.add_variable((), dtype="float32", name="scale")

    def update(self, apply, grads, variables):
        if self.coupling == 0:
            apply(grads)
            return
        weights = [backend.read(v) for v in variables]
        on = ops.equal((self.iterations + 1) % self.period, 0)

        def stretched():
            return [w - ops.mean(w, 0, keepdims=True) for w in weights]

        zeros = [ops.zeros_like(w) for w in weights]
        away = stretched() if self.period == 1 else backend.cond(on, stretched, lambda: zeros)
        strength = self.share(self.period * self.strength(stretched))
        apply(
            [
                g if g is None else g + ops.cast(strength, g.dtype) * a
                for g, a in zip(grads, away, strict=True)
            ]
        )

    def strength(self, stretched):
        """The coupling of the next update."""
        t = self.iterations
        unit = 1.0
        if self.automatic_after:
            t = t - self.automatic_after
            unset = ops.logical_and(t >= 0, ops.equal(backend.read(self.scale), 0))
            loss, copies = self.mean_loss(), copies_of(self.trainable_variables)
            backend.assign_if(unset, [self.scale], lambda: [balanced(loss, stretched(), copies)])
            unit = backend.read(self.scale)
        grown = (1.0 + self.scoping) ** ops.cast(ops.maximum(t, 0), "float32")
        coupling = unit * strength_at(self.coupling, self.step()._replace(iteration=t))
        return ops.minimum(coupling * grown, self.largest_coupling)
