"""JAX: convolutions inside a loop or a condition are those that XLA is fast at."""

import functools
import re

import numpy as np
import pytest

from keras_smoothout import backend

FAST = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"


def gradient(kernels, images):
    """Gradient of a net with strides, dilation, groups and a convolution inside `jit`."""
    import jax

    def loss(kernels):
        x = images
        variants = [
            {"window_strides": (2, 2)},
            {"rhs_dilation": (2, 2)},
            {"feature_group_count": 4},
        ]
        for kernel, variant in zip(kernels, variants, strict=True):
            options = {"window_strides": (1, 1), "padding": "SAME", **variant}
            order = ("NHWC", "HWIO", "NHWC")
            convolve = functools.partial(
                jax.lax.conv_general_dilated, dimension_numbers=order, **options
            )
            x = jax.nn.tanh(jax.jit(convolve)(x, kernel))
        return jax.numpy.sum(x**2)

    return jax.grad(loss)(kernels)


@pytest.mark.jax
@pytest.mark.parametrize("inside", ["loop", "condition"])
def test_convolutions_have_the_fast_order_of_axes(inside):
    import jax

    rng = np.random.default_rng(0)
    shapes = (3, 3, 2, 4), (3, 3, 4, 4), (3, 3, 1, 8)
    kernels = [rng.normal(size=shape).astype("float32") for shape in shapes]
    images = rng.normal(size=(5, 9, 8, 2)).astype("float32")

    def within(kernels, images, on):
        if inside == "condition":
            return backend.cond(on, lambda: gradient(kernels, images), lambda: kernels)
        zeros = [0 * k for k in kernels]

        def body(sums, images):
            return [s + g / 9 for s, g in zip(sums, gradient(kernels, images), strict=True)]

        # Shorter loops are unrolled.
        return backend.scan(body, zeros, jax.numpy.stack([images] * 9))

    lowered = jax.jit(within).lower(kernels, images, True)
    orders = re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", lowered.as_text())
    assert len(orders) == 8 and set(orders) == {FAST}
    for ours, expected in zip(
        lowered.compile()(kernels, images, True), jax.jit(gradient)(kernels, images), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
