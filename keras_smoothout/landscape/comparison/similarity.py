"""How alike two models represent the same examples: linear centred kernel alignment."""

import keras
import numpy as np

from keras_smoothout.checks import check_count
from keras_smoothout.landscape.data import Batches


def linear_cka(first, second):
    """Linear centred kernel alignment of two matrices of features, a row for each example.

        ||Y'X||^2 / (||X'X|| * ||Y'Y||)          columns centred, Frobenius norms

    1 if they are the same up to a rotation and a factor; about (columns / rows) if independent.

    Args:
        first: Array with examples along its first axis; the other axes are flattened.
        second: Array with as many examples.

    Raises:
        ValueError: If the numbers of examples differ, or if all rows of one array are the same.

    Cost: the smaller of a (rows, rows) and a (columns, columns) matrix.

    Example:
        >>> import numpy as np
        >>> from keras_smoothout.landscape.comparison.similarity import linear_cka
        >>> x = np.random.default_rng(0).normal(size=(100, 3))
        >>> round(linear_cka(x, -2 * x[:, ::-1]), 6)
        1.0

    Reference: Kornblith et al., *Similarity of Neural Network Representations Revisited*,
        ICML 2019, arXiv:1905.00414, Section 3.
    """
    first, second = (np.asarray(a, "float64").reshape(len(a), -1) for a in (first, second))
    if len(first) != len(second):
        raise ValueError(
            "Both must hold features of the same examples. Received: "
            f"{len(first)} and {len(second)} examples"
        )
    first, second = first - first.mean(0), second - second.mean(0)
    if max(first.shape[1], second.shape[1]) <= len(first):
        cross, own = np.sum((second.T @ first) ** 2), [a.T @ a for a in (first, second)]
    else:
        own = [a @ a.T for a in (first, second)]
        cross = np.sum(own[0] * own[1])
    norms = np.linalg.norm(own[0]) * np.linalg.norm(own[1])
    if not norms > 0:
        raise ValueError(
            "Similarity needs features that differ between examples, and are finite. "
            "Received: features that are all the same, or not finite"
        )
    return float(cross / norms)


def until(model, layer=None):
    """`model` itself, or the part of it that ends with one of its layers."""
    if layer is None:
        return model
    if not hasattr(model, "inputs") or not model.inputs:
        raise ValueError(
            "`layer` can be found in functional and sequential models only: leave it out to "
            f"compare outputs. Received: layer={layer!r}, model={model.name}"
        )
    where = {"index": layer} if isinstance(layer, int) else {"name": layer}
    return keras.Model(model.inputs, model.get_layer(**where).output)


def features(model, x):
    """Outputs of `model` for the inputs `x` of one batch."""
    outputs = model.predict_on_batch(x)
    if not hasattr(outputs, "shape"):
        raise ValueError(
            "A model with several outputs has no single matrix of features: name a `layer`. "
            f"Received: {len(outputs)} outputs of {model.name}"
        )
    return outputs


def cka(first, second, x, layer=None, batch_size=500):
    """Linear centred kernel alignment of two models on the inputs `x`: see `linear_cka`.

    Args:
        first: A built `keras.Model`.
        second: Another one.
        x: Inputs: an array, a nest of arrays, or batches as `Objective` takes them. Both models see
            them in one pass, so their order can change from pass to pass.
        layer: Name or index of the layer whose outputs are compared. Defaults to `None`: the
            outputs of the models.
        batch_size: Number of examples in a batch. Defaults to `500`.

    Differs from the paper: outputs are compared on unmixed examples; the taxonomy of Yang et al.
        compares them on examples mixed by mixup.
    """
    check_count("batch_size", batch_size)
    models = [until(model, layer) for model in (first, second)]
    batches = Batches(first, x, None, None, batch_size)
    found = [[features(model, batch[0]) for model in models] for batch in batches]
    return linear_cka(*map(np.concatenate, zip(*found, strict=True)))
