"""Trainings that are ended, also while they write: what is left goes on as if undisturbed."""

import pytest

from benchmarks import faults, interruptions

pytestmark = pytest.mark.tensorflow  # Its processes choose their backends themselves.


SOAKS = zip(faults.KINDS, (4, 2, 1, 1), (8, 6, 4, 4), strict=True)


@pytest.mark.parametrize(
    ("kind", "kills", "epochs"),
    [
        pytest.param("TensorFlow", 1, 3, marks=pytest.mark.slow),
        *[pytest.param(*row, marks=pytest.mark.release) for row in SOAKS],
    ],
)
def test_a_killed_run_ends_as_the_undisturbed_one(tmp_path, kind, kills, epochs):
    _, hits, writing, *_ = faults.soak(kind, kills, tmp_path, epochs)
    assert hits == kills and writing >= (kills + 1) // 2


def test_the_check_can_fail(tmp_path):
    (a, b) = folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        faults.np.savez(folder / "epoch-000001.npz", faults.np.zeros(2))
        (folder / "metrics.csv").write_text("epoch,seconds\n1,2\n")
    faults.check(a, b)
    faults.np.savez(a / "epoch-000001.npz", faults.np.ones(2))
    with pytest.raises(AssertionError, match="array 0"):
        faults.check(a, b)
    (a / "metrics.csv").write_text("epoch,seconds\n2,2\n")
    with pytest.raises(AssertionError, match="is not"):
        faults.check(a, b)
    (a / "epoch-000001.npz").write_bytes(b"half of it")
    with pytest.raises(ValueError, match="pickle"):
        faults.check(a, b)


@pytest.mark.release
@pytest.mark.parametrize("program", interruptions.PROGRAMS)
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_run_that_is_ended_within_epochs_ends_as_the_undisturbed_one(tmp_path, program, backend):
    reference = interruptions.referenced(program, backend, tmp_path, 8)
    row = interruptions.moments(program, backend, 3, tmp_path, reference, 8)
    assert row[2:5] == (1, 1, 1) and row[6] >= 1
    interruptions.twice(program, backend, tmp_path, reference, 8)
