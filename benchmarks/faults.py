"""Runs that are killed again and again: `python -m benchmarks.faults --kills=100`.

Each kind of run is trained once undisturbed, in one process, and once more under SIGKILL: at random
moments, and in the middle of writing a checkpoint. A killed run is started again, with the same
flags, until it ends. Its last checkpoint must equal that of the undisturbed run to the bit, with
the same rows of metrics and no file that cannot be read. So two workers must also train as two
devices of one process do. Of two workers one is killed. TensorFlow's other worker must end by
itself; JAX's would take minutes to notice, and is killed as well. Prints a table; with --write it
goes into benchmarks/FAULTS.md.
"""

import argparse
import contextlib
import csv
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np

from keras_smoothout.checkpoint_files import checkpoints

ROOT = pathlib.Path(__file__).parents[1]
EPOCHS = 12
FLAGS = ("--train_examples=96", "--batch_size=32", "--method=lookahead+smoothout", "--augment=crop")
FLAGS += ("--lr_schedule=cosine", "--model=f1", "--verbose=0", "--resume_or_begin")
KINDS = {  # name: backend, processes, their strategy, and that of the undisturbed process
    "TensorFlow": ("tensorflow", 1, ["default"], ["default"]),
    "JAX": ("jax", 1, ["default"], ["default"]),
    "TensorFlow, two workers": ("tensorflow", 2, ["multi_worker"], ["mirrored", "--devices=2"]),
    "JAX, two processes": ("jax", 2, ["data_parallel"], ["data_parallel", "--devices=2"]),
}
PATIENCE = 300  # Seconds that a run may take, or that a worker may stay alive alone.


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("localhost", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def started(workdir, backend, count, *flags):
    """Start the processes of a run, which begins or continues."""
    addresses = [f"localhost:{port}" for port in free_ports(count)]
    command = [sys.executable, ROOT / "train.py", *FLAGS, *flags, f"--workdir={workdir}"]
    processes = []
    for index in range(count):
        environment = os.environ | {"KERAS_BACKEND": backend}
        task = {"type": "worker", "index": index}
        if backend == "jax" and count > 1:
            environment |= {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": addresses[0],
                "KERAS_DISTRIBUTION_NUM_PROCESSES": f"{count}",
                "KERAS_DISTRIBUTION_PROCESS_ID": f"{index}",
            }
        elif count > 1:
            cluster = {"worker": addresses}
            environment |= {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}
        with open(workdir.with_suffix(f".{index}.log"), "a") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return processes


def ended(processes, workdir):
    """Wait for all processes; exit with the log of the first that failed."""
    try:
        codes = [process.wait(PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(codes):
        log = workdir.with_suffix(f".{[bool(c) for c in codes].index(True)}.log")
        raise SystemExit(f"{workdir.name} ended with {codes}:\n{log.read_text()[-3000:]}")


def unfinished(workdir):
    """Checkpoints that are being written or were left unfinished, and the times of their files."""
    found = set()
    for path in workdir.glob("unfinished-epoch-*"):
        with contextlib.suppress(FileNotFoundError):  # Finished in between.
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def kill(processes, workdir, chance, in_a_write):
    """Kill one process; return whether a checkpoint was being written, `None` if it was too late.

    The moment is during a write, or up to a second after the run has made progress.
    """
    victim = chance.choice(processes)
    known, left = set(workdir.glob("epoch-*.npz")), unfinished(workdir)
    delay = None
    while all(process.poll() is None for process in processes):
        writing = bool(unfinished(workdir) - left)
        if delay is None and (writing or set(workdir.glob("epoch-*.npz")) - known):
            delay = time.monotonic() + (0 if in_a_write else chance.random())
        if delay is not None and time.monotonic() >= delay and (writing or not in_a_write):
            victim = processes[0] if in_a_write else victim  # The one that writes.
            victim.send_signal(signal.SIGKILL)
            writing = bool(unfinished(workdir) - left)
            for process in processes:
                if "data_parallel" in process.args:
                    process.kill()
                process.wait(PATIENCE)
            return writing
        time.sleep(0.001)
    return None


def state(workdir):
    """The arrays of the newest checkpoint."""
    newest = checkpoints(workdir)[-1]
    with np.load(newest) as arrays:
        return newest.name, list(arrays.values())


def metrics(workdir):
    """The rows of metrics.csv but for the times."""
    with open(workdir / "metrics.csv", newline="") as file:
        return [row | {"seconds": None} for row in csv.DictReader(file)]


def check(workdir, reference, rows=True):
    """Raise unless a run is whole and equal to another one, also in the rows of metrics.csv."""
    for path in workdir.glob("epoch-*.npz"):
        np.load(path).close()
    if rows:
        ours, theirs = metrics(workdir), metrics(reference)
        assert ours == theirs, f"{workdir}: {ours} is not {theirs}"
    (name, ours), (other, theirs) = state(workdir), state(reference)
    assert name == other, f"{workdir}: {name} is not {other}"
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_array_equal(a, b, err_msg=f"{workdir}, array {i}")


def soak(kind, kills, folder, epochs=EPOCHS, seed=0):
    """The row of a kind of run: kills, kills during a write, runs that were killed, seconds."""
    chance, began = random.Random(seed), time.monotonic()
    backend, count, strategy, alone = KINDS[kind]
    flags = (f"--epochs={epochs}", "--strategy", *strategy)
    name = kind.lower().replace(", ", "-").replace(" ", "-")
    reference = folder / f"{name}-reference"
    ended(started(reference, backend, 1, *flags, "--strategy", *alone), reference)
    hits, runs = [], 0
    while len(hits) < kills:
        runs += 1
        workdir = folder / f"{name}-{runs}"
        while len(hits) < kills:
            processes = started(workdir, backend, count, *flags)
            hit = kill(processes, workdir, chance, in_a_write=len(hits) % 2 == 0)
            if hit is None:  # It ended before it was killed.
                break
            hits.append(hit)
        ended(started(workdir, backend, count, *flags), workdir)
        check(workdir, reference)
    return kind, len(hits), sum(hits), runs, round(time.monotonic() - began)


HEADS = ["run", "SIGKILLs", "while a checkpoint was written", "runs, all equal to the bit", "s"]


def main():
    from benchmarks import interruptions, report

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of which a tenth for each pair")
    parser.add_argument("--moments", type=int, default=100, help="of benchmarks/interruptions.py")
    parser.add_argument("--write", action="store_true", help="write benchmarks/FAULTS.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for kind, (_, count, *_) in KINDS.items():
            rows.append(
                soak(kind, args.kills * (4 if count == 1 else 1) // 10, pathlib.Path(folder))
            )
            print(rows[-1], flush=True)
    parts = [report.table(HEADS, interruptions.parts(rows)), *interruptions.tables(args.moments)]
    print("\n\n".join(parts))
    if args.write:
        command = f"python -m benchmarks.faults --kills={args.kills} --moments={args.moments}"
        ROOT.joinpath("benchmarks", "FAULTS.md").write_text(page(command, *parts))


def page(command, *parts):
    """The text of FAULTS.md."""
    titles = "Under SIGKILL, after whole epochs", "At any moment, within epochs", "Other troubles"
    sections = [f"## {title}\n\n{part}\n" for title, part in zip(titles, parts, strict=True)]
    return "\n".join([f"# Runs that are ended\n\n`{command} --write`\n", *sections])


if __name__ == "__main__":
    main()
