"""How `fit` begins inside an epoch: data that is told where, and steps that only count."""

import inspect
from typing import NamedTuple

import keras

from keras_smoothout import keras_internals, saved_state
from keras_smoothout.checkpoint_files import Position
from keras_smoothout.checks import check_epoch_ends

METRICS = "metrics/"  # Prefix of their arrays.


class Resumed(NamedTuple):
    """What the first epoch after a checkpoint begins with."""

    position: Position
    arrays: dict
    reads: bool = True  # Whether the batches before the position are read and dropped.

    def skip(self, model):
        """Let `fit` pass over the steps of the epoch that are done."""
        saved = {
            name.removeprefix(METRICS): array
            for name, array in self.arrays.items()
            if name.startswith(METRICS)
        }
        if self.position.step:
            skip(model, self.position.step, saved or None, self.reads)
        elif saved_state.difference(watched(model), saved) is None:
            saved_state.assign(watched(model), saved)


def watched(model):
    """The variables of a callback that sees the gradients of `model`, which last beyond epochs."""
    return getattr(getattr(model, "_watcher", None), "variables", ())


def running_fit(model, frame=None):
    """The arguments and other names of the `fit` of `model` that is running, or `None`.

    `fit` tells callbacks neither its data nor that it ended by an error.

    Args:
        model: A Keras model.
        frame: Frame inside of which `fit` is looked for. Defaults to `None`, this one.
    """
    frame = frame or inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "fit":
            names = frame.f_locals
            if names.get("self") is model and "steps_per_epoch" in names:
                return dict(names)
        frame = frame.f_back
    return None


def seek(data, position, steps):
    """Tell `data` where to begin; return whether it can be told.

    Raises:
        ValueError: If `data` never ends and `fit` was not told how long an epoch is, or other
            workers read ahead of it.
    """
    check_epoch_ends(data, steps)
    if not hasattr(data, "seek"):
        return False
    if getattr(data, "workers", 1) > 1 or getattr(data, "use_multiprocessing", False):
        raise ValueError(
            "`workers` must be 1, without `use_multiprocessing`, for data that is told where to "
            f"begin: others read ahead. Received: workers={data.workers}"
        )
    data.seek(*position, steps)
    return True


def skip(model, steps, saved, reads):
    """Let `fit` take so many steps that do nothing, at the beginning of an epoch.

    `fit` cannot begin inside an epoch. So its first calls of `model.train_function` come to a
    function that only returns the logs of the step where the epoch was interrupted. Metrics are set
    to what they were there, so at the end of the epoch the means are those over all of its steps.

    Args:
        model: A model in `fit`, in `on_epoch_begin`.
        steps: Number of steps.
        saved: Dict of arrays, the values of `model.metrics_variables` after these steps; or `None`,
            which leaves the means to the steps that follow.
        reads: Whether to read the batches of these steps and drop them.

    Raises:
        ValueError: If a call of the train function takes a number of steps that does not divide
            `steps`, or the metrics are others.
    """
    train, history, at_once = model.train_function, model.history, model.steps_per_execution
    if steps % at_once:
        raise ValueError(
            "`steps_per_execution` must divide the steps of the epoch that are done, which are "
            f"{steps}. Received: steps_per_execution={at_once}"
        )
    left, logs = steps // at_once, None

    def restored():
        """Set the metrics, and return the logs that they make."""
        variables = model.metrics_variables
        if saved is not None:
            differs = saved_state.difference(variables, saved)
            if differs:
                raise ValueError(
                    "`metrics` must be those of the interrupted training until its epoch is over: "
                    f"{differs}"
                )
            saved_state.assign(variables, saved)
        return model.get_metrics_result()

    def skipped(*given):  # An iterator, and before it, on JAX, the state.
        nonlocal left, logs
        if model.history is not history:  # The `fit` that it was for has ended by an error.
            model.train_function = train
            return train(*given)
        *state, iterator = given
        if logs is None:  # TensorFlow has no metrics before the first step is traced.
            keras_internals.build_by(model, iterator.element_spec)
            logs = restored()
        for _ in range(at_once if reads else 0):
            next(iterator)
        left -= 1
        if not left:
            model.train_function = train
        return (dict(logs), *state) if state else dict(logs)

    if keras.backend.backend() == "jax" or keras_internals.under_strategy(model):
        logs = restored()
    skipped.steps = steps
    model.train_function = skipped


class Counting(keras.callbacks.Callback):
    """Base of callbacks that count the steps of all trainings, also where `Checkpoint` goes on.

    It counts steps that only accumulate, but not those whose float16 gradients overflowed. If an
    execution has several steps, it counts after the last one.
    """

    def __init__(self):
        super().__init__()
        self.steps = self._before = 0

    def on_train_begin(self, logs=None):
        self._begun = False

    def on_epoch_begin(self, epoch, logs=None):
        if not self._begun:  # `Checkpoint` has restored the optimizer by now.
            self._begun = True
            optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
            self.steps = max(self.steps, int(keras_internals.calls(optimizer).numpy()))
            self.begin()
        self._before = self.steps

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            self._before -= skipped_steps(self.model)  # `Checkpoint` has `fit` count them again.

    def on_train_batch_end(self, batch, logs=None):
        steps, self.steps = self.steps, max(self.steps, self._before + batch + 1)
        if self.steps > steps:
            self.stepped(steps)

    def begin(self):
        """Begin the first epoch of a `fit`, after `self.steps`."""

    def stepped(self, before):
        """Do what is due after `self.steps`, which were `before`."""


def skipped_steps(model):
    """The number of steps that the epoch of `fit` which begins had behind it."""
    return getattr(model.train_function, "steps", 0)
