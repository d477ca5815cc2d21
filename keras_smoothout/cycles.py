"""Learning rates for averages and ensembles along a trajectory: they end high, or rise and fall.

All count steps, which are updates unless gradients are accumulated.
"""

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_smoothout.checks import check_count, check_number, check_strength
from keras_smoothout.saving import deserialized, serialized


@keras.saving.register_keras_serializable("keras_smoothout")
class SWALearningRate(LearningRateSchedule):
    """A high learning rate, a straight line down, and the constant rate of the average.

        t = step / start
        learning_rate                        until t = 0.5
        straight line to swa_learning_rate   until t = 0.9
        swa_learning_rate                    from then on

    Args:
        learning_rate: The rate at the beginning.
        swa_learning_rate: The rate while weights are averaged, about half of it.
        start: Number of steps after which the average begins, as for `keras_smoothout.SWA`.

    Example:
        >>> from keras_smoothout.schedules import SWALearningRate
        >>> rate = SWALearningRate(0.1, 0.05, start=100)
        >>> [round(float(rate(step)), 4) for step in (50, 70, 90, 200)]
        [0.1, 0.075, 0.05, 0.05]

    Reference: Izmailov et al., *Averaging Weights Leads to Wider Optima and Better Generalization*,
        UAI 2018, arXiv:1803.05407; the schedule of the authors' code.
    """

    def __init__(self, learning_rate, swa_learning_rate, start):
        check_number("learning_rate", learning_rate)
        check_number("swa_learning_rate", swa_learning_rate)
        check_count("start", start)
        self.learning_rate = learning_rate
        self.swa_learning_rate = swa_learning_rate
        self.start = start

    def __call__(self, step):
        progress = ops.cast(step, "float32") / self.start
        low = ops.clip((progress - 0.5) / 0.4, 0.0, 1.0)
        return self.learning_rate * (1.0 - low) + self.swa_learning_rate * low

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "swa_learning_rate": self.swa_learning_rate,
            "start": self.start,
        }


class Cycle(LearningRateSchedule):
    """Base of learning rates that repeat after `period` steps.

    Args:
        low: The lowest rate.
        high: The highest rate.
        period: Number of steps in a cycle.
    """

    def __init__(self, low, high, period):
        check_number("low", low)
        check_number("high", high)
        check_count("period", period)
        self.low = low
        self.high = high
        self.period = period

    def get_config(self):
        return {"low": self.low, "high": self.high, "period": self.period}


@keras.saving.register_keras_serializable("keras_smoothout")
class Cyclic(Cycle):
    """A sawtooth for SWA: straight down from `high` to `low`, reached in the last step of a cycle.

        t = (step % period + 1) / period
        (1 - t) * high + t * low

    Average after each `period` updates: `SWA(inner, start=n * period, period=period)`.

    Args:
        low: The rate of the last step in a cycle.
        high: The rate that the line falls from.
        period: Number of steps in a cycle.

    Example:
        >>> from keras_smoothout.schedules import Cyclic
        >>> [round(float(Cyclic(0.0, 0.4, period=4)(step)), 2) for step in range(5)]
        [0.3, 0.2, 0.1, 0.0, 0.3]

    Reference: Izmailov et al., 2018, arXiv:1803.05407, Section 3.1.
    """

    def __call__(self, step):
        step = ops.cast(step, "int32")
        t = ops.cast(step % self.period + 1, "float32") / self.period
        return (1.0 - t) * self.high + t * self.low


@keras.saving.register_keras_serializable("keras_smoothout")
class Triangular(Cycle):
    """The learning rate of fast geometric ensembles: from `high` down to `low` and up again.

        t = (step % period) / period
        high + (low - high) * (1 - abs(2 * t - 1))

    A member is taken where the rate is lowest, in the middle of each cycle:
    `ks.callbacks.Snapshots(start=period // 2, period=period)`.

    Args:
        low: The rate in the middle of a cycle.
        high: The rate at both of its ends.
        period: Number of steps in a cycle; an even one has a middle.

    Example:
        >>> from keras_smoothout.schedules import Triangular
        >>> [round(float(Triangular(0.0, 0.4, period=4)(step)), 2) for step in range(5)]
        [0.4, 0.2, 0.0, 0.2, 0.4]

    Reference: Garipov et al., *Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs*,
        NeurIPS 2018, arXiv:1802.10026; the schedule of the authors' code.
    """

    def __call__(self, step):
        step = ops.cast(step, "int32")
        t = ops.cast(step % self.period, "float32") / self.period
        return self.high + (self.low - self.high) * (1.0 - ops.abs(2.0 * t - 1.0))


@keras.saving.register_keras_serializable("keras_smoothout")
class Join(LearningRateSchedule):
    """One learning rate before step `steps`, and from there on another one that starts at its 0.

        first(step) if step < steps else second(step - steps)

    Args:
        first: A float, or a `LearningRateSchedule`.
        second: A float, or a `LearningRateSchedule`.
        steps: Number of steps of the first.

    Example:
        >>> from keras_smoothout.schedules import Join, Triangular
        >>> rate = Join(0.1, Triangular(0.0, 0.05, period=10), steps=100)
        >>> [round(float(rate(step)), 3) for step in (99, 100, 105)]
        [0.1, 0.05, 0.0]
    """

    def __init__(self, first, second, steps):
        for name, value in (("first", first), ("second", second)):
            check_strength(name, value)
        check_count("steps", steps)
        self.first = first
        self.second = second
        self.steps = steps

    def __call__(self, step):
        step = ops.cast(step, "int32")
        first = at(self.first, ops.minimum(step, self.steps - 1))
        second = at(self.second, ops.maximum(step - self.steps, 0))
        return ops.where(step < self.steps, first, second)

    def get_config(self):
        return serialized({"first": self.first, "second": self.second, "steps": self.steps})

    @classmethod
    def from_config(cls, config):
        return cls(**deserialized(config))


def at(schedule, step):
    """Value of a float or a schedule, as float32."""
    return ops.cast(schedule(step) if callable(schedule) else schedule, "float32")
