"""metrics.csv beside the checkpoints: both, or no resuming."""

import pytest
from etils import epath
from support.nets import assert_equal, sgd, standard_net, values

from keras_smoothout.callbacks import Checkpoint
from keras_smoothout.checkpoint_files import Files, Position, checkpoints
from training import curves, records

pytestmark = pytest.mark.tensorflow  # Files are the same on both backends.


def compiled(seed=0):
    model = standard_net(seed)
    model.compile(sgd(), "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model


def recorded(workdir, epochs, step=0):
    """A model after so many epochs and steps, with a row and a checkpoint for each epoch."""
    model, record = compiled(), records.Record(workdir, [], rate=lambda epoch: 0.5**epoch)
    files = Files(workdir, None, 0)
    for epoch in range(epochs):
        record.on_epoch_begin(epoch)
        record.on_test_begin()
        model.trainable_variables[0].assign_add(model.trainable_variables[0] * 0 + 1)
        record.on_epoch_end(epoch, {"loss": 1.0, "val_accuracy": 0.5})
        files.write(Position(epoch + 1), model, {})
    if step:
        files.write(Position(epochs, step), model, {})
    return model


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


@pytest.mark.parametrize("step", [0, 5])
def test_the_history_is_that_up_to_the_checkpoint(workdir, step):
    recorded(workdir, 3)
    model, checkpoint = recorded(workdir, 2, step), Checkpoint(workdir)
    (workdir / "epoch-000003.npz").unlink()
    other = compiled(seed=1)
    history, position = records.restore(other, checkpoint)
    assert [(row["epoch"], row["learning_rate"]) for row in history] == [(1, 1.0), (2, 0.5)]
    assert position == (2, step)
    assert_equal(values(model), values(other))


def test_there_is_no_history_before_the_first_epoch(workdir):
    assert records.restore(compiled(), Checkpoint(workdir)) == ([], (0, 0))
    recorded(workdir, 0, step=2)
    assert records.restore(compiled(), Checkpoint(workdir)) == ([], (0, 2))


def test_metrics_of_other_epochs_are_refused(workdir):
    model = recorded(workdir, 3)
    lines, before = (workdir / "metrics.csv").read_text().splitlines(), values(model)
    for rows in (lines[:3], [lines[0], *lines[:0:-1]], [*lines[:2], lines[1], lines[3]]):
        (workdir / "metrics.csv").write_text("\n".join(rows))
        with pytest.raises(ValueError, match="metrics.csv has . epochs of 3"):
            records.restore(model, Checkpoint(workdir))
    assert_equal(values(model), before)


def test_a_damaged_checkpoint_names_the_flag(workdir):
    model = recorded(workdir, 1)
    (path,) = checkpoints(workdir)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="epoch-000001.npz cannot .* choose another --workdir"):
        records.restore(model, Checkpoint(workdir))
    assert len(curves.read(workdir / "metrics.csv")) == 1
