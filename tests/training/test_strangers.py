"""The benchmark of wrong flags and strange fits can tell a fault, and finds none in a few cases."""

import json

import pytest

from benchmarks import strange_fits, strangers


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(strangers.train, "train", strangers.began)


def test_wrong_flags_are_refused(no_training):
    assert [strangers.flags_outcome(number) for number in range(40)] == 40 * [("refusal", "")]


def test_a_flag_that_is_taken_in_silence_is_a_fault(no_training, monkeypatch):
    monkeypatch.setattr(strangers, "bad_line", lambda _: ([], ["--epochs=3"]))
    assert strangers.flags_outcome(0) == ("fault", "--epochs=3: taken in silence")


def test_a_traceback_is_a_fault(monkeypatch):
    monkeypatch.setattr(strangers.train, "main", lambda _: 1 / 0)
    monkeypatch.setattr(strangers, "bad_line", lambda _: ([], ["--epochs=3"]))
    assert strangers.flags_outcome(0)[0] == "fault"


GOOD = {"model": "dense", "method": "sgd", "ghosts": "None"}
GOOD |= {"data": "arrays", "policy": "float32", "run": "eager", "weights": "none"}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({}, "success"),
        ({"method": "nested", "ghosts": "3", "weights": "some 0"}, "success"),
        ({"data": "half a label"}, "refusal"),
        ({"data": "too large a label", "model": "own, wrapped"}, "refusal"),
        ({"ghosts": "bad 0"}, "refusal"),
        ({"method": "radius < 0"}, "refusal"),
    ],
)
def test_fits(rows, expected, monkeypatch):
    monkeypatch.setattr(strange_fits, "drawn", lambda _: GOOD | rows)
    assert strange_fits.outcome(0) == (expected, "")


def test_what_is_bad_and_taken_in_silence_is_a_fault(monkeypatch):
    monkeypatch.setattr(strange_fits, "drawn", lambda _: GOOD | {"data": "bad"})
    monkeypatch.setitem(strange_fits.DATA, "bad", ("y", strange_fits.DATA["arrays"]))
    outcome, why = strange_fits.outcome(0)
    assert outcome == "fault" and why.endswith("taken in silence")


def test_a_model_that_is_not_finite_afterwards_is_a_fault(monkeypatch):
    monkeypatch.setattr(strange_fits, "drawn", lambda _: GOOD)
    monkeypatch.setitem(
        strange_fits.METHODS, "sgd", lambda: strange_fits.keras.optimizers.SGD(1e30)
    )
    assert strange_fits.outcome(0)[0] == "fault"


def test_cases_are_not_tried_again(monkeypatch, tmp_path):
    seen, results = [], tmp_path / "results.jsonl"
    monkeypatch.setattr(strangers, "RESULTS", results)
    monkeypatch.setitem(strangers.WANTED, "fits", 5)
    row = {"part": "fits", "backend": strangers.BACKEND, "case": 3, "outcome": "success"}
    results.write_text(json.dumps(row) + "\n")

    def outcome(number):
        seen.append(number)
        return "refusal", ""

    strangers.tried("fits", outcome, minutes=1)
    assert seen == [0, 1, 2, 4]
    assert f"| fits | {strangers.BACKEND} | 5 | 5 | 1 | 4 | 0 |" in strangers.table()
