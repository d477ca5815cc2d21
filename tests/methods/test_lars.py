"""LARS: the trajectories of the paper's form, and what is left to plain SGD."""

import keras
import numpy as np
import pytest
from support.nets import LOSS, assert_equal, images, standard_net, values
from support.problems import FLOAT32, PRECISE, TENSORFLOW, assert_close, golden, mlp, trajectory

import keras_smoothout as ks

TOLERANCE = 1e-7 if TENSORFLOW else FLOAT32["momentum"]  # Keras rounds momentum to float32.


def run(inputs, rate, steps, exclude=("bias",), momentum=0.9, nesterov=False):
    """The weights after the first and the last step."""
    model, batch = mlp(inputs["mlp"])
    optimizer = ks.LARS(rate, momentum, nesterov, inputs["eta"], inputs["wd"], exclude)
    return trajectory(model, optimizer, batch, steps)[[0, -1]]


@PRECISE
@pytest.mark.parametrize("exclude", [("bias",), ()])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_golden(momentum, nesterov, exclude):
    data = golden("lars")
    inputs = data["inputs"]
    kind = "bias_plain" if exclude else "all"
    expected = data["expected"][f"paper|{kind}|momentum={momentum}|nesterov={nesterov}"]
    weights = run(inputs, inputs["lr"], inputs["steps"], exclude, momentum, nesterov)
    assert_close(weights, expected, TOLERANCE)


@PRECISE
@pytest.mark.parametrize("nesterov", [False, True])
def test_golden_of_a_changing_learning_rate(nesterov):
    data = golden("lars_schedule")
    rates = data["inputs"]["lrs"]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1, 2, 3], rates)
    weights = run(data["inputs"], schedule, len(rates), nesterov=nesterov)
    assert_close(weights, data["expected"][f"paper|lr_inside|nesterov={nesterov}"], TOLERANCE)


@pytest.mark.parametrize("nesterov", [False, True])
def test_reduces_to_sgd_where_excluded(nesterov):
    def trained(optimizer):
        model = standard_net()
        model.compile(optimizer, LOSS)
        x, y = images()
        model.fit(x, y, 16, 2, shuffle=False, verbose=0)
        return values(model)

    names = [v.path.split("/")[-1] for v in standard_net().trainable_variables]
    assert_equal(
        trained(ks.LARS(0.1, 0.9, nesterov, decay=0.1, exclude=names)),
        trained(keras.optimizers.SGD(0.1, 0.9, nesterov)),
    )


def test_by_hand():
    # ||w|| = 5, ||g|| = 10, decay = 1: ratio = 0.1 * 5 / (10 + 5) = 1/30, step = (g + w) / 30.
    w, g = np.array([[3.0], [4.0]]), np.array([[6.0], [-8.0]])
    variable = keras.Variable(w, name="kernel")
    bias = keras.Variable([0.5], name="bias")
    optimizer = ks.LARS(1.0, 0.0, trust_coefficient=0.1, decay=1.0)
    optimizer.build([variable, bias])
    optimizer.apply([keras.ops.convert_to_tensor(g, "float32"), keras.ops.ones((1,))])
    np.testing.assert_allclose(variable.numpy(), w - (g + w) / 30, rtol=1e-6)
    np.testing.assert_allclose(bias.numpy(), [-0.5], rtol=1e-6)


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_a_norm_of_zero_gives_the_ratio_one(zero):
    variable = keras.Variable(np.zeros(3) if zero == "weight" else np.ones(3), name="kernel")
    optimizer = ks.LARS(0.5, 0.0, decay=0.1)
    optimizer.build([variable])
    gradient = np.ones(3) if zero == "weight" else np.zeros(3)
    optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")])
    step = 1.0 if zero == "weight" else 0.1
    start = 0.0 if zero == "weight" else 1.0
    np.testing.assert_allclose(variable.numpy(), start - 0.5 * step * np.ones(3), rtol=1e-6)
