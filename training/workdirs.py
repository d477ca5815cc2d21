"""The folder of a run: marked as one, locked while it trains, and written in whole files only."""

import contextlib
import datetime
import fcntl
import hashlib
import os
import re
import shlex
import socket

from keras_smoothout.whole_files import NO_LOCKS, UNFINISHED, remote, whole
from training import methods

MARK = "# A run of keras_smoothout's train.py. SHA-256 of the flags below: "
FILE = re.compile(  # What runs write, except flags.txt, and what is left of it by a kill.
    r"metrics\.csv|distance\.(csv|png)|epoch-\d+(-step-\d+)?\.npz|model\.keras|summary\.json"
    rf"|tensorboard|(curves|comparison|radius|rho)\.png|comparison\.html|{UNFINISHED}(?!flags\.txt$).*"
)
FOLDER = re.compile(rf"seed-\d+|{methods.PATTERN}")  # Those of --seeds and --compare.
LOCK = "run.lock"
HOLDER = re.compile(r"(process \d+ on \S+ since .*\n)?")
RESTORE = (
    "Restore it (a run with the same flags in a new --workdir writes the same file), or choose "
    "another --workdir."
)


def encoded(flags):
    """Bytes of flags, among which a path can be any bytes."""
    return flags.encode(errors="surrogateescape")


def marked(flags):
    """The text of flags.txt: a comment that tells a cut or foreign file from one of ours."""
    return f"{MARK}{hashlib.sha256(encoded(flags)).hexdigest()}\n{flags}"


def read_flags(workdir):
    """Return the flags of the run in a folder, one per line, or `None` if there is no flags.txt.

    Raises:
        ValueError: If the file is not as `prepare` wrote it.
    """
    path = workdir / "flags.txt"
    if not path.exists():
        return None
    text = path.read_bytes().decode(errors="surrogateescape")
    flags = text.partition("\n")[2]
    if text != marked(flags):
        raise ValueError(
            f"{path} is not as train.py wrote it: it is cut, edited or of something else. {RESTORE}"
        )
    return flags


def folders(workdir):
    """The folder itself, and those of methods and seeds in it, the innermost first."""
    for path in workdir.iterdir():
        if FOLDER.fullmatch(path.name) and path.is_dir() and not linked(path):
            yield from folders(path)
    yield workdir


def linked(path):
    return not remote(path) and os.path.islink(path)


def left(workdir):
    """What runs left in a folder, except its flags.txt, and links where they have folders."""
    paths = (path for folder in folders(workdir) for path in folder.iterdir())
    return [
        path
        for path in paths
        if FILE.fullmatch(path.name) or FOLDER.fullmatch(path.name) and linked(path)
    ]


def prepare(workdir, flags, resume=False, overwrite=False):
    """Make the folder of a run, and write its flags there.

    Raises:
        ValueError: If it holds a run already, or files of something else that a run would replace.
        OSError: If it cannot be written to.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    begun = read_flags(workdir) is not None
    if begun and not (resume or overwrite):
        raise ValueError(
            f"{workdir} holds a run: pass --resume --workdir={shlex.quote(str(workdir))} to "
            "continue it, --overwrite to delete it, or another --workdir."
        )
    for folder in folders(workdir):
        if folder != workdir and (folder / "flags.txt").exists():
            raise ValueError(f"{folder} is a separate run: choose another --workdir.")
    found = left(workdir)
    if found and not begun:
        raise ValueError(
            f"{workdir} holds {found[0].relative_to(workdir)}, but no flags.txt that makes it a "
            f"run. {RESTORE}"
        )
    if overwrite:
        delete(found)
        for folder in folders(workdir):
            if folder != workdir and not any(folder.iterdir()):
                folder.rmdir()
    write_flags(workdir, flags)  # To the end, the old ones mark what is left.


def write_flags(workdir, flags):
    with whole(workdir / "flags.txt") as path:
        path.write_bytes(encoded(marked(flags)))


def delete(paths):
    for path in paths:
        path.rmtree() if path.is_dir() and not linked(path) else path.unlink()


@contextlib.contextmanager
def locked(workdir):
    """Keep other processes out of a folder; the lock ends with this process, even by a kill.

    Raises:
        ValueError: If another process has the lock, with which one, where, and since when.
    """
    if remote(workdir):
        print(f"{workdir} cannot be locked: start no second run in it.")
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with lock(workdir / LOCK) as file:
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        file.flush()
        try:
            yield
        finally:
            (workdir / LOCK).unlink(missing_ok=True)


def lock(path):
    """Return the open, locked file of a lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        file = open(descriptor, "r+", errors="replace")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise ValueError(
                    f"{path.parent} is in use by {file.read().strip() or 'another process'}: wait "
                    "for it, end it, or choose another --workdir."
                ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"{path.parent} cannot be locked ({error}): start no second run in it.")
        if not HOLDER.fullmatch(file.read()):
            with file:
                raise ValueError(f"{path} is of something else: choose another --workdir.")
        file.seek(0)
        with contextlib.suppress(FileNotFoundError):  # Its last holder may have deleted it.
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return file
        file.close()
