"""`--radius=auto` and `--rho=auto`: a range test on a model of its own, before the run."""

import keras
import pytest
from etils import epath

import keras_smoothout as ks
import train
from training import auto, courses, curves, devices, images, options, runs, workdirs

TINY = ("--train_examples=200", "--batch_size=100", "--verbose=0", "--epochs=1")
pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def parsed(*args):
    options.parse(["train.py", *args])
    return options.FLAGS


def found(*args):
    """What `auto` finds for one method, and the options."""
    f = parsed(*args)
    source = images.load("digits", train_examples=f.train_examples)
    return auto.find(f, [f.method], source, courses.plan(f, source.train.examples)), f


def test_the_number_becomes_the_run_s_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(curves, "learning", lambda histories, path, title: path.touch())
    flags = (*TINY, "--method=smoothout+sam", "--radius=auto", "--rho=auto", "--seed=3")
    flags += ("--radius_schedule=tanh", "--label_smoothing=0.1", "--augment=crop")
    run = [*flags, f"--workdir={tmp_path}"]
    train.main(options.parse(["train.py", *run]))
    assert all((tmp_path / f"{name}.png").stat().st_size > 5_000 for name in ("radius", "rho"))
    lines = workdirs.read_flags(epath.Path(tmp_path)).splitlines()
    kept = dict(line[2:].split("=") for line in lines if line.startswith(("--radius=", "--rho=")))
    printed = capsys.readouterr().out
    for name, (low, high) in {"radius": (1e-3, 1.0), "rho": (1e-3, 1.0)}.items():
        assert low < float(kept[name]) < high
        assert f"{name} {kept[name]}: " in printed
    resumed = [*run, "--resume_or_begin", "--epochs=2"]  # Keeps the numbers, finds none.
    monkeypatch.setattr(auto, "search", None)
    train.main(options.parse(["train.py", *resumed]))
    assert parsed(*resumed).radius == float(kept["radius"])


def test_it_is_the_search_of_the_method_s_own_noise(monkeypatch):
    seen = []
    monkeypatch.setattr(ks, "find_radius", lambda model, x, y, **kw: seen.append((model, x, kw)))
    monkeypatch.setattr(ks, "find_rho", lambda model, x, y, **kw: seen.append((model, x, kw)))
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: None)
    found(*TINY, "--method=adasmoothout+lamb", "--radius=auto", "--ghost_batch_size=30")
    model, x, given = seen.pop()
    assert given == {
        "scale": "filter",
        "distribution": ks.AdaSmoothOut("sgd").distribution,
        "exclude": ks.AdaSmoothOut("sgd").exclude,
        "batch_size": 30,
    }
    assert isinstance(model.optimizer, ks.LAMB) and x.shape == (200, 8, 8, 1)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 * (64 / 100) ** 0.5)
    found(*TINY, "--method=asam", "--rho=auto", "--batch_size=32")
    model, x, given = seen.pop()
    assert given == {"adaptive": True, "batch_size": 100}
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_a_model_that_learns_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: None)
    with pytest.raises(ValueError, match="--radius=auto found nothing.*below that of chance"):
        found(*TINY, "--method=smoothout", "--radius=auto")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--method=msam", "--rho=auto"], "Received: --rho=auto for msam"),
        (["--method=gnp", "--rho=auto"], "Received: --rho=auto for gnp"),
        (["--compare=sam,asam", "--rho=auto"], "Received: --rho=auto for sam, asam"),
        (
            ["--compare=smoothout,sgd,adasmoothout", "--radius=auto"],
            "Received: --radius=auto for smoothout, sgd, adasmoothout",
        ),
        (["--radius=auto"], "--radius means nothing to the method sgd"),
        (["--method=smoothout", "--radius=car"], "--radius=car: must be a number or 'auto'"),
    ],
)
def test_wrong_flags_end_before_any_work(args, words, monkeypatch):
    monkeypatch.setattr(runs, "load", None)
    with pytest.raises(SystemExit) as exit:
        train.main(options.parse(["train.py", *args]))
    assert words in str(exit.value)


def test_it_is_refused_on_several_machines():
    f = parsed("--method=smoothout", "--radius=auto", "--strategy=multi_worker")
    with pytest.raises(ValueError, match="--radius=auto with --strategy=multi_worker"):
        auto.check(f, ["smoothout"], courses.plan(f, 1437), devices.Devices(processes=2))
