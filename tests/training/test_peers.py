"""The page of peers: the closed forms that our methods are at, its cells, and rows that fail."""

import json

import numpy as np
import pytest

from benchmarks import closed_forms, peers

SAM = {"side": "tf_keras", "network": "L2", "method": "SAM", "version": "1"}


@pytest.mark.parametrize("method", peers.METHODS)
def test_our_methods_are_at_the_closed_forms(method):
    from benchmarks.sides import __main__ as sides
    from benchmarks.sides import ours

    for problem in set(peers.of(method)) & set(closed_forms.PROBLEMS):
        row = {"network": problem, "method": method} | sides.after(ours, problem, method)
        assert max(peers.judged(row)["distances"]) < peers.ROUNDING and "because" not in row


def test_the_gradient_of_least_squares():
    # d/dV mean((X W V - Y)^2) = 2 (X W)^T (X W V - Y) / (number of entries of Y)
    w, v = np.float64(closed_forms.W), np.float64(closed_forms.V)
    hidden = closed_forms.X @ w
    error = hidden @ v - closed_forms.Y
    _, grad = closed_forms.gradient("plain", [w, v])
    np.testing.assert_allclose(grad, 2 * hidden.T @ error / error.size, rtol=1e-12)


@pytest.mark.parametrize(
    "method, variant", [(m, v) for m, vs in peers.VARIANTS.items() for v in vs]
)
def test_what_a_peer_does_instead_is_named(method, variant):
    problem = {"without the penalty": "L2", **dict.fromkeys(peers.VARIANTS["SAM"][1:], "BN")}
    problem = problem.get(variant, "plain")
    weights, mean = closed_forms.closed_form(method, problem, variant)
    row = {"network": problem, "method": method, "weights": [w.tolist() for w in weights]}
    row = peers.judged(row | {"moving": [mean.tolist()] if problem == "BN" else []})
    assert row["because"] == variant and max(row["distances"]) > peers.ROUNDING


def test_what_is_not_known_is_not_explained():
    weights = [closed_forms.W.tolist(), closed_forms.V.tolist()]
    row = {"network": "plain", "method": "SAM", "weights": weights, "moving": []}
    assert peers.judged(row)["because"] == "not found" and row["distances"] == [1.0]


def test_cells():
    timed = SAM | {"network": "f1", "quartiles": [1.5, 1.6, 1.75]}
    assert peers.ratio(timed) == "1.600 (1.500 to 1.750)"
    why = "without the penalty"
    rows = [SAM | {"network": "plain", "distances": [1e-7]}, SAM | {"distances": [0.067]}]
    rows[1]["because"] = why
    assert peers.exactness(rows) == f"1e-07; L2 7e-02: {why}"
    assert peers.exactness([SAM | {"error": "no wheel"}]) == "failed: no wheel"


@pytest.mark.slow  # Makes an environment.
def test_a_peer_that_cannot_be_installed_says_why(monkeypatch, tmp_path):
    monkeypatch.setitem(peers.ENVIRONMENTS, "optax", ("no-such-package @ file:///nowhere",))
    rows = [("f1", "SAM"), ("f1", "LAMB")]
    found = list(peers.lines_of("optax", rows, 1, tmp_path))
    assert [(row["network"], row["method"]) for row in found] == rows
    assert all("not installed: " in row["error"] and "nowhere" in row["error"] for row in found)


def test_rows_that_are_there_are_not_measured_again(monkeypatch, tmp_path):
    asked = []

    def lines_of(side, rows, pairs, folder):
        asked.extend(rows)
        for network, method in rows:
            yield {"network": network, "method": method, "error": "too old"}

    results = tmp_path / "peers.jsonl"
    results.write_text(json.dumps(SAM | {"distances": [1e-7]}) + "\n")
    monkeypatch.setattr(peers, "RESULTS", results)
    monkeypatch.setattr(peers, "PAGE", tmp_path / "PEERS.md")
    monkeypatch.setattr(peers, "lines_of", lines_of)
    monkeypatch.setattr("sys.argv", ["", "--networks", "f1", "--sides", "tf_keras"])
    for _ in range(2):  # What failed is tried again.
        asked.clear()
        peers.main()
        assert asked == [
            ("plain", "SAM"),
            ("plain", "EMA"),
            ("BN", "SAM"),
            ("f1", "SAM"),
            ("f1", "EMA"),
        ]
    assert "failed: too old" in (tmp_path / "PEERS.md").read_text()


def test_the_page_is_that_of_its_lines():
    assert peers.PAGE.read_text() == peers.page(peers.recorded())
