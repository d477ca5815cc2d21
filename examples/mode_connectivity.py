"""Two minima that a straight line keeps apart are joined by a curve of low loss.

    python -m examples.mode_connectivity

Two trainings of a small network on digits differ by their seeds. Half way between their weights, a
sixth of the training digits are wrong. A quadratic Bezier curve between them,

    w(t) = (1 - t)^2 a + 2 t (1 - t) p + t^2 b,    p = argmin E_t loss(w(t))

has no barrier: the training error never leaves that of the ends. Its barrier should be 0. Much of
the straight line's barrier is a matter of names: hidden units can be permuted and scaled. Once the
units of `b` are matched with those of `a`, the barrier of the line, or of the geodesic between
normal forms, is a fraction of what it was. It does not vanish in a network this narrow.

Reference: Garipov et al., *Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs*, NeurIPS
    2018, arXiv:1802.10026, Section 3; Pittorino et al., *Deep Networks on Toroids: Removing
    Symmetries Reveals the Structure of Flat Regions in the Landscape Geometry*, ICML 2022,
    arXiv:2202.03038.
"""

import keras
import numpy as np

from examples import common
from examples.parts import digits
from keras_smoothout import landscape
from keras_smoothout.landscape.style import STYLES, tidy

BATCH, NAMES = 128, ("straight", "aligned", "aligned_geodesic")


def trained(seed, updates, x, y):
    optimizer = keras.optimizers.SGD(digits.cosine(0.1, updates), momentum=0.9)
    return digits.trained(digits.network(seed=seed), x, y, optimizer, BATCH, updates, seed)


def connected(ends, x, y, epochs):
    """The ways between two models: those of `landscape.ways`, and a trained curve."""
    objective = landscape.Objective(ends[0], x, y, batch_size=BATCH)
    found = landscape.ways(*ends)
    ways = {name: found[name] for name in NAMES}
    line, optimizer = landscape.straight(objective, ends[1]), keras.optimizers.SGD(0.1, 0.9)
    ways["curve"] = landscape.connect(objective, line, epochs, optimizer)
    return ways


def main(quick):
    pairs, updates, epochs, places = (1, 60, 2, 9) if quick else (3, 500, 120, 31)
    x, y = digits.arrays()
    barriers = {name: [] for name in (*NAMES, "curve")}
    profiles = {name: [] for name in barriers}
    for pair in range(pairs):
        ends = [trained(2 * pair + i, updates, x, y) for i in (0, 1)]
        objective = landscape.Objective(ends[0], x, y, batch_size=2000)
        ways = connected(ends, x, y, epochs)
        for name, way in ways.items():
            profile = landscape.profile(objective, way, places)
            barriers[name].append(landscape.summary(profile, "error")["barrier"])
            profiles[name].append(100 * profile.errors)
    bands = {"straight": (0.1, 0.6), "aligned": (0.005, 0.15), "aligned_geodesic": (0.005, 0.15)}
    bands["curve"] = (0, 0.004)
    claims = []
    for name, values in barriers.items():
        error = np.std(values, ddof=1) / pairs**0.5 if pairs > 1 else 0.0
        text = f"barrier in error, {name.replace('_', ' ')}"
        theory = 0.0 if name == "curve" else None
        claims.append(common.Claim(text, float(np.mean(values)), error, *bands[name], theory))

    figure, (left, right) = common.panels(2, 4.4)
    for (name, values), style in zip(profiles.items(), STYLES, strict=False):
        line = style | {"marker": ""}
        label = name.replace("_", " ")
        left.plot(np.linspace(0, 1, places), np.mean(values, 0), **line, label=label)
    tidy(left, xlabel="from one network to the other", ylabel="training error (%)")
    left.legend(frameon=False)
    first, bend, last = ways["curve"].points
    plane = landscape.plane_through(objective, last, bend, 5 if quick else 21)
    levels = np.geomspace(plane.losses.min(), plane.losses.max(), 13)
    drawn = right.contourf(plane.x, plane.y, plane.losses, levels, norm="log", cmap="viridis")
    figure.colorbar(drawn, label="training loss").set_ticks([0.01, 0.1, 1])
    shares = [ways["curve"].coefficients(t) for t in np.linspace(0, 1, 41)]
    right.plot(*(np.array(shares) @ plane.points[[0, 2, 1]]).T, color="white", linewidth=2)
    right.plot(*plane.points[:2].T, "o:", color="white")
    right.set(xlabel="distance along the line", ylabel="distance to the side")
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
