"""The picture of docs/symmetry.md: the error between two trainings, before and after alignment.

    python -m benchmarks.barriers

Two networks 64-64-64-10 on handwritten digits differ by their seeds. What lies between them depends
on the order and the scale of their hidden units.
"""

import pathlib

import keras
import matplotlib
import numpy as np

from keras_smoothout import landscape

matplotlib.use("Agg")

from matplotlib import pyplot as plt

PICTURE = pathlib.Path(__file__).parent / "figures" / "barriers.png"
TRAINED, EPOCHS, BATCH = 1200, 40, 128
STYLES = {
    "straight": ("straight", "#D55E00", "-"),
    "geodesic": ("geodesic of normal forms", "#D55E00", "--"),
    "aligned": ("straight, aligned", "#0072B2", "-"),
    "aligned_geodesic": ("geodesic, aligned", "#0072B2", "--"),
}


def trained(seeds):
    """A net for each seed, and the examples that they were trained on."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:TRAINED]
    x, y = (x[order] / 16).astype("float32"), y[order]
    nets = []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        hidden = [keras.layers.Dense(64, "relu", kernel_initializer="he_normal") for _ in "12"]
        net = keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10)])
        rate = keras.optimizers.schedules.CosineDecay(0.1, EPOCHS * -(-TRAINED // BATCH))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile(keras.optimizers.SGD(rate, momentum=0.9), loss)
        net.fit(x, y, BATCH, EPOCHS, verbose=0)
        nets.append(net)
    return nets, x, y


def main():
    nets, x, y = trained(seeds=(0, 1))
    objective = landscape.Objective(nets[0], x, y)
    figure, axis = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
    for name, path in landscape.ways(*nets).items():
        profile = landscape.profile(objective, path, points=41)
        found = landscape.summary(profile, "error")
        print(f"{name}: barrier {found['barrier']:.3f}, length {found['length']:.1f}")
        if name in STYLES:
            label, color, line = STYLES[name]
            axis.plot(profile.ts, 100 * profile.errors, line, color=color, label=label)
    axis.set(xlabel="from one net to the other", ylabel="training error (%)")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
