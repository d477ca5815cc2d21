"""Solutions of the binary perceptron with a large margin lie in wide regions.

    python -m examples.high_margin

All these weights of +-1 classify the same patterns without an error. The search, SBPI of
`examples.binary_perceptron`, is only asked for ever larger stabilities: label x'W / sqrt(N) > kappa
for each pattern. The paper finds that solutions of high margin are surrounded by many others, and
nearly all solutions of zero margin by none. Here, local energy falls as kappa grows: fewer patterns
become wrong if a share q of the weights flips, as the stabilities k_i themselves predict by

    error = mean_i Q((1 - 2q) k_i / sqrt(1 - (1 - 2q)^2))

The labels are those of a teacher T, also of +-1, so the error on new patterns is
arccos(W'T / N) / pi. With these few patterns, the margin lowers it by little.

Reference: Baldassi et al., *Unveiling the structure of wide flat minima in neural networks*, 2021
    (its abstract; the formulas are elementary).
"""

import numpy as np

from examples import common
from examples.parts.perceptron import FLIPS, energies, sbpi
from keras_smoothout.landscape.estimate import mean
from keras_smoothout.landscape.style import COLORS, tidy

ALPHA, MARGINS = 0.3, (0.0, 0.2, 0.4, 0.6, 0.8)


def main(quick):
    N, runs, draws, epochs = (61, 2, 2, 100) if quick else (501, 8, 20, 500)
    rng, found = np.random.default_rng(0), []
    for _ in range(runs):
        x, teacher, h = (rng.choice([-1, 1], size) for size in ((int(ALPHA * N), N), N, N))
        x *= np.sign(x @ teacher)[:, None]  # Labels times patterns.
        for kappa in MARGINS[: 3 if quick else 5]:
            W = sbpi(x, h, rng.random((epochs, len(x))), kappa * N**0.5)
            new = np.arccos(W @ teacher / N) / np.pi
            found.append(
                (*energies(W, x, draws), [new] * len(FLIPS), [np.mean(x @ W <= 0)] * len(FLIPS))
            )
    found = np.array(found).reshape(runs, -1, 4, len(FLIPS))  # run, margin, what, flips
    energy, theory, new, wrong = found.transpose(2, 0, 1, 3)
    better, shown = new[:, 0, 0] - new[:, -1, 0], MARGINS[: energy.shape[1]]
    claims = [
        common.Claim("training error, all margins", wrong.max(), 0, -1e-9, 1e-9, 0),
        common.near(
            "energy - theory, 0.05 flipped", mean((energy - theory)[:, :, 1].mean(1)), 0, 0.005
        ),
        common.Claim(
            "energy, margin 0", *mean(energy[:, 0, 1]), 0.03, 0.06, theory[:, 0, 1].mean()
        ),
        common.Claim(
            "energy, margin 0.8", *mean(energy[:, -1, 1]), 0.003, 0.02, theory[:, -1, 1].mean()
        ),
        common.Claim("error on new patterns, less by", *mean(better), -0.01, 0.06),
    ]
    figure, axes = common.panels(2)
    for i, (kappa, color) in enumerate(zip(shown, COLORS, strict=False)):
        errors = energy[:, i].std(0) / runs**0.5
        axes[0].errorbar(
            FLIPS, energy[:, i].mean(0), errors, fmt="o", color=color, label=f"margin {kappa}"
        )
        axes[0].plot(FLIPS, theory[:, i].mean(0), color=color)
    axes[1].errorbar(
        shown, new[:, :, 0].mean(0), new[:, :, 0].std(0) / runs**0.5, fmt="o-", color=COLORS[0]
    )
    tidy(axes[0], xlabel="share of flipped weights", ylabel="local energy (line: theory)")
    tidy(axes[1], xlabel="margin", ylabel="error on new patterns of a teacher")
    axes[0].legend(frameon=False)
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
