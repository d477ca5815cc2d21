"""JAX with optax: layers by hand, and one compiled step that reuses the memory of its arguments."""

import jax
import numpy as np
import optax
from jax import lax
from jax import numpy as jnp

from benchmarks import closed_forms as forms
from benchmarks.closed_forms import BETAS, DECAY, EPSILON, RATE, RHO, SLOW_STEP_SIZE, TRUST
from benchmarks.sides.networks import batch, network, start, sync_period

VERSION = f"optax {optax.__version__}, JAX {jax.__version__}"
SGD = optax.sgd(RATE, forms.MOMENTUM)
UPHILL = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
AVERAGE = optax.ema(forms.AVERAGE_DECAY)
METHODS = {
    "SGD": lambda name: SGD,
    "Adam": lambda name: optax.adam(0.001),
    "SAM": lambda name: optax.contrib.sam(SGD, UPHILL, opaque_mode=True),
    "Lookahead": lambda name: optax.lookahead(SGD, sync_period(name), SLOW_STEP_SIZE),
    "LAMB": lambda name: optax.lamb(RATE, *BETAS, EPSILON, weight_decay=DECAY),
    "LARS": lambda name: optax.lars(RATE, DECAY, trust_coefficient=TRUST),
    "EMA": lambda name: SGD,
}


class Layers:
    """Takes weights and moving statistics in order; makes them when `params` is None."""

    def __init__(self, params=None, moving=None):
        self.made, self.rng = params is None, np.random.default_rng(0)
        self.params, self.moving = [] if self.made else params, [] if self.made else moving
        self.used, self.moved, self.penalty = 0, [], 0.0

    def weight(self, shape, constant=None):
        if self.made:
            random = self.rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
            value = random if constant is None else np.full(shape, constant)
            self.params.append(jnp.asarray(value, jnp.float32))
        self.used += 1
        return self.params[self.used - 1]

    def dense(self, x, units, bias=True, l2=0.0):
        kernel = self.weight((x.shape[-1], units))
        self.penalty += l2 * jnp.sum(kernel**2)
        return x @ kernel + self.weight((units,), 0.0) if bias else x @ kernel

    def conv(self, x, filters, size, strides):
        kernel = self.weight((size, size, x.shape[-1], filters))
        padding, layout = 2 * [2 * (size // 2,)], ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, 2 * (strides,), padding, dimension_numbers=layout
        )

    def norm(self, x, affine=True):
        n, axes = x.shape[-1], tuple(range(x.ndim - 1))
        if self.made:
            self.moving.append((jnp.zeros(n), jnp.ones(n)))
        old, new = self.moving[len(self.moved)], (jnp.mean(x, axes), jnp.var(x, axes))
        k = forms.NORM_MOMENTUM
        self.moved.append(tuple(k * m + (1 - k) * b for m, b in zip(old, new, strict=True)))
        x = (x - new[0]) * lax.rsqrt(new[1] + forms.NORM_EPSILON)
        return x * self.weight((n,), 1.0) + self.weight((n,), 0.0) if affine else x

    def relu(self, x):
        return jax.nn.relu(x)

    def flatten(self, x):
        return x.reshape(len(x), -1)

    def pool(self, x):
        return jnp.mean(x, (1, 2))


def contender(name, method):
    x, y = map(jnp.asarray, batch(name))
    optimizer, made = METHODS[method](name), Layers()
    network(name, made, x)
    params = [jnp.asarray(w) for w in start(name)] or made.params
    average = AVERAGE.init(params) if method == "EMA" else ()
    if method == "Lookahead":
        params = optax.LookaheadParams.init_synced(params)

    def loss(params, moving, x, y):
        layers = Layers(params, moving)
        out = network(name, layers, x)
        if start(name):
            return jnp.mean((out - y) ** 2) + layers.penalty, layers.moved
        losses = optax.softmax_cross_entropy_with_integer_labels(out, y)
        return jnp.mean(losses), layers.moved

    def step(params, moving, state, average, x, y):
        def gradient(params, _):
            return jax.grad(loss, has_aux=True)(params, moving, x, y)[0]

        fast = params.fast if method == "Lookahead" else params
        (value, moved), grads = jax.value_and_grad(loss, has_aux=True)(fast, moving, x, y)
        extra = {"grad_fn": gradient} if method == "SAM" else {}
        updates, state = optimizer.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
        if method == "EMA":
            _, average = AVERAGE.update(params, average)
        return params, moved, state, average, value

    compiled = jax.jit(step, donate_argnums=(0, 1, 2, 3))
    held = params, made.moving, optimizer.init(params), average
    held = jax.tree.map(jnp.copy, held)  # Lookahead's slow weights begin as the fast ones.

    def go():
        nonlocal held
        *held, value = compiled(*held, x, y)
        return float(value)

    def weights():
        params, moving, _, average = held
        if method == "EMA":  # Without its start at zero, as `AVERAGE.update` returns it.
            mass = 1 - forms.AVERAGE_DECAY**average.count
            params = [a / mass for a in average.ema]
        return params.fast if method == "Lookahead" else params, [m for m, _ in moving[:1]]

    return go, weights
