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
from sklearn.datasets import load_digits

from examples import common
from keras_smoothout import landscape
from keras_smoothout.landscape.estimate import mean
from keras_smoothout.landscape.style import COLORS, tidy

SIZES = (16, 32, 64, 128, 256, 512)


def digits():
    x, y = load_digits(return_X_y=True)
    x = x[:, x.std(0) > 0.5]
    return ((x - x.mean(0)) / x.std(0)).astype("float32"), y


def spiked(N, spike, strength):
    """The top eigenvalue of a random matrix plus a spike, and what is predicted."""
    A = np.random.default_rng(0).normal(size=(N, N)) * strength / (2 * N) ** 0.5
    A = A + A.T
    A[0, 0] += spike
    return landscape.eigenpairs(A, k=1).values[0], predicted(spike, strength**2)


def predicted(spike, noise):
    """The top eigenvalue where `noise` is P s^2 / b."""
    return spike + noise / spike if spike > noise**0.5 else 2 * noise**0.5


def top(model, x, y, B, draws, rng):
    """Top eigenvalues of the Hessian of batches."""
    found = []
    for _ in range(draws):
        rows = rng.choice(len(x), B, replace=False)
        batch = landscape.Objective(model, x[rows], y[rows], batch_size=B)
        found.append(landscape.eigenpairs(landscape.hessian(batch), tolerance=0.01).values[0])
    return mean(found)


def noise_along(objective, x, y, examples, k=20):
    """The top eigenvalue, c, and P s^2, from the products of single examples."""
    pairs = landscape.eigenpairs(landscape.hessian(objective), k=k)
    l, U = pairs.values, pairs.vectors
    probe = np.random.default_rng(0).choice([-1.0, 1.0], len(U))
    shift, isotropic = [], []
    for i in examples:
        one = (x[i : i + 1], y[i : i + 1], None)

        def product(v, one=one):
            found = objective.hvp(objective.weights, objective.unflatten(v), batch=one)
            return objective.flatten(found)

        moved = product(U[:, 0]) - l[0] * U[:, 0]
        along = U.T @ moved
        rest = moved @ moved - along @ along
        shift.append((along[1:] ** 2 / (l[0] - l[1:])).sum() + rest / l[0])
        isotropic.append((product(probe) ** 2).sum() / len(U))
    return l[0], mean(shift), mean(isotropic)


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
    (x, y), rng = digits(), np.random.default_rng(0)
    examples, draws, sizes, steps = (8, 2, SIZES[-2:], 5) if quick else (300, 20, SIZES, 400)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, "tanh"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss)
    model.fit(x, y, 64, epochs=1, verbose=0)
    objective = landscape.Objective(model, x, y, batch_size=len(x))
    l, c, isotropic = noise_along(objective, x, y, rng.choice(len(x), examples, replace=False))
    b = np.array([B / (1 - B / len(x)) for B in sizes])
    measured = [top(model, x, y, B, draws, rng) for B in sizes]
    found, hoped = np.array([stable_rate(x, y - y.mean(), B, steps) for B in sizes]).T
    claims = []
    for spike in (2.0, 0.5):
        name = f"random matrix, spike {spike}: top eigenvalue"
        value, theory = spiked(200 if quick else 1000, spike, 1.0)
        claims.append(common.near(name, (value, 0), theory, 0.03))
    for i in [i for i, B in enumerate(sizes) if B >= 128]:
        name, theory = f"net, batch {sizes[i]}: top eigenvalue", l + c.value / b[i]
        claims.append(common.near(name, measured[i], theory, 0.1))
    part = isotropic.value / l / c.value
    claims.append(common.Claim("net: formula's share of the shift", part, 0, 0.01, 0.15, 1))
    ratio = found / hoped
    claims.append(
        common.Claim("stable rate over 2 / eigenvalue, least", ratio.min(), 0, 0.4, 1.1, 1)
    )
    claims.append(common.Claim("stable rate over 2 / eigenvalue, most", ratio.max(), 0, 0.8, 2, 1))
    figure, axes = common.panels(2)
    axes[0].errorbar(sizes, *np.array(measured).T, fmt="o", color=COLORS[1], label="measured")
    axes[0].plot(sizes, l + c.value / b, color=COLORS[0], label="noise along the top eigenvector")
    axes[0].plot(sizes, l + isotropic.value / b / l, "k:", label="independent elements")
    axes[1].plot(sizes, found, "o", color=COLORS[1], label="measured")
    axes[1].plot(sizes, hoped, color=COLORS[0], label="2 / eigenvalue")
    for axis, label in zip(axes, ("top eigenvalue of a batch", "largest stable rate"), strict=True):
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, sizes)
        tidy(axis, xlabel="batch size", ylabel=label)
        axis.legend(frameon=False)
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
