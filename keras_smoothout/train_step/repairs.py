"""Repairs of Keras' `fit` and `predict`, each with the fault that it works around.

They override methods of `keras.Model` and call nothing but Keras.
"""

import keras

from keras_smoothout import keras_internals


class TensorFlowRepairs(keras_internals.LocalBatch):
    """Let `fit` learn the shapes of a batch and read metrics with `MultiWorkerMirroredStrategy`.

    Keras averages a batch over workers, and scalar metrics along their first axis, which fails
    (keras-team/keras#20585).
    """

    def get_metrics_result(self):
        import tensorflow as tf

        result = super().get_metrics_result()
        inside = tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()
        if self._many_workers and inside:
            return keras.tree.map_structure(lambda v: tf.reshape(v, (1,)), result)
        return result


class JaxRepairs:
    """Keep the weights if the first step of `fit` fails; let `predict` work with many processes.

    Keras' `fit` empties the variables before the first step, and restores nothing if that fails.
    Its `predict` fails where a process holds only a part of the outputs. Here each gets all.
    """

    def fit(self, *args, **kwargs):
        optimizer = getattr(self.optimizer, "variables", ())
        variables = [*self.variables, *optimizer, *self.metrics_variables]
        kept = [(variable, variable.value) for variable in variables]  # By reference: no copies.
        try:
            return super().fit(*args, **kwargs)
        finally:
            for variable, value in kept:
                if keras_internals.emptied(variable):
                    variable.assign(value)

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
