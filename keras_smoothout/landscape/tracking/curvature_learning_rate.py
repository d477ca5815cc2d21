"""Learning rate and momentum from the curvature: no tuning, a little Lanczos.

On a quadratic the best learning rate and momentum of the heavy ball follow from the largest and the
smallest curvature. Lanczos finds both in a few products with the Hessian of a batch.
"""

import math
import time

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from keras_smoothout import keras_internals
from keras_smoothout.around import chain
from keras_smoothout.checks import check_choice, check_count, check_number
from keras_smoothout.landscape.curvature.hessian import hessian
from keras_smoothout.landscape.curvature.spectrum import lanczos
from keras_smoothout.landscape.tracking.track import Track

RULES = ("heavy_ball", "cauchy")
TINY = float(np.finfo("float64").tiny)
CHANGE = 0.01  # Share of `1 - momentum`: a smaller change is not worth compiling the step again.


def heavy_ball(largest, smallest):
    """Best learning rate and momentum of the heavy ball for curvatures between two numbers.

        learning_rate = (2 / (sqrt(largest) + sqrt(smallest)))**2
        momentum = ((sqrt(largest) - sqrt(smallest)) / (sqrt(largest) + sqrt(smallest)))**2

    The distance to the minimum then shrinks by `sqrt(momentum)` per step, along all directions.

    Args:
        largest: Largest curvature, > 0.
        smallest: Smallest curvature, > 0.

    Example:
        >>> from keras_smoothout.landscape.tracking.curvature_learning_rate import heavy_ball
        >>> rate, momentum = heavy_ball(9.0, 1.0)
        >>> rate, momentum
        (0.25, 0.25)

    Reference: Polyak, *Some methods of speeding up the convergence of iteration methods*, 1964.
    """
    if not 0 < smallest <= largest < math.inf:
        raise ValueError(
            "The curvatures must be finite and 0 < smallest <= largest. Received: "
            f"largest={largest}, smallest={smallest}"
        )
    total = math.sqrt(largest) + math.sqrt(smallest)
    return 4 / total**2, ((math.sqrt(largest) - math.sqrt(smallest)) / total) ** 2


class CurvatureLearningRate(Track):
    """Set learning rate and momentum by the curvature, every few epochs.

        L, mu = largest and smallest Ritz value of the Hessian after `lanczos_steps`
        learning_rate, momentum = heavy_ball(L, max(mu, floor * L))           "heavy_ball"
        learning_rate = g'g / g'Hg                                            "cauchy"

    The logs hold `learning_rate` and `curvature_seconds`. With "heavy_ball" they also hold
    `momentum`, `largest_curvature` and `smallest_curvature`; with "cauchy" `gradient_curvature`,
    the denominator for a `g` of length 1.

    Args:
        x: Some of the training data, as for `keras_smoothout.landscape.Objective`. The curvature of
            a batch exceeds that of the whole data, so take about as many examples as a batch has.
        y: As for `Objective`.
        sample_weight: As for `Objective`.
        rule: `"heavy_ball"`, for SGD with a momentum above 0; or `"cauchy"`, the exact line search
            of gradient descent, which leaves the momentum unchanged and works with any optimizer.
            Defaults to `"heavy_ball"`.
        every_epochs: Number of epochs from one measurement to the next. Defaults to `1`.
        lanczos_steps: Number of products with the Hessian. Defaults to `20`.
        floor: Smallest curvature that counts, as a share of the largest: the Hessian of a network
            has curvatures of 0 and below, for which there is no best momentum. Defaults to `0.01`,
            a momentum of at most 0.67.
        scale: Factor on the learning rate. The rule itself is at the edge of stability. Defaults to
            `1.0`.
        seed: Integer, the seed of the start of Lanczos. Defaults to `0`.
        **options: Those of `Objective`: `batch_size`, `batch_norm`, `loss`, `progress`.

    Raises:
        ValueError: If an argument is out of its range; in `fit`, if the optimizer has a schedule of
            its learning rate or, for `"heavy_ball"`, no momentum above 0.

    Cost: `lanczos_steps` products with the Hessian over `x` (one for `"cauchy"`). When the momentum
        changes, the training step is compiled again, because to Keras the momentum is a constant. A
        change of less than 1 % of its distance from 1 is skipped.
    Differs from the paper: `floor`; if the curvature is not above 0 along the gradient
        (`"cauchy"`) or anywhere (`"heavy_ball"`), the learning rate stays unchanged. In the paper's
        code "cauchy" holds for one epoch, and the next has the schedule's learning rate again.

    Example:
        >>> import keras, numpy as np
        >>> from keras_smoothout.landscape import CurvatureLearningRate
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(keras.optimizers.SGD(1.0, momentum=0.9), "mse")
        >>> x = np.array([[1.0, 0.0], [0.0, 3.0]])  # Curvatures 1 and 9.
        >>> rule = CurvatureLearningRate(x, x[:, :1])
        >>> history = model.fit(x, x[:, :1], epochs=1, verbose=0, callbacks=[rule])
        >>> [round(history.history[name][0], 4) for name in ("learning_rate", "momentum")]
        [0.25, 0.25]

    Reference: Granziol et al., *Learning Rates as a Function of Batch Size: A Random Matrix Theory
        Approach to Neural Network Training*, JMLR 2022, arXiv:2006.09092.
    """

    def __init__(
        self,
        x,
        y=None,
        sample_weight=None,
        *,
        rule="heavy_ball",
        every_epochs=1,
        lanczos_steps=20,
        floor=0.01,
        scale=1.0,
        seed=0,
        **options,
    ):
        check_choice("rule", rule, RULES)
        check_count("every_epochs", every_epochs)
        check_count("lanczos_steps", lanczos_steps)
        check_number("floor", floor, least=TINY, most=1)
        check_number("scale", scale)
        super().__init__(x, y, sample_weight, **options)
        self.rule = rule
        self.every_epochs = every_epochs
        self.lanczos_steps = lanczos_steps
        self.floor = floor
        self.scale = scale
        self.seed = seed

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        optimizer = chain(self.model.optimizer)[-1]
        rate = keras_internals.learning_rate(optimizer)
        if isinstance(rate, LearningRateSchedule):
            raise ValueError(
                "`CurvatureLearningRate` sets the learning rate, so it must be a number. Received: "
                f"an optimizer with the schedule {rate}"
            )
        momentum = getattr(optimizer, "momentum", 0.0)
        heavy = momentum > 0 or getattr(optimizer, "momentums", ())  # This rule can set it to 0.
        nesterov = getattr(optimizer, "nesterov", False)
        if self.rule == "heavy_ball" and not (
            isinstance(optimizer, keras.optimizers.SGD) and heavy and not nesterov
        ):
            raise ValueError(
                "The rule 'heavy_ball' sets the momentum of `keras.optimizers.SGD`, which must be "
                "above 0 before, and not Nesterov's. Received: "
                f"{type(optimizer).__name__} with momentum={momentum}, nesterov={nesterov}"
            )
        self._optimizer, self._found = optimizer, {}

    def on_epoch_begin(self, epoch, logs=None):
        began = time.perf_counter()
        if epoch % self.every_epochs == 0:
            self.look()
            self._found = self._by_line_search() if self.rule == "cauchy" else self._by_spectrum()
        self._seconds = time.perf_counter() - began

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self._optimizer.learning_rate))
            logs |= self._found | {"curvature_seconds": self._seconds}

    def _by_spectrum(self):
        steps = min(self.lanczos_steps, self.objective.size)
        found = lanczos(hessian(self.objective), steps, seed=self.seed)
        off = found.off_diagonal[: len(found.diagonal) - 1]
        ritz = np.linalg.eigvalsh(np.diag(found.diagonal) + np.diag(off, 1) + np.diag(off, -1))
        largest, smallest = float(ritz[-1]), float(ritz[0])
        if largest > 0:
            rate, momentum = heavy_ball(largest, max(smallest, self.floor * largest))
            self._optimizer.learning_rate = self.scale * rate
            self._set_momentum(momentum)
        return {
            "momentum": self._optimizer.momentum,
            "largest_curvature": largest,
            "smallest_curvature": smallest,
        }

    def _set_momentum(self, momentum):
        if abs(momentum - self._optimizer.momentum) > CHANGE * (1 - momentum):
            self._optimizer.momentum = momentum
            self.model.make_train_function(force=True)

    def _by_line_search(self):
        objective = self.objective
        gradient = objective.flatten(objective.loss_and_gradient(objective.weights)[1])
        square, curvature = gradient @ gradient, gradient @ (hessian(objective) @ gradient)
        if curvature > 0:
            self._optimizer.learning_rate = self.scale * float(square / curvature)
        return {"gradient_curvature": float(curvature / square) if square else np.nan}
