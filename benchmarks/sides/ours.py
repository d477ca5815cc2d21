import keras

import keras_smoothout as ks
from benchmarks.closed_forms import AVERAGE_DECAY, DECAY, MOMENTUM, RATE, RHO, SLOW_STEP_SIZE, TRUST
from benchmarks.sides import keras3, train_on_batch
from benchmarks.sides.networks import sync_period

VERSION = keras3.VERSION
METHODS = {
    "SAM": lambda sgd, name: ks.SAM(sgd, RHO),
    "Lookahead": lambda sgd, name: ks.Lookahead(sgd, sync_period(name), SLOW_STEP_SIZE),
    "LAMB": lambda sgd, name: ks.LAMB(RATE, decay=DECAY),
    "LARS": lambda sgd, name: ks.LARS(RATE, MOMENTUM, trust_coefficient=TRUST, decay=DECAY),
    "SWA": lambda sgd, name: ks.SWA(sgd),
    "EMA": lambda sgd, name: ks.SWA(sgd, ema_decay=AVERAGE_DECAY),
}


def contender(name, method):
    if method not in METHODS:  # The baselines are plain Keras.
        return keras3.contender(name, method)
    optimizer = METHODS[method](keras.optimizers.SGD(RATE, MOMENTUM), name)

    def averages(variables):
        return optimizer.evaluation_weights() if method in ("SWA", "EMA") else variables

    return train_on_batch.contender(keras, name, optimizer, ks.wrap, averages)
