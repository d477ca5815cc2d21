"""Padam: the trajectories of its two reference codes, AMSGrad and SGD as its ends."""

import keras
import numpy as np
import pytest
from support.problems import PRECISE, TENSORFLOW, assert_close, golden, mlp, quadratic, trajectory

import keras_smoothout as ks

GOLDEN = golden("padam")
CASES = [case for case in GOLDEN["inputs"]["cases"] if case["decoupled"] or case["wd"] == 0]


@PRECISE
@pytest.mark.parametrize("problem", ["quad", "mlp"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, problem):
    kind = "decoupled" if case["decoupled"] else "none"
    key = f"{problem}|p={case['p']}|wd={case['wd']}|{kind}"
    model, batch = {"quad": quadratic, "mlp": mlp}[problem](GOLDEN["inputs"][problem])
    optimizer = ks.PartiallyAdaptive(
        case["lr"],
        case["p"],
        case["b1"],
        case["b2"],
        case["eps"],
        weight_decay=case["wd"] or None,
    )
    weights = trajectory(model, optimizer, batch, 10)
    # Keras keeps the learning rate in float32.
    tolerance = 2e-8 if TENSORFLOW else 1e-4
    assert_close(weights[[0, -1]], GOLDEN["expected"][key], tolerance)


def one(optimizer, gradients, start=2.0):
    variable = keras.Variable([start], name="kernel")
    optimizer.build([variable])
    for g in gradients:
        optimizer.apply([keras.ops.convert_to_tensor([g])])
    return float(variable.numpy()[0])


def test_reduces_to_sgd_with_bias_corrected_momentum():
    expected, m, v_decay = 2.0, 0.0, 0.999
    gradients = [1.0, -3.0, 0.5, 2.0]
    for t, g in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * g
        expected -= 0.1 * np.sqrt(1 - v_decay**t) / (1 - 0.9**t) * m
    assert one(ks.PartiallyAdaptive(0.1, 0.0), gradients) == pytest.approx(expected, rel=1e-5)


def test_reduces_to_amsgrad():
    gradients = [10.0, 0.1, -0.1, 3.0, 0.01]
    amsgrad = keras.optimizers.Adam(0.1, amsgrad=True, epsilon=1e-8)
    expected = one(amsgrad, gradients)
    assert one(ks.PartiallyAdaptive(0.1, 0.5), gradients) == pytest.approx(expected, rel=1e-5)
    assert one(ks.PartiallyAdaptive(0.1, 0.25), gradients) != pytest.approx(expected, rel=1e-2)
