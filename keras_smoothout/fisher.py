"""The Fisher matrix of a model, layer by layer as two factors, measured by a pass over a batch.

Each layer gets zeros that do not change its outputs, and whose gradients are the factors: the sum
over all calls of a^T a for its inputs `a`, and of g^T g for the gradients `g` at its outputs. So
layers that are shared, mapped over time or in a loop add up without more ado.
"""

import contextlib
import threading

import keras
from keras import ops

from keras_smoothout import backend, keras_internals, noise
from keras_smoothout.evaluation import at, length

MEANS = ("sum_over_batch_size", "mean")
VARIANCE = 0.5  # Of the Gaussian whose negative log-likelihood is the squared error.

LOCAL, MUTEX, USERS = threading.local(), threading.Lock(), {}  # Replicas are threads.


def factors(batch, weights, blocks, dtype, key):
    """`A` and `G` of each of the `blocks`: a list of matrices, this replica's share of the mean.

        A = mean over rows of a a^T            G = sum over rows of g g^T / n
        g = gradient of the sum of n losses

    Args:
        batch: A `Batch`.
        weights: List of tensors, the weights to measure at.
        blocks: List of layers, as `kronecker.blocks_of` finds them.
        dtype: Type of the factors.
        key: Integers, whose labels are drawn from the model, or `None` for the labels of the batch.
    """
    model = batch.model
    shapes = [s for b in blocks for s in ((b.sizes[0],) * 2, (b.sizes[1],) * 2, ())]
    zeros = [ops.zeros(shape, dtype) for shape in shapes]

    def loss(zeros):
        with at(model, weights, batch.state), probed(blocks, zeros):
            outputs = model(batch.x, training=True)
            total, count = (
                of_labels(batch, outputs)
                if key is None
                else of_draws(batch, outputs, noise.key(*key))
            )
        return total, ops.cast(count, dtype)

    (_, count), sums, _ = backend.value_and_grad(loss)(zeros)
    replicas = ops.cast(backend.unscale_loss(ops.ones(())), dtype)
    found = []
    for a, g, rows in zip(sums[::3], sums[1::3], sums[2::3], strict=True):
        found += [a / (ops.maximum(rows, 1.0) * replicas), g / (count * replicas)]
    return found


@contextlib.contextmanager
def probed(blocks, zeros):
    """Have what this replica calls inside give the sums of each layer as gradients of `zeros`.

    Args:
        blocks: List of layers.
        zeros: List of tensors, three for each layer: for `A`, for `G`, and for the number of rows.
    """
    threes = zip(zeros[::3], zeros[1::3], zeros[2::3], strict=True)
    LOCAL.seen = {id(b.layer): (b, three) for b, three in zip(blocks, threes, strict=True)}
    change([block.layer for block in blocks], 1)
    try:
        yield
    finally:
        change([block.layer for block in blocks], -1)
        LOCAL.seen = {}


def change(layers, users):
    """Add to the number of those who look into the `layers`: the first one opens them."""
    with MUTEX:
        for layer in layers:
            before = USERS.get(id(layer), 0)
            USERS[id(layer)] = before + users
            if not before:
                vars(layer)["call"] = seen_through(layer)
            elif before + users == 0:
                del vars(layer)["call"], USERS[id(layer)]


def seen_through(layer):
    """A `call` for `layer` that is its own, except where this thread looks into it."""
    own = layer.call

    def call(inputs, *args, **kwargs):
        block, zeros = getattr(LOCAL, "seen", {}).get(id(layer), (None, None))
        if block is None:
            return own(inputs, *args, **kwargs)
        activation = layer.activation
        after = activation or keras.activations.linear
        try:
            vars(layer)["activation"] = lambda s: after(probe(block, inputs, s, zeros))
            return own(inputs, *args, **kwargs)
        finally:
            vars(layer)["activation"] = activation

    return call


def probe(block, x, s, zeros):
    """`s`, the outputs of a layer for `x`, with the sums of the layer as gradients of `zeros`."""

    @ops.custom_gradient
    def same(s, x, *zeros):
        def gradient(*args, upstream=None):
            g = args[0] if upstream is None else upstream
            a, rows = (ops.cast(t, zeros[0].dtype) for t in (block.inputs(x), block.outputs(g)))
            count = ops.cast(ops.shape(a)[0], a.dtype)
            return g, ops.zeros_like(x), with_ones(gram(a), a, count, block), gram(rows), count

        return s, gradient

    return same(s, ops.stop_gradient(x), *zeros)


def gram(rows):
    return ops.matmul(ops.transpose(rows), rows)


def with_ones(square, rows, count, block):
    """The sum of a a^T where each row ends in a 1, if the layer has a bias."""
    if block.bias is None:
        return square
    sums = ops.sum(rows, axis=0, keepdims=True)
    last = ops.concatenate([sums, ops.reshape(count, (1, 1))], axis=1)
    return ops.concatenate([ops.concatenate([square, ops.transpose(sums)], axis=1), last], axis=0)


def of_labels(batch, outputs):
    """Sum of the losses of all examples, by the labels of the batch; the number of examples."""
    count = length(batch.x)
    loss = batch.model.compute_loss(batch.x, batch.y, outputs, batch.sample_weight)
    loss = backend.unscale_loss(loss)
    return loss * ops.cast(count, loss.dtype), count


def of_draws(batch, outputs, key):
    """Sum of the losses by labels that are drawn from the model, and the number of losses."""
    kind, logits = likelihood(batch.model)
    outputs, mask = ops.cast(outputs, keras.config.floatx()), keras_internals.mask_of(outputs)
    losses = KINDS[kind](outputs, ops.stop_gradient(outputs), logits, key)
    count = ops.cast(ops.size(losses), losses.dtype)
    if batch.sample_weight is not None:
        losses *= ops.sqrt(like(batch.sample_weight, losses))
    if mask is not None:
        losses *= like(mask, losses)
        count *= ops.mean(ops.cast(mask, losses.dtype))
    return ops.sum(losses), count


def like(weight, losses):
    """`weight` of examples, or of their steps, with as many axes as `losses`, in their type."""
    weight = ops.cast(weight, losses.dtype)
    if len(weight.shape) > len(losses.shape):
        weight = ops.squeeze(weight, -1)
    for _ in range(len(losses.shape) - len(weight.shape)):
        weight = ops.expand_dims(weight, -1)
    return weight


def classes(outputs, known, logits, key):
    """Crossentropy with classes drawn from softmax."""
    drawn = known if logits else ops.log(ops.maximum(known, keras.config.epsilon()))
    gumbel = -ops.log(-ops.log(uniform(known, key)))
    labels = ops.argmax(drawn + gumbel, axis=-1)
    return ops.sparse_categorical_crossentropy(labels, outputs, from_logits=logits)


def switches(outputs, known, logits, key):
    """Crossentropy with ones drawn from sigmoid."""
    chance = ops.sigmoid(known) if logits else known
    labels = ops.cast(uniform(known, key) < chance, outputs.dtype)
    return ops.binary_crossentropy(labels, outputs, from_logits=logits)


def numbers(outputs, known, logits, key):
    """Squared error with targets drawn from a Gaussian."""
    drawn = ops.cast(noise.draw(ops.shape(known), key, "normal"), known.dtype)
    return ops.square(known + VARIANCE**0.5 * drawn - outputs)


def uniform(like, key):
    """Uniform draws in (0, 1), shaped as `like`."""
    return ops.cast((noise.draw(ops.shape(like), key) + 1) / 2, like.dtype)


KINDS = {
    "sparse_categorical_crossentropy": classes,
    "categorical_crossentropy": classes,
    "binary_crossentropy": switches,
    "mean_squared_error": numbers,
}


def likelihood(model):
    """Name of the loss of `model`, which is a likelihood, and whether outputs are logits.

    Raises:
        ValueError: If labels cannot be drawn from the model.
    """
    losses = keras.tree.flatten(model.loss)
    given = keras.losses.get(losses[0]) if len(losses) == 1 else None
    name = getattr(getattr(given, "fn", given), "__name__", None)
    config = given.get_config() if hasattr(given, "get_config") else {}
    own = type(model).compute_loss is not keras.Model.compute_loss
    whole = config.get("axis", -1) == -1 and config.get("ignore_class") is None
    if own or name not in KINDS or config.get("reduction", MEANS[0]) not in MEANS or not whole:
        raise ValueError(
            "`sampled=True` draws labels from the model, so its one loss must be a mean of "
            f"{', '.join(KINDS)}, over the last axis. Use `sampled=False`, which takes the labels "
            f"of the data. Received: loss={model.loss!r}, {config}"
            f"{', and a compute_loss of its own' if own else ''}"
        )
    return name, config.get("from_logits", False)
