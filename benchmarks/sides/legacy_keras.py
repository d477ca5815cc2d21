from importlib.metadata import version

import tf_keras

from benchmarks.closed_forms import AVERAGE_DECAY, MOMENTUM, RATE, RHO
from benchmarks.sides import train_on_batch

VERSION = f"tf_keras {tf_keras.__version__}, tensorflow {version('tensorflow')}"
METHODS = ("SGD", "SAM", "EMA")


def contender(name, method):
    average = {"use_ema": True, "ema_momentum": AVERAGE_DECAY} if method == "EMA" else {}
    optimizer = tf_keras.optimizers.SGD(RATE, MOMENTUM, **average)

    def around(model):
        sam = tf_keras.models.experimental.SharpnessAwareMinimization
        return sam(model, RHO) if method == "SAM" else model

    def averages(variables):
        if method == "EMA":
            optimizer.finalize_variable_values(variables)
        return variables

    return train_on_batch.contender(tf_keras, name, optimizer, around, averages)
