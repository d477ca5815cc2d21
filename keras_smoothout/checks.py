"""Checks of constructor arguments: each raises a `ValueError` that says what was received."""

import math

from keras.optimizers.schedules import LearningRateSchedule

PERTURBATIONS = ("replica", "shared")


def check_number(name, value, least=0, most=math.inf, alternative=""):
    """Raise unless `value` is a finite number from `least` to `most`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and least <= value <= most):
        limits = f">= {least}" if most == math.inf else f"in [{least}, {most}]"
        raise ValueError(
            f"`{name}` must be a finite number {limits}{alternative}. Received: {name}={value!r}"
        )


def check_strength(name, value):
    """Raise unless `value` is a finite number >= 0 or a schedule of such numbers."""
    if not isinstance(value, LearningRateSchedule):
        check_number(
            name, value, alternative=" or a `keras.optimizers.schedules.LearningRateSchedule`"
        )


def check_count(name, value, least=1):
    """Raise unless `value` is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer >= {least}. Received: {name}={value!r}")


def check_choice(name, value, choices):
    """Raise unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value!r}")


def check_names(name, value):
    """Raise if `value` is a string where a list of strings belongs."""
    if isinstance(value, str):
        raise ValueError(f"`{name}` must be a list of names. Received: {name}={value!r}")
