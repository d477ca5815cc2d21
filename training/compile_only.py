"""`--compile_only`: whether TPU chips that are not there hold the step of a run."""

import numpy as np

from keras_smoothout import keras_internals
from training import devices, runs, topologies


def report(options, names, source, course, there):
    """Print what a step of each method costs; return which ones do not fit, or `None`."""
    for split in (source.train, source.test):  # As a run checks them.
        if split.examples:
            runs.evaluation_size(split, there)
    size = course.stages[-1].batch_size
    print(
        f"{options.model} on {options.dataset}: {size} images of {source.image_shape} for "
        f"{there.replicas} chips, {options.topology}. Compiling takes minutes."
    )
    if not source.test.examples:
        print(f"{options.dataset} is not prepared here: an epoch is taken to have one batch.")
    refused = []
    for name in names:
        model = runs.build(options, name, options.seed, source, course)
        batch = (size, *source.image_shape), (size, source.classes)
        keras_internals.build_by(model, [np.zeros((2, *shape[1:]), "float32") for shape in batch])
        parallel = topologies.data_parallel(there.chips)
        try:
            cost = topologies.cost(model, batch, parallel)
        except RuntimeError as error:
            cause = devices.cause(error)
            if cause is None:
                raise
            refused.append(f"{name} does not fit {options.topology}. {cause}")
            continue
        print(f"\n{table(name, cost, topologies.capacity(options.topology))}", flush=True)
    return "\n".join(refused) or None


def table(name, cost, capacity):
    """A method's `Cost`, in lines."""
    held = f"{cost.arguments / 1e9:.3f} arguments, {cost.temporary / 1e9:.3f} temporary values"
    rows = {
        "memory": f"{cost.memory / 1e9:.3f} of {capacity / 1e9:.1f} GB: {held}",
        "operations": f"{cost.flops / 1e9:.1f} GFLOP",
        "read and written": f"{cost.bytes / 1e9:.3f} GB",
        "exchanges": f"{cost.exchanges}, {cost.exchanged / 1e6:.2f} MB",
        "calls to the host": ", ".join(cost.host) or "none",
        "compiled in": f"{cost.seconds:.0f} s",
    }
    lines = [f"  {label:20}{value}" for label, value in rows.items()]
    return "\n".join([f"{name} fits. One step takes, on each chip:", *lines])
