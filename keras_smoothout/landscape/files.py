"""Models and runs of `train.py` as files, for the command."""

import warnings
import zipfile
import zlib

import keras

UNREADABLE = (OSError, ValueError, TypeError, ImportError, KeyError, EOFError, zlib.error)
UNREADABLE += (zipfile.BadZipFile,)


def flags(path):
    """The flags of the `train.py` run that made a model; its folder may be a few levels up."""
    for folder in file_of(path).absolute().parents[:3]:
        if (folder / "flags.txt").is_file():
            lines = (folder / "flags.txt").read_text(errors="replace").splitlines()
            return dict(line[2:].split("=", 1) for line in lines if "=" in line)
    return {}


def number(kept, name):
    """A whole number among the flags of a run, or 0."""
    value = kept.get(name, "0")
    if not value.isdecimal():
        raise ValueError(f"flags.txt of the run must hold a whole number. Received: {name}={value}")
    return int(value)


def file_of(path):
    """The file of a model: the path itself, or `model.keras` in a folder of `train.py`."""
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        below = sorted(p for depth in ("*", "*/*") for p in path.glob(f"{depth}/model.keras"))
        names = ", ".join(str(p.parent) for p in below)
        raise ValueError(f"There is no model in {path}" + (f", but in: {names}" if below else ""))
    return file


def labels_of(paths):
    """Short names to tell models apart."""
    names = [p.parent.name if p.name == "model.keras" else p.stem for p in map(file_of, paths)]
    return names if len(set(names)) == len(names) else [str(p).replace("/", "_") for p in paths]


def load_model(path):
    file = file_of(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # About the optimizer, which is not needed.
            return keras.saving.load_model(file)
    except UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} cannot be loaded as a Keras model: {reason}") from error
