"""Signals are noted wherever they come, and heard where a run can end."""

import gc
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from training import options, runs, signals

pytestmark = pytest.mark.tensorflow  # Its runs start their own processes.
ROOT = Path(__file__).parents[2]


def in_a_collection(number):
    """Send a signal inside a callback of the garbage collection, where exceptions are lost."""

    def send(phase, info):
        gc.callbacks.remove(send)
        signal.raise_signal(number)

    gc.callbacks.append(send)
    gc.collect()


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_in_a_garbage_collection_is_heard(number):
    before = [signal.getsignal(n) for n in signals.SIGNALS]
    with signals.noted():
        signals.check()
        in_a_collection(number)
        with pytest.raises(KeyboardInterrupt):
            signals.check()
    signals.check()  # Heard once.
    assert before == [signal.getsignal(n) for n in signals.SIGNALS]


@pytest.mark.parametrize(("where", "words"), [("load", "Nothing was"), ("build", "--resume")])
def test_a_signal_before_the_first_epoch_ends_the_run(tmp_path, monkeypatch, capsys, where, words):
    real = getattr(runs, where)
    monkeypatch.setattr(runs, where, lambda *args: in_a_collection(signal.SIGTERM) or real(*args))
    flags = ("--train_examples=60", f"--workdir={tmp_path / 'run'}", "--epochs=1", "--verbose=0")
    with pytest.raises(SystemExit) as exit:
        train.main(options.parse(["train.py", *flags]))
    assert exit.value.code == 130
    told = capsys.readouterr().out
    assert "Interrupted. " in told and words in told
    assert not list(tmp_path.rglob("epoch-*"))


def started(tmp_path):
    """train.py in a process, from the moment when it notes signals."""
    command = [sys.executable, ROOT / "train.py", f"--workdir={tmp_path / 'run'}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes)
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if int(re.search(r"SigCgt:\s+(\w+)", status)[1], 16) >> (signal.SIGTERM - 1) & 1:
            return process
        time.sleep(0.001)
    raise AssertionError(process.stderr.read())


def test_a_signal_at_the_start_of_the_process_is_heard(tmp_path):
    with started(tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors
    assert output == "\nInterrupted. Nothing was trained.\n" and not (tmp_path / "run").exists()


def test_a_second_signal_ends_at_once(tmp_path):
    with started(tmp_path) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)  # Or the two are one.
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 130 and errors.endswith(signals.AT_ONCE.decode())
