"""The tables of all optimizers. `test_contract.py` holds each row to all of its tests.

A row of `METHODS`, optimizers around another, takes the inner optimizer and a strength: the method
as it is meant at `1.0`, the inner optimizer alone at `0.0`. A row of `BASES`, optimizers that go
inside, takes its learning rate. A new method is a new row.
"""

import keras
import numpy as np
from keras import layers

import keras_smoothout as ks


def fading(value):
    """Schedule that a method's strength may follow."""
    return keras.optimizers.schedules.ExponentialDecay(value, decay_steps=4, decay_rate=0.5)


METHODS = {
    "smoothout": lambda inner, s=1.0: ks.SmoothOut(inner, radius=0.05 * s),
    "smoothout_antithetic": lambda inner, s=1.0: ks.SmoothOut(
        inner,
        radius=fading(0.2 * s),
        distribution="normal",
        scale="weight",
        copies=2,
        antithetic=True,
    ),
    "ada_smoothout": lambda inner, s=1.0: ks.AdaSmoothOut(inner, radius=0.3 * s),
    "sam": lambda inner, s=1.0: ks.SAM(inner, rho=0.1 * s),
    "sam_interval": lambda inner, s=1.0: ks.SAM(inner, rho=fading(0.2 * s), interval=2),
    "asam": lambda inner, s=1.0: ks.ASAM(inner, rho=0.5 * s),
    "lookahead": lambda inner, s=1.0: ks.Lookahead(
        inner, sync_period=2, slow_step_size=1 - 0.5 * s
    ),
    "lookahead_smoothout": lambda inner, s=1.0: ks.Lookahead(
        ks.SmoothOut(inner, radius=0.05 * s), sync_period=2, slow_step_size=1 - 0.5 * s
    ),
    "sam_smoothout": lambda inner, s=1.0: ks.SAM(ks.SmoothOut(inner, radius=0.05 * s), rho=0.1 * s),
}


@keras.saving.register_keras_serializable("contract")
class Nudged(ks.NudgedSGD):
    """NudgedSGD with two directions from the start, drawn at random."""

    def build(self, variables):
        super().build(variables)
        shapes = [v.shape for v in self._trainable_variables]
        ends = np.cumsum([np.prod(s, dtype=int) for s in shapes])
        drawn = np.random.default_rng(0).normal(size=(ends[-1], self.directions))
        self.set_directions(
            [
                [a.reshape(s) for a, s in zip(np.split(d, ends[:-1]), shapes, strict=True)]
                for d in np.linalg.qr(drawn).Q.T
            ]
        )


BASES = {
    # Around SGD, but it moves the weights by more than the inner update.
    "nudged_sgd": lambda rate, **options: Nudged(
        keras.optimizers.SGD(rate, momentum=0.9, **options), factor=3.0, directions=2
    ),
    "lars": lambda rate, **options: ks.LARS(rate, trust_coefficient=0.1, decay=0.01, **options),
    "lamb": lambda rate, **options: ks.LAMB(rate, decay=0.01, **options),
    "partially_adaptive": lambda rate, **options: ks.PartiallyAdaptive(
        rate, weight_decay=0.01, **options
    ),
}


def contract_net(seed=0, dropout=0.3):
    """The standard net without its images, which compiles in half the time."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    x = layers.Dense(8, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.01))(inputs)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.ReLU()(x)
    x = layers.Dropout(dropout, seed=1)(x)
    return ks.Model(inputs, layers.Dense(3)(x))
