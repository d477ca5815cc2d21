"""One of the workers of test_multi_worker: `TF_CONFIG=... python worker.py FILE`.

It trains a row for each place of the seam and each family, and writes to FILE what it found, and
how a plain `keras.Model` fails.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from support.contract import FAMILIES, FEW, compiled
from support.nets import LOSS, sgd

EXAMPLES, BATCH = 48, 16


def examples():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES, 6)).astype("float32")
    return x, (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)


def data():
    return tf.data.Dataset.from_tensor_slices(examples()).batch(BATCH)


def run(name, strategy):
    """What a row finds on the devices of `strategy`."""
    with strategy.scope():
        model = compiled(name, dropout=0.0)
    options = {"shuffle": False, "verbose": 0}
    history = model.fit(data(), epochs=2, validation_data=data(), **options).history
    evaluated = model.evaluate(data(), verbose=0, return_dict=True)
    predicted = model.predict(data(), verbose=0)
    return {
        "weights": [keras.ops.convert_to_numpy(v).tolist() for v in model.trainable_variables],
        "history": {key: list(map(float, value)) for key, value in history.items()},
        "evaluated": {key: float(value) for key, value in evaluated.items()},
        "predictions": len(predicted),
    }


def plain_keras(strategy):
    """The error of a `keras.Model`, or `None`."""
    with strategy.scope():
        inputs = keras.Input((6,))
        model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
        model.compile(sgd(), LOSS)
    try:
        model.fit(data(), verbose=0)
    except Exception as error:
        return type(error).__name__
    return None


def main(path):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    found = {name: run(name, strategy) for name in (*FEW, *FAMILIES)}
    Path(path).write_text(json.dumps(found | {"plain keras": plain_keras(strategy)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
