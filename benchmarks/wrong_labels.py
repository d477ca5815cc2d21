"""What methods do with wrong labels: `python -m benchmarks.wrong_labels`.

Handwritten digits, a fifth of the training labels drawn anew, 100 epochs of cosine decay, three
seeds. The first panel shows how many of the wrong labels are learned, the second one the test
accuracy, each against the epochs. Nothing is tuned: whatever fits less of the noise wins here.
Takes five minutes on one core and draws the pictures of docs/entropy_sgd.md and docs/relatives.md.
"""

import keras
import matplotlib
import numpy as np

import keras_smoothout as ks
from benchmarks import averages, report

matplotlib.use("Agg")

from matplotlib import pyplot as plt

EPOCHS, EVERY, BATCH, SEEDS, COPIES, CHAIN = 100, 10, 128, range(3), 3, 5
STEPS = EPOCHS * -(-averages.TRAINED // BATCH)


def cosine(rate):
    return keras.optimizers.schedules.CosineDecay(rate, STEPS)


def sgd():
    return keras.optimizers.SGD(cosine(0.1), momentum=0.9)


def entropy_sgd():
    scoping = 100 ** (CHAIN / STEPS) - 1  # The scope grows from 0.01 to 1.
    inner = keras.optimizers.SGD(1.0)
    return ks.EntropySGD(inner, CHAIN, step_size=cosine(0.3), scope=0.01, scoping=scoping)


def replicated_sgd():
    scoping = 1e4 ** (1 / STEPS) - 1  # The coupling grows from 0.001 until it is 2.
    return ks.ReplicatedSGD(sgd(), 0.001, scoping=scoping, largest_coupling=2.0)


PICTURES = {  # file: ways to train, by name: an optimizer, and whether its model is several copies
    "wrong_labels": {
        "SGD": (sgd, False),
        "Entropy-SGD": (entropy_sgd, False),
        "replicated SGD, centre": (replicated_sgd, True),
    },
    "relatives": {
        "SGD": (sgd, False),
        "SAM": (lambda: ks.SAM(sgd(), rho=0.2), False),
        "LookSAM": (lambda: ks.LookSAM(sgd(), rho=0.2), False),
        "Friendly SAM": (lambda: ks.FriendlySAM(sgd(), rho=0.2), False),
        "GSAM": (lambda: ks.GSAM(sgd(), rho=0.2), False),
        "SmoothOut": (lambda: ks.SmoothOut(sgd(), radius=0.1), False),
    },
}


def course(make, copied, seed):
    """Percentages, a row each few epochs: of wrong labels learned, of test images right."""
    (x, y), test = averages.digits()
    wrong = y != averages.digits(noise=0.0)[0][1]
    model = averages.network(seed)
    model = ks.Copies(model, COPIES) if copied else model
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(make(), loss, metrics=["accuracy"])
    rows = []

    def look(epoch, logs=None):
        if (epoch + 1) % EVERY == 0:
            parts = (x[wrong], y[wrong]), test
            rows.append([100 * model.evaluate(*part, verbose=0)[1] for part in parts])

    looking = keras.callbacks.LambdaCallback(on_epoch_end=look)
    model.fit(x, y, BATCH, EPOCHS, verbose=0, callbacks=[looking])
    return rows


def draw(picture, ways):
    """Train in all ways, print where they end, and draw both panels."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    epochs = np.arange(EVERY, EPOCHS + 1, EVERY)
    for (name, way), color in zip(ways.items(), report.COLORS, strict=False):
        rows = np.array([course(*way, seed) for seed in SEEDS])
        mean, spread = rows.mean(axis=0), rows.std(axis=0, ddof=1)
        print(f"{name}: wrong labels learned {mean[-1, 0]:.1f} ± {spread[-1, 0]:.1f} %, ", end="")
        print(f"test accuracy {mean[-1, 1]:.1f} ± {spread[-1, 1]:.1f} % ({len(SEEDS)})", flush=True)
        for axis, part in zip(axes, (0, 1), strict=True):
            axis.errorbar(epochs, mean[:, part], spread[:, part], color=color, label=name)
    for axis, label in zip(axes, ("wrong labels learned (%)", "test accuracy (%)"), strict=True):
        report.tidy(axis, xlabel="epochs", ylabel=label)
    axes[0].legend(frameon=False)
    report.save(figure, picture)


def main():
    for picture, ways in PICTURES.items():
        draw(picture, ways)


if __name__ == "__main__":
    main()
