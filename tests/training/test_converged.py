"""The runner of converged networks: searches that end inside, and its tables; no training."""

import pytest

from benchmarks import converged as runner
from benchmarks import generalization_gap as gap

pytestmark = pytest.mark.tensorflow  # Nothing here depends on the backend.


def tuned_to(best, label, done):
    """Fill `done` with trials of a row whose accuracy is highest at the value `best`."""
    own = runner.ROWS[label].tunes
    while runner.tuned("resnet8", label, done) is None:
        for values, runs in runner.trials("resnet8", label, done)[0].values():
            for run in runs:
                distance = abs(values[own] / best - 1)
                done[gap.key(run)] = run | {"test_accuracy": 0.5 - 0.01 * distance}
    return [values[own] for values, _ in runner.trials("resnet8", label, done)[0].values()]


@pytest.mark.parametrize(
    ("best", "tried"),
    [(0.4, [0.2, 0.4, 0.8]), (1.6, [0.2, 0.4, 0.8, 1.6, 3.2]), (0.1, [0.05, 0.1, 0.2, 0.4, 0.8])],
)
def test_a_search_goes_on_until_the_best_is_inside(best, tried):
    done = {}
    assert sorted(tuned_to(best, "SGD", done)) == pytest.approx(tried)
    assert runner.tuned("resnet8", "SGD", done) == {"learning_rate": pytest.approx(best)}


def test_what_goes_around_ghost_batches_has_their_rate():
    done = {}
    tuned_to(1.6, runner.GHOSTS, done)
    tuned_to(0.16, "SmoothOut", done)
    values = runner.tuned("resnet8", "SmoothOut", done)
    assert values == {"learning_rate": pytest.approx(1.6), "radius": pytest.approx(0.16)}


def test_reported_runs_share_neither_seeds_nor_images_with_the_search():
    assert not set(runner.SEEDS) & set(runner.TUNING_SEEDS)
    values = {"learning_rate": 0.4}
    tuning, reported = (runner.run_of("resnet8", "SGD", seed, values) for seed in (100, 0))
    assert "--test_split=train[45000:]" in tuning["flags"]
    assert not any("split" in flag for flag in reported["flags"])
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
    assert "learning_rate 0.4" in ghosts and "radius 0.08" in smoothout
    assert "+2.00 [-0.48, +4.48]" in smoothout  # 2 +- 4.30 * 1 / sqrt(3)
    assert "52.00 ± 11.00 (3)" in smoothout
