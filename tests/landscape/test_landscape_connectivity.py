"""Curves: the original code's numbers, a valley of known shape, what they come to in numbers."""

import keras
import numpy as np
import pytest
from keras import layers
from support.landscape import CLOSE, CURVES, golden_objective, golden_weights, text_net, trained
from support.nets import LOSS, assert_equal
from support.problems import PRECISE, TENSORFLOW, golden

import keras_smoothout as ks
from keras_smoothout.landscape.comparison.connectivity import Training, connect, decay
from keras_smoothout.landscape.comparison.path import Path, coefficients, profile, straight, summary
from keras_smoothout.landscape.comparison.taxonomy import taxonomy
from keras_smoothout.landscape.objective import Objective
from keras_smoothout.landscape.surface.results import Profile, save
from keras_smoothout.landscape.surface.slices import interpolate, line, plane_through

pytestmark = pytest.mark.tensorflow  # Paths are NumPy around an `Objective`.

NAMES = {"bezier": "bezier", "polygon": "polychain"}  # Ours, and those of the golden file.


def golden_path(curve):
    return Path([golden_weights(i) for i in (0, 1, 2)], curve)


def valley():
    """Objective `(a * b - 1)^2` at `(1/2, 2)`; its minima are the hyperbola `a * b = 1`."""
    inputs = keras.Input((1,))
    x = layers.Dense(1, use_bias=False)(inputs)
    model = keras.Model(inputs, layers.Dense(1, use_bias=False)(x))
    model.set_weights([np.array([[0.5]]), np.array([[2.0]])])
    model.compile(loss="mse")
    return Objective(model, np.ones((4, 1)), np.ones((4, 1)))


OTHER = [np.array([[2.0]]), np.array([[0.5]])]


@pytest.mark.parametrize("points", [3, 4, 5])
@pytest.mark.parametrize("curve", NAMES)
def test_golden_coefficients(curve, points):
    found = [coefficients(t, points, curve) for t in CURVES["inputs"]["t"]]
    expected = CURVES["expected"]["coefficients"][f"{NAMES[curve]}|{points}"]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(np.sum(found, axis=1), 1.0, rtol=1e-12)


@PRECISE
@pytest.mark.parametrize("curve", NAMES)
def test_golden_losses_and_gradients_along_a_curve(curve):
    objective, path = golden_objective(), golden_path(curve)
    (batch,) = objective.batches()
    training = Training(objective, path, keras.optimizers.SGD(1.0), CURVES["inputs"]["wd"])
    before = objective.flatten(path.points[1])
    for point in CURVES["expected"][NAMES[curve]]["points"]:
        np.testing.assert_allclose(objective.loss(path(point["t"])), point["loss"], **CLOSE)
        training.bends.assign(before[None])
        training.step(point["t"], batch)
        moved = before - objective.flatten(training.path().points[1])
        np.testing.assert_allclose(moved, point["grad_middle"], **CLOSE | {"atol": 1e-6})


@PRECISE
@pytest.mark.parametrize("curve", NAMES)
def test_golden_training(curve):
    objective, inputs = golden_objective(), CURVES["inputs"]
    (batch,) = objective.batches()
    optimizer = keras.optimizers.SGD(inputs["lr"], momentum=inputs["momentum"])
    training = Training(objective, golden_path(curve), optimizer, inputs["wd"])
    for t, expected in zip(
        inputs["ts"],
        CURVES["expected"][NAMES[curve]]["middle_point_after_each_sgd_step"],
        strict=True,
    ):
        training.step(t, batch)
        found = objective.flatten(training.path().points[1])
        tolerance = 1e-7 if TENSORFLOW else 2e-5  # Keras rounds momentum to float32.
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_golden_learning_rates():
    (expected,) = golden("curve_schedule")["expected"].values()
    np.testing.assert_allclose([0.03 * decay(i / 40) for i in range(40)], expected, rtol=1e-12)


@pytest.mark.parametrize(("curve", "bends"), [("bezier", 1), ("bezier", 3), ("polygon", 2)])
def test_a_valley_is_found(curve, bends):
    objective = valley()
    line = straight(objective, OTHER, bends, curve)
    path = connect(objective, line)
    # The middle of the line is (5/4, 5/4): a barrier of (25/16 - 1)^2.
    barriers = [summary(profile(objective, p))["barrier"] for p in (line, path)]
    assert barriers[0] == pytest.approx((9 / 16) ** 2, rel=1e-5)
    assert barriers[1] < 0.05 * barriers[0]
    assert_equal(path(0.0), objective.weights)
    assert_equal(path(1.0), OTHER)


def test_a_straight_path_is_the_interpolation():
    for bends, curve in ((1, "bezier"), (3, "bezier"), (2, "polygon")):
        found = profile(valley(), straight(valley(), OTHER, bends, curve), 9)
        expected = interpolate(valley(), OTHER, found.ts)
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(found.lengths, found.ts * 1.5 * 2**0.5, atol=1e-6)


def test_lengths_follow_the_corners():
    # From (0.5, 2) by (0.5, 0.5) to (2, 0.5): 1.5 down, 1.5 right.
    objective = valley()
    corner = [np.array([[0.5]]), np.array([[0.5]])]
    path = Path([objective.weights, corner, OTHER], "polygon")
    np.testing.assert_allclose(profile(objective, path, 5).lengths, [0, 0.75, 1.5, 2.25, 3])


def test_a_curve_in_numbers():
    ts, lengths = np.array([0.0, 0.25, 1.0]), np.array([0.0, 3.0, 4.0])
    numbers = summary(Profile(ts, np.array([1.0, 4.0, 3.0]), np.array([0.2, 0.1, 0.3]), lengths))
    assert numbers == {
        "min": 1.0,
        "max": 4.0,
        "mean": pytest.approx(8 / 3),
        "integral": pytest.approx((3 * 2.5 + 1 * 3.5) / 4),
        "barrier": pytest.approx(4 - (1 + 0.25 * 2)),
        "mode_connectivity": pytest.approx(2 - 4),
        "length": 4.0,
    }
    numbers = summary(
        Profile(ts, ts, np.array([0.2, 0.1, 0.3]), lengths), quantity="error"
    )  # Below its ends.
    assert numbers["mode_connectivity"] == pytest.approx(0.25 - 0.1)
    assert numbers["barrier"] == 0.0
    assert summary(Profile(ts, ts + 1, ts, 0 * ts))["integral"] == 1.0  # Two equal ends.


def test_training_repeats_by_its_seed_and_leaves_its_arguments():
    objective, optimizer = golden_objective(batch_size=3), keras.optimizers.SGD(0.1, momentum=0.9)
    line = straight(objective, golden_weights(2))
    start = [[w.copy() for w in point] for point in line.points]
    one, same, other = (connect(objective, line, 2, optimizer, seed=s) for s in (1, 1, 2))
    assert_equal(one(0.5), same(0.5))
    assert np.any(one(0.5)[0] != other(0.5)[0])
    assert optimizer.iterations == 0 and float(optimizer.learning_rate) == pytest.approx(0.1)
    for point, before in zip(line.points, start, strict=True):
        assert_equal(point, before)
    assert_equal(objective.model.get_weights(), objective.weights)


def test_a_curve_is_kept(tmp_path):
    path = golden_path("polygon")
    path.save(tmp_path / "curve.npz")
    again = Path.load(tmp_path / "curve.npz")
    assert again.curve == "polygon" and len(again.points) == 3
    assert_equal(again(0.3), path(0.3))
    save(tmp_path / "profile.npz", profile(golden_objective(), path, 2))
    with pytest.raises(ValueError, match="is no file of `Path.save`. Received"):
        Path.load(tmp_path / "profile.npz")


def test_any_optimizer(capsys):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 100, 0.5)
    line = straight(valley(), OTHER)
    for optimizer in ("adam", keras.optimizers.Adam(schedule), ks.Lookahead("sgd")):
        path = connect(valley(), line, 3, optimizer, progress=True)
        assert np.any(path(0.5)[0] != line(0.5)[0])
    assert "3/3" in capsys.readouterr().out
    for optimizer in (ks.SAM("sgd"), ks.Lookahead(ks.SmoothOut("sgd"))):
        with pytest.raises(ValueError, match="cannot ask for others. Received: optimizer=S"):
            connect(valley(), line, 3, optimizer)


def test_weight_decay_pulls_the_bend_in():
    norms = []
    for weight_decay in (0.0, 0.3):
        path = connect(valley(), straight(valley(), OTHER), 30, weight_decay=weight_decay)
        norms.append(np.linalg.norm(valley().flatten(path.points[1])))
    assert norms[1] < norms[0] - 0.1


def test_batch_normalization_on_a_curve():
    (a, x, y), (b, _, _) = trained(0), trained(1)
    before = [np.array(v) for v in a.variables]
    objective = Objective(a, x, y, batch_norm="training", batch_size=16)
    line = straight(objective, b)
    path = connect(objective, line, 15)
    judge = Objective(a, x, y)
    found = [profile(judge, p, 11, recalibrate_on=x) for p in (line, path)]
    assert summary(found[1])["integral"] < summary(found[0])["integral"]
    for end, model in ((0, a), (-1, b)):
        own = Objective(model, x, y)
        loss, error = own.evaluate(own.weights)
        np.testing.assert_allclose(found[1].losses[end], loss, rtol=1e-5)
        np.testing.assert_allclose(found[1].errors[end], error, atol=1e-6)
    assert_equal([np.array(v) for v in a.variables], before)
    with pytest.raises(ValueError, match='`Objective` with `batch_norm="training"`. Received'):
        connect(judge, line)


def test_frozen_weights_do_not_lie_between_models():
    # BatchNormalization's statistics and dropout's generator differ, too, and may.
    def net(seed, frozen):
        keras.utils.set_random_seed(seed)
        first = layers.Dense(4, name="frozen", trainable=False)
        net = [first, layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(3)]
        model = keras.Sequential([keras.Input((6,)), *net])
        first.set_weights([np.full((6, 4), frozen), np.zeros(4)])
        model.compile("sgd", LOSS)
        model.fit(x, y, 16, seed + 1, verbose=0)
        ks.recalibrate(model, x)
        return model

    _, x, y = trained(0)
    model, other, alike = net(0, 1.0), net(1, 2.0), net(1, 1.0)
    objective = Objective(model, x, y)
    for between in (
        lambda end: interpolate(objective, end, [1.0]),
        lambda end: plane_through(objective, end, alike, 2),
        lambda end: straight(objective, end),
        lambda end: taxonomy([model, end], x, y, sharpness={}, join=straight),
    ):
        with pytest.raises(ValueError, match="same frozen weights.*Received: different .*kernel$"):
            between(other)
    (loss,) = interpolate(objective, alike, [1.0]).losses
    assert loss == pytest.approx(alike.evaluate(x, y, verbose=0), rel=1e-5)
    taxonomy([model, alike], x, y, sharpness={}, join=straight)


def test_an_interrupt_leaves_the_model():
    model, x, y = trained(0)
    other = [0.5 * np.array(v) for v in model.trainable_variables]
    before = [np.array(v) for v in model.variables]

    class Batches:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield x, y
            if self.passes > 3:
                raise KeyboardInterrupt

    objective = Objective(model, Batches(), batch_norm="training")
    with pytest.raises(KeyboardInterrupt):
        connect(objective, straight(objective, other))
    assert_equal([np.array(v) for v in model.variables], before)


def image_net():
    """MobileNet on small images, its weights random."""
    model = keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None, classes=3)
    return model, np.random.default_rng(0).normal(size=(6, 32, 32, 3)).astype("float32")


@pytest.mark.parametrize(
    "build",  # The first is slow to compile on JAX.
    [pytest.param(image_net, marks=pytest.mark.tensorflow), text_net],
)
def test_any_model(build):
    keras.utils.set_random_seed(0)
    model, x = build()
    model.compile(loss="sparse_categorical_crossentropy")
    y, rng = np.arange(6) % 3, np.random.default_rng(1)
    before = [np.array(v) for v in model.variables]
    objective = Objective(model, x, y, batch_norm="training")
    second, third = (
        [w + 0.1 * rng.normal(size=w.shape).astype("float32") for w in objective.weights]
        for _ in range(2)
    )
    found = line(Objective(model, x, y), alphas=[-1.0, 0.0], recalibrate_on="own")
    assert np.isfinite(found.losses).all() and found.losses[0] != found.losses[1]
    flat = plane_through(objective, second, third, points=2, margin=0)
    assert np.isfinite(flat.losses).all() and len(set(flat.losses.ravel())) == 4
    path = connect(objective, straight(objective, second), 1)
    np.testing.assert_array_equal(
        profile(objective, path, 2).losses, interpolate(objective, second, [0, 1]).losses
    )
    assert_equal([np.array(v) for v in model.variables], before)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda o, p: connect(o, Path([p(0.0), p(1.0)])), "`path`"),
        (lambda o, p: connect(o, p, 9, keras.optimizers.SGD(1e9)), "lower the learning rate"),
        (lambda o, p: connect(golden_objective(), p), "the same trainable weights"),
        (lambda o, p: profile(golden_objective(), p), "the same trainable weights"),
        (lambda o, p: straight(o, OTHER[:1]), "the same trainable weights"),
        (lambda o, p: Path(p.points[:1]), "`points`"),
    ],
)
def test_wrong_values(wrong, words):
    with pytest.raises(ValueError) as error:
        wrong(valley(), straight(valley(), OTHER))
    assert words in str(error.value) and "Received" in str(error.value)
