"""`train.py --compile_only`: a step compiled for TPU chips that are not there."""

import importlib.util
import types

import jax
import keras
import numpy as np
import pytest

import keras_smoothout as ks
import models
import train
from keras_smoothout import keras_internals
from training import options, topologies

FLAGS = ("--compile_only", "--strategy=data_parallel")
pytestmark = pytest.mark.jax


def run(*flags):
    return train.main(options.parse(["train.py", *FLAGS, *flags]))


def ending(*flags):
    with pytest.raises(SystemExit) as exit:
        run(*flags)
    return str(exit.value)


@pytest.fixture
def eight_chips(monkeypatch, tmp_path):
    """The CPUs of this process in place of chips, in an empty folder."""
    monkeypatch.setattr(topologies, "chips", lambda topology: jax.devices())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_says_what_a_step_costs(eight_chips, capsys):
    assert run("--topology=v5e:2x4", "--method=sam", "--batch_size=64") is None
    said = capsys.readouterr().out
    assert "64 images of (8, 8, 1) for 8 chips, v5e:2x4" in said
    assert "sam fits" in said and "calls to the host   none" in said
    assert "of 16.9 GB" in said and not list(eight_chips.iterdir())


def test_what_does_not_fit_is_returned_for_the_exit_code(eight_chips, monkeypatch):
    def compiled(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM: 20.00G exceeds 15.75G.")

    monkeypatch.setattr(topologies, "compiled", compiled)
    words = run("--topology=v5e:2x4", "--batch_size=64", "--compare=sgd,sam")
    assert words.startswith("sgd does not fit v5e:2x4. Out of memory") and "15.75G" in words
    assert "--batch_size" in words.splitlines()[1]
    assert words.splitlines()[2].startswith("sam does not fit v5e:2x4")


def test_a_set_that_is_not_prepared_will_do(eight_chips, monkeypatch, capsys):
    nothing = topologies.Cost(0, 0, 0, 0, 0, 0, 0, [], 0)
    monkeypatch.setattr(topologies, "cost", lambda *_: nothing)
    flags = ("--dataset=imagenet2012", f"--data_dir={eight_chips}", "--batch_size=64")
    assert "vary in size" in ending("--topology=v5e:2x4", *flags)
    assert run("--topology=v5e:2x4", *flags, "--image_size=32") is None
    said = capsys.readouterr().out
    assert "64 images of (32, 32, 3)" in said and "imagenet2012 is not prepared here" in said


def test_the_batch_and_the_test_images_are_checked_as_on_the_pod(monkeypatch):
    pod = [types.SimpleNamespace(process_index=i // 4) for i in range(16)]
    monkeypatch.setattr(topologies, "chips", lambda topology: pod)
    words = ending("--topology=v5e:4x4", "--batch_size=100")
    assert "--batch_size must be a multiple of the 16 devices" in words
    words = ending("--topology=v5e:4x4", "--batch_size=64")  # Four hosts.
    assert "leaves 29 images for 16 devices: pass --drop_remainder" in words
    words = ending("--topology=v5e:4x4", "--batch_size=64", "--drop_remainder")
    assert "images cannot be evaluated in equal batches on 16 devices" in words


@pytest.mark.parametrize(
    "name", ["nonsense", "v9:2x2", "v5e:2x2x1", "v5e:32x32", "v5p:2x2", "v5e:"]
)
def test_topologies_that_do_not_exist(name):
    assert f"Received: --topology={name}" in ending(f"--topology={name}")


def test_without_libtpu_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert 'pip install "jax[tpu]"' in ending("--topology=v5e:2x2")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "--compile_only and --topology need each other"),
        ("--topology=v5e:2x2 --devices=2", "--topology and --devices exclude each other"),
        ("--topology=v5e:2x2 --jit=off", "--jit"),
        ("--topology=v5e:2x2 --run_eagerly", "--run_eagerly"),
    ],
)
def test_flags_that_exclude_each_other(flags, words):
    assert words in ending(*flags.split())


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='libtpu is not installed: pip install "jax[tpu]" brings it, 684 MB, too much for CI',
)
def test_the_compiler_of_a_tpu():
    """F1 in place of ResNet-20, which takes minutes; the numbers of that are in TPU.md."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    chips, batch = topologies.chips("v5e:2x2"), ((8192, 28, 28, 1), (8192, 10))

    def cost(around, ghost_batch_size=None):
        model = ks.wrap(models.build("f1", (28, 28, 1), 10, 1e-4))
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        optimizer = around(keras.optimizers.SGD(0.1, momentum=0.9))
        model.compile(optimizer, loss, ghost_batch_size=ghost_batch_size)
        model.optimizer.build(model.trainable_variables)
        keras_internals.build_by(model, [np.zeros((2, *s[1:]), "float32") for s in batch])
        return topologies.cost(model, batch, topologies.data_parallel(chips))

    plain, noisy, twice, ghosts = (
        cost(lambda o: o),
        cost(lambda o: ks.SmoothOut(o, statistics="perturbed")),
        cost(ks.SAM),
        cost(lambda o: o, 2048),
    )
    assert not any(c.host for c in (plain, noisy, twice, ghosts))
    assert noisy.flops == pytest.approx(plain.flops, rel=0.02)
    assert noisy.exchanges == plain.exchanges
    assert twice.flops == pytest.approx(2 * plain.flops, rel=0.02)
    assert ghosts.flops == pytest.approx(plain.flops, rel=0.2)  # All chips share each ghost batch.
    assert run("--topology=v5e:2x2", f"--batch_size={2**26}").startswith("sgd does not fit v5e:2x2")
