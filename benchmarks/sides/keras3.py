from importlib.metadata import version

import keras

from benchmarks.closed_forms import AVERAGE_DECAY, BETAS, DECAY, EPSILON, MOMENTUM, RATE
from benchmarks.sides import train_on_batch

BACKEND = keras.backend.backend()
VERSION = f"Keras {keras.__version__}, {BACKEND} {version(BACKEND)}"
AVERAGE = {"use_ema": True, "ema_momentum": AVERAGE_DECAY}
METHODS = {
    "SGD": lambda: keras.optimizers.SGD(RATE, MOMENTUM),
    "Adam": lambda: keras.optimizers.Adam(0.001),
    "LAMB": lambda: keras.optimizers.Lamb(RATE, *BETAS, EPSILON, weight_decay=DECAY),
    "EMA": lambda: keras.optimizers.SGD(RATE, MOMENTUM, **AVERAGE),
}


def contender(name, method):
    optimizer = METHODS[method]()

    def averages(variables):
        if method == "EMA":
            optimizer.finalize_variable_values(variables)
        return variables

    return train_on_batch.contender(keras, name, optimizer, lambda model: model, averages)
