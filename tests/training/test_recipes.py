"""Every recipe parses with every large-batch variant, says where it is from, and trains shrunk."""

from pathlib import Path

import pytest

import train
from training import courses, curves, options

RECIPES = Path(__file__).parents[2] / "benchmarks" / "recipes"
NETWORKS = sorted(path.stem for path in RECIPES.glob("*.flags"))
VARIANTS = sorted(path.stem for path in (RECIPES / "large").glob("*.flags"))
SHRUNK = "--dataset=digits --train_split=train --test_split=test --noresume --verbose=0 --devices=1"
SHRUNK += " --train_examples=32 --strategy=default --image_size=16 --epochs=1"
SHRUNK += " --run_eagerly"  # To trace and compile a deep network takes a minute.
pytestmark = [
    pytest.mark.tensorflow,  # Recipes are trained once.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def flags(network, variant=None):
    files = [RECIPES / f"{network}.flags"]
    files += [RECIPES / "large" / f"{variant}.flags"] if variant else []
    return [f"--flagfile={path}" for path in files]


@pytest.mark.parametrize("variant", [None, *VARIANTS])
@pytest.mark.parametrize("network", NETWORKS)
def test_parses(network, variant):
    options.parse(["train.py", *flags(network, variant)])
    course = courses.plan(options.FLAGS, examples=50_000)
    small = 256 if "imagenet" in network else 128
    assert course.stages[-1].batch_size == (2048 if variant else small)
    assert options.FLAGS.base_batch_size == small


@pytest.mark.parametrize("recipe", [*NETWORKS, *(f"large/{variant}" for variant in VARIANTS)])
def test_says_where_it_is_from(recipe):
    head = (RECIPES / f"{recipe}.flags").read_text()
    for word in ("Paper:", "arXiv:", "Command:", "Hardware:", "Ours:", f"{recipe}.flags"):
        assert word in head


def trained(tmp_path, monkeypatch, given, shrunk):
    monkeypatch.setattr(curves, "learning", lambda histories, path, title: path.touch())
    argv = ["train.py", *given, *SHRUNK.split(), *shrunk.split(), f"--workdir={tmp_path / 'run'}"]
    train.main(options.parse(argv))
    assert (tmp_path / "run" / "model.keras").exists()


@pytest.mark.parametrize(
    "network",
    [
        name if "f1" in name else pytest.param(name, marks=pytest.mark.slow)
        for name in map(str, NETWORKS)
    ],
)
def test_networks_train(network, tmp_path, monkeypatch):
    shrunk = "--batch_size=32 --base_batch_size=32"
    if not network.startswith(("f1", "c1")):
        shrunk = "--batch_size=16 --base_batch_size=16 --train_examples=16 --image_size=8"
        shrunk += " --warmup_epochs=0 --mixed_precision=float32"
        shrunk += " --lr_schedule=constant --lr_milestones= --lr_decay=0.1"
    trained(tmp_path, monkeypatch, flags(network), shrunk)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_train(variant, tmp_path, monkeypatch):
    given = flags("f1_mnist", variant)
    shrunk = "--batch_size=32 --base_batch_size=16 --warmup_epochs=0"
    if "ghost_batch_size" in (RECIPES / "large" / f"{variant}.flags").read_text():
        shrunk += " --ghost_batch_size=8"
    trained(tmp_path, monkeypatch, given, shrunk)
