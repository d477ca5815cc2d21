"""TensorFlow: gradient tape, loops and replicas."""

import functools

import keras
import tensorflow as tf

from keras_smoothout.backend.second_derivatives import second_derivatives

KEEPS_ASSIGNED = True  # Keras' step keeps trainable weights that a layer assigns when it is called.


def read(variable):
    """Return the value of `variable` now; a later assignment does not change it."""
    return tf.convert_to_tensor(variable.value)


@tf.autograph.experimental.do_not_convert
def initial(variable):
    """Return a copy of the value of `variable`, for another variable to start with.

    In a function that is traced it is the value at that time, since XLA cannot read a variable to
    make another; unless `variable` is made there, too.
    """
    with tf.init_scope():
        if tf.executing_eagerly() and getattr(variable.value, "is_initialized", lambda: True)():
            return tf.identity(variable.value)
    return tf.identity(variable.value)


def value_and_grad(function):
    """Differentiate `function(weights) -> (loss, aux)` with respect to the list `weights`.

    Return a function of the weights that gives `(loss, aux), grads, connected`. A weight that the
    loss does not use has a zero gradient and `False` in `connected`.
    """

    def call(weights):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss, aux = function(weights)
        found = tape.gradient(loss, weights)
        grads = [
            tf.zeros_like(w) if g is None else dense(g) for g, w in zip(found, weights, strict=True)
        ]
        return (loss, aux), grads, [g is not None for g in found]

    return call


def dense(gradient):
    """Return a gradient as one tensor; that of an embedding holds only the rows looked up."""
    return tf.convert_to_tensor(gradient)


def square_sum(tensor):
    """The sum of the squares of all elements, in one pass and without a copy of the tensor."""
    return 2 * tf.nn.l2_loss(tensor)


def check_least(number, least, message):
    """Have the step raise `message` if the tensor `number` is less than `least`."""
    tf.debugging.assert_greater_equal(number, least, message)


def compiled(function):
    """Compile `function` of nested tensors, once for each set of shapes."""
    return tf.function(function, autograph=False)


def hessian_product(function, weights, vector):
    """Hessian of the scalar `function(weights)` times `vector`: a list of tensors.

    Reverse over reverse: `tf.autodiff.ForwardAccumulator` differentiates each backward operation
    in reverse itself, so forward over reverse is no faster (ResNet-20 and MobileNetV2: equal within
    5 %), takes two to three times as long to trace, and fails at the loops of recurrent layers.
    """

    def gradient(weights):
        return value_and_grad(lambda weights: (function(weights), None))(weights)[1]

    return linearize(gradient, weights)[2](vector)


def linearize(function, weights):
    """Return `function(weights)`, `pushforward` and `pullback`: products with its Jacobian.

    `pushforward` maps a list like `weights` to outputs; `pullback` maps outputs to a list like
    `weights`. The former is the derivative of the latter, which is linear.
    """
    with (
        second_derivatives(),
        tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape,
    ):
        tape.watch(weights)
        outputs = function(weights)

    @second_derivatives()
    def pullback(cotangents):
        return _gradient(tape, outputs, weights, cotangents)

    @second_derivatives()
    def pushforward(vector):
        zeros = tf.nest.map_structure(tf.zeros_like, outputs)
        with tf.GradientTape(watch_accessed_variables=False) as second:
            second.watch(zeros)
            pulled = pullback(zeros)
        return _gradient(second, pulled, zeros, vector)

    # A copy: Keras' softmax marks its output with the logits, and losses would use those instead.
    return tf.nest.map_structure(tf.identity, outputs), pushforward, pullback


def _gradient(tape, targets, sources, cotangents):
    grads = tape.gradient(
        targets, sources, cotangents, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return tf.nest.map_structure(tf.convert_to_tensor, grads)


def fused(function):
    """Compile `function` with XLA, once for each set of shapes, in graph mode and in eager mode.

    All graphs share what is compiled, for TensorFlow keeps it until the process ends. Only after a
    reset of TensorFlow's context, which makes its devices anew, is it compiled again.
    """
    kept = None, None  # A device, and the function that was made while it was there.

    @functools.wraps(function)
    def call(*args, **kwargs):
        nonlocal kept
        device = tf.config.list_logical_devices()[0]
        if kept[0] is not device:
            kept = device, tf.function(function, autograph=False, jit_compile=True)
        return kept[1](*args, **kwargs)

    return call


def spread(chunks):
    """Return `chunks`: each replica has its own."""
    return chunks


def scan(body, carry, xs):
    """Return the last `carry = body(carry, x)`, for every `x` along the first axis of `xs`."""
    length = tf.shape(keras.tree.flatten(xs)[0])[0]

    def step(i, carry):
        x = keras.tree.map_structure(lambda x: x if x is None else tf.gather(x, i), xs)
        return i + 1, body(carry, x)

    loop = tf.while_loop(lambda i, _: i < length, step, (0, carry), parallel_iterations=1)
    return loop[1]


def cond(condition, values, others):
    """Return `values()` where the scalar `condition` holds, else `others()`; compute only that."""
    return keras.ops.cond(condition, values, others)


def assign_if(condition, variables, values):
    """Assign `values()` to `variables` if `condition` holds, else compute nothing."""

    def assign():
        for variable, value in zip(variables, values(), strict=True):
            variable.assign(value)

    if condition is True:
        assign()
    else:
        keras.ops.cond(condition, assign, lambda: None)


def first_axis(variable):
    """Return `None`: on TensorFlow, Keras cuts no variable."""


def over_devices(function, tensors, mesh, axis):
    """Return `function(tensors)`: there is nothing that is cut."""
    return function(tensors)


def replica():
    """Index of the replica that runs this step, 0 outside a distribution strategy.

    A tensor where one program is for all, as on a TPU.
    """
    context = tf.distribute.get_replica_context()
    index = 0 if context is None else context.replica_id_in_sync_group
    known = tf.get_static_value(index)
    return index if known is None else int(known)


def all_reduce_sum(tensors):
    """Sum of `tensors` over the replicas that run this step."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return tensors  # A reduction would keep the whole graph in memory, by its gradient.
    try:
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)
    except RuntimeError as error:
        raise ValueError(
            "TensorFlow cannot sum over replicas inside the loop over ghost batches: use "
            '`perturbation="replica"`, or compile with `ghost_batch_size=None`.'
        ) from error


def unscale_loss(loss):
    """Undo the division by the number of replicas that Keras' losses apply."""
    return loss * tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, loss.dtype)


def snapshot(variables):
    """Keep the values of `variables`, and return the function that puts them back, to the bit.

    Under a strategy each replica's value is kept: replicas can differ in moving statistics.
    """
    values = [variable.value for variable in variables]
    parts = [part for value in values for part in getattr(value, "values", [value])]
    kept = [tf.identity(part) for part in parts]

    def restore():
        for part, value in zip(parts, kept, strict=True):
            part.assign(value)

    return restore
