"""Schedule-Free: another implementation's points and averages, its limits, clean weights."""

import keras
import numpy as np
import pytest
from support.contract import contract_net, examples
from support.nets import (
    LOSS,
    assert_equal,
    dense_net,
    equal_on_both,
    images,
    sgd,
    two_replicas,
    values,
)
from support.problems import PRECISE, TENSORFLOW, assert_close, flat, golden, in_pairs, mlp

import keras_smoothout as ks

GOLDEN = golden("schedule_free")
CASES = GOLDEN["expected"]["cases"]
TOLERANCE = 2e-7 if TENSORFLOW else 2e-5


def decayed(decay):
    """The golden's net, whose loss decays all weights at the point of the gradient."""
    model, batch = mlp(GOLDEN["inputs"]["net"])
    x = keras.Input((4,))
    l2 = {n: keras.regularizers.L2(decay / 2) for n in ("kernel_regularizer", "bias_regularizer")}
    hidden = keras.layers.Dense(5, "tanh", **l2)(x)
    again = ks.Model(x, keras.layers.Dense(3, **l2)(hidden))
    again.set_weights(model.get_weights())
    return again, batch


@PRECISE
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"decay {case['weight_decay']}")
def test_golden(case):
    rate, warmup = case["lr"], case["warmup_steps"]
    if warmup:  # rate * min(1, (k + 1) / warmup)
        rate = ks.schedules.WarmUp(rate, warmup - 1, start=rate / warmup)
    optimizer = ks.ScheduleFree(keras.optimizers.SGD(rate), case["momentum"])
    model, batch = decayed(case["weight_decay"])
    x, ahead = in_pairs(model, optimizer, batch, 12, lambda: flat(optimizer.ahead))
    for steps in (5, 12):
        assert_close(x[steps - 1], case[f"x{steps}"], TOLERANCE)
        y = x[steps - 1] + (1 - case["momentum"]) * ahead[steps - 1]
        assert_close(y, case[f"y{steps}"], TOLERANCE)
    assert_close(x[-1] + ahead[-1], case["z12"], 2 * TOLERANCE)


def test_polyak_is_the_mean_of_plain_steps():
    # interpolation=0: the points are those of the inner optimizer, and the model holds their mean.
    model, batch = mlp(GOLDEN["inputs"]["net"])
    plain, _ = in_pairs(model, keras.optimizers.SGD(0.3), batch, 6)
    optimizer = ks.ScheduleFree(keras.optimizers.SGD(0.3), interpolation=0.0)
    model, batch = mlp(GOLDEN["inputs"]["net"])
    x, ahead = in_pairs(model, optimizer, batch, 6, lambda: flat(optimizer.ahead))
    for step in range(6):
        assert_close(x[step], plain[: step + 1].mean(0), 1e-5)
        assert_close(x[step] + ahead[step], plain[step], 1e-5)
    assert abs(x[-1] - plain[-1]).max() > 0.05


def test_the_rate_weighs_the_points():
    # By hand: gradient 0, so points stay; z is set apart from x by the first step's rate of 0.
    model = ks.wrap(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)]))
    model.set_weights([np.array([[1.0]])])
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.0, 0.1, 0.2])
    model.compile(ks.ScheduleFree(keras.optimizers.SGD(rates), interpolation=0.0), "mse")
    x, z, mass, seen = 1.0, 1.0, 0.0, []
    for rate in (0.0, 0.1, 0.2):
        z -= rate * 2 * z
        mass += rate**2
        x += (z - x) * (rate**2 / mass if mass else 1.0)
        model.train_on_batch(np.ones((1, 1)), np.zeros((1, 1)))
        seen.append(float(model.get_weights()[0][0, 0]))
        assert seen[-1] == pytest.approx(x, rel=1e-6)
    assert seen[0] == 1.0 and seen[2] < seen[1] < 1.0


def test_the_model_holds_the_average_and_weights_that_are_set_move_both():
    model, batch = mlp(GOLDEN["inputs"]["net"])
    optimizer = ks.ScheduleFree(keras.optimizers.SGD(0.3))
    in_pairs(model, optimizer, batch, 3)
    assert optimizer.evaluation_weights() is None
    ahead = flat(optimizer.ahead)
    assert np.any(ahead)
    model.set_weights([w + 1 for w in model.get_weights()])
    optimizer.learning_rate = 0.0
    before = flat(model.trainable_variables)
    model.train_on_batch(*batch)
    share = 0.09 / (4 * 0.09)  # The largest rate of before counts.
    assert_close(flat(model.trainable_variables), before + share * ahead, 1e-5)


def test_updates_are_counted_not_calls():
    runs = []
    for accumulate, calls in ((2, 8), (None, 4)):
        model, (x, y) = mlp(GOLDEN["inputs"]["net"])
        inner = keras.optimizers.SGD(0.3, gradient_accumulation_steps=accumulate)
        model.compile(ks.ScheduleFree(inner), keras.losses.SparseCategoricalCrossentropy(True))
        seen = []
        for _ in range(calls):
            model.train_on_batch(x, y)
            seen.append(flat(model.trainable_variables))
        runs.append((seen, flat(model.optimizer.ahead), float(model.optimizer.mass.numpy())))
    halves, whole = runs
    assert_close(halves[0][1::2], whole[0], 1e-6)
    assert_equal(halves[0][2::2], halves[0][1:-1:2])  # Nothing moves between two updates.
    assert_close(halves[1], whole[1], 1e-6)
    assert halves[2] == whole[2] > 0


def test_save_and_resume_equals_training_on(tmp_path):
    model, batch = mlp(GOLDEN["inputs"]["net"])
    in_pairs(model, ks.ScheduleFree(keras.optimizers.Adam(0.1, 0.0)), batch, 3, run_eagerly=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal(values(loaded), values(model))
    for _ in range(3):
        model.train_on_batch(*batch)
        loaded.train_on_batch(*batch)
    assert_equal(values(loaded), values(model))


@pytest.mark.tensorflow
def test_two_replicas_keep_one_average():
    x, y = images(8)

    def net():
        model = ks.wrap(dense_net())
        model.compile(ks.ScheduleFree(keras.optimizers.SGD(0.3)), LOSS)
        return model

    with two_replicas().scope():
        many = net()
    one = net()
    for model in (many, one):
        model.fit(x, y, 8, epochs=4, shuffle=False, verbose=0)
    pairs = zip(
        [*many.trainable_variables, *many.optimizer.ahead],
        [*one.trainable_variables, *one.optimizer.ahead],
        strict=True,
    )
    for ours, theirs in pairs:
        assert_close(equal_on_both(ours), theirs.numpy(), 1e-5)


@pytest.mark.parametrize(("statistics", "momentum"), [("clean", 11 / 13), ("perturbed", 0.9)])
def test_moving_statistics_are_those_of_the_average_or_of_the_point(statistics, momentum):
    # Clean ones are a mean over 384 examples: of passes of 32, by the momentum 352 / 416.
    x, y = examples(32)
    model = contract_net(dropout=0.0)
    inner = keras.optimizers.SGD(1.0)
    model.compile(ks.ScheduleFree(inner, interpolation=0.0, statistics=statistics), LOSS)
    kernel, norm = model.layers[1].kernel, model.layers[2]
    expected, moved = [np.array(v) for v in norm.non_trainable_variables], 0
    for step in range(3):
        ahead = np.array(model.optimizer.ahead[0]) if step else 0 * np.array(kernel)
        passed = x @ (np.array(kernel) + ahead * (statistics == "perturbed"))
        expected = [
            momentum * old + (1 - momentum) * new
            for old, new in zip(expected, (passed.mean(0), passed.var(0)), strict=True)
        ]
        moved = max(moved, np.abs(ahead).max())
        model.train_on_batch(x, y)
    assert moved > 1e-2
    for variable, value in zip(norm.non_trainable_variables, expected, strict=True):
        np.testing.assert_allclose(np.array(variable), value, rtol=1e-4, atol=1e-5)


def test_around_sam_and_inside_swa():
    for optimizer in (ks.ScheduleFree(ks.SAM(sgd(0.01), 0.1)), ks.SWA(ks.ScheduleFree(sgd(0.01)))):
        model, batch = mlp(GOLDEN["inputs"]["net"])
        weights, _ = in_pairs(model, optimizer, batch, 4, run_eagerly=False)
        assert np.isfinite(weights).all() and np.any(weights[0] != weights[-1])
    average = np.concatenate(
        [keras.ops.convert_to_numpy(a).ravel() for a in optimizer.evaluation_weights()]
    )
    assert_close(average, weights.mean(0), 1e-5)


def test_an_inner_average_is_refused():
    with pytest.raises(ValueError) as error:
        ks.ScheduleFree(keras.optimizers.SGD(0.1, use_ema=True))
    assert "use_ema=True" in str(error.value)
