"""Entropy-SGD: other implementations' trajectories of three variants, its state machine, limits."""

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
from support.problems import (
    PRECISE,
    TENSORFLOW,
    assert_close,
    crossentropy,
    flat,
    golden,
    mlp,
    quadratic,
    trajectory,
)

import keras_smoothout as ks
from keras_smoothout.method import Method

VARIANTS = golden("entropy_sgd_variants")
GOLDEN = golden("entropy_sgd")
EAGER = {"run_eagerly": TENSORFLOW}
TOLERANCE = 1e-7 if TENSORFLOW else 3e-6


def outer_iterates(optimizer, net, steps, outer, skipped=0):
    """Weights after each update: a step per two examples, in order; some batches are left out."""
    model, (x, y) = mlp(net)
    model.compile(optimizer, crossentropy(), **EAGER)
    batch, weights = 0, []
    for _ in range(outer):
        batch += skipped
        for _ in range(steps):
            rows = slice(2 * (batch % 4), 2 * (batch % 4) + 2)
            model.train_on_batch(x[rows], y[rows])
            batch += 1
        weights.append(flat(model.trainable_variables))
    return np.array(weights)


def variant(name, **options):
    given = VARIANTS["inputs"]
    own = given.get(name, {})
    g1 = own["gmax"] ** (1 / own["T"]) - 1 if name == "pittorino" else given["g1"]
    steps = own.get("L", given["L"])
    return steps, ks.EntropySGD(
        keras.optimizers.SGD(own.get("lr", given["lr"])),
        steps,
        own.get("llr", given["llr"]),
        scope=1.0 if name == "pittorino" else given["g0"],
        scoping=g1,
        averaging=given["alpha"],
        thermal_noise=0.0,
        variant=name,
        inner_momentum=own.get("momentum", 0.0),
        inner_decay=own.get("weight_decay", 0.0),
        **options,
    )


@PRECISE
@pytest.mark.parametrize("name", ["paper", "lua", "pittorino"])
def test_golden_of_each_variant(name):
    steps, optimizer = variant(name, largest_scope=1e4)
    actual = outer_iterates(optimizer, VARIANTS["inputs"]["net"], steps, 4, int(name == "lua"))
    expected = np.array(VARIANTS["expected"][name])
    assert_close(actual, expected, 10 * TOLERANCE)
    if name == "pittorino":  # Its first chain only finds the unit of the scope.
        assert int(optimizer.iterations) == 3
        found = [float(optimizer.unit) * (1 + optimizer.scoping) ** t for t in (1, 2, 3)]
        np.testing.assert_allclose(found, VARIANTS["expected"]["pittorino_g"][1:], rtol=1e-5)


@PRECISE
@pytest.mark.parametrize("largest", [1.5, 10.0])
def test_the_limit_of_the_scope_is_kept(largest):
    # On h w^2 / 2 with a scope that doubles: 1, 2, 4, or no more than the limit.
    h, step_size, w, expected = 2.0, 0.1, 1.0, []
    for t in range(3):
        scope, x = min(2.0**t, largest), w
        for _ in range(2):
            x = x - step_size * (h * x + scope * (x - w))
        w = w - 0.5 * scope * (w - x)
        expected += [w]
    chain = {"langevin_steps": 2, "averaging": 0.0, "thermal_noise": 0.0, "variant": "paper"}
    inner = keras.optimizers.SGD(0.5)
    optimizer = ks.EntropySGD(
        inner, step_size=step_size, scope=1.0, scoping=1.0, largest_scope=largest, **chain
    )
    actual = of_steps(optimizer, 6, {"h": [h], "w0": [1.0]})
    assert_close(actual[1::2, 0], expected, 1e-6)


@PRECISE
@pytest.mark.parametrize("case", GOLDEN["inputs"]["cases"], ids=str)
@pytest.mark.parametrize("problem", ["quad", "mlp", "mlp_no_skipped_batch"])
def test_golden_of_the_authors_class(problem, case):
    # It does not advance its counter, so there is no scoping.
    def optimizer():
        inner = keras.optimizers.SGD(case["lr"])
        return ks.EntropySGD(
            inner,
            case["L"],
            case["llr"],
            case["gamma"],
            scoping=0.0,
            averaging=case["b1"],
            thermal_noise=0.0,
        )

    expected = GOLDEN["expected"][f"{problem}|L={case['L']}|gamma={case['gamma']}|lr={case['lr']}"]
    if problem == "quad":
        model, batch = quadratic(GOLDEN["inputs"]["quad"])
        steps = case["L"] * case["outer"]
        every = trajectory(model, optimizer(), batch, steps, **EAGER)
        actual = every[case["L"] - 1 :: case["L"]]
        # The weights stay where they are within a chain.
        assert_equal(
            every[case["L"] - 1 : -1], np.repeat(actual[:-1], case["L"], 0)[: steps - case["L"]]
        )
    else:
        net, skipped = GOLDEN["inputs"]["mlp"], int(problem == "mlp")
        actual = outer_iterates(optimizer(), net, case["L"], case["outer"], skipped)
    assert_close(actual, expected, 10 * TOLERANCE)


@pytest.mark.parametrize("case", range(3))
def test_moments_of_the_noise(case):
    # A chain on h x^2 / 2 from 1, of one element per coordinate: mean and variance after 20 steps.
    given, expected = GOLDEN["inputs"]["noise"][case], GOLDEN["expected"]["noise_moments"][case]
    count = 40_000
    model, batch = quadratic({"h": count * [given["h"]], "w0": count * [1.0]})
    optimizer = ks.EntropySGD(
        keras.optimizers.SGD(1.0),
        1000,
        given["llr"],
        given["gamma"],
        0.0,
        thermal_noise=given["eps"],
    )
    model.compile(optimizer)
    for _ in range(20):
        model.train_on_batch(*batch)
    after = expected["after_20_steps"]
    for name, slot in (("w", optimizer.x), ("mu", optimizer.mu)):  # Its w is our x.
        found, mean, variance = flat(slot), after[f"mean_{name}"], after[f"var_{name}"]
        assert abs(found.mean() - mean) < 4 * (variance / count) ** 0.5 + 1e-6
        assert found.var() == pytest.approx(variance, rel=4 * (2 / count) ** 0.5)


def of_steps(optimizer, steps, problem=None):
    """Weights after each step on the quadratic of the golden file."""
    model, batch = quadratic(problem or GOLDEN["inputs"]["quad"])
    return trajectory(model, optimizer, batch, steps, **EAGER)


def test_one_step_of_a_chain_without_average_is_a_step_of_sgd():
    chain = {"langevin_steps": 1, "averaging": 0.0, "thermal_noise": 0.0, "scope": 3.0}
    actual = of_steps(ks.EntropySGD(keras.optimizers.SGD(0.5), step_size=0.04, **chain), 4)
    assert_close(actual, of_steps(keras.optimizers.SGD(0.02), 4), 1e-6)


def test_without_spring_and_average_it_is_lookahead():
    chain = {"langevin_steps": 3, "averaging": 0.0, "thermal_noise": 0.0, "scope": 0.0}
    actual = of_steps(ks.EntropySGD(keras.optimizers.SGD(0.5), step_size=0.02, **chain), 9)
    slow = of_steps(ks.Lookahead(keras.optimizers.SGD(0.02), 3, 0.5), 9)
    assert_close(actual[2::3], slow[2::3], 1e-6)
    assert np.abs(actual[1::3] - slow[1::3]).max() > 1e-3


def entropy(inner=None, **options):
    return ks.EntropySGD(inner or sgd(0.5), **{"langevin_steps": 3, "scope": 0.5} | options)


@pytest.mark.tensorflow
def test_the_inner_optimizer_counts_updates_and_keeps_its_state_between_them():
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.0])
    optimizer = entropy(keras.optimizers.SGD(rates, momentum=0.9))
    model, batch = quadratic(GOLDEN["inputs"]["quad"])
    model.compile(optimizer)
    seen = []
    for _ in range(9):
        model.train_on_batch(*batch)
        momentum = flat(optimizer.inner.momentums)
        seen.append((int(optimizer.iterations), float(optimizer.learning_rate), momentum))
        assert bool(optimizer.updated) == (len(seen) % 3 == 0)
        assert bool(optimizer.due) == (len(seen) % 3 == 2)
    assert [count for count, _, _ in seen] == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert [rate for _, rate, _ in seen] == [0.5] * 2 + [0.0] * 7
    for step in range(9):
        changed = step == 0 or np.any(seen[step][2] != seen[step - 1][2])
        assert changed == (step == 0 or step % 3 == 2)


@pytest.mark.tensorflow
def test_accumulation_averages_whole_updates():
    # Two chains from the same weights, and one update by the mean of their gradients.
    chain = {"thermal_noise": 0.0, "scoping": 0.0}
    plain = of_steps(entropy(keras.optimizers.SGD(0.5), **chain), 3)
    inner = keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)
    optimizer = entropy(inner, **chain)
    twice = of_steps(optimizer, 7)
    assert_equal(twice[:5], np.repeat([GOLDEN["inputs"]["quad"]["w0"]], 5, 0).astype("float32"))
    assert_close(twice[5:], plain[[2, 2]], 1e-6)
    assert int(optimizer.iterations) == 1


@pytest.mark.tensorflow
def test_a_method_around_it_counts_its_updates():
    # Lookahead would synchronize three times as often if it counted steps.
    optimizer = ks.Lookahead(entropy(thermal_noise=0.0), 2, 0.5)
    model, batch = quadratic(GOLDEN["inputs"]["quad"])
    model.compile(optimizer)
    slow = []
    for _ in range(12):
        model.train_on_batch(*batch)
        slow.append(flat(optimizer.slow))
    assert [t + 1 for t in range(1, 12) if np.any(slow[t] != slow[t - 1])] == [6, 12]


@pytest.mark.parametrize("outer", [ks.SmoothOut, ks.SAM, ks.DPSGD, entropy])
def test_what_asks_elsewhere_goes_inside(outer):
    with pytest.raises(ValueError, match="`inner` must not be `EntropySGD`"):
        outer(entropy())
    assert entropy(ks.SmoothOut("sgd")).inner.radius == 0.01


def test_sam_inside_asks_uphill_of_the_chain():
    # L = h x^2 / 2 in one dimension: SAM's gradient is h (x + rho sign(x)).
    h, rho, step_size = 2.0, 0.25, 0.1
    chain = {"langevin_steps": 2, "scope": 0.5, "scoping": 0.0, "thermal_noise": 0.0}
    optimizer = ks.EntropySGD(
        ks.SAM(keras.optimizers.SGD(1.0), rho), step_size=step_size, averaging=0.5, **chain
    )
    actual = of_steps(optimizer, 2, {"h": [h], "w0": [1.0]})
    x = mu = 1.0
    for _ in range(2):
        x -= step_size * (h * (x + rho) + 0.5 * (x - 1.0))
        mu = (mu + x) / 2
    assert_close(actual[:, 0], [1.0, mu], 1e-6)


def test_weights_that_are_set_start_the_chain_again():
    model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    model.compile(entropy(thermal_noise=0.0), "mse")
    x, y = np.ones((4, 2)), np.ones((4, 1))
    for _ in range(2):
        model.train_on_batch(x, y)
    wanted = [np.array([[0.25], [0.5]], "float32"), np.array([0.25], "float32")]  # A loss of 0.
    model.set_weights(wanted)
    for _ in range(7):
        model.train_on_batch(x, y)
        assert_equal(model.get_weights(), wanted)
        assert_equal([np.array(v) for v in model.optimizer.x], wanted)


def test_resume_within_a_chain(tmp_path):
    def net():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, "tanh")])
        model.add(keras.layers.BatchNormalization())
        model.add(keras.layers.Dense(3))
        return ks.wrap(model)

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 6)), rng.integers(0, 3, 8)
    model = net()
    options = {"variant": "pittorino", "scope": 1.0, "inner_momentum": 0.5}
    model.compile(entropy(**options, thermal_noise=0.1), LOSS)
    for _ in range(7):  # One chain for the unit, one update, and one step of the next chain.
        model.train_on_batch(x, y)
    assert int(model.optimizer.iterations) == 1
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.any(np.array(loaded.optimizer.x[0]) != loaded.get_weights()[0])
    for _ in range(3):
        model.train_on_batch(x, y)
        loaded.train_on_batch(x, y)
    assert_equal(values(loaded), values(model))


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("variant", "policy", "tolerance"),
    [
        ("lua", "float32", 1e-5),
        ("pittorino", "float32", 1e-5),
        # The loss reaches the threads of loss scaling.
        pytest.param("pittorino", "mixed_float16", 2e-3, marks=pytest.mark.slow),
    ],
)
def test_two_replicas_have_one_chain(variant, policy, tolerance):
    keras.config.set_dtype_policy(policy)
    x, y = images(8)
    options = {"variant": variant, "thermal_noise": 0.01, "scope": 0.5, "inner_momentum": 0.5}

    def trained():
        model = ks.wrap(dense_net(6))
        model.compile(entropy(**options), LOSS)
        return model

    with two_replicas().scope():
        many = trained()
    one = trained()
    for model in (many, one):
        model.fit(x, y, 8, epochs=7, shuffle=False, verbose=0)
    for ours, theirs in zip(
        [*many.weights, *many.optimizer.variables],
        [*one.weights, *one.optimizer.variables],
        strict=True,
    ):
        relative = 10 * tolerance
        np.testing.assert_allclose(equal_on_both(ours), theirs.numpy(), relative, tolerance)
    assert int(one.optimizer.iterations) == (2 if variant == "lua" else 1)


@pytest.mark.parametrize(("statistics", "momentum"), [("clean", 11 / 13), ("perturbed", 0.9)])
def test_moving_statistics_are_those_of_the_weights_or_of_the_chain(statistics, momentum):
    # The weights stay where they are in a chain of three steps. Clean statistics are a mean over
    # 384 examples: of passes of 32, by the momentum 352 / 416.
    x, y = examples(32)
    model = contract_net(dropout=0.0)
    options = {"step_size": 0.5, "thermal_noise": 0.0, "statistics": statistics}
    model.compile(entropy(**options), LOSS)
    kernel, norm = model.layers[1].kernel, model.layers[2]
    expected, start = [np.array(v) for v in norm.non_trainable_variables], np.array(kernel)
    for step in range(2):
        passed = x @ (np.array(model.optimizer.x[0]) if step and statistics != "clean" else start)
        expected = [
            momentum * old + (1 - momentum) * new
            for old, new in zip(expected, (passed.mean(0), passed.var(0)), strict=True)
        ]
        model.train_on_batch(x, y)
    assert_equal([kernel], [start])
    assert np.abs(np.array(model.optimizer.x[0]) - start).max() > 1e-2
    for variable, value in zip(norm.non_trainable_variables, expected, strict=True):
        np.testing.assert_allclose(np.array(variable), value, rtol=1e-4, atol=1e-5)


def test_the_seam_hands_over_the_loss():
    class Kept(Method):
        def update(self, apply, grads, variables):
            self.inner.learning_rate.assign(self.mean_loss())
            apply(grads)

    for size in (None, 4):
        model, (x, y) = mlp(VARIANTS["inputs"]["net"])
        model.compile(Kept("sgd"), crossentropy(), ghost_batch_size=size)
        loss = model.test_on_batch(x, y)
        model.train_on_batch(x, y)
        assert float(model.optimizer.learning_rate) == pytest.approx(float(loss), rel=1e-5)
