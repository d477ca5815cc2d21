"""What a measure returns: a value, and how far chance may have carried it."""

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


def mean(draws):
    """The mean of independent `draws`, at least 2 of them, as an `Estimate`."""
    draws = np.asarray(draws, "float64")
    return Estimate(float(draws.mean()), float(draws.std(ddof=1) / len(draws) ** 0.5))
