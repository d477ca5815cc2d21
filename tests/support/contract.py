"""The tables of the two batteries of tests, and what both do with a row.

`METHODS` and `BASES` are every optimizer of the package's own tables: a new one is here by itself.
`SEAM` has a row for each way of using the seam, not for each method. A row is a function of the
inner optimizer and a strength: the method as it is meant at `1.0`, the inner one alone at `0.0`.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import layers

import keras_smoothout as ks
from keras_smoothout import methods
from support.nets import LOSS, assert_equal, sgd

STEPS = 3  # Per epoch.
BATCH = 16


def directed(cls):
    """A subclass that has random orthonormal directions from the start, without its callback."""

    def build(self, variables):
        cls.build(self, variables)
        shapes = [v.shape for v in self.trainable_variables]
        if not shapes:  # All layers are frozen.
            return
        ends = np.cumsum([np.prod(s, dtype=int) for s in shapes])
        drawn = np.random.default_rng(0).normal(size=(ends[-1], self.directions))
        self.set_directions(
            [
                [a.reshape(s) for a, s in zip(np.split(d, ends[:-1]), shapes, strict=True)]
                for d in np.linalg.qr(drawn).Q.T
            ]
        )

    subclass = type(f"Directed{cls.__name__}", (cls,), {"build": build})
    return keras.saving.register_keras_serializable("contract")(subclass)


def fading(value):
    """Schedule that a method's strength can follow."""
    return keras.optimizers.schedules.ExponentialDecay(value, decay_steps=4, decay_rate=0.5)


NEEDED = {"ivon": {"ess": 1000.0}}  # What a base optimizer has no default for.
SHORT = {ks.EntropySGD: {"langevin_steps": 2}}  # What would do nothing in a few steps.


def row_of(row):
    """The function of a row of the package's table, which has what its callback would give it."""
    cls = row.cls if row.callback is None else directed(row.cls)
    given = row.example | SHORT.get(row.cls, {})
    return lambda inner, s=1.0: cls(inner, **(given if s else row.neutral))


Directed = directed(ks.NudgedSGD)
METHODS = {name: row_of(row) for name, row in methods.METHODS.items()}
BASES = {name: cls for name, cls in methods.BASES.items()}
COPIED = {name for name, row in methods.METHODS.items() if row.copies}


class Seam(NamedTuple):
    """A way of using the seam: one of the package's `WAYS` or a further one, and an example."""

    way: str
    make: object


SEAM = {
    "smoothout": Seam(
        "one gradient elsewhere", lambda inner, s=1.0: ks.SmoothOut(inner, radius=0.05 * s)
    ),
    "copies": Seam(
        "several gradients in a loop",
        lambda inner, s=1.0: ks.SmoothOut(
            inner,
            radius=fading(0.2 * s),
            distribution="normal",
            scale="weight",
            copies=2,
            antithetic=True,
            statistics="clean" if s else "perturbed",  # A schedule may be 0 and not always so.
        ),
    ),
    "sam": Seam("two gradients", lambda inner, s=1.0: ks.SAM(inner, rho=0.1 * s)),
    "branch": Seam(
        "a gradient in a branch",
        lambda inner, s=1.0: ks.SAM(inner, rho=fading(0.2 * s), interval=2),
    ),
    "friendly": Seam(  # Without an effect of what is handed on, which the battery could not tell.
        "extras for update", lambda inner, s=1.0: ks.FriendlySAM(inner, rho=0.1 * s, sigma=0.0)
    ),
    "lookahead": Seam(
        "state in update",
        lambda inner, s=1.0: ks.Lookahead(inner, sync_period=2, slow_step_size=1 - 0.5 * s),
    ),
    "nudged": Seam("own update", lambda inner, s=1.0: Directed(inner, 1.0 + 2.0 * s, 2)),
    "schedulefree": Seam(
        "own update",
        lambda inner, s=1.0: ks.ScheduleFree(inner, interpolation=0.5, memory=s),
    ),
    "swa_lookahead": Seam(
        "nested",
        lambda inner, s=1.0: ks.SWA(
            ks.Lookahead(inner, sync_period=2, slow_step_size=1 - 0.5 * s), start=2, ema_decay=s
        ),
    ),
    "lookahead_smoothout": Seam(
        "nested",
        lambda inner, s=1.0: ks.Lookahead(
            ks.SmoothOut(inner, radius=0.05 * s), sync_period=2, slow_step_size=1 - 0.5 * s
        ),
    ),
    "sam_smoothout": Seam(
        "nested", lambda inner, s=1.0: ks.SAM(ks.SmoothOut(inner, radius=0.05 * s), rho=0.1 * s)
    ),
    "lamb": Seam(
        "an optimizer of its own",
        lambda inner, s=1.0: ks.LAMB(
            inner.get_config()["learning_rate"],
            decay=0.01,
            gradient_accumulation_steps=inner.gradient_accumulation_steps,
        ),
    ),
}


# One row for each place of the seam and a nest, for what starts processes.
FEW = ("smoothout", "sam", "lookahead_smoothout", "nudged", "lamb")
FAMILIES = ("swa_lookahead", "entropysgd", "replicatedsgd", "dpsgd")  # Averages, chains, copies.


def optimizer_of(name, inner=None, strength=1.0):
    """The optimizer of a row of any table; an optimizer of its own replaces `inner`."""
    inner = sgd() if inner is None else inner
    if name in METHODS:
        return METHODS[name](inner, strength)
    return (
        BASES[name](0.05, **NEEDED.get(name, {}))
        if name in BASES
        else SEAM[name].make(inner, strength)
    )


def contract_net(seed=0, dropout=0.3):
    """The standard net without its images, which compiles in half the time."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    x = layers.Dense(8, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.01))(inputs)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.ReLU()(x)
    x = layers.Dropout(dropout, seed=1)(x)
    return ks.Model(inputs, layers.Dense(3)(x))


def examples(count=STEPS * BATCH):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 6)).astype("float32"), rng.integers(0, 3, count)


def compiled(method, inner=None, strength=1.0, seed=0, dropout=0.3, **kwargs):
    model = contract_net(seed, dropout)
    if method in COPIED:  # One of which is what the inner optimizer alone trains.
        model = ks.Copies(model, 2 if strength else 1, initial="different")
    optimizer = optimizer_of(method, inner, strength)
    model.compile(optimizer, LOSS, metrics=["accuracy"], **kwargs)
    return model


def fit(model, epochs=1, initial_epoch=0, **kwargs):
    x, y = examples()
    return model.fit(
        x,
        y,
        BATCH,
        initial_epoch + epochs,
        initial_epoch=initial_epoch,
        shuffle=False,
        verbose=0,
        **kwargs,
    )


def arrays(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


def alone(model):
    """Variables of the model, or of the first of its copies."""
    return arrays((model.copy(0) if isinstance(model, ks.Copies) else model).variables)


def assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def close(a, b, tolerance):
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=f"array {i}")


def same(a, b):
    """Equal to the bit; on JAX as far as XLA, which fuses every program in its own way, can."""
    if keras.backend.backend() == "jax":
        close(a, b, 1e-6)
    else:
        assert_equal(a, b)
