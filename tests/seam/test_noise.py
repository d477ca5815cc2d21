"""The noise: a random number generator tested as one, and its scales.

Everything is seeded, so a test that passes once passes for ever. Bounds are in standard errors (SE)
of the statistic, which each test derives; a good generator stays below `SE_BOUND` for all of the
some thousand statistics here (the normal law leaves 6e-7 outside of 5).
"""

import functools
import json
import math
import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_smoothout import backend, noise

HERE = pathlib.Path(__file__).parents[1] / "support"
TENSORFLOW = keras.backend.backend() == "tensorflow"
GOLDEN = json.loads((HERE / "golden" / "smoothout.json").read_text())
SE_BOUND = 5.0
PARTS = ("seed", "iteration", "replica", "chunk", "copy", "variable")
ALL = ("absolute", "weight", "filter")


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def compiled(function, **kwargs):
    """`function` as a train step has it: in a graph on TensorFlow, in a jit on JAX."""
    if TENSORFLOW:
        import tensorflow as tf

        return tf.function(function, autograph=False)
    import jax

    return jax.jit(function, **kwargs)


perturb = noise.perturb
if not TENSORFLOW:  # There the whole step is compiled.
    perturb = compiled(perturb, static_argnames=("moved", "distribution", "scale"))


@functools.cache
def _streams(length):
    def words(parts):
        key = [ops.reshape(word, (-1, 1)) for word in noise.key(*parts)]
        return noise.bits((1, length), key)

    return words if TENSORFLOW else compiled(words)


def streams(length, *parts):
    """The first `length` words of each key, as (keys, length). Parts are integers or arrays."""
    parts = np.broadcast_arrays(*(np.asarray(p, "uint32") for p in parts))
    return numbers(_streams(length)(parts))


def uniform(words):
    """What the top 24 bits stand for in (-1, 1), in float64."""
    return (words >> 8) * 2.0**-23 - (1 - 2.0**-24)


def of_part(part, values):
    """Parts of keys that differ in one of them, which takes `values`."""
    return [values if p == part else 7 for p in PARTS]


def integers(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, shape, "uint32")


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def perturbed(weights, radius=2.0**-4, parts=(0, 1, 0), moved=None, **kwargs):
    weights = [ops.convert_to_tensor(w) for w in weights]
    moved = tuple(range(len(weights))) if moved is None else moved
    return perturb(weights, radius, *parts, moved=moved, **kwargs)


def draw(shape, parts, distribution):
    """The noise on a weight of zeros: `parts` and the weight's index, 0, make the key."""
    return numbers(perturbed([ops.zeros(shape)], 1.0, parts, distribution=distribution)[0])


def assert_mean(samples, mean, variance, message=""):
    """Assert that the mean of independent `samples` is within `SE_BOUND` standard errors."""
    z = (np.mean(samples) - mean) / math.sqrt(variance / np.size(samples))
    assert abs(z) < SE_BOUND, f"{message}: {z:.1f} SE from {mean}"


def assert_uniform_counts(counts, message=""):
    """Chi-square test: (chi2 - m) / sqrt(2 m) is about standard normal for m degrees of freedom."""
    expected = counts.sum() / counts.size
    chi2 = ((counts - expected) ** 2).sum() / expected
    freedom = counts.size - 1
    z = (chi2 - freedom) / math.sqrt(2 * freedom)
    assert abs(z) < SE_BOUND, f"{message}: chi-square {chi2:.0f} of {freedom}, {z:.1f} SE"


# The hash


def formula(parts, index):
    """The documented formula in Python's integers."""

    def mix(x, inner=0):
        x = (x ^ x >> 17) * 0xED5AD4BB % 2**32 ^ inner
        x = (x ^ x >> 11) * 0xAC4C1B51 % 2**32
        x = (x ^ x >> 15) * 0x31848BAB % 2**32
        return x ^ x >> 14

    high, low = 0x243F6A88, 0x85A308D3
    for part in parts:
        high = mix(high ^ part % 2**32)
        low = mix((low + high) % 2**32)
    return mix(index ^ high, low)


@pytest.mark.parametrize("parts", [(0,), (0, 0), (1, 2, 3), (-1, 2**31), (2**32 + 5, 0, 0, 1)])
def test_bits_are_those_of_the_formula_on_every_backend(parts):
    # A trained run repeats after an upgrade, and on the other backend, only if they stay these.
    expected = np.array([formula(parts, i) for i in range(12)], "uint32")
    np.testing.assert_array_equal(numbers(noise.bits((3, 4), noise.key(*parts))).ravel(), expected)


def test_bits_do_not_depend_on_the_width_of_integers(x64):
    parts = (3, ops.convert_to_tensor(9, "int64"), ops.convert_to_tensor(2, "int32"))
    words = noise.bits((5,), noise.key(*parts))
    assert keras.backend.standardize_dtype(words.dtype) == "uint32"
    assert numbers(words).tolist() == [formula((3, 9, 2), i) for i in range(5)]


def test_the_same_key_gives_the_same_draw_and_any_other_another_one():
    # 64-bit keys of n = 2^16 tuples collide with probability n^2 / 2^65 = 1e-10. Each of the two
    # words alone has about n^2 / 2^33 = 0.5 coincidences: a word that ignored a part would have
    # thousands of them.
    grid = np.meshgrid(*4 * [np.arange(16)], indexing="ij")
    high, low = (numbers(word).astype("uint64") for word in noise.key(*(g.ravel() for g in grid)))
    assert len(np.unique(high << np.uint64(32) | low)) == 16**4
    for word in (high, low):
        assert len(np.unique(word)) > 16**4 - 6
    again = noise.key(*(g.ravel() for g in grid))
    np.testing.assert_array_equal(numbers(again[0]), high)


def test_the_order_and_the_number_of_key_parts_matter():
    keys = [(), (0,), (0, 0), (1,), (0, 1), (1, 0), (1, 0, 0), (0, 1, 0), (1, 2), (2, 1), (3,)]
    words = [tuple(int(word) for word in noise.key(*parts)) for parts in keys]
    for position in (0, 1):  # In either word.
        assert len({word[position] for word in words}) == len(keys)


# Flipping one bit of an input flips each bit of the output with probability 1/2: of M cases, the
# fraction has a standard error of 0.5 / sqrt(M), and the z^2 of all pairs of bits have mean 1.


def assert_half_change(change):
    """`change`: (cases, input bits), before ^ after."""
    bits = change[:, :, None] >> np.arange(32, dtype="uint32") & 1  # (cases, in, out)
    z = (bits.mean(0) - 0.5) * 2 * math.sqrt(len(change))
    assert np.abs(z).max() < SE_BOUND
    assert_mean(z**2, 1, 2, "squares")


@pytest.mark.parametrize("flipped", PARTS)
@pytest.mark.parametrize("width", [8, 32])  # Real parts are small numbers.
def test_every_bit_of_the_key_reaches_every_bit_of_the_noise(flipped, width):
    parts = dict(zip(PARTS, integers(len(PARTS), 4096) >> (32 - width), strict=True))
    flips = {p: np.repeat(v[:, None], 33, 1) for p, v in parts.items()}
    flips[flipped][:, 1:] ^= np.uint32(1) << np.arange(32, dtype="uint32")
    words = streams(1, *flips.values()).reshape(-1, 33)
    assert_half_change(words[:, :1] ^ words[:, 1:])


def test_every_bit_of_the_index_reaches_every_bit_of_the_noise():
    words = streams(1024, 0, np.arange(128), 0, 0, 0, 0)
    index = np.arange(1024)
    # Each pair (i, i with bit b set) once.
    changes = [
        (words[:, index & 1 << b == 0] ^ words[:, index & 1 << b != 0]).ravel() for b in range(10)
    ]
    assert_half_change(np.stack(changes, 1))


def test_each_bit_is_set_in_half_of_all_words():
    words = streams(1024, np.arange(256), 5, 0, 0, 0, 3)
    ones = (words[..., None] >> np.arange(32, dtype="uint32") & 1).mean((0, 1))
    assert np.abs(ones - 0.5).max() < SE_BOUND * 0.5 / math.sqrt(words.size)


@pytest.mark.parametrize("byte", range(4))
def test_each_byte_of_consecutive_elements_is_uniform(byte):
    for seed in (0, 1, 1000):
        words = streams(2**18, seed, 0, 0, 0, 0, 0).ravel() >> (8 * byte) & 255
        assert_uniform_counts(np.bincount(words, minlength=256), f"seed {seed}")


# One stream


def test_elements_of_one_weight_are_uncorrelated_at_any_distance():
    # For independent u with variance 1/3 the mean of u_i u_(i+lag) has variance 1/9n. Lags are
    # neighbours, and rows and columns of the usual shapes.
    for variable in range(4):
        u = uniform(streams(2**18, 0, 11, 0, 0, 0, variable)[0])
        for lag in [*range(1, 65), 100, 128, 256, 288, 512, 576, 1024, 1152, 4096, 65536, 65537]:
            assert_mean(u[lag:] * u[:-lag], 0, 1 / 9, f"variable {variable}, lag {lag}")


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 16, 64, 100, 512, 4096])
def test_pairs_of_elements_fill_the_square(lag):
    # Serial test: pairs (u_i, u_(i+lag)) in 64x64 cells, 64 pairs to a cell.
    counts = 0
    for seed in range(4):
        top = streams(2**18, seed, 9, 0, 0, 0, 1)[0] >> 26
        pairs = np.bincount(top[:-lag] << 6 | top[lag:], minlength=64**2)
        assert_uniform_counts(pairs, f"seed {seed}")
        counts = counts + pairs
    assert_uniform_counts(counts, "all seeds")


def test_rows_and_columns_are_alike():
    # Sums over a row (or column) of 512: z^2 of 512 such sums has mean 1, SE sqrt(2 / 512).
    u = uniform(streams(2**18, 0, 3, 0, 0, 0, 2).reshape(512, 512))
    for axis in (0, 1):
        z = u.sum(axis) / math.sqrt(512 / 3)
        assert np.abs(z).max() < SE_BOUND
        assert abs((z**2).mean() - 1) < SE_BOUND * math.sqrt(2 / 512)


# Many streams


@pytest.mark.parametrize("part", PARTS)
def test_streams_of_neighbouring_keys_are_independent(part):
    # 1024 keys that count up in one part; stream k against stream k + lag, shifted. Per pair of
    # streams, z = mean(u v) / SE is standard normal: its mean, its square's mean, its largest.
    words = streams(1024, *of_part(part, np.arange(1024)))
    u, top = uniform(words), words >> 28
    for lag, shift in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (16, 0), (16, 7)]:
        products = u[lag:, shift:] * u[:-lag, : 1024 - shift]
        z = products.mean(1) * 3 * math.sqrt(products.shape[1])
        assert_mean(z, 0, 1, f"lag {lag}, shift {shift}")
        assert_mean(z**2, 1, 2, f"lag {lag}, shift {shift}, squares")
        assert np.abs(z).max() < SE_BOUND
        cells = top[lag:, shift:] << 4 | top[:-lag, : 1024 - shift]
        assert_uniform_counts(np.bincount(cells.ravel(), minlength=256))


@pytest.mark.parametrize("part", PARTS)
def test_one_element_over_neighbouring_keys_is_a_random_sequence(part):
    # What one weight receives from step to step (or replica to replica ...).
    all_words = streams(34, *of_part(part, np.arange(2**14)))
    for index in (0, 1, 33):
        words = all_words[:, index]
        u = uniform(words)
        assert_mean(u, 0, 1 / 3)
        assert_mean(u**2, 1 / 3, 4 / 45)
        assert_uniform_counts(np.bincount(words >> 24, minlength=256))
        for lag in (1, 2, 3, 4, 8, 16):
            assert_mean(u[lag:] * u[:-lag], 0, 1 / 9, f"index {index}, lag {lag}")


@pytest.mark.parametrize("part", PARTS)
def test_no_stream_is_another_one_shifted(part):
    # A word of one stream turns up in another with probability 2^-32, wherever: n^2 / 2 pairs of
    # words of n = 2^20 have 128 coincidences with an SE of sqrt(128). Streams that were windows of
    # one sequence, as those of a counter that keys only offset, would have as many as words.
    words = np.sort(streams(1024, *of_part(part, np.arange(1024))).ravel())
    expected = words.size**2 / 2**33
    coincidences = (words[1:] == words[:-1]).sum()
    assert abs(coincidences - expected) < SE_BOUND * math.sqrt(expected)


def test_spacings_of_birthdays():
    # Marsaglia's test: of the spacings between n sorted words of 32 bits, Poisson(n^3 / 2^34) occur
    # twice; n = 4096 gives 4. Lattices and counters have too many, or none.
    words = np.sort(streams(4096, 0, np.arange(256), 0, 0, 0, 0), axis=1)
    spacings = np.sort(np.diff(words, axis=1), axis=1)
    twice = (spacings[:, 1:] == spacings[:, :-1]).sum(1)
    assert_mean(twice, 4, 4)
    assert_mean((twice - 4) ** 2, 4, 4 + 2 * 16)  # Var (X - m)^2 = m + 2 m^2 for a Poisson X.


# Distributions

# E x^2, x^4, x^6, x^8: 1/3, 1/5, 1/7, 1/9 for the uniform one; 1, 3, 15, 105 for the normal one.
MOMENTS = {"uniform": [1 / 3, 1 / 5, 1 / 7, 1 / 9], "normal": [1, 3, 15, 105]}


@pytest.mark.parametrize("distribution", noise.DISTRIBUTIONS)
def test_moments(distribution):
    second, fourth, sixth, eighth = MOMENTS[distribution]
    for step in (0, 1, 12345):
        parts = (0, ops.convert_to_tensor(step), 0, 0, 0)
        x = draw((2**19,), parts, distribution).astype("float64")
        assert_mean(x, 0, second, "mean")
        assert_mean(x**2, second, fourth - second**2, "variance")
        assert_mean(x**3, 0, sixth, "skewness")
        assert_mean(x**4, fourth, eighth - fourth**2, "kurtosis")


@pytest.mark.parametrize("distribution", noise.DISTRIBUTIONS)
def test_distribution_function(distribution):
    # Kolmogorov-Smirnov: sqrt(n) sup |F_n - F| exceeds 2.2 with probability 2 exp(-2 * 2.2^2) =
    # 1e-4, and is below 0.3 as rarely.
    n = 2**17
    x = np.sort(draw((n,), (4, 2), distribution).astype("float64"))
    if distribution == "uniform":
        F = (x + 1) / 2
    else:
        F = np.array([(1 + math.erf(v / math.sqrt(2))) / 2 for v in x])
    assert_uniform_counts(np.histogram(F, 256, (0, 1))[0])
    steps = np.arange(n + 1) / n
    distance = math.sqrt(n) * max((steps[1:] - F).max(), (F - steps[:-1]).max())
    assert 0.3 < distance < 2.2


# The complement of a word stands for the negative number, so the mean over all words is exactly 0.
# Words 0 and 2^32 - 1 are the ends. Of the lattice -1 + (2 k + 1) 2^-24 in float32, k = 0, 1 and
# 2^23 are: the first two points and the smallest positive one. Their normal quantiles are those of
# 2^-25 and 3 * 2^-25, and 2^-24 sqrt(pi / 2).
@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        ("uniform", [2.0**-24 - 1, 3 * 2.0**-24 - 1, 2.0**-24]),
        ("normal", [-5.419983, -5.220113, 2.0**-24 * math.sqrt(math.pi / 2)]),
    ],
)
def test_values_are_symmetric_and_never_at_the_ends(distribution, expected, monkeypatch):
    @backend.fused
    def values(words):
        monkeypatch.setattr(noise, "bits", lambda shape, key: words)
        return noise.draw(words.shape, None, distribution)

    words = np.concatenate([[0, 256, 2**31], integers(10_000)]).astype("uint32")
    x, negative = (numbers(values(ops.convert_to_tensor(w))) for w in (words, ~words))
    np.testing.assert_array_equal(negative, -x)
    np.testing.assert_allclose(x[:3], expected, rtol=1e-6)
    if distribution == "uniform":
        np.testing.assert_array_equal(x, uniform(words))  # Without rounding, in float32.


# On weights


def perturbation(weight, radius, **kwargs):
    """The noise on one weight, as far as float32 holds it."""
    return numbers(perturbed([weight], radius, **kwargs)[0]) - weight


@pytest.mark.parametrize(
    ("distribution", "scale", "ulp"), [("uniform", "absolute", 0), ("normal", "filter", 1e-6)]
)
def test_the_draw_is_a_function_of_key_and_index_alone(distribution, scale, ulp):
    # Not of the other weights, of what is moved, or of how the program is run. Uniform noise and a
    # radius that is a power of two leave no rounding but that of the sum.
    a, b, c = normals(6, 5), normals(3, 3, 2, 4, seed=1), normals(7, seed=2)

    def run(weights, moved=None):
        return perturbed(weights, moved=moved, distribution=distribution, scale=scale)

    draws = run([a, b, c])
    np.testing.assert_allclose(run([c, b], (1,))[1], draws[1], rtol=ulp, atol=ulp)
    for x, y in zip(draws, compiled(run)([a, b, c]), strict=True):
        np.testing.assert_allclose(x, y, rtol=ulp, atol=ulp)
    for x, y in zip(draws, run([a, b, c]), strict=True):
        np.testing.assert_array_equal(x, y)
    eager = noise.perturb([ops.convert_to_tensor(a)], 2.0**-4, 0, 1, 0, moved=(0,))
    np.testing.assert_array_equal(eager[0], perturbed([a])[0])


def test_each_weight_has_a_draw_of_its_own():
    one, other = (numbers(w) for w in perturbed(2 * [np.zeros((40, 50), "float32")], 1.0))
    assert_mean(one * other, 0, 1 / 9)
    assert not (one == other).any()


@pytest.mark.parametrize("part", range(3))
def test_every_part_of_the_key_makes_another_draw(part):
    w = np.zeros((40, 50), "float32")
    parts = [3, 4, 5]
    one = perturbation(w, 1.0, parts=parts)
    parts[part] += 1
    other = perturbation(w, 1.0, parts=parts)
    assert_mean(one * other, 0, 1 / 9)
    assert not (one == other).any()


def test_key_parts_may_be_numbers_or_tensors_of_any_integer_type():
    expected = [int(word) for word in noise.key(3, 2, 1)]
    for dtype in ("int32", "int64", "uint32") if TENSORFLOW else ("int32", "uint32"):
        parts = [ops.convert_to_tensor(part, dtype) for part in (3, 2, 1)]
        assert [int(word) for word in noise.key(*parts)] == expected
    negative = noise.key(ops.convert_to_tensor(-1, "int32"))
    assert [int(word) for word in negative] == [int(word) for word in noise.key(-1)]


def test_weights_that_are_not_moved_stay_as_they_are():
    weights = [normals(4, 3), np.array([np.inf, -0.0, np.nan], "float32"), normals(5)]
    after = [numbers(w) for w in perturbed(weights, moved=(0, 2))]
    assert after[1].tobytes() == weights[1].tobytes()
    assert (after[0] != weights[0]).all() and (after[2] != weights[2]).all()
    for before, same in zip(weights, perturbed(weights, moved=()), strict=True):
        assert numbers(same).tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("scale", "distribution"),
    [("absolute", "uniform"), ("weight", "normal"), ("filter", "uniform"), ("filter", "normal")],
)
def test_without_a_radius_nothing_moves(scale, distribution):
    weights = [normals(4, 3), normals(2, 2, 3, 4), normals(5), np.zeros((3, 2), "float32")]
    after = perturbed(weights, 0.0, scale=scale, distribution=distribution)
    for x, y in zip(weights, after, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("scale", ["absolute", "filter"])
def test_weights_keep_their_dtype(scale, x64):
    # The noise is that of a float32 weight, rounded once: 2^-11 of float16, 2^-8 of bfloat16.
    precision = {"float16": 2**-10, "bfloat16": 2**-7, "float64": 1e-6}
    w = np.round(normals(16, 8) * 64) / 64  # Numbers of all these types.
    expected = perturbed(len(precision) * [w], 0.25, scale=scale)
    after = perturbed([ops.cast(w, dtype) for dtype in precision], 0.25, scale=scale)
    assert [keras.backend.standardize_dtype(x.dtype) for x in after] == list(precision)
    for x, y, tolerance in zip(after, expected, precision.values(), strict=True):
        np.testing.assert_allclose(ops.cast(x, "float32"), y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("distribution", noise.DISTRIBUTIONS)
def test_absolute_noise_has_the_radius_everywhere(distribution):
    w = normals(300, 400)
    u = perturbation(w, 0.5, distribution=distribution).astype("float64")
    second, fourth, *_ = MOMENTS[distribution]
    assert_mean(u / 0.5, 0, second)
    assert_mean((u / 0.5) ** 2, second, fourth - second**2)
    assert_mean(u * w, 0, 0.25 * second)  # Uncorrelated with the weights, of variance 1.
    assert distribution == "normal" or np.abs(u).max() < 0.5 + 1e-6


@pytest.mark.parametrize("distribution", noise.DISTRIBUTIONS)
def test_weight_noise_is_proportional_to_each_weight(distribution):
    w = normals(300, 400)
    w = np.where(np.abs(w) < 0.01, 0.0, w).astype("float32")
    u = perturbation(w, 0.5, distribution=distribution, scale="weight")
    np.testing.assert_array_equal(u[w == 0], 0)
    # u depends on |w| alone: the noise of -w is the same, not its negative.
    mirrored = perturbation(-w, 0.5, distribution=distribution, scale="weight")
    np.testing.assert_allclose(mirrored, u, rtol=0, atol=1e-6)
    ratio = (u[w != 0] / np.abs(w[w != 0]) / 0.5).astype("float64")
    second, fourth, *_ = MOMENTS[distribution]
    assert_mean(ratio, 0, second)
    assert_mean(ratio**2, second, fourth - second**2)
    assert distribution == "normal" or np.abs(ratio).max() < 1 + 1e-6


@pytest.mark.parametrize("distribution", noise.DISTRIBUTIONS)
def test_filter_noise_has_the_norm_of_the_filter(distribution):
    shapes = [(30, 7), (3, 3, 4, 6), (5, 2, 8), (1, 40, 1)]
    weights = [normals(*s) * np.geomspace(0.1, 10, s[-1], dtype="float32") for s in shapes]
    scaled = perturbed(weights, 0.3, distribution=distribution, scale="filter")
    draws = perturbed([0 * w for w in weights], 1.0, distribution=distribution)
    for w, after, n in zip(weights, scaled, draws, strict=True):
        axes = tuple(range(w.ndim - 1))
        u, n = numbers(after) - w, numbers(n)
        norms = [np.sqrt((x.astype("float64") ** 2).sum(axes)) for x in (u, w, n)]
        np.testing.assert_allclose(norms[0], 0.3 * norms[1], rtol=1e-5)
        # The direction is that of the draw, whatever the weights.
        np.testing.assert_allclose(u / norms[0], n / norms[2], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("distribution", noise.DISTRIBUTIONS)
def test_filter_noise_of_a_vector_is_plus_or_minus_the_radius(distribution):
    # A filter of one element b: u = a |b| n / (|n| + 1e-6).
    b = normals(10_000)
    u = perturbation(b, 0.3, distribution=distribution, scale="filter")
    n = perturbation(0 * b, 1.0, distribution=distribution)
    np.testing.assert_array_equal(np.sign(u), np.sign(n))
    np.testing.assert_allclose(
        np.abs(u), 0.3 * np.abs(b) * np.abs(n) / (np.abs(n) + 1e-6), rtol=1e-4, atol=1e-6
    )
    away = np.abs(n) > 0.1
    np.testing.assert_allclose(np.abs(u)[away], 0.3 * np.abs(b)[away], rtol=1e-5, atol=1e-6)
    assert_mean(np.sign(u), 0, 1)
    scalar = np.float32(-2.0)
    np.testing.assert_allclose(abs(perturbation(scalar, 0.3, scale="filter")), 0.6, rtol=1e-4)


@pytest.mark.parametrize("scale", ["weight", "filter"])
def test_zero_filters_have_no_noise_and_disturb_no_other(scale):
    w = normals(3, 3, 2, 4)
    w[..., 1] = 0
    zeros = [np.zeros(shape, "float32") for shape in [(4,), (4, 3), ()]]
    after, *still = (numbers(x) for x in perturbed([w, *zeros], 0.5, scale=scale))
    np.testing.assert_array_equal(after[..., 1], 0)
    assert np.isfinite(after).all() and (after != w)[..., [0, 2, 3]].all()
    for x, zero in zip(still, zeros, strict=True):
        np.testing.assert_array_equal(x, zero)


# `expected`: `numpy` after the formulas of wenwei202/smoothout (see `reference` in the file), for
# draws that are given.
@pytest.mark.parametrize("scale", ALL)
@pytest.mark.parametrize("weight", ["kernel", "bias"])
def test_scales_of_given_draws(scale, weight):
    example = GOLDEN["inputs"]["noise_example"]
    expected = GOLDEN["expected"]["noise_on_conv_kernel_and_bias"][scale]
    w, n = (np.array(example[name], "float32") for name in (weight, "d" + weight))
    factor = expected["a"] * noise.unit(ops.convert_to_tensor(n), ops.convert_to_tensor(w), scale)
    np.testing.assert_allclose(numbers(n * factor), expected[weight], rtol=2e-6, atol=1e-7)


def test_a_million_weights():
    w = normals(1000, 1000)
    u = perturbation(w, 2.0**-7).astype("float64") * 2**7
    assert_mean(u, 0, 1 / 3)
    assert_mean(u**2, 1 / 3, 4 / 45)


def test_keys_are_those_of_each():
    for found, i in zip(noise.keys((7, 3), (0, 2, 5)), (0, 2, 5), strict=True):
        np.testing.assert_array_equal(found, noise.key(7, 3, i))
    assert noise.keys((7, 3), ()) == []


@pytest.mark.tensorflow
def test_weights_of_one_shape_share_one_compiled_function():
    """Compiling one for each weight would take minutes where there are hundreds."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def moved(*weights):
        return noise.perturb(weights, 0.1, 1, tf.constant(2), moved=tuple(range(8)))

    weights = [tf.zeros(shape) for shape in 4 * [(3, 5), (5,)]]
    called = {
        op.get_attr("f").name
        for op in moved.get_concrete_function(*weights).graph.get_operations()
        if "PartitionedCall" in op.type
    }
    assert len(called) == 3  # One of each shape, and one for all keys.
    for w, v in zip(weights, moved(*weights), strict=True):
        assert v.shape == w.shape and np.all(v != w)
