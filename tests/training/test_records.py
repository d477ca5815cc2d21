"""What a run leaves on disk: whole files, the newest and the best, and never half a model."""

import re
import resource
import zipfile

import numpy as np
import pytest
from etils import epath
from support.nets import sgd, standard_net

from training import curves, records

pytestmark = pytest.mark.tensorflow  # Files are the same on both backends.


def trained(workdir, epochs=1, keep=2, accuracies=None):
    """A model after so many epochs, recorded with these validation accuracies."""
    model = standard_net()
    model.compile(sgd(), "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    record = records.Record(workdir, [], keep)
    record.set_model(model)
    for epoch in range(epochs):
        record.on_epoch_begin(epoch)
        record.on_test_begin()
        accuracy = accuracies[epoch] if accuracies else 0.5
        model.trainable_variables[0].assign_add(model.trainable_variables[0] * 0 + 1)
        record.on_epoch_end(epoch, {"loss": 1.0, "val_accuracy": accuracy})
    return model


def untouched():
    model = standard_net(seed=1)
    model.compile(sgd(), "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model, [v.numpy().copy() for v in records.variables(model)]


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


@pytest.mark.parametrize(("keep", "left"), [(1, [2, 6]), (2, [2, 5, 6]), (5, [2, 3, 4, 5, 6])])
def test_the_newest_and_the_best_are_kept(workdir, keep, left):
    trained(workdir, 6, keep, [0.1, 0.9, 0.2, 0.9, 0.3, 0.4])
    assert [records.checkpoint(workdir, epoch) for epoch in left] == records.checkpoints(workdir)
    assert len(curves.read(workdir / "metrics.csv")) == 6


def test_a_checkpoint_is_restored_whole(workdir):
    model = trained(workdir, 2)
    other, _ = untouched()
    history = records.restore(other, workdir)
    assert [row["epoch"] for row in history] == [1, 2]
    for a, b in zip(records.variables(model), records.variables(other), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_any_damage_is_refused_and_changes_nothing(workdir):
    """A byte anywhere; a few of them mean nothing, and then the numbers are the same."""
    expected = [v.numpy() for v in records.variables(trained(workdir))]
    (path,) = records.checkpoints(workdir)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    model, before = untouched()
    refused = 0
    for place in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(damaged))
        try:
            records.restore(model, workdir)
        except ValueError as error:
            refused += 1
            assert "epoch-000001.npz cannot be resumed from: it " in str(error)
            after = before
        else:
            after = expected
        for variable, value in zip(records.variables(model), after, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)
            variable.assign(before[[v is variable for v in records.variables(model)].index(True)])
    assert refused > 200


def test_a_full_disk_leaves_the_last_checkpoint(workdir):
    trained(workdir)
    (first,) = records.checkpoints(workdir)
    kept, limits = first.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # Enough for metrics.csv.
    try:
        with pytest.raises(OSError, match="File too large"):
            trained(workdir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert records.checkpoints(workdir) == [first] and first.read_bytes() == kept
    assert not list(workdir.glob("unfinished-*"))  # What was written of it makes room.


def test_checkpoints_are_those_of_the_folder_in_the_order_of_their_epochs(tmp_path):
    """Not what a pattern would find for such a name, and epochs of more than six digits."""
    for name in ("run[1]", "run1", "run*", "run?"):
        (tmp_path / name).mkdir()
    (tmp_path / "run1" / "epoch-000007.npz").touch()
    for name in ("epoch-999999.npz", "epoch-1000000.npz", "epoch-best.npz", "epoch-1.npz.txt"):
        (tmp_path / "run[1]" / name).touch()
    found = {path.name: records.checkpoints(epath.Path(path)) for path in tmp_path.iterdir()}
    assert [path.name for path in found["run[1]"]] == ["epoch-999999.npz", "epoch-1000000.npz"]
    assert not found["run*"] and not found["run?"] and len(found["run1"]) == 1


def first(change):
    """A change of the first array of a checkpoint."""
    return lambda arrays: arrays | {next(iter(arrays)): change(next(iter(arrays.values())))}


def exchanged(arrays):
    """Two arrays of one shape in each other's place, under the names that were there."""
    names = list(arrays)
    a, b = (next(n for n in names if n.endswith(f"/{name}")) for name in ("gamma", "beta"))
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
        (lambda arrays: dict(list(arrays.items())[:-1]), "its array is none, where this model has"),
        (lambda arrays: arrays | {"more": np.zeros(2)}, "float64 (2,), where this model has none"),
        (lambda arrays: dict(list(arrays.items())[::-1]), "bias_momentum, float32 (10,), where"),
        (lambda arrays: {f"arr_{i}": x for i, x in enumerate(arrays.values())}, "is arr_0, float"),
        (lambda arrays: {}, "its array is none, where this model has conv2d/kernel"),
    ],
)
def test_arrays_of_other_names_types_or_shapes_change_nothing(workdir, change, words, signed):
    """Whatever their digest says; the last array can be the one that is wrong."""
    trained(workdir)
    (path,) = records.checkpoints(workdir)
    arrays = change(records.load(path)[0])
    np.savez(path, **arrays)
    if signed:
        with zipfile.ZipFile(path, "a") as file:
            file.comment = records.digest(arrays)
    model, before = untouched()
    with pytest.raises(ValueError, match=re.escape(words)):
        records.restore(model, workdir)
    for variable, value in zip(records.variables(model), before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize("change", [exchanged, first(lambda x: x * 2)])
def test_arrays_that_the_digest_does_not_know_change_nothing(workdir, change):
    trained(workdir)
    (path,) = records.checkpoints(workdir)
    arrays, said = records.load(path)
    np.savez(path, **change(arrays))
    with zipfile.ZipFile(path, "a") as file:
        file.comment = said
    model, before = untouched()
    with pytest.raises(ValueError, match="its digest is of other arrays"):
        records.restore(model, workdir)
    for variable, value in zip(records.variables(model), before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_metrics_of_other_epochs_are_refused(workdir):
    model = trained(workdir, 3)
    lines = (workdir / "metrics.csv").read_text().splitlines()
    for rows in (lines[:3], [lines[0], *lines[:0:-1]], [*lines[:2], lines[1], lines[3]]):
        (workdir / "metrics.csv").write_text("\n".join(rows))
        with pytest.raises(ValueError, match="metrics.csv has . epochs of 3"):
            records.restore(model, workdir)


def test_no_object_is_pickled(workdir):
    trained(workdir)
    (path,) = records.checkpoints(workdir)
    np.savez(path, np.array([{}], dtype=object), allow_pickle=True)
    model, _ = untouched()
    with pytest.raises(ValueError, match="is damaged"):
        records.restore(model, workdir)
