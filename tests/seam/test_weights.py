"""Algebra on lists of tensors, against NumPy in float64."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_smoothout import weights as W

SHAPES = [(3, 4), (5,), ()]


def arrays(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=shape), dtype) for shape in SHAPES]


def tensors(arrays):
    return [ops.convert_to_tensor(a) for a in arrays]


def assert_close(tensors, arrays, tolerance=1e-6):
    for tensor, array in zip(tensors, arrays, strict=True):
        np.testing.assert_allclose(tensor, array, rtol=tolerance, atol=tolerance)


def dtypes(tensors):
    return [keras.backend.standardize_dtype(t.dtype) for t in tensors]


A, B = arrays(0), arrays(1)
FACTORS = [0.3, np.float32(0.3), 2]


@pytest.mark.parametrize("factor", FACTORS)
def test_add(factor):
    expected = [a + factor * b for a, b in zip(A, B, strict=True)]
    assert_close(W.add(tensors(A), factor, tensors(B)), expected)
    assert_close(W.add(tensors(A), ops.convert_to_tensor(factor), tensors(B)), expected)


@pytest.mark.parametrize("factor", FACTORS)
def test_scale(factor):
    expected = [factor * a for a in A]
    assert_close(W.scale(factor, tensors(A)), expected)
    assert_close(W.scale(ops.convert_to_tensor(factor), tensors(A)), expected)


def test_multiply():
    assert_close(W.multiply(tensors(A), tensors(B)), [a * b for a, b in zip(A, B, strict=True)])


@pytest.mark.parametrize("t", [0.0, 0.25, 1 / 3, 0.9])
def test_lerp(t):
    expected = [a + t * (b - a) for a, b in zip(A, B, strict=True)]
    assert_close(W.lerp(tensors(A), tensors(B), t), expected)
    assert_close(W.lerp(tensors(A), tensors(B), ops.convert_to_tensor(t, "float32")), expected)


@pytest.mark.parametrize("t", [1, 1.0, ops.ones(())])
def test_lerp_ends_exactly(t):
    # a + (b - a) is not b for one in ten float32 numbers of such different sizes.
    a, b = ([1000 * x for x in A], B)
    assert any((x + (y - x) != y).any() for x, y in zip(a, b, strict=True))
    for x, y in zip(W.lerp(tensors(a), tensors(b), t), b, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("t", [0.0, 0.1, 1 / 3, 1.0])
def test_lerp_leaves_equal_weights_as_they_are(t):
    for x, y in zip(W.lerp(tensors(A), tensors(A), t), A, strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_algebra_keeps_dtypes():
    # A list may mix them, as under mixed precision with one float32 layer.
    a = [ops.cast(x, d) for x, d in zip(A, ["float16", "bfloat16", "float32"], strict=True)]
    for factor in (0.5, ops.convert_to_tensor(0.5)):
        for result in (W.add(a, factor, a), W.scale(factor, a), W.lerp(a, a, factor)):
            assert dtypes(result) == dtypes(a)
    assert dtypes(W.multiply(a, a)) == dtypes(a)


def test_dot_and_norm():
    flat = [np.concatenate([x.ravel() for x in arrays]).astype("float64") for arrays in (A, B)]
    np.testing.assert_allclose(W.dot(tensors(A), tensors(B)), flat[0] @ flat[1], rtol=1e-6)
    np.testing.assert_allclose(W.norm(tensors(A)), np.sqrt(flat[0] @ flat[0]), rtol=1e-6)
    # 3-4-5, over the list as one vector.
    assert W.norm(tensors([np.array([[3.0]], "float32"), np.array(4.0, "float32")])) == 5


def test_dot_and_norm_of_half_precision_are_float32():
    # 300^2 overflows float16, and 256 is where bfloat16 stops counting up by ones.
    a = [ops.full((1000,), 300.0, "float16"), ops.zeros((40,), "float32")]
    assert dtypes([W.dot(a, a), W.norm(a)]) == ["float32", "float32"]
    np.testing.assert_allclose(W.dot(a, a), 9e7, rtol=1e-6)
    np.testing.assert_allclose(W.norm(a), 300 * np.sqrt(1000), rtol=1e-6)
    ones = [ops.ones((3001,), "bfloat16")]
    assert W.dot(ones, ones) == 3001


def test_dot_and_norm_of_float64_are_float64(x64):
    a = tensors([x.astype("float64") for x in A])
    assert dtypes([W.dot(a, a), W.norm(a)]) == ["float64", "float64"]
    expected = sum((x.astype("float64") ** 2).sum() for x in A)
    np.testing.assert_allclose(W.dot(a, a), expected, rtol=1e-14)


@pytest.mark.parametrize("shape", [(6, 4), (5, 3, 4), (3, 3, 2, 4)])
def test_filter_norms(shape):
    # One filter for each index of the last axis, in a shape that broadcasts against the weight.
    w = np.random.default_rng(0).normal(size=shape).astype("float32")
    norms = W.filter_norms(ops.convert_to_tensor(w))
    assert norms.shape == (*[1] * (len(shape) - 1), 4)
    for f in range(4):
        np.testing.assert_allclose(np.ravel(norms)[f], np.linalg.norm(w[..., f].ravel()), rtol=1e-6)


@pytest.mark.parametrize("w", [[3.0, -4.0, 0.0], -2.0])
def test_each_element_of_a_vector_is_a_filter(w):
    np.testing.assert_array_equal(W.filter_norms(ops.convert_to_tensor(w)), np.abs(w))


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: W.add(a, 1.0, b),
        lambda a, b: W.lerp(a, b, 0.5),
        W.multiply,
        W.dot,
    ],
)
def test_lists_of_different_lengths_are_an_error(function):
    for a, b in [(A, B[:-1]), (A[:-1], B)]:
        with pytest.raises(ValueError, match="is (shorter|longer) than"):
            function(tensors(a), tensors(b))
