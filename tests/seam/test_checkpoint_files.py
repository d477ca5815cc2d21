"""What a checkpoint leaves on disk: whole files, the newest and the best, never half a model."""

import os
import resource
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from support.nets import sgd, standard_net

from keras_smoothout import saved_state, whole_files
from keras_smoothout.checkpoint_files import Files, Position, checkpoints, path_of, position_of

pytestmark = pytest.mark.tensorflow  # Files are the same on both backends.


def compiled(seed=0):
    model = standard_net(seed)
    model.compile(sgd(), "sparse_categorical_crossentropy")
    return model


def trained(folder, epochs=1, keep=2, values=None):
    """A model after so many epochs, saved with these values, of which the highest is best."""
    model, files = compiled(), Files(folder, keep, sign=1)
    model.optimizer.build(model.trainable_variables)
    for epoch in range(1, epochs + 1):
        model.trainable_variables[0].assign_add(model.trainable_variables[0] * 0 + 1)
        value = values[epoch - 1] if values else np.nan
        files.is_better(value, Position(epoch))
        files.write(Position(epoch), model, {"value": np.array(value)})
    return model


def untouched():
    model = compiled(seed=1)
    model.optimizer.build(model.trainable_variables)
    return model, [v.numpy().copy() for v in saved_state.variables(model)]


def restored(folder, model):
    return Files(folder, 2, 0).read(checkpoints(folder)[-1], model)


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [2, 6]), (2, [2, 5, 6]), (5, [2, 3, 4, 5, 6]), (None, [*range(1, 7)])]
)
def test_the_newest_and_the_best_are_kept(tmp_path, keep, left):
    trained(tmp_path, 6, keep, [0.1, 0.9, 0.2, 0.9, np.nan, 0.4])
    assert [position_of(path).epoch for path in checkpoints(tmp_path)] == left
    again = Files(tmp_path, keep, sign=1)
    again.find_best()
    assert again.best == (0.9, Position(2))
    checkpoints(tmp_path)[0].write_bytes(b"damaged")
    again.find_best()
    assert again.best is None or again.best[1] != position_of(checkpoints(tmp_path)[0])


def test_a_checkpoint_is_restored_whole(tmp_path):
    model = trained(tmp_path, 2)
    other, _ = untouched()
    assert np.isnan(restored(tmp_path, other)["value"])
    for a, b in zip(saved_state.variables(model), saved_state.variables(other), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_any_damage_is_refused_and_changes_nothing(tmp_path):
    """A byte anywhere; a few of them mean nothing, and then the numbers are the same."""
    expected = [v.numpy() for v in saved_state.variables(trained(tmp_path))]
    (path,) = checkpoints(tmp_path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    model, before = untouched()
    refused = 0
    for place in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(damaged))
        try:
            restored(tmp_path, model)
        except ValueError as error:
            refused += 1
            assert "epoch-000001.npz cannot be resumed from: it " in str(error)
            after = before
        else:
            after = expected
        for variable, value, old in zip(saved_state.variables(model), after, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)
            variable.assign(old)
    assert refused > 200


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    trained(tmp_path)
    (first,) = checkpoints(tmp_path)
    kept, limits = first.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            trained(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints(tmp_path) == [first] and first.read_bytes() == kept
    assert os.listdir(tmp_path) == [first.name]  # What was written of the next one makes room.


def test_the_order_is_that_of_positions(tmp_path):
    names = ("epoch-000002.npz", "epoch-000002-step-000000010.npz", "epoch-000010.npz")
    names += ("epoch-999999.npz", "epoch-1000000.npz", "epoch-1000000-step-2000000000.npz")
    for name in (*names[::-1], "epoch-best.npz", "epoch-1.npz.txt", "unfinished-epoch-000003.npz"):
        (tmp_path / name).touch()
    assert [path.name for path in checkpoints(tmp_path)] == list(names)
    for path in checkpoints(tmp_path):
        assert path_of(tmp_path, position_of(path)) == path
    assert checkpoints(tmp_path / "none") == []


def first(change):
    """A change of the first array of a checkpoint."""
    return lambda arrays: arrays | {next(iter(arrays)): change(next(iter(arrays.values())))}


def exchanged(arrays):
    """Two arrays of one shape in each other's place, under the names that were there."""
    a, b = (next(n for n in arrays if n.endswith(f"/{name}")) for name in ("gamma", "beta"))
    return arrays | {a: arrays[b], b: arrays[a]}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (first(lambda x: x.astype("int32")), "conv2d/kernel, int32 (3, 3, 1, 4)"),
        (first(lambda x: x.astype("bool")), "conv2d/kernel, bool (3, 3, 1, 4)"),
        (first(lambda x: x.astype("complex64")), "conv2d/kernel, complex64 (3, 3, 1, 4)"),
        (first(lambda x: x.astype("float64")), "conv2d/kernel, float64 (3, 3, 1, 4)"),
        (first(lambda x: x.astype("str")), "conv2d/kernel, <U32 (3, 3, 1, 4)"),
        (first(lambda x: x[0]), "conv2d/kernel, float32 (3, 1, 4), where this model has conv2d"),
        (lambda arrays: dict(list(arrays.items())[:-2]), "its array is none, where this model has"),
        (lambda arrays: arrays | {"more": np.zeros(2)}, "float64 (2,), where this model has none"),
        (lambda arrays: dict(list(arrays.items())[::-1]), "bias_momentum, float32 (10,), where"),
        (lambda arrays: {f"arr_{i}": x for i, x in enumerate(arrays.values())}, "is arr_0, float"),
        (lambda arrays: {}, "its array is none, where this model has conv2d/kernel"),
    ],
)
def test_arrays_of_other_names_types_or_shapes_change_nothing(tmp_path, change, words, signed):
    """Whatever their digest says; the last array can be the one that is wrong."""
    trained(tmp_path)
    (path,) = checkpoints(tmp_path)
    arrays = change(saved_state.load(path)[0])
    saved_state.write(path, arrays) if signed else np.savez(path, **arrays)
    model, before = untouched()
    with pytest.raises(ValueError) as error:
        restored(tmp_path, model)
    assert words in str(error.value)
    for variable, value in zip(saved_state.variables(model), before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_arrays_that_have_changed_places_change_nothing(tmp_path):
    """Names, types and shapes are right, and so is the digest of the arrays as they were."""
    trained(tmp_path)
    (path,) = checkpoints(tmp_path)
    arrays, said = saved_state.load(path)
    np.savez(path, **exchanged(arrays))
    with zipfile.ZipFile(path, "a") as file:
        file.comment = said
    model, before = untouched()
    with pytest.raises(ValueError, match="its digest is of other arrays"):
        restored(tmp_path, model)
    for variable, value in zip(saved_state.variables(model), before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_no_object_is_pickled(tmp_path):
    trained(tmp_path)
    (path,) = checkpoints(tmp_path)
    np.savez(path, np.array([{}], dtype=object), allow_pickle=True)
    model, _ = untouched()
    with pytest.raises(ValueError, match="is damaged"):
        restored(tmp_path, model)


def test_weights_of_two_bytes_are_kept(tmp_path):
    """NumPy's files know bfloat16 as two bytes alone."""
    keras.config.set_dtype_policy("bfloat16")
    model = trained(tmp_path)
    model.trainable_variables[0].assign(model.trainable_variables[0] * 0 + 1.5)
    Files(tmp_path, 1, 0).write(Position(2), model, {})
    other, _ = untouched()
    restored(tmp_path, other)
    for a, b in zip(saved_state.variables(model), saved_state.variables(other), strict=True):
        np.testing.assert_array_equal(np.array(a, "float32"), np.array(b, "float32"))
    assert other.trainable_variables[0].dtype == "bfloat16"


def test_a_model_without_weights_is_refused(tmp_path):
    trained(tmp_path)
    with pytest.raises(ValueError, match="`model` must be built"):
        restored(tmp_path, keras.Sequential([keras.layers.Dense(1)]))


def test_a_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "a.txt"
    with whole_files.whole(path) as new:
        new.write_text("first")
    with pytest.raises(KeyboardInterrupt), whole_files.whole(path) as new:
        new.write_text("sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["a.txt"]


def test_a_link_is_not_written_through(tmp_path):
    (tmp_path / "victim").write_text("mine")
    for name in ("a", "unfinished-a"):
        os.symlink(tmp_path / "victim", tmp_path / name)
    with whole_files.whole(tmp_path / "a") as new:
        new.write_text("ours")
    assert (tmp_path / "victim").read_text() == "mine" and (tmp_path / "a").read_text() == "ours"


LOCKED = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
print("locked", flush=True)
sys.stdin.read()
"""


def another(folder):
    """Another process, which locks a folder until its input ends, or fails to."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", LOCKED, folder], text=True, **pipes)


def test_a_folder_is_held_by_one_process(tmp_path):
    with another(tmp_path) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ValueError) as error:
            whole_files.hold(tmp_path)
        assert f"Received: directory={tmp_path}" in str(error.value)
        other.kill()
    for _ in range(2):  # This process may begin again.
        whole_files.hold(tmp_path)
    with another(tmp_path) as other:
        assert "BlockingIOError" in other.communicate()[1]
    for _ in range(2):
        whole_files.release(tmp_path)
    with another(tmp_path) as other:
        assert other.communicate()[0] == "locked\n"
    assert os.listdir(tmp_path) == []


def test_file_systems_without_locks_are_used(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(whole_files.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(whole_files.fcntl, "flock", unsupported)
    whole_files.hold(tmp_path)
    whole_files.hold("gs://bucket/run")
    whole_files.release(tmp_path)
