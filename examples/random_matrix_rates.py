"""A small batch has a larger top eigenvalue than all data, which limits the learning rate.

    python -m examples.random_matrix_rates

The Hessian of a batch of B of the N examples is that of all data plus noise. If the noise is a
random matrix with independent elements of variance s^2 / b, b = B / (1 - B / N), in P dimensions,
an eigenvalue l of all data becomes, where l > s sqrt(P / b),

    l + P s^2 / (b l)                 and 2 s sqrt(P / b) below

This holds for such matrices. The noise of a real net is not of this kind: it lives where the
curvature is. With s^2 from all elements, the formula predicts a few percent of the shift that a
small net on digits shows. With the noise that the top eigenvector u sees, to second order, it is

    l + c / b,    c = sum over eigenvectors j of E (u_j' H_i u)^2 / (l - l_j),   H_i of one example

The largest stable rate of SGD, 2 over the batch's eigenvalue, grows with B and then stays. Least
squares on the same digits shows it.

Reference: Granziol, Zohren and Roberts, *Learning Rates as a Function of Batch Size: A Random
    Matrix Theory Approach to Neural Network Training*, JMLR 2022 (from notes on it).
"""

import keras
import numpy as np

from examples import common
from examples.parts.batches import noise_along, top
from examples.parts.digits import LOSS, standardized
from keras_smoothout import landscape
from keras_smoothout.landscape.style import COLORS

SIZES = (16, 32, 64, 128, 256, 512)


def spiked(N, spike):
    """The top eigenvalue of a random matrix of s^2 P / b = 1 plus a spike, and its prediction."""
    A = np.random.default_rng(0).normal(size=(N, N)) / (2 * N) ** 0.5
    A = A + A.T
    A[0, 0] += spike
    return landscape.eigenpairs(A, k=1).values[0], spike + 1 / spike if spike > 1 else 2.0


def stable_rate(x, y, B, steps):
    """The largest stable rate of SGD on least squares, over 2 divided by the batch's eigenvalue."""
    rng, rows = np.random.default_rng(1), len(x) // B * B
    tops = [np.linalg.eigvalsh(x[i].T @ x[i] / B)[-1] for i in rng.integers(0, len(x), (20, B))]
    rates = 2 / np.mean(tops) * np.geomspace(0.25, 4, 33)  # Each has an output of its own.
    model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Dense(len(rates))])

    def loss(y, outputs):
        return keras.ops.sum(rates.astype("float32") * (outputs - y) ** 2 / 2, -1)

    model.compile(keras.optimizers.SGD(1.0), loss, steps_per_execution=rows // B)
    model.fit(x[:rows], y[:rows, None].astype("float32"), B, steps * B // rows + 1, verbose=0)
    errors = ((model.predict(x, verbose=0) - y[:, None]) ** 2).mean(0)
    stable = errors < 2 * (y**2).mean()
    return rates[stable.argmin() - 1] if not stable.all() else rates[-1], 2 / np.mean(tops)


def main(quick):
    (x, y), rng = standardized(), np.random.default_rng(0)
    examples, draws, sizes, steps = (8, 2, SIZES[-2:], 5) if quick else (300, 20, SIZES, 400)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, "tanh"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    model.compile(keras.optimizers.SGD(0.05), LOSS)
    model.fit(x, y, 64, epochs=1, verbose=0)
    objective = landscape.Objective(model, x, y, batch_size=len(x))
    l, c, isotropic = noise_along(objective, x, y, rng.choice(len(x), examples, replace=False))
    b = np.array([B / (1 - B / len(x)) for B in sizes])
    measured = [top(model, x, y, B, draws, rng) for B in sizes]
    found, hoped = np.array([stable_rate(x, y - y.mean(), B, steps) for B in sizes]).T
    (figure, axes), claims = common.panels(2), []
    for spike in (2.0, 0.5):
        value, hope = spiked(200 if quick else 1000, spike)
        name = f"random matrix, spike {spike}: top eigenvalue"
        claims.append(common.near(name, (value, 0), hope, 0.03))
    theory = l + c.value / b
    for B, value, hope in list(zip(sizes, measured, theory, strict=True))[-3:]:
        claims.append(common.near(f"net, batch {B}: top eigenvalue", value, hope, 0.1))
    part = isotropic.value / l / c.value
    claims.append(common.Claim("net: formula's share of the shift", part, 0, 0.01, 0.15, 1))
    name, ratio = "stable rate over 2 / eigenvalue, ", found / hoped
    claims.append(common.Claim(name + "least", ratio.min(), 0, 0.4, 1.1, 1))
    claims.append(common.Claim(name + "most", ratio.max(), 0, 0.8, 2, 1))
    axes[0].errorbar(sizes, *np.array(measured).T, fmt="o", color=COLORS[1], label="measured")
    axes[0].plot(sizes, theory, color=COLORS[0], label="noise along the top eigenvector")
    axes[0].plot(sizes, l + isotropic.value / b / l, "k:", label="independent elements")
    axes[1].plot(sizes, found, "o", color=COLORS[1], label="measured")
    axes[1].plot(sizes, hoped, color=COLORS[0], label="2 / eigenvalue")
    for axis, label in zip(axes, ("top eigenvalue of a batch", "largest stable rate"), strict=True):
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, sizes)
        common.labelled(axis, xlabel="batch size", ylabel=label)
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
