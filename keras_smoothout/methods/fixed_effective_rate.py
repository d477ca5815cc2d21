"""Training on the sphere: the effective learning rate of scale-invariant weights is held fixed.

Behind BatchNormalization only the direction of a weight matters. What counts is the learning rate
over the squared norm, and the norm grows while training goes on. Held fixed, this effective rate
decides between three regimes: convergence, chaotic equilibrium, divergence to a random walk.
"""

import math
import warnings

import keras
import numpy as np
from keras import ops

from keras_smoothout import backend
from keras_smoothout.around import chain
from keras_smoothout.checks import check_choice, check_names, check_number
from keras_smoothout.method import Method
from keras_smoothout.weights import along, copies_of, dot, filter_norms, multiply, norm, scale

PERS = ("all", "filter")
RADIAL = 0.01  # Share of the first gradient along the weights that is no matter of rounding.


@keras.saving.register_keras_serializable("keras_smoothout")
class FixedEffectiveRate(Method):
    """Descend on a sphere of fixed radius, by a learning rate that is the effective one.

        w = inner_update(w, r0^2 * g)          for the named weights; others * g for the others
        w = w * r0 / ||w||                     after each update

    `r0` is the norm of the named weights at the first step, over all of them together; it is saved,
    and each of some `Copies` has its own. With `per="filter"`, each filter has norm
    `r0 / sqrt(filters)` from the first step on, where filters are scaled to it. A schedule of the
    inner optimizer is one of the effective rate. Works in any Keras model.

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name; plain SGD in
            the paper. Its momentum is not projected on the sphere.
        weights: Names of the scale-invariant weights, as `keras_smoothout.scale_invariant(model)`
            finds them: paths, or parts of them. Defaults to `("kernel",)`: all kernels.
        per: `"all"` for one sphere of all named weights, `"filter"` for one of each filter.
            Defaults to `"all"`.
        others: Learning rate of all other weights, in units of the effective one; 0 freezes them,
            as the paper freezes its last layer. Defaults to `0.0`.

    Raises:
        ValueError: If an argument is out of its range, or `inner` has `use_ema=True`; in `build`,
            if a name is that of no weight.

    Reduces to: `inner` when `weights=()` and `others=1`.
    Cost: 1 gradient per step; the named weights are read and written once more.
    Differs from the paper: its networks have no offsets and scales in normalizations and a last
        layer of norm 10; here that is up to the model. BatchNormalization's epsilon breaks the
        invariance where variances are as small: lower it. After `fit`, a warning says if the first
        gradient was not at a right angle to the named weights; L2 regularizers are not.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> norm = keras.layers.BatchNormalization(epsilon=1e-6)
        >>> net = [keras.layers.Dense(8, use_bias=False), norm]
        >>> model = keras.Sequential([keras.Input((2,)), *net, keras.layers.Dense(1)])
        >>> weights = ks.scale_invariant(model)
        >>> model.compile(ks.FixedEffectiveRate("sgd", weights, others=1.0), "mse")
        >>> before = np.linalg.norm(model.get_weights()[0])
        >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> history = model.fit(x, x @ [[1.0], [2.0]], epochs=3, verbose=0)
        >>> bool(np.isclose(np.linalg.norm(model.get_weights()[0]), before))
        True

    Reference: Kodryan et al., *Training Scale-Invariant Neural Networks on the Sphere Can Happen in
        Three Regimes*, NeurIPS 2022, arXiv:2209.03695; the rule is that of its published code.
    """

    per_copy = sets_weights = transforms = True

    def __init__(self, inner, weights=("kernel",), per="all", others=0.0, **kwargs):
        check_names("weights", weights)
        check_choice("per", per, PERS)
        check_number("others", others)
        if not weights and not others:
            raise ValueError(
                "`weights` must name some, or `others` be more than 0: no weight would be trained. "
                f"Received: weights={weights!r}, others={others}"
            )
        super().__init__(inner, **kwargs)
        if self.use_ema:
            raise ValueError(
                "`inner` must not average weights, which it would do before they return to the "
                f"sphere: leave out `use_ema`. Received: use_ema=True in {chain(self)[-1].name}"
            )
        self.weights = tuple(weights)
        self.per = per
        self.others = others

    def build(self, variables):
        super().build(variables)
        parts = [{v.path, *v.path.split("/")} for v in self.trainable_variables]
        unknown = sorted(set(self.weights).difference(*parts))
        if parts and unknown:
            raise ValueError(
                "`weights` must name weights of the model, by paths or parts of them. Received: "
                f"{unknown}, which is in none of {[v.path for v in self.trainable_variables]}"
            )
        self._on = tuple(i for i, names in enumerate(parts) if names & set(self.weights))
        wide = {v.dtype for v in self.trainable_variables} & {"float64"} or {"float32"}
        shape = (copies_of(variables),) if copies_of(variables) else ()
        self.sphere_radius = self.add_variable(shape, "zeros", *wide, name="radius")
        self.radial = self.add_variable(shape, "zeros", *wide, name="radial")

    def update(self, apply, grads, variables):
        on = [variables[i] for i in self._on]
        others = [v for i, v in enumerate(variables) if i not in self._on]
        kept = [backend.read(v) for v in others]
        factor = {i: self.others for i in range(len(variables))} | dict.fromkeys(self._on, 1.0)
        grads = [
            g if g is None or factor[i] == 1 else factor[i] * backend.dense(g)
            for i, g in enumerate(grads)
        ]
        grads = self._begun(grads, on) if on else grads
        apply(grads)
        if on:
            backend.assign_if(self.updated, on, lambda: self._retracted(on))
        for variable, value in zip(others, kept, strict=True):
            if self.others == 0:
                variable.assign(value)

    def _begun(self, grads, on):
        """The gradients on the sphere, times its squared radius; the first step finds both."""
        here, first = [backend.read(v) for v in on], ops.all(backend.read(self.sphere_radius) == 0)
        copies = copies_of(on)
        mine = [
            ops.zeros_like(w) if grads[i] is None else backend.dense(grads[i])
            for i, w in zip(self._on, here, strict=True)
        ]

        def sums():
            length = norm(here, copies)
            return [dot(mine, here, copies), norm(mine, copies) * length, length]

        zeros = [ops.zeros(self.sphere_radius.shape, self.sphere_radius.dtype) for _ in range(3)]
        along, most, length = backend.cond(first, sums, lambda: zeros)
        along, most = backend.all_reduce_sum([along, most])
        radial = ops.abs(along) / ops.where(most > 0, most, 1.0)
        self.radial.assign(ops.where(first, radial, backend.read(self.radial)))
        self.sphere_radius.assign(ops.where(first, length, backend.read(self.sphere_radius)))
        if self.per == "filter":
            ratios = self._ratios(here)
            mine = [ops.where(first, g / r, g) for g, r in zip(mine, ratios, strict=True)]
            backend.assign_if(first, on, lambda: self._retracted(on))
        for i, g in zip(self._on, scale(ops.square(self.sphere_radius), mine), strict=True):
            grads[i] = g
        return grads

    def _ratios(self, weights):
        """Factor of each weight or filter that brings it to the sphere."""
        radius, copies = backend.read(self.sphere_radius), copies_of(self.trainable_variables)
        if self.per == "all":
            length = norm(weights, copies)
            ratio = ops.cast(radius, length.dtype) / ops.where(length > 0, length, 1.0)
            return [along(ratio, w) for w in weights]
        lengths = [filter_norms(w, copies) for w in weights]
        filters = sum(math.prod(n.shape) for n in lengths) // (copies or 1)
        ratios = [along(radius / filters**0.5, n) / ops.where(n > 0, n, 1.0) for n in lengths]
        return [ops.cast(r, w.dtype) for r, w in zip(ratios, weights, strict=True)]

    def _retracted(self, on):
        here = [backend.read(v) for v in on]
        return multiply(here, self._ratios(here))

    def finalize_variable_values(self, var_list):
        super().finalize_variable_values(var_list)
        radial = float(np.max(ops.convert_to_numpy(self.radial)))
        if radial > RADIAL:
            warnings.warn(
                "The first gradient was not at a right angle to the named weights, so the loss "
                "depends on their norm: pass `weights=keras_smoothout.scale_invariant(model)`, or "
                "lower the epsilon of BatchNormalization. Received: a share along the weights of "
                f"{radial:.2g}, weights={self.weights!r}",
                stacklevel=2,
            )
