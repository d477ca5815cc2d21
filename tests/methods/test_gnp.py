"""GNP: another implementation's trajectory, its two limits, and what it penalizes."""

import keras
import numpy as np
from support.nets import assert_same_steps, sgd
from support.problems import (
    PRECISE,
    RELATIVES,
    TENSORFLOW,
    assert_close,
    quadratic,
    relative_expected,
    relative_trajectory,
    trajectory,
)

import keras_smoothout as ks

LR, MOMENTUM = RELATIVES["inputs"]["lr"], RELATIVES["inputs"]["momentum"]
G = RELATIVES["expected"]["gradient_norm_penalty"]


@PRECISE
def test_golden():
    optimizer = ks.GNP(keras.optimizers.SGD(LR, MOMENTUM), G["r"], G["alpha"])
    actual = relative_trajectory(optimizer)
    assert_close(actual, relative_expected("gradient_norm_penalty"), 1e-7 if TENSORFLOW else 1e-5)
    sam = relative_trajectory(ks.SAM(keras.optimizers.SGD(LR, MOMENTUM), G["r"]))
    assert abs(sam - relative_expected("gradient_norm_penalty")).max() > 1e-5


def test_alpha_of_one_is_sam():
    assert_same_steps(ks.GNP(sgd(), rho=0.1, alpha=1.0), ks.SAM(sgd(), rho=0.1))


@PRECISE
def test_the_penalty_on_a_quadratic_by_hand():
    # L = sum h w^2 / 2 has g = h w, and the gradient of ||g|| is h g / ||g||: exact here.
    h, w = np.array([1.0, 3.0]), np.array([2.0, -1.0])
    alpha, rho, rate = 0.5, 0.2, 0.1
    g = h * w
    expected = w - rate * (g + alpha * rho * h * g / np.linalg.norm(g))
    model, batch = quadratic({"h": [1.0, 3.0], "w0": w})
    optimizer = ks.GNP(keras.optimizers.SGD(rate), rho, alpha)
    assert_close(trajectory(model, optimizer, batch, 1)[0], expected, 1e-7)
