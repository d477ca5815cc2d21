"""Speed, traffic and memory against devices: `python -m benchmarks.replicas`.

Prints two tables, and writes them to benchmarks/SCALING.md with --write. TensorFlow, a thread for
each replica: F1 on random images, 64 for each replica, on replicas of one process
(MirroredStrategy) and on worker processes (MultiWorkerMirroredStrategy). Traffic is what passes the
loopback device in a step. Then the peak memory of a step of ResNet-20 at batch size 2048, over that
of the process before it. Each number is of a process of its own; speeds are medians of interleaved
repeats.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.faults import free_ports

ROOT = pathlib.Path(__file__).parents[1]
COUNTS = (1, 2, 4)
METHODS = ("SGD", "SmoothOut", "SAM")
EACH, STEPS, WARM = 64, 30, 10  # Images of a replica; timed steps; steps before them.
GHOSTS = (None, 512, 128)
LARGE = 2048


def optimizer(method):
    import keras

    import keras_smoothout as ks

    inner = keras.optimizers.SGD(0.05, momentum=0.9)
    return {"SGD": lambda x: x, "SmoothOut": ks.SmoothOut, "SAM": ks.SAM}[method](inner)


def compiled(name, image_shape, method, ghost_batch_size=None):
    import keras

    import keras_smoothout as ks
    import models

    model = ks.wrap(models.build(name, image_shape, 10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(method), loss, ghost_batch_size=ghost_batch_size)
    return model


def loopback():
    """Bytes that the loopback device has sent since the machine started."""
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        device, _, numbers = line.partition(":")
        if device.strip() == "lo":
            return int(numbers.split()[8])


def speed(kind, count, method):
    """Images a second and bytes a step of one process, which trains beside its fellows."""
    import keras
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    if kind == "replicas":
        logical = [tf.config.LogicalDeviceConfiguration()] * count
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, logical)
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = compiled("f1", (28, 28, 1), method)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count * EACH, 28, 28, 1)).astype("float32")
    y = rng.integers(0, 10, len(x))
    data = tf.data.Dataset.from_tensors((x, y)).cache().repeat()
    marks = []

    class Mark(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch in (WARM, WARM + STEPS):
                marks.append((time.perf_counter(), loopback()))

    model.fit(data, steps_per_epoch=WARM + STEPS + 1, verbose=0, callbacks=[Mark()])
    (begin, sent), (end, sent_then) = marks
    return len(x) * STEPS / (end - begin), (sent_then - sent) / STEPS


def memory(method, ghost_batch_size):
    """MiB that two steps need above what the process held before."""
    import numpy as np

    model = compiled("resnet20", (32, 32, 3), method, ghost_batch_size)
    x = np.zeros((LARGE, 32, 32, 3), "float32")
    y = np.zeros(LARGE, "int64")
    model.train_on_batch(x[:8], y[:8])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        model.train_on_batch(x, y)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def measured(what, *arguments, count=1):
    """What a process, or the first of `count`, measured."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(count)]}
    command = [sys.executable, "-m", "benchmarks.replicas", "--measure"]
    command.append(json.dumps([what, *arguments]))
    processes = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}
        environment = os.environ | {"KERAS_BACKEND": "tensorflow"} | config
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE)
        processes.append(process)
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{what} {arguments} failed.")
    return json.loads(outputs[0].splitlines()[-1])


def speeds(repeats):
    rows = {}
    for _ in range(repeats):
        for kind in ("replicas", "workers"):
            for count in COUNTS:
                for method in METHODS:
                    processes = count if kind == "workers" else 1
                    found = measured("speed", kind, count, method, count=processes)
                    rows.setdefault((kind, count, method), []).append(found)
                    print(kind, count, method, found, flush=True)
    lines = ["|  | method | images/s | efficiency | over that of SGD | KiB sent a step |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    middle = {key: [statistics.median(x) for x in zip(*rows[key], strict=True)] for key in rows}

    def efficiency(kind, count, method):
        return middle[kind, count, method][0] / middle[kind, 1, method][0] / count

    for (kind, count, method), (rate, sent) in middle.items():
        own = efficiency(kind, count, method)
        ratio = own / efficiency(kind, count, "SGD")
        traffic = f"{sent / 1024:,.0f}" if kind == "workers" and count > 1 else ""
        cells = (f"{count} {kind}", method, f"{rate:,.0f}", f"{own:.2f}", f"{ratio:.2f}", traffic)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def memories():
    lines = ["| method | whole batch | ghost 512 | ghost 128 |", "| --- | --- | --- | --- |"]
    for method in METHODS:
        found = [measured("memory", method, ghosts) for ghosts in GHOSTS]
        print(method, found, flush=True)
        lines.append(f"| {method} | {' | '.join(f'{x:,.0f}' for x in found)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write benchmarks/SCALING.md")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        what, *arguments = args.measure
        print(json.dumps({"speed": speed, "memory": memory}[what](*arguments)))
        return
    text = f"""# Scaling

`python -m benchmarks.replicas --repeats={args.repeats} --write`, {os.cpu_count()} cores.

F1, {EACH} images for each replica, a thread each. Efficiency is images/s over those of one replica
and the number of replicas; with more replicas than cores it cannot reach 1.

{speeds(args.repeats)}

Peak memory in MiB that a step of ResNet-20 at batch size {LARGE} adds.

{memories()}
"""
    print(text)
    if args.write:
        ROOT.joinpath("benchmarks", "SCALING.md").write_text(text)


if __name__ == "__main__":
    main()
