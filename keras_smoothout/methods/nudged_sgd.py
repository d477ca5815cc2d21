"""Nudged-SGD: take shorter or longer steps along the sharpest directions of the loss.

SGD soon steps too far along the few directions of largest curvature: it bounces between the walls
of a valley, which keeps it out of sharper ones. Nudged-SGD scales that part of the step and leaves
the rest unchanged.
"""

import warnings

import keras
import numpy as np
from keras import ops

from keras_smoothout import backend
from keras_smoothout.around import chain
from keras_smoothout.checks import check_count, check_number
from keras_smoothout.method import Method
from keras_smoothout.weights import add, dot

TOLERANCE = 1e-3  # How far inner products of directions can be from those of a basis.


@keras.saving.register_keras_serializable("keras_smoothout")
class NudgedSGD(Method):
    """Scale the step of the inner optimizer along the k sharpest directions of the loss.

        step = inner_update(w, g) - w
        w = constraint(w + step + (factor - 1) * sum_k <v_k, step> v_k)

    The directions `v_k` are eigenvectors of the Hessian, largest eigenvalues first. The callback
    `keras_smoothout.landscape.TrackSharpestDirections` finds them every few epochs or steps and
    sets them by `set_directions`. Until then the step is that of the inner optimizer. The inner
    optimizer's momentum is never scaled. Works in any Keras model.

    Args:
        inner: Optimizer whose step is scaled: an instance, a config or a name.
        factor: Factor on the step along the sharpest directions. In the paper, less than 1 trains
            faster and into sharper regions. Defaults to `0.1`.
        directions: Number k of directions. Defaults to `5`.

    Raises:
        ValueError: If an argument is out of its range, or `inner` has `use_ema=True`.

    Reduces to: `inner` when `factor=1`.
    Cost: 1 gradient per step and `directions` copies of the weights that are kept. Finding the
        directions costs extra.
    Differs from the paper: `inner` can be any optimizer; the paper's is plain SGD. Directions are
        those of the largest eigenvalues; the paper's code takes the largest in magnitude, which can
        be negative.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        >>> optimizer = ks.NudgedSGD(keras.optimizers.SGD(0.1), factor=0.0, directions=1)
        >>> model.compile(optimizer, "mse")
        >>> optimizer.build(model.trainable_variables)
        >>> optimizer.set_directions([[np.array([[1.0], [0.0]])]])
        >>> before = model.get_weights()[0]
        >>> loss = model.train_on_batch(np.ones((1, 2)), np.full((1, 1), 9.0))
        >>> (model.get_weights()[0] != before).ravel().tolist()
        [False, True]

    Reference: Jastrzebski et al., *On the Relation Between the Sharpest Directions of DNN Loss and
        the SGD Step Length*, ICLR 2019, arXiv:1807.05031, Section 4.
    """

    sets_weights = transforms = True

    def __init__(self, inner, factor=0.1, directions=5, **kwargs):
        check_number("factor", factor)
        check_count("directions", directions)
        super().__init__(inner, **kwargs)
        if self.use_ema:
            raise ValueError(
                "`inner` must not average weights, which it would do before they are nudged: leave "
                "out `use_ema`, or put `Lookahead` around `NudgedSGD`. Received: use_ema=True in "
                f"{chain(self)[-1].name}"
            )
        self.factor = factor
        self.directions = directions

    def build(self, variables):
        super().build(variables)
        self.sharpest = [self.slots(f"sharpest_{k}") for k in range(self.directions)]

    def set_directions(self, directions):
        """Replace the sharpest directions.

        Args:
            directions: List of orthonormal vectors, each a list of arrays shaped like the trainable
                variables. No more than the argument `directions`; if fewer, the rest become zero.
        """
        if not self.built:
            raise ValueError(
                "`NudgedSGD` knows no weights yet: call `build(model.trainable_variables)` first."
            )
        shapes = [tuple(v.shape) for v in self.trainable_variables]
        given = [[tuple(np.shape(a)) for a in direction] for direction in directions]
        if not len(given) <= self.directions or any(g != shapes for g in given):
            raise ValueError(
                f"`directions` must be at most {self.directions} lists of arrays of shapes "
                f"{shapes}. Received: shapes {given}"
            )
        matrix = np.array(
            [np.concatenate([np.ravel(a) for a in d]) for d in directions], "float64"
        ).reshape(len(given), -1)  # (directions, weights)
        deviation = np.abs(matrix @ matrix.T - np.eye(len(given))).max(initial=0)
        if not deviation <= TOLERANCE:
            raise ValueError(
                "`directions` must be orthonormal. Received: inner products that deviate from it "
                f"by {deviation:.2g}"
            )
        for k, variables in enumerate(self.sharpest):
            for i, variable in enumerate(variables):
                value = directions[k][i] if k < len(given) else np.zeros(shapes[i])
                variable.assign(ops.cast(value, variable.dtype))

    def update(self, apply, grads, variables):
        before = [backend.read(v) for v in variables]
        apply(grads)
        after = [backend.read(v) for v in variables]
        step, nudged = add(after, -1.0, before), after
        for direction in self.sharpest:
            direction = [backend.read(v) for v in direction]
            nudged = add(nudged, (self.factor - 1) * dot(direction, step), direction)
        for variable, value in zip(variables, nudged, strict=True):
            variable.assign(variable.constraint(value) if variable.constraint else value)

    def finalize_variable_values(self, var_list):
        super().finalize_variable_values(var_list)
        idle = not any(np.any(ops.convert_to_numpy(v)) for d in self.sharpest for v in d)
        if idle and self.factor != 1:
            warnings.warn(
                "`NudgedSGD` was never given directions, so it was its inner optimizer all along. "
                "Pass `keras_smoothout.landscape.TrackSharpestDirections` to `fit`, or call "
                "`set_directions`.",
                stacklevel=2,
            )
