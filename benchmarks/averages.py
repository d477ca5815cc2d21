"""What averages and ensembles along a trajectory do: `python -m benchmarks.averages`.

Handwritten digits, a fifth of the training labels wrong, a constant learning rate. The first panel
shows the test accuracy of the weights in training and of their averages, epoch by epoch; the second
one the test loss of a fast geometric ensemble: each member, and the ensemble of all members so far.
Baselines are not tuned, so the numbers show that averages work here, and no gain over a well-tuned
schedule; the ensemble is better than the mean of its members, and not than the best of them. It
also prints how flat the training loss is at the last weights and at their averages.
"""

import pathlib

import keras
import matplotlib
import numpy as np

import keras_smoothout as ks
from keras_smoothout import datasets, landscape

matplotlib.use("Agg")

from matplotlib import pyplot as plt

PICTURE = pathlib.Path(__file__).parent / "figures" / "averages.png"
BATCH, TRAINED, EPOCHS, START, RATE, MOMENTUM = 32, 1200, 40, 10, 0.1, 0.9
CYCLE, MEMBERS = 4, 5  # In epochs.
FLATNESS = ["lambda_max", "hessian_trace", "filter_noise"]


def digits(seed=0, noise=0.2):
    """Training and test examples; a share of the training labels are drawn anew."""
    whole = [datasets.opened("digits", split) for split in ("train", "test")]
    x, y = (np.concatenate(parts) for parts in zip(*(d.arrays for d in whole), strict=True))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    x, y = x[order].reshape(len(x), -1).astype("float32") / x.max(), y[order].astype("int32")
    wrong = rng.random(TRAINED) < noise
    y[:TRAINED][wrong] = rng.integers(0, 10, wrong.sum())
    return (x[:TRAINED], y[:TRAINED]), (x[TRAINED:], y[TRAINED:])


def network(seed):
    """An MLP with two hidden layers."""
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(64, "relu", kernel_initializer="he_normal") for _ in range(2)]
    return ks.wrap(keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10)]))


def compiled(seed, optimizer):
    model = network(seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


class Tested(keras.callbacks.Callback):
    """Test accuracy and loss of the weights in training, and of the latest six snapshots."""

    def __init__(self, seed, test):
        super().__init__()
        self.plain, self.test, self.latest, self.rows = compiled(seed, "sgd"), test, [], []

    def at(self, weights):
        self.plain.set_weights(weights)
        return self.plain.evaluate(*self.test, 1000, verbose=0, return_dict=True)

    def on_epoch_end(self, epoch, logs=None):
        getattr(self.model, "jax_state_sync", lambda: None)()
        self.latest = [*self.latest[-5:], [np.array(w) for w in self.model.get_weights()]]
        mean = [np.mean(w, 0) for w in zip(*self.latest, strict=True)]
        live, lawa = self.at(self.latest[-1]), self.at(mean)
        average = {name: logs[f"val_{name}"] for name in live}  # Of the optimizer.
        self.rows.append({"live": live, "SWA": average, "LAWA": lawa})


def averages(seed=0):
    """For each epoch, logs of the weights in training, of SWA from epoch 10 on, and of LAWA.

    Those of the last epoch have the measures `FLATNESS` of the training loss, too.
    """
    train, test = digits(seed)
    updates = -(-TRAINED // BATCH)
    inner = keras.optimizers.SGD(RATE, MOMENTUM)
    model = compiled(seed, ks.SWA(inner, start=START * updates, period=updates))
    tested = Tested(seed, test)
    model.fit(*train, BATCH, EPOCHS, validation_data=test, verbose=0, callbacks=[tested])
    with ks.weights_of(model):
        points = {"SWA": model.get_weights()}
    points |= {"live": tested.latest[-1]}
    points |= {"LAWA": [np.mean(w, 0) for w in zip(*tested.latest, strict=True)]}
    for name, weights in points.items():
        tested.plain.set_weights(weights)
        found = landscape.measures(landscape.Objective(tested.plain, *train), FLATNESS)
        tested.rows[-1][name] |= {row.measure: row.value for row in found}
    return tested.rows


def ensembles(seed=0):
    """Logs of each member of a fast geometric ensemble, and of the ensembles of the first ones."""
    train, test = digits(seed)
    updates = -(-TRAINED // BATCH)
    first, period = START * updates, CYCLE * updates
    rate = ks.schedules.Join(RATE, ks.schedules.Triangular(RATE / 100, RATE, period), first)
    model = compiled(seed, keras.optimizers.SGD(rate, MOMENTUM))
    snapshots = ks.callbacks.Snapshots(start=first + period // 2, period=period)
    model.fit(*train, BATCH, START + MEMBERS * CYCLE, verbose=0, callbacks=[snapshots])
    members, logs = snapshots.models(), []
    for count in range(1, len(members) + 1):
        row = {}
        for name, chosen in (("member", members[count - 1 : count]), ("ensemble", members[:count])):
            ensemble = ks.Ensemble(chosen)
            ensemble.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
            row[name] = ensemble.evaluate(*test, 1000, verbose=0, return_dict=True)
        logs.append(row)
    return logs


def main():
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    rows, members = averages(), ensembles()
    for name, color in (("live", "#999999"), ("LAWA", "#0072B2"), ("SWA", "#D55E00")):
        curve = [100 * row[name]["accuracy"] for row in rows]
        left.plot(range(1, EPOCHS + 1), curve, color=color, label=name)
        print(f"{name}: test accuracy {curve[-1]:.1f} %, loss {rows[-1][name]['loss']:.3f}")
        print(*(f"  {measure} {rows[-1][name][measure]:.3g}" for measure in FLATNESS))
    for name, color in (("member", "#999999"), ("ensemble", "#D55E00")):
        losses = [row[name]["loss"] for row in members]
        right.plot(range(1, len(members) + 1), losses, "o-", color=color, label=name)
        accuracies = ", ".join(f"{100 * row[name]['accuracy']:.1f}" for row in members)
        print(f"{name}: test accuracy {accuracies} %, loss {losses[-1]:.3f} at last")
    left.set(xlabel="epoch", ylabel="test accuracy (%)")
    right.set(xlabel="members", ylabel="test loss", xticks=range(1, len(members) + 1))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
