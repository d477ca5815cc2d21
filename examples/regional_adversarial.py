"""Adversarial training on the whole way to the attack, not on its end alone.

    python -m examples.regional_adversarial

Standard adversarial training fits the end of a projected gradient ascent (PGD) in the box of radius
epsilon around an image. Regional adversarial training (RAT) fits points on the way, x_0, ..., x_k:
it draws a piece j and u uniform in [0, 1), and softens the label by how far the point has come,

    x~ = x_j + u (x_{j+1} - x_j),    label (1 - s) y + s / classes,  s = smooth ||x~ - x|| / epsilon

with the largest change of a pixel as the norm. This is our reading of the abstract, which is all we
had. It claims networks that are more robust than those of standard adversarial training. No theory
gives a number.

Reference: *Regional Adversarial Training for Better Robust Generalization*, 2021 (its abstract);
    PGD as in Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, 2018.
"""

import keras
import numpy as np
from keras import ops

import keras_smoothout as ks
from examples import common
from examples.parts import digits
from keras_smoothout import backend
from keras_smoothout.landscape.estimate import mean
from keras_smoothout.landscape.style import STYLES, tidy

EPSILON, PIECES, SMOOTH, BATCH = 0.4, 4, 0.3, 128  # A pixel has deviation 1.
RADII = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)  # Of attacks.
BANDS = {"clean": ((0, 1), (0, 1)), "PGD": ((0, 1), (0, 1)), "RAT": ((0, 1), (0, 1))}
LOSS = keras.losses.CategoricalCrossentropy(from_logits=True)


def attacked(model, x, y, radius, steps):
    """The path of a PGD attack: the inputs before, and after each of its steps."""
    path, slope = [x], backend.value_and_grad(lambda at: (LOSS(y, model(at[0])), None))
    for _ in range(steps):
        moved = path[-1] + 1.5 * radius / steps * ops.sign(slope([path[-1]])[1][0])
        path.append(ops.stop_gradient(ops.clip(moved, x - radius, x + radius)))
    return path


class Adversarial(ks.Model):
    """A functional model that is trained on attacked inputs; `kind` is a key of `BANDS`."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if self.kind == "clean":
            return LOSS(y, y_pred)
        path = attacked(self, x, y, EPSILON, PIECES)
        if self.kind == "PGD":
            return LOSS(y, self(path[-1], training=training))
        place = PIECES * keras.random.uniform((ops.shape(x)[0], 1, 1, 1), seed=self.seeds)
        between = sum(ops.relu(1 - ops.abs(place - j)) * at for j, at in enumerate(path))
        soft = SMOOTH * ops.max(ops.abs(between - x), axis=(1, 2, 3))[:, None] / EPSILON
        return LOSS((1 - soft) * y + soft / 10, self(between, training=training))


def measured(kind, seed, updates, data, test):
    """Test error of a network that is trained in some way, for attacks of each of `RADII`."""
    keras.utils.set_random_seed(seed)
    h = inputs = keras.Input((8, 8, 1))
    for filters in (16, 32):
        h = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(h)
    h = keras.layers.Flatten()(keras.layers.MaxPooling2D()(h))
    model = Adversarial(inputs, keras.layers.Dense(10)(h))
    model.kind, model.seeds = kind, keras.random.SeedGenerator(seed)
    model.compile(keras.optimizers.SGD(digits.cosine(0.1, updates), momentum=0.9))
    batches = ks.Epochs(*data, BATCH, seed)
    model.fit(batches, steps_per_epoch=updates, shuffle=False, verbose=0)
    attack = backend.compiled(lambda x, y, radius: model(attacked(model, x, y, radius, 8)[-1]))
    found = [ops.convert_to_numpy(attack(*test, np.float32(radius))) for radius in RADII]
    return [np.mean(outputs.argmax(1) != test[1].argmax(1)) for outputs in found]


def main(quick):
    seeds, updates = (2, 10) if quick else (3, 300)
    splits = digits.arrays(), digits.arrays("test")
    data = [(x.reshape(-1, 8, 8, 1), np.eye(10, dtype="float32")[y]) for x, y in splits]
    found, claims, radii = {}, [], [0, RADII.index(EPSILON)]
    for kind, bands in BANDS.items():
        found[kind] = np.array([measured(kind, seed, updates, *data) for seed in range(seeds)])
        for i, name, band in zip(radii, ("clean", "attacked"), bands, strict=True):
            estimate = mean(found[kind][:, i])
            claims.append(common.Claim(f"trained on {kind}: {name} error", *estimate, *band))
    gain = mean((found["PGD"] - found["RAT"])[:, radii[1]])
    claims.append(common.Claim("attacked: error of PGD less RAT", *gain, -0.1, 0.1))
    figure, axis = common.panels(1, 5.5)
    for (kind, errors), style in zip(found.items(), STYLES, strict=False):
        error = 100 * errors.std(0, ddof=1) / seeds**0.5
        axis.errorbar(RADII, 100 * errors.mean(0), error, capsize=3, **style, label=kind)
    axis.axvline(EPSILON, color="0.6", linewidth=1, linestyle=":")
    tidy(axis, xlabel="radius of the attack (deviations of a pixel)", ylabel="test error (%)")
    axis.legend(frameon=False, title="trained on")
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
