"""How a step reads and writes its variables, which Keras leaves to its backends."""

import keras

from keras_smoothout.train_step.repairs import undone

if keras.backend.backend() == "tensorflow":
    from keras_smoothout.train_step import tensorflow as _step
    from keras_smoothout.train_step.repairs import TensorFlowRepairs as Repairs
else:
    from keras_smoothout.train_step import jax as _step
    from keras_smoothout.train_step.repairs import JaxRepairs as Repairs

__all__ = [
    "Repairs",
    "at_evaluation_weights",
    "build",
    "built_first",
    "predict",
    "plain",
    "test",
    "train",
    "undone",
]

at_evaluation_weights = _step.at_evaluation_weights
build = _step.build
built_first = _step.built_first
plain = _step.plain
predict = _step.predict
test = _step.test
train = _step.train
