"""What a measure returns: a value, and how far chance can have moved it."""

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A number and its standard error.

    Attributes:
        value: The estimate.
        standard_error: Standard deviation of the estimate over its random draws; 0 without any.
    """

    value: float
    standard_error: float = 0.0


def mean(draws, population=np.inf):
    """The mean of `draws` as an `Estimate`.

    Args:
        draws: Sequence of numbers, independent, or drawn without replacement from `population`.
        population: How many numbers there are to draw from; the mean of all of them is exact.
            Defaults to infinity.
    """
    draws = np.asarray(draws, "float64")
    left = 1 - len(draws) / population
    error = draws.std(ddof=1) * (left / len(draws)) ** 0.5 if left else 0.0
    return Estimate(float(draws.mean()), float(error))
