"""`python -m keras_smoothout.landscape`: what it writes, and the one line that it ends with."""

import csv
import types

import keras
import numpy as np
import pytest
from keras import layers
from support.nets import LOSS, images

from keras_smoothout import datasets
from keras_smoothout.landscape import __main__ as command
from keras_smoothout.landscape.measures import MEASURES

pytestmark = pytest.mark.tensorflow  # The command runs once.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, a workdir that holds a third, and data, as files."""
    folder = tmp_path_factory.mktemp("landscape")
    for seed, name in enumerate(("small", "large")):
        model = digits_net(seed)
        model.compile(loss=LOSS)
        model.save(folder / f"{name}.keras")
    np.savez(folder / "data.npz", **dict(zip("xy", images(), strict=True)))
    (folder / "run").mkdir()
    model = digits_net(seed=1)
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    model.save(folder / "run" / "model.keras")
    (folder / "run" / "flags.txt").write_text("--dataset=digits\n--train_examples=40\n--resume\n")
    return folder


def digits_net(seed=0):
    keras.utils.set_random_seed(seed)
    net = [layers.BatchNormalization(), layers.Flatten(), layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *net])


def run(folder, *arguments):
    out = folder / f"out-{len(list(folder.iterdir()))}"
    command.main([str(a) for a in (*arguments, f"--out={out}")])
    return out


def rows(out):
    with open(out / "measures.csv", newline="") as file:
        return {(r["model"], r["measure"]): r for r in csv.DictReader(file)}


def test_two_models(folder, capsys):
    out = run(
        folder,
        folder / "small.keras",
        f"--compare={folder / 'large.keras'}",
        f"--dataset={folder / 'data.npz'}",
        f"--start={folder / 'small.keras'}",
        "--measures=lambda_max,local_energy,distance_from_init",
        "--grid=3",
    )
    found = rows(out)
    assert [key[0] for key in found] == 3 * ["small"] + 3 * ["large"]
    assert float(found["small", "distance_from_init"]["value"]) == 0
    assert float(found["large", "distance_from_init"]["value"]) > 0
    assert float(found["large", "lambda_max"]["products"]) > 0
    pictures = ["from_small_to_large", "line", "measures", "plane_large", "plane_small", "spectrum"]
    pictures += ["surface_large", "surface_small"]
    assert sorted(p.name for p in out.glob("*.png")) == [f"{p}.png" for p in pictures]
    assert len(list(out.glob("*.svg"))) == len(pictures)
    assert (out / "report.html").read_text().count("Plotly.newPlot(") >= 6
    printed = capsys.readouterr().out
    assert "[1/7] small" in printed and "[7/7] Line from small to large" in printed
    assert "small:" in printed and "±" in printed and f"Written to {out}" in printed


def test_a_workdir_knows_its_data(folder, capsys):
    out = run(folder, folder / "run", "--measures=loss", "--nopictures")
    assert "652 weights, 40 examples" in capsys.readouterr().out
    x, y = datasets.load("digits", train_examples=40)
    model = command.load_model(folder / "run")
    loss = float(model.evaluate(x, keras.utils.to_categorical(y, 10), verbose=0))
    assert float(rows(out)["run", "loss"]["value"]) == pytest.approx(loss, rel=1e-5)
    assert [p.name for p in out.iterdir()] == ["measures.csv"]


@pytest.mark.parametrize("named", ["seed-1", "seed-1/model.keras"])
def test_a_run_of_several_methods_and_seeds_knows_its_data(folder, capsys, named):
    top = folder / "several"
    for name in ("sgd/seed-0", "sgd/seed-1"):
        (top / name).mkdir(parents=True, exist_ok=True)
        (top / name / "model.keras").write_bytes((folder / "run" / "model.keras").read_bytes())
    (top / "flags.txt").write_bytes((folder / "run" / "flags.txt").read_bytes())
    run(folder, top / "sgd" / named, "--measures=loss", "--nopictures")
    assert "652 weights, 40 examples" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        run(folder, top)
    expected = ", ".join(str(top / "sgd" / name) for name in ("seed-0", "seed-1"))
    assert end.value.code == f"There is no model in {top}, but in: {expected}"


def test_each_model_is_given_targets_as_its_loss_takes_them(folder):
    other = f"--compare={folder / 'large.keras'}"  # The same weights; its labels are integers.
    found = rows(run(folder, folder / "run", other, "--measures=loss", "--nopictures"))
    values = [float(found[name, "loss"]["value"]) for name in ("run", "large")]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_the_first_examples(folder, capsys):
    run(folder, folder / "run", "--measures=loss", "--nopictures", "--examples=12")
    assert "12 examples" in capsys.readouterr().out


@pytest.mark.parametrize("image_size", [None, 5])
def test_pixels_are_those_of_training(image_size):
    from training.images import load

    source = load("digits", train_examples=100, image_size=image_size)
    _, expected, labels = next(iter(source.train.batches(100)))
    expected = (np.array(expected) - source.mean) / source.deviation
    x, y = datasets.load("digits", train_examples=100, image_size=image_size)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    np.testing.assert_array_equal(y, labels)
    # Also those of the test split are normalised by the training examples.
    _, expected, labels = next(iter(source.test.batches(360)))
    expected = (np.array(expected) - source.mean) / source.deviation
    x, y = datasets.load("digits", split="test", train_examples=100, image_size=image_size)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    np.testing.assert_array_equal(y, labels)


@pytest.mark.parametrize("memory", [10**6, 20 * 12])
def test_pixels_of_a_stream_are_those_of_training(monkeypatch, memory):
    # Of a training split that is not held in memory train.py takes the first ones.
    import tensorflow as tf

    from training.images import load

    draw = np.random.default_rng(0)
    sizes = {"train": 50, "test": 10}
    arrays = {
        name: (draw.integers(0, 9 * n, (n, 2, 2, 3)).astype("uint8"), np.arange(n))
        for name, n in sizes.items()
    }
    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(
            splits={name: types.SimpleNamespace(num_examples=n) for name, n in sizes.items()}
        ),
        as_dataset=lambda split, **_: tf.data.Dataset.from_tensor_slices(arrays[split]),
        is_prepared=lambda: True,
    )
    monkeypatch.setattr(datasets, "described", lambda *_: (builder, (2, 2, 3), 50))
    monkeypatch.setattr(datasets, "MEMORY_BYTES", memory)
    source = load("any", train_examples=30)
    x, y = datasets.load("any", split="test", train_examples=30)
    expected = (arrays["test"][0] - source.mean) / source.deviation
    np.testing.assert_allclose(x, expected, atol=1e-5)
    np.testing.assert_array_equal(y, arrays["test"][1])
    if memory < 50 * 12:
        with pytest.raises(ValueError, match="any/train has 50 images of 2x2, too many at once"):
            datasets.load("any")
        _, y = datasets.load("any", train_examples=10)  # These fit.
        np.testing.assert_array_equal(y, range(10))


def test_a_workdir_knows_the_size_of_its_images(folder, capsys):
    (folder / "resized").mkdir()
    net = [keras.Input((5, 5, 1)), layers.Flatten(), layers.Dense(10)]
    model = keras.Sequential(net)
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    model.save(folder / "resized" / "model.keras")
    (folder / "resized" / "flags.txt").write_text("--dataset=digits\n--image_size=5\n")
    run(folder, folder / "resized", "--measures=loss", "--nopictures", "--split=test")
    assert "260 weights, 360 examples" in capsys.readouterr().out
    # A model that is of no run is told it, or its inputs do not fit.
    model.save(folder / "resized.keras")
    run(
        folder,
        folder / "resized.keras",
        "--dataset=digits",
        "--image_size=5",
        "--measures=loss",
        "--nopictures",
    )
    assert "260 weights, 1000 examples" in capsys.readouterr().out


def test_other_layers_leave_out_the_line_between(folder, capsys):
    wider = [layers.Flatten(), layers.Dense(4), layers.Dense(10)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *wider])
    model.compile(loss=LOSS)
    model.save(folder / "wider.keras")
    out = run(
        folder,
        folder / "small.keras",
        f"--compare={folder / 'wider.keras'}",
        f"--dataset={folder / 'data.npz'}",
        "--measures=loss",
        "--grid=2",
    )
    assert "Left out: Both must have the same trainable weights" in capsys.readouterr().out
    assert not list(out.glob("from*"))


def test_an_interrupt_says_what_is_there(folder, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "pictures", interrupted)
    with pytest.raises(SystemExit) as end:
        run(folder, folder / "run", "--measures=loss")
    assert end.value.code == 130
    assert "Interrupted. What was finished is in" in capsys.readouterr().out


def test_an_interrupt_keeps_what_is_measured(folder, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(MEASURES, "error", interrupted)
    out = folder / "interrupted"
    with pytest.raises(SystemExit) as end:
        command.main([str(folder / "run"), "--measures=loss,error", f"--out={out}"])
    assert end.value.code == 130
    assert list(rows(out)) == [("run", "loss")]
    assert "loss" in (out / "report.html").read_text()


def test_the_models_are_only_read(folder):
    before = [(p, p.read_bytes()) for p in sorted(folder.glob("**/*.keras"))]
    run(
        folder,
        folder / "small.keras",
        f"--dataset={folder / 'data.npz'}",
        "--measures=loss",
        "--nopictures",
    )
    assert len(before) >= 3
    assert all(path.read_bytes() == content for path, content in before)


def test_labels_tell_models_apart(folder):
    assert command.labels_of([folder / "run", folder / "small.keras"]) == ["run", "small"]
    same = command.labels_of([folder / "run", folder / "run" / "model.keras"])
    assert len(set(same)) == 2 and not any("/" in label for label in same)


def unreadable(folder):
    """Files that are damaged, or of another kind than their names say."""
    for name, part, shift in (("data.npz", b"x.npy", 200), ("small.keras", b"config.json", 40)):
        whole, kind = (folder / name).read_bytes(), name.split(".")[1]
        place = whole.index(part) + shift
        (folder / f"cut.{kind}").write_bytes(whole[: len(whole) // 2])
        (folder / f"flipped.{kind}").write_bytes(whole[:place] + b"!!!" + whole[place + 3 :])
    (folder / "empty.npz").write_bytes(b"")
    np.save(folder / "array.npy", np.zeros(3))
    (folder / "npy.npz").write_bytes((folder / "array.npy").read_bytes())
    np.savez(folder / "words.npz", x=np.array(["a", "b"]), y=np.zeros(2))
    np.savez(folder / "single.npz", x=np.float32(1), y=np.zeros(2))
    (folder / "odd").mkdir(exist_ok=True)
    (folder / "odd" / "model.keras").write_bytes((folder / "small.keras").read_bytes())
    (folder / "odd" / "flags.txt").write_bytes(b"\xff\n--dataset=digits\n--image_size=x\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{f}/small.keras"], "Pass --dataset"),
        (["{f}/none.keras", "--dataset=digits"], "There is no model in"),
        (["{f}", "--dataset=digits"], "There is no model in"),
        (["{f}/data.npz", "--dataset=digits"], "cannot be loaded as a Keras model"),
        (["{f}/run", "--dataset={f}/none.npz"], "must be an .npz file with arrays x and y"),
        (["{f}/run", "--dataset={f}/bad.npz"], "must be an .npz file with arrays x and y"),
        (["{f}/run", "--dataset={f}/cut.npz"], "must be an .npz file with arrays x and y"),
        (["{f}/run", "--dataset={f}/flipped.npz"], "arrays x and y: Bad CRC-32 for file 'x.npy'"),
        (["{f}/run", "--dataset={f}/empty.npz"], "must be an .npz file with arrays x and y"),
        (["{f}/run", "--dataset={f}/npy.npz"], "must be an .npz file with arrays x and y"),
        (["{f}/run", "--dataset={f}/words.npz"], "must hold numbers, the examples along the first"),
        (["{f}/run", "--dataset={f}/single.npz"], "Received: x of shape () and dtype float32"),
        (["{f}/flipped.keras", "--dataset=digits"], "cannot be loaded as a Keras model"),
        (["{f}/cut.keras", "--dataset=digits"], "cannot be loaded as a Keras model"),
        (["{f}/odd"], "must hold a whole number. Received: --image_size=x"),
        (["{f}/run", f"--seed={10**30}"], "--seed must be at least 0, and at most 4294967295"),
        (["{f}/run", f"--image_size={10**9}"], "--image_size must be at least 0, and at most"),
        (["{f}/run", f"--grid={10**9}"], "--grid must be at least 2, and at most"),
        (["{f}/run", f"--examples={10**30}"], "--examples must be at least 0, and at most"),
        (["{f}/run", f"--batch_size={10**30}"], "--batch_size must be at least 1, and at most"),
        (["{f}/run", "--split=none"], "'digits' has no images in the split 'none'"),
        (["{f}/wide.keras", "--dataset=digits"], "The model takes inputs of (3,), the data has"),
        (["{f}/run", "--dataset={f}/halves.npz"], "`y` must hold whole numbers in [0, 9]"),
        (["{f}/small.keras", "--dataset={f}/halves.npz"], "`y` must hold whole numbers in [0, 9]"),
        (
            ["{f}/few.keras", "--dataset=digits"],
            "`y` must hold whole numbers in [0, 3], as there are 4 classes",
        ),
        (["{f}/naked.keras", "--dataset=digits"], "saved without a loss: pass --loss"),
        (["{f}/run", "--measures=hight"], "Received: hight"),
        (["{f}/run", "--measures=pac_bayes_bound"], "need --start"),
        (["{f}/run", "--image_size=-1"], "--image_size must be at least 0"),
        (["{f}/run", "--examples=-1"], "--examples must be at least 0"),
        (["{f}/run", "--batch_norm=none"], "invalid choice"),
        (["{f}/run", "--hight=3"], "unrecognized arguments"),
        ([], "the following arguments are required"),
    ],
)
def test_wrong_arguments_end_with_one_line(folder, arguments, words, capsys):
    small = [keras.Input((3,)), layers.Dense(4)]
    few = [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(4)]
    for name, net in (("wide", small), ("few", few), ("naked", few)):
        model = keras.Sequential(net)
        if name != "naked":
            model.compile(loss=LOSS)
        model.save(folder / f"{name}.keras")
    np.savez(folder / "bad.npz", x=np.zeros(2))
    np.savez(folder / "halves.npz", x=images()[0], y=images()[1] + 0.5)
    unreadable(folder)
    with pytest.raises(SystemExit) as end:
        run(folder, *(a.format(f=folder) for a in arguments))
    line = capsys.readouterr().err if end.value.code == 2 else end.value.code
    assert words in line
    assert line.strip().count("\n") == 0


def test_an_unknown_data_set_is_told(folder):
    with pytest.raises(SystemExit) as end:
        run(folder, folder / "run", "--dataset=no_such_set")
    assert "must be 'digits' or a name of" in end.value.code


def test_a_data_set_that_is_not_there_is_told(folder, tmp_path):
    with pytest.raises(SystemExit) as end:
        run(folder, folder / "run", "--dataset=mnist", f"--data_dir={tmp_path}")
    assert "Dataset 'mnist' is not prepared in" in end.value.code
