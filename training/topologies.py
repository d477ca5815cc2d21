"""The train step compiled for Cloud TPU chips that are not there: what it costs, whether it fits.

The compiler is that of a TPU. It is in libtpu, which `pip install "jax[tpu]"` brings, and compiles
on any machine.
"""

import importlib.util
import math
import os
import re
import time
from typing import NamedTuple

import keras

KINDS = {  # name: accelerator type of a machine, cores of a chip, GiB that a program can use.
    "v5e": ("v5litepod", 1, 15.75),
    "v5p": ("v5p", 2, 95.74),
    "v6e": ("v6e", 1, 31.25),
}
LARGEST = 16  # Chips along a side of a flat topology: for more the compiler ends the process.
COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "s8": 1, "u8": 1}
HOST = re.compile(r"\b(infeed|outfeed|send|recv|xla_\w*callback)\b")


class Cost(NamedTuple):
    """What one step costs one chip.

    The compiler counts a loop once. The loop over ghost batches is most of a step, so all counts
    are multiplied by the number of ghost batches: upper bounds, of operations a close one.

    Args:
        flops: floating-point operations.
        bytes: bytes that it reads and writes.
        temporary: bytes of temporary values.
        arguments: bytes of weights, optimizer's state and a batch.
        memory: bytes of everything that a chip holds during a step.
        exchanges: how many times chips exchange tensors.
        exchanged: bytes that come back from them.
        host: names of the operations that call the host.
        seconds: what compiling took.
    """

    flops: float
    bytes: float
    temporary: int
    arguments: int
    memory: int
    exchanges: int
    exchanged: int
    host: list
    seconds: float


def chips(topology):
    """Return the chips of a topology such as "v5e:4x4", JAX devices that can be compiled for.

    Raises:
        ValueError: If it is none, or libtpu is missing.
    """
    kind, _, sides = topology.partition(":")
    lengths = [int(side) for side in sides.split("x") if side.isdecimal()]
    flat = kind in ("v5e", "v6e")
    known = kind in KINDS and re.fullmatch(r"\d+x\d+" if flat else r"\d+x\d+x\d+", sides)
    if not known or flat and max(lengths) > LARGEST:
        raise ValueError(
            "--topology must name chips and how many there are along each side: v5e:2x2 to "
            f"v5e:16x16, v6e the same, or v5p:2x2x1 and more. Received: --topology={topology}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            '--topology needs the compiler of a TPU: pip install "jax[tpu]". Received: '
            f"--topology={topology} without libtpu"
        )
    accelerator, cores, _ = KINDS[kind]
    accelerator = f"{accelerator}-{cores * math.prod(lengths)}"
    os.environ |= {  # Or libtpu looks for a TPU, and lets one process at a time have it.
        "TPU_ACCELERATOR_TYPE": accelerator,
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    try:
        return topologies.get_topology_desc(topology, platform="tpu").devices
    except RuntimeError as error:
        raise ValueError(
            f"--topology is none that can be had: {error}. Received: --topology={topology}"
        ) from error


def capacity(topology):
    """The bytes of memory of a chip that a program can use."""
    return KINDS[topology.partition(":")[0]][2] * 2**30


def compiled(model, batch, distribution):
    """Return the step that `fit` takes in a `keras.distribution`, compiled for its devices.

    Args:
        model: A compiled Keras model with all of its variables.
        batch: Shapes of the images and of the labels.
        distribution: Where the variables and the parts of a batch are.
    """
    import jax

    def placed(shape, dtype, layout):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.backend_layout)

    parts = (model.trainable_variables, model.non_trainable_variables)
    parts += (model.optimizer.variables, model.metrics_variables)
    with distribution.scope():
        layout = distribution.get_variable_layout
        state = tuple([placed(v.shape, v.value.dtype, layout(v)) for v in p] for p in parts)
        data = tuple(placed(s, "float32", distribution.get_data_layout(s)) for s in batch)
        after = None, jax.tree.map(lambda x: x.sharding, state)
        step = jax.jit(model.train_step, donate_argnums=0, out_shardings=after)
        return step.lower(state, data).compile()


def cost(model, batch, distribution):
    """Return the `Cost` of a step; the arguments are those of `compiled`.

    Raises:
        RuntimeError: With RESOURCE_EXHAUSTED if the step does not fit.
    """
    began = time.perf_counter()
    step = compiled(model, batch, distribution)
    seconds = time.perf_counter() - began
    counted, memory, text = step.cost_analysis(), step.memory_analysis(), step.as_text()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    held += memory.output_size_in_bytes - memory.alias_size_in_bytes
    turns = max(1, batch[0][0] // (model.ghost_batch_size or batch[0][0]))
    return Cost(
        turns * counted["flops"],
        turns * counted["bytes accessed"],
        memory.temp_size_in_bytes,
        memory.argument_size_in_bytes,
        held + memory.generated_code_size_in_bytes,
        *(turns * number for number in exchanged(text)),
        sorted(set(HOST.findall(text))),
        seconds,
    )


def exchanged(text):
    """How many times chips exchange tensors in a program, and the bytes that come back."""
    found = re.findall(rf"= (.*?) (?:{COLLECTIVES})(?:-start)?\(", text)
    sizes = (pair for types in found for pair in re.findall(r"(\w+)\[([\d,]*)\]", types))
    total = sum(BYTES.get(t, 4) * math.prod(map(int, filter(None, n.split(",")))) for t, n in sizes)
    return len(found), total


def data_parallel(chips):
    """The distribution of `train.py --strategy=data_parallel` on these chips."""
    return keras.distribution.DataParallel(devices=chips)
