"""What a run leaves on disk: whole files, the newest and the best, and never half a model."""

import os

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
    kept = first.read_bytes()
    os.symlink("/dev/full", workdir / "unfinished-epoch-000001.npz")
    with pytest.raises(OSError, match="No space left"):
        trained(workdir)
    assert records.checkpoints(workdir) == [first] and first.read_bytes() == kept
    assert not list(workdir.glob("unfinished-*"))  # What was written of it makes room.


def test_a_workdir_that_cannot_be_written_is_told_first():
    with pytest.raises(OSError, match="/dev/null/run"):
        records.prepare(epath.Path("/dev/null/run"), "--seed=0\n")


def test_overwriting_begins_anew(workdir):
    records.prepare(workdir, "--seed=0\n")
    with pytest.raises(ValueError, match="holds a run"):
        records.prepare(workdir, "--seed=1\n")
    records.prepare(workdir, "--seed=0\n", resume=True)
    (workdir / "left").touch()
    records.prepare(workdir, "--seed=1\n", overwrite=True)
    assert [path.name for path in workdir.iterdir()] == ["flags.txt"]
    assert (workdir / "flags.txt").read_text() == "--seed=1\n"


def test_a_killed_overwriting_leaves_a_run_or_its_remains(workdir, monkeypatch):
    """Never checkpoints alone, which a new run would go on with."""
    records.prepare(workdir, "--seed=0\n")
    trained(workdir)
    (workdir / "tensorboard").mkdir()
    left, unlink = [1], type(workdir).unlink

    def killed(path, **options):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        unlink(path, **options)

    monkeypatch.setattr(type(workdir), "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        records.prepare(workdir, "--seed=1\n", overwrite=True)
    assert (workdir / "flags.txt").read_text() == "--seed=0\n"


def test_a_file_is_whole_or_as_before(workdir):
    path = workdir / "a.txt"
    with records.whole(path) as new:
        new.write_text("first")
    with pytest.raises(KeyboardInterrupt), records.whole(path) as new:
        new.write_text("sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first" and os.listdir(workdir) == ["a.txt"]


def test_no_object_is_pickled(workdir):
    trained(workdir)
    (path,) = records.checkpoints(workdir)
    np.savez(path, np.array([{}], dtype=object), allow_pickle=True)
    model, _ = untouched()
    with pytest.raises(ValueError, match="is damaged"):
        records.restore(model, workdir)
