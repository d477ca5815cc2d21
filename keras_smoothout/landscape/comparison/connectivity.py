"""Mode connectivity: train a curve of low loss between two models.

The gradient with respect to a bend `p_j` of the curve `w(t)` is `c_j(t) * gradient(w(t))`, so it
works for any model without changes.
"""

import keras
import numpy as np

from keras_smoothout.around import chain
from keras_smoothout.asks import Asks, asking
from keras_smoothout.checks import check_count, check_number
from keras_smoothout.landscape.comparison.path import Path
from keras_smoothout.landscape.directions import arrays_of
from keras_smoothout.moving_statistics import batch_norms


def connect(
    objective, path, epochs=50, optimizer=None, *, weight_decay=0.0, seed=0, progress=False
):
    """Train the bends of a curve so that the loss is low all along it.

        t ~ uniform(0, 1)                                                   for each batch
        p_j = update(p_j, c_j(t) * (gradient(w(t)) + weight_decay * w(t)))  for each bend

    Args:
        objective: An `Objective` of training data, in batches as an optimizer should see them. Each
            epoch takes them in the order of the data set, which can shuffle.
        path: The `Path` to start from, `straight(objective, other)` in the paper. It stays
            unchanged.
        epochs: Number of passes over the data. Defaults to `50`; the paper has 200 and more.
        optimizer: Keras optimizer, its name or config; a copy of it is used. A constant learning
            rate is held for half of the epochs, then falls linearly to a hundredth at 90 % of them.
            The optimizer sees all bends as one matrix. Defaults to `None`:
            `SGD(0.03, momentum=0.9)`.
        weight_decay: Factor of `||w(t)||^2 / 2` in the loss, on all weights. The model's own
            regularizers count in addition. Defaults to `0.0`.
        seed: Seed of the draws of `t`. Defaults to `0`.
        progress: Whether to show a progress bar. Defaults to `False`.

    Returns:
        A `Path` of the same kind, with the same ends.

    Raises:
        ValueError: If the path has no bends or is not one of this model; if BatchNormalization
            would use moving statistics of other weights; if the loss is no longer finite.

    Cost: a gradient for each batch; for each point of the path, a copy of the weights in float64
        and, if it is a bend, in the optimizer.
    Differs from the paper: dropout is off, as everywhere in an `Objective`.

    Example:
        >>> import keras, numpy as np
        >>> from keras_smoothout.landscape.comparison.connectivity import connect
        >>> from keras_smoothout.landscape.objective import Objective
        >>> from keras_smoothout.landscape.comparison.path import profile, straight, summary
        >>> inputs = keras.Input((1,))
        >>> x = keras.layers.Dense(1, use_bias=False)(inputs)
        >>> x = keras.layers.Dense(1, use_bias=False)(x)
        >>> model = keras.Model(inputs, x)        # a * b * x: the minima are hyperbolas a * b = 1
        >>> model.set_weights([np.array([[0.5]]), np.array([[2.0]])])
        >>> model.compile(loss="mse")
        >>> objective = Objective(model, np.ones((4, 1)), np.ones((4, 1)))
        >>> line = straight(objective, [np.array([[2.0]]), np.array([[0.5]])])
        >>> curve = connect(objective, line, epochs=100)
        >>> [round(summary(profile(objective, path))["barrier"], 2) for path in (line, curve)]
        [0.32, 0.0]

    Reference: Garipov et al., *Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs*,
        NeurIPS 2018, arXiv:1802.10026, Section 3.
    """
    check_count("epochs", epochs)
    check_number("weight_decay", weight_decay)
    arrays_of(objective, path(0.0))
    if len(path.points) < 3:
        raise ValueError("`path` must have bends to train. Received: two ends only")
    if objective.batch_norm == "evaluation" and batch_norms(objective.model):
        raise ValueError(
            "On a curve BatchNormalization must use the statistics of each batch: make the "
            '`Objective` with `batch_norm="training"`. Received: batch_norm="evaluation"'
        )
    training = Training(objective, path, optimizer, weight_decay)
    rate, draw = training.learning_rate, np.random.default_rng(seed)
    bar = keras.utils.Progbar(epochs, unit_name="epoch") if progress else None
    for epoch in range(epochs):
        if rate is not None:
            training.optimizer.learning_rate = rate * decay(epoch / epochs)
        losses = [training.step(draw.uniform(), batch) for batch in objective.batches()]
        if bar is not None:
            bar.update(epoch + 1, [("loss", np.mean(losses))])
    return training.path()


def decay(progress):
    """Factor on the learning rate after the share `progress` of the epochs."""
    return float(np.interp(progress, (0.5, 0.9), (1.0, 0.01)))


def innermost(optimizer):
    """The innermost optimizer; `keras_smoothout`'s around it may not ask for gradients here."""
    for method in asking(optimizer):
        if type(method).gradients is not Asks.gradients:
            raise ValueError(
                "`optimizer` is given the gradients of the bends, and cannot ask for others. "
                f"Received: optimizer={type(method).__name__}"
            )
    return chain(optimizer)[-1]


class Training:
    """The bends of `path` as one matrix that a copy of `optimizer` moves, a batch at a time."""

    def __init__(self, objective, path, optimizer=None, weight_decay=0.0):
        optimizer = keras.optimizers.SGD(0.03, momentum=0.9) if optimizer is None else optimizer
        config = keras.optimizers.serialize(keras.optimizers.get(optimizer))
        self.optimizer = keras.optimizers.deserialize(config)
        rate = innermost(self.optimizer).get_config()["learning_rate"]
        self.learning_rate = rate if isinstance(rate, float) else None
        self.objective = objective
        self.weight_decay = weight_decay
        self.start = path
        self.points = np.stack([objective.flatten(point) for point in path.points])
        dtype = np.result_type("float32", *(w.dtype for w in objective.weights)).name
        self.bends = keras.Variable(self.points[1:-1], dtype=dtype)  # (bends, size)
        self.optimizer.build([self.bends])

    def path(self):
        """The present curve."""
        first, *_, last = self.start.points
        bends = keras.ops.convert_to_numpy(self.bends)
        return Path([first, *map(self.objective.unflatten, bends), last], self.start.curve)

    def step(self, t, batch):
        """Move the bends by the gradient of one batch at `t`, and return its loss."""
        self.points[1:-1] = keras.ops.convert_to_numpy(self.bends)
        shares = self.start.coefficients(t)
        place = shares @ self.points
        loss, gradient = self.objective.loss_and_gradient(self.objective.unflatten(place), batch)
        if not np.isfinite(loss):
            raise ValueError(
                "The loss on the curve must stay finite: lower the learning rate. "
                f"Received: loss={loss} after {int(self.optimizer.iterations)} steps"
            )
        gradient = self.objective.flatten(gradient) + self.weight_decay * place
        moves = np.outer(shares[1:-1], gradient)
        self.optimizer.apply([keras.ops.convert_to_tensor(moves, self.bends.dtype)])
        return loss
