"""GSAM: another implementation's trajectory, its limit, and what the projection leaves alone."""

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
G = RELATIVES["expected"]["gsam"]


@PRECISE
def test_golden():
    optimizer = ks.GSAM(keras.optimizers.SGD(LR, MOMENTUM), G["rho"], G["alpha"])
    actual = relative_trajectory(optimizer)
    assert_close(actual, relative_expected("gsam"), 1e-7 if TENSORFLOW else 1e-5)
    sam = relative_trajectory(ks.SAM(keras.optimizers.SGD(LR, MOMENTUM), G["rho"]))
    assert abs(sam - relative_expected("gsam")).max() > 1e-3


def test_alpha_of_zero_is_sam():
    assert_same_steps(ks.GSAM(sgd(), rho=0.1, alpha=0.0), ks.SAM(sgd(), rho=0.1))


@PRECISE
def test_the_clean_gradient_is_ascended_across_the_other_one():
    # L = sum h w^2 / 2: s = h (w + rho g / ||g||). The part that is taken off is across s, so the
    # component along s is that of SAM, and the clean loss falls less than with SAM.
    h, w = np.array([1.0, 3.0]), np.array([2.0, -1.0])
    alpha, rho, rate = 0.5, 0.4, 0.1
    g = h * w
    s = h * (w + rho * g / np.linalg.norm(g))
    across = g - (g @ s) / (s @ s) * s
    model, batch = quadratic({"h": [1.0, 3.0], "w0": w})
    optimizer = ks.GSAM(keras.optimizers.SGD(rate), rho, alpha)
    moved = trajectory(model, optimizer, batch, 1)[0]
    assert_close(moved, w - rate * (s - alpha * across), 1e-7)
    assert abs(across @ s) < 1e-12
    assert h @ moved**2 > h @ (w - rate * s) ** 2
