"""TensorFlow: second derivatives where its own are wrong or missing.

Some operations have a gradient without a gradient. TensorFlow then raises, or takes the second
derivative for zero. `second_derivatives` replaces what has a simple form, and refuses the rest.
"""

import contextlib
import functools
import itertools
import threading

import keras
import tensorflow as tf

_resize = tf.image.resize


def linear(function, x):
    """Return `function(x)` of a linear function, with derivatives of any order.

    The gradient's own gradient is `function` again, so that of the operation is not needed.
    """

    @tf.custom_gradient
    def forward(x):
        zeros = tf.zeros_like(x)

        def backward(upstream):
            @tf.custom_gradient
            def transposed(upstream):
                with tf.name_scope(SCOPE), tf.GradientTape() as tape:
                    tape.watch(zeros)
                    y = function(zeros)
                return tape.gradient(y, zeros, upstream), forward

            return transposed(upstream)

        return function(x), backward

    return forward(x)


def resize(images, size, *args, **kwargs):
    """`tf.image.resize`, whose gradient has no gradient."""
    return linear(
        lambda images: _resize(images, size, *args, **kwargs), tf.convert_to_tensor(images)
    )


def moments(x, axes, shift=None, keepdims=False, name=None):
    """`tf.nn.moments`, with a gradient of the variance that flows through the mean, too.

    TensorFlow's own stops it there: it is zero, but its derivative is not.
    """
    wide = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
    mean = tf.reduce_mean(wide, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(wide - mean), axes, keepdims=keepdims)
    mean = mean if keepdims else tf.squeeze(mean, axes)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def softsign(features, name=None):
    """`tf.nn.softsign`, whose gradient has no gradient."""
    return features / (1 + tf.abs(features))


FORMS = ((tf.nn, moments), (tf.nn, softsign), (tf.image, resize))
SCOPE = "linear_map_of_any_order"  # Marks the gradients that `linear` differentiates itself.

# Operations that TensorFlow differentiates to zero without a word, or fails at when they run.
WITHOUT_GRADIENT = (
    "ResizeBilinearGrad",
    "FakeQuantWithMinMaxArgsGradient",
    "FakeQuantWithMinMaxVarsGradient",
    "FakeQuantWithMinMaxVarsPerChannelGradient",
    "SymbolicGradient",
)


class Replacement:
    """Functions of TensorFlow in other forms, for the threads that are inside.

    The first thread to come in puts a switch in the place of each function; the last one to leave
    puts the functions back. Threads outside see no change.
    """

    def __init__(self, forms):
        self._forms, self._mutex, self._inside = forms, threading.Lock(), threading.local()
        self._count, self._kept = 0, []

    @contextlib.contextmanager
    def __call__(self):
        self._enter()
        try:
            yield self._inside.depth == 1  # Whether this is the outermost one.
        finally:
            self._leave()

    def _enter(self):
        with self._mutex:
            if self._count == 0:
                for module, form in self._forms:
                    original = getattr(module, form.__name__)
                    self._kept.append((module, form.__name__, original))
                    setattr(module, form.__name__, self._switch(original, form))
            self._count += 1
        self._inside.depth = getattr(self._inside, "depth", 0) + 1

    def _leave(self):
        self._inside.depth -= 1
        with self._mutex:
            self._count -= 1
            while self._count == 0 and self._kept:
                setattr(*self._kept.pop())

    def _switch(self, original, form):
        @functools.wraps(original)
        def chosen(*args, **kwargs):
            if not getattr(self._inside, "depth", 0):
                return original(*args, **kwargs)
            self._inside.used = form
            return form(*args, **kwargs)

        return chosen

    def used(self, call):
        """The form that `call()` came to last, or `None`."""
        self._inside.used = None
        call()
        return self._inside.used


replaced = Replacement(FORMS)


@functools.cache
def check_moments():
    """Raise unless Keras' normalization layers come to `moments`: else all would be wrong."""
    if replaced.used(lambda: keras.ops.moments(tf.zeros((1, 1)), axes=[0])) is not moments:
        raise RuntimeError(
            "Keras' `ops.moments` no longer calls `tf.nn.moments`, so second derivatives of "
            "normalization layers would be wrong. Use the JAX backend. Received: Keras "
            f"{keras.__version__}"
        )


@contextlib.contextmanager
def second_derivatives():
    """Differentiate twice inside: right, or an error that names the operation.

    Raises:
        ValueError: If an operation has no second derivative on TensorFlow.
    """
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    try:
        with replaced() as outermost:
            check_moments()
            yield
    except (LookupError, tf.errors.OpError) as error:  # The latter in functions of its loops.
        place = f"after {graph.get_operations()[-1].name}: " if graph else ""
        raise ValueError(_refusal(place + str(error).strip()[:100])) from error
    if outermost and graph:
        _check(graph.as_graph_def())


def _check(graph):
    """Raise if an operation of `graph` or of its functions, such as bodies of loops, has none."""
    functions = (function.node_def for function in graph.library.function)
    for node in itertools.chain(graph.node, *functions):
        if node.op in WITHOUT_GRADIENT and SCOPE not in node.name:
            raise ValueError(_refusal(f"{node.op} in {node.name}"))


def _refusal(received):
    return (
        "TensorFlow has no second derivative of an operation of the model or its loss, so there is "
        "no product with the Hessian or the Gauss-Newton matrix. Use the JAX backend "
        f"(KERAS_BACKEND=jax), or another operation. Received: {received}"
    )
