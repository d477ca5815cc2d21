"""Measures of whole models: closed forms in which each example counts, and the table of all."""

import keras
import numpy as np
import pytest
from keras import layers
from support.landscape import text_net
from support.nets import LOSS, assert_equal, images, standard_net
from support.problems import golden

from keras_smoothout.landscape import Objective, density, eigenpairs, hessian, hutchinson
from keras_smoothout.landscape.measures import FROM_START, MEASURES, measures, table
from keras_smoothout.landscape.sharpness.gradient_noise import fisher_trace, gradient_noise_scale
from keras_smoothout.landscape.sharpness.noise_sharpness import local_energy
from keras_smoothout.landscape.sharpness.pac_bayes import (
    kl_inverse,
    pac_bayes_bound,
    pac_bayes_sigma,
)

ENERGY = golden("local_energy_entropy")
SE_BOUND = 4.0
CHEAP = ["uniform_noise", "local_energy", "local_entropy"]


def linear(weights, loss=None, **options):
    """A linear model without a bias, at `weights`."""
    model = keras.Sequential(
        [keras.Input((len(weights),)), layers.Dense(1, use_bias=False, **options)]
    )
    model.set_weights([np.array(weights)[:, None]])
    model.compile(loss=loss)
    return model


def classifier():
    """Objective of the golden linear classifier."""
    inputs = ENERGY["inputs"]
    model = linear(inputs["w"], keras.losses.BinaryCrossentropy(from_logits=True))
    labels = (np.array(inputs["y"]) > 0).astype("float32")
    return Objective(model, np.array(inputs["X"], "float32"), labels[:, None])


@pytest.mark.parametrize("row", ENERGY["expected"]["local_energy"], ids=lambda r: str(r["s"]))
def test_local_energy_of_a_linear_classifier(row):
    found = local_energy(classifier(), row["s"], draws=200)
    assert abs(found.value - row["local_energy"]) < SE_BOUND * found.standard_error
    assert found.standard_error < 0.02


def test_local_energy_does_not_see_a_rescaling():
    # ReLU(10 z) / 10 = ReLU(z): the same function, and multiplicative noise scales along.
    def net(scale):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(8, "relu", use_bias=False), layers.Dense(2)]
        )
        first, *rest = model.get_weights()
        model.set_weights([first * scale, rest[0] / scale, rest[1]])
        model.compile(loss=LOSS)
        x = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
        return Objective(model, x, (x[:, 0] > 0).astype(int))

    assert local_energy(net(1.0), 0.5) == pytest.approx(local_energy(net(8.0), 0.5), abs=1e-6)


def regression():
    """Linear least squares: the gradient of example i is 2 (x_i w - y_i) x_i."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(40, 3)).astype("float32"), np.array([1.0, -2.0, 0.5])
    y = rng.normal(size=(40, 1)).astype("float32")
    model = linear(w, "mse", kernel_regularizer=keras.regularizers.L2(0.3))
    return Objective(model, x, y, batch_size=15), 2 * (x @ w[:, None] - y) * x, 0.6 * w


def test_fisher_trace_of_least_squares():
    objective, gradients, _ = regression()
    found = fisher_trace(objective, examples=40)
    squares = np.sum(gradients**2, 1)
    assert found.value == pytest.approx(squares.mean(), rel=1e-5)
    assert found.standard_error == 0  # All examples: nothing was drawn.
    parts = [fisher_trace(objective, examples=30, seed=seed) for seed in range(60)]
    values, errors = np.transpose(parts)
    assert abs(values.mean() - found.value) < SE_BOUND * values.std() / 60**0.5
    np.testing.assert_allclose((errors**2).mean() ** 0.5, values.std(), rtol=0.25)


def test_fisher_trace_without_what_the_model_adds_for_each_example():
    # The loss (x w - y)**2 and the activity's (x w)**2; the latter does not count.
    x, y = np.array([[1.0, 0.0], [0.0, 3.0]]), np.array([[0.0], [1.0]])
    model = linear([1.0, 2.0], "mse", activity_regularizer=keras.regularizers.L2(1.0))
    squares = np.array([(2 * (1 - 0) * 1) ** 2, (2 * (6 - 1) * 3) ** 2])
    for order in (slice(None), slice(None, None, -1)):
        found = fisher_trace(Objective(model, x[order], y[order]))
        assert found.value == pytest.approx(squares.mean(), rel=1e-6)


def test_a_single_example_has_no_noise():
    objective = Objective(linear([1.0], "mse"), np.ones((1, 1)), np.zeros((1, 1)))
    assert fisher_trace(objective) == (4.0, 0.0)
    assert gradient_noise_scale(objective) == (0.0, 0.0)


def test_gradient_noise_scale_of_least_squares():
    objective, gradients, regularizers = regression()
    mean = gradients.mean(0)
    expected = np.sum((gradients - mean) ** 2) / 40 / np.sum((mean + regularizers) ** 2)
    found = gradient_noise_scale(objective, examples=40)
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert found.standard_error == 0
    part = gradient_noise_scale(objective, examples=20)
    assert 0 < abs(part.value - expected) < SE_BOUND * part.standard_error
    # It is what the variance of a batch says: E ||g_B - g||**2 = B_simple ||g||**2 / batch size.
    rng = np.random.default_rng(1)
    batches = gradients[rng.integers(0, 40, (20000, 10))].mean(1)
    spread = np.mean(np.sum((batches - mean) ** 2, 1))
    assert spread == pytest.approx(found.value * np.sum((mean + regularizers) ** 2) / 10, rel=0.05)


def one_weight(examples=100):
    """A classifier of one weight: sign(w x), w = 1, on x of size 1; wrong where w < 0."""
    x = np.where(np.arange(examples) % 2, 1.0, -1.0).astype("float32")[:, None]
    model = linear([1.0], keras.losses.BinaryCrossentropy(from_logits=True))
    return Objective(model, x, (x > 0).astype("float32"))


def test_pac_bayes_sigma_of_one_weight():
    # The error is P(1 + sigma z < 0) = Phi(-1 / sigma), 0.1 at sigma = 1 / 1.28155.
    found = pac_bayes_sigma(one_weight(), 0.1, draws=60, steps=8)
    assert abs(found.value - 0.7803) < SE_BOUND * found.standard_error
    assert found.standard_error < 0.2


def test_pac_bayes_sigma_is_infinite_where_all_noise_is_borne():
    assert pac_bayes_sigma(one_weight(), 0.9).value == np.inf


def test_pac_bayes_bound_of_one_weight():
    # ||w - 0|| = 1. At sigma = 1/2, 0.023 of the draws err, and none of the first 20. The expected
    # error is then at most 1 - exp(-log(2 / 0.001) / 20), as delta is 0.05 / 10, a fifth of it for
    # the draws. The bound is kl_inverse of that and c = (1 / (2 / 4) + log(2 * 10 / 0.004)) / 100.
    bounds = pac_bayes_bound(one_weight(), [np.zeros((1, 1))], draws=20)
    noisy = 1 - np.exp(-np.log(2 / 0.001) / 20)
    c = [(4**k / 2 + np.log(20 / 0.004)) / 100 for k in (1, 2)]
    assert bounds.value <= kl_inverse(noisy, c[1])
    assert bounds.value == pytest.approx(kl_inverse(noisy, c[0]), rel=1e-6)
    # The draws cost less the more there are, the divergence the more examples there are.
    more = pac_bayes_bound(one_weight(), [np.zeros((1, 1))], draws=200)
    assert kl_inverse(0.0, c[0]) < more.value < bounds.value
    assert pac_bayes_bound(one_weight(10000), [np.zeros((1, 1))], draws=20).value < bounds.value


def small_image_net():
    """Convolutions as in MobileNet: depthwise, with BatchNormalization and a way around."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, 2, "same", use_bias=False)(inputs)
    around = x = layers.Activation("silu")(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.Activation("silu")(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, around]))
    model = keras.Model(inputs, layers.Dense(3, "softmax")(x))
    return model, np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("build", [text_net, small_image_net])
def test_networks_for_text_and_for_images(build):
    model, x = build()
    y = np.arange(6) % 3
    model.compile(loss="sparse_categorical_crossentropy")
    objective, before = Objective(model, x, y), [np.array(v) for v in model.variables]
    H = hessian(objective)
    (top,), vectors, *_ = eigenpairs(H)
    # By differences of gradients.
    place, step = objective.flatten(objective.weights), 0.01 * vectors[:, 0]
    ahead, behind = (
        objective.flatten(objective.loss_and_gradient(objective.unflatten(w))[1])
        for w in (place + step, place - step)
    )
    np.testing.assert_allclose((ahead - behind) / 0.02, top * vectors[:, 0], atol=0.01 * top)
    names = ["loss", "gradient_norm", "lambda_max", "sam_sharpness", "uniform_noise"]
    found = {row.measure: row.value for row in measures(objective, names)}
    assert found["loss"] == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)
    assert found["lambda_max"] == pytest.approx(top, rel=1e-3)
    slope = 0.05 * found["gradient_norm"]
    assert abs(found["sam_sharpness"] - slope) < 0.05**2 * top
    # Of the same probes: the first moment of the spectrum is the trace.
    spectrum = density(H, steps=8, probes=3)
    traces = objective.size * np.sum(spectrum.weights * spectrum.values, 1)
    assert hutchinson(H, 3).value == pytest.approx(traces.mean(), rel=1e-3)
    assert spectrum.values.max() < 1.001 * top
    assert_equal(before, [np.array(v) for v in model.variables])


START = []


@pytest.fixture(scope="module")
def net():
    """The standard net, fitted to noise; `START` are its weights before."""
    model = standard_net()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), LOSS)
    START[:] = [w.numpy() for w in model.trainable_variables]
    model.fit(*images(), batch_size=16, epochs=30, verbose=0)
    return model


@pytest.fixture(scope="module")
def objective(net):
    return Objective(net, *images())


def test_single_examples_need_moving_statistics(net):
    objective = Objective(net, *images(), batch_norm="training")
    for measure in (fisher_trace, gradient_noise_scale):
        with pytest.raises(ValueError, match="moving statistics"):
            measure(objective)


def test_the_table_of_all_measures(net, objective, capsys):
    before = [v.numpy() for v in net.variables]
    rows = measures(objective, start=START, progress=True)
    assert [row.measure for row in rows] == [*MEASURES, *FROM_START]
    assert all(np.isfinite(row.value) and not row.note for row in rows)
    assert all(row.losses + row.gradients + row.products > 0 for row in rows[:-2])
    assert_equal(before, [v.numpy() for v in net.variables])
    assert capsys.readouterr().out.count("\n") == len(rows) + 1
    text = table(rows)
    assert text.count("\n") == len(rows)
    assert len({len(line) for line in text.splitlines()}) == 1
    assert "±" in table({"one": rows, "two": rows})
    found = {row.measure: row for row in rows}
    # Costs of the few whose cost is known.
    assert found["uniform_noise"].losses == 41
    assert found["sam_ascent"].gradients == 10
    assert found["hessian_trace"].products == 20
    assert found["fisher_trace"].gradients == pytest.approx(49 / 48)
    # To second order, noise of variance s**2 raises the loss by s**2 / 2 times the trace.
    trace = found["hessian_trace"]
    noise = found["normal_noise"]
    assert noise.value == pytest.approx(1e-4 / 2 * trace.value, rel=0.2)
    assert found["sam_ascent"].value >= found["sam_sharpness"].value > 0


def test_the_same_seed_gives_the_same_numbers(objective):
    first, second, third = (
        [row.value for row in measures(objective, CHEAP, seed=s)] for s in (0, 0, 1)
    )
    assert first == second
    assert first != third


def test_measures_of_ones_own(objective):
    (row,) = measures(objective, {"double": lambda o: 2 * o.loss(o.weights)})
    assert row.measure == "double"
    assert row.value == 2 * objective.loss(objective.weights)
    assert row.losses == 1


def test_what_does_not_apply_is_refused_with_the_reason():
    objective, *_ = regression()
    found = {row.measure: row for row in measures(objective, start=[np.zeros((3, 1))])}
    refused = {"error", "local_energy", "pac_bayes_sigma", "pac_bayes_bound"}
    assert {name for name, row in found.items() if row.note} == refused
    assert "not that of a classifier" in found["local_energy"].note
    assert np.isnan(found["local_energy"].value)
    with pytest.raises(ValueError, match="not that of a classifier"):
        measures(objective, ["local_energy"])


def test_an_interrupt_leaves_the_model_alone(net, objective, monkeypatch):
    before = [v.numpy() for v in net.variables]
    whole, calls = objective.loss, []

    def interrupted(weights):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return whole(weights)

    monkeypatch.setattr(objective, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measures(objective, ["uniform_noise"])
    assert_equal(before, [v.numpy() for v in net.variables])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"names": ["hight"]}, "Received: hight"),
        ({"names": ["pac_bayes_bound"]}, "`start`"),
        ({"start": [np.zeros(3)]}, "Received: shapes"),
    ],
)
def test_wrong_values(objective, arguments, words):
    with pytest.raises(ValueError, match=words) as error:
        measures(objective, **arguments)
    assert "Received" in str(error.value)


def test_a_loss_that_is_not_finite_is_refused():
    objective = Objective(linear([np.inf], "mse"), np.ones((2, 1)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="must be finite at the weights"):
        measures(objective)
