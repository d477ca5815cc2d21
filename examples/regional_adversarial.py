"""Adversarial training on the whole way to the attack, not on its end alone.

    python -m examples.regional_adversarial

Adversarial training fits the end of a projected gradient ascent (PGD) in a box of radius epsilon
around an image. Regional adversarial training (RAT) fits points on the way, x_0, ..., x_k: it draws
a piece j and u uniform in [0, 1), and softens the label by how far the point has come,

    x~ = x_j + u (x_{j+1} - x_j),    label (1 - s) y + s / classes,  s = smooth ||x~ - x|| / epsilon

with the largest change of a pixel as the norm. This is our reading of the abstract, which is all we
had. It claims more robust networks than those of standard training on PGD. Read like this, it does
not hold on digits: RAT errs less on clean images, and more at the radius that both trained for.

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
BANDS = {"clean": (0.03, 0.75, 1), "PGD": (0.03, 0.15, 0.28), "RAT": (0.02, 0.2, 0.36)}
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


def network(seed):
    model = digits.convolutional(Adversarial, seed)
    model.seeds = keras.random.SeedGenerator(seed)
    return model


def errors_of(kind, model, attack, seeds, updates, data, test):
    """Test errors (seeds, radii) of the model under attack, after it was trained in some way."""
    model.kind, found = kind, []
    model.compile(keras.optimizers.SGD(digits.cosine(0.1, updates), momentum=0.9))
    for seed in range(seeds):
        model.set_weights(network(seed).get_weights())
        for variable in model.optimizer.variables:
            variable.assign(0 * ops.convert_to_tensor(variable))
        model.fit(ks.Epochs(*data, BATCH, seed), steps_per_epoch=updates, shuffle=False, verbose=0)
        outputs = [ops.convert_to_numpy(attack(*test, np.float32(radius))) for radius in RADII]
        found.append([np.mean(o.argmax(1) != test[1].argmax(1)) for o in outputs])
    return np.array(found)


def main(quick):
    options, kinds = ((2, 8), list(BANDS)[1:]) if quick else ((3, 300), list(BANDS))
    splits, model = (digits.images(), digits.images("test")), network(0)
    attack = backend.compiled(lambda x, y, radius: model(attacked(model, x, y, radius, 6)[-1]))
    found = {kind: errors_of(kind, model, attack, *options, *splits) for kind in kinds}
    hit = {kind: errors[:, RADII.index(EPSILON)] for kind, errors in found.items()}
    claims = [common.Claim("attacked: PGD less RAT", *mean(hit["PGD"] - hit["RAT"]), -0.12, 0)]
    for kind, errors in found.items():
        most, *band = BANDS[kind]
        claims.append(common.Claim(f"{kind}: test error", *mean(errors[:, 0]), 0, most))
        claims.append(common.Claim(f"{kind}: error under attack", *mean(hit[kind]), *band))
    figure, axis = common.panels(1, 5.5)
    for (kind, errors), style in zip(found.items(), STYLES, strict=False):
        common.points(axis, RADII, 100 * errors, fmt="", capsize=3, label=kind, **style)
    tidy(axis, xlabel="radius of the attack (deviations of a pixel)", ylabel="test error (%)")
    axis.legend(frameon=False, title="trained on")
    return claims, figure


if __name__ == "__main__":
    common.run(main, __doc__)
