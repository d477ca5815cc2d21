"""`greedy_soup`: the mean of those weights that are better together."""

import numpy as np

from keras_smoothout import backend
from keras_smoothout.checks import check_count, check_fits, check_repeats, received
from keras_smoothout.method import evaluation_weights
from keras_smoothout.moving_statistics import batch_norms
from keras_smoothout.recalibrate import recalibrate


def greedy_soup(model, snapshots, score, data=None, batch_size=500):
    """Put the mean of the snapshots that improve it into `model`, and return which they are.

        soup = [the best of all by score]
        for each other one, best first:
            if score(mean(soup + [it])) >= score(mean(soup)): soup = soup + [it]

    The score is best taken on examples that are neither trained nor tested on.

    Args:
        model: A built `keras.Model`. After an error it is as before.
        snapshots: List of lists of arrays, as of `model.get_weights()`; or a
            `keras_smoothout.callbacks.Snapshots`.
        score: Function of the model that returns a number, higher for better, such as
            `lambda model: model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]`.
        data: Inputs to re-estimate BatchNormalization's moving statistics on for each mean, as for
            `keras_smoothout.recalibrate`. Needed if the model has such layers. Defaults to `None`.
        batch_size: Number of examples in a batch, if `data` is arrays. Defaults to `500`.

    Returns:
        List of indices of `snapshots`, in the order in which they have joined.

    Raises:
        ValueError: If there are no snapshots or they do not fit the model, if `data` is wanting, or
            if `evaluate` would look at an average of the model's optimizer instead.

    Cost: `2 * len(snapshots) - 1` scores.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> snapshots = [[np.array([[w]])] for w in (3.0, 0.5, -0.5)]  # The best weight is 0.
        >>> def score(model):
        ...     return -abs(float(model.get_weights()[0][0, 0]))
        >>> ks.greedy_soup(model, snapshots, score)
        [1, 2]

    Reference: Wortsman et al., *Model soups: averaging weights of multiple fine-tuned models
        improves accuracy without increasing inference time*, ICML 2022, arXiv:2203.05482, Recipe 1.
        The paper's text was not checked.
    """
    snapshots = snapshots.arrays() if hasattr(snapshots, "arrays") else snapshots
    check_count("batch_size", batch_size)
    check_repeats("data", data)
    if not isinstance(snapshots, (list, tuple)) or not snapshots:
        raise ValueError(f"`snapshots` must hold weights. {received('snapshots', snapshots)}")
    for snapshot in snapshots:
        check_fits("snapshots", snapshot, model.weights)
    if batch_norms(model) and data is None:
        raise ValueError(
            "`data` must be inputs: the moving statistics of a mean of weights are re-estimated. "
            "Received: data=None for a model with BatchNormalization"
        )
    if evaluation_weights(getattr(model, "optimizer", None)) is not None:
        raise ValueError(
            "`model` must not have an optimizer that averages, whose weights `evaluate` would look "
            f"at: compile it with another one. Received: {model.optimizer.name}"
        )
    restore = backend.snapshot(model.weights)

    def put(members):
        arrays = [snapshots[i] for i in members]
        for variable, *values in zip(model.weights, *arrays, strict=True):
            mean = np.mean(np.asarray(values, "float64"), 0) if len(values) > 1 else values[0]
            variable.assign(mean.astype(values[0].dtype))
        if data is not None and len(members) > 1:
            recalibrate(model, data, batch_size)

    def scored(members):
        put(members)
        return float(score(model))

    try:
        singles = [scored([i]) for i in range(len(snapshots))]
        first, *others = sorted(range(len(snapshots)), key=lambda i: -singles[i])
        soup, best = [first], singles[first]
        for index in others:
            found = scored([*soup, index])
            if found >= best:
                soup, best = [*soup, index], found
        put(soup)
    except BaseException:
        restore()
        raise
    return soup
