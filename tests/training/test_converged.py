"""The runner of converged networks: searches that end inside, and its tables; no training."""

import pytest

from benchmarks import converged as runner
from benchmarks import generalization_gap as gap

pytestmark = pytest.mark.tensorflow  # Nothing here depends on the backend.


def tuned_to(best, label, done, setting="resnet8"):
    """Fill `done` with trials of a row whose accuracy is highest at the value `best`."""
    while runner.tuned(setting, label, done) is None:
        for value, runs in runner.trials(setting, label, done)[0].items():
            for run in runs:
                accuracy = 0.5 - 0.01 * abs(value / best - 1)
                done[gap.key(run)] = run | {"test_accuracy": accuracy}
    return list(runner.trials(setting, label, done)[0])


@pytest.mark.parametrize(
    ("best", "tried"),
    [(0.4, [0.2, 0.4, 0.8]), (1.6, [0.2, 0.4, 0.8, 1.6, 3.2]), (0.1, [0.05, 0.1, 0.2, 0.4, 0.8])],
)
def test_a_search_goes_on_until_the_best_is_inside(best, tried):
    done = {}
    assert sorted(tuned_to(best, "SGD", done)) == pytest.approx(tried)
    assert runner.tuned("resnet8", "SGD", done) == {"learning_rate": pytest.approx(best)}


def test_a_rate_is_tuned_for_stopping_by_the_same_trials():
    done, stopped = {}, f"{runner.SMALL}, stopped early"
    tuned_to(0.0016, runner.SMALL, done, "noisy")
    known = len(done)
    for run in done.values():
        run["stopped_accuracy"] = run["flags"].count("--learning_rate=0.1024")
    rates = [runner.tuned("noisy", k, done)["learning_rate"] for k in (runner.SMALL, stopped)]
    assert rates == pytest.approx([0.0016, 0.1024])
    assert len(done) == known == 7
    tuned_to(0.0064, runner.GHOSTS, done, "noisy")
    for run in done.values():
        run["stopped_accuracy"] = run["flags"].count("--learning_rate=0.0256")
    tuned_to(0.08, "SmoothOut", done, "noisy")
    values = runner.tuned("noisy", "SmoothOut", done)
    assert values == {"learning_rate": pytest.approx(0.0256), "radius": pytest.approx(0.08)}
    assert stopped in runner.rows("noisy") and stopped not in runner.rows("resnet8")


@pytest.mark.parametrize(
    ("tunes", "label", "own", "flags"),
    [
        ("SmoothOut", "SmoothOut", {"radius": 0.16}, {"--epochs=60", "--radius=0.16"}),
        ("SAM", "SAM, half the epochs", {"rho": 0.1}, {"--epochs=30", "--rho=0.1"}),
    ],
)
def test_what_goes_around_ghost_batches_has_their_rate(tunes, label, own, flags):
    done = {}
    tuned_to(1.6, runner.GHOSTS, done)
    tuned_to(*own.values(), tunes, done)
    values = runner.tuned("resnet8", label, done)
    assert values == {"learning_rate": pytest.approx(1.6)} | {
        name: pytest.approx(value) for name, value in own.items()
    }
    assert {"--learning_rate=1.6", *flags} < set(
        runner.run_of("resnet8", label, 0, values)["flags"]
    )


@pytest.mark.parametrize("setting", runner.SETTINGS)
def test_reported_runs_share_neither_seeds_nor_images_with_the_search(setting):
    of = runner.SETTINGS[setting]
    assert not set(runner.SEEDS) & set(of.tuning_seeds)
    seeds = (of.tuning_seeds[0], 0)
    tuning, reported = (runner.run_of(setting, "SGD", s, {"learning_rate": 0.4}) for s in seeds)
    assert f"--test_split=train[{of.held_out}:]" in tuning["flags"]
    assert not any("test_split" in flag for flag in reported["flags"])
    watched = f"--train_split=train[:{of.held_out}]" in reported["flags"]
    assert watched == of.early  # What it stops by is no image of its own.
    assert set(reported["flags"]) < set(tuning["flags"])
    assert tuning["experiment"] != reported["experiment"]


def test_the_table_has_gains_paired_by_seed_and_no_row_without_runs():
    done = {}
    tuned_to(0.4, runner.GHOSTS, done)
    tuned_to(0.08, "SmoothOut", done)
    for label, gains in ((runner.GHOSTS, (0, 0, 0)), ("SmoothOut", (0.01, 0.02, 0.03))):
        for seed, gain in enumerate(gains):
            run = runner.run_of("resnet8", label, seed, runner.tuned("resnet8", label, done))
            accuracies = dict.fromkeys(
                ("train_accuracy", "test_accuracy", "recalibrated_accuracy"), 0.4 + seed / 10 + gain
            )
            done[gap.key(run)] = run | accuracies | {"test_loss": 1.0}
    _, _, ghosts, smoothout = runner.table("resnet8", done).splitlines()
    assert "sharpness" not in ghosts and ghosts.endswith("|  |  |")  # None of these runs has it.
    assert "learning_rate 0.4" in ghosts and "radius 0.08" in smoothout
    assert "+2.00 [-0.48, +4.48]" in smoothout  # 2 +- 4.30 * 1 / sqrt(3)
    assert "52.00 ± 11.00 (3)" in smoothout
