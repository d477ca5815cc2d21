"""What a two-layer net can learn with random features, near its start, and when fully trained.

    python -m examples.features_or_learning

The target is f(x) = x'Bx - tr(B), x standard normal in d dimensions; the net has N units with
quadratic activation. Only its last layer is trained (RF), or it is linear in the first layer around
the start (NT), or all of it is trained (NN). For many examples, and d and N to infinity with
rho = N / d, the smallest risk, relative to the variance of f, with b = tr(B)^2 / (d ||B||^2), is

    RF  1 - b rho / (1 + rho)       NT  (1 - rho)_+^2 (1 - b) + (1 - rho)_+ b
    NN  the energy of all but the N largest eigenvalues of B, in modulus

so NN < NT < RF while N < d. RF and NT are fitted here by least squares with `backend.linearize`.
NN is trained by Adam, which need not find the best net: with 16 units it stays about 0.05 above.

Reference: Ghorbani et al., *Limitations of Lazy Training of Two-layers Neural Networks*, 2019,
    arXiv:1906.08899 (the formulas were derived again, and checked by simulation).
"""

import keras
import numpy as np
from keras import ops

import keras_smoothout as ks
from examples import common
from examples.parts.tangent import linear_risk
from keras_smoothout.landscape.estimate import mean
from keras_smoothout.landscape.style import COLORS, tidy

D, UNITS = 32, (8, 16, 32, 64)


def limits(rho, b):
    """The risks of RF and NT."""
    left = np.maximum(1 - rho, 0)
    return 1 - b * rho / (1 + rho), left**2 * (1 - b) + left * b


def learned(B, units):
    """The risk of NN: the energy of the eigenvalues that `units` units leave."""
    energies = np.sort(np.linalg.eigvalsh(B) ** 2)
    return energies[: max(len(B) - units, 0)].sum() / energies.sum()


def net(units, rng):
    layers = [keras.layers.Dense(units, ops.square, use_bias=False), keras.layers.Dense(1)]
    model = ks.wrap(keras.Sequential([keras.Input((D,)), *layers]))
    first = rng.normal(size=(D, units))
    second = np.ones((units, 1)) / units
    model.set_weights([first / np.linalg.norm(first, axis=0), second, np.zeros(1)])
    return model


def trained_risk(model, B, x, y, epochs):
    rate = keras.optimizers.schedules.CosineDecay(0.02, epochs * len(x) // 500)
    model.compile(keras.optimizers.Adam(rate), "mse", steps_per_execution=20)
    model.fit(x, y[:, None], 500, epochs, verbose=0)
    first, second, _ = model.get_weights()
    return ((B - (first * second[:, 0]) @ first.T) ** 2).sum() / (B**2).sum()  # With the best bias.


def main(quick):
    n, epochs, runs, units = (500, 1, 1, (8,)) if quick else (20_000, 40, 3, UNITS)
    rng = np.random.default_rng(0)
    G = rng.normal(size=(D, D))
    G = (G + G.T) / 2 - np.eye(D) * np.trace(G) / D
    B = G / np.linalg.norm(G) + np.eye(D) / D**0.5  # Half of its energy is in the trace.

    def examples():
        x = rng.normal(size=(n, D)).astype("float32")
        return x, (((x @ B) * x).sum(1) - np.trace(B)).astype("float32")

    train, test, found = examples(), examples(), {"RF": {}, "NT": {}, "NN": {}}
    for N in units:
        nets = [net(N, rng) for _ in range(runs)]
        for name, moved in (("RF", (1, 2)), ("NT", (0, 2))):
            risks = [linear_risk(m, moved, train, test) for m in nets]
            found[name][N] = mean(risks * (1 + quick))
        risks = [trained_risk(m, B, *train, epochs) for m in nets]
        found["NN"][N] = mean(risks * (1 + quick))
    figure, axes = common.panels(1, 5.5, 3.6)
    grid, claims = np.arange(1, 2 * D + 1), []
    rf, nt = limits(grid / D, 0.5)
    curves = {"RF": rf, "NT": nt, "NN": np.array([learned(B, N) for N in grid])}
    above = {"RF": 0.05, "NT": 0.04, "NN": 0.1}
    for (name, curve), color in zip(curves.items(), COLORS, strict=False):
        axes.plot(grid, curve, color=color, label=f"{name}, theory")
        axes.errorbar(units, *np.array(list(found[name].values())).T, fmt="o", color=color)
        for N in units[:3]:
            band = curve[N - 1] - 0.05, curve[N - 1] + above[name]
            claims.append(common.Claim(f"{name}, {N} units", *found[name][N], *band, curve[N - 1]))
    tidy(axes, xlabel=f"units, of {D} dimensions", ylabel="risk over the variance")
    axes.legend(frameon=False)
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
