"""Wrong uses raise an error that names the argument, what was received, and what to do instead."""

import math

import keras
import numpy as np
import pytest
from keras import layers
from keras.optimizers import SGD, LossScaleOptimizer

import keras_smoothout as ks
from keras_smoothout import schedules

NUMBER = "must be a finite number >= 0 or a `keras.optimizers.schedules.LearningRateSchedule`"
PLAIN = "must be a finite number >= 0. Received: "
NOT_STRENGTHS = (-0.1, math.nan, math.inf, "0.1", True, None, lambda step: 0.1)
NOT_COUNTS = (0, -1, 1.5, True, "1")


class OwnTrainStep(keras.Model):
    """A model with a step of its own."""

    def train_step(self, *args):
        return {}


class OwnLoss(keras.Model):
    """A model with a loss of its own."""

    def compute_loss(self, *args, **kwargs):
        return 0.0


ARGUMENTS = [
    *((lambda v=v: ks.SmoothOut(SGD(), radius=v), f"`radius` {NUMBER}.") for v in NOT_STRENGTHS),
    *((lambda v=v: ks.AdaSmoothOut(SGD(), v), f"`radius` {NUMBER}.") for v in NOT_STRENGTHS[:2]),
    *((lambda v=v: ks.SAM(SGD(), rho=v), f"`rho` {NUMBER}.") for v in NOT_STRENGTHS),
    *((lambda v=v: ks.ASAM(SGD(), rho=v), f"`rho` {NUMBER}.") for v in NOT_STRENGTHS[:2]),
    *((lambda v=v: ks.ASAM(SGD(), eta=v), f"`eta` {PLAIN}") for v in NOT_STRENGTHS),
    *((lambda v=v: ks.SmoothOut(SGD(), copies=v), "`copies` must be") for v in NOT_COUNTS),
    *((lambda v=v: ks.SAM(SGD(), interval=v), "`interval` must be") for v in NOT_COUNTS),
    *((lambda v=v: ks.Lookahead(SGD(), v), "`sync_period` must be") for v in NOT_COUNTS),
    *(
        (
            lambda v=v: ks.Lookahead(SGD(), slow_step_size=v),
            "`slow_step_size` must be a finite number in [0, 1].",
        )
        for v in (-0.1, 1.1, math.nan, "1", None)
    ),
    (lambda: ks.SmoothOut(SGD(), radius=-1), "Received: radius=-1"),
    (lambda: ks.SmoothOut(SGD(), copies=1.5), "an integer >= 1. Received: copies=1.5"),
    (lambda: ks.SmoothOut(SGD(), copies=3, antithetic=True), "even. Received: copies=3"),
    (lambda: ks.SmoothOut(SGD(), antithetic=True), "even. Received: copies=1"),
    (
        lambda: ks.SmoothOut(SGD(), distribution="gaussian"),
        "one of ('uniform', 'normal'). Received: distribution='gaussian'",
    ),
    (
        lambda: ks.SmoothOut(SGD(), scale="layer"),
        "one of ('absolute', 'weight', 'filter'). Received: scale='layer'",
    ),
    *(
        (lambda m=m: m(SGD(), perturbation="global"), "('replica', 'shared'). Received: pertu")
        for m in (ks.SmoothOut, ks.SAM, ks.ASAM)
    ),
    (lambda: ks.SmoothOut(SGD(), exclude="gamma"), "`exclude` must be"),
    (lambda: ks.LARS(exclude="bias"), "`exclude` must be a list of names. Received"),
    (lambda: ks.LAMB(exclude="bias"), "`exclude` must be a list of names. Received"),
    *(
        (lambda v=v: ks.LARS(trust_coefficient=v), "`trust_coefficient` must")
        for v in NOT_STRENGTHS
    ),
    *((lambda v=v: ks.LARS(decay=v), f"`decay` {PLAIN}") for v in NOT_STRENGTHS),
    *((lambda v=v: ks.LAMB(decay=v), f"`decay` {PLAIN}") for v in NOT_STRENGTHS),
    (lambda: ks.LAMB(beta_1=1.5), "`beta_1` must be a finite number in [0, 1]. Received"),
    (lambda: ks.LAMB(beta_2=-1), "`beta_2` must be a finite number in [0, 1]. Received"),
    (lambda: ks.LAMB(epsilon="1"), f"`epsilon` {PLAIN}"),
    (lambda: ks.PartiallyAdaptive(partial=0.6), "`partial` must be a finite number in [0, 0.5]"),
    (lambda: ks.PartiallyAdaptive(beta_1=2), "`beta_1` must be a finite number in [0, 1]"),
    (lambda: ks.SmoothOut(SGD(), seed=1.5), "`seed` must be an integer"),
    # What is common to all optimizers is the inner one's.
    *(
        (lambda m=m: m(SGD(), clipnorm=1.0), f"{m.__name__}(keras.optimizers.SGD(0.1, clipnorm=1.0")
        for m in (ks.SmoothOut, ks.AdaSmoothOut, ks.SAM, ks.ASAM, ks.Lookahead)
    ),
    (lambda: ks.SAM(SGD(), learning_rate=0.1, use_ema=True), "take ['learning_rate', 'use_ema']"),
    # The inner optimizer.
    (lambda: ks.SAM(LossScaleOptimizer(SGD())), "inside `LossScaleOptimizer`, not around it"),
    (lambda: ks.SAM("sgdd"), "Could not interpret optimizer identifier: sgdd"),
    (lambda: ks.SAM(3), "Could not interpret optimizer identifier: 3"),
    (lambda: ks.SAM(SGD), "Could not interpret optimizer identifier: <class"),
    (lambda: ks.SAM(None), "`inner` must be"),
    # Schedules.
    (lambda: schedules.ConstantRadius(-1), f"`radius` {PLAIN}radius=-1"),
    (lambda: schedules.AnnealedRadius(0.1, decay="1"), f"`decay` {PLAIN}decay='1'"),
    (lambda: schedules.TanhRadius(0.1, 0), "`total_steps` must be an integer >= 1. Received"),
    (lambda: schedules.TanhRadius(0.1, 9, math.nan), f"`steepness` {PLAIN}steep"),
    # Models.
    *(
        (lambda v=v: small(ks.Model).compile("sgd", ghost_batch_size=v), "`ghost_batch_size` must")
        for v in NOT_COUNTS
    ),
    (lambda: ks.wrap(OwnTrainStep()), "class OwnTrainStep(keras_smoothout.TrainStep, keras.Model)"),
    (lambda: ks.wrap(OwnLoss()), "Received: a model with its own compute_loss"),
    (lambda: ks.wrap(layers.Dense(1)), "`wrap` takes a `keras.Model`"),
]


def small(cls, units=2):
    inputs = keras.Input((3,))
    x = layers.Dense(units)(inputs)
    return cls(inputs, layers.Dense(1)(x))


def step(model):
    model.train_on_batch(np.ones((4, 3), "float32"), np.ones((4, 1), "float32"))


def weights(model):
    return [keras.ops.convert_to_numpy(w) for w in [*model.weights, *model.optimizer.variables]]


@pytest.mark.parametrize(("use", "message"), ARGUMENTS, ids=[m for _, m in ARGUMENTS])
def test_wrong_arguments(use, message):
    with pytest.raises(ValueError) as error:
        use()
    assert message in str(error.value)


def test_inner_is_required():
    with pytest.raises(TypeError, match="inner"):
        ks.SAM()


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize(
    "method",
    [
        ks.SmoothOut,
        ks.AdaSmoothOut,
        ks.SAM,
        ks.ASAM,
        lambda inner: ks.Lookahead(ks.SmoothOut(inner)),
        lambda inner: ks.Lookahead(ks.Lookahead(ks.SAM(inner))),
    ],
)
def test_a_model_that_does_not_ask_for_gradients(method, policy):
    keras.config.set_dtype_policy(policy)
    model = small(keras.Model)
    model.compile(method(SGD(0.1, momentum=0.9)), "mse")
    model.optimizer.build(model.trainable_variables)
    before = weights(model)
    with pytest.raises(RuntimeError) as error:
        step(model)
    for cure in ("keras_smoothout.wrap(model)", "keras_smoothout.Model(inputs, outputs)"):
        assert cure in str(error.value)
    assert "`keras_smoothout.TrainStep` into your own class" in str(error.value)
    for a, b in zip(weights(model), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_layers_frozen_after_compile():
    model = small(ks.Model)
    model.compile(ks.SmoothOut("sgd"), "mse")
    model.optimizer.build(model.trainable_variables)
    model.layers[1].trainable = False
    with pytest.raises(ValueError, match="built with 4, the model has 2. Call `compile` again"):
        step(model)
    model.compile(ks.SmoothOut("sgd"), "mse")
    before = weights(model)
    step(model)
    changed = [np.any(a != b) for a, b in zip(weights(model)[:4], before[:4], strict=True)]
    assert changed == [False, False, True, True]


def test_an_optimizer_is_for_one_model():
    optimizer = ks.SmoothOut("sgd")
    for units in (2, 3):
        model = small(ks.Model, units)
        model.compile(optimizer, "mse")
        if units == 2:
            step(model)
    with pytest.raises(
        (ValueError, KeyError, RuntimeError),  # Older Keras fails to say it in a graph.
        match="Unknown variable|corresponding variable shape|eager execution",
    ):
        step(model)


def test_an_inner_optimizer_is_for_one_model():
    inner = SGD(0.1)
    inner.build(small(ks.Model).trainable_variables)
    model = small(ks.Model)
    model.compile(ks.SmoothOut(inner), "mse")
    with pytest.raises(ValueError, match="Unknown variable"):
        step(model)
