"""LAMB: the trajectories of the paper's form, and that of Keras without decay."""

import keras
import numpy as np
import pytest
from support.nets import LOSS, images, standard_net, values
from support.problems import PRECISE, TENSORFLOW, assert_close, golden, mlp, trajectory

import keras_smoothout as ks

GOLDEN = golden("lamb")


@PRECISE
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("exclude", [("bias",), ()])
def test_golden(exclude, decay):
    inputs = GOLDEN["inputs"]
    model, batch = mlp(inputs["mlp"])
    optimizer = ks.LAMB(
        inputs["lr"], inputs["b1"], inputs["b2"], inputs["eps"], decay, exclude=exclude
    )
    weights = trajectory(model, optimizer, batch, inputs["steps"])
    expected = GOLDEN["expected"][f"paper|{'bias_plain' if exclude else 'all'}|wd={decay}"]
    # Keras keeps the learning rate in float32.
    assert_close(weights[[0, -1]], expected, 1e-8 if TENSORFLOW else 5e-5)


def test_is_that_of_keras_without_decay():
    def trained(optimizer):
        model = standard_net()
        model.compile(optimizer, LOSS)
        x, y = images()
        model.fit(x, y, 16, 2, shuffle=False, verbose=0)
        return values(model)[: len(model.variables)]

    ours = trained(ks.LAMB(0.01, exclude=()))
    keras_own = trained(keras.optimizers.Lamb(0.01, epsilon=1e-6))
    for a, b in zip(ours, keras_own, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_the_step_is_as_long_as_the_weights():
    variable = keras.Variable([[3.0], [4.0]], name="kernel")
    optimizer = ks.LAMB(0.1, decay=0.5)
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor([[1e-3], [-7.0]])])
    assert np.linalg.norm(variable.numpy() - [[3.0], [4.0]]) == pytest.approx(0.1 * 5, rel=1e-5)


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_a_norm_of_zero_gives_the_ratio_one(zero):
    start = np.zeros(3) if zero == "weight" else np.ones(3)
    variable = keras.Variable(start, name="kernel")
    optimizer = ks.LAMB(0.1)
    optimizer.build([variable])
    gradient = np.ones(3) if zero == "weight" else np.zeros(3)
    optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")])
    np.testing.assert_allclose(variable.numpy(), start - 0.1 * gradient, rtol=1e-5)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("cls", [ks.LAMB, ks.PartiallyAdaptive, ks.LARS])
def test_a_step_is_the_same_in_half_precision(cls, half):
    """In bfloat16, `beta_2**t` is 1, and nothing would be left to divide by."""
    steps = []
    for dtype in ("float32", half):
        w = keras.Variable([0.0625, 0.125], dtype=dtype)
        optimizer = cls(64.0 if cls is ks.LARS else 0.125)
        optimizer.build([w])
        optimizer.apply([keras.ops.cast([1.0, -1.0], dtype)])
        steps.append(keras.ops.convert_to_numpy(keras.ops.cast(w, "float32")) - [0.0625, 0.125])
    np.testing.assert_allclose(*steps, rtol=0.1)
    assert np.all(steps[0] != 0)


@pytest.mark.parametrize("clip", [None, 0.5, 3.0])
def test_the_trust_ratio_is_clipped(clip):
    # The first step is the sign of the gradient: here its norm is 2, and that of the weights 4.
    variable = keras.Variable([[2.0, -2.0], [2.0, 2.0]], name="kernel")
    optimizer = ks.LAMB(0.1, epsilon=0.0, clip=clip)
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor([[3.0, -7.0], [0.5, 1.0]])])
    ratio = min(4 / 2, clip or np.inf)
    step = 0.1 * ratio * np.array([[1, -1], [1, 1]])
    np.testing.assert_allclose(variable.numpy(), [[2, -2], [2, 2]] - step, rtol=1e-5)


@pytest.mark.tensorflow  # Each tensor as large as a weight is a pass over memory; norms make none.
@pytest.mark.parametrize(
    ("ours", "others"),
    [
        (ks.LAMB(), keras.optimizers.Lamb()),
        (ks.LARS(), keras.optimizers.SGD(momentum=0.9)),
    ],
)
def test_a_step_writes_no_more_tensors_than_that_of_keras(ours, others):
    import tensorflow as tf

    def written(optimizer):
        variable = keras.Variable(np.ones((3, 5)), name="kernel")
        optimizer.build([variable])
        apply = tf.function(lambda g: optimizer.apply([g], [variable]), autograph=False)
        graph = apply.get_concrete_function(tf.TensorSpec((3, 5))).graph
        assigned = [op for op in graph.get_operations() if op.type.startswith("Assign")]
        return len(assigned) + sum(
            t.shape == (3, 5) and op.type not in ("Identity", "ReadVariableOp", "Placeholder")
            for op in graph.get_operations()
            for t in op.outputs
        )

    assert written(ours) <= written(others)
