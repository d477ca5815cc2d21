"""scikit-learn's digits, and a small network that several examples train on them."""

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_smoothout as ks
from keras_smoothout import datasets, landscape

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def arrays(split="train", examples=None, noise=0.0, seed=0):
    """Return inputs (n, 64) and labels (n,), of which a share `noise` is drawn again."""
    x, y = datasets.load("digits", split=split)
    x, y, rng = x.reshape(len(x), 64)[:examples], y[:examples], np.random.default_rng(seed)
    return x, np.where(rng.random(len(y)) < noise, rng.integers(0, 10, len(y)), y)


def network(widths=(64, 64), seed=0, inputs=64, outputs=10):
    """Return a ReLU network that a method can train, of weights that `seed` draws."""
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(w, "relu", kernel_initializer="he_normal") for w in widths]
    return ks.wrap(keras.Sequential([keras.Input((inputs,)), *layers, keras.layers.Dense(outputs)]))


def standardized():
    """Return the inputs (1797, pixels) that vary, each of mean 0 and deviation 1, and labels."""
    x, y = load_digits(return_X_y=True)
    x = x[:, x.std(0) > 0.5]
    return ((x - x.mean(0)) / x.std(0)).astype("float32"), y


def images(split="train"):
    """Return images (n, 8, 8, 1) and labels (n, 10), one-hot."""
    x, y = arrays(split)
    return x.reshape(-1, 8, 8, 1), np.eye(10, dtype="float32")[y]


def convolutional(cls, seed=0):
    """Return a model of the class `cls`, two convolutions and a dense layer, for the images."""
    keras.utils.set_random_seed(seed)
    h = inputs = keras.Input((8, 8, 1))
    for filters, stride in ((16, 1), (32, 2)):
        h = keras.layers.Conv2D(filters, 3, stride, "same", activation="relu")(h)
    return cls(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(h)))


def trained(model, x, y, optimizer, batch_size, updates, seed=0, callbacks=(), epochs=1):
    """Train a model for `epochs` times `updates` updates, and return it."""
    model.compile(optimizer, LOSS)
    data = ks.Epochs(x, y, batch_size, seed)
    options = {"epochs": epochs, "shuffle": False, "verbose": 0, "callbacks": list(callbacks)}
    model.fit(data, steps_per_epoch=updates, **options)
    return model


def cosine(rate, updates):
    """Return a learning rate that falls from `rate` to 0."""
    return keras.optimizers.schedules.CosineDecay(rate, updates)


def judged(model, *data):
    """Return loss and error of a model on some examples."""
    objective = landscape.Objective(model, *data, batch_size=2000, loss=LOSS)
    return objective.evaluate(objective.weights)
