"""Local against global structure of a loss landscape: models of one kind, alone and in pairs."""

import itertools

import numpy as np

from keras_smoothout.landscape.comparison.connectivity import connect
from keras_smoothout.landscape.comparison.matching import match
from keras_smoothout.landscape.comparison.path import profile, straight, summary
from keras_smoothout.landscape.comparison.similarity import cka
from keras_smoothout.landscape.curvature.hessian import hessian
from keras_smoothout.landscape.curvature.spectrum import eigenpairs
from keras_smoothout.landscape.curvature.trace import hutchinson
from keras_smoothout.landscape.directions import distance, place_of, trainable
from keras_smoothout.landscape.objective import Objective

SHARPNESS = {
    "lambda_max": lambda objective: eigenpairs(hessian(objective), 1).values[0],
    "hessian_trace": lambda objective: hutchinson(hessian(objective), 20).value,
}


def taxonomy(models, x, y, *, sharpness=None, join=None, align=False, batch_size=128, seed=0):
    """The numbers by which Yang et al. tell the phases of training apart.

    For each model: loss, error, largest eigenvalue and trace of the Hessian (sharp or flat). For
    each pair: mode connectivity and barrier along a trained curve (connected or not), of the error
    if there is one, else of the loss; centred kernel alignment of the outputs (alike or not);
    distance of the weights. The borders between phases are for the reader to draw.

    Args:
        models: Two or more compiled models that differ by their training, such as by its seed.
        x: Array of training inputs.
        y: Array of targets.
        sharpness: Dict from a name to a function of an `Objective` that returns a number; or to the
            list of the models' numbers, if they are known. Defaults to `None`: `SHARPNESS`.
        join: Function from an objective in batches and the other model's weights to a `Path`.
            Defaults to `None`: `connect(objective, straight(objective, other), seed=seed)`.
        align: Whether to permute the hidden units of the second model of each pair to `match` the
            first, before curves and distances. Defaults to `False`.
        batch_size: Number of examples in a batch that curves are trained on. Defaults to `128`.
        seed: Seed of the training of curves. Defaults to `0`.

    Returns:
        Dict from names to arrays: one number per model, or one per pair in the order of
        `itertools.combinations`.

    Raises:
        ValueError: If there are fewer than two models, or they do not have the same trainable
            weights, or differ in frozen ones; with `align`, as for `match`.

    Cost: for each pair the training of a curve and 61 points on it; for each model the sharpness.
    Differs from the paper: centred kernel alignment uses unmixed examples. Every epoch trains a
        curve on the same batches, in the order of the arrays. To change that, let `join` make its
        own objective.

    Reference: Yang et al., *Taxonomizing Local versus Global Structure in Neural Network Loss
        Landscapes*, NeurIPS 2021, arXiv:2107.11228, Section 2.
    """
    models = list(models)
    if len(models) < 2:
        raise ValueError(f"`models` must be two or more. Received: {len(models)} models")
    sharpness = SHARPNESS if sharpness is None else sharpness
    for name, given in sharpness.items():
        if not callable(given) and np.shape(given) != (len(models),):
            raise ValueError(
                f"`sharpness` must hold functions, or a number for each of {len(models)} models. "
                f"Received: {name}={given!r}"
            )

    def connected(objective, other):
        return connect(objective, straight(objective, other), seed=seed)

    judges = [Objective(model, x, y) for model in models]
    ends = [place_of(judges[0], model) for model in models]
    losses, errors = zip(*(judge.evaluate(judge.weights) for judge in judges), strict=True)
    numbers = {"loss": losses, "error": errors}
    for name, given in sharpness.items():
        numbers[name] = [given(judge) for judge in judges] if callable(given) else given
    quantity = "loss" if np.isnan(errors).any() else "error"
    pairs = list(itertools.combinations(range(len(models)), 2))
    for i, j in pairs:
        trained = Objective(models[i], x, y, batch_size=batch_size, batch_norm="training")
        end = ends[j]
        if align:
            end = trainable(models[i], match(models[i], models[j], seed=seed).weights)
        path = (join or connected)(trained, end)
        found = summary(profile(judges[i], path), quantity)
        found["cka"] = cka(models[i], models[j], x)
        found["distance"] = distance(ends[i], end)
        for name in ("mode_connectivity", "barrier", "cka", "distance"):
            numbers.setdefault(name, []).append(found[name])
    return {name: np.array(values, "float64") for name, values in numbers.items()}


def table(numbers):
    """What `taxonomy` returns as text: mean and standard deviation over models or pairs."""
    lines = [f"{'measure':20} {'mean':>11} {'std':>11} {'n':>4}"]
    for name, values in numbers.items():
        spread = np.std(values, ddof=1) if len(values) > 1 else np.nan
        lines.append(f"{name:20} {np.mean(values):11.4g} {spread:11.2g} {len(values):4d}")
    return "\n".join(lines)
