"""train.py, mostly in this process: what a run leaves behind, resuming, and wrong flags."""

import csv
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from etils import epath

import keras_smoothout as ks
import train
from keras_smoothout import datasets, saved_state
from keras_smoothout.checkpoint_files import checkpoints, position_of
from training import batches, courses, curves, images, methods, options, records, runs, workdirs

ROOT = Path(__file__).parents[2]
FF = bytes([255, 254, 0])
HOST = socket.gethostname()
ARTIFACTS = {"flags.txt", "metrics.csv", "model.keras", "summary.json", "curves.png"}
TINY = ("--train_examples=60", "--batch_size=40", "--verbose=0")
# The TensorBoard callback converts a Keras variable to NumPy in the way of NumPy 1.
pytestmark = [
    pytest.mark.tensorflow,  # Its runs start their own processes.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def run(workdir, *args):
    train.main(options.parse(["train.py", f"--workdir={workdir}", *args]))


def metrics(workdir):
    """The rows of metrics.csv but for the times."""
    with open(workdir / "metrics.csv", newline="") as file:
        return [row | {"seconds": None} for row in csv.DictReader(file)]


def same_state(a, b):
    """Whether the last checkpoints of two runs are equal to the last bit."""
    a, b = (np.load(checkpoints(workdir)[-1]) for workdir in (a, b))
    return a.files == b.files and all(np.array_equal(a[name], b[name]) for name in a.files)


def ending(argv):
    """The words with which train.py ends because of its flags."""
    with pytest.raises(SystemExit) as exit:
        train.main(options.parse(["train.py", *argv]))
    return str(exit.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    run(folder, *TINY, "--epochs=1")
    return folder


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch):
    """Draw comparisons only: a picture takes as long as a short training."""
    draw = curves.learning

    def learning(histories, path, title):
        return draw(histories, path, title) if "comparison" in path.name else path.touch()

    monkeypatch.setattr(curves, "learning", learning)


@pytest.mark.slow
def test_every_method_trains_and_is_compared(tmp_path, capsys):
    names = [*methods.METHODS, "sgd", "lookahead+smoothout+adamw"]
    run(tmp_path, *TINY, f"--compare={','.join(names)}", "--epochs=1", "--learning_rate=0.01")
    _, _, table, picture = capsys.readouterr().out.rstrip().rsplit("\n\n", 3)
    heading, *lines = table.split("\n")
    assert heading.split("  ")[0] == "method" and "test acc" in heading
    assert [line.split()[0] for line in lines] == names
    assert len({len(line) for line in [heading, *lines]}) == 1
    assert picture == f"Picture: {tmp_path / 'comparison.png'}"
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    for name, line in zip(names, lines, strict=True):
        left = {path.name for path in (tmp_path / name).iterdir()}
        assert left == ARTIFACTS - {"flags.txt"} | {"tensorboard", "epoch-000001.npz"}
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert line.split()[3] == f"{summary['test_accuracy']:.4f}"


def test_the_summary_is_that_of_the_saved_model(tmp_path):
    run(tmp_path, *TINY, "--epochs=2", "--method=smoothout", "--l2=0.001", "--label_smoothing=0.1")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert ARTIFACTS <= {path.name for path in tmp_path.iterdir()}
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))
    rows = metrics(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["val_accuracy"]) == summary["test_accuracy"]
    model = keras.models.load_model(tmp_path / "model.keras")
    source = images.load("digits", train_examples=60)
    for name, split in (("train", source.train), ("test", source.test)):
        numbers = model.evaluate(batches.testing(source, split, 500), verbose=0, return_dict=True)
        assert numbers["loss"] == pytest.approx(summary[f"{name}_loss"], rel=1e-6)
        assert numbers["accuracy"] == summary[f"{name}_accuracy"]


def test_a_run_that_was_killed_while_saving_resumes_to_the_same_numbers(
    tmp_path, monkeypatch, capsys
):
    flags = (*TINY, "--model=c1", "--method=lookahead+smoothout", "--augment=crop", "--seed=3")
    flags += ("--ghost_batch_size=30", "--sync_period=4", "--lr_schedule=cosine")
    run(tmp_path / "whole", *flags, "--epochs=3")
    saved = saved_state.np.savez

    def killed(path, **arrays):
        if "000002" in path.name:
            path.write_bytes(b"half of it")
            raise KeyboardInterrupt
        saved(path, **arrays)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit:
        patch.setattr(saved_state.np, "savez", killed)
        run(tmp_path / "killed", *flags, "--epochs=3")
    assert exit.value.code == 130
    advice = f"python train.py --resume --workdir={tmp_path / 'killed'}"
    assert capsys.readouterr().out.rstrip().endswith(advice)
    assert [path.stem for path in checkpoints(tmp_path / "killed")] == ["epoch-000001"]
    run(tmp_path / "killed", "--resume", "--verbose=0")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "killed")
    assert same_state(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:1000]),
            "npz cannot be resumed from: it is damaged",
        ),
        (
            lambda path: path.write_bytes(b""),
            "npz cannot be resumed from: it is damaged",
        ),
        (
            lambda path: np.savez(path, **np.load(path)),
            "it is damaged or changed (its digest is of other arrays)",
        ),
        (lambda path: np.savez(path, np.zeros(3)), "it is of another model"),
        (lambda path: path.with_name("metrics.csv").unlink(), "metrics.csv is damaged"),
        (
            lambda path: path.with_name("metrics.csv").write_text("a,b\n1,x\n"),
            "metrics.csv is damaged",
        ),
        (lambda path: path.with_name("metrics.csv").write_text(""), "has 0 epochs of 1"),
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path, trained, spoil, words):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (checkpoint,) = checkpoints(tmp_path)
    spoil(checkpoint)
    message = ending(["--resume", f"--workdir={tmp_path}", "--epochs=2"])
    assert words in message and str(checkpoint) in message and "Delete it" in message


@pytest.mark.parametrize(
    ("flags", "words", "left"),
    [
        (["--learning_rate=1e20"], "The loss is nan at step 2 of the epoch after the start", 0),
        (
            ["--batch_size=60", "--lr_schedule=piecewise", "--lr_milestones=1", "--lr_decay=1e21"],
            "The validation loss is nan at the end of the epoch after epoch-000001.npz",
            1,
        ),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, flags, words, left):
    message = ending([*TINY, "--epochs=9", *flags, f"--workdir={tmp_path}"])
    assert words in message and "smaller --learning_rate" in message
    assert not (tmp_path / "model.keras").exists()
    found = checkpoints(tmp_path)
    assert len(found) == left
    for checkpoint in found:
        assert all(np.all(np.isfinite(value)) for value in np.load(checkpoint).values())


def test_a_checkpoint_of_weights_that_the_last_update_has_destroyed_is_named(tmp_path):
    # The loss of a step is that of the weights before its update, so it was finite when this one
    # was saved.
    flags = ["--learning_rate=1e20", "--checkpoint_steps=1", f"--workdir={tmp_path}"]
    message = ending([*TINY, "--epochs=9", *flags])
    (checkpoint,) = checkpoints(tmp_path)
    assert "-step-" in checkpoint.name
    assert f"step 2 of the epoch after {checkpoint.name} (delete {checkpoint.name}" in message
    with np.load(checkpoint) as arrays:
        assert max(np.abs(a).max() for a in arrays.values() if a.dtype == "float32") > 1e15


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_in_the_last_validation_ends_all_runs_once_it_is_saved(tmp_path, number):
    class Send(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit:
        patch.setattr(records, "TerminateOnNaN", lambda workdir: Send())
        run(tmp_path, *TINY, "--seeds=2", "--epochs=1")
    assert exit.value.code == 130
    assert [path.parent.name for path in tmp_path.rglob("epoch-*.npz")] == ["seed-0"]
    assert not list(tmp_path.rglob("model.keras"))
    run(tmp_path, "--resume", "--verbose=0")
    assert len(list(tmp_path.rglob("model.keras"))) == 2


def test_a_signal_within_an_epoch_is_resumed_at_the_next_step(tmp_path):
    class Send(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            if self.steps == 3:
                signal.raise_signal(signal.SIGTERM)

    flags = (*TINY, "--epochs=2", "--method=lookahead+smoothout", "--augment=crop", "--dropout=0.2")
    flags += ("--model=c1", "--lr_schedule=cosine", "--track_distance")
    run(tmp_path / "whole", *flags)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit:
        patch.setattr(records, "TerminateOnNaN", lambda workdir: Send())
        run(tmp_path / "parts", *flags)
    assert exit.value.code == 130
    left = [path.stem for path in checkpoints(tmp_path / "parts")]
    assert left == ["epoch-000001", "epoch-000001-step-000000001"]
    run(tmp_path / "parts", "--resume", "--checkpoint_steps=1")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    assert same_state(tmp_path / "whole", tmp_path / "parts")
    distances = [(tmp_path / name / "distance.csv").read_text() for name in ("whole", "parts")]
    assert distances[0] == distances[1]


@pytest.mark.slow
def test_a_finished_run_is_trained_for_longer(tmp_path):
    run(tmp_path / "whole", *TINY, "--epochs=2", "--seed=1")
    run(tmp_path / "longer", *TINY, "--epochs=1", "--compare=sgd", "--seeds=2")
    run(tmp_path / "longer", "--resume", "--epochs=2")
    first, second = (tmp_path / "longer" / "sgd" / seed for seed in ("seed-0", "seed-1"))
    assert metrics(tmp_path / "whole") == metrics(second) != metrics(first)
    assert same_state(tmp_path / "whole", second) and not same_state(first, second)
    assert "--epochs can only be raised from 2" in ending(
        ["--resume", f"--workdir={tmp_path / 'longer'}", "--epochs=1"]
    )


def test_a_folder_with_the_characters_of_a_pattern_is_resumed(tmp_path):
    """And not its neighbour that the pattern would match; where SWA begins does not move."""
    run(tmp_path / "run1", *TINY, "--epochs=2", "--seed=1")
    run(tmp_path / "run[1]", *TINY, "--epochs=1", "--method=swa")
    run(tmp_path / "run[1]", "--resume", "--epochs=2", "--verbose=0")
    run(tmp_path / "whole", *TINY, "--epochs=2", "--method=swa", "--start=0")
    assert metrics(tmp_path / "run[1]") == metrics(tmp_path / "whole")
    assert same_state(tmp_path / "run[1]", tmp_path / "whole")


@pytest.mark.parametrize("spoil", [lambda text: text[:-20], lambda text: "", lambda text: None])
def test_checkpoints_without_all_of_their_flags_are_refused(tmp_path, spoil):
    """Neither defaults nor other flags continue them, and nothing is deleted."""
    run(tmp_path, *TINY, "--epochs=1", "--momentum=0.5")
    text = spoil((tmp_path / "flags.txt").read_text())
    (tmp_path / "flags.txt").unlink() if text is None else (tmp_path / "flags.txt").write_text(text)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    for flag in ("--resume", "--resume_or_begin", "--overwrite", "--nooverwrite"):
        words = ending([f"--workdir={tmp_path}", *TINY, flag])
        told = "is not as train.py wrote it" if text is not None else "flags.txt"
        assert str(tmp_path) in words and told in words
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


def test_a_run_in_use_is_left_alone_until_its_process_ends(tmp_path):
    """Also until it is killed, which leaves the file of the lock."""
    flags = (*TINY, f"--workdir={tmp_path}", "--epochs=100000")
    command = [sys.executable, ROOT / "train.py", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not checkpoints(tmp_path):
            time.sleep(0.05)
        for flag in ("--resume", "--overwrite", "--nooverwrite"):
            words = ending([f"--workdir={tmp_path}", "--verbose=0", flag])
            assert f"{tmp_path} is in use by process {process.pid} on {HOST} since 20" in words
        process.kill()
        process.communicate(timeout=60)
    assert (tmp_path / "run.lock").exists()
    epoch = len(metrics(tmp_path))
    flags = tmp_path / "flags.txt"
    saved = workdirs.read_flags(epath.Path(tmp_path)).replace("=100000", f"={epoch}")
    flags.write_text(workdirs.marked(saved))
    run(tmp_path, "--resume", f"--epochs={epoch + 1}", "--verbose=0")
    assert len(metrics(tmp_path)) == epoch + 1 and not (tmp_path / "run.lock").exists()


def test_a_run_is_not_overwritten_by_accident(tmp_path):
    run(tmp_path, *TINY, "--epochs=1", "--momentum=0.5")
    before = metrics(tmp_path)
    words = ending([f"--workdir={tmp_path}"])
    assert f"{tmp_path} holds a run" in words and "--overwrite" in words
    words = ending([f"--workdir={tmp_path}", "--resume", "--momentum=0.9"])
    assert "--momentum cannot change on --resume" in words and "for a run with 0.5" in words
    run(tmp_path, f"--flagfile={tmp_path / 'flags.txt'}", "--overwrite")
    assert metrics(tmp_path) == before


@pytest.mark.slow
@pytest.mark.tensorflow
def test_two_replicas_train(tmp_path):
    """In a process of its own: collectives of a second strategy would collide with the first's."""
    flags = ("--strategy=mirrored", "--devices=2", "--method=smoothout", "--epochs=1")
    flags += (f"--workdir={tmp_path}", "--ghost_batch_size=10", "--global_clipnorm=1")
    flags += ("--track_distance", "--recalibrate", "--label_noise=0.1")
    subprocess.run([sys.executable, ROOT / "train.py", *TINY, *flags], check=True)
    assert len(metrics(tmp_path)) == 1
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= ARTIFACTS | {"distance.csv", "distance.png"}


def test_moving_statistics_are_those_of_the_training_images_if_asked(tmp_path):
    run(tmp_path, *TINY, "--epochs=1", "--recalibrate", "--label_noise=0.2", "--method=smoothout")
    model = keras.models.load_model(tmp_path / "model.keras")
    moving = [v for v in model.non_trainable_variables if "moving" in v.path]
    found = [np.array(v) for v in moving]
    source = images.load("digits", train_examples=60)
    ks.recalibrate(model, batches.testing(source, source.train, 500))
    for a, b in zip(found, moving, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_machine_flags_train(tmp_path):
    flags = ("--epochs=1", "--steps_per_execution=2", "--mixed_precision=mixed_bfloat16")
    run(tmp_path / "policy", *TINY, *flags)
    run(tmp_path / "eager", *TINY, "--epochs=1", "--run_eagerly", "--drop_remainder")
    assert options.FLAGS.mixed_precision == "float32" == keras.config.dtype_policy().name


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ("--lr_schedule=constant", [0.1] * 9),
        ("--lr_schedule=piecewise --lr_milestones=1,2", [0.1] * 3 + [0.01] * 3 + [0.001] * 3),
        ("--lr_schedule=polynomial --lr_power=2", [0.1 * (1 - i / 9) ** 2 for i in range(9)]),
        ("--lr_schedule=cosine", [0.05 * (1 + np.cos(np.pi * i / 9)) for i in range(9)]),
        ("--warmup_epochs=1", [0, 0.1 / 3, 0.2 / 3] + [0.1] * 6),
        (
            "--base_batch_size=32 --lr_schedule=piecewise --lr_milestones=1,2",
            [0.2] * 3 + [0.02] * 3 + [0.002] * 3,
        ),
        ("--base_batch_size=64 --scaling=linear", [0.2] * 9),
        ("--base_batch_size=64 --scaling=none", [0.1] * 9),
        (
            "--base_batch_size=64 --small_batch_epochs=1 --lr_schedule=piecewise --lr_milestones=1",
            [0.1] * 6 + [0.01 * 2**0.5] * 3,
        ),
        ("--base_batch_size=64 --small_batch_epochs=1", [0.1] * 6 + [0.1 * 2**0.5] * 3),
        (
            "--lr_schedule=polynomial --lr_power=2 --warmup_epochs=1",
            [0, 0.1 / 3, 0.2 / 3] + [0.1 * (1 - i / 6) ** 2 for i in range(6)],
        ),
        (
            "--lr_schedule=cosine --warmup_epochs=1",
            [0, 0.1 / 3, 0.2 / 3] + [0.05 * (1 + np.cos(np.pi * i / 6)) for i in range(6)],
        ),
    ],
)
def test_the_learning_rate_of_each_step(flags, rates):
    options.parse(["train.py", "--epochs=3", *flags.split()])
    rate = courses.plan(options.FLAGS, 384).learning_rate(options.FLAGS)
    seen = [float(rate(step)) if callable(rate) else rate for step in range(9)]
    np.testing.assert_allclose(seen, rates, rtol=1e-5, atol=1e-8)


def test_the_whole_large_batch_recipe_trains(tmp_path, capsys):
    flags = ("--base_batch_size=20", "--regime_adaptation", "--small_batch_epochs=1", "--epochs=2")
    flags += ("--ghost_batch_size=10", "--ghost_layers", "--track_distance", "--warmup_epochs=1")
    run(tmp_path, *TINY, *flags)
    printed = capsys.readouterr().out
    assert "epochs 1 to 1: 3 steps of batch size 20" in printed
    assert "epochs 2 to 4: 2 steps of batch size 40" in printed
    assert "learning rate 0.1 -> 0.141421: sqrt scaling" in printed
    assert len(metrics(tmp_path)) == 4
    with open(tmp_path / "distance.csv", newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert (tmp_path / "distance.png").stat().st_size > 5_000
    model = keras.models.load_model(tmp_path / "model.keras")
    ghosts = {x.ghost_batch_size for x in model.layers if hasattr(x, "moving_mean")}
    assert ghosts == {10} and model.ghost_batch_size is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lars", "lamb", "padam", "smoothout+lars"])
def test_base_optimizers_train(tmp_path, method):
    run(tmp_path, *TINY, "--epochs=1", f"--method={method}", "--learning_rate=0.01")
    assert len(metrics(tmp_path)) == 1


def test_a_nested_method_is_built_from_the_outermost_in():
    flags = ["--method=lookahead+smoothout", "--radius=0.02", "--radius_schedule=tanh", "--seed=5"]
    options.parse(["train.py", *flags, "--clipnorm=2", "--copies=4", "--antithetic"])
    lookahead = methods.optimizer(
        options.FLAGS, "lookahead+smoothout+smoothout", 5, courses.plan(options.FLAGS, 1280)
    )
    outer, inner, sgd = lookahead.inner, lookahead.inner.inner, lookahead.inner.inner.inner
    assert (outer.copies, outer.antithetic, outer.radius.total_steps) == (4, True, 200)
    assert outer.seed != inner.seed == 6  # They draw independently.
    assert (type(sgd), sgd.momentum, sgd.clipnorm) == (keras.optimizers.SGD, 0.9, 2)


@pytest.mark.slow
def test_batches_follow_the_noise_scale_and_a_resumed_run_goes_on_with_both(tmp_path, capsys):
    flags = (*TINY, "--track_noise_scale", "--ghost_batch_size=5", "--batch_size=10")
    flags += ("--largest_batch_size=40", "--learning_rate=0.3")
    run(tmp_path / "whole", *flags, "--epochs=3")
    printed = capsys.readouterr().out
    run(tmp_path / "parts", *flags, "--epochs=2")
    run(tmp_path / "parts", "--resume", "--epochs=3")
    rows = metrics(tmp_path / "whole")
    assert rows == metrics(tmp_path / "parts")
    assert [row["batch_size"] for row in rows] == ["10", "20", "40"]
    scale = json.loads((tmp_path / "whole" / "summary.json").read_text())["gradient_noise_scale"]
    assert scale == float(rows[-1]["gradient_noise_scale"]) > 0
    words = f"sgd, gradient noise scale {scale:.3g}: batches of 10 take {1 + scale / 10:.3g} times"
    assert f"{words} the fewest updates and {1 + 10 / scale:.3g} times the fewest" in printed


@pytest.mark.parametrize(("flags", "ess"), [([], 1280), (["--ess=50"], 50)])
def test_ivon_knows_the_number_of_training_images(flags, ess):
    options.parse(["train.py", "--method=swa+ivon", *flags])
    course = courses.plan(options.FLAGS, 1280)
    methods.settle(options.FLAGS, ["swa+ivon"], course)
    assert methods.optimizer(options.FLAGS, "swa+ivon", 0, course).inner.ess == ess
    assert f"--ess={ess}" in options.kept()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--method=smothout", "--method takes smoothout, adasmoothout, sam"),
        ("--method=sgd+smoothout", "--method takes smoothout, adasmoothout, sam"),
        ("--compare=sgd,sgd", "--compare must name each method once"),
        ("--compare=sgd,sam --method=sam", "--compare and --method exclude each other"),
        ("--batch_size=0", "flag --batch_size=0"),
        ("--learning_rate=fast", "flag --learning_rate=fast"),
        ("--learning_rate=nan", "--learning_rate must be finite. Received: --learning_rate=nan"),
        ("--momentum=nan", "--momentum must be finite"),
        ("--l2=inf", "--l2 must be finite"),
        ("--method=smoothout --radius=nan", "--radius must be finite"),
        ("--method=sam --rho=-0.1", "Received: --rho=-0.1"),
        ("--seed=4294967296", "flag --seed=4294967296"),
        ("--ghost_batch_size=1", "--ghost_batch_size must be 2 at least"),
        ("--clipnorm=0", "--clipnorm must be more than 0: leave it out not to clip"),
        ("--train_split=train[:100]", "--train_split needs a --dataset of tfds"),
        ("--lr_schedule=polynomial --lr_power=11", "flag --lr_power=11"),
        ("--radius=0.1", "--radius means nothing to the method sgd"),
        ("--width=2", "--width means nothing to this --model. Received: --width=2.0 --model=f1"),
        ("--model=wrn16_4 --width=2", "--width means nothing to this --model"),
        (
            "--model=c1 --width=0.3",
            "--width must make 64, 384 and 192 whole. Received: --width=0.3",
        ),
        ("--model=resnet8 --width=0.5", "Received: --width=0.5"),
        ("--model=c1 --dropout=1", "Received: --dropout=1"),
        ("--compare=sgd,sam --copies=2", "--copies means nothing to the method sgd or sam"),
        ("--method=adam --nesterov", "--nesterov means nothing to the method adam"),
        ("--method=smoothout --radius=-1", "Received: --radius=-1"),
        ("--method=smoothout --copies=3 --antithetic", "Received: --copies=3"),
        ("--clipnorm=1 --clipvalue=1", "Received: --clipnorm=1.0, clipvalue=1.0"),
        ("--resume", "--resume needs --workdir"),
        ("--resume --workdir=/no/such/run", "there is no run to --resume in /no/such/run"),
        ("--batch_size=64 --ghost_batch_size=65", "--ghost_batch_size must not exceed"),
        ("--lr_milestones=5", "--lr_milestones and --lr_schedule=piecewise need each other"),
        ("--lr_schedule=piecewise", "--lr_milestones and --lr_schedule=piecewise need each other"),
        ("--lr_schedule=piecewise --lr_milestones=9,5", "--lr_milestones must rise"),
        ("--lr_schedule=piecewise --lr_milestones=20", "--lr_milestones must rise"),
        ("--lr_schedule=piecewise --lr_milestones=a", "must be whole epochs"),
        ("--lr_schedule=piecewise --lr_milestones=²", "must be whole epochs"),
        ("--scaling=linear", "--scaling needs --base_batch_size"),
        ("--regime_adaptation", "--regime_adaptation needs --base_batch_size"),
        ("--method=smoothout --radius_schedule=tanh", "--radius_schedule needs --radius"),
        ("--radius=1 --radius_schedule=tanh", "--radius means nothing to the method sgd"),
        ("--small_batch_epochs=2", "--small_batch_epochs needs --base_batch_size"),
        ("--base_batch_size=8 --small_batch_epochs=20", "--small_batch_epochs must be less"),
        ("--base_batch_size=-8", "flag --base_batch_size=-8"),
        ("--ghost_layers", "--ghost_layers needs --ghost_batch_size"),
        ("--lr_schedule=cosine --warmup_epochs=20", "--warmup_epochs must be less than --epochs"),
        ("--lr_decay=0.2", "--lr_decay needs --lr_schedule=piecewise"),
        ("--devices=2", "--devices needs --strategy=mirrored"),
        ("--run_eagerly --jit=on", "--run_eagerly and --jit=on exclude each other"),
        ("--steps_per_execution=7", "--steps_per_execution must divide the 12 steps"),
        ("--drop_remainder --batch_size=2000", "--drop_remainder leaves none of 1437 images"),
        (
            "--drop_remainder --base_batch_size=2000 --small_batch_epochs=1",
            "leaves none of 1437 images. Received: --base_batch_size=2000",
        ),
        ("--train_examples=1438", "--train_examples must be <= 1437"),
        ("--dataset=cifar10 --data_dir=/no/such/folder", "Pass --download to fetch it"),
        ("--model=resnet21", "flag --model=resnet21"),
        ("--image_size=773", "--image_size must be <= 772, for 1797 images in memory at once"),
        ("--model=c1 --width=1000", "weights of 4 bytes, and this machine"),
        ("--model=c1 --width=1e300", "flag --width=1e300"),
        ("--strategy=mirrored --devices=129", "--devices must not exceed --batch_size"),
        ("--model_copies=3 --batch_size=2", "Received: 2 images for 3 copies"),
        ("--model_copies=2 --batch_size=359", "Received: 1 images for 2 copies"),
        (
            "--method=replicatedsgd --batch_size=130 --ghost_batch_size=32",
            "Received: 2 images for 3 copies",
        ),
        ("--track_noise_scale", "--ghost_batch_size=0 --batch_size=128 --ghost_layers=False"),
        ("--track_noise_scale --ghost_batch_size=128", "--track_noise_scale compares the grad"),
        (
            "--track_noise_scale --ghost_batch_size=32 --ghost_layers",
            "--track_noise_scale compares the gradients of parts of a batch",
        ),
        ("--largest_batch_size=512", "--largest_batch_size needs --track_noise_scale"),
        (
            "--track_noise_scale --largest_batch_size=512 --augment=crop",
            "--augment and --largest_batch_size exclude each other",
        ),
        ("--method=sam+kfac --model_copies=2", "`KFAC` is not known to"),
        ("--compare=swa,entropysgd+swa", "--start must be given"),
        ("--data_dir=hdfs://a", "flag --data_dir=hdfs://a: must be a folder, or one in a store"),
        ("smoothout", "train.py takes flags only. Received: smoothout"),
    ],
)
def test_wrong_flags_are_refused_before_any_work(tmp_path, flags, words):
    workdir = [] if "--resume" in flags else [f"--workdir={tmp_path / 'run'}"]
    assert words in ending([*workdir, *flags.split()])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [2**31, 2**63, 10**30, 10**400, "1" + "0" * 5000])
def test_huge_integers_are_refused(tmp_path, value):
    """Those of every flag; many would end in an overflow, or in no memory."""
    numbers = [flag.name for flag in options.OURS if flag.flag_type() == "int"]
    assert {"epochs", "devices", "copies", "image_size", "seeds"} < set(numbers)
    for name in numbers:
        words = ending([f"--workdir={tmp_path / 'run'}", f"--{name}={value}"])
        assert f"flag --{name}={value}" in words and "--help" in words
    flags = ["--lr_schedule=piecewise", f"--lr_milestones={value}", "--epochs=2147483647"]
    assert "--lr_milestones" in ending([f"--workdir={tmp_path / 'run'}", *flags])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("spoil", [lambda path: path.mkdir(), lambda path: path.write_bytes(FF)])
def test_a_flagfile_that_cannot_be_read(tmp_path, spoil):
    assert str(tmp_path / "none") in ending([f"--flagfile={tmp_path / 'none'}"])
    spoil(tmp_path / "flags")
    assert "explained by: python train.py --help" in ending([f"--flagfile={tmp_path / 'flags'}"])


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_set_of_images_is_told(tmp_path, text):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(text)
    (folder / "features.json").write_text("{}")
    words = ending(["--dataset=mnist", f"--data_dir={tmp_path}", f"--workdir={tmp_path / 'run'}"])
    assert "Dataset 'mnist' is damaged: delete it, and pass --download" in words


def test_a_full_disk_under_tensorboard_says_how_to_continue(tmp_path, monkeypatch):
    """Its error is TensorFlow's, not Python's."""
    path = "/small/tensorboard/events.v2"
    words = f"{{{{function_node a}}}} {path}; No space left on device\n\tFailed to flush"

    class Full(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise tf.errors.ResourceExhaustedError(None, None, words)

    monkeypatch.setattr(keras.callbacks, "TensorBoard", lambda *_, **__: Full())
    message = ending([f"--workdir={tmp_path}", *TINY])
    assert message.startswith(
        f"{path}; No space left on device\nTo continue from the last checkpoint"
    )
    assert len(checkpoints(tmp_path)) == 1


def test_no_memory_for_a_step_names_smaller_ones(tmp_path, monkeypatch):
    for error in (
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
    ):
        monkeypatch.setattr(runs, "build", lambda *_, error=error: (_ for _ in ()).throw(error))
        message = ending([f"--workdir={tmp_path}", *TINY, "--overwrite"])
        assert message.startswith("Out of memory: ") and "smaller --batch_size" in message


@pytest.mark.parametrize("end", ["\n", "\r", "\u2028", "\x85"])
def test_a_flag_of_several_lines_is_refused(tmp_path, end):
    """In flags.txt it would be several flags."""
    words = ending([f"--workdir={tmp_path / 'run'}", f"--data_dir=a{end}--epochs=7"])
    assert "--data_dir must be on one line" in words


def test_a_store_that_is_unknown_is_refused():
    for flag in ("--overwrite", "--resume", "--resume_or_begin"):
        assert "--workdir=hdfs://a: must be a folder, or" in ending(["--workdir=hdfs://a", flag])


@pytest.mark.parametrize(
    "flags",
    [
        "--batch_size=48 --base_batch_size=36 --steps_per_execution=2",
        "--batch_size=32 --base_batch_size=128 --drop_remainder",
    ],
)
def test_stages_that_fit_the_images_train(tmp_path, flags):
    stages = ("--train_examples=288", "--small_batch_epochs=1", "--epochs=2", "--verbose=0")
    run(tmp_path, *stages, *flags.split())
    assert len(metrics(tmp_path)) == 2


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "taken").touch()
    assert "taken" in ending([f"--workdir={tmp_path / 'taken'}"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x, y: (x, y + 1), "`labels of digits/train` must hold whole numbers in [0, 9]"),
        (lambda x, y: (x, -y), "Received: labels of digits/train in [-9, 0]"),
        (lambda x, y: (x * np.nan, y), "images of digits/train hold pixels that are not finite"),
        (lambda x, y: (x + np.inf, y), "images of digits/train hold pixels that are not"),
    ],
)
def test_images_and_labels_that_are_wrong(tmp_path, monkeypatch, spoil, words):
    part = datasets.open_digits("train", None)
    spoiled = part._replace(arrays=spoil(part.arrays[0].astype("float32"), part.arrays[1]))
    monkeypatch.setattr(datasets, "open_digits", lambda *_: spoiled)
    assert words in ending([f"--workdir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


@pytest.mark.tensorflow
def test_mirrored_needs_tensorflow_and_no_xla(monkeypatch):
    flags = ["--strategy=mirrored", "--devices=2"]
    assert "leaves 1 images for 2 devices" in ending([*flags, "--batch_size=1436"])
    assert "--batch_size must be a multiple of the 2 devices" in ending([*flags, "--batch_size=3"])
    assert "--strategy=mirrored and --jit=on exclude" in ending([*flags, "--jit=on"])
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert "--strategy=mirrored needs KERAS_BACKEND=tensorflow" in ending(flags)


def test_help_explains_each_flag():
    command = [sys.executable, ROOT / "train.py", "--help"]
    text = subprocess.run(command, capture_output=True, text=True).stdout
    assert text.lstrip().startswith("Trains an image classifier")
    assert all(f"--{flag.name}:" in text or f"--[no]{flag.name}:" in text for flag in options.OURS)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_ctrl_c_keeps_the_last_checkpoint_and_says_how_to_go_on(tmp_path, number):
    flags = (*TINY, f"--workdir={tmp_path}", "--epochs=100000")
    command = [sys.executable, ROOT / "train.py", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not checkpoints(tmp_path):
            time.sleep(0.05)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in errors
    assert output.decode().endswith(f"python train.py --resume --workdir={tmp_path}\n")
    epoch = position_of(checkpoints(tmp_path)[-1]).epoch
    assert epoch <= len(metrics(tmp_path)) <= epoch + 1
