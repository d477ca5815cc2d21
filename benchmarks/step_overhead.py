"""Step time of every method over the plain Keras step: `python -m benchmarks.step_overhead`.

One process, one batch. Each contender has a model of its own; they take turns, step by step, and
each step is paired with the plain `keras.Model` step of the same turn. The table shows the median
of the ratios, which a drifting machine does not move, and their quartiles. Set KERAS_BACKEND=jax
for the other half.
"""

import argparse
import statistics
import time

import keras
import numpy as np

import keras_smoothout as ks
import models

SETTINGS = {  # model: input shape, batch size
    "f1": ((28, 28, 1), 256),
    "resnet20": ((32, 32, 3), 128),
}
METHODS = {  # name: gradients a step, optimizer around another, arguments of compile
    "plain again": (1, lambda inner: inner, {}),
    "SmoothOut": (1, lambda inner: ks.SmoothOut(inner, 0.01), {}),
    "SmoothOut normal": (1, lambda inner: ks.SmoothOut(inner, 0.01, "normal"), {}),
    "AdaSmoothOut": (1, lambda inner: ks.AdaSmoothOut(inner, 0.1), {}),
    "SmoothOut copies=2": (2, lambda inner: ks.SmoothOut(inner, 0.01, copies=2), {}),
    "SAM": (2, lambda inner: ks.SAM(inner, 0.05), {}),
    "SAM interval=5": (1.2, lambda inner: ks.SAM(inner, 0.05, interval=5), {}),
    "ASAM": (2, lambda inner: ks.ASAM(inner, 0.5), {}),
    "Lookahead": (1, lambda inner: ks.Lookahead(inner), {}),
    "Lookahead(SmoothOut)": (1, lambda inner: ks.Lookahead(ks.SmoothOut(inner, 0.01)), {}),
    "ghost layers 64": (1, lambda inner: inner, {"ghost_layers": 64}),
    "ghost batch 64": (1, lambda inner: inner, {"ghost_batch_size": 64}),
    "SmoothOut, ghost batch 64": (
        1,
        lambda inner: ks.SmoothOut(inner, 0.01),
        {"ghost_batch_size": 64},
    ),
}


def contender(model_name, around, options):
    """A compiled model that takes one step a call on the same random batch."""
    shape, batch_size = SETTINGS[model_name]
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
        model.train_on_batch(x, y)
        return time.perf_counter() - start

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--pairs", type=int, default=60, help="pairs of steps for each method")
    parser.add_argument("--seconds", type=float, default=120, help="bound for each method")
    args = parser.parse_args()
    print(f"keras {keras.__version__}, backend {keras.backend.backend()}")
    print("| model | batch | method | gradients | ratio | quartiles | plain ms | pairs |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.models:
        plain = contender(name, None, {})
        for method in args.methods:
            gradients, around, options = METHODS[method]
            step = contender(name, around, options)
            for _ in range(3):
                plain(), step()
            ratios, baseline, start = [], [], time.perf_counter()
            while len(ratios) < args.pairs and time.perf_counter() - start < args.seconds:
                first, second = (plain, step) if len(ratios) % 2 else (step, plain)
                times = {first: first()}
                times[second] = second()
                ratios.append(times[step] / times[plain])
                baseline.append(1000 * times[plain])
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"| {name} | {SETTINGS[name][1]} | {method} | {gradients} | {middle:.3f} "
                f"| {low:.3f} to {high:.3f} | {statistics.median(baseline):.1f} | {len(ratios)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
