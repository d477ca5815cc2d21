"""The folder of a run: whole files, never those of something else, and one process at a time."""

import errno
import os

import pytest
from etils import epath

from training import workdirs

pytestmark = pytest.mark.tensorflow  # Files are the same on both backends.
SEED = "--seed=0\n"


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_workdir_that_cannot_be_written_is_told_first():
    with pytest.raises(OSError, match="/dev/null/run"):
        workdirs.prepare(epath.Path("/dev/null/run"), SEED)


def test_overwriting_begins_again_and_leaves_what_is_not_of_a_run(workdir):
    workdirs.prepare(workdir, SEED)
    with pytest.raises(ValueError, match="holds a run"):
        workdirs.prepare(workdir, "--seed=1\n")
    workdirs.prepare(workdir, SEED, resume=True)
    for folder in ("sam+adam/seed-0", "tensorboard/train", "sgd", "plans"):
        (workdir / folder).mkdir(parents=True)
    runs = ("epoch-000001.npz", "sam+adam/seed-0/model.keras", "tensorboard/train/events")
    for path in (*runs, "notes.txt", "slurm-1.out", "sgd/notes.txt"):
        (workdir / path).touch()
    workdirs.prepare(workdir, "--seed=1\n", overwrite=True)
    assert names(workdir) == ["flags.txt", "notes.txt", "plans", "sgd", "slurm-1.out"]
    assert names(workdir / "sgd") == ["notes.txt"]
    assert workdirs.read_flags(workdir) == "--seed=1\n"


def test_a_killed_overwriting_leaves_a_run_or_its_remains(workdir, monkeypatch):
    """Never checkpoints alone, which a new run would continue."""
    workdirs.prepare(workdir, SEED)
    for name in ("epoch-000001.npz", "metrics.csv", "model.keras"):
        (workdir / name).touch()
    left, unlink = [1], type(workdir).unlink

    def killed(path, **options):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        unlink(path, **options)

    monkeypatch.setattr(type(workdir), "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        workdirs.prepare(workdir, "--seed=1\n", overwrite=True)
    assert workdirs.read_flags(workdir) == SEED and len(names(workdir)) == 3


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "path",
    [
        *("epoch-000001.npz", "metrics.csv", "model.keras", "summary.json", "curves.png"),
        *("comparison.png", "distance.csv", "tensorboard/events", "unfinished-metrics.csv"),
        "epoch-000002-step-000000005.npz",
        *("seed-3/epoch-000001.npz", "lookahead+sam/model.keras", "sgd/seed-0/metrics.csv"),
    ],
)
def test_files_that_a_run_would_replace_are_refused(workdir, path, overwrite):
    (workdir / path).parent.mkdir(parents=True, exist_ok=True)
    (workdir / path).write_text("mine")
    with pytest.raises(ValueError, match="but no flags.txt that makes it a run"):
        workdirs.prepare(workdir, SEED, overwrite=overwrite)
    assert (workdir / path).read_text() == "mine" and not (workdir / "flags.txt").exists()


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"--seed=0\n", b"--lr=0.1\n--wd=1\n", b"\xff\x00", workdirs.MARK.encode()),
        *(workdirs.marked(SEED).encode()[:n] for n in (-1, -3, 20)),
        *(workdirs.marked(SEED).encode() + end for end in (b"\n", b"--epochs=1\n")),
    ],
)
def test_flags_that_are_cut_or_foreign_make_no_run(workdir, text):
    (workdir / "flags.txt").write_bytes(text)
    (workdir / "thesis.tex").write_text("mine")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match="flags.txt is not as train.py wrote it"):
            workdirs.prepare(workdir, SEED, **options)
    assert (workdir / "flags.txt").read_bytes() == text and len(names(workdir)) == 2


def test_a_run_in_the_folder_of_another_is_no_part_of_it(workdir):
    for path in (workdir / "sgd" / "seed-0", workdir):
        workdirs.prepare(path, SEED) if path != workdir else None
    for options in ({}, {"overwrite": True}):
        with pytest.raises(ValueError, match="sgd/seed-0 is a separate run"):
            workdirs.prepare(workdir, SEED, **options)
    assert workdirs.read_flags(workdir / "sgd" / "seed-0") == SEED


def test_flags_are_read_as_they_were_written(workdir):
    for flags in ("", "--data_dir=a b\n--seed=0\n", "--data_dir=\udcff\u00e4\n"):
        workdirs.prepare(workdir, flags, overwrite=True)
        assert workdirs.read_flags(workdir) == flags


def test_a_kill_before_the_flags_were_written_leaves_a_folder_to_begin_in(workdir):
    (workdir / "unfinished-flags.txt").write_text("--se")
    (workdir / "run.lock").write_text("process 1 on here since 2026-01-01 00:00:00+00:00\n")
    with workdirs.locked(workdir):
        workdirs.prepare(workdir, SEED)
    assert names(workdir) == ["flags.txt"]


def test_a_link_is_not_written_through(workdir, tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("elsewhere"))
    (folder / "model.keras").write_text("mine")
    os.symlink(folder / "model.keras", workdir / "unfinished-flags.txt")
    workdirs.prepare(workdir, SEED)
    for name in ("model.keras", "unfinished-model.keras"):
        os.symlink(folder / "model.keras", workdir / name)
    with workdirs.whole(workdir / "model.keras") as path:
        path.write_text("ours")
    assert (workdir / "model.keras").read_text() == "ours"
    for name in ("sgd", "tensorboard", "seed-0"):
        os.symlink(folder, workdir / name)
    workdirs.prepare(workdir, SEED, overwrite=True)
    assert names(workdir) == ["flags.txt"] and (folder / "model.keras").read_text() == "mine"


def test_a_link_in_the_place_of_a_folder_is_refused(workdir, tmp_path_factory):
    os.symlink(tmp_path_factory.mktemp("elsewhere"), workdir / "sgd")
    with pytest.raises(ValueError, match="holds sgd, but no flags.txt"):
        workdirs.prepare(workdir, SEED)


def test_a_lock_keeps_others_out_while_it_is_held(workdir):
    with workdirs.locked(workdir / "run"):
        for _ in range(2):
            with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on .* since 20"):
                with workdirs.locked(workdir / "run"):
                    pass
    with workdirs.locked(workdir / "run"):
        assert names(workdir / "run") == ["run.lock"]
    assert names(workdir / "run") == []


def test_a_lock_replaces_no_file_and_follows_no_link(workdir):
    (workdir / "run.lock").write_text("mine")
    with pytest.raises(ValueError, match="run.lock is of something else"):
        with workdirs.locked(workdir):
            pass
    assert (workdir / "run.lock").read_text() == "mine"
    (workdir / "run.lock").rename(workdir / "victim")
    os.symlink(workdir / "victim", workdir / "run.lock")
    with pytest.raises(OSError, match="run.lock"):
        with workdirs.locked(workdir):
            pass
    assert (workdir / "victim").read_text() == "mine"


def test_where_there_are_no_locks_it_is_said(workdir, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(workdirs.fcntl, "flock", unsupported)
    for path in (workdir, epath.Path("gs://bucket/run")):
        with workdirs.locked(path):
            pass
        assert "cannot be locked" in capsys.readouterr().out
