"""Large-batch rules: the reference codes' numbers, updates preserved, and wrong recipes."""

import keras
import numpy as np
import pytest
from support.problems import golden

from keras_smoothout.scaling import (
    Recipe,
    linear_scaling,
    random_matrix_scaling,
    sqrt_scaling,
)
from keras_smoothout.schedules import WarmUp

pytestmark = pytest.mark.tensorflow  # Rules are numbers, without a backend.

GOLDEN = golden("large_batch")["expected"]


@pytest.mark.parametrize("case", GOLDEN["large_batch"], ids=lambda c: f"{c['batch']}")
def test_golden(case):
    small = Recipe(
        case["base_batch"],
        case["base_regime"][0][1],
        case["base_epochs"],
        tuple(epoch for epoch, _ in case["base_regime"][1:]),
    )
    for rule, factor in (("sqrt", "sqrt_factor"), ("linear", "linear_factor")):
        large = small.for_batch_size(case["batch"], rule, regime_adaptation=True)
        assert large.learning_rate == pytest.approx(small.learning_rate * case[factor])
        assert large.epochs == case["epochs_adapted"]
        for i, (epoch, rate) in enumerate(case[f"regime_{rule}_adapted"]):
            assert [0, *large.milestones][i] == epoch
            assert large.learning_rate * 0.1**i == pytest.approx(rate)


def test_rules():
    assert linear_scaling(2048, 256) == 8
    assert sqrt_scaling(2048, 128) == 4
    assert sqrt_scaling(32, 128) == 0.5


def test_regime_adaptation_preserves_the_number_of_updates():
    small = Recipe(128, 0.1, 90, (30, 60))
    for batch in (256, 1024, 8192):
        large = small.for_batch_size(batch, regime_adaptation=True)
        assert large.updates(128 * 640) == small.updates(128 * 640)
        assert large.updates(50_000) == pytest.approx(small.updates(50_000), rel=0.15)
    assert small.for_batch_size(1024).epochs == 90


def test_random_matrix_rule():
    # An outlier of 2 in noise of variance 1 shows at 2 + 1/2.
    assert random_matrix_scaling(10**9, 1, 2.0, 1.0) == pytest.approx(2.5 / 2, rel=1e-6)
    # Noise dominates at both sizes: 2 sqrt(variance / b) each, so a root.
    assert random_matrix_scaling(4, 1, 1e-3, 1.0) == pytest.approx(2)
    # Half way to the edge, l + v / (b l), with l = 1: (1 + 1/4) / (1 + 1/16).
    assert random_matrix_scaling(16, 4, 1.0, 1.0) == pytest.approx(1.25 / 1.0625)
    # The outlier dominates: a larger batch allows no larger rate.
    assert random_matrix_scaling(4096, 1024, 1.0, 1e-6) == pytest.approx(1, abs=1e-6)
    # The whole data set has no noise at all; b = B / (1 - B / N).
    assert random_matrix_scaling(100, 50, 1.0, 25.0, examples=100) == pytest.approx(1.25)
    ratio = random_matrix_scaling(64, 16, 1.0, 9.0)
    assert random_matrix_scaling(64, 16, 1.0, 9.0, adaptive=True) == pytest.approx(ratio**0.5)


def test_the_random_matrix_rule_is_that_of_random_matrices():
    rng, n, variance, batch = np.random.default_rng(0), 800, 4.0, 2
    noise = rng.normal(size=(n, n)) * np.sqrt(variance / batch / n)
    noise = (noise + noise.T) / np.sqrt(2)
    for outlier in (1.0, 3.0):
        noise[0, 0] += outlier
        seen = np.linalg.eigvalsh(noise)[-1]
        noise[0, 0] -= outlier
        expected = outlier * random_matrix_scaling(10**12, batch, outlier, variance)
        assert seen == pytest.approx(expected, rel=0.05)


def test_warm_up():
    case = GOLDEN["warmup_linear"]
    rate = WarmUp(case["base_lr"] * case["factor"], case["warmup_steps"], case["base_lr"])
    found = [float(rate(step)) for step in case["steps"]]
    np.testing.assert_allclose(found, case["from_base_to_scaled"], rtol=1e-6)


def test_warm_up_to_a_schedule_and_its_config():
    cosine = keras.optimizers.schedules.CosineDecay(1.0, 100)
    rate = WarmUp(cosine, 10)
    again = keras.optimizers.SGD.from_config(keras.optimizers.SGD(rate).get_config())
    for schedule in (rate, again._learning_rate):
        assert float(schedule(0)) == 0
        assert float(schedule(5)) == pytest.approx(float(cosine(10)) / 2)
        assert float(schedule(10)) == float(cosine(10))
        assert float(schedule(60)) == float(cosine(60))
    assert type(again._learning_rate) is WarmUp


def test_the_schedule_of_a_recipe():
    recipe = Recipe(100, 0.8, 6, (3, 5), warmup_epochs=1)
    rate = recipe.schedule(examples=250)  # 3 steps an epoch
    found = [float(rate(step)) for step in range(18)]
    expected = [0, 0.8 / 3, 1.6 / 3, *[0.8] * 6, *[0.08] * 6, *[0.008] * 3]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert Recipe(100, 0.8, 6).schedule(250) == 0.8


def test_a_recipe_tells_what_was_changed_and_why():
    small = Recipe(128, 0.1, 10)
    large = small.for_batch_size(512, "sqrt", True, ghost_batch_size=128, warmup_epochs=2)
    text = str(large)
    for words in ("size 128 -> 512", "0.1 -> 0.2: sqrt", "10 -> 40", "of 128", "warm-up of 2"):
        assert words in text
    assert small.why == () and large.learning_rate == 0.2
    assert small.for_batch_size(512, 3).learning_rate == pytest.approx(0.3)
    assert small.for_batch_size(512, "none").learning_rate == 0.1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Recipe(128, 0.1, 10, (5, 10)), "milestones=(5, 10), epochs=10"),
        (lambda: Recipe(128, 0.1, 10, warmup_epochs=10), "warmup_epochs=10, epochs=10"),
        (
            lambda: Recipe(128, 0.1, 10, ghost_batch_size=256),
            "ghost_batch_size=256, batch_size=128",
        ),
        (
            lambda: Recipe(512, 0.1, 10).for_batch_size(64, ghost_batch_size=128),
            "ghost_batch_size=128, batch_size=64",
        ),
        (lambda: random_matrix_scaling(2, 1, 0.0, 0.0), "outlier=0.0, variance=0.0"),
    ],
)
def test_wrong_values(wrong, words):
    with pytest.raises(ValueError) as error:
        wrong()
    assert words in str(error.value) and "Received" in str(error.value)
