"""SWA: average the weights along the trajectory.

SGD at a constant or cyclic learning rate walks around a flat region of the loss and rarely enters
it. The mean of the points that it visits lies inside. The same average around AdamW is Gadam, and
around Padam with decoupled weight decay GadamX.
"""

import keras
from keras import ops

from keras_smoothout import backend
from keras_smoothout.around import chain
from keras_smoothout.checks import check_count, check_number, check_precise
from keras_smoothout.method import Method, evaluation_weights
from keras_smoothout.weights import lerp


@keras.saving.register_keras_serializable("keras_smoothout")
class SWA(Method):
    """Stochastic weight averaging: evaluate the mean of the weights, and train on without it.

        w = inner_update(w, g)
        after update t, if t >= start and (t - start) % period == 0:
            mass = ema_decay * mass + 1
            average = average + (w - average) / mass

    `ema_decay=1` is the equal average of the paper. A smaller one is the exponential average, free
    of the bias to its start: the mean of `w` with weights `ema_decay**age`.

    The model holds the weights in training, and so do checkpoints; the average is in the
    optimizer's state. Evaluation, prediction and validation use the average, once there is one, and
    the weights in training before `start`. BatchNormalization's moving statistics are those of the
    weights in training: pass `ks.callbacks.Averages(data)` to `fit`, and save the average inside
    `with ks.weights_of(model, data)`. If `inner` has weights to evaluate, as Lookahead's slow
    ones, these are averaged. Constraints hold for the average. Works in any Keras model; in a plain
    `keras.Model`, evaluation uses the weights in training.

    Args:
        inner: Optimizer of the weights: an instance, a config or a name.
        start: Number of updates after which the average begins, a count of updates and not of
            calls under gradient accumulation; the paper's is about three quarters of the training.
            Defaults to `0`.
        period: Number of updates between two weights that are averaged; the paper's is an epoch, or
            a cycle of the learning rate. Defaults to `1`.
        ema_decay: Factor on the weight of the older ones at each average, in [0, 1]. Defaults to
            `1.0`.

    Raises:
        ValueError: If an argument is out of its range, or `inner` has `use_ema=True`.

    Reduces to: `inner` when `ema_decay=0` and `period=1`; its trajectory is always that of `inner`.
    Cost: 1 gradient per step and one copy of the weights that is kept.
    Differs from the paper: counts updates, not epochs, and leaves the learning rate to the inner
        optimizer (`ks.schedules.SWALearningRate`, `ks.schedules.Cyclic`).

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
        >>> model.compile(ks.SWA(keras.optimizers.SGD(0.5), start=20), "mse")
        >>> rng = np.random.default_rng(0)  # A line with much noise, a batch of 2 at a time.
        >>> x = rng.normal(size=(400, 1)).astype("float32")
        >>> history = model.fit(x, 2 * x + rng.normal(size=x.shape), batch_size=2, verbose=0)
        >>> last, (average, _) = model.get_weights()[0], model.optimizer.evaluation_weights()
        >>> bool(abs(average - 2) < abs(last - 2))
        True

    Reference: Izmailov et al., *Averaging Weights Leads to Wider Optima and Better Generalization*,
        UAI 2018, arXiv:1803.05407, Algorithm 1. Gadam: Granziol et al., *Iterate Averaging in the
        Quest for Best Test Error*, arXiv:2003.01247.
    """

    per_copy = keeps_weights = True

    def __init__(self, inner, start=0, period=1, ema_decay=1.0, **kwargs):
        check_count("start", start, 0)
        check_count("period", period)
        check_number("ema_decay", ema_decay, most=1)
        super().__init__(inner, **kwargs)
        if self.use_ema:
            raise ValueError(
                "`inner` must not average weights itself: leave out `use_ema`, and pass "
                f"`ema_decay` to `SWA`. Received: use_ema=True in {chain(self)[-1].name}"
            )
        self.start = start
        self.period = period
        self.ema_decay = ema_decay

    def build(self, variables):
        check_precise(variables)
        super().build(variables)
        self.average = self.slots("average")
        self.mass = self.add_variable((), dtype="float32", name="mass")

    def update(self, apply, grads, variables):
        apply(grads)
        since = self.iterations - self.start
        due = ops.logical_and(since >= 0, ops.equal(since % self.period, 0))

        def averaged():
            mass = self.ema_decay * backend.read(self.mass) + 1.0
            average, weights = [backend.read(v) for v in self.average], self._without()
            wide = keras.backend.result_type(*(w.dtype for w in weights), "float32")
            return [*lerp(average, weights, 1.0 / ops.cast(mass, wide)), mass]

        due = ops.logical_and(self.updated, due)
        backend.assign_if(due, [*self.average, self.mass], averaged)

    def evaluation_weights(self):
        begun = backend.read(self.mass) > 0
        average = [backend.read(v) for v in self.average]
        triples = zip(average, self._without(), self.trainable_variables, strict=True)
        return [
            ops.where(begun, v.constraint(mean) if v.constraint else mean, weight)
            for mean, weight, v in triples
        ]

    def _without(self):
        """The weights that would be evaluated if there were no average."""
        weights = evaluation_weights(self.inner) or self.trainable_variables
        return [ops.convert_to_tensor(w) for w in weights]
