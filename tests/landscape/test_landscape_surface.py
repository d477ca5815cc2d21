"""Lines and planes: other packages' numbers, closed forms, BatchNormalization, exact restore."""

import keras
import numpy as np
import pytest
from keras import layers
from support.landscape import CLOSE, CURVES, golden_objective, golden_weights, trained
from support.nets import LOSS, assert_equal, standard_net
from support.problems import PRECISE, golden

from keras_smoothout.landscape.directions import filter_normalised, random_direction
from keras_smoothout.landscape.objective import Objective
from keras_smoothout.landscape.surface import results
from keras_smoothout.landscape.surface.points import evaluate_at
from keras_smoothout.landscape.surface.slices import interpolate, line, plane, plane_through

pytestmark = pytest.mark.tensorflow  # Lines are NumPy around an `Objective`.


def parabola():
    """Objective `(w_1^2 + 4 w_2^2) / 2` at `w = (3, 1)`: a mean over examples (1, 0) and (0, 2)."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[3.0], [1.0]])])
    model.compile(loss="mse")
    return Objective(model, np.array([[1.0, 0.0], [0.0, 2.0]]), np.zeros((2, 1)))


def variables(model):
    return [np.array(v) for v in model.variables]


def test_golden_direction():
    inputs, expected = golden("filter_normalisation")["inputs"], golden("filter_normalisation")
    weights = [np.array(inputs[n]) for n in ("kernel", "dense", "bias")]
    draw = [np.array(inputs[f"d{n}"]) for n in ("kernel", "dense", "bias")]
    found = filter_normalised(draw, weights)
    for direction, name in zip(found, ("kernel", "dense", "bias"), strict=True):
        np.testing.assert_allclose(
            direction, expected["expected"][f"{name}_direction"], rtol=1e-12, atol=1e-12
        )


def test_zero_weights_have_no_direction():
    weights = [np.zeros((3, 2)), np.zeros(2), np.array([[1.0, 0.0], [1.0, 0.0]]), np.zeros(())]
    direction = random_direction(weights, seed=1, vectors=True)
    for d, w in zip(direction, weights, strict=True):
        assert d.shape == w.shape
        np.testing.assert_array_equal(d[w == 0], 0.0)
    np.testing.assert_allclose(np.linalg.norm(direction[2][:, 0]), 2**0.5)


def test_vectors_move_element_by_element_if_they_are_to():
    weights = [np.array([0.5, -2.0, 0.0])]
    assert_equal(random_direction(weights), [np.zeros(3)])
    np.testing.assert_allclose(np.abs(random_direction(weights, vectors=True)[0]), [0.5, 2.0, 0.0])


def test_directions_follow_their_seed():
    weights = [np.ones((4, 3))]
    assert_equal(random_direction(weights, 5), random_direction(weights, 5))
    assert np.any(random_direction(weights, 5)[0] != random_direction(weights, 6)[0])


def test_a_line_on_a_parabola():
    # Along (1, -1): ((3 + a)^2 + 4 (1 - a)^2) / 2; the loss is no classifier's.
    alphas = np.linspace(-2, 2, 9)
    found = line(parabola(), [np.array([[1.0], [-1.0]])], alphas)
    np.testing.assert_allclose(
        found.losses, ((3 + alphas) ** 2 + 4 * (1 - alphas) ** 2) / 2, rtol=1e-6
    )
    assert np.isnan(found.errors).all()
    as_vector = line(parabola(), np.array([1.0, -1.0]), alphas)
    np.testing.assert_array_equal(as_vector.losses, found.losses)


def test_a_random_line_and_plane_meet_the_model_and_each_other():
    objective, steps = golden_objective(), [-0.5, 0.0, 1.0]
    flat = plane(objective, x=steps, y=[0.0, 0.5], seed=3)
    through = line(objective, alphas=steps, seed=3)
    assert flat.losses.shape == flat.errors.shape == (2, 3)
    assert flat.points.tolist() == [[0.0, 0.0]]
    np.testing.assert_array_equal(flat.losses[0], through.losses)
    np.testing.assert_array_equal(flat.errors[0], through.errors)
    assert (flat.losses[0, 1], flat.errors[0, 1]) == objective.evaluate(objective.weights)
    assert len(set(flat.losses.ravel())) == 6
    assert np.any(line(objective, alphas=steps, seed=4).losses != through.losses)


@PRECISE
def test_golden_interpolation():
    found = interpolate(golden_objective(), golden_weights(2), np.linspace(0, 1, 11))
    np.testing.assert_allclose(
        found.losses, CURVES["expected"]["linear_interpolation"]["losses"], **CLOSE
    )


@PRECISE
def test_golden_plane():
    expected = CURVES["expected"]["plane"]
    where = np.array(expected["coordinates"])[[0, 2, 1]]  # There the second model is off the axis.
    found = plane_through(golden_objective(), golden_weights(2), golden_weights(1), 3, margin=0)
    np.testing.assert_allclose(found.points, where, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.x, [0, expected["dx"] / 2, expected["dx"]], rtol=1e-6)
    np.testing.assert_allclose(found.y, [0, expected["dy"] / 2, expected["dy"]], rtol=1e-6)
    np.testing.assert_allclose(found.losses, expected["loss_at_quarter_points"], **CLOSE)


def test_a_plane_has_its_models_where_it_says():
    # (3, 1), (0, 0) and (0, 5): their losses are found at `points`, all within the margin.
    second, third = ([np.array([[a], [b]])] for a, b in ((0.0, 0.0), (0.0, 5.0)))
    found = plane_through(parabola(), second, third, points=15, margin=0.3)
    (x0, x1), (y0, y1) = found.x[[0, -1]], found.y[[0, -1]]
    for x, y in found.points:
        assert x0 < x < x1 and y0 < y < y1
    np.testing.assert_allclose(
        [np.linalg.norm(found.points[i] - found.points[j]) for i, j in ((0, 1), (0, 2), (1, 2))],
        [10**0.5, 5.0, 5.0],
    )
    np.testing.assert_allclose(found.x[-1] - found.x[0], 1.6 * np.ptp(found.points[:, 0]))


def test_the_ends_of_an_interpolation_are_the_models():
    (a, x, y), (b, _, _) = trained(0), trained(1)
    found = interpolate(Objective(a, x, y), b, [0.0, 1.0])
    for i, model in enumerate((a, b)):
        objective = Objective(model, x, y)
        np.testing.assert_allclose(found.losses[i], objective.loss(objective.weights), rtol=1e-5)


def test_statistics_are_those_of_the_place():
    (a, x, y), (b, _, _) = trained(0), trained(1)
    objective = Objective(a, x, y)
    held = interpolate(objective, b, [1.0], recalibrate_on=None).losses
    own = interpolate(objective, b, [1.0]).losses
    on_inputs = interpolate(objective, b, [1.0], recalibrate_on=x).losses
    on_batches = interpolate(objective, b, [1.0], recalibrate_on=[x[:20], x[20:]]).losses
    on_others = interpolate(objective, b, [1.0], recalibrate_on=x[:7]).losses
    whole = interpolate(Objective(a, x, y, batch_norm="training"), b, [1.0]).losses
    np.testing.assert_array_equal(own, on_inputs)
    np.testing.assert_allclose(on_batches, own, rtol=1e-5)
    np.testing.assert_allclose(whole, own, rtol=1e-5)
    assert min(abs(held - own), abs(on_others - own)) > 1e-3


def test_statistics_of_several_inputs():
    inputs = [keras.Input((3,)), keras.Input((3,))]
    hidden = layers.BatchNormalization()(layers.Dense(4)(layers.Concatenate()(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    model.compile(loss=LOSS)
    x = list(np.random.default_rng(0).normal(3, 2, (2, 12, 3)).astype("float32"))
    objective = Objective(model, x, np.arange(12) % 3)
    other = [w + 0.1 for w in objective.weights]
    own, on_inputs = (interpolate(objective, other, [1.0], recalibrate_on=on) for on in ("own", x))
    np.testing.assert_array_equal(own.losses, on_inputs.losses)


def test_frozen_statistics_stay():
    (a, x, y), (b, _, _) = trained(0), trained(1)
    a.get_layer(index=2).trainable = False
    weights = [v for v in b.trainable_variables if v.name not in ("gamma", "beta")]
    lines = [
        interpolate(Objective(a, x, y), weights, [1.0], recalibrate_on=on) for on in ("own", None)
    ]
    np.testing.assert_array_equal(lines[0].losses, lines[1].losses)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_nothing_is_changed_whatever_happens(error):
    model, x, y = trained(0)
    passes = []

    class Inputs:
        def __iter__(self):
            passes.append(len(passes))
            yield x
            if error and len(passes) > 2:
                raise error

    before, objective = variables(model), Objective(model, x, y)
    state, weights = objective.state, [w.copy() for w in objective.weights]
    if error:
        with pytest.raises(error):
            plane(objective, x=[0.0, 1.0], recalibrate_on=Inputs())
    else:
        plane(objective, x=[0.0, 1.0], recalibrate_on=Inputs())
    assert len(passes) == (3 if error else 4)
    assert_equal(variables(model), before)
    assert objective.state is state
    assert_equal(objective.weights, weights)
    assert not model.layers[2].call.__name__ == "plain"
    assert model.layers[2].momentum == 0.9


def test_points_are_made_one_at_a_time_and_shown(capsys):
    objective, made = parabola(), []

    def points():
        for i in range(3):
            made.append(i)
            yield objective.weights

    losses, errors = evaluate_at(objective, points(), 3, progress=True)
    assert made == [0, 1, 2] and losses.tolist() == [6.5] * 3 and np.isnan(errors).all()
    assert "3/3" in capsys.readouterr().out


def test_results_are_kept(tmp_path):
    numbers = np.linspace(0, 1, 6).reshape(2, 3)
    for kept in (
        results.Line(numbers[0], numbers[1], np.full(3, np.nan)),
        results.Plane(numbers[0], numbers[0, :2], numbers, numbers, np.zeros((1, 2))),
        results.Profile(numbers[0], numbers[1], numbers[0], numbers[1]),
    ):
        results.save(tmp_path / "kept.npz", kept)
        again = results.load(tmp_path / "kept.npz")
        assert type(again) is type(kept)
        assert_equal(again, kept)


def test_wrong_files_and_results(tmp_path):
    np.savez(tmp_path / "other.npz", losses=np.zeros(3))
    with pytest.raises(ValueError, match="is no file of .* Received: \\['losses'\\]"):
        results.load(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="one of Line, Plane, Profile. Received: 3"):
        results.save(tmp_path / "three.npz", 3)
    assert not (tmp_path / "three.npz").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda o: line(o, alphas=[0.0, np.nan]), "`alphas`"),
        (lambda o: plane(o, x=[]), "`x`"),
        (lambda o: line(o, [np.zeros(3)]), "vector of 2 numbers"),
        (lambda o: line(o, np.zeros(5)), "vector of 2 numbers"),
        (lambda o: line(o, np.array([1.0, np.inf])), "must be finite"),
        (lambda o: line(o, recalibrate_on="all"), "recalibrate_on='all'"),
        (lambda o: interpolate(o, [np.zeros((3, 1))]), "the same trainable weights"),
        (lambda o: interpolate(o, standard_net()), "the same trainable weights"),
        (lambda o: plane_through(o, o.weights, [np.ones((2, 1))]), "must not lie on one line"),
        (
            lambda o: plane_through(o, [np.zeros((2, 1))], [-o.weights[0]]),
            "must not lie on one line",
        ),
    ],
)
def test_wrong_values(wrong, words):
    with pytest.raises(ValueError) as error:
        wrong(parabola())
    assert words in str(error.value) and "Received" in str(error.value)
