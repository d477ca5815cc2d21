"""What a train step costs on a Cloud TPU, by its real compiler and without one: TPU.md.

    pip install "jax[tpu]"
    KERAS_BACKEND=jax python -m benchmarks.tpu

The compiler in libtpu compiles for chips that are not there. Each row is the step that `fit` takes,
with the batch cut over all chips: floating-point operations and bytes that a chip reads and writes,
memory that it needs for temporary values and for arguments, how often and how many bytes chips
exchange, and whether the step calls the host. One JSON line for each goes to benchmarks/tpu.jsonl;
what has a line is not compiled again. `--write` only writes the page.
"""

import os

TOPOLOGIES = {  # name: type of accelerator, as the environment of such a machine says it.
    "v5e:2x2": "v5litepod-4",
    "v5e:4x4": "v5litepod-16",
    "v5p:2x2x2": "v5p-16",
    "v6e:4x4": "v6e-16",
}
SETTINGS = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
SETTINGS |= {"TPU_WORKER_HOSTNAMES": "localhost", "TF_CPP_MIN_LOG_LEVEL": "3"}
if __name__ == "__main__":
    os.environ |= SETTINGS

import argparse
import json
import math
import pathlib
import re
import subprocess
import sys
import time

import keras
import numpy as np

import keras_smoothout as ks
import models
from benchmarks import report

RESULTS = pathlib.Path(__file__).with_suffix(".jsonl")
PAGE = pathlib.Path(__file__).with_name("TPU.md")
MODELS = {  # name: shape of an image, classes, and the global batch.
    "resnet20": ((32, 32, 3), 10, 2048),
    "resnet50": ((224, 224, 3), 1000, 1024),
}
METHODS = {  # name: optimizer around another, arguments of compile.
    "SGD": (lambda inner: inner, {}),
    "SmoothOut": (ks.SmoothOut, {}),
    "SmoothOut, perturbed statistics": (lambda o: ks.SmoothOut(o, statistics="perturbed"), {}),
    "AdaSmoothOut": (ks.AdaSmoothOut, {}),
    "SAM": (ks.SAM, {}),
    "Lookahead": (ks.Lookahead, {}),
    "LAMB": (lambda inner: ks.LAMB(0.01), {}),
    "SWA": (ks.SWA, {}),
    "SGD, ghost batches of 128": (lambda inner: inner, {"ghost_batch_size": 128}),
    "SmoothOut, ghost batches of 128": (ks.SmoothOut, {"ghost_batch_size": 128}),
}
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "s8": 1, "u8": 1}
HOST = re.compile(r"\b(infeed|outfeed|send|recv|xla_python_\w*callback|HostCallback)\b")


def devices(topology):
    """The chips of a topology, none of which is there."""
    os.environ["TPU_ACCELERATOR_TYPE"] = TOPOLOGIES[topology]
    from jax.experimental import topologies

    return topologies.get_topology_desc(topology, platform="tpu").devices


def compiled(model, shape, classes, batch_size, chips):
    """The compiled step of a compiled model, with the batch cut over `chips`."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(chips), ("batch",))

    def of(array, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    x = np.empty((batch_size, *shape), "float32")
    y = np.empty((batch_size, classes), "float32")
    model.optimizer.build(model.trainable_variables)
    keras_smoothout_build(model, x[:2], y[:2])
    parts = model.trainable_variables, model.non_trainable_variables
    parts += model.optimizer.variables, model.metrics_variables
    state = tuple([of(v.value) for v in part] for part in parts)
    step = jax.jit(model.train_step, donate_argnums=0)
    return step.lower(state, (of(x, "batch"), of(y, "batch"))).compile()


def keras_smoothout_build(model, x, y):
    """Make the metrics' variables, as `fit` does before its first step."""
    model._symbolic_build(data_batch=(x, y))


def exchanged(text):
    """How many times chips exchange tensors in a step, and their bytes."""
    count = total = 0
    for line in text.splitlines():
        found = re.search(rf"= (.*?) ({KINDS})(-start)?\(", line)
        if found:
            count += 1
            for kind, sizes in re.findall(r"(\w+)\[([\d,]*)\]", found[1]):
                total += BYTES.get(kind, 4) * math.prod(map(int, filter(None, sizes.split(","))))
    return count, total


def measured(name, method, topology):
    """The numbers of a row."""
    shape, classes, batch_size = MODELS[name]
    chips = devices(topology)
    keras.config.set_dtype_policy("mixed_bfloat16")
    around, options = METHODS[method]
    model = ks.wrap(models.build(name, shape, classes, 1e-4))
    optimizer = around(keras.optimizers.SGD(0.1, momentum=0.9))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **options)
    began = time.perf_counter()
    step = compiled(model, shape, classes, batch_size, chips)
    seconds = time.perf_counter() - began
    cost, memory, text = step.cost_analysis(), step.memory_analysis(), step.as_text()
    cost = cost[0] if isinstance(cost, list) else cost
    count, total = exchanged(text)
    return {
        "model": name,
        "method": method,
        "topology": topology,
        "chips": len(chips),
        "batch_size": batch_size,
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "temporary": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "exchanges": count,
        "exchanged": total,
        "host": sorted(set(HOST.findall(text))),
        "seconds": round(seconds, 1),
    }
