"""train.py on many devices: what it needs, and that many processes train as one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from support.nets import two_replicas

import train
from benchmarks import faults
from keras_smoothout.checkpoint_files import checkpoints
from training import devices, options

TINY = ("--train_examples=64", "--batch_size=32", "--verbose=0", "--epochs=2", "--model=f1")
pytestmark = [
    pytest.mark.tensorflow,  # Where JAX is meant, it runs in a separate process.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def run(*flags):
    train.main(options.parse(["train.py", *flags]))


def ending(*flags):
    """The words with which train.py ends because of its flags."""
    with pytest.raises(SystemExit) as exit:
        run(*flags)
    return str(exit.value)


def elsewhere(workdir, backend, *flags):
    """A run in a process of its own."""
    faults.ended(faults.started(workdir, backend, 1, *TINY, *flags), workdir)
    with np.load(checkpoints(workdir)[-1]) as arrays:
        return list(arrays.values())


@pytest.fixture
def fake_tpu(monkeypatch):
    """A resolver that finds a TPU, which is a strategy of two CPUs."""
    told = []
    resolvers = tf.distribute.cluster_resolver
    monkeypatch.setattr(resolvers, "TPUClusterResolver", lambda tpu: told.append(tpu) or tpu)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", told.append)
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", told.append)

    class TPUStrategy:  # Keras asks whether a strategy is one.
        def __new__(cls, resolver):
            return two_replicas()

    monkeypatch.setattr(tf.distribute, "TPUStrategy", TPUStrategy)
    return told


@pytest.mark.slow
def test_jax_devices_train_as_one(tmp_path):
    """The last batch of 29 images does not divide by their number. test_faults has processes."""
    flags = ("--method=smoothout", "--train_examples=61")
    one = elsewhere(tmp_path / "one", "jax", *flags)
    eight = elsewhere(tmp_path / "8", "jax", *flags, "--strategy=data_parallel", "--devices=8")
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_a_tpu_is_connected_to_and_trained_on(tmp_path, fake_tpu):
    flags = ("--strategy=tpu", "--tpu=somewhere", "--drop_remainder")
    bfloat16 = "--mixed_precision=mixed_bfloat16"
    run(*TINY, f"--workdir={tmp_path}", *flags, bfloat16, "--method=smoothout", "--model=c1")
    assert fake_tpu == ["somewhere"] * 3
    model = keras.models.load_model(tmp_path / "model.keras")
    assert model.layers[1].compute_dtype == "bfloat16"


def test_evaluation_batches_divide_where_they_must():
    from training import images, runs

    source = images.load("digits")
    for split, replicas in ((source.test, 8), (source.train, 3)):
        on = devices.Devices(replicas=replicas, even=True)
        batches = runs.evaluated(source, split, on).as_numpy_iterator()
        sizes = {len(labels) for _, labels in batches}
        assert len(sizes) == 1 and sizes.pop() % replicas == 0
    with pytest.raises(ValueError, match="1437 images cannot be evaluated in equal batches on 8"):
        runs.evaluated(source, source.train, devices.Devices(replicas=8, even=True))


def test_no_tpu_is_told(monkeypatch):
    def unknown(tpu):
        raise ValueError("no such name\nand a long story")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", unknown)
    words = ending("--strategy=tpu", "--tpu=nowhere", "--drop_remainder")
    assert "--strategy=tpu found no TPU 'nowhere'" in words and "--tpu=local" in words
    assert words.endswith("no such name")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--strategy=tpu --drop_remainder", "--tpu and --strategy=tpu need each other"),
        ("--tpu=a", "--tpu and --strategy=tpu need each other"),
        ("--strategy=tpu --tpu=a", "--strategy=tpu needs --drop_remainder"),
        ("--strategy=data_parallel", "--strategy=data_parallel needs KERAS_BACKEND=jax"),
        ("--compile_only", "--compile_only and --topology need each other"),
        ("--topology=v5e:2x2", "--compile_only and --topology need each other"),
        ("--compile_only --topology=v5e:2x2", "--compile_only needs --strategy=data_parallel"),
        ("--strategy=multi_worker --jit=on", "--jit=on exclude each other"),
        ("--resume_or_begin", "--resume_or_begin needs --workdir"),
        ("--resume_or_begin --workdir=a --overwrite", "exclude each other"),
        ("--track_distance --workdir=gs://a", "--track_distance needs a local --workdir"),
    ],
)
def test_flags_that_exclude_each_other(flags, words):
    assert words in ending(*flags.split())


@pytest.mark.parametrize(
    "config",
    ["", "{", "[]", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}'],
)
def test_multi_worker_asks_for_its_cluster(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    words = ending("--strategy=multi_worker")
    assert "--strategy=multi_worker reads the workers" in words
    assert words.endswith(f"Received: TF_CONFIG='{config}'")


def test_processes_that_see_other_checkpoints_are_told(monkeypatch):
    pair = devices.Devices(two_replicas(), 2, processes=2)
    for number in (3, 4097, 4_000_001):  # Its square is not a float32.
        pair.agree(number, "they differ")  # Two replicas of this process stand for two processes.
    theirs = iter([[0.0, 0.0], [1.0]])  # They are not the first, and see another number.
    monkeypatch.setattr(devices, "sums", lambda _, ours: np.add(ours, next(theirs)))
    with pytest.raises(ValueError, match="they differ"):
        pair.agree(1, "they differ")


def test_a_workdir_in_an_object_store(tmp_path, monkeypatch):
    """Paths of a bucket are those of a folder here; TensorBoard's own events are left out."""
    from etils.epath import backend, gpath

    class Bucket(type(backend.os_backend)):
        def __getattribute__(self, name):
            function = super().__getattribute__(name)
            if name.startswith("_"):
                return function
            local = lambda x: str(x).replace("gs://bucket", str(tmp_path))  # noqa: E731
            return lambda *a, **k: function(*map(local, a), **k)

    bucket = Bucket()
    monkeypatch.setattr(gpath._GPath, "_backend", property(lambda self: bucket))
    monkeypatch.setattr(keras.callbacks, "TensorBoard", lambda *_, **__: keras.callbacks.Callback())
    workdir = epath.Path("gs://bucket/run")
    run(*TINY, f"--workdir={workdir}")
    run("--resume", f"--workdir={workdir}", "--epochs=3", "--verbose=0")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.keras", "summary.json", "curves.png", "flags.txt", "metrics.csv"} <= left
    assert {"epoch-000002.npz", "epoch-000003.npz"} <= left
    assert not [name for name in left if "unfinished" in name]
