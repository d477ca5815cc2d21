"""Shortest ways between two models in normal form: each unit turns on its own sphere."""

import numpy as np

from keras_smoothout.checks import check_number
from keras_smoothout.landscape.comparison.normal_form import normal_form
from keras_smoothout.landscape.directions import trainable, whole

CLOSE = 1e-6  # Angle, in radians, below which an arc is taken for straight.


class Geodesic:
    """A way on which each unit turns at constant speed; what lies on no sphere goes straight.

        u(t) = sin((1 - t) * angle) / sin(angle) * u_0 + sin(t * angle) / sin(angle) * u_1

    That is for vectors of the same length. Others keep their directions on the arc and go evenly
    from one length to the other.

    `geodesic(t)` is the list of weights at `t`, from 0 to 1, as of a `Path`. To keep one, save its
    two ends.

    Args:
        points: The two ends, each a list of arrays.
        spheres: List of integer arrays like an end: the sphere of each number, -1 for none.

    Attributes:
        angles: (spheres,) angle between the two ends on each sphere, in radians.
    """

    def __init__(self, points, spheres):
        self.points = [list(point) for point in points]
        self.spheres = np.concatenate([np.ravel(s) for s in spheres])
        first, second = (np.concatenate([np.ravel(w) for w in p]) for p in self.points)
        self._ends = first.astype("float64"), second.astype("float64")
        one, two = (np.sqrt(self._summed(e * e)) for e in self._ends)
        self.lengths = one, two
        units = [
            e / self._each(nonzero(r), 1.0) for e, r in zip(self._ends, (one, two), strict=True)
        ]
        apart, together = (self._summed((units[0] + f * units[1]) ** 2) for f in (-1, 1))
        self.angles = 2 * np.arctan2(np.sqrt(apart), np.sqrt(together))

    def _summed(self, values):
        on = self.spheres >= 0
        return np.bincount(self.spheres[on], values[on])

    def _each(self, values, other):
        """The value of each number's sphere; `other`, at the index -1, where there is none."""
        return np.append(values, other)[self.spheres]

    def __call__(self, t):
        check_number("t", float(t), most=1)
        shares = np.array([1 - t, t])
        angles = np.where(self.angles < CLOSE, 1.0, self.angles)
        arcs = [np.sin(s * angles) / np.sin(angles) for s in shares]
        arcs = [np.where(self.angles < CLOSE, s, a) for s, a in zip(shares, arcs, strict=True)]
        length = sum(s * r for s, r in zip(shares, self.lengths, strict=True))
        factors = [
            self._each(a * length / nonzero(r), s)
            for a, r, s in zip(arcs, self.lengths, shares, strict=True)
        ]
        place = factors[0] * self._ends[0] + factors[1] * self._ends[1]
        ends = np.cumsum([w.size for w in self.points[0]])[:-1]
        pairs = zip(np.split(place, ends), self.points[0], strict=True)
        return [part.reshape(w.shape).astype(w.dtype) for part, w in pairs]

    @property
    def length(self):
        """Length of the way on the product of spheres, the straight parts included."""
        off = self.spheres < 0
        straight = np.sum((self._ends[0] - self._ends[1])[off] ** 2)
        turns = (self.angles * np.mean(self.lengths, axis=0)) ** 2
        return float(np.sqrt(np.sum(turns) + straight))


def nonzero(lengths):
    return np.where(lengths == 0, 1.0, lengths)


def geodesic(model, first, second):
    """The `Geodesic` between two models on the product of the spheres of their units.

    Args:
        model: A model of their layers, as for `normal_form`.
        first: A model, or a list of arrays as of `get_weights`. It is brought into normal form.
        second: Likewise. To turn no unit further than needed, permute it by `match` first.

    Raises:
        ValueError: If the models do not have the same weights or no normal form.

    Example:
        >>> import keras, numpy as np
        >>> from keras_smoothout import landscape
        >>> net = [keras.layers.Dense(1, "relu", use_bias=False), keras.layers.Dense(1)]
        >>> model = keras.Sequential([keras.Input((2,)), *net])
        >>> last = [np.array([[1.0]]), np.array([0.0])]
        >>> path = landscape.geodesic(model, [[[2.0], [0.0]], *last], [[[0.0], [3.0]], *last])
        >>> path(0.5)[0].ravel().round(3)  # Half of a quarter turn.
        array([0.707, 0.707])

    Reference: Pittorino et al., ICML 2022, arXiv:2202.03038.
    """
    forms = [normal_form(model, whole(model, end)) for end in (first, second)]
    ends = [trainable(model, form.weights) for form in forms]
    return Geodesic(ends, trainable(model, forms[0].spheres))
