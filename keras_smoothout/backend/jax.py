"""JAX: gradients and loops."""

import jax
import keras

from keras_smoothout.backend.convolutions import ordered

UNROLLED = 8
KEEPS_ASSIGNED = False  # Keras' step forgets trainable weights that a layer assigns when called.


def read(variable):
    """Return the value of `variable` now; a later assignment does not change it."""
    return variable.value


def initial(variable):
    """Return a copy of the value of `variable`, for another variable to start with."""
    return jax.numpy.copy(variable.value)


def value_and_grad(function):
    """Differentiate `function(weights) -> (loss, aux)` with respect to the list `weights`.

    Return a function of the weights that gives `(loss, aux), grads, connected`. JAX cannot tell an
    unused weight from a zero gradient, so `connected` is all `True`.
    """
    differentiate = jax.value_and_grad(function, has_aux=True)

    def call(weights):
        value, grads = differentiate(weights)
        return value, grads, [True] * len(grads)

    return call


def dense(gradient):
    """Return `gradient`: on JAX it is one tensor already."""
    return gradient


def square_sum(tensor):
    """The sum of the squares of all elements."""
    return jax.numpy.sum(tensor * tensor)


def check_least(number, least, message):
    """Do nothing: all sizes are known when a step is compiled."""


def compiled(function):
    """Compile `function` of nested tensors, once for each set of shapes."""
    return jax.jit(function)


def hessian_product(function, weights, vector):
    """Hessian of the scalar `function(weights)` times `vector`: a list of tensors.

    Forward over reverse; reverse over reverse where an operation has no forward rule.
    """
    gradient = jax.grad(function)
    try:
        return jax.jvp(gradient, (weights,), (vector,))[1]
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        return jax.vjp(gradient, weights)[1](vector)[0]


def linearize(function, weights):
    """Return `function(weights)`, `pushforward` and `pullback`: products with its Jacobian.

    `pushforward` maps a list like `weights` to outputs; `pullback` maps outputs to a list like
    `weights`. The former is the transpose of the latter, because some operations have no rule for
    the forward mode.
    """
    outputs, transposed = jax.vjp(function, weights)

    def pullback(cotangents):
        return transposed(cotangents)[0]

    def pushforward(vector):
        zeros = jax.tree.map(jax.numpy.zeros_like, outputs)
        return jax.vjp(pullback, zeros)[1](vector)[0]

    return outputs, pushforward, pullback


def fused(function):
    """Return `function` unchanged: XLA fuses the whole step."""
    return function


def spread(chunks):
    """Cut each of the chunks along the first axis over all devices of the distribution.

    Cut as the batch is, a chunk would lie on one device, and every device would compute them all.
    """
    distribution = keras.distribution.distribution()
    if distribution is None or chunks.shape[1] % distribution.device_mesh.devices.size:
        return chunks
    axes = jax.sharding.PartitionSpec(None, distribution.batch_dim_name)
    mesh = distribution.device_mesh.backend_mesh
    return jax.lax.with_sharding_constraint(chunks, jax.sharding.NamedSharding(mesh, axes))


def platform():
    """The kind of device that a step is compiled for: that of the distribution, if there is one."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return jax.default_backend()
    return distribution.device_mesh.backend_mesh.devices.flat[0].platform


def scan(body, carry, xs):
    """Return the last `carry = body(carry, x)`, for every `x` along the first axis of `xs`.

    Short loops are unrolled on CPU: steps of F1 in four ghost batches then take 7 % less time.
    """
    length = len(jax.tree.leaves(xs)[0])
    if length > UNROLLED or platform() != "cpu":
        return jax.lax.scan(inside(lambda carry, x: (body(carry, x), None)), carry, xs)[0]
    for i in range(length):
        carry = body(carry, jax.tree.map(lambda x, i=i: x[i], xs))
    return carry


def cond(condition, values, others):
    """Return `values()` where the scalar `condition` holds, else `others()`; compute only that."""
    return jax.lax.cond(condition, inside(values), inside(others))


def inside(function):
    """`function` as it is to be compiled inside a loop or a condition."""
    return ordered(function) if platform() == "cpu" else function


def assign_if(condition, variables, values):
    """Assign `values()` to `variables` if `condition` holds, else compute nothing."""
    if condition is True:
        new = values()
    else:
        new = jax.lax.cond(condition, values, lambda: [read(v) for v in variables])
    for variable, value in zip(variables, new, strict=True):
        variable.assign(value)


def first_axis(variable):
    """The mesh, and the name of its axis, that holds the first axis of `variable`, or `None`."""
    distribution = keras.distribution.distribution()
    layout = distribution and distribution.get_variable_layout(variable)
    axis = layout.axes[0] if layout and layout.axes else None
    return (layout.device_mesh.backend_mesh, axis) if axis else None


def over_devices(function, tensors, mesh, axis):
    """`function(tensors)` by each device of `mesh` for what it holds along their first axes."""
    spec = jax.sharding.PartitionSpec(axis)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return mapped(tensors)


def replica():
    """Return 0, the index of the only replica: one program sees the whole batch."""
    return 0


def all_reduce_sum(tensors):
    """Return `tensors`: gradients of the whole batch are sums over all devices already."""
    return tensors


def unscale_loss(loss):
    """Return `loss`: it is the mean over the whole batch already."""
    return loss


def snapshot(variables):
    """Keep the values of `variables`, and return the function that puts them back, to the bit.

    They are copies, because `evaluate` and `fit` give away the memory of a variable's value.
    """
    kept = [jax.numpy.copy(variable.value) for variable in variables]

    def restore():
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)

    return restore
