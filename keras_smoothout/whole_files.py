"""Files that are replaced whole or not at all, in a folder that one process at a time writes to."""

import contextlib
import errno
import os
import pathlib
import tempfile

try:
    import fcntl
except ImportError:  # Not on Windows.
    fcntl = None

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL)
UNFINISHED = "unfinished-"
_held = {}  # Open folders that this process has locked, by their device and inode.


def remote(path):
    """Whether `path` is in an object store, where objects appear whole."""
    return "://" in str(path)


def as_path(path):
    """`path` as an object with the methods of `pathlib.Path`, which those of stores have, too."""
    if isinstance(path, str) and remote(path):  # `pathlib` would make a local folder of it.
        raise ValueError(
            "`directory` in an object store must be a path of its library, as `epath.Path(...)`. "
            f"Received: directory={path!r}"
        )
    return pathlib.Path(path) if isinstance(path, str) else path


@contextlib.contextmanager
def whole(path):
    """Yield a local path to write to; at the end its file replaces `path`, whole or not at all."""
    if remote(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = type(path)(folder) / path.name
            yield temporary
            temporary.copy(path, overwrite=True)
        return
    temporary = path.with_name(f"{UNFINISHED}{path.name}")
    temporary.unlink(missing_ok=True)  # That of a killed process, or a link, is not written to.
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def hold(folder):
    """Lock a local folder for this process, until `release` or its end, even by a kill.

    Nothing is written there. File systems without locks are left unlocked.

    Raises:
        ValueError: If another process holds it.
    """
    if remote(folder) or fcntl is None:
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if identity(descriptor) in _held:
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held[identity(descriptor)] = descriptor
    except BlockingIOError:
        raise ValueError(
            "`directory` is in use by another process, which saves there: wait for it, end it, or "
            f"choose another one. Received: directory={folder}"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    finally:
        if descriptor not in _held.values():
            os.close(descriptor)


def release(folder):
    """Unlock a folder that `hold` has locked."""
    if not remote(folder) and os.path.exists(folder):
        descriptor = _held.pop(identity(folder), None)
        if descriptor is not None:
            os.close(descriptor)


def identity(path):
    found = os.stat(path)
    return found.st_dev, found.st_ino
