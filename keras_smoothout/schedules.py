"""Schedules over the iterations, for a method's strength or the warm-up of a learning rate.

SmoothOut's `radius` and SAM's `rho` take any Keras learning-rate schedule; so they take these.
Those for averages and ensembles come from `cycles`.
"""

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_smoothout.checks import check_count, check_number
from keras_smoothout.cycles import Cyclic, Join, SWALearningRate, Triangular, at
from keras_smoothout.saving import deserialized, serialized

__all__ = [
    "AnnealedRadius",
    "ConstantRadius",
    "Cyclic",
    "Join",
    "SWALearningRate",
    "ScaledUntil",
    "Strided",
    "TanhRadius",
    "Triangular",
    "WarmUp",
]


@keras.saving.register_keras_serializable("keras_smoothout")
class ConstantRadius(LearningRateSchedule):
    """The same radius at every iteration, as a float would be: `radius`.

    Args:
        radius: The value.
    """

    def __init__(self, radius):
        check_number("radius", radius)
        self.radius = radius

    def __call__(self, step):
        return ops.cast(self.radius, "float32")

    def get_config(self):
        return {"radius": self.radius}


@keras.saving.register_keras_serializable("keras_smoothout")
class AnnealedRadius(LearningRateSchedule):
    """A radius that falls as SGLD's noise does: `radius * sqrt(1 / (1 + step)**decay)`.

    Args:
        radius: Value at step 0.
        decay: Exponent of the variance's decay. Defaults to `0.55`.

    Example:
        >>> from keras_smoothout.schedules import AnnealedRadius
        >>> float(AnnealedRadius(0.02)(0)) > float(AnnealedRadius(0.02)(100)) > 0
        True

    Reference: Neelakantan et al., *Adding Gradient Noise Improves Learning for Very Deep Networks*,
        2015, arXiv:1511.06807, Eq. (1), with the exponent of SmoothOut's code.
    """

    def __init__(self, radius, decay=0.55):
        check_number("radius", radius)
        check_number("decay", decay)
        self.radius = radius
        self.decay = decay

    def __call__(self, step):
        return self.radius * (1.0 + ops.cast(step, "float32")) ** (-self.decay / 2)

    def get_config(self):
        return {"radius": self.radius, "decay": self.decay}


@keras.saving.register_keras_serializable("keras_smoothout")
class TanhRadius(LearningRateSchedule):
    """A radius that rises midway: `radius * (tanh(steepness * (step/total - 1/2)) + 1) / 2`.

    Args:
        radius: Value that the schedule tends to.
        total_steps: Number of steps of the whole training.
        steepness: Slope of the rise; with `10`, three quarters of it fall into the middle fifth of
            the training. Defaults to `10.0`.

    Example:
        >>> from keras_smoothout.schedules import TanhRadius
        >>> round(float(TanhRadius(0.02, total_steps=100)(50)), 4)
        0.01
    """

    def __init__(self, radius, total_steps, steepness=10.0):
        check_number("radius", radius)
        check_count("total_steps", total_steps)
        check_number("steepness", steepness)
        self.radius = radius
        self.total_steps = total_steps
        self.steepness = steepness

    def __call__(self, step):
        progress = ops.cast(step, "float32") / self.total_steps
        return self.radius * (ops.tanh(self.steepness * (progress - 0.5)) + 1.0) / 2.0

    def get_config(self):
        return {
            "radius": self.radius,
            "total_steps": self.total_steps,
            "steepness": self.steepness,
        }


class Around(LearningRateSchedule):
    """Base of schedules that change another one, a float or a `LearningRateSchedule`."""

    def __init__(self, schedule):
        if not isinstance(schedule, LearningRateSchedule):
            check_number("schedule", schedule)
        self.schedule = schedule

    def at(self, step):
        """Value of the other schedule."""
        return at(self.schedule, step)

    def get_config(self):
        return serialized({"schedule": self.schedule})

    @classmethod
    def from_config(cls, config):
        return cls(**deserialized(config))


@keras.saving.register_keras_serializable("keras_smoothout")
class ScaledUntil(Around):
    """Another schedule, times `factor` before step `steps`, for the smaller batches until then.

    Args:
        schedule: A float, or a `LearningRateSchedule`.
        steps: Number of steps to scale.
        factor: Factor on the learning rate.

    Example:
        >>> from keras_smoothout.schedules import ScaledUntil
        >>> [round(float(ScaledUntil(0.4, 100, factor=0.25)(step)), 3) for step in (0, 99, 100)]
        [0.1, 0.1, 0.4]
    """

    def __init__(self, schedule, steps, factor):
        super().__init__(schedule)
        check_count("steps", steps)
        check_number("factor", factor)
        self.steps = steps
        self.factor = factor

    def __call__(self, step):
        small = ops.cast(step, "float32") < self.steps
        return self.at(step) * ops.where(small, self.factor, 1.0)

    def get_config(self):
        return super().get_config() | {"steps": self.steps, "factor": self.factor}


@keras.saving.register_keras_serializable("keras_smoothout")
class WarmUp(Around):
    """A straight line up to another schedule: `start + (schedule(warmup_steps) - start) * t`.

    Args:
        schedule: A float, or the `LearningRateSchedule` that holds from `warmup_steps` on. Its
            steps are those of the whole training.
        warmup_steps: Number of steps of the line.
        start: Learning rate at step 0. Defaults to `0.0`.

    Example:
        >>> from keras_smoothout.schedules import WarmUp
        >>> [round(float(WarmUp(1.6, 100, start=0.1)(step)), 3) for step in (0, 50, 100, 150)]
        [0.1, 0.85, 1.6, 1.6]

    Reference: Goyal et al., 2017, arXiv:1706.02677, Section 2.2 (gradual warm-up).
    """

    def __init__(self, schedule, warmup_steps, start=0.0):
        super().__init__(schedule)
        check_count("warmup_steps", warmup_steps)
        check_number("start", start)
        self.warmup_steps = warmup_steps
        self.start = start

    def __call__(self, step):
        progress = ops.cast(step, "float32") / self.warmup_steps
        rising = self.start + (self.at(self.warmup_steps) - self.start) * progress
        return ops.where(progress < 1.0, rising, self.at(step))

    def get_config(self):
        return super().get_config() | {"warmup_steps": self.warmup_steps, "start": self.start}


@keras.saving.register_keras_serializable("keras_smoothout")
class Strided(Around):
    """Another schedule, read once in `stride` of its steps: `schedule(step * stride)`.

    The inner optimizer of `EntropySGD` counts updates, of which there is one in `langevin_steps`
    steps of `fit`. With this, a schedule made for the steps of `fit` fits it.

    Args:
        schedule: A float, or a `LearningRateSchedule`.
        stride: Number of steps for one that is counted.

    Example:
        >>> import keras
        >>> from keras_smoothout.schedules import Strided
        >>> schedule = keras.optimizers.schedules.PolynomialDecay(1.0, decay_steps=100)
        >>> round(float(Strided(schedule, 20)(4)), 4) == round(float(schedule(80)), 4)
        True
    """

    def __init__(self, schedule, stride):
        super().__init__(schedule)
        check_count("stride", stride)
        self.stride = stride

    def __call__(self, step):
        return self.at(step * self.stride)

    def get_config(self):
        return super().get_config() | {"stride": self.stride}
