"""AWP: another implementation's trajectory, and which weights move by how much."""

import keras
import numpy as np
import pytest
from support.problems import (
    PRECISE,
    RELATIVES,
    TENSORFLOW,
    assert_close,
    relative_expected,
    relative_trajectory,
)

import keras_smoothout as ks
from keras_smoothout import Evaluation, Step

LR, MOMENTUM = RELATIVES["inputs"]["lr"], RELATIVES["inputs"]["momentum"]
G = RELATIVES["expected"]["layerwise_awp"]


@PRECISE
def test_golden():
    actual = relative_trajectory(ks.AWP(keras.optimizers.SGD(LR, MOMENTUM), G["gamma"]))
    assert_close(actual, relative_expected("layerwise_awp"), 1e-7 if TENSORFLOW else 1e-5)
    everything = ks.AWP(keras.optimizers.SGD(LR, MOMENTUM), G["gamma"], exclude=())
    assert abs(relative_trajectory(everything) - relative_expected("layerwise_awp")).max() > 1e-4


def test_each_kernel_moves_by_its_share_whatever_its_gradient():
    shapes = {"kernel": (3, 2), "bias": (2,), "gamma": (2, 1), "recurrent_kernel": (2, 2)}
    rng = np.random.default_rng(0)
    variables = [
        keras.Variable(rng.normal(size=s), dtype="float32", name=n) for n, s in shapes.items()
    ]
    grads = [10.0**i * rng.normal(size=s) for i, s in enumerate(shapes.values())]
    asked = []

    def evaluate(weights):
        asked.append([np.array(w) for w in weights])
        grads_ = [keras.ops.convert_to_tensor(g, "float32") for g in grads]
        return Evaluation(0.0, grads_, None, [], None, weights)

    optimizer = ks.AWP("sgd", gamma=0.1)
    optimizer.build(variables)
    clean = [keras.ops.convert_to_tensor(v) for v in variables]
    optimizer.gradients(evaluate, clean, Step(0))
    for (name, _), w, moved, g in zip(shapes.items(), *asked, grads, strict=True):
        if "kernel" not in name:
            np.testing.assert_array_equal(w, moved)
            continue
        e = moved - w
        assert np.linalg.norm(e) / np.linalg.norm(w) == pytest.approx(0.1, rel=1e-5)
        np.testing.assert_allclose(e / np.linalg.norm(e), g / np.linalg.norm(g), atol=1e-5)


def test_a_gradient_or_a_weight_of_zero_stays_where_it_is():
    for w, g in ((np.ones((2, 2)), np.zeros((2, 2))), (np.zeros((2, 2)), np.ones((2, 2)))):
        points = []

        def evaluate(weights, g=g, points=points):
            points.append(np.array(weights[0]))
            return Evaluation(0.0, [keras.ops.convert_to_tensor(g, "float32")], None, [])

        optimizer = ks.AWP("sgd", gamma=0.1)
        optimizer.build([keras.Variable(w, name="kernel")])
        optimizer.gradients(evaluate, [keras.ops.convert_to_tensor(w, "float32")], Step(0))
        np.testing.assert_array_equal(points[0], points[1])
