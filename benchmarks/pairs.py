"""Ratios of times that a drift of the machine's speed does not move."""

import time


def pairs(plain, step, count, seconds=float("inf")):
    """Ratios of `step` over `plain`, which take turns to go first, and the times of `plain`."""
    ratios, baseline, start = [], [], time.perf_counter()
    while len(ratios) < count and time.perf_counter() - start < seconds:
        first, second = (plain, step) if len(ratios) % 2 else (step, plain)
        times = {first: first()}
        times[second] = second()
        ratios.append(times[step] / times[plain])
        baseline.append(times[plain])
    return ratios, baseline
