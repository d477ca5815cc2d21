"""Loss and error on lines and planes through the weights of trained models.

    line(objective)                          w + alpha * d          d random, filter-normalised
    plane(objective)                         w + x * d_1 + y * d_2
    interpolate(objective, other)            (1 - alpha) * w + alpha * other
    plane_through(objective, second, third)  the plane that three models lie in

The model is never changed, whatever happens. A point costs one pass over the objective's examples
without gradients, and another over those of `recalibrate_on`. See `points.evaluate_at` for that
argument. By default, moving statistics are held around one model, as Li et al. do, and re-estimated
between models, as Garipov et al. do.
"""

import numpy as np

from keras_smoothout.checks import check_count, check_number
from keras_smoothout.landscape.directions import combine, direction_of, place_of, random_direction
from keras_smoothout.landscape.surface.points import evaluate_at
from keras_smoothout.landscape.surface.results import Line, Plane


def line(objective, direction=None, alphas=None, *, seed=0, recalibrate_on=None, progress=False):
    """Loss and error at `w + alpha * direction`.

    Args:
        objective: An `Objective`; `w` are its weights.
        direction: List of arrays shaped like the weights, or one long vector, such as an
            eigenvector of the Hessian. Defaults to `None`: a random one, filter-normalised.
        alphas: Steps along the direction. Defaults to 51 from -1 to 1.
        seed: Seed of the random direction. Defaults to `0`.
        recalibrate_on: See `points.evaluate_at`. Defaults to `None`.
        progress: Whether to show a progress bar. Defaults to `False`.

    Returns:
        A `Line`.

    Cost: a pass over the examples for each of `alphas`.
    Differs from the paper: each filter of a kernel is a slice along its last axis, as Keras has it.

    Example:
        >>> import keras, numpy as np
        >>> from keras_smoothout.landscape.objective import Objective
        >>> from keras_smoothout.landscape.surface.slices import line
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([np.array([[3.0]])])
        >>> model.compile(loss="mse")
        >>> objective = Objective(model, np.ones((8, 1)), np.zeros((8, 1)))
        >>> line(objective, [np.array([[1.0]])], [-3.0, 0.0, 1.0]).losses    # (3 + alpha)^2
        array([ 0.,  9., 16.])

    Reference: Li et al., *Visualizing the Loss Landscape of Neural Nets*, NeurIPS 2018,
        arXiv:1712.09913, Sections 3 and 4.
    """
    alphas = places("alphas", alphas, np.linspace(-1, 1, 51))
    (direction,) = directions(objective, [direction], seed)
    points = (combine((1.0, a), (objective.weights, direction)) for a in alphas)
    return Line(alphas, *evaluate_at(objective, points, len(alphas), recalibrate_on, progress))


def interpolate(objective, other, alphas=None, *, recalibrate_on="own", progress=False):
    """Loss and error at `(1 - alpha) * w + alpha * other`: Keskar's plot from one model to another.

    Args:
        objective: An `Objective`; `w` are its weights, at `alpha = 0` (in the paper, small batch).
        other: The model at `alpha = 1` (in the paper, large batch), or the list of its weights.
        alphas: Places on the line. Defaults to 25 from -1 to 2, as in the paper.
        recalibrate_on: See `points.evaluate_at`. Defaults to `"own"`.
        progress: Whether to show a progress bar. Defaults to `False`.

    Returns:
        A `Line`.

    Raises:
        ValueError: If the two do not have the same trainable weights, or differ in frozen ones.

    Cost: a pass over the examples for each of `alphas`, two with BatchNormalization.
    Differs from the paper: BatchNormalization's statistics are re-estimated at each point; the
        authors' code interpolates them with the weights.

    Reference: Keskar et al., *On Large-Batch Training for Deep Learning: Generalization Gap and
        Sharp Minima*, ICLR 2017, arXiv:1609.04836, Section 2.2.1.
    """
    alphas = places("alphas", alphas, np.linspace(-1, 2, 25))
    ends = objective.weights, place_of(objective, other)
    points = (combine((1.0 - a, a), ends) for a in alphas)
    return Line(alphas, *evaluate_at(objective, points, len(alphas), recalibrate_on, progress))


def plane(
    objective,
    first=None,
    second=None,
    x=None,
    y=None,
    *,
    seed=0,
    recalibrate_on=None,
    progress=False,
):
    """Loss and error at `w + x * first + y * second`.

    Args:
        objective: An `Objective`; `w` are its weights.
        first: Direction of the columns, as in `line`. Defaults to `None`: a random one,
            filter-normalised. Two random ones are nearly orthogonal.
        second: Direction of the rows.
        x: Steps along `first`. Defaults to 21 from -1 to 1.
        y: Steps along `second`. Defaults to those of `x`.
        seed: Seed of random directions. Defaults to `0`.
        recalibrate_on: See `points.evaluate_at`. Defaults to `None`.
        progress: Whether to show a progress bar. Defaults to `False`.

    Returns:
        A `Plane`, with the model at (0, 0).

    Cost: a pass over the examples for each point of the grid.

    Reference: Li et al., *Visualizing the Loss Landscape of Neural Nets*, NeurIPS 2018,
        arXiv:1712.09913, Eq. (1).
    """
    x = places("x", x, np.linspace(-1, 1, 21))
    y = places("y", y, x)
    axes = directions(objective, [first, second], seed)
    return grid(objective, axes, x, y, np.zeros((1, 2)), recalibrate_on, progress)


def plane_through(
    objective, second, third, points=21, margin=0.2, *, recalibrate_on="own", progress=False
):
    """Loss and error on the plane that three models lie in.

        u = (second - w) / ||second - w||          x axis, in weight norm
        v = (third - w) - <third - w, u> * u       y axis, divided by its norm

    Args:
        objective: An `Objective`; `w` are its weights, at (0, 0).
        second: Model on the x axis, or the list of its weights.
        third: The third model, or the list of its weights.
        points: Number of points along each axis. Defaults to `21`.
        margin: Room around the three models, as a share of their extent. Defaults to `0.2`.
        recalibrate_on: See `points.evaluate_at`. Defaults to `"own"`.
        progress: Whether to show a progress bar. Defaults to `False`.

    Returns:
        A `Plane`, with the places of the three models in `points`.

    Raises:
        ValueError: If the models do not have the same trainable weights, differ in frozen ones, or
            lie on one line.

    Cost: a pass over the examples for each point of the grid, two with BatchNormalization.

    Reference: Garipov et al., *Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs*,
        NeurIPS 2018, arXiv:1802.10026, Appendix A.
    """
    check_count("points", points, least=2)
    check_number("margin", margin)
    origin = objective.flatten(objective.weights)
    u, v = (objective.flatten(place_of(objective, m)) - origin for m in (second, third))
    length, reach = np.linalg.norm(u), np.linalg.norm(v)
    u = u / (length or 1.0)
    along = v @ u
    v = v - along * u
    height = np.linalg.norm(v)
    if not height > 1e-6 * max(length, reach) or not length:
        raise ValueError(
            "The three models must not lie on one line: two of them may be the same. "
            f"Received: distances {length:g} and {reach:g} from the first, "
            f"the third {height:g} off the line"
        )
    where = np.array([[0.0, 0.0], [length, 0.0], [along, height]])
    low, high = where.min(0), where.max(0)
    low, high = low - margin * (high - low), high + margin * (high - low)
    x, y = np.linspace(low, high, points).T
    axes = directions(objective, [u, v / height], seed=0)
    return grid(objective, axes, x, y, where, recalibrate_on, progress)


def places(name, values, default):
    """`values`, or else `default`, as a vector of finite numbers."""
    values = np.asarray(default if values is None else values, "float64")
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be a list of finite numbers. Received: {name}={values!r}")
    return values


def directions(objective, given, seed):
    """Each of `given` as a list of arrays; a random direction where there is `None`."""
    return [
        random_direction(objective.weights, (seed, i))
        if direction is None
        else direction_of(objective, direction)
        for i, direction in enumerate(given)
    ]


def grid(objective, axes, x, y, points, recalibrate_on, progress):
    """The `Plane` of `w + x * axes[0] + y * axes[1]`."""
    weights = (combine((1.0, a, b), (objective.weights, *axes)) for b in y for a in x)
    found = evaluate_at(objective, weights, x.size * y.size, recalibrate_on, progress)
    return Plane(x, y, *(values.reshape(y.size, x.size) for values in found), points)
