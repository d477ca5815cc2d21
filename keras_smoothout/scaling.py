"""Large-batch rules: how learning rate, epochs and warm-up follow the batch size.

`Recipe.for_batch_size` turns a recipe that is tuned for small batches into one for large batches.
The factors that it uses are separate functions.
"""

import dataclasses
import math

import keras

from keras_smoothout.checks import (
    check_choice,
    check_count,
    check_number,
    check_switch,
    received,
)
from keras_smoothout.schedules import WarmUp

__all__ = ["Recipe", "linear_scaling", "random_matrix_scaling", "sqrt_scaling"]

RULES = ("linear", "sqrt", "none")


def linear_scaling(batch_size, base_batch_size):
    """`batch_size / base_batch_size`: the sum of the gradients keeps its length.

    Reference: Goyal et al., *Accurate, Large Minibatch SGD*, 2017, arXiv:1706.02677, Section 2.1.
    """
    check_count("batch_size", batch_size)
    check_count("base_batch_size", base_batch_size)
    return batch_size / base_batch_size


def sqrt_scaling(batch_size, base_batch_size):
    """`sqrt(batch_size / base_batch_size)`: the noise of the steps keeps its variance.

    Reference: Hoffer et al., *Train longer, generalize better*, NIPS 2017, arXiv:1705.08741,
        Section 4.
    """
    return math.sqrt(linear_scaling(batch_size, base_batch_size))


def random_matrix_scaling(
    batch_size, base_batch_size, outlier, variance, examples=None, adaptive=False
):
    """Ratio of the largest stable learning rates, `2 / lambda(B)`; its root if `adaptive`.

        b         = B / (1 - B / examples)
        lambda(B) = outlier + variance / (b * outlier)  if outlier > sqrt(variance / b)
                    2 * sqrt(variance / b)              otherwise

    The batch Hessian is the true one plus noise, whose spectrum widens as batches shrink: the rule
    is linear while noise dominates, and flat once the true outlier does.

    Args:
        batch_size: The batch size B to scale to.
        base_batch_size: The batch size to scale from.
        outlier: Largest eigenvalue of the Hessian of the whole training loss.
        variance: Variance of a Hessian element over examples, times the number of weights.
        examples: Number of training examples, or `None` for infinitely many. Defaults to `None`.
        adaptive: Whether the optimizer is adaptive, as Adam is. Defaults to `False`.

    Reference: Granziol et al., *Learning Rates as a Function of Batch Size*, JMLR 2022,
        arXiv:2006.09092.
    """
    check_count("batch_size", batch_size)
    check_count("base_batch_size", base_batch_size)
    check_number("outlier", outlier)
    check_number("variance", variance)
    if examples is not None:
        check_count("examples", examples)
    check_switch("adaptive", adaptive)

    def largest(batch):
        if examples is not None and batch >= examples:
            return outlier
        noise = variance / batch * (1 - batch / (examples or math.inf))
        return outlier + noise / outlier if outlier**2 > noise else 2 * math.sqrt(noise)

    base, new = largest(base_batch_size), largest(batch_size)
    if not (base and new):
        raise ValueError(
            "`outlier` must be > 0 without noise, as where `variance` is 0 or a batch holds all "
            f"`examples`. Received: outlier={outlier}, variance={variance}, examples={examples}"
        )
    ratio = base / new
    return math.sqrt(ratio) if adaptive else ratio


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained: what depends on the batch size, and nothing else.

    Args:
        batch_size: Number of examples in a batch.
        learning_rate: The highest learning rate.
        epochs: Number of epochs.
        milestones: Epochs after which the learning rate drops, in rising order. Defaults to `()`.
        warmup_epochs: Number of epochs in which the learning rate rises linearly. Defaults to `0`.
        ghost_batch_size: Argument of `compile`, or `None`. Defaults to `None`.
        why: What was changed, and why: a line for each change. Defaults to `()`.

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> from keras_smoothout.scaling import Recipe
        >>> small = Recipe(batch_size=128, learning_rate=0.1, epochs=200, milestones=(81, 122, 164))
        >>> large = small.for_batch_size(2048, rule="sqrt", regime_adaptation=True)
        >>> (large.learning_rate, large.epochs, large.milestones)
        (0.4, 3200, (1296, 1952, 2624))
    """

    batch_size: int
    learning_rate: float
    epochs: int
    milestones: tuple = ()
    warmup_epochs: int = 0
    ghost_batch_size: int | None = None
    why: tuple = ()

    def __post_init__(self):
        check_count("batch_size", self.batch_size)
        check_number("learning_rate", self.learning_rate)
        check_count("epochs", self.epochs)
        check_count("warmup_epochs", self.warmup_epochs, least=0)
        listed = isinstance(self.milestones, (tuple, list))
        if not listed or not all(type(epoch) is int for epoch in self.milestones):
            raise ValueError(
                "`milestones` must be a tuple of integers. "
                f"{received('milestones', self.milestones)}"
            )
        ends = [0, *self.milestones, self.epochs]
        if ends != sorted(set(ends)):
            raise ValueError(
                "`milestones` must rise, from 1 to below `epochs`. "
                f"Received: milestones={self.milestones}, epochs={self.epochs}"
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                "`warmup_epochs` must be less than `epochs`. "
                f"Received: warmup_epochs={self.warmup_epochs}, epochs={self.epochs}"
            )
        if self.ghost_batch_size is not None:
            check_count("ghost_batch_size", self.ghost_batch_size)
            if self.ghost_batch_size > self.batch_size:
                raise ValueError(
                    "`ghost_batch_size` must not exceed `batch_size`. Received: ghost_batch_size="
                    f"{self.ghost_batch_size}, batch_size={self.batch_size}"
                )

    def for_batch_size(
        self,
        batch_size,
        rule="sqrt",
        regime_adaptation=False,
        ghost_batch_size=None,
        warmup_epochs=None,
    ):
        """Return the recipe for another batch size; `print` it to see what changed and why.

        Args:
            batch_size: The new batch size.
            rule: `"sqrt"`, `"linear"` or `"none"`; or the factor on the learning rate, a number
                such as `random_matrix_scaling` returns. Defaults to `"sqrt"`.
            regime_adaptation: Whether epochs and milestones are stretched by
                `ceil(batch_size / self.batch_size)`, so that there are as many updates as before
                (more, if the sizes do not divide each other). Defaults to `False`.
            ghost_batch_size: The new size of ghost batches. Defaults to `None`: as before.
            warmup_epochs: The new number of warm-up epochs. Defaults to `None`: as before.
        """
        check_count("batch_size", batch_size)
        check_switch("regime_adaptation", regime_adaptation)
        changes, why = {"batch_size": batch_size}, []
        if isinstance(rule, str):
            check_choice("rule", rule, RULES)
            scaling = {"linear": linear_scaling, "sqrt": sqrt_scaling}.get(rule, lambda *_: 1.0)
            factor = scaling(batch_size, self.batch_size)
        else:
            check_number("rule", rule)
            factor = float(rule)
        if factor != 1:
            rate = changes["learning_rate"] = self.learning_rate * factor
            name = rule if isinstance(rule, str) else "given"
            why.append(f"learning rate {self.learning_rate:g} -> {rate:g}: {name} scaling")
        stretch = math.ceil(batch_size / self.batch_size) if regime_adaptation else 1
        if stretch > 1:
            changes["epochs"] = self.epochs * stretch
            changes["milestones"] = tuple(stretch * m for m in self.milestones)
            why.append(
                f"epochs {self.epochs} -> {changes['epochs']}, milestones with them: regime "
                "adaptation, as many updates as before"
            )
        if ghost_batch_size is not None:
            changes["ghost_batch_size"] = ghost_batch_size
            why.append(
                f"ghost batches of {ghost_batch_size}: statistics and noise of small batches"
            )
        if warmup_epochs is not None:
            changes["warmup_epochs"] = warmup_epochs
            why.append(f"warm-up of {warmup_epochs} epochs: large rates diverge from the start")
        why = [f"batch size {self.batch_size} -> {batch_size}", *why]
        return dataclasses.replace(self, **changes, why=tuple(why))

    def updates(self, examples):
        """Number of weight updates in a training on `examples` examples."""
        check_count("examples", examples)
        return self.epochs * math.ceil(examples / self.batch_size)

    def schedule(self, examples, decay=0.1):
        """The learning rate over the steps of a training on `examples` examples.

        It rises from 0 over `warmup_epochs`, and is then constant except that it is multiplied by
        `decay` after each milestone.
        """
        check_count("examples", examples)
        check_number("decay", decay)
        steps = math.ceil(examples / self.batch_size)
        rate = self.learning_rate
        if self.milestones:
            rates = [rate * decay**i for i in range(len(self.milestones) + 1)]
            last = [epoch * steps - 1 for epoch in self.milestones]
            rate = keras.optimizers.schedules.PiecewiseConstantDecay(last, rates)
        return WarmUp(rate, self.warmup_epochs * steps) if self.warmup_epochs else rate

    def __str__(self):
        values = dataclasses.asdict(self)
        lines = [f"{name}: {values[name]}" for name in values if name != "why"]
        return "\n".join([*lines, *(f"- {line}" for line in self.why)])
