"""Entropy-SGD: descend the local entropy, which counts how wide the valley around the weights is.

The gradient of the local entropy points from the weights to the mean of a Langevin chain that
explores their neighbourhood. The chain takes a fresh batch for each of its steps.
"""

import keras
from keras import ops

from keras_smoothout import backend, noise
from keras_smoothout.checks import (
    STATISTICS,
    check_choice,
    check_count,
    check_integer,
    check_number,
    check_strength,
)
from keras_smoothout.method import Method, strength_at
from keras_smoothout.methods.lookahead import firsts
from keras_smoothout.weights import add, assign, balanced, chosen, copies_of, lerp, scale

VARIANTS = ("paper", "lua", "pittorino")


@keras.saving.register_keras_serializable("keras_smoothout")
class EntropySGD(Method):
    """Move the weights to the mean of a Langevin chain around them.

        each step, on its own batch:
            d = gradient(x) + scope_t * (x - w)
            x = x - step_size * d + sqrt(step_size) * thermal_noise * normal
            mu = averaging * mu + (1 - averaging) * x
        every `langevin_steps` of them, an update:
            w = inner_update(w, w - mu)        times scope_t in "paper" and "pittorino"
            x = mu = w
        scope_t = min(scope * (1 + scoping)**t, largest_scope)

    One step of `fit` is one step of the chain. The model holds `w`, which changes every
    `langevin_steps` steps only; so the inner optimizer's learning rate, its schedule, decay and
    clipping belong to these updates, and `t` and `iterations` count them.
    `keras_smoothout.schedules.Strided` makes a schedule of steps one of updates. Loss and metrics
    are those at `x`. Where weights are set by hand, the chain starts again from there.

    Args:
        inner: Optimizer of the updates: an instance, a config or a name. `SGD(1.0)` moves the
            weights to `mu` with `variant="lua"`.
        langevin_steps: Number of steps of the chain for one update, the paper's L; `0` for the
            inner optimizer alone. Defaults to `20`.
        step_size: Learning rate of the chain, the paper's eta': a float, or a
            `LearningRateSchedule` of the step. Defaults to `0.1`.
        scope: Strength of the spring between `x` and `w`, the paper's gamma: a float, or a
            `LearningRateSchedule` of the update. Defaults to `0.03`.
        scoping: Growth of the scope per update. Defaults to `0.001`.
        largest_scope: Limit of the scope. The chain is stable while `step_size * scope` is below 2.
            Defaults to `10.0`.
        averaging: Weight of the old mean in `mu`, in [0, 1]. Defaults to `0.75`.
        thermal_noise: Noise of the chain, the paper's epsilon. Defaults to `0.0001`.
        variant: `"lua"`, the authors' code: the scope is no factor of the update, `t` counts from
            1, noise is `sqrt(2)` times as large. `"paper"`, Algorithm 1: the update is `scope_t *
            (w - mu)`, `t` counts from 0. `"pittorino"`: as the paper's, but `t` counts from 1 and
            the unit of `scope` is `loss / (||x - w||**2 / 2)` at the end of a first chain without
            spring and update. Defaults to `"lua"`.
        inner_momentum: Nesterov's momentum within a chain, in [0, 1]. Defaults to `0.0`.
        inner_decay: Weight decay within the chain. Defaults to `0.0`.
        statistics: `"clean"` for BatchNormalization's moving statistics of `w`, by a forward pass
            in addition; `"perturbed"` for those at `x`. Defaults to `"clean"`.
        seed: Integer, for the noise. Defaults to `0`.

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `inner` when `langevin_steps=0`.
    Cost: 1 gradient per step, so `langevin_steps` per update, two copies of the weights that are
        kept, a third with momentum, and a second write of the inner optimizer's state.
    Differs from the paper: `averaging` weighs the old mean, as in both codes (the paper's text,
        from memory, the new point). The codes draw one batch per update that they do not use.
        Under gradient accumulation, the inner optimizer averages whole updates.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> model.compile(ks.EntropySGD(keras.optimizers.SGD(1.0), langevin_steps=5), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 30, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.01, int(model.optimizer.iterations)
        (True, 60)

    Reference: Chaudhari et al., *Entropy-SGD: Biasing Gradient Descent Into Wide Valleys*, ICLR
        2017, arXiv:1611.01838, Algorithm 1; Pittorino et al., *Entropic gradient descent
        algorithms and wide flat minima*, ICLR 2021, arXiv:2006.07897.
    """

    per_copy = True
    own_point = restarts = True

    def __init__(
        self,
        inner,
        langevin_steps=20,
        step_size=0.1,
        scope=0.03,
        scoping=0.001,
        largest_scope=10.0,
        averaging=0.75,
        thermal_noise=1e-4,
        variant="lua",
        inner_momentum=0.0,
        inner_decay=0.0,
        statistics="clean",
        seed=0,
        **kwargs,
    ):
        check_count("langevin_steps", langevin_steps, least=0)
        check_strength("step_size", step_size)
        check_strength("scope", scope)
        for name, value in (("scoping", scoping), ("largest_scope", largest_scope)):
            check_number(name, value)
        check_number("averaging", averaging, most=1)
        check_number("thermal_noise", thermal_noise)
        check_choice("variant", variant, VARIANTS)
        check_number("inner_momentum", inner_momentum, most=1)
        check_number("inner_decay", inner_decay)
        check_choice("statistics", statistics, STATISTICS)
        check_integer("seed", seed)
        super().__init__(inner, **kwargs)
        self.langevin_steps = langevin_steps
        self.step_size = step_size
        self.scope = scope
        self.scoping = scoping
        self.largest_scope = largest_scope
        self.averaging = averaging
        self.thermal_noise = thermal_noise
        self.variant = variant
        self.inner_momentum = inner_momentum
        self.inner_decay = inner_decay
        self.statistics = statistics
        self.seed = seed

    def build(self, variables):
        super().build(variables)
        if self.langevin_steps:
            self.x, self.mu = self.slots("x", "weights"), self.slots("mu", "weights")
            self.velocity = self.slots("velocity") if self.inner_momentum else []
            self.left = self.add_variable((len(self.x),), dtype="float32", name="left")
            self.taken, self.moved = (
                self.add_variable((), dtype="int32", name=name) for name in ("taken", "moved")
            )
            start = "zeros" if self.variant == "pittorino" else "ones"
            self.unit = self.add_variable((), start, dtype="float32", name="unit")

    def gradients(self, evaluate, weights, step):
        return evaluate(self.present(weights)[0] if self.langevin_steps else weights)

    def present(self, weights):
        """Point, mean, velocity and length of the chain; a new one where weights were set."""
        again = ops.any(backend.read(self.left) != firsts(weights))
        x, mu, velocity = ([backend.read(v) for v in vs] for vs in (self.x, self.mu, self.velocity))
        x, mu = (chosen(again, weights, values) for values in (x, mu))
        velocity = chosen(again, map(ops.zeros_like, velocity), velocity)
        return x, mu, velocity, ops.where(again, 0, backend.read(self.taken))

    def update(self, apply, grads, variables):
        if not self.langevin_steps:
            apply(grads)
            return
        weights, scope = [backend.read(v) for v in variables], self.strength()
        x, mu, velocity, taken = self.present(weights)
        mean = backend.all_reduce_sum(self.unscaled(grads))
        x, velocity = self.langevin_step(x, velocity, weights, mean, scope)
        mu = lerp(mu, x, 1 - self.averaging)
        ended = ops.equal(taken + 1, self.langevin_steps)
        due = ops.logical_and(ended, backend.read(self.unit) > 0)

        # Always apply and undo: TensorFlow cannot apply inside a condition.
        state = [*variables, *self.inner.variables]
        before = [backend.read(v) for v in state]
        factor = self.share(1.0 if self.variant == "lua" else scope)
        apply(scale(factor, add(weights, -1.0, mu)))
        assign(state, chosen(due, map(backend.read, state), before))

        if self.variant == "pittorino":
            first = ops.logical_and(ended, ops.equal(backend.read(self.unit), 0))
            loss, copies = self.mean_loss(), copies_of(variables) or 1
            away = add(x, -1.0, weights)
            backend.assign_if(first, [self.unit], lambda: [balanced(loss, away, copies)])
        after = [backend.read(v) for v in variables]
        assign(self.x, chosen(ended, after, x))
        assign(self.mu, chosen(ended, after, mu))
        assign(self.velocity, chosen(ended, map(ops.zeros_like, velocity), velocity))
        self.taken.assign(ops.where(ended, 0, taken + 1))
        self.moved.assign(ops.cast(due, "int32"))
        self.left.assign(firsts(after))

    def langevin_step(self, x, velocity, weights, grads, scope):
        """The next point of the chain, and its velocity."""
        if self.inner_momentum:
            velocity = add(grads, self.inner_momentum, velocity)
            grads = add(grads, self.inner_momentum, velocity)
        d = add(add(grads, scope, add(x, -1.0, weights)), self.inner_decay, x)
        step = self.step()
        step_size = ops.cast(strength_at(self.step_size, step), "float32")
        x = add(x, -step_size, d)
        if self.thermal_noise == 0:
            return x, velocity
        temperature = step_size * (2.0 if self.variant == "lua" else 1.0)
        size = self.thermal_noise * ops.sqrt(temperature)
        every = tuple(range(len(x)))
        key = (self.seed, step.iteration)
        return noise.perturb(x, size, *key, moved=every, distribution="normal"), velocity

    def strength(self):
        """The scope of the present chain."""
        t = ops.cast(self.iterations, "float32") + (self.variant != "paper")
        scope = strength_at(self.scope, self.step()._replace(iteration=self.iterations))
        grown = backend.read(self.unit) * scope * (1.0 + self.scoping) ** t
        return ops.minimum(grown, self.largest_scope)

    def _completed(self, further):
        if not self.langevin_steps:
            return super()._completed(further)
        steps = backend.read(self.taken) + 1
        ready = ops.logical_and(ops.equal(steps, self.langevin_steps), backend.read(self.unit) > 0)
        own = ready if further else backend.read(self.moved) > 0
        return ops.logical_and(own, super()._completed(further))
