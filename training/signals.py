"""Ctrl-C and SIGTERM as a flag: a handler that raises does so anywhere, and can go unheard.

Python's own handler of Ctrl-C raises wherever the program happens to be. What is raised in a
destructor or in a callback of the garbage collection is printed and lost; what is raised between
two assignments leaves half of them. Here a signal is only noted, and `check` raises for it where
a run can end. This module imports nothing that takes time, so that it can be the first.
"""

import contextlib
import os
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130  # The exit code of a process that Ctrl-C ended, of shells.
AT_ONCE = b"\nEnded at once by the second signal.\n"
received = []


def receive(number, frame=None):
    """Note a signal; end the process at the second one."""
    if received:
        os.write(2, AT_ONCE)
        os._exit(INTERRUPTED)
    received.append(number)


def listen():
    """Note signals from now on."""
    for number in SIGNALS:
        signal.signal(number, receive)


@contextlib.contextmanager
def noted():
    """Note signals inside the block, those before it included; then handle them as before."""
    kept = [signal.getsignal(number) for number in SIGNALS]
    listen()
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, kept, strict=True):
            signal.signal(number, handler)
        received.clear()


def check():
    """Raise `KeyboardInterrupt` if a signal has come."""
    if received:
        raise KeyboardInterrupt
