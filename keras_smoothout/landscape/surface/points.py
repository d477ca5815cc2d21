"""Loss and error at many points of weight space, with BatchNormalization's statistics at each."""

import keras
import numpy as np

from keras_smoothout import backend
from keras_smoothout.recalibrate import (
    batch_norms,
    batch_statistics,
    counted,
    inputs_of,
    statistics,
)

BATCH_SIZE = 500  # For inputs to recalibrate on that are arrays.


def evaluate_at(objective, points, count, recalibrate_on=None, progress=False):
    """Losses and errors, two arrays of `count` numbers, at each of `points`. Nothing is changed.

    BatchNormalization's moving statistics belong to the weights at which they were estimated. Near
    one model they can be held. Between models they would be wrong everywhere, and what looks like a
    barrier may be nothing else. Re-estimate them if they would be re-estimated before the weights
    are used. With `Objective(batch_norm="training")` nothing is re-estimated, because each batch
    has its own statistics; if one batch holds all of the data, they are the same.

    Args:
        objective: An `Objective`.
        points: Iterable of lists of weights; one is held at a time.
        count: Number of points.
        recalibrate_on: Inputs to re-estimate moving statistics on at each point: arrays or an
            iterable of batches, as `keras_smoothout.recalibrate` takes them. Use training data,
            even if the objective's are test data. `"own"` for the objective's own, `None` to hold
            the statistics. Defaults to `None`.
        progress: Whether to show a progress bar. Defaults to `False`.

    Raises:
        ValueError: If `recalibrate_on` is none of these, or can be read only once.

    Cost: a pass over the examples for each point, and another over those of `recalibrate_on`.
    """
    own = isinstance(recalibrate_on, str)
    if own and recalibrate_on != "own":
        raise ValueError(
            '`recalibrate_on` must be inputs, `"own"` or `None`. '
            f"Received: recalibrate_on={recalibrate_on!r}"
        )
    model, held = objective.model, objective.state
    moving = {id(v): i for i, v in enumerate(statistics(batch_norms(model)))}
    wanted = recalibrate_on is not None and objective.batch_norm == "evaluation" and moving
    of_batch = backend.compiled(batch_statistics(model)) if wanted else None
    bar = keras.utils.Progbar(count, unit_name="point") if progress else None
    found = np.empty((2, count))
    try:
        for i, weights in enumerate(points):
            if wanted:
                data = objective.batches() if own else recalibrate_on
                recent = counted(of_batch, weights, held, inputs_of(model, data, BATCH_SIZE))
                objective.state = [
                    keras.ops.convert_to_numpy(recent[moving[id(v)]]) if id(v) in moving else value
                    for v, value in zip(model.non_trainable_variables, held, strict=True)
                ]
            found[:, i] = objective.evaluate(weights)
            if bar is not None:
                bar.update(i + 1)
    finally:
        objective.state = held
    return found
