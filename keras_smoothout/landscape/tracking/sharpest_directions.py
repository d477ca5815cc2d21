"""The sharpest directions of the loss along a training: `TrackSharpestDirections`."""

import time

import numpy as np

from keras_smoothout.around import chain
from keras_smoothout.checks import check_count, check_number
from keras_smoothout.landscape.curvature.hessian import hessian
from keras_smoothout.landscape.curvature.spectrum import eigenpairs
from keras_smoothout.landscape.tracking.track import Track
from keras_smoothout.methods.nudged_sgd import NudgedSGD

TINY = np.finfo("float64").tiny


class TrackSharpestDirections(Track):
    """Find the sharpest directions of the loss, and how the training moves along them.

        H v_i = curvature_i v_i                     largest eigenvalues, at a refresh
        overlap = ||V' s||**2 / ||s||**2            mean over the `steps` training steps s after it
        length_i = <s, v_i> / d_i                   least squares over the same steps

    `d_i` is the signed distance along `v_i` to the bottom of a parabola that has the slope and
    curvature of the loss at the refresh. A length of 1 goes to the bottom, of 2 to the other wall,
    of more than 2 up that wall. For full-batch gradient descent it is
    `learning_rate * curvature_i`. If the model's optimizer is `NudgedSGD`, or goes around it, it
    receives the directions.

    The logs hold `curvature_1` to `curvature_k`, `step_overlap`, and `step_length_1` to
    `step_length_k`, all of the last refresh. `sharpest_seconds` is the time taken in the epoch.

    Args:
        x: Some of the training data, as for `Objective`. The paper takes 5 % of it.
        y: As for `Objective`.
        sample_weight: As for `Objective`.
        k: Number of directions. Defaults to `None`: as many as `NudgedSGD` takes, else 5.
        every_epochs: Number of epochs from one refresh to the next; there is one at the start of
            each `fit`, too. Defaults to `1`, the paper's.
        every_steps: Number of training steps from one refresh to the next, in place of
            `every_epochs`. Defaults to `None`.
        steps: Number of training steps to follow after a refresh. Defaults to `10`.
        tolerance: Tolerance of the eigenpairs, as for `eigenpairs`. Defaults to `0.01`.
        seed: Integer, the seed of the start of Lanczos. Defaults to `0`.
        **options: Those of `Objective`: `batch_size`, `batch_norm`, `loss`, `progress`.

    Attributes:
        found: List of dicts, one for each refresh: `step`, `curvatures`, `overlap`, `lengths`,
            `seconds`. Its numbers are nan if the loss is not finite.
        directions: Array (weights, k), the directions of the last refresh with a finite loss.

    Cost: a refresh is one gradient and some 20 to 60 products with the Hessian over `x`; a followed
        step is a copy of the weights.
    Differs from the paper: BatchNormalization uses its moving statistics, unless
        `batch_norm="training"`; eigenvalues are the largest, not those of largest magnitude. If the
        model is compiled with `steps_per_execution`, that many steps count as one.

    Reference: Jastrzebski et al., *On the Relation Between the Sharpest Directions of DNN Loss and
        the SGD Step Length*, ICLR 2019, arXiv:1807.05031, Sections 3 and 4.
    """

    def __init__(
        self,
        x,
        y=None,
        sample_weight=None,
        *,
        k=None,
        every_epochs=1,
        every_steps=None,
        steps=10,
        tolerance=0.01,
        seed=0,
        **options,
    ):
        for name, value in (("k", k), ("every_steps", every_steps)):
            if value is not None:
                check_count(name, value)
        check_count("every_epochs", every_epochs)
        check_count("steps", steps)
        check_number("tolerance", tolerance)
        super().__init__(x, y, sample_weight, **options)
        self.k = k
        self.every_epochs = every_epochs
        self.every_steps = every_steps
        self.steps = steps
        self.tolerance = tolerance
        self.seed = seed
        self.found = []

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._nudged = nudged(self.model.optimizer)
        if self._nudged is not None and not self._nudged.built:  # `fit` builds it in step 1.
            self.model.optimizer.build(self.model.trainable_variables)
        wanted = self.k or (self._nudged.directions if self._nudged else 5)
        self._k = min(wanted, self.objective.size)
        self._step, self._following, self._due = 0, 0, True

    def on_epoch_begin(self, epoch, logs=None):
        self._due |= self.every_steps is None and epoch % self.every_epochs == 0
        self._seconds = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        began = time.perf_counter()
        if self._due or (self.every_steps and self._step % self.every_steps == 0):
            self._refresh()
            self._seconds += time.perf_counter() - began

    def on_train_batch_end(self, batch, logs=None):
        began = time.perf_counter()
        self._step += 1
        if self._following:
            self._follow()
            self._seconds += time.perf_counter() - began

    def on_epoch_end(self, epoch, logs=None):
        last = self.found[-1]
        values = {f"curvature_{i}": float(v) for i, v in enumerate(last["curvatures"], 1)}
        values["step_overlap"] = last["overlap"]
        values |= {f"step_length_{i}": float(v) for i, v in enumerate(last["lengths"], 1)}
        if logs is not None:
            logs |= values | {"sharpest_seconds": self._seconds}

    def _refresh(self):
        began = time.perf_counter()
        self.look()
        self._due, self._following = False, 0
        nan = np.full(self._k, np.nan)
        last = {"step": self._step, "curvatures": nan, "overlap": np.nan, "lengths": nan}
        self.found.append(last)
        loss, gradient = self.objective.loss_and_gradient(self.objective.weights)
        gradient = self.objective.flatten(gradient)
        if np.isfinite(loss) and np.isfinite(gradient).all():
            self._find(gradient)
        last["seconds"] = time.perf_counter() - began

    def _find(self, gradient):
        options = {"tolerance": self.tolerance, "seed": self.seed}
        pairs = eigenpairs(hessian(self.objective), self._k, **options)
        self.found[-1]["curvatures"] = pairs.values
        self.directions = pairs.vectors
        self._origin = self._place = self.objective.flatten(self.objective.weights)
        self._slopes = gradient @ pairs.vectors  # (k,)
        self._overlaps, self._products, self._squares = [], 0.0, 0.0
        self._following = self.steps
        if self._nudged is not None:
            chosen = pairs.vectors[:, : self._nudged.directions].T
            self._nudged.set_directions([self.objective.unflatten(v) for v in chosen])

    @np.errstate(all="ignore")  # A training that diverges would warn.
    def _follow(self):
        self._following -= 1
        self.look()
        place, last = self.objective.flatten(self.objective.weights), self.found[-1]
        step, gone = place - self._place, (self._place - self._origin) @ self.directions
        along, curvatures = step @ self.directions, last["curvatures"]
        bottom = -(self._slopes + curvatures * gone) / curvatures  # (k,) distance to it
        self._overlaps.append(np.sum(along**2) / max(np.sum(step**2), TINY))
        self._products, self._squares = self._products + along * bottom, self._squares + bottom**2
        last["overlap"] = float(np.mean(self._overlaps))
        last["lengths"] = self._products / np.maximum(self._squares, TINY)
        self._place = place


def nudged(optimizer):
    """The `NudgedSGD` that `optimizer` is or goes around, or `None`."""
    optimizers = chain(optimizer) if optimizer is not None else []
    return next((found for found in optimizers if isinstance(found, NudgedSGD)), None)
