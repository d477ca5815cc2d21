"""Lookahead: k steps forward, one step back.

The inner optimizer explores with fast weights. Every `sync_period` updates, the slow weights move
part of the way to the fast ones, and the fast weights restart from there. This cancels most of the
inner optimizer's noise.
"""

import keras
from keras import ops

from keras_smoothout import backend
from keras_smoothout.checks import check_count, check_number
from keras_smoothout.method import Method
from keras_smoothout.weights import lerp


@keras.saving.register_keras_serializable("keras_smoothout")
class Lookahead(Method):
    """Average slowly what the inner optimizer does fast.

        fast = inner_update(fast, g)
        every sync_period updates:
            slow = slow + slow_step_size * (fast - slow)
            fast = slow

    The model holds the fast weights; they equal the slow ones after every `sync_period` updates.
    Evaluation, prediction and validation use the slow weights, unless the inner optimizer averages
    weights by `use_ema`. The inner optimizer keeps its momentum over a synchronization. Constraints
    hold for both. Where weights are set between two steps, by hand or by a callback such as
    `EarlyStopping(restore_best_weights=True)`, the slow ones start again from there; this is told
    by the first number of each weight. Works in any Keras model; in a plain `keras.Model`,
    evaluation uses the fast weights.

    Args:
        inner: Optimizer of the fast weights: an instance, a config or a name.
        sync_period: Number of updates between two synchronizations. Defaults to `5`.
        slow_step_size: Fraction of the way from slow to fast weights, in [0, 1]. Defaults to `0.5`.

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `inner` when `slow_step_size=1`.
    Cost: 1 gradient per step and one copy of the weights that is kept.
    Differs from the paper: nothing; slow weights start as the initial weights, as in the paper.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(ks.Lookahead(keras.optimizers.SGD(0.1, momentum=0.9)), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.01
        True

    Reference: Zhang et al., *Lookahead Optimizer: k steps forward, 1 step back*, NeurIPS 2019,
        arXiv:1907.08610, Algorithm 1.
    """

    per_copy = True
    restarts = keeps_weights = True

    def __init__(self, inner, sync_period=5, slow_step_size=0.5, **kwargs):
        check_count("sync_period", sync_period)
        check_number("slow_step_size", slow_step_size, most=1)
        super().__init__(inner, **kwargs)
        self.sync_period = sync_period
        self.slow_step_size = slow_step_size

    def build(self, variables):
        super().build(variables)
        self.slow = self.slots("slow", "weights")
        self.left = self.add_variable((len(self.slow),), dtype="float32", name="left")

    def update(self, apply, grads, variables):
        moved = ops.any(backend.read(self.left) != firsts(map(backend.read, variables)))
        backend.assign_if(moved, self.slow, lambda: list(map(backend.read, variables)))
        apply(grads)

        def synchronized():
            slow, fast = ([backend.read(v) for v in vs] for vs in (self.slow, variables))
            slow = lerp(slow, fast, self.slow_step_size)
            return 2 * [
                v.constraint(s) if v.constraint else s for v, s in zip(variables, slow, strict=True)
            ]

        due = ops.logical_and(self.updated, ops.equal(self.iterations % self.sync_period, 0))
        backend.assign_if(due, [*self.slow, *variables], synchronized)
        self.left.assign(firsts(map(backend.read, variables)))

    def evaluation_weights(self):
        return None if self.slow_step_size == 1 or self.use_ema else self.slow


def firsts(variables):
    """The first number of each variable or tensor, as one tensor."""
    flat = [ops.reshape(variable, (-1,)) for variable in variables]
    return ops.stack([ops.cast(numbers[0], "float32") for numbers in flat])
