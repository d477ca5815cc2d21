"""Schedule-Free: average instead of lowering the learning rate.

The inner optimizer takes its steps at a constant rate from a point of its own. The model holds the
average of these points, and gradients are taken between the two. No length of the training has to
be known in advance.
"""

import keras
from keras import ops

from keras_smoothout import backend
from keras_smoothout.around import chain
from keras_smoothout.checks import STATISTICS, check_choice, check_number, check_precise
from keras_smoothout.method import Method
from keras_smoothout.weights import add, assign, chosen, lerp


@keras.saving.register_keras_serializable("keras_smoothout")
class ScheduleFree(Method):
    """Train without a learning-rate schedule, by the average of the inner optimizer's points.

        y = interpolation * x + (1 - interpolation) * z      where the gradient is taken
        z = inner_update(z, gradient(y))
        rate = max(rate, learning_rate)
        mass = memory * mass + rate**2
        x = x + (z - x) * rate**2 / mass                     what the model holds

    The model holds the average x at all times, so evaluation, checkpoints and callbacks need no
    change of mode. The optimizer keeps `z - x`: weights that are set from outside move both.
    A learning rate that rises at the start is welcome (`ks.schedules.WarmUp`); one that falls is
    not needed. Around another method, it is the outermost: `ScheduleFree(SAM(...))`.

    Args:
        inner: Optimizer of the points z: an instance, a config or a name. It should have no
            momentum (`SGD`, or `Adam(beta_1=0.0)`), which `interpolation` stands for.
        interpolation: Where between z and x the gradient is taken, in [0, 1]: 0 is the average of
            plain steps (Polyak), 1 takes gradients at the average. Defaults to `0.9`.
        memory: Factor on the weight of the older points in each step, in [0, 1]; 1 forgets none, as
            in the paper, and 0 all. Defaults to `1.0`.
        statistics: `"clean"` for BatchNormalization's moving statistics of x, which the model is
            evaluated with, by a forward pass in addition; `"perturbed"` for those of the one pass,
            at y. Defaults to `"clean"`.

    Raises:
        ValueError: If an argument is out of its range, or `inner` has `use_ema=True`.

    Reduces to: `inner` when `memory=0`.
    Cost: 1 gradient per step, one copy of the weights and one that is kept; with
        BatchNormalization, a forward pass of 32 examples, or of a sixteenth of the batch.
    Differs from the paper: `memory`; a decoupled weight decay of the inner optimizer acts on z,
        where the authors' code decays at y (as an L2 loss does here).

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> model.compile(ks.ScheduleFree(keras.optimizers.SGD(0.5)), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.01
        True

    Reference: Defazio et al., *The Road Less Scheduled*, NeurIPS 2024, arXiv:2405.15682, the update
        rule of the authors' code. The paper's text was not checked.
    """

    per_copy = keeps_weights = sets_weights = transforms = True

    def __init__(self, inner, interpolation=0.9, memory=1.0, statistics="clean", **kwargs):
        check_number("interpolation", interpolation, most=1)
        check_number("memory", memory, most=1)
        check_choice("statistics", statistics, STATISTICS)
        super().__init__(inner, **kwargs)
        if self.use_ema:
            raise ValueError(
                "`inner` must not average weights itself, as `ScheduleFree` does: leave out "
                f"`use_ema`. Received: use_ema=True in {chain(self)[-1].name}"
            )
        self.interpolation = interpolation
        self.memory = memory
        self.statistics = statistics

    def build(self, variables):
        check_precise(variables)
        super().build(variables)
        self.ahead = self.slots("ahead")  # z - x
        self.rate = self.add_variable((), dtype="float32", name="rate")
        self.mass = self.add_variable((), dtype="float32", name="mass")

    def gradients(self, evaluate, weights, step):
        if self.memory == 0:
            return evaluate(weights)
        ahead = [backend.read(v) for v in self.ahead]
        return evaluate(add(weights, 1.0 - self.interpolation, ahead))

    def update(self, apply, grads, variables):
        x, ahead = ([backend.read(v) for v in vs] for vs in (variables, self.ahead))
        rate = ops.maximum(backend.read(self.rate), ops.cast(self.learning_rate, "float32"))
        mass = self.memory * backend.read(self.mass) + ops.square(rate)
        share = ops.where(mass > 0, ops.square(rate) / ops.where(mass > 0, mass, 1.0), 1.0)
        assign(variables, add(x, 1.0, ahead))
        apply(grads)
        z, updated = [backend.read(v) for v in variables], self.updated
        average = [
            v.constraint(mean) if v.constraint else mean
            for v, mean in zip(variables, lerp(x, z, share), strict=True)
        ]
        new = [*average, *add(z, -1.0, average), rate, mass]
        old = [*x, *ahead, backend.read(self.rate), backend.read(self.mass)]
        state = [*variables, *self.ahead, self.rate, self.mass]
        assign(state, chosen(updated, new, old))
