"""Repairs of Keras' `fit`, `evaluate` and `predict`, each with the fault that it works around.

They override methods of `keras.Model` and call nothing but Keras.
"""

import contextlib
import signal
import threading

import keras

from keras_smoothout import keras_internals


class Repaired:
    """Mixin: has each of Keras' loops run inside `repaired`, with the name of its function."""

    def fit(self, *args, **kwargs):
        with self.repaired("train_function"):
            return super().fit(*args, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        with self.repaired("train_function"):
            return super().train_on_batch(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        with self.repaired("test_function"):
            return super().evaluate(*args, **kwargs)

    def test_on_batch(self, *args, **kwargs):
        with self.repaired("test_function"):
            return super().test_on_batch(*args, **kwargs)

    def predict(self, *args, **kwargs):
        with self.repaired("predict_function"):
            return super().predict(*args, **kwargs)

    def predict_on_batch(self, *args, **kwargs):
        with self.repaired("predict_function"):
            return super().predict_on_batch(*args, **kwargs)


class TensorFlowRepairs(Repaired, keras_internals.LocalBatch):
    """Let `fit` learn the shapes of a batch and read metrics with `MultiWorkerMirroredStrategy`.

    Keras averages a batch over workers, and scalar metrics along their first axis, which fails
    (keras-team/keras#20585). After an error in a first step, TensorFlow keeps what it has of the
    function, and returns nothing from then on; here it is traced again.
    """

    @contextlib.contextmanager
    def repaired(self, function):
        try:
            yield
        except BaseException:
            setattr(self, function, None)
            raise

    def get_metrics_result(self):
        import tensorflow as tf

        result = super().get_metrics_result()
        inside = tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()
        if keras_internals.many_workers(self) and inside:
            return keras.tree.map_structure(lambda v: tf.reshape(v, (1,)), result)
        return result


class JaxRepairs(Repaired, keras_internals.JaxState):
    """Keep the weights if a step fails or is interrupted; let `predict` work with many processes.

    Keras' steps give the memory of the variables away, and put new values there when all is done.
    After an error in the first step, or Ctrl-C within any, the weights would be gone. Here they are
    put back, and Ctrl-C waits for the end of the step; a second one does not.
    Keras' `predict` fails where a process holds only a part of the outputs. Here each gets all.
    """

    _interrupts = ()  # What waits for the end of a step.
    _kept = None  # The variables and their values when a step took them.

    def state_is_given(self):
        if self._kept is not None:
            optimizer = getattr(getattr(self, "optimizer", None), "variables", ())
            variables = [*self.variables, *optimizer, *self.metrics_variables]
            self._kept[:] = [(v, v.value) for v in variables]  # By reference: no copies.

    def state_is_whole(self):
        if self._interrupts:
            signal.default_int_handler(*self._interrupts.pop())

    @contextlib.contextmanager
    def repaired(self, function):
        outer, kept = self._kept, []
        vars(self)["_kept"] = kept  # The list itself, which Keras would copy.
        with interrupts_noted() as noted:
            if noted is not None:
                vars(self)["_interrupts"] = noted
            try:
                yield
            finally:
                super().jax_state_sync()
                vars(self)["_kept"] = outer
                for variable, value in kept:
                    if keras_internals.emptied(variable):
                        variable.assign(value)
            if noted is not None:
                self.state_is_whole()  # What came after the last step.

    def predict_step(self, state, data):
        import jax

        outputs, state = super().predict_step(state, data)
        distribution = keras.distribution.distribution()
        if distribution is not None and jax.process_count() > 1:
            everywhere = jax.sharding.NamedSharding(
                distribution.device_mesh.backend_mesh, jax.sharding.PartitionSpec()
            )
            outputs = jax.lax.with_sharding_constraint(outputs, everywhere)
        return outputs, state


@contextlib.contextmanager
def undone(model):
    """Undo at the end of the block, also after an error, what callbacks do for one evaluation.

    Keras calls no callback after an error. `model.until_evaluated` is an `ExitStack` for them.
    """
    with contextlib.ExitStack() as stack:
        vars(model)["until_evaluated"] = stack  # Not tracked: it is no part of the model.
        try:
            yield
        finally:
            del vars(model)["until_evaluated"]


@contextlib.contextmanager
def interrupts_noted():
    """Note the first Ctrl-C inside the block in the list that it yields; a second one raises.

    It yields `None`, and changes nothing, where Ctrl-C does not raise or is another's to handle.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    numbers = [n for n in numbers if signal.getsignal(n) is signal.default_int_handler]
    if not numbers or threading.current_thread() is not threading.main_thread():
        yield None
        return
    noted = []

    def note(number, frame):
        if noted:
            signal.default_int_handler(*noted.pop())
        noted.append((number, frame))

    for number in numbers:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number in numbers:
            signal.signal(number, signal.default_int_handler)
