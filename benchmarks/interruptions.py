"""Trainings that end inside epochs: `python -m benchmarks.interruptions --moments=100`.

`train.py --checkpoint_steps` and a script around `fit` (this file, called with --fit) are ended by
SIGKILL, SIGTERM and Ctrl-C in turn, at random moments, and started again by the same command until
they end. They are also resumed twice at once, run into a full disk (a tmpfs of a few megabytes) and
into a folder that becomes read-only. The last checkpoint must equal that of an uninterrupted run to
the bit: weights, statistics, the optimizer, seeds, and for `train.py` all rows of metrics.csv.
`benchmarks/faults.py` writes the tables. The disks need the right to mount, and are left out
without it.
"""

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import faults, report

EPOCHS = 24  # Of six steps.
PROGRAMS = ("train.py", "fit")
ON_DISK = "run"  # Name of a folder on a disk of its own.
TRAIN = ("--train_examples=96", "--batch_size=16", "--method=lookahead+smoothout", "--model=c1")
TRAIN += ("--width=0.125", "--dropout=0.2", "--augment=crop", "--lr_schedule=cosine")
TRAIN += ("--checkpoint_steps=2", "--verbose=0", "--resume_or_begin")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {  # How a process may end after a signal: within a training, and before or after it.
    signal.SIGKILL: (-9,),
    signal.SIGTERM: (130, 143, -15),
    signal.SIGINT: (130, -2, 1),
}
SOON = 0.6  # Seconds after a checkpoint within which most moments lie.


def fit(directory, epochs):
    """A script of a user: exact to the bit, ended by a signal where nothing is lost."""
    import keras

    import keras_smoothout as ks

    signal.signal(signal.SIGINT, signal.default_int_handler)  # Background jobs ignore it.
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 12)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")
    data = ks.Epochs(x, y, batch_size=16, seed=1)
    hidden = [keras.layers.Dense(32), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    head = [keras.layers.Dropout(0.2), keras.layers.Dense(2)]
    model = ks.wrap(keras.Sequential([keras.Input((12,)), *hidden, *head]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(ks.Lookahead(ks.SmoothOut("adam")), loss, metrics=["accuracy"])
    checkpoint = ks.callbacks.Checkpoint(directory, every_steps=2, best="val_loss")
    callbacks = [checkpoint, ks.callbacks.Interruption(checkpoint)]
    options = {"validation_data": (x, y), "shuffle": False, "verbose": 0, "callbacks": callbacks}
    model.fit(data, steps_per_epoch=data.steps_per_epoch, epochs=epochs, **options)


def started(program, workdir, backend, epochs, *flags):
    """Start a process of a training, which begins or continues."""
    if program == "train.py":
        command = [faults.ROOT / "train.py", *TRAIN, f"--epochs={epochs}", f"--workdir={workdir}"]
    else:
        command = ["-m", "benchmarks.interruptions", f"--fit={workdir}", f"--epochs={epochs}"]
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(faults.ROOT)}
    with open(log_of(workdir), "a") as log:
        options = {"stdout": log, "stderr": log, "cwd": faults.ROOT, "env": environment}
        return subprocess.Popen([sys.executable, *command, *flags], **options)


def log_of(workdir):
    """The file of a run's output; never on a disk that is full or read-only."""
    folder = workdir.parent if workdir.name == ON_DISK else workdir
    return folder.with_name(f"{folder.name}.log")


def told(workdir):
    """The end of a run's output."""
    return log_of(workdir).read_text(errors="replace")[-3000:]


def newest(workdir):
    """The name of the newest checkpoint, or `None`."""
    found = faults.checkpoints(workdir)
    return found[-1].name if found else None


def until_progress(process, workdir):
    """Wait for another checkpoint than there is; return whether one came."""
    before = newest(workdir)
    while process.poll() is None:
        if newest(workdir) != before:
            return True
        time.sleep(0.002)
    return False


def interrupt(process, workdir, number, chance):
    """End a process by a signal; return the seconds until it ended, `None` if it was too late.

    One moment in five is while the process starts, and the others are soon after a checkpoint.
    """
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0, 8))
    elif until_progress(process, workdir):
        time.sleep(chance.uniform(0, SOON))
    if process.poll() is not None:
        assert process.returncode == 0, told(workdir)
        return None
    process.send_signal(number)
    began = time.monotonic()
    code = process.wait(faults.PATIENCE)
    if code == 0:  # It had just finished.
        return None
    assert code in CODES[number], f"{number} ended {workdir} with {code}:\n{told(workdir)}"
    return time.monotonic() - began


def finish(program, workdir, backend, epochs, reference):
    """Let a run come to its end, and compare it."""
    code = started(program, workdir, backend, epochs).wait(faults.PATIENCE)
    assert code == 0, f"{workdir} ended with {code}:\n{told(workdir)}"
    faults.check(workdir, reference, rows=program == "train.py")


def referenced(program, backend, folder, epochs):
    """The folder of an uninterrupted run."""
    reference = folder / f"{program}-{backend}-reference"
    code = started(program, reference, backend, epochs).wait(faults.PATIENCE)
    assert code == 0, f"{reference} ended with {code}:\n{told(reference)}"
    return reference


def moments(program, backend, count, folder, reference, epochs, seed=0):
    """The row of a program: signals by kind, those inside an epoch, runs, the longest ending."""
    chance, ends, inside, runs = random.Random(seed), dict.fromkeys(SIGNALS, 0), 0, 0
    longest = 0.0
    while sum(ends.values()) < count:
        runs += 1
        workdir = folder / f"{program}-{backend}-{runs}"
        while sum(ends.values()) < count:
            number = SIGNALS[sum(ends.values()) % len(SIGNALS)]
            process = started(program, workdir, backend, epochs)
            seconds = interrupt(process, workdir, number, chance)
            if seconds is None:
                break
            ends[number] += 1
            inside += "step" in (newest(workdir) or "")
            if number != signal.SIGKILL:
                longest = max(longest, seconds)
        finish(program, workdir, backend, epochs, reference)
    return program, backend, *ends.values(), inside, runs, f"{longest:.1f}"


def twice(program, backend, folder, reference, epochs):
    """Resume a run while it runs: the second process is refused, and the first one goes on."""
    workdir = folder / f"{program}-{backend}-twice"
    with started(program, workdir, backend, epochs) as first:
        until_progress(first, workdir)
        first.send_signal(signal.SIGSTOP)  # Or it could end before the second one begins.
        code = started(program, workdir, backend, epochs).wait(faults.PATIENCE)
        assert code == 1 and "in use by" in told(workdir), f"{code}: {told(workdir)}"
        first.kill()
        first.wait(faults.PATIENCE)
    finish(program, workdir, backend, epochs, reference)
    return "refused, by the lock"


@contextlib.contextmanager
def disk(folder, megabytes):
    """A file system of its own."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def full(program, backend, folder, reference, epochs):
    """Fill the disk of a run until a write fails, and make room again."""
    with disk(folder / f"{program}-{backend}-full", 64) as place:
        workdir, filler = place / ON_DISK, place / "filler"
        with started(program, workdir, backend, epochs) as process:
            until_progress(process, workdir)
            with open(filler, "wb", buffering=0) as file:
                while process.poll() is None:  # Also what deleted checkpoints give back.
                    with contextlib.suppress(OSError):
                        while file.write(bytes(1 << 16)):
                            pass
                    time.sleep(0.01)
            code = process.wait(faults.PATIENCE)
        filler.unlink()
        assert code == 1 and "No space left on device" in told(workdir), told(workdir)
        finish(program, workdir, backend, epochs, reference)
    return "refused, with the cause"


def read_only(program, backend, folder, reference, epochs):
    """Take the right to write away: within `fit`, and from `train.py` before it resumes."""
    with disk(folder / f"{program}-{backend}-read-only", 64) as place:
        workdir, remount = place / ON_DISK, ["mount", "-o", "remount,ro", place]
        process = started(program, workdir, backend, epochs)
        until_progress(process, workdir)
        if program == "train.py":  # TensorBoard's open file keeps the disk writable.
            process.kill()
            process.wait(faults.PATIENCE)
        while subprocess.run(remount, stderr=subprocess.DEVNULL).returncode:
            time.sleep(0.001)
        if program == "train.py":
            process = started(program, workdir, backend, epochs)
        code = process.wait(faults.PATIENCE)
        assert code == 1 and "Read-only file system" in told(workdir), f"{code}: {told(workdir)}"
        subprocess.run(["mount", "-o", "remount,rw", place], check=True)
        finish(program, workdir, backend, epochs, reference)
    return "refused, with the cause"


TROUBLES = {"resumed twice at once": twice, "full disk": full, "read-only": read_only}
HEAD = ("program", "backend", "SIGKILL", "SIGTERM", "Ctrl-C", "within an epoch", "runs, all equal")
HEAD += ("longest end after SIGTERM or Ctrl-C (s)",)


def pair(program, backend, count, epochs, disks=True):
    """Both rows of a program on a backend."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        reference = referenced(program, backend, folder, epochs)
        given = program, backend, folder, reference, epochs
        kinds = {k: f for k, f in TROUBLES.items() if disks or f is twice}
        row = moments(program, backend, count, folder, reference, epochs)
        return row, [program, backend, *(trouble(*given) for trouble in kinds.values())]


def tables(count, programs=PROGRAMS, epochs=EPOCHS):
    """Both tables, as text: so many moments over all programs and backends."""
    disks = os.geteuid() == 0
    kinds = [(program, backend) for program in programs for backend in ("tensorflow", "jax")]
    shares = [count // len(kinds) + (i < count % len(kinds)) for i in range(len(kinds))]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = [
            pool.submit(pair, *kind, n, epochs, disks)
            for kind, n in zip(kinds, shares, strict=True)
        ]
        rows, troubles = zip(*(future.result() for future in done), strict=True)
    names = list(TROUBLES) if disks else ["resumed twice at once"]
    heads = HEAD, ("program", "backend", *names)
    given = zip(heads, (rows, troubles), strict=True)
    return [report.table(list(head), parts(lines)) for head, lines in given]


def parts(rows):
    """Labels and cells of rows."""
    return [(row[0], list(map(str, row[1:]))) for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=100, help="of all programs and backends")
    parser.add_argument("--fit", type=pathlib.Path, help="be the script around fit, in this folder")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    if args.fit:
        fit(args.fit, args.epochs)
    else:
        print("\n\n".join(tables(args.moments, epochs=args.epochs)))


if __name__ == "__main__":
    main()
