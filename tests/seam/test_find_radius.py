"""The range test for the radius: closed form on a quadratic, draws of its own, nothing assigned."""

import keras
import numpy as np
import pytest
from keras import layers
from support.nets import LOSS, assert_equal, images, standard_net

import keras_smoothout as ks
from keras_smoothout.range_test import RISE, chance_of, crossing


def line(weights=(2.5, -1.5)):
    """A linear model without bias, whose loss is quadratic in its weights, and its data."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.array(weights, "float32")[:, None]])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(256, 2)).astype("float32")
    return model, x, x @ np.array([[2.0], [-1.0]], "float32")


@pytest.mark.parametrize(
    ("options", "variance"),
    [
        ({}, 1 / 3),
        ({"distribution": "normal"}, 1.0),
    ],
)
def test_on_a_quadratic_the_loss_rises_by_half_the_variance_times_the_curvature(options, variance):
    model, x, y = line()
    found = ks.find_radius(
        model, x, y, draws=200, batch_size=256, radii=[0.1, 0.2, 0.3, 0.4, 0.6, 1.0], **options
    )
    assert found.clean == pytest.approx(float(model.evaluate(x, y, verbose=0)), rel=1e-5)
    expected = found.clean + variance * found.radii**2 * np.mean(x**2) * 2
    assert np.all(np.abs(found.losses - expected) < 5 * found.standard_errors)
    assert np.all(found.standard_errors > 0)
    assert found.chance == pytest.approx(np.var(y), rel=1e-4)
    exact = (RISE * (found.chance - found.clean) / (variance * np.mean(x**2) * 2)) ** 0.5
    assert 0.75 < found.radius / exact < 1.4


@pytest.mark.parametrize("scale", ["weight", "filter"])
def test_other_scales_follow_the_weights(scale):
    found = []
    for factor in (1.0, 10.0):
        model, x, y = line((2.5 * factor, -1.5 * factor))
        options = {"scale": scale, "distribution": "normal", "draws": 50}
        found.append(ks.find_radius(model, x, factor * y, **options))
    np.testing.assert_allclose(found[0].losses, found[1].losses / 100, rtol=1e-3)
    assert found[0].radius == pytest.approx(found[1].radius, rel=1e-3)


def test_uphill_on_a_quadratic_the_loss_rises_by_slope_and_curvature():
    model, x, y = line()
    rhos = np.array([0.01, 0.1, 0.3, 1.0])
    found = ks.find_rho(model, x, y, rhos=rhos, batch_size=128)
    expected = []
    for rows in (slice(128), slice(128, 256)):
        a, b = x[rows], x[rows] @ np.array([[2.5], [-1.5]]) - y[rows]
        gradient = 2 * a.T @ b / 128
        e = gradient / np.linalg.norm(gradient)
        expected.append([np.mean((b + r * a @ e) ** 2) for r in (0, *rhos)])
    clean, *losses = np.mean(expected, 0)
    assert found.clean == pytest.approx(clean, rel=1e-5)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)
    rises = np.array(expected)[:, 1:] - np.array(expected)[:, :1]
    np.testing.assert_allclose(found.standard_errors, rises.std(0, ddof=1) / 2**0.5, rtol=1e-2)
    level = clean + RISE * (np.var(y) - clean)
    assert found.radius == pytest.approx(crossing(rhos, found.losses, level))
    assert found.losses[0] > found.clean and np.all(np.diff(found.losses) > 0)


def test_an_adaptive_rho_follows_the_weights():
    found = []
    for factor in (1.0, 1000.0):  # `eta` is small beside either.
        model, x, y = line((2.5 * factor, -1.5 * factor))
        found.append(ks.find_rho(model, x, factor * y, adaptive=True))
    np.testing.assert_allclose(found[0].losses, found[1].losses / 1e6, rtol=0.1)
    assert found[0].radius == pytest.approx(found[1].radius, rel=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adaptive": 1}, "`adaptive`.*adaptive=1"),
        ({"batch_size": 256}, "`x`.*256 examples and batch_size=256"),
        ({"batch_size": 0}, "`batch_size`.*batch_size=0"),
        ({"rhos": [0.2, 0.1]}, r"`rhos`.*rhos=\[0.2 0.1\]"),
        ({"model": None}, "`model`.*model=None"),
    ],
)
def test_wrong_values_of_a_search_for_rho(change, words):
    model, x, y = line()
    with pytest.raises(ValueError, match=words):
        ks.find_rho(**({"model": model, "x": x, "y": y} | change))


def test_other_losses_need_their_chance():
    model, x, y = line()
    model.compile("sgd", "mae")
    with pytest.raises(ValueError, match="`chance` must be given.*absolute"):
        ks.find_radius(model, x, y)
    for loss in ([LOSS, LOSS], {"a": "mse"}, None):  # Of several outputs, or the model's own.
        with pytest.raises(ValueError, match="`chance` must be given"):
            chance_of(loss, [np.zeros(3), np.zeros((3, 2))])
    assert ks.find_radius(model, x, y, chance=2.0, radii=[0.1, 1.0]).chance == 2.0


def test_nothing_is_assigned_and_a_seed_repeats():
    x, y = images(64)
    model = standard_net()
    model.compile("sgd", LOSS, metrics=["accuracy"])
    model.fit(x, y, epochs=2, verbose=0)
    before = [np.array(v) for v in [*model.variables, *model.metrics_variables]]
    options = {"radii": [0.01, 0.1, 1.0], "batch_size": 24, "chance": 9.0}  # The last is smaller.
    a, b, other = (ks.find_radius(model, x, y, seed=seed, **options) for seed in (0, 0, 1))
    assert_equal([np.array(v) for v in [*model.variables, *model.metrics_variables]], before)
    assert_equal(a[1:4], b[1:4])
    assert a.radius == b.radius and np.all(a.losses != other.losses)
    assert a.losses[2] > a.losses[0]


def test_batch_norm_normalizes_by_the_batch():
    # With the moving statistics of an untrained net the loss would be another.
    x, y = images(64)
    model = standard_net()
    model.compile("sgd", LOSS)
    options = {"radii": [0.01, 0.1], "chance": 9.0}
    clean = ks.find_radius(model, 100 * x, y, **options).clean
    assert clean == pytest.approx(ks.find_radius(model, x, y, **options).clean, rel=1e-2)


LABELS = np.array([0, 0, 0, 1, 2, 2, 2, 2])
ENTROPY = -np.sum(np.array([3, 1, 4]) / 8 * np.log(np.array([3, 1, 4]) / 8))


@pytest.mark.parametrize(
    ("loss", "y", "expected"),
    [
        (LOSS, LABELS, ENTROPY),
        ("sparse_categorical_crossentropy", LABELS[:, None], ENTROPY),
        ("categorical_crossentropy", np.eye(3)[LABELS], ENTROPY),
        (keras.losses.CategoricalCrossentropy(True), np.eye(5)[LABELS], ENTROPY),
        ("mse", np.array([[1.0, 0.0], [3.0, 4.0]]), 2.5),
    ],
)
def test_chance(loss, y, expected):
    assert chance_of(loss, y) == pytest.approx(expected)


def test_crossing():
    radii = np.array([0.1, 1.0, 10.0])
    assert crossing(radii, np.array([1.0, 2.0, 4.0]), 3.0) == pytest.approx(10**0.5)
    assert crossing(radii, np.array([1.0, 2.0, 4.0]), 0.5) == 0.1
    assert crossing(radii, np.array([1.0, 2.0, 4.0]), 5.0) == 10.0
    assert crossing(radii, np.array([1.0, np.inf, np.nan]), 5.0) == 0.1
    assert crossing(radii, np.array([1.0, 2.0, np.nan]), 3.0) == 1.0


def test_the_picture(tmp_path):
    from keras_smoothout.landscape import plots

    found = ks.find_radius(*line(), radii=[0.1, 1.0])
    plots.radius(found, tmp_path / "radius")
    assert (tmp_path / "radius.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"radii": [0.1]}, "`radii`"),
        ({"radii": [0.2, 0.1]}, r"radii=\[0.2 0.1\]"),
        ({"radii": [0.0, 0.1]}, "`radii`"),
        ({"model": None}, "`model`.*model=None"),
        (
            {"model": keras.Sequential([keras.Input((2,)), layers.Dense(1)])},
            "`model` must be built",
        ),
        ({"x": np.full((256, 2), np.nan, "float32")}, "`x` and `y`.*nan"),
        ({"x": np.zeros((0, 2), "float32")}, "`x` and `y`"),
        ({"chance": 0.01}, "`model` must be trained first.*chance has 0.01"),
    ],
)
def test_wrong_values(change, words):
    model, x, y = line()
    given = {"model": model, "x": x, "y": y} | change
    with pytest.raises(ValueError, match=words):
        ks.find_radius(**given)
