"""What a side measures, one JSON line for each row; `benchmarks.peers` starts it where it runs.

python -m benchmarks.sides ours f1,SAM plain,LAMB
"""

import argparse
import functools
import importlib
import json
import os
import statistics
import time

import numpy as np

from benchmarks.closed_forms import PROBLEMS, STEPS
from benchmarks.pairs import pairs


def timed(step):
    """CPU seconds of a step, of all threads of this process."""

    def seconds():
        start = time.process_time()
        step()
        return time.process_time() - start

    return seconds


@functools.cache  # One model of each baseline: to compile it takes longer than to time it.
def baseline_of(side, network, baseline):
    return timed(side.contender(network, baseline)[0])


def ratios(side, network, method, count):
    """Quartiles of the ratios of a step over the plain one, and the median time of that."""
    baseline = "Adam" if method == "LAMB" else "SGD"
    plain = baseline_of(side, network, baseline)
    step = timed(side.contender(network, method)[0])
    for _ in range(3):
        plain(), step()
    found, times = pairs(plain, step, count)
    quartiles = [round(q, 4) for q in statistics.quantiles(found, n=4)]
    return {"baseline": baseline, "quartiles": quartiles, "pairs": count} | {
        "milliseconds": round(1000 * statistics.median(times), 2)
    }


def after(side, problem, method):
    """The weights after a few steps, and BatchNormalization's moving mean if there is one."""
    step, weights = side.contender(problem, method)
    for _ in range(STEPS):
        step()
    return {
        key: [np.asarray(array, "float64").tolist() for array in arrays]
        for key, arrays in zip(("weights", "moving"), weights(), strict=True)
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", help="a module of benchmarks.sides")
    parser.add_argument("rows", nargs="+", help="a network or problem, a comma and a method")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of steps for each row")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # One core, and one thread in each pool.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    side = importlib.import_module(f"benchmarks.sides.{args.side}")
    for network, method in (row.split(",") for row in args.rows):
        row = {"network": network, "method": method, "version": side.VERSION}
        if network in PROBLEMS:
            row |= after(side, network, method)
        else:
            row |= ratios(side, network, method, args.pairs)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
