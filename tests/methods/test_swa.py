"""SWA: averages of other implementations, of what they are, and when they are looked at."""

import keras
import numpy as np
import pytest
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
from support.problems import (
    FLOAT32,
    PRECISE,
    TENSORFLOW,
    TOLERANCE,
    assert_close,
    batch_norm_net,
    flat,
    golden,
    in_pairs,
    mlp,
)

import keras_smoothout as ks

GOLDEN, GADAM, BATCH_NORM = golden("averaging"), golden("gadam"), golden("swa")
CASES = {case["inner"]: case for case in GOLDEN["expected"]["cases"]}
BASES = {
    "sgd_momentum": lambda case: keras.optimizers.SGD(case["lr"], case["momentum"]),
    "adam": lambda case: keras.optimizers.Adam(case["lr"], epsilon=1e-8),
}
NAMES = {"sgd_momentum": "momentum", "adam": "adam_keras"}


def numpy(tensors):
    return [np.array(keras.ops.convert_to_numpy(t)) for t in tensors]


def averaged(optimizer):
    """What evaluation looks at, as one vector."""
    return np.concatenate([a.ravel() for a in numpy(optimizer.evaluation_weights())])


@PRECISE
@pytest.mark.parametrize("inner", CASES)
def test_golden(inner):
    case = CASES[inner]
    tolerance = 3 * TOLERANCE[NAMES[inner]]  # Of 13 steps there, 17 here.
    for kind, expected in (
        ({"start": case["start"], "period": case["period"]}, "swa"),
        ({"ema_decay": case["ema_decay"]}, "ema_debiased"),
    ):
        optimizer = ks.SWA(BASES[inner](case), **kind)
        model, batch = mlp(GOLDEN["inputs"]["net"])
        weights, _ = in_pairs(model, optimizer, batch, case["steps"])
        assert_close(weights[-1], case["last"], tolerance)
        assert_close(averaged(optimizer), case[expected], tolerance)
        assert abs(weights[-1] - case[expected]).max() > 0.01


@PRECISE
@pytest.mark.parametrize("case", GADAM["expected"]["cases"], ids=lambda case: case["kind"])
def test_golden_gadam(case):
    rate, decay = case["lr"], case["weight_decay"]
    if case["kind"] == "Gadam":
        inner = keras.optimizers.AdamW(rate, decay, epsilon=1e-8)
    else:
        inner = ks.PartiallyAdaptive(rate, case["partial"], weight_decay=decay)
    optimizer = ks.SWA(inner, start=case["start"], period=case["period"])
    model, batch = mlp(GADAM["inputs"]["net"])
    weights, _ = in_pairs(model, optimizer, batch, case["steps"])
    assert_close(weights[-1], case["last"], TOLERANCE["adam_keras"])
    assert_close(averaged(optimizer), case["average"], TOLERANCE["adam_keras"])
    assert float(optimizer.mass) == case["n_averaged"]
    x, y = batch
    loss = model.evaluate(x, y, verbose=0)  # At the average.
    assert loss == pytest.approx(case["loss_average"], abs=1e-4)
    assert abs(loss - case["loss_last"]) > 0.05


@PRECISE
def test_golden_with_batch_normalization_re_estimated():
    inputs = BATCH_NORM["inputs"]["net"]
    model, norm, batches = batch_norm_net(inputs)
    optimizer = ks.SWA(
        keras.optimizers.SGD(inputs["lr"], inputs["momentum"]), inputs["start"], inputs["every"]
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    expected = iter(BATCH_NORM["expected"]["averages_after_each_snapshot"])
    tolerance = 1e-7 if TENSORFLOW else 2e-5
    for step in range(inputs["steps"]):
        model.train_on_batch(*batches[step % len(batches)])
        if step + 1 in BATCH_NORM["expected"]["snapshot_steps"]:
            assert_close(averaged(optimizer), next(expected), tolerance)
    assert next(expected, None) is None
    x = np.concatenate([x for x, _ in batches])
    live = model.predict(x, verbose=0)  # The average, with statistics of the weights in training.
    with ks.weights_of(model, data=[x for x, _ in batches]):
        pooled = BATCH_NORM["expected"]["bn_pooled"]
        assert_close(norm.moving_mean.numpy(), pooled["mean"], 2e-6)
        assert_close(norm.moving_variance.numpy(), pooled["var_biased"], 5e-6)
        logits = BATCH_NORM["expected"]["eval_logits_bn_pooled"]
        assert_close(model.predict(x, verbose=0), logits, 2e-5)
        assert abs(live - logits).max() > 0.1


def trained(optimizer, steps=7):
    model = ks.wrap(dense_net())
    model.compile(optimizer, LOSS)
    x, y = images(8 * steps)
    seen = []
    for rows in np.split(np.arange(8 * steps), steps):
        model.train_on_batch(x[rows], y[rows])
        seen.append(numpy(model.trainable_variables))
    return model, seen


def test_the_trajectory_is_the_inner_optimizers_and_the_average_is_its_mean():
    _, alone = trained(sgd())
    for start, period, chosen in (
        (0, 1, range(7)),
        (3, 2, (2, 4, 6)),  # After updates 3, 5 and 7.
        (2, 4, (1, 5)),
        (7, 9, (6,)),  # The period is longer than what is left.
        (0, 3, (2, 5)),
    ):
        model, seen = trained(ks.SWA(sgd(), start, period))
        for weights, expected in zip(seen, alone, strict=True):
            assert_equal(weights, expected)
        mean = [np.mean([alone[i][k] for i in chosen], 0) for k in range(len(alone[0]))]
        for ours, theirs in zip(numpy(model.optimizer.evaluation_weights()), mean, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        assert float(model.optimizer.mass) == len(chosen)


def test_exact_limits():
    # One snapshot, and a decay of 0, are the weights themselves; so are weights that never move.
    for optimizer in (ks.SWA(sgd(), start=7), ks.SWA(sgd(), ema_decay=0.0)):
        model, seen = trained(optimizer)
        assert_equal(numpy(optimizer.evaluation_weights()), seen[-1])
    model, seen = trained(ks.SWA(sgd(0.0), ema_decay=0.9))
    assert_equal(numpy(model.optimizer.evaluation_weights()), seen[0])


def test_before_the_start_evaluation_sees_the_weights_in_training():
    x, y = images(12, seed=1)
    model, _ = trained(ks.SWA(sgd(), start=8))
    plain, _ = trained(sgd())
    assert model.evaluate(x, y, verbose=0) == pytest.approx(
        plain.evaluate(x, y, verbose=0), rel=1e-6
    )
    fresh = ks.wrap(dense_net())
    fresh.compile(ks.SWA(sgd()), LOSS)
    fresh.optimizer.build(fresh.trainable_variables)
    wanted = [w + 1 for w in fresh.get_weights()]
    fresh.set_weights(wanted)  # Such as pretrained ones.
    assert_equal(numpy(fresh.optimizer.evaluation_weights()), wanted)
    # A function that was traced before sees the average as soon as there is one.
    first = fresh.evaluate(x, y, verbose=0)
    for _ in range(4):
        fresh.train_on_batch(x, y)
    found, live = fresh.evaluate(x, y, verbose=0), ks.wrap(dense_net())
    live.compile(loss=LOSS)
    live.set_weights(fresh.get_weights())
    assert found != pytest.approx(live.evaluate(x, y, verbose=0), rel=1e-3)
    live.set_weights(numpy(fresh.optimizer.evaluation_weights()))
    assert found == pytest.approx(live.evaluate(x, y, verbose=0), rel=1e-5)
    assert found < first


def test_updates_are_counted_not_calls():
    # The batch never changes, so the mean of two gradients is one: after 2 n calls with
    # accumulation the average is that after n calls without.
    x, y = images(8)

    def run(accumulate, calls):
        model = ks.wrap(dense_net())
        inner = keras.optimizers.SGD(0.1, 0.9, gradient_accumulation_steps=accumulate)
        model.compile(ks.SWA(inner, start=2, period=2), LOSS)
        for _ in range(calls):
            model.train_on_batch(x, y)
        return model.optimizer

    halves, whole = run(2, 12), run(None, 6)
    assert float(halves.mass) == float(whole.mass) == 3
    for a, b in zip(halves.average, whole.average, strict=True):
        assert_close(a.numpy(), b.numpy(), 1e-6)
        assert np.any(b.numpy())


def test_save_and_resume_between_two_snapshots_equals_training_on(tmp_path):
    optimizer = ks.SWA(sgd(), start=2, period=3)  # After updates 2, 5 and 8; saved after 6.
    model, batch = mlp(GOLDEN["inputs"]["net"])
    in_pairs(model, optimizer, batch, 6, run_eagerly=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = averaged(optimizer)
    assert abs(before - flat(model.trainable_variables)).max() > 1e-3
    assert_equal(values(loaded), values(model))
    x, y = batch
    for rows in (slice(0, 2), slice(2, 4), slice(4, 6)):
        model.train_on_batch(x[rows], y[rows])
        loaded.train_on_batch(x[rows], y[rows])
    assert_equal(values(loaded), values(model))
    assert np.any(averaged(loaded.optimizer) != before)
    assert float(loaded.optimizer.mass) == 3


@pytest.mark.tensorflow
def test_two_replicas_keep_one_average():
    x, y = images(16)
    with two_replicas().scope():
        model = ks.wrap(dense_net())
        model.compile(ks.SWA(sgd(), start=2, period=2), LOSS)
    history = model.fit(x, y, 8, epochs=3, validation_data=(x, y), shuffle=False, verbose=0)
    assert float(model.optimizer.mass.numpy()) == 3
    for variable in model.optimizer.average:
        assert np.any(equal_on_both(variable))
    one = ks.wrap(dense_net())
    one.compile(ks.SWA(sgd(), start=2, period=2), LOSS)
    alone = one.fit(x, y, 8, epochs=3, validation_data=(x, y), shuffle=False, verbose=0)
    assert history.history["val_loss"] == pytest.approx(alone.history["val_loss"], rel=1e-4)


def test_constraints_hold_for_the_average():
    unit = keras.constraints.UnitNorm()
    net = [keras.Input((3,)), keras.layers.Dense(2, use_bias=False, kernel_constraint=unit)]
    model = ks.wrap(keras.Sequential(net))
    model.compile(ks.SWA(keras.optimizers.SGD(0.5)), "mse")
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    for _ in range(4):
        model.train_on_batch(x, x[:, :2])
    (average,) = numpy(model.optimizer.evaluation_weights())
    np.testing.assert_allclose(np.linalg.norm(average, axis=0), 1, rtol=1e-5)
    assert np.any(abs(np.linalg.norm(model.optimizer.average[0].numpy(), axis=0) - 1) > 1e-4)


NESTS = {
    "swa+sam": lambda **k: ks.SWA(ks.SAM(sgd(), 0.1), **k),
    "sam+swa": lambda **k: ks.SAM(ks.SWA(sgd(), **k), 0.1),
    "swa+smoothout": lambda **k: ks.SWA(ks.SmoothOut(sgd(), 0.05), **k),
    "smoothout+swa": lambda **k: ks.SmoothOut(ks.SWA(sgd(), **k), 0.05),
    "swa+lamb": lambda **k: ks.SWA(ks.LAMB(0.05), **k),
}


@pytest.mark.parametrize("name", NESTS)
def test_nests_average_the_trajectory_of_the_method(name):
    inner = {"sam": ks.SAM(sgd(), 0.1), "smoothout": ks.SmoothOut(sgd(), 0.05)}
    inner["lamb"] = ks.LAMB(0.05)
    _, alone = trained(inner[next(n for n in name.split("+") if n != "swa")], 4)
    model, seen = trained(NESTS[name](start=2), 4)
    assert_equal(seen[-1], alone[-1])
    swa = model.optimizer if name.startswith("swa") else model.optimizer.inner
    mean = [np.mean(weights, 0) for weights in zip(*alone[1:], strict=True)]
    for ours, theirs in zip(numpy(swa.evaluation_weights()), mean, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_around_lookahead_the_slow_weights_are_averaged():
    slow = []
    outer = ks.SWA(ks.Lookahead(sgd(), 2), start=3)
    model = ks.wrap(dense_net())
    model.compile(outer, LOSS)
    x, y = images(8)
    for step in range(5):
        model.train_on_batch(x, y)
        slow.append(numpy(outer.inner.slow))
        if step < 2:  # No average yet: what Lookahead has evaluated.
            assert_equal(numpy(outer.evaluation_weights()), slow[-1])
    mean = [np.mean(weights, 0) for weights in zip(*slow[2:], strict=True)]
    for ours, theirs in zip(numpy(outer.evaluation_weights()), mean, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    # The other way round, Lookahead's slow weights are evaluated: the outermost wins.
    model, _ = trained(ks.Lookahead(ks.SWA(sgd()), 2), 3)
    assert_equal(numpy(ks.method.evaluation_weights(model.optimizer)), numpy(model.optimizer.slow))


def test_an_inner_average_is_refused():
    inner = keras.optimizers.SGD(0.1, use_ema=True)
    for nest in (lambda: ks.SWA(inner), lambda: ks.SWA(ks.SAM(inner))):
        with pytest.raises(ValueError) as error:
            nest()
        assert "use_ema=True" in str(error.value) and "`ema_decay`" in str(error.value)


def test_golden_compiled_in_float32():
    case = CASES["sgd_momentum"]
    model, batch = mlp(GOLDEN["inputs"]["net"])
    optimizer = ks.SWA(BASES["sgd_momentum"](case), case["start"], case["period"])
    in_pairs(model, optimizer, batch, case["steps"], run_eagerly=False)
    assert_close(averaged(optimizer), case["swa"], FLOAT32["momentum"])
