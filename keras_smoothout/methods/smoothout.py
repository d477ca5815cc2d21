"""SmoothOut: train on the average loss of a neighbourhood of the weights.

A minimum of the smoothed loss `E_u L(w + u)` is flat, since a sharp one is filled in by its walls.
Stochastic SmoothOut draws one `u` for each step, ghost batch and replica: an unbiased estimate of
the smoothed gradient for the price of one gradient. The original one averages over several copies.
"""

import types

import keras
from keras import ops

from keras_smoothout import backend, noise
from keras_smoothout.checks import (
    PERTURBATIONS,
    STATISTICS,
    check_choice,
    check_count,
    check_integer,
    check_names,
    check_strength,
    check_switch,
)
from keras_smoothout.method import Method, included, strength_at
from keras_smoothout.weights import copies_of, lerp


@keras.saving.register_keras_serializable("keras_smoothout")
class SmoothOut(Method):
    """Descend the loss averaged over a box (or a Gaussian) around the weights.

        u_1, ..., u_K = noise(seed, iteration, replica, chunk)
        g = (gradient(w + u_1) + ... + gradient(w + u_K)) / K
        w = inner_update(w, g)

    The noise is added to a copy; the weights never carry it. Loss and metrics are those of the pass
    at `w + u_1`; all copies see the same dropout masks.

    Args:
        inner: Optimizer that applies the gradient: an instance, a config or a name.
        radius: Half width of the uniform noise, or standard deviation of the normal one, in the
            unit set by `scale`: a float, or a `LearningRateSchedule` of the iteration. Defaults to
            `0.01`, which is cautious: at convergence `0.08` to `0.16` was best.
            `keras_smoothout.find_radius` suggests one.
        distribution: `"uniform"` or `"normal"`. Defaults to `"uniform"`.
        scale: Unit of `radius`: `"absolute"` (of the weights), `"weight"` (of each weight's own
            magnitude), `"filter"` (norm of each filter's noise over the norm of the filter, which
            lies along the last axis; each element of a 1-D weight is one) or `"filter_std"` (of the
            filter's norm, for each of its elements: with normal noise, LPF-SGD). Defaults to
            `"absolute"`.
        copies: Number of draws K that one gradient averages. Defaults to `1`.
        antithetic: Whether the copies come in pairs `+u, -u`. Defaults to `False`.
        exclude: Names of variables or layers without noise, compared with the parts of each
            variable's path. Defaults to `("gamma", "beta")`, the weights of normalizations;
            `"gamma"` includes the `scale` of RMSNormalization.
        perturbation: `"replica"` for a separate draw on each replica, `"shared"` for the same
            one. Defaults to `"replica"`.
        statistics: `"clean"` for BatchNormalization's moving statistics of `w`, which the model is
            evaluated with, by a forward pass in addition; `"perturbed"` for those of the pass at
            `w + u_1`. Defaults to `"clean"`.
        denoise: Whether the weights are clean again after the step. `False` is an ablation: the
            first draw of the step stays in the weights. Defaults to `True`.
        seed: Integer. Nested methods need different seeds to draw independently. Defaults to `0`.

    Raises:
        ValueError: If an argument is out of its range.

    Reduces to: `inner` when `radius=0`.
    Cost: `copies` gradients per step and one copy of the weights; with BatchNormalization, a
        forward pass of 32 examples, or of a sixteenth of the batch.
    Differs from the paper: nothing. As in its code, each ghost batch has its own draw; unlike
        there, nothing is subtracted again, so the weights are restored to the bit. The filters of
        transposed and depthwise convolutions lie along other axes than the last.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> model = ks.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        >>> model.compile(ks.SmoothOut(keras.optimizers.SGD(0.1, momentum=0.9), radius=0.01), "mse")
        >>> x = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (10, 1))
        >>> history = model.fit(x, x @ [[1.0], [2.0]], 3, 10, verbose=0, shuffle=False)
        >>> history.history["loss"][-1] < 0.01
        True

    Reference: Wen et al., *SmoothOut: Smoothing Out Sharp Minima to Improve Generalization in Deep
        Learning*, 2018, arXiv:1805.07898, Algorithm 1 (copies) and Section 4 (stochastic). Bisla et
        al., *Low-Pass Filtering SGD for Recovering Flat Optima in the Deep Learning Optimization
        Landscape*, AISTATS 2022, arXiv:2201.08025 (`scale="filter_std"`; its schedule of the radius
        was not checked).
    """

    per_copy = True

    def __init__(
        self,
        inner,
        radius=0.01,
        distribution="uniform",
        scale="absolute",
        copies=1,
        antithetic=False,
        exclude=("gamma", "beta"),
        perturbation="replica",
        statistics="clean",
        denoise=True,
        seed=0,
        **kwargs,
    ):
        check_strength("radius", radius)
        check_choice("distribution", distribution, noise.DISTRIBUTIONS)
        check_choice("scale", scale, noise.SCALES)
        check_count("copies", copies)
        check_choice("perturbation", perturbation, PERTURBATIONS)
        check_choice("statistics", statistics, STATISTICS)
        check_names("exclude", exclude)
        check_switch("antithetic", antithetic)
        check_switch("denoise", denoise)
        check_integer("seed", seed)
        if antithetic and copies % 2:
            raise ValueError(
                "`antithetic=True` draws pairs, so `copies` must be even. Received: "
                f"copies={copies}"
            )
        super().__init__(inner, **kwargs)
        if not denoise:
            self.check_nest(types.SimpleNamespace(sets_weights=True))
        self.radius = radius
        self.distribution = distribution
        self.scale = scale
        self.copies = copies
        self.antithetic = antithetic
        self.exclude = tuple(exclude)
        self.perturbation = perturbation
        self.statistics = statistics
        self.denoise = denoise
        self.seed = seed

    def gradients(self, evaluate, weights, step):
        first = evaluate(self.perturb(weights, step, 0))
        if self.copies == 1:
            return first

        def running_mean(mean, copy):
            found = evaluate(self.perturb(weights, step, copy)).means
            return lerp(mean, found, 1 / ops.cast(copy + 1, "float32"))

        return first.of(backend.scan(running_mean, first.means, ops.arange(1, self.copies)))

    def perturb(self, weights, step, copy):
        """`weights` plus the noise of one copy at one step, or `weights` itself without any."""
        if self.radius == 0:
            return weights
        radius = strength_at(self.radius, step)
        if self.antithetic:
            radius = radius * ops.cast(1 - 2 * (copy % 2), "float32")
            copy = copy // 2
        shared = self.perturbation == "shared" or not self.denoise
        return noise.perturb(
            weights,
            radius,
            self.seed,
            step.iteration,
            0 if shared else step.replica,
            step.chunk,
            copy,
            moved=included(self.trainable_variables, self.exclude),
            distribution=self.distribution,
            scale=self.scale,
            copies=copies_of(self.trainable_variables),
        )

    def update(self, apply, grads, variables):
        if not self.denoise:
            weights = [backend.read(v) for v in variables]
            noisy = self.perturb(weights, self.step(), 0)
            for variable, value in zip(variables, noisy, strict=True):
                variable.assign(value)
        apply(grads)
