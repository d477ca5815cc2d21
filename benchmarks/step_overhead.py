"""Step time of every method over the plain Keras step: `python -m benchmarks.step_overhead`.

All contenders run in one process on one batch. Each has its own model. They take turns step by
step, and each step is paired with the plain `keras.Model` step of the same turn. The table shows
the median of the ratios, which does not move when the machine's speed drifts, and their quartiles.
The first step, which traces and compiles, has a separate ratio: the median of `--firsts` pairs of
new processes, in CPU time. Set KERAS_BACKEND=jax for the other half. The methods are those of the
package's table. With `--steps`, several steps are timed together, for what a method does once in a
while.
"""

import argparse
import multiprocessing
import statistics
import time

import keras
import numpy as np

import keras_smoothout as ks
import models
from benchmarks.pairs import pairs
from keras_smoothout.methods import METHODS

SETTINGS = {  # model: input shape, batch size
    "f1": ((28, 28, 1), 256),
    "resnet20": ((32, 32, 3), 128),
}
CONTENDERS = {  # name: optimizer around another, arguments of compile
    "plain again": (lambda inner: inner, {}),
    **{
        row.cls.__name__: (row.cls, {})
        for row in METHODS.values()
        if not (row.callback or row.copies)
    },
    "SmoothOut normal": (lambda inner: ks.SmoothOut(inner, 0.01, "normal"), {}),
    "SmoothOut copies=2": (lambda inner: ks.SmoothOut(inner, 0.01, copies=2), {}),
    "SAM interval=5": (lambda inner: ks.SAM(inner, 0.05, interval=5), {}),
    "Lookahead(SmoothOut)": (lambda inner: ks.Lookahead(ks.SmoothOut(inner, 0.01)), {}),
    "ghost layers 64": (lambda inner: inner, {"ghost_layers": 64}),
    "ghost batch 64": (lambda inner: inner, {"ghost_batch_size": 64}),
    "SmoothOut, ghost batch 64": (
        lambda inner: ks.SmoothOut(inner, 0.01),
        {"ghost_batch_size": 64},
    ),
}
PERTURBED = {"statistics": "perturbed"}
OTHERS = {  # For `--methods` and `--over`, by name only.
    "plain": (None, {}),
    "perturbed statistics": (lambda inner: ks.SmoothOut(inner, 0.01, **PERTURBED), {}),
    "SmoothOut, ghost batch 128": (
        lambda inner: ks.SmoothOut(inner, 0.01),
        {"ghost_batch_size": 128},
    ),
    "perturbed statistics, ghost batch 128": (
        lambda inner: ks.SmoothOut(inner, 0.01, **PERTURBED),
        {"ghost_batch_size": 128},
    ),
}


def contender(model_name, batch_size, around, options, steps=1):
    """Return a function that takes `steps` steps on one random batch: the seconds of each."""
    shape, _ = SETTINGS[model_name]
    keras.utils.set_random_seed(0)
    model = models.build(model_name, shape, 10)
    options = dict(options)
    if "ghost_layers" in options:
        model = ks.convert(model, options.pop("ghost_layers"))
    if around is not None:
        model = ks.wrap(model)
    inner = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(
        around(inner) if around else inner,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile="auto",
        **options,
    )
    rng = np.random.default_rng(0)
    x = keras.ops.convert_to_tensor(rng.normal(size=(batch_size, *shape)).astype("float32"))
    y = keras.ops.convert_to_tensor(rng.integers(0, 10, batch_size))

    def step():
        start = time.perf_counter()
        for _ in range(steps):
            model.train_on_batch(x, y)
        return (time.perf_counter() - start) / steps

    return step


def first(*of):
    """Seconds of CPU time of the first step of a model in this process."""
    keras.backend.clear_session()
    step, start = contender(*of[:2], *(CONTENDERS | OTHERS)[of[2]]), time.process_time()
    step()
    return time.process_time() - start


def first_step(*of):
    """Return a function that gives what `first` says in a new process: nothing is compiled yet."""
    new = multiprocessing.get_context("forkserver")
    new.set_forkserver_preload([first.__module__])

    def seconds():
        with new.Pool(1) as pool:
            return pool.apply(first, of)

    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    known = CONTENDERS | OTHERS
    parser.add_argument("--methods", nargs="+", default=list(CONTENDERS), choices=known)
    parser.add_argument("--over", default="plain", choices=known, help="what the ratios are over")
    parser.add_argument("--batch_size", type=int, help="default: that of each model")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of steps for each method")
    parser.add_argument("--steps", type=int, default=1, help="steps in each of a pair")
    parser.add_argument("--firsts", type=int, default=5, help="pairs of first steps, 0 for none")
    parser.add_argument("--seconds", type=float, default=120, help="time limit for each method")
    args = parser.parse_args()
    print(f"keras {keras.__version__}, backend {keras.backend.backend()}")
    print(f"Ratios over: {args.over}")
    print("| model | batch | method | ratio | quartiles | ms of it | first step | s of it |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.models:
        size = args.batch_size or SETTINGS[name][1]
        for method in args.methods:
            both = args.over, method
            firsts, seconds = ["-"], ["-"]
            if args.firsts:
                firsts, seconds = pairs(*(first_step(name, size, of) for of in both), args.firsts)
                firsts, seconds = ([f"{statistics.median(n):.2f}"] for n in (firsts, seconds))
            plain, step = (contender(name, size, *known[of], args.steps) for of in both)
            for _ in range(3 if args.steps == 1 else 1):
                plain(), step()
            ratios, baseline = pairs(plain, step, args.pairs, args.seconds)
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"| {name} | {size} | {method} | {middle:.3f} | {low:.3f} to {high:.3f} "
                f"| {1000 * statistics.median(baseline):.1f} | {firsts[0]} | {seconds[0]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
