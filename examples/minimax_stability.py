"""Learners of a game: how fast their iterates grow, and how far apart one example drives them.

    python -m examples.minimax_stability

min over x, max over y of the mean of f(x, y; example), by methods around SGD: descent and ascent at
once (GDA); the proximal point method, a step by the gradient of where it ends (20 fixed-point
iterations); and GDmax, where y climbs ten steps first. On f = x'By + a'x - b'y, one pair (a, b) for
each example, a step of rate r along a singular value s of B multiplies the distance to the saddle:

    sqrt(1 + r^2 s^2)  (GDA)          1 / sqrt(1 + r^2 s^2)  (proximal point)

and two runs whose data differ in one example part without limit under GDA. On a small GAN (linear
generator, critic of one hidden layer) GDmax drives them further apart than GDA, as in the paper.
That GDA also generalizes better than GDmax is not seen: the difference is within its error.

Reference: Farnia and Ozdaglar, *Train simultaneously, generalize better: Stability of
    gradient-based minimax learners*, 2021, arXiv:2010.12561 (abstract; formulas derived again).
"""

import keras
import numpy as np
from keras import ops

from examples import common
from examples.parts.games import GDA, GDmax, ProximalPoint
from keras_smoothout.landscape.estimate import mean
from keras_smoothout.landscape.style import COLORS, tidy

RATE, B = 0.2, np.array([[-0.619, -0.38], [1.614, 0.012]])


def bilinear(cls, steps):
    """Growth per step; distance of neighbours after each step, measured and by theory."""
    a, b = np.random.default_rng(0).normal(size=(2, 3, 10, 2))
    a[1, 1:], b[1, 1:], a[2], b[2] = a[0, 1:], b[0, 1:], 0, 0  # The third run only grows.
    left, _, right = np.linalg.svd(B)
    x, y = np.array([[1, 1], [1, 1], left[:, 0]]), np.array([[1, -2], [1, -2], right[0]])

    def loss(_, x, y):
        return ops.sum(ops.matmul(x, B) * y + x * a.mean(1) - y * b.mean(1))

    layer = common.LossOf(loss, x=x, y=y)
    way = np.concatenate(layer.trained(cls(keras.optimizers.SGD(RATE)), steps), 2)
    J = np.block([[np.zeros((2, 2)), B], [-B.T, np.zeros((2, 2))]])
    c = np.concatenate([a[1] - a[0], b[1] - b[0]], 1).mean(0)
    apart, implicit = np.zeros((steps + 1, 4)), np.linalg.inv(np.eye(4) + RATE * J)
    for t, at in enumerate(apart[:-1]):
        there = at - RATE * (J @ at + c), implicit @ (at - RATE * c)
        apart[t + 1] = there[cls is ProximalPoint]
    growth = np.linalg.norm(way[-1, 2] / 2**0.5) ** (1 / steps)
    return growth, *(np.linalg.norm(v, axis=1) for v in (way[:, 1] - way[:, 0], apart))


def gan(cls, steps, runs):
    """Distance of neighbours after each step; how much better the critic knows its examples."""
    rng, sizes = np.random.default_rng(1), {"made": (5, 5), "inner": (5, 16), "outer": (16, 1)}
    real, noise = rng.normal(size=(2, 2, runs, 20, 5)).astype("float32")
    real[1, :, 1:], noise[1] = real[0, :, 1:], noise[0]  # Neighbours in one example.
    starts = {n: 0.5 * rng.normal(size=(runs, *s)).astype("float32") for n, s in sizes.items()}

    def critic(x, inner, outer):
        return ops.mean(ops.matmul(ops.tanh(ops.matmul(x, inner)), outer), (2, 3))

    def loss(_, made, inner, outer):
        value = critic(real, inner, outer) - critic(ops.matmul(noise, made), inner, outer)
        return ops.sum(value) - 0.05 * (ops.sum(inner**2) + ops.sum(outer**2))

    layer = common.LossOf(loss, **{n: np.stack([w, w]) for n, w in starts.items()})
    way = layer.trained(cls(keras.optimizers.SGD(RATE / 2)), steps)
    apart = sum(((w[:, 1] - w[:, 0]) ** 2).sum((2, 3)) for w in way) ** 0.5
    new = rng.normal(size=(2, runs, 2000, 5)).astype("float32")
    known, new = (ops.convert_to_numpy(critic(x, way[1][-1], way[2][-1])) for x in (real, new))
    return apart, (known - new).mean(0)


def main(quick):
    steps, runs = (20, 4) if quick else (100, 150)
    growth = (1 + RATE**2 * np.linalg.svd(B)[1][0] ** 2) ** 0.5
    (figure, axes), claims, gans = common.panels(2), [], {}
    for cls, theory, color in ((GDA, growth, COLORS[1]), (ProximalPoint, 1 / growth, COLORS[0])):
        found, apart, by_theory = bilinear(cls, steps)
        claims.append(common.near(f"{cls.__name__}: growth", (found, 0), theory, 1e-6, True))
        name, tolerance = f"{cls.__name__}: neighbours apart", 1e-5 * by_theory[-1]
        claims.append(common.near(name, (apart[-1], 0), by_theory[-1], tolerance, True))
        axes[0].semilogy(apart, color=color, label=cls.__name__)
        axes[0].semilogy(by_theory, "k:")
    for cls, color in list(zip((ProximalPoint, GDA, GDmax), COLORS, strict=False))[quick:]:
        apart, gap = gans[cls] = gan(cls, steps // 2, runs)
        axes[1].plot(apart.mean(1), color=color, label=cls.__name__)
    ratio, worse = gans[GDmax][0][-1] / gans[GDA][0][-1], gans[GDmax][1] > gans[GDA][1]
    claims.append(common.Claim("GAN: apart, GDmax over GDA", *mean(ratio), 2, 5))
    claims.append(common.Claim("GAN: gap of GDmax larger", *mean(worse), 0.35, 0.65))
    tidy(axes[0], title="bilinear game (dotted: theory)", xlabel="step", ylabel="neighbours apart")
    tidy(axes[1], title="small GAN, mean of the runs", xlabel="step")
    axes[1].legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.45))
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
