"""SAM: other packages' trajectories, BatchNormalization, masks, replicas."""

import keras
import numpy as np
import pytest
from keras import layers
from support.nets import two_replicas
from support.problems import (
    FLOAT32,
    PRECISE,
    TENSORFLOW,
    TOLERANCE,
    assert_close,
    base,
    batch_norm_net,
    crossentropy,
    flat,
    golden,
    mlp,
    quadratic,
    trajectory,
)

import keras_smoothout as ks

GOLDEN = golden("sam")
RHOS = [0.05, 0.1] if TENSORFLOW else [0.1]  # Eager steps are slow on JAX.


def sam_trajectory(case, rho, name, steps=10, **compiled):
    inputs = GOLDEN["inputs"]
    problem = case.split("_")[0]
    if problem == "quad":
        model, batch = quadratic(inputs["quad"])
    else:
        model, batch = mlp(inputs["mlp"], inputs["l2"] if case == "mlp_l2" else 0.0)
    if case == "mlp_sw":
        batch += [np.array(inputs["sample_weight"], keras.config.floatx())]
    optimizer = ks.SAM(base(inputs, problem, name), rho)
    return trajectory(model, optimizer, batch, steps, **compiled)


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("rho", RHOS)
@PRECISE
def test_golden_quadratic(rho, name):
    actual = sam_trajectory("quad", rho, name)
    assert_close(actual, GOLDEN["expected"]["quad"][f"rho={rho}|{name}"], TOLERANCE[name])


MLPS = [
    *[("mlp", rho, name) for rho in RHOS for name in TOLERANCE],
    *[(case, rho, "momentum") for case in ("mlp_l2", "mlp_sw") for rho in RHOS],
]


@pytest.mark.parametrize(("case", "rho", "name"), MLPS)
@PRECISE
def test_golden_mlp(case, rho, name):
    actual = sam_trajectory(case, rho, name)[[0, -1]]
    expected = GOLDEN["expected"][case][f"rho={rho}|{name}"]
    assert_close(actual, expected, TOLERANCE[name])
    # At rho=0 the same number is elsewhere by more than any tolerance here.
    if name == "sgd":
        assert abs(actual - GOLDEN["expected"]["mlp"]["rho=0.0|sgd"]).max() > 1e-3


@pytest.mark.parametrize("name", FLOAT32)
def test_golden_mlp_compiled_in_float32(name):
    actual = sam_trajectory("mlp", 0.1, name, run_eagerly=False)[[0, -1]]
    assert_close(actual, GOLDEN["expected"]["mlp"][f"rho=0.1|{name}"], FLOAT32[name])


@pytest.mark.parametrize("chunks", GOLDEN["inputs"]["m_sam_chunks"])
@PRECISE
def test_golden_m_sam_is_ghost_batches(chunks):
    actual = sam_trajectory(
        "mlp", 0.05, "momentum", ghost_batch_size=8 // chunks, run_eagerly=TENSORFLOW
    )
    expected = GOLDEN["expected"]["m_sam"][f"chunks={chunks}|rho=0.05|momentum"]
    assert_close(actual[[0, -1]], expected, TOLERANCE["momentum"])


@pytest.mark.parametrize("method", [ks.SAM, ks.ASAM])
def test_zero_gradient_stays_where_it_is(method):
    model, batch = quadratic({"h": [1.0, 2.0], "w0": [0.0, 0.0]})
    after = trajectory(model, method(keras.optimizers.SGD(0.1), 0.05), batch, 3)
    np.testing.assert_array_equal(after, np.zeros((3, 2)))  # NaN would differ.


@PRECISE
def test_golden_batch_norm_sees_the_clean_pass_once():
    g = golden("batchnorm_interplay")
    net, expected = g["inputs"]["net"], g["expected"]["sam"]
    model, norm, batches = batch_norm_net(net)
    inner = keras.optimizers.SGD(net["lr"], net["momentum"])
    model.compile(ks.SAM(inner, g["inputs"]["rho"]), crossentropy(), run_eagerly=True)
    moving = [norm.moving_mean, norm.moving_variance]
    for t in range(5):
        model.train_on_batch(*batches[t % 3])
        statistics = [v.numpy() for v in moving]
        assert_close(flat(model.trainable_variables), expected["weights"][t], TOLERANCE["momentum"])
        assert_close(
            statistics,
            expected["moving_mean_and_variance_after_each_step"][t],
            TOLERANCE["momentum"],
        )
    # What wrong implementations end with is elsewhere by much more.
    for wrong in ("final_if_only_perturbed_pass", "final_if_both_passes"):
        assert abs(np.array(statistics) - expected[wrong]).max() > 1e-3


@PRECISE
def test_rho_schedule_is_read_at_the_iteration():
    # L = sum(h w^2) / 2 has g = h w, so a step from w is lr h (w + rho h w / ||h w||).
    inputs = GOLDEN["inputs"]["quad"]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.25, 0.0])
    h, w, expected = np.array(inputs["h"]), np.array(inputs["w0"]), []
    for rho in (0.5, 0.25, 0.0, 0.0):
        w = w - 0.05 * h * (w + rho * h * w / np.linalg.norm(h * w))
        expected.append(w)
    model, batch = quadratic(inputs)
    optimizer = ks.SAM(keras.optimizers.SGD(0.05), schedule)
    assert_close(
        trajectory(model, optimizer, batch, 4, run_eagerly=False), expected, TOLERANCE["sgd"]
    )


def test_interval_alternates_between_sam_and_the_inner_optimizer():
    # Each step from the same weights (SGD without momentum has no other state) is SAM's where the
    # iteration is a multiple of 3, and the inner optimizer's own at the others.
    def stepper(optimizer):
        model, batch = mlp(GOLDEN["inputs"]["mlp"])
        model.compile(optimizer, crossentropy(), run_eagerly=False)

        def step(weights):
            model.set_weights(weights)
            model.train_on_batch(*batch)
            return model.get_weights()

        return step, model.get_weights()

    inner = dict(learning_rate=0.5)
    sam, _ = stepper(ks.SAM(keras.optimizers.SGD(**inner), 0.1))
    plain, _ = stepper(keras.optimizers.SGD(**inner))
    every_third, weights = stepper(ks.SAM(keras.optimizers.SGD(**inner), 0.1, interval=3))
    for i in range(7):
        expected, other = sam(weights), plain(weights)
        if i % 3:
            expected, other = other, expected
        weights = every_third(weights)
        for actual, near, far in zip(weights, expected, other, strict=True):
            # On TensorFlow to the bit; XLA fuses differently inside a branch.
            assert_close(actual, near, 0 if TENSORFLOW else 1e-7)
            assert abs(actual - far).max() > 1e-4


def test_both_passes_see_the_same_dropout_mask():
    # With d = mask * x / 0.5 and loss (d.w)^2 / 2, SAM's gradient is (d.w + rho ||d|| sign(d.w)) d,
    # and the plain one is (d.w) d. Another mask d' in the second pass would give a multiple of d'.
    # Both optimizers take one mask a step from the same seed, so the second step has their next.
    def gradients_of(optimizer):
        x = keras.Input((16,))
        model = ks.Model(x, layers.Dense(1, use_bias=False)(layers.Dropout(0.5, seed=3)(x)))
        model.compile(optimizer, lambda y, p: p**2 / 2)
        gradients = []
        for _ in range(2):
            model.set_weights([w])
            model.train_on_batch(features, np.zeros((1, 1)))
            gradients.append((w - model.get_weights()[0])[:, 0])
        return gradients

    rng = np.random.default_rng(0)
    w = rng.normal(size=(16, 1)).astype("float32")
    features = rng.normal(size=(1, 16)).astype("float32")
    plain = gradients_of(keras.optimizers.SGD(1.0))
    sam = gradients_of(ks.SAM(keras.optimizers.SGD(1.0), 0.7))
    masks = [g != 0 for g in plain]
    assert (masks[0] != masks[1]).any()
    for mask, g, clean in zip(masks, sam, plain, strict=True):
        d = 2 * features[0] * mask
        dw = d @ w[:, 0]
        assert_close(clean, dw * d, 1e-5)
        assert_close(g, (dw + 0.7 * np.linalg.norm(d) * np.sign(dw)) * d, 1e-5)


@pytest.mark.parametrize("outer", ["SAM", "SmoothOut"])
def test_both_passes_see_the_same_noise(outer):
    # On the quadratic, SmoothOut steps by lr g with g = h (w + u). With the same u in both passes
    # SAM around it (or in it) steps by lr (g + rho h g / ||g||); with u' it would be off by
    # lr h (u' - u).
    def step(make):
        model, batch = quadratic(inputs)
        return trajectory(model, make(keras.optimizers.SGD(0.1)), batch, 1)[0]

    inputs, rho = GOLDEN["inputs"]["quad"], 0.2
    h, w = np.array(inputs["h"]), np.array(inputs["w0"])
    g = (w - step(lambda inner: ks.SmoothOut(inner, 0.3))) / 0.1
    assert abs(g - h * w).min() > 1e-3  # There is noise.
    nested = {
        "SAM": lambda inner: ks.SAM(ks.SmoothOut(inner, 0.3), rho),
        "SmoothOut": lambda inner: ks.SmoothOut(ks.SAM(inner, rho), 0.3),
    }
    expected = w - 0.1 * (g + rho * h * g / np.linalg.norm(g))
    assert_close(step(nested[outer]), expected, 2e-6)


@pytest.mark.tensorflow
@PRECISE
@pytest.mark.parametrize(
    ("perturbation", "ghost_batch_size", "case", "key"),
    [
        ("shared", None, "mlp", ""),
        ("replica", None, "m_sam", "chunks=2|"),
        ("replica", 2, "m_sam", "chunks=4|"),
    ],
)
def test_golden_two_replicas(perturbation, ghost_batch_size, case, key):
    # Replica 0 has the first half of the batch, replica 1 the second. An ascent along the sum is
    # SAM on the whole batch; one on each replica is m-SAM with two chunks, and one on each ghost
    # batch of each replica is m-SAM with four.
    with two_replicas().scope():
        model, batch = mlp(GOLDEN["inputs"]["mlp"])
        optimizer = ks.SAM(
            base(GOLDEN["inputs"], "mlp", "momentum"), 0.05, perturbation=perturbation
        )
        model.compile(optimizer, crossentropy(), ghost_batch_size=ghost_batch_size)
    weights = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.append(flat(model.trainable_variables))
    )
    model.fit(*batch, batch_size=8, epochs=10, shuffle=False, verbose=0, callbacks=[record])
    expected = GOLDEN["expected"][case][f"{key}rho=0.05|momentum"]
    assert_close(np.array(weights)[[0, -1]], expected, TOLERANCE["momentum"])
    for variable in [*model.variables, *model.optimizer.variables]:
        first, second = variable.value.values
        np.testing.assert_array_equal(first.numpy(), second.numpy())
