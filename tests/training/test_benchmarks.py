"""The runner of the evidence goes on where it was killed, and its grid is what it says."""

import collections
import json
import math

import keras
import numpy as np
import pytest
from scipy import stats

from benchmarks import generalization_gap as gap
from benchmarks import report
from training import courses, options

RATES = {(label, size): rate for label, rate in gap.RATES.items() for size in gap.BATCH_SIZES}


def course(run, examples=20_000):
    options.parse(["train.py", *run["flags"]])
    return courses.plan(options.FLAGS, examples)


def test_a_line_that_was_cut_off_is_dropped(tmp_path):
    path = tmp_path / "runs.jsonl"
    run = gap.line("f1", "SGD", 128, 0, [], gap.Recipe(128, 0.1, 2))
    path.write_text(json.dumps(run) + "\n" + json.dumps(run)[:40])
    whole = json.dumps(run) + "\n"
    assert list(gap.recorded(path)) == [("f1", "SGD", 128, 0)]
    assert path.read_text() != whole  # A reader leaves it to the writer, which may be at it.
    assert list(gap.resumed(path)) == [("f1", "SGD", 128, 0)] and path.read_text() == whole
    assert gap.resumed(tmp_path / "none.jsonl") == {}


def settled(setting="f1", best=gap.RATES):
    """Trials of which those nearest to the `best` rates are the best."""
    done = {}
    while new := [run for run in gap.tuning(setting, done) if gap.key(run) not in done]:
        for run in new:
            far = abs(math.log(run["rate"] / best[run["tunes"]]))
            done[gap.key(run)] = run | {"test_accuracy": -far, "test_loss": 0.0}
    return done


def test_what_has_a_line_is_not_trained_again(tmp_path, monkeypatch):
    path, trained = tmp_path / "runs.jsonl", []

    def train(run, data_dir):
        trained.append(gap.key(run))
        if len(trained) == 30:
            raise KeyboardInterrupt
        far = abs(math.log(run.get("rate", 1.0) / 0.1))
        return run | {"test_accuracy": -far, "test_loss": 0.0}

    monkeypatch.setattr(gap, "trained", train)
    monkeypatch.setattr("sys.argv", ["", "--setting=resnet8", f"--results={path}"])
    with pytest.raises(KeyboardInterrupt):
        gap.main()
    with open(path, "a") as file:
        file.write('{"experiment": "res')
    gap.main()
    assert len(trained) == len(set(trained)) + 1 and trained.count(trained[29]) == 2
    kinds = {experiment for experiment, *_ in trained}
    assert kinds == {"resnet8-tuning", "resnet8-timing", "resnet8"}
    count = len(trained)
    gap.main()
    assert len(trained) == count == len(path.read_text().splitlines()) + 1


def test_rates_are_taken_once_they_are_tuned():
    done = settled()
    assert len(gap.tuned(done, "f1")) == len(gap.RATES) * len(gap.BATCH_SIZES)
    done.popitem()
    with pytest.raises(SystemExit, match="run --setting=f1"):
        gap.tuned(done, "f1")


def test_the_order_is_new_in_each_epoch():
    """Keras' own is not, on TensorFlow with a seed."""
    numbers, orders = np.arange(10.0), []
    batches = gap.Shuffled(numbers, -numbers, 4, seed=0)

    class Watched(keras.Model):
        def train_step(self, *args):
            *_, data = args
            orders.append(data[0])
            return super().train_step(*args)

    inputs = keras.Input((1,))
    model = Watched(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(batches, epochs=3, shuffle=False, verbose=0)
    seen = np.concatenate([keras.ops.convert_to_numpy(x).ravel() for x in orders]).reshape(3, 10)
    assert [sorted(epoch) for epoch in seen] == 3 * [list(numbers)]
    assert len({tuple(epoch) for epoch in seen}) == 3
    x, y = batches[2]
    assert len(x) == 2 and np.array_equal(x, -y)


def test_differences_are_paired_by_seed():
    ours, theirs = [0.90, 0.95, 0.91, 0.93], [0.89, 0.91, 0.90, 0.92]
    runs = [[{"test_accuracy": a, "flags": [a]} for a in cell] for cell in (ours, theirs)]
    cell, other = (dict(zip((3, 1, 0, 2), row, strict=True)) for row in runs)
    test = stats.ttest_rel(100 * np.array(ours), 100 * np.array(theirs))
    low, high = test.confidence_interval()
    text = report.difference("test accuracy", cell, dict(sorted(other.items())) | {9: None})
    assert text == f"+1.75 [{low:+.2f}, {high:+.2f}]"
    assert report.mean_std("test accuracy", cell) == f"92.25 ± {np.std(ours, ddof=1) * 100:.2f} (4)"
    assert report.difference("test accuracy", {3: cell[3]}, other) == ""
    assert report.difference("test accuracy", cell, cell) == "the same runs"


def test_every_row_is_trained_at_every_batch_size_with_every_seed():
    runs = gap.grid("f1", RATES)
    assert len({gap.key(run) for run in runs}) == len(runs)
    for label, row in gap.ROWS.items():
        sizes = gap.BATCH_SIZES[1:] if row.adapts or label.startswith("+") else gap.BATCH_SIZES
        if row.adapts:
            sizes = [size for size in sizes if size <= gap.REGIME_MOST]
        cells = {(run["batch_size"], run["seed"]) for run in runs if run["label"] == label}
        assert cells == {(size, seed) for size in sizes for seed in gap.SEEDS}
    trials = list(gap.tuning("f1", {}))
    counts = {label: sum(run["tunes"] == label for run in trials) for label in gap.RATES}
    assert set(counts.values()) == {len(gap.POWERS) * len(gap.BATCH_SIZES)}  # Alike for all.
    assert all("--test_split=train[55000:]" in run["flags"] for run in trials)  # Not the test set.


def test_trials_go_on_until_the_best_is_not_the_last():
    best = gap.RATES | {"SGD": 0.8}
    done = settled(best=best)
    small = [run["tunes"] for run in done.values() if run["batch_size"] == 128]
    assert collections.Counter(small) == {**dict.fromkeys(gap.RATES, 4), "SGD": 8}
    assert set(gap.tuned(done, "f1").values()) == set(best.values())


def test_regime_adaptation_preserves_the_updates():
    runs = [run for run in gap.grid("f1", RATES) if run["seed"] == 0]
    small = next(run for run in runs if (run["label"], run["batch_size"]) == ("SGD", 128))
    updates = course(small).step_at(15)
    for run in runs:
        if gap.ROWS[run["label"]].adapts:
            stretched = course(run)
            assert stretched.step_at(stretched.epochs) == pytest.approx(updates, rel=0.25)


def test_the_best_trial_is_chosen(monkeypatch):
    def trial(rate, accuracy, loss):
        run = {"experiment": "f1-tuning", "label": f"{rate}", "batch_size": 128, "seed": 100}
        return run | {"tunes": "SGD", "rate": rate, "test_accuracy": accuracy, "test_loss": loss}

    trials = [trial(0.1, 0.8, 0.5), trial(0.2, 0.9, 0.6), trial(0.4, 0.9, 0.4)]
    trials.append({"experiment": "f1-timing", "label": "SGD", "batch_size": 128, "seed": 0})
    monkeypatch.setattr(gap, "tuning", lambda setting, done: [])
    assert gap.tuned({gap.key(run): run for run in trials}, "f1") == {("SGD", 128): 0.4}


@pytest.mark.parametrize("setting", gap.SETTINGS)
def test_every_setting_parses(setting):
    cells = gap.noise(setting, RATES) if setting == "noise" else gap.grid(setting, RATES)
    for run in cells:
        assert course(run).epochs >= gap.SETTINGS[setting].epochs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_run_and_its_timing():
    flags = ["--dataset=digits", "--train_examples=64", "--model=f1"]
    run = gap.line("noise", "SGD", 32, 0, flags, gap.Recipe(32, 0.1, 2, ghost_batch_size=16))
    found = gap.trained(run, None)
    assert found["updates"] == 4 and len(found["curve"]) == 2
    assert found["curve"][-1][1] == pytest.approx(found["test_accuracy"], abs=1e-4)
    assert found["sharpness"] > -0.1
    again = gap.trained(run, None)
    assert again["test_loss"] == found["test_loss"]  # Also after `sharpness`.
    assert gap.trained(run | {"experiment": "f1-timing"}, None)["cpu_seconds_per_epoch"] > 0
