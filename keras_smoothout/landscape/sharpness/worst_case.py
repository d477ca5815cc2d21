"""The highest loss in a neighbourhood of the weights: Keskar's box and SAM's ball."""

import numpy as np
from scipy.optimize import Bounds, minimize

from keras_smoothout.checks import check_count, check_number
from keras_smoothout.landscape.estimate import Estimate, mean

TINY = np.finfo("float64").tiny


def keskar_sharpness(objective, radius=5e-4, dimensions=None, iterations=10, repeats=1, seed=0):
    """Keskar's epsilon-sharpness: the largest rise of the loss in a small box, in percent.

        phi = 100 * (max_z loss(w + A z) - loss(w)) / (1 + loss(w))
              over |z_i| <= radius * (|(pinv(A) w)_i| + 1)

    `A` is the identity (the full space), or a random matrix with `dimensions` columns of norm 1.
    L-BFGS-B searches for the maximum, so the value is a lower bound. It is taken on the data of
    `objective`; in the paper, on the training data. The ascent starts at the corner of the box that
    the gradient points to: at the centre, a minimum, there is almost no gradient to start with.

    Args:
        objective: An `Objective`.
        radius: Half width of the box, epsilon, relative to `|w| + 1`. Defaults to `5e-4`; the paper
            also uses `1e-3`.
        dimensions: Number of columns of `A`, 100 in the paper, or `None` for the full space.
            Defaults to `None`.
        iterations: Number of iterations of L-BFGS-B. Defaults to `10`, as in the paper.
        repeats: In the full space, number of ascents, all but the first from random corners; the
            highest counts. On random manifolds, number of manifolds to average. Defaults to `1`.
        seed: Integer, the seed of manifolds and corners. Defaults to `0`.

    Returns:
        An `Estimate`, in percent; its standard error is that over manifolds, 0 for a single one.

    Cost: some `2 * iterations` gradients for each repeat, and 46 copies of the weights in float64
        (full space) or `dimensions` of them in float32 (manifold).
    Differs from the paper: the start of the ascent. The script that came with SmoothOut hands
        L-BFGS-B the negative loss with the gradient of the positive one, so it stops where it
        starts and reports about 0. It also measures on validation data.

    Reference: Keskar et al., *On Large-Batch Training for Deep Learning: Generalization Gap and
        Sharp Minima*, ICLR 2017, arXiv:1609.04836, Metric 2.1, Eq. (3) and (4).
    """
    check_number("radius", radius)
    check_count("iterations", iterations)
    check_count("repeats", repeats)
    if dimensions is not None:
        check_count("dimensions", dimensions)
    centre, rng = objective.flatten(objective.weights), np.random.default_rng(seed)
    loss, gradient = _rise(objective, centre)

    def along(basis, vector):
        return vector if basis is None else vector.astype("float32") @ basis  # No wider copy of it.

    def highest(basis, corner=None):
        """Highest loss that one ascent finds, in the box around 0 of the columns of `basis`."""
        place = along(basis, centre)
        if basis is not None:
            place = np.linalg.solve(basis.T @ basis, place)
        sides = radius * (np.abs(place) + 1)
        slope = sides * along(basis, gradient)
        scale = np.abs(slope).sum() or 1.0  # Tolerances mean the same for every radius and model.
        best = loss

        def fall(z):
            nonlocal best
            step = sides * z if basis is None else basis @ (sides * z).astype("float32")
            value, slope = _rise(objective, centre + step)
            best = max(best, value)
            slope = sides * along(basis, slope)
            return (loss - value) / scale, -slope / scale

        random = rng.choice([-1.0, 1.0], len(sides))
        start = random if corner == "random" else np.where(slope == 0, random, np.sign(slope))
        box, options = Bounds(-1, 1), {"maxiter": iterations, "ftol": 0.0, "gtol": 1e-10}
        minimize(fall, start, jac=True, method="L-BFGS-B", bounds=box, options=options)
        return best

    def percent(found):
        return 100 * (found - loss) / (1 + loss)

    if dimensions is None:
        others = [highest(None, "random") for _ in range(repeats - 1)]
        return Estimate(percent(max([highest(None), *others])))

    def on_manifold():  # A function, so that one basis is gone before the next one comes.
        basis = rng.standard_normal((len(centre), dimensions), "float32")
        basis /= np.sqrt(np.einsum("ij,ij->j", basis, basis))
        return percent(highest(basis))

    found = [on_manifold() for _ in range(repeats)]
    return mean(found) if repeats > 1 else Estimate(found[0])


def sam_sharpness(objective, rho=0.05, steps=1):
    """SAM's sharpness: how far the loss rises within a ball around the weights.

        max over ||e|| <= rho of loss(w + e) - loss(w)

    With one step, `e = rho * g / ||g||`, which is what SAM descends. With more, it is projected
    gradient ascent in steps of length `rho`, and the highest loss on the way counts. Either way the
    value is a lower bound.

    Args:
        objective: An `Objective`.
        rho: Radius of the ball, in weight norm. Defaults to `0.05`, as in the paper.
        steps: Number of ascent steps. Defaults to `1`.

    Returns:
        An `Estimate`, exact up to the quality of the ascent; 0 where the gradient is 0.

    Cost: `steps` gradients and one loss.

    Reference: Foret et al., *Sharpness-Aware Minimization for Efficiently Improving
        Generalization*, ICLR 2021, arXiv:2010.01412, Eq. (1) and (2).
    """
    check_number("rho", rho)
    check_count("steps", steps)
    centre = objective.flatten(objective.weights)
    loss, gradient = _rise(objective, centre)
    best, offset = loss, np.zeros_like(centre)
    for step in range(steps):
        norm = np.linalg.norm(gradient)
        if norm == 0:
            break
        offset += rho * gradient / norm
        offset *= min(1.0, rho / max(np.linalg.norm(offset), TINY))
        if step == steps - 1:
            value = objective.loss(objective.unflatten(centre + offset))
        else:
            value, gradient = _rise(objective, centre + offset)
        best = max(best, value)
    return Estimate(best - loss)


def _rise(objective, place):
    """Loss and flat gradient at a flat vector of weights."""
    loss, gradient = objective.loss_and_gradient(objective.unflatten(place))
    return loss, objective.flatten(gradient)
