"""The course of a training: which epoch has which batches, and the schedules over its steps."""

from typing import NamedTuple

import keras

from keras_smoothout.scaling import Recipe
from keras_smoothout.schedules import AnnealedRadius, ScaledUntil, TanhRadius, WarmUp
from training import methods
from training.devices import Devices

ONE = Devices()


class Stage(NamedTuple):
    """Epochs of one batch size.

    Args:
        epochs: a `range` of epoch numbers.
        batch_size: in examples, over all replicas.
        steps: number of batches in an epoch.
    """

    epochs: range
    batch_size: int
    steps: int


class Course(NamedTuple):
    """All stages of a training, and the recipe they come from."""

    recipe: Recipe
    stages: tuple
    examples: int  # To train on.
    small_rate: float = 1.0  # Factor on the learning rate for batches of the base size.

    @property
    def epochs(self):
        return self.recipe.epochs

    def step_at(self, epoch):
        """The number of steps before an epoch."""
        return sum(
            stage.steps * len(stage.epochs[: max(0, epoch - stage.epochs.start)])
            for stage in self.stages
        )

    def learning_rate(self, options):
        """The learning rate over the steps; small batches at the start have their own."""
        rate, small = self.shape(options), self.step_at(options.small_batch_epochs)
        return ScaledUntil(rate, small, self.small_rate) if small else rate

    def shape(self, options):
        """The learning rate over the steps, as if all batches were large."""
        schedules, rate = keras.optimizers.schedules, self.recipe.learning_rate
        warmup, total = (self.step_at(e) for e in (options.warmup_epochs, self.epochs))
        if options.lr_schedule == "cosine":
            rising = {"warmup_target": rate, "warmup_steps": warmup} if warmup else {}
            return schedules.CosineDecay(0.0 if warmup else rate, total - warmup, **rising)
        if options.lr_schedule == "polynomial":
            highest = rate / (1 - warmup / total) ** options.lr_power  # `rate` after the warm-up.
            rate = schedules.PolynomialDecay(highest, total, 0.0, options.lr_power)
        if options.lr_schedule == "piecewise":
            last = [self.step_at(epoch) - 1 for epoch in self.recipe.milestones]
            rates = [rate * options.lr_decay**i for i in range(len(last) + 1)]
            rate = schedules.PiecewiseConstantDecay(last, rates)
        return WarmUp(rate, warmup) if warmup else rate

    def rate_at(self, options, epoch):
        """The learning rate at the start of an epoch, as a float."""
        rate = self.learning_rate(options)
        return float(rate(self.step_at(epoch))) if callable(rate) else rate

    def radius(self, options):
        """The radius of the noise over the steps."""
        if options.radius == "auto":
            return None
        if options.radius_schedule == "annealed":
            return AnnealedRadius(options.radius)
        if options.radius_schedule == "tanh":
            return TanhRadius(options.radius, self.step_at(self.epochs))
        return options.radius

    def __str__(self):
        lines = [
            f"epochs {s.epochs.start + 1} to {s.epochs.stop}: {s.steps} steps of batch size "
            f"{s.batch_size}"
            for s in self.stages
        ]
        return "\n".join([*lines, *self.recipe.why])


def plan(options, examples, devices=ONE):
    """Return the course that the options mean for `examples` examples, after checking both."""
    milestones = tuple(map(int, options.lr_milestones))
    base = options.base_batch_size or options.batch_size
    recipe = Recipe(base, options.learning_rate, options.epochs, milestones, options.warmup_epochs)
    if options.base_batch_size:
        recipe = recipe.for_batch_size(
            options.batch_size, options.scaling, options.regime_adaptation
        )
    small = range(options.small_batch_epochs)
    stages = ((small, base), (range(small.stop, recipe.epochs), options.batch_size))
    return Course(
        recipe,
        tuple(
            Stage(epochs, size, steps_per_epoch(options, examples, size, devices))
            for epochs, size in stages
            if epochs
        ),
        examples,
        options.learning_rate / recipe.learning_rate if recipe.learning_rate else 1.0,
    )


def steps_per_epoch(options, examples, batch_size, devices):
    """The number of batches in an epoch."""
    steps, rest = divmod(examples, batch_size)
    keep = rest > 0 and not options.drop_remainder
    flag = "--batch_size" if batch_size == options.batch_size else "--base_batch_size"
    received = f"Received: {flag}={batch_size}"
    if steps + keep == 0:
        raise ValueError(f"--drop_remainder leaves none of {examples} images. {received}")
    if batch_size % devices.replicas:
        raise ValueError(f"{flag} must be a multiple of the {devices.replicas} devices. {received}")
    if keep and (rest % devices.replicas if devices.even else rest < devices.replicas):
        raise ValueError(
            f"{flag} leaves {rest} images for {devices.replicas} devices: pass "
            f"--drop_remainder. {received}"
        )
    sizes = [batch_size, *[rest] * keep]
    check_parts(options, flag, sizes, 1 if devices.even else devices.replicas)
    if (steps + keep) % options.steps_per_execution:
        raise ValueError(
            f"--steps_per_execution must divide the {steps + keep} steps of an epoch. "
            f"Received: --steps_per_execution={options.steps_per_execution}"
        )
    return steps + keep


def check_parts(options, flag, sizes, replicas):
    """Raise if a batch, or a ghost batch of it, has no image for each copy of the weights."""
    ghost = 0 if options.ghost_layers else options.ghost_batch_size
    parts = [size // replicas for size in sizes]
    least = min(part % ghost or ghost if ghost and part > ghost else part for part in parts)
    copies = max(methods.copies(options, name) for name in options.compare or [options.method])
    if least < copies:
        raise ValueError(
            f"{flag} and --ghost_batch_size must leave an image for each copy of the weights in "
            f"every batch: choose others, or pass --drop_remainder. Received: {least} images for "
            f"{copies} copies"
        )
