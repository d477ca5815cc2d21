"""The small experiment of averages and ensembles, with its stated outcome."""

import numpy as np
import pytest

from benchmarks import averages, wrong_labels

pytestmark = [pytest.mark.release, pytest.mark.tensorflow]  # Runs once.


def test_averages_gain_more_than_three_points_with_wrong_labels():
    # A fifth of the labels is wrong and the rate is constant: the last weights fit the noise.
    gains = []
    for seed in (0, 1):
        last = averages.averages(seed)[-1]
        gains.append(last["SWA"]["accuracy"] - last["live"]["accuracy"])
        assert last["SWA"]["loss"] < last["live"]["loss"]
        for measure in averages.FLATNESS:  # It is flatter, too.
            assert last["SWA"][measure] < last["live"][measure]
    assert np.mean(gains) > 0.03 and min(gains) > 0.0


def test_an_ensemble_is_better_than_the_mean_of_its_members():
    # Here members get worse with time, as they fit the wrong labels, and the best is the first one.
    rows = averages.ensembles(0)
    assert len(rows) == averages.MEMBERS
    assert rows[0]["ensemble"] == pytest.approx(rows[0]["member"])
    accuracies, losses = ([row["member"][n] for row in rows] for n in ("accuracy", "loss"))
    assert rows[-1]["ensemble"]["accuracy"] > np.mean(accuracies) + 0.01
    assert rows[-1]["ensemble"]["loss"] < np.mean(losses) - 0.01


@pytest.mark.parametrize("name", ["SGD", "Entropy-SGD"])
def test_wrong_labels_are_learned_by_sgd_alone(name):
    learned, tested = wrong_labels.course(*wrong_labels.PICTURES["wrong_labels"][name], 0)[-1]
    assert learned > 70 if name == "SGD" else learned < 10
    assert tested < 90 if name == "SGD" else tested > 90
