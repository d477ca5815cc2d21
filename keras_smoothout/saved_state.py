"""All that the next step of a training depends on, as named arrays in a file with their digest.

Keras' own files leave out the state of dropout, and averages of weights where they are restored.
"""

import hashlib
import itertools
import re
import zipfile

import keras
import numpy as np

FIT = "fit/"  # Arrays of this prefix are about the training, the others are a model's variables.


def variables(model):
    """All that the next step depends on, even the state of dropout, which Keras does not save."""
    return [*model.variables, *model.optimizer.variables]


def named(values):
    """Dict of arrays by the place and the path of their variables, as a checkpoint has them."""
    return {f"{i:04d}/{variable.path}": value for i, (variable, value) in enumerate(values)}


def of(variables):
    """Dict of arrays by name: the values of `variables` now."""
    return named((variable, array_of(variable)) for variable in variables)


def array_of(variable):
    """Its value, to be written at once: the next step may use the memory again."""
    array = keras.ops.convert_to_numpy(variable)
    return array.view("V2") if array.dtype == "bfloat16" else array  # As NumPy's files have it.


def digest(arrays):
    """SHA-256 over names, types, shapes and numbers."""
    found = hashlib.sha256()
    for name, array in arrays.items():
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest().encode()


def write(path, arrays):
    """Write an .npz file of named arrays, whose comment is their digest."""
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a") as file:
        file.comment = digest(arrays)


def load(path):
    """Return the arrays of a file, by name, and the digest that `write` added."""
    with path.open("rb") as file, np.load(file) as archive:
        return dict(archive), archive.zip.comment


def load_one(path, name):
    """Return one array of a file, by its name."""
    with path.open("rb") as file, np.load(file) as archive:
        return archive[name]


def difference(variables, arrays):
    """Say what the first array is that is not as one of the `variables`, or return `None`."""
    ours = [kind(*row) for row in named((v, v) for v in variables).items()]
    theirs = [kind(*row) for row in arrays.items()]
    for a, b in itertools.zip_longest(theirs, ours, fillvalue="none"):
        if a != b:
            return f"its array is {a}, where this model has {b}"
    return None


def kind(name, value):
    """Name, type and shape. Keras numbers names by what a process has made before: no numbers."""
    path = re.sub(r"_\d+(?=[/_]|$)", "", name.partition("/")[2])
    dtype = "bfloat16" if value.dtype == "V2" else value.dtype
    return f"{path or name}, {dtype} {tuple(value.shape)}"


def assign(variables, arrays):
    """Set `variables` to the values of the dict `arrays`, in order."""
    for variable, value in zip(variables, arrays.values(), strict=True):
        variable.assign(value.view("bfloat16") if value.dtype.kind == "V" else value)


def read(path, model):
    """Return a checkpoint's arrays of `model`'s variables, and those about the training.

    Raises:
        ValueError: If the file is damaged or of another model.
    """
    refused = (
        f"{path} cannot be resumed from: %s. Delete it, and the one before it is used, or choose "
        "another `directory`."
    )
    try:
        arrays, said = load(path)
    except Exception as error:  # A damaged file can raise anything.
        raise ValueError(refused % f"it is damaged ({error})") from error
    state, training = {}, {}
    for name, array in arrays.items():
        place = training if name.startswith(FIT) else state
        place[name.removeprefix(FIT)] = array
    differs = difference(variables(model), state)
    if differs:
        raise ValueError(refused % f"it is of another model or method ({differs})")
    if said != digest(arrays):
        raise ValueError(refused % "it is damaged or changed (its digest is of other arrays)")
    return state, training
