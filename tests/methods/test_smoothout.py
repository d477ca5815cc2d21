"""SmoothOut: numbers by hand, laws of the smoothed loss, and one step of the standard net.

Samples are seeded; bounds are in standard errors (SE) of the sampled quantity.
"""

import json
import math
import pathlib

import keras
import numpy as np
import pytest
from keras import layers, ops
from support import nets
from support.problems import (
    PRECISE,
    RELATIVES,
    assert_close,
    relative_trajectory,
)

import keras_smoothout as ks
from keras_smoothout import noise

HERE = pathlib.Path(__file__).parents[1] / "support"
TENSORFLOW = keras.backend.backend() == "tensorflow"
SE_BOUND = 4.5


def golden(name):
    return json.loads((HERE / "golden" / f"{name}.json").read_text())


LAWS = golden("smoothout_analytic")["expected"]


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def smoothout(weights, *args, names=("kernel",), **kwargs):
    """A SmoothOut around plain descent, built for `weights`."""
    optimizer = ks.SmoothOut(keras.optimizers.SGD(1.0), *args, **kwargs)
    names = names * len(weights) if len(names) == 1 else names
    optimizer.build([keras.Variable(w, name=n) for w, n in zip(weights, names, strict=True)])
    return optimizer


def step(iteration, replica=0, chunk=0):
    """A step of numbers that are tensors, as in training: another one compiles nothing anew."""
    return ks.Step(*(ops.convert_to_tensor(i, "int32") for i in (iteration, replica, chunk)))


def perturbed(optimizer, weights, step, copy=0):
    tensors = [ops.convert_to_tensor(w) for w in weights]
    copy = ops.convert_to_tensor(copy, "int32")
    return [ops.convert_to_numpy(w) for w in optimizer.perturb(tensors, step, copy)]


def compiled(function):
    if TENSORFLOW:
        import tensorflow as tf

        return tf.function(function, autograph=False)
    import jax

    return jax.jit(function)


# Laws of the smoothed loss. Weights are many copies of one problem, whose noise is independent, so
# that one call samples the gradient often; `loss` and `gradient` act on each copy.

STEPS = 8


def sample(weight, loss, gradient, *args, **kwargs):
    """Losses and gradients that SmoothOut gives at steps 0 to 7, stacked along the first axis."""
    optimizer = smoothout([weight], *args, **kwargs)

    def evaluate(weights):
        return ks.Evaluation(loss(weights[0]), [gradient(weights[0])], None, [])

    @compiled
    def ask(iteration):
        weights = [ops.convert_to_tensor(weight)]
        evaluation = optimizer.gradients(evaluate, weights, ks.Step(iteration))
        return evaluation.loss, evaluation.grads[0]

    asked = [ask(ops.convert_to_tensor(t)) for t in range(STEPS)]
    return [np.stack([ops.convert_to_numpy(a[i]) for a in asked]).astype("float64") for i in (0, 1)]


def assert_mean(samples, mean, message=""):
    """Assert that the mean over all but the last axis is within `SE_BOUND` standard errors."""
    samples = samples.reshape(-1, *np.shape(mean))
    z = (samples.mean(0) - mean) / (samples.std(0) / math.sqrt(len(samples)))
    assert np.abs(z).max() < SE_BOUND, f"{message}: {z} SE from {mean}"


def assert_variance(samples, variance, kurtosis):
    """The same for the variance, which has a relative SE of sqrt((kurtosis - 1) / n)."""
    samples = samples.reshape(-1, *np.shape(variance))
    z = (samples.var(0) / variance - 1) / math.sqrt((kurtosis - 1) / len(samples))
    assert np.abs(z).max() < SE_BOUND, f"{z} SE from {variance}"


QUAD = golden("smoothout_analytic")["inputs"]["quad"]
H, W0 = (np.array(QUAD[name], "float32") for name in ("h", "w0"))


def quadratic(*args, rows=4096, **kwargs):
    """`sample` of sum(h w^2) / 2; gradients as (samples, 4), and losses over that at w0."""
    losses, grads = sample(
        np.tile(W0, (rows, 1)),
        lambda w: ops.sum(H * w**2, -1) / 2,
        lambda w: H * w,
        *args,
        **kwargs,
    )
    return losses.ravel() - (H * W0.astype("float64") ** 2).sum() / 2, grads.reshape(-1, 4)


# E L(w + u) - L(w) = E u^T H u / 2 = Var(u) tr H / 2: a^2 / 6 tr H and sigma^2 / 2 tr H. The
# gradient H (w + u) has mean H w and variance h^2 Var(u), over K for the mean of K.
@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("distribution", noise.DISTRIBUTIONS)
def test_smoothed_quadratic(distribution, copies):
    law = LAWS["quadratic"]
    radius, variance, kurtosis = {
        "uniform": (law["a"], 1 / 3, 9 / 5),
        "normal": (law["sigma"], 1, 3),
    }[distribution]
    excess, grads = quadratic(radius, distribution, copies=copies)
    assert law[f"excess_{distribution}"] == pytest.approx(radius**2 * variance / 2 * H.sum())
    assert_mean(excess, law[f"excess_{distribution}"], "loss")
    assert_mean(grads, np.array(law["expected_gradient"]), "gradient")
    one_draw = np.array(law[f"gradient_variance_{distribution}_one_draw"])
    # The mean of K numbers has a kurtosis of 3 + (kurtosis - 3) / K.
    assert_variance(grads, one_draw / copies, 3 + (kurtosis - 3) / copies)


def test_smoothed_quadratic_under_noise_in_proportion_to_each_weight():
    # u = a |w| n: Var(u_i) = a^2 w_i^2 / 3.
    law = LAWS["quadratic"]
    excess, grads = quadratic(law["a"], scale="weight")
    assert_mean(excess, law["excess_weight_relative"], "loss")
    assert_mean(grads, np.array(law["expected_gradient"]), "gradient")
    assert_variance(grads, (H * law["a"] * W0) ** 2 / 3, 9 / 5)


def test_smoothed_quadratic_under_noise_in_proportion_to_each_filter():
    # By symmetry each of the n entries of a filter has E u^2 = ||u_f||^2 / n = a^2 ||w_f||^2 / n.
    law = LAWS["filter_normalised"]
    kernel, h = (np.array(law[n], "float32") for n in ("kernel", "curvature_h"))
    copies = 2048
    h = np.tile(h, copies)

    def loss(w):
        return ops.sum(ops.reshape(ops.sum(h * w**2, 0), (copies, 3)), 1) / 2

    losses, grads = sample(np.tile(kernel, copies), loss, lambda w: w, law["a"], scale="filter")
    assert_mean(losses - (h[:, :3] * kernel**2).sum() / 2, law["excess"], "loss")
    u = (grads - np.tile(kernel, copies)).reshape(STEPS, 4, copies, 3)
    norms = np.sqrt((u**2).sum(1))
    expected = np.broadcast_to(law["noise_norm_per_filter"], norms.shape)
    np.testing.assert_allclose(norms, expected, rtol=3e-5)


# E cos(k (w + u)) = Re e^(ikw) E e^(iku) = cos(k w) times the characteristic function of u:
# sin(ka) / (ka), or exp(-k^2 sigma^2 / 2). The gradient shrinks alike.
@pytest.mark.parametrize("distribution", noise.DISTRIBUTIONS)
def test_smoothed_cosine(distribution):
    law = LAWS["cos"]
    k = np.array(law["k"], "float32")
    radius = law["a"] if distribution == "uniform" else law["sigma"]
    w = np.full((8192, 5), law["w"], "float32")
    values, grads = sample(
        w, lambda w: ops.cos(k * w), lambda w: -k * ops.sin(k * w), radius, distribution
    )
    attenuation = np.array(law[f"attenuation_{distribution}"])
    assert_mean(values, attenuation * np.cos(k * law["w"]), "value")
    assert_mean(grads, attenuation * -k * np.sin(k * law["w"]), "gradient")
    if distribution == "uniform":
        assert_mean(values, np.array(law["smoothed_value_uniform"]), "value")
        assert_mean(grads, np.array(law["smoothed_gradient_uniform"]), "gradient")


def test_smoothed_quartic():
    # E (w + u)^4 = w^4 + 6 w^2 a^2 / 3 + a^4 / 5, and its derivatives.
    law = LAWS["quartic"]
    w = np.full((32_768,), law["w"], "float32")
    values, grads = sample(w, lambda w: w**4, lambda w: 4 * w**3, law["a"])
    assert_mean(values, law["value"], "value")
    assert_mean(grads, law["gradient"], "gradient")
    hessians, _ = sample(w, lambda w: 12 * w**2, lambda w: w, law["a"])
    assert_mean(hessians, law["hessian"], "Hessian")


# Copies


def test_copies_average_and_report_the_first_pass():
    # L = w^2 / 2: gradient(w + u) = w + u. Loss, outputs and state are those at w + u_1.
    weights = [normals(4, 3), normals(5, seed=1)]
    optimizer = smoothout(weights, 0.5, copies=3)

    def evaluate(weights):
        total = ops.sum(weights[0])
        return ks.Evaluation(total, list(weights), 2 * total, [3 * total])

    tensors = [ops.convert_to_tensor(w) for w in weights]
    evaluation = optimizer.gradients(evaluate, tensors, step(7))
    passes = [perturbed(optimizer, weights, step(7), copy) for copy in range(3)]
    for i in range(2):
        mean = np.mean([p[i] for p in passes], 0)
        np.testing.assert_allclose(evaluation.grads[i], mean, rtol=1e-6, atol=1e-6)
        assert len({p[i].tobytes() for p in passes}) == 3
    total = passes[0][0].sum()
    np.testing.assert_allclose(evaluation.loss, total, rtol=1e-5)
    np.testing.assert_allclose(evaluation.outputs, 2 * total, rtol=1e-5)
    np.testing.assert_allclose(evaluation.state[0], 3 * total, rtol=1e-5)


@pytest.mark.parametrize("scale", noise.SCALES)
def test_antithetic_copies_are_opposite_pairs(scale):
    weights = [normals(5, 4)]
    pairs = smoothout(weights, 0.5, scale=scale, copies=4, antithetic=True)
    single = smoothout(weights, 0.5, scale=scale, copies=2)
    u = [perturbed(pairs, weights, step(3), k)[0] - weights[0] for k in range(4)]
    v = [perturbed(single, weights, step(3), k)[0] - weights[0] for k in range(2)]
    for pair in (0, 1):
        np.testing.assert_array_equal(u[2 * pair], v[pair])
        np.testing.assert_allclose(u[2 * pair + 1], -v[pair], atol=1e-6)


@pytest.mark.parametrize("copies", [2, 4])
def test_antithetic_copies_have_no_variance_on_a_quadratic(copies):
    # (H (w + u) + H (w - u)) / 2 = H w: what is odd in u cancels.
    _, grads = quadratic(0.3, copies=copies, antithetic=True, rows=64)
    np.testing.assert_allclose(grads, np.broadcast_to(H * W0, grads.shape), rtol=1e-6, atol=2e-6)


def test_antithetic_copies_keep_what_is_even():
    # (4 (w + u)^3 + 4 (w - u)^3) / 2 = 4 w^3 + 12 w u^2.
    w = np.full((64,), 0.8, "float32")
    arguments = {"radius": 0.3, "copies": 2, "antithetic": True}
    _, grads = sample(w, ops.sum, lambda w: 4 * w**3, **arguments)
    optimizer = smoothout([w], **arguments)
    for t in range(STEPS):
        u = perturbed(optimizer, [w], step(t))[0].astype("float64") - w
        np.testing.assert_allclose(grads[t], 4 * 0.8**3 + 12 * 0.8 * u**2, rtol=1e-6)


# Keys


def test_every_step_replica_ghost_batch_copy_and_seed_has_its_draw():
    weights = [normals(30, 20)]

    def draw(iteration=3, replica=0, chunk=0, copy=0, **kwargs):
        optimizer = smoothout(weights, 0.5, **kwargs)
        at = step(iteration, replica, chunk)
        return perturbed(optimizer, weights, at, copy)[0]

    np.testing.assert_array_equal(draw(), draw())
    expected = noise.perturb(
        [ops.convert_to_tensor(weights[0])], 0.5, 0, *step(3), 0, moved=(0,)
    )  # The key: seed, iteration, replica, chunk, copy.
    np.testing.assert_allclose(draw(), expected[0], rtol=1e-6)
    others = [
        {},
        {"iteration": 4},
        {"replica": 3},
        {"replica": 4},
        {"chunk": 3},
        {"copy": 3},
        {"seed": 3},
        {"iteration": 0, "chunk": 3},
    ]
    u = np.stack([(draw(**other) - weights[0]).ravel() for other in others]) / 0.5
    # Correlations of 600 numbers have an SE of 1 / sqrt(600).
    correlation = np.corrcoef(u) - np.eye(len(others))
    assert np.abs(correlation).max() < SE_BOUND / math.sqrt(u.shape[1])


def test_shared_perturbations_are_those_of_the_first_replica():
    weights = [normals(30, 20)]
    shared = smoothout(weights, 0.5, perturbation="shared")
    expected = perturbed(smoothout(weights, 0.5), weights, step(3, 0, 1))
    for replica in (0, 1, 7):
        nets.assert_equal(perturbed(shared, weights, step(3, replica, 1)), expected)
    assert (perturbed(shared, weights, step(3, 0, 2))[0] != expected[0]).any()


def test_the_radius_is_that_of_the_iteration():
    weights = [normals(4, 3)]
    schedule = ks.schedules.AnnealedRadius(0.5)
    scheduled = smoothout(weights, schedule)
    for t in (0, 1000):
        constant = smoothout(weights, float(schedule(t)))
        nets.assert_equal(
            perturbed(scheduled, weights, step(t)), perturbed(constant, weights, step(t))
        )
    # The law of the decay itself, through the size of the noise: (1 + t)^(-0.55 / 2).
    weights = [np.zeros((400, 400), "float32")]
    size = [perturbed(scheduled, weights, step(t))[0].std() for t in (0, 99)]
    assert size[1] / size[0] == pytest.approx(100**-0.275, rel=0.01)


NAMES = ("dense/kernel", "dense/bias", "norm/gamma", "norm/beta", "dense_1/kernel")


@pytest.mark.parametrize(
    ("exclude", "moved"),
    [
        (("gamma", "beta"), (0, 1, 4)),
        ((), (0, 1, 2, 3, 4)),
        (("bias",), (0, 2, 3, 4)),
        (("dense",), (2, 3, 4)),  # The layer, not all whose name starts like it.
        (["norm", "kernel"], (1,)),
    ],
)
def test_exclude_takes_names_of_variables_and_of_layers(exclude, moved, monkeypatch):
    inputs = keras.Input((3,))
    x = layers.Dense(3, name="dense")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, layers.Dense(2, use_bias=False, name="dense_1")(x))
    assert tuple(v.path for v in model.trainable_variables) == NAMES
    optimizer = ks.SmoothOut("sgd", exclude=exclude)
    optimizer.build(model.trainable_variables)
    monkeypatch.setattr(noise, "perturb", lambda weights, *parts, moved, **kwargs: moved)
    assert optimizer.perturb([], step(0), 0) == moved


def test_batch_normalization_is_excluded_by_default():
    assert ks.SmoothOut("sgd").exclude == ("gamma", "beta")


# Whole steps of real models


class Quadratic(layers.Layer):
    """Adds the loss `sum(w**2) / 2`, whose gradient is `w`: noise in the gradient shows plainly."""

    def build(self, input_shape):
        self.w = self.add_weight(shape=(50,), initializer="random_normal", name="kernel")

    def call(self, x):
        self.add_loss(ops.sum(self.w**2) / 2)
        return x


def quadratic_model(learning_rate, ghost_batch_size=None, **kwargs):
    inputs = keras.Input((1,))
    model = ks.Model(inputs, Quadratic()(inputs))
    inner = keras.optimizers.SGD(learning_rate)
    model.compile(ks.SmoothOut(inner, 0.5, **kwargs), ghost_batch_size=ghost_batch_size)
    return model


def noise_of(iteration, chunk=0, copy=0, seed=0):
    """The noise of radius 0.5 on the quadratic model's weight."""
    parts = (seed, *step(iteration, 0, chunk), copy)
    return np.array(noise.perturb([ops.zeros((50,))], 0.5, *parts, moved=(0,))[0])


def test_each_ghost_batch_and_step_has_its_draw_in_training():
    # w - 1.0 * mean_k (w + u_k) = -mean_k u_k: weights show the noise of the step. 7 examples in
    # chunks of 4 and 3, whose gradients count for 4/7 and 3/7.
    model = quadratic_model(1.0, ghost_batch_size=4, seed=5)
    for t in range(3):
        model.train_on_batch(np.zeros((7, 1)))
        u = [noise_of(t, chunk, seed=5) for chunk in (0, 1)]
        np.testing.assert_allclose(
            model.trainable_variables[0], -(4 * u[0] + 3 * u[1]) / 7, atol=1e-6
        )


def test_without_denoising_the_first_draw_stays_in_the_weights():
    # w = (w + u_1) - lr * (w + (u_1 + u_2) / 2), and so on from there.
    model = quadratic_model(0.25, copies=2, denoise=False)
    w = np.array(model.trainable_variables[0])
    for t in range(3):
        model.train_on_batch(np.zeros((4, 1)))
        u = [noise_of(t, copy=copy) for copy in (0, 1)]
        w = w + u[0] - 0.25 * (w + (u[0] + u[1]) / 2)
        np.testing.assert_allclose(model.trainable_variables[0], w, rtol=1e-5, atol=1e-6)


def test_without_denoising_replicas_share_their_noise():
    # They hold the same weights, which the noise becomes part of.
    weights = [normals(30, 20)]
    optimizer = smoothout(weights, 0.5, denoise=False)
    nets.assert_equal(
        perturbed(optimizer, weights, step(2, 1)), perturbed(optimizer, weights, step(2, 0))
    )


def test_one_step_of_the_standard_net_by_hand():
    # g = (gradient(w + u_1) + gradient(w + u_2)) / 2, each by plain Keras in a model that holds the
    # noisy weights: L2 losses and their gradients at w + u, one dropout mask for both.
    x, y = nets.images()
    model, plain = ks.wrap(nets.standard_net()), nets.standard_net()
    nets.assert_equal(map(np.array, model.variables), map(np.array, plain.variables))
    initial = [np.array(v) for v in plain.variables]
    weights = [np.array(v) for v in plain.trainable_variables]
    optimizer = ks.SmoothOut(nets.sgd(), 2.0**-4, copies=2, statistics="perturbed", seed=3)
    model.compile(optimizer, nets.LOSS)
    plain.compile(nets.sgd(), nets.LOSS)

    loss = model.train_on_batch(x, y)

    moved = [i for i, v in enumerate(plain.trainable_variables) if "norm" not in v.path]
    assert len(moved) == len(weights) - 2
    momenta, states, losses = [], [], []
    for copy in (0, 1):
        for variable, value in zip(plain.variables, initial, strict=True):
            variable.assign(value)
        noisy = noise.perturb(
            [ops.convert_to_tensor(w) for w in weights],
            2.0**-4,
            3,
            *step(0),
            copy,
            moved=tuple(moved),
        )
        for variable, value in zip(plain.trainable_variables, noisy, strict=True):
            variable.assign(value)
        for variable in plain.optimizer.variables[2:]:
            variable.assign(0 * variable)
        losses.append(plain.train_on_batch(x, y))
        momenta.append([np.array(m) for m in plain.optimizer.momentums])
        states.append([np.array(v) for v in plain.non_trainable_variables])

    # After one step SGD's momentum is -learning_rate * g.
    momentum = [np.array(m) for m in model.optimizer.inner.momentums]
    for m, first, second in zip(momentum, *momenta, strict=True):
        np.testing.assert_allclose(m, (first + second) / 2, rtol=1e-5, atol=1e-6)
        assert np.abs(first - second).max() > 1e-4
    # Loss and BatchNormalization statistics are those of the pass at w + u_1.
    np.testing.assert_allclose(loss, losses[0], rtol=1e-6)
    for v, first, second in zip(model.non_trainable_variables, *states, strict=True):
        np.testing.assert_allclose(v, first, rtol=1e-6)
        assert "seed" in v.path or np.abs(first - second).max() > 1e-4
    # The weights are those before the step plus the momentum, to the bit: no noise is left.
    after = [np.array(v) for v in model.trainable_variables]
    nets.assert_equal(after, [w + m for w, m in zip(weights, momentum, strict=True)])

    for _ in range(3):
        before = [np.array(v) for v in model.trainable_variables]
        model.train_on_batch(x, y)
        momentum = [np.array(m) for m in model.optimizer.inner.momentums]
        after = [np.array(v) for v in model.trainable_variables]
        nets.assert_equal(after, [w + m for w, m in zip(before, momentum, strict=True)])


# Three steps with given noise, against torch's automatic differentiation: K copies and ghost
# batches, clipped (loss_factor=30) or not, each scale. SGD with momentum 0.9 on a tanh MLP.
CASES = [
    "loss_factor=1.0|absolute|a=0.05|copies K=3",
    "loss_factor=30.0|absolute|a=0.05|copies K=3",
    "loss_factor=30.0|weight|a=0.2|ghost chunk=4",
    "loss_factor=30.0|filter|a=0.3|copies K=3",
    "loss_factor=30.0|filter|a=0.3|ghost chunk=3|weighted_by_chunk_size",
]


@pytest.mark.parametrize("case", CASES)
def test_steps_with_given_noise(case, monkeypatch):
    file = golden("smoothout")
    factor, scale, a, parts, *_ = case.split("|")
    kind, count = parts.replace("=", " ").split()[0::2]
    copies, chunk_size = (int(count), None) if kind == "copies" else (1, int(count))
    parts_per_step = copies if chunk_size is None else math.ceil(8 / chunk_size)
    tables = [
        ops.convert_to_tensor(np.array([draw[i] for draw in file["inputs"]["raw"]], "float32"))
        for i in range(4)
    ]

    def given(shape, key, distribution):
        _, iteration, _, chunk, copy, variable = key
        part = ops.cast(iteration, "int32") * parts_per_step + chunk + copy
        return ops.take(tables[variable], part, axis=0)

    monkeypatch.setattr(noise, "keys", lambda parts, last: [(*parts, i) for i in last])
    monkeypatch.setattr(noise, "draw", given)
    # Compiled kernels of other tests would not know of it.
    plain_perturb = getattr(noise.perturb, "python_function", noise.perturb)
    monkeypatch.setattr(noise, "perturb", plain_perturb)

    mlp = file["inputs"]["mlp"]
    inputs = keras.Input((4,))
    model = ks.Model(inputs, layers.Dense(3)(layers.Dense(5, activation="tanh")(inputs)))
    model.set_weights([np.array(mlp[name]) for name in ("W1", "b1", "W2", "b2")])
    inner = keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=file["inputs"]["clip"])
    model.compile(
        ks.SmoothOut(inner, float(a[2:]), scale=scale, copies=copies),
        lambda y, p: (
            float(factor[12:])
            * keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True)
        ),
        ghost_batch_size=chunk_size,
        run_eagerly=TENSORFLOW,  # Three steps are not worth a graph.
    )
    for _ in range(3):
        model.train_on_batch(np.array(mlp["X"]), np.array(mlp["y"]))
    weights = np.concatenate([np.ravel(w) for w in model.get_weights()])
    np.testing.assert_allclose(weights, file["expected"][case]["weights"], rtol=0, atol=2e-6)


@PRECISE
def test_golden_lpf_sgd(monkeypatch):
    # Two draws a step, given; an element's deviation is the norm of its filter, not that over the
    # root of the filter's size.
    g = RELATIVES["expected"]["lpf_filter_norm"]
    table = np.array(g["noise"])[:, [0, 1, 2, 3, 0, 0, 0, 0]]  # (draws, steps, weights)
    ends = np.cumsum([20, 5, 15, 3])

    def given(shape, key, distribution):
        _, iteration, _, _, copy, variable = key
        numbers = table[..., ends[variable] - math.prod(shape) : ends[variable]]
        numbers = ops.convert_to_tensor(numbers.reshape(*table.shape[:2], *shape), "float32")
        return ops.take(ops.take(numbers, copy, axis=0), iteration, axis=0)

    monkeypatch.setattr(noise, "keys", lambda parts, last: [(*parts, i) for i in last])
    monkeypatch.setattr(noise, "draw", given)
    plain_perturb = getattr(noise.perturb, "python_function", noise.perturb)
    monkeypatch.setattr(noise, "perturb", plain_perturb)
    inner = keras.optimizers.SGD(RELATIVES["inputs"]["lr"], RELATIVES["inputs"]["momentum"])
    optimizer = ks.SmoothOut(inner, g["gamma"], "normal", "filter_std", copies=2, exclude=())
    actual = relative_trajectory(optimizer)
    expected = [g["step1"], g["step2"], g["step4"]]  # The file ends there.
    assert_close(actual[:3], expected, 1e-6 if TENSORFLOW else 1e-5)


def test_ada_smoothout_is_smoothout_of_scale_filter():
    arguments = {"radius": 0.3, "copies": 2, "distribution": "normal", "seed": 4}
    weights = [normals(3, 3, 2, 4), normals(4, seed=1)]
    ada = ks.AdaSmoothOut("sgd", **arguments)
    plain = ks.SmoothOut("sgd", scale="filter", **arguments)
    for optimizer in (ada, plain):
        optimizer.build([keras.Variable(w) for w in weights])
    for copy in (0, 1):
        nets.assert_equal(*(perturbed(o, weights, step(2), copy) for o in (ada, plain)))
    assert vars(ada).keys() == vars(plain).keys() and type(ada).gradients is type(plain).gradients
    assert ks.AdaSmoothOut("sgd").radius == 0.1


# Arguments

EVERYTHING = {
    "radius": ks.schedules.TanhRadius(0.3, 100),
    "distribution": "normal",
    "scale": "weight",
    "copies": 4,
    "antithetic": True,
    "exclude": ("bias", "dense_1"),
    "perturbation": "shared",
    "denoise": False,
    "seed": 11,
    "name": "mine",
}


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (ks.SmoothOut, EVERYTHING),
        (ks.SmoothOut, {"radius": 0.25}),
        (ks.AdaSmoothOut, {k: v for k, v in EVERYTHING.items() if k != "scale"}),
    ],
)
def test_config_round_trip(cls, arguments):
    optimizer = cls(keras.optimizers.SGD(0.1, momentum=0.9), **arguments)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is cls
    for name, value in arguments.items():
        if name == "radius" and not isinstance(value, float):
            assert copy.radius.get_config() == value.get_config()
        else:
            assert getattr(copy, name) == value, name
    assert copy.inner.momentum == 0.9
    assert copy.get_config() == optimizer.get_config()
    weights = [normals(4, 3)]
    for o in (copy, optimizer):
        o.build([keras.Variable(weights[0])])
    nets.assert_equal(*(perturbed(o, weights, step(60)) for o in (copy, optimizer)))
