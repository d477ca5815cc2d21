"""The seam battery: what each way of using the seam keeps to, on every kind of step and device."""

import collections
import functools
import re
import types

import keras
import numpy as np
import pytest
from support.contract import (
    BATCH,
    SEAM,
    STEPS,
    arrays,
    assign,
    close,
    compiled,
    contract_net,
    examples,
    fit,
    optimizer_of,
    same,
)
from support.nets import LOSS, assert_equal, on_batch, sgd, two_replicas

from keras_smoothout import SmoothOut
from keras_smoothout.methods import WAYS


@pytest.fixture(params=SEAM, scope="module")
def method(request):
    """Each row in turn: all tests of one, then all of the next."""
    return request.param


# Those that hand their gradient to the inner optimizer and leave its update alone.
ALONE = ("own update", "an optimizer of its own")


@pytest.fixture(params=[n for n in SEAM if SEAM[n].way not in ALONE], scope="module")
def wrapper(request):
    """Each row around another optimizer in turn."""
    return request.param


def test_each_way_of_the_table_has_a_row():
    assert set(WAYS) <= {row.way for row in SEAM.values()}


class Recorder(keras.optimizers.SGD):
    """SGD that keeps the gradients it is given."""

    def build(self, variables):
        super().build(variables)
        self.given = self.add_optimizer_variables(variables, "given")

    def apply(self, grads, trainable_variables=None):
        for variable, grad in zip(self.given, grads, strict=True):
            variable.assign(grad)
        super().apply(grads, trainable_variables)


RATE = 0.5


def recorded(method, steps=1, accumulate=None, start=None, **kwargs):
    """Weights before and after each step, and what the inner optimizer was given, if there is one.

    Without accumulation every step starts from the same weights. There is no dropout, whose random
    numbers depend on the dtype and, on TensorFlow, on XLA.
    """
    inner = Recorder(RATE, gradient_accumulation_steps=accumulate)
    model = compiled(method, inner, dropout=0.0, **kwargs)
    variables = model.trainable_variables
    start = start or arrays(variables)
    assign(variables, start)
    record = types.SimpleNamespace(start=start, moved=[], given=[], dtypes=set())
    for _ in range(steps):
        model.train_on_batch(*examples(BATCH))
        record.moved.append(arrays(variables))
        record.given.append(arrays(getattr(inner, "given", record.start)))
        if accumulate is None:
            assign(variables, start)
    shapes = {v.shape for v in variables}
    record.dtypes = {v.dtype for v in model.optimizer.variables if v.shape in shapes}
    return record


@functools.cache
def two_steps(method):
    return recorded(method, 2)


def flat(arrays):
    return np.concatenate([a.ravel() for a in arrays])


def updated(weights, grads):
    return [w - RATE * g for w, g in zip(weights, grads, strict=True)]


def test_weights_move_by_the_inner_update_and_nothing_else(wrapper):
    run = two_steps(wrapper)
    close(run.moved[0], updated(run.start, run.given[0]), 1e-6)


def test_gradient_accumulation(wrapper):
    # Gradients of micro-steps are those of steps, with noise of their own each, and are averaged.
    run, steps = recorded(wrapper, 2, accumulate=2), two_steps(wrapper)
    close(run.given[0], steps.given[0], 1e-6)
    close(run.given[1], steps.given[1], 1e-6)
    assert_equal(run.moved[0], run.start)
    mean = [(a + b) / 2 for a, b in zip(*run.given, strict=True)]
    close(run.moved[1], updated(run.start, mean), 1e-6)


@pytest.mark.tensorflow  # JAX has no other way.
def test_xla_equals_graph(method):
    run, graph = recorded(method, jit_compile=True), two_steps(method)
    close(run.given[0], graph.given[0], 1e-5)
    close(run.moved[0], graph.moved[0], 1e-5)


def lowered(model, x, y):
    """JAX: the train step as XLA gets it."""
    import jax

    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    return jax.jit(model.train_step).lower(state, (x, y))


def program_of(model, x, y):
    """The text of the train step as XLA gets it."""
    if keras.backend.backend() == "jax":
        return lowered(model, x, y).as_text()
    import tensorflow as tf

    step = tf.function(model.train_step, jit_compile=True)
    batch = tf.constant(x), tf.constant(y)
    return step.experimental_get_compiler_ir(batch)(stage="hlo")


def test_the_step_has_static_shapes_and_no_host_in_it(method):
    # What a TPU asks for.
    model = compiled(method, ghost_batch_size=6)  # With a smaller last one.
    x, y = examples(BATCH)
    model.optimizer.build(model.trainable_variables)
    program = program_of(model, x, y)
    assert "f32[6,6]" in program or "tensor<6x6xf32>" in program
    dynamic = r"<=|\?"
    host = r"\b(custom[-_]call|infeed|outfeed|send|recv|\w*callback)\b"
    assert not re.search(f"{dynamic}|{host}", program)


def summed(optimizer):
    """Shapes of all tensors that eight devices sum up in a step; the batch is cut among them."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    cut = NamedSharding(Mesh(jax.devices(), "batch"), PartitionSpec("batch"))
    x, y = (jax.device_put(array, cut) for array in examples(16))
    with keras.distribution.DataParallel().scope():
        model = contract_net()
        model.compile(optimizer, LOSS)
        model.optimizer.build(model.trainable_variables)
        program = lowered(model, x, y).compile().as_text()
    sums = re.findall(r"= (.*) all-reduce(?:-start)?\(", program)
    return collections.Counter(re.findall(r"f32\[[\d,]*\]", " ".join(sums)))


@pytest.mark.jax
def test_smoothout_sends_what_sgd_sends_and_sam_one_gradient_more():
    plain = summed(sgd())
    assert plain.keys() == {"f32[8,6]", "f32[3,8]", "f32[3]", "f32[8]", "f32[]"}
    assert summed(SmoothOut(sgd(), 0.1, statistics="perturbed")) == plain
    moments = collections.Counter({"f32[8]": 3})  # Of BatchNormalization, in the clean pass.
    for name in ("lookahead_smoothout", "adasmoothout"):
        assert summed(optimizer_of(name)) == plain + moments
    loss = collections.Counter({"f32[]": 1})
    assert summed(optimizer_of("sam")) == plain + plain - loss


@pytest.mark.jax
@pytest.mark.parametrize("ghost_batch_size", [None, pytest.param(6, marks=pytest.mark.slow)])
def test_eight_devices(method, ghost_batch_size):
    def trained():
        model = compiled(method, dropout=0.0, ghost_batch_size=ghost_batch_size)
        logs = fit(model, 2, validation_data=examples(BATCH)).history
        return model, logs, model.predict(examples(BATCH)[0], verbose=0)

    one, one_logs, one_outputs = trained()
    with keras.distribution.DataParallel().scope():
        many, many_logs, many_outputs = trained()
        assert all(len(v.value.sharding.device_set) == 8 for v in many.variables)
        assert all(v.value.is_fully_replicated for v in many.variables)
    close(arrays(one.variables), arrays(many.variables), 1e-5)
    for name in one_logs:
        assert many_logs[name] == pytest.approx(one_logs[name], rel=1e-5)
    np.testing.assert_allclose(one_outputs, many_outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [pytest.param("float64", 1e-5, marks=pytest.mark.tensorflow), ("mixed_bfloat16", 0.05)],
)
def test_precision(method, policy, tolerance):
    # What is kept beside the weights has their dtype, and gradients differ by rounding.
    float32 = two_steps(method)
    expected = flat(float32.given[0]) - flat(float32.moved[0])
    keras.config.set_dtype_policy(policy)
    keras.config.set_floatx(keras.config.dtype_policy().variable_dtype)
    # TensorFlow: eagerly, which takes a quarter of the time.
    eagerly = keras.backend.backend() == "tensorflow"
    run = recorded(method, start=float32.start, run_eagerly=eagerly)
    assert run.dtypes == {keras.config.floatx()}
    error = np.linalg.norm(flat(run.given[0]) - flat(run.moved[0]) - expected)
    assert 0 < error < tolerance * np.linalg.norm(expected)


def test_loss_scaling(method):
    keras.config.set_dtype_policy("mixed_float16")
    model = compiled(method)
    x, y = examples(BATCH)
    beta = model.layers[2].beta
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)

    def step(weight):
        """Change of beta, change of all weights and state, factor on the loss scale."""
        state = [*model.trainable_variables, *model.optimizer.inner_optimizer.variables]
        before, old_beta, scale = arrays(state), arrays([beta])[0], loss_scale()
        loss = on_batch(model, x, y, np.full(BATCH, weight, "float32"))["loss"]
        assert loss < 2 * weight + 1
        changed = [np.any(a != b) for a, b in zip(before, arrays(state), strict=True)]
        return arrays([beta])[0] - old_beta, any(changed), loss_scale() / scale

    def loss_scale():
        return float(model.optimizer.dynamic_scale)

    model.optimizer.build(model.trainable_variables)
    # The gradient that reaches beta, around 1e-8, is 0 in float16 unless every pass is scaled.
    change, _, factor = step(1e-6)
    assert np.all(change != 0)
    assert factor == 1
    # Scaled, this one is infinite in float16: nothing moves but the scale.
    _, changed, factor = step(1e6)
    assert not changed
    assert factor == 0.5
    change, _, factor = step(1.0)
    assert np.all(np.isfinite(change))
    assert np.all(change != 0)
    assert factor == 1


WEIGHTS = np.linspace(0.0, 2.0, STEPS * BATCH, dtype="float32")


@functools.cache
def plain(weighted, **options):
    """What the inner optimizer alone makes of the examples, weighted or not."""
    model = contract_net()
    model.compile(sgd(), LOSS, metrics=["accuracy"], **options)
    history = fit(model, sample_weight=WEIGHTS if weighted else None).history
    return arrays(model.variables), history


@pytest.mark.exact  # A loop or a branch against a plain step.
def test_sample_weight(wrapper):
    model = compiled(wrapper, strength=0.0)
    history = fit(model, sample_weight=WEIGHTS).history
    weighted, plain_history = plain(True)
    same(arrays(model.variables), weighted)
    assert history["loss"] == pytest.approx(plain_history["loss"])
    assert history["accuracy"] == plain_history["accuracy"]
    unweighted, _ = plain(False)
    assert all(np.any(a != b) for a, b in zip(weighted[:2], unweighted[:2], strict=True))


@pytest.mark.exact
def test_ghost_batches_of_weighted_examples_some_steps_at_once(wrapper):
    ghosts = {"ghost_batch_size": 6}  # Two, and a smaller last one.
    model = compiled(wrapper, strength=0.0, steps_per_execution=STEPS, **ghosts)
    history = fit(model, sample_weight=WEIGHTS).history
    weighted, plain_history = plain(True, **ghosts)
    close(arrays(model.variables), weighted, 1e-6)
    assert history["loss"] == pytest.approx(plain_history["loss"], rel=1e-5)
    assert history["accuracy"] == plain_history["accuracy"]


@pytest.mark.tensorflow
def test_two_replicas(method):
    with two_replicas().scope():
        model = compiled(method, strength=0.01, dropout=0.0)
    x, y = (a[:BATCH] for a in examples())
    start = model.get_weights()
    expected = []
    for half in (slice(0, BATCH // 2), slice(BATCH // 2, BATCH)):
        loss = LOSS(y[half], model(x[half], training=True))
        expected.append(float(loss) + float(model.losses[0]))
    model.set_weights(start)
    logged = fit(model, STEPS, steps_per_epoch=1).history["loss"]
    assert logged[0] == pytest.approx(np.mean(expected), rel=1e-3)
    for variable in [*model.trainable_variables, *model.optimizer.variables]:
        first, second = arrays(variable.value.values)
        np.testing.assert_array_equal(first, second, err_msg=variable.path)
