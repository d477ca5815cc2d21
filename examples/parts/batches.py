"""The Hessian of a batch and of single examples: how far its top eigenvalue moves, and why."""

import numpy as np

from keras_smoothout import landscape
from keras_smoothout.landscape.estimate import mean


def top(model, x, y, B, draws, rng):
    """Top eigenvalues of the Hessian of batches."""
    found = []
    for _ in range(draws):
        rows = rng.choice(len(x), B, replace=False)
        batch = landscape.Objective(model, x[rows], y[rows], batch_size=B)
        found.append(landscape.eigenpairs(landscape.hessian(batch), tolerance=0.01).values[0])
    return mean(found)


def noise_along(objective, x, y, examples, k=20):
    """The top eigenvalue, c, and P s^2, from the products of single examples."""
    pairs = landscape.eigenpairs(landscape.hessian(objective), k=k)
    l, U = pairs.values, pairs.vectors
    probe = np.random.default_rng(0).choice([-1.0, 1.0], len(U))
    shift, isotropic = [], []
    for i in examples:
        one = (x[i : i + 1], y[i : i + 1], None)

        def product(v, one=one):
            found = objective.hvp(objective.weights, objective.unflatten(v), batch=one)
            return objective.flatten(found)

        moved = product(U[:, 0]) - l[0] * U[:, 0]
        along = U.T @ moved
        rest = moved @ moved - along @ along
        shift.append((along[1:] ** 2 / (l[0] - l[1:])).sum() + rest / l[0])
        isotropic.append((product(probe) ** 2).sum() / len(U))
    return l[0], mean(shift), mean(isotropic)
