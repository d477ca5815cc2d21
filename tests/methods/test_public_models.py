"""Models that are not written here: a ResNet of `keras.applications` and a small transformer."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_smoothout as ks
from tests.support.nets import LOSS, sgd

pytestmark = pytest.mark.release
RNG = np.random.default_rng(0)


def resnet():
    """ResNet-50 as Keras ships it, for small images."""
    model = keras.applications.ResNet50(
        weights=None, input_shape=(32, 32, 3), classes=4, classifier_activation=None
    )
    return model, RNG.normal(size=(8, 32, 32, 3)).astype("float32")


def transformer():
    """Two blocks of a decoder on tokens, of which 0 is padding."""
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, 16, mask_zero=True)(inputs)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()(
            [x, layers.MultiHeadAttention(2, 8, dropout=0.1)(y, y, use_causal_mask=True)]
        )
        y = layers.Dense(32, "gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(16)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    tokens = RNG.integers(1, 50, (8, 12))
    tokens[:, 9:] = 0
    return keras.Model(inputs, layers.Dense(4)(x)), tokens


FAMILIES = {  # One line of the README's table for each, around the same optimizer.
    "noise": lambda model: ks.SmoothOut(sgd(0.01)),
    "ascent": lambda model: ks.SAM(sgd(0.01)),
    "averages": lambda model: ks.SWA(sgd(0.01), start=1),
    "schedule-free": lambda model: ks.ScheduleFree(keras.optimizers.SGD(0.01)),
    "local entropy": lambda model: ks.EntropySGD(sgd(0.01), langevin_steps=2),
    "copies": lambda model: ks.ReplicatedSGD(sgd(0.01)),
    "decentralized": lambda model: ks.DPSGD(sgd(0.01)),
    "one gradient": lambda model: ks.LookSAM(sgd(0.01), interval=2),
    "learned radius": lambda model: ks.IVON(0.01, ess=8.0),
    "layerwise": lambda model: ks.Lookahead(ks.LAMB(0.01)),
    "sphere": lambda model: ks.FixedEffectiveRate(
        sgd(1e-4), ks.scale_invariant(model), others=0.01
    ),
}


@pytest.mark.parametrize("make", [resnet, transformer])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_trains_it(make, family):
    model, x = make()
    y = RNG.integers(0, 4, len(x))
    if family == "sphere" and make is transformer:
        assert ks.scale_invariant(model) == ()  # It has no BatchNormalization.
        return
    optimizer = FAMILIES[family](model)
    copies = family in ("copies", "decentralized")
    model = ks.Copies(model, 2) if copies else ks.wrap(model)
    model.compile(optimizer, LOSS, ghost_batch_size=None if copies else 4)
    before = model.get_weights()
    losses = model.fit(x, y, batch_size=8, epochs=4, verbose=0).history["loss"]
    moved = [np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert np.all(np.isfinite(losses)) and np.mean(moved) > 0.8
    assert np.isfinite(model.evaluate(x, y, verbose=0))
    assert model.predict(x, verbose=0).shape == (8, 4)
