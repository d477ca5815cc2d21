"""The best classifier of two Gaussian clouds lies where training errors bear the most noise.

    python -m examples.gaussian_mixture

n = alpha N examples x = y v / sqrt(N) + sqrt(Delta) z with labels y = +-1, v and z standard normal.
The Bayes-optimal linear classifier is Hebb's, w = sum of y x. For N to infinity its test error, and
the error with normal noise of s times each weight, are

    Q(1 / sqrt(Delta (1 + Delta / alpha) (1 + s^2)))         s = 0 without noise

Other directions fit the training set better, such as logistic regression without a penalty, which
tends to the largest margin. But as noise on the weights grows, Hebb's direction is the one with the
fewest training errors. So SmoothOut with a large radius, relative to the norm of the weights, leads
from the largest margin to the Bayes-optimal error.

Reference: Baldassi et al., *Wide flat minima and optimal generalization in classifying
    high-dimensional Gaussian mixtures*, 2020 (abstract; the formulas were derived again).
"""

import keras
import numpy as np
from scipy.stats import norm

import keras_smoothout as ks
from examples import common
from keras_smoothout import landscape
from keras_smoothout.landscape.estimate import mean
from keras_smoothout.landscape.style import COLORS, tidy

ALPHA, DELTA = 1.0, 0.5
NOISES = (0.25, 0.5, 1.0, 2.0, 4.0)
RADII = (0.0, 0.5, 1.0, 2.0, 4.0)


def theory(noise=0.0):
    return norm.sf((DELTA * (1 + DELTA / ALPHA) * (1 + noise**2)) ** -0.5)


def clouds(N, seed):
    rng = np.random.default_rng(seed)
    v, y = rng.normal(size=N), np.tile([1.0, -1.0], int(ALPHA * N) // 2)
    x = y[:, None] * v / N**0.5 + DELTA**0.5 * rng.normal(size=(len(y), N))
    return v, x.astype("float32"), y


def classifier(w):
    model = keras.Sequential([keras.Input((len(w),)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.reshape(w, (-1, 1))])
    model = ks.wrap(model)
    return model


def trained(x, y, radius, steps):
    """Weights of logistic regression without a penalty, by SmoothOut on the whole batch."""
    model = classifier(1e-3 * np.random.default_rng(0).normal(size=x.shape[1]))
    optimizer = ks.SmoothOut(keras.optimizers.SGD(0.1), radius, scale="filter")
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer, loss, steps_per_execution=10)
    model.fit(x, (y + 1) / 2, batch_size=len(x), epochs=steps, verbose=0)
    return model.get_weights()[0][:, 0]


def test_error(w, v):
    return norm.sf(w @ v / (len(v) * DELTA) ** 0.5 / np.linalg.norm(w))


def noisy_errors(w, x, y, draws):
    """Training error, by the noise on each weight: local energy and the error without noise."""
    model = classifier(w)
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    objective = landscape.Objective(model, x, (y + 1) / 2)
    clean = objective.evaluate(objective.weights)[1]
    return [clean + landscape.local_energy(objective, s, draws).value for s in NOISES]

if __name__ == "__main__":
    import time
    for N in (500, ):
      for seed in range(2):
        v, x, y = clouds(N, seed)
        w = x.T @ y
        print("hebb", test_error(w, v), theory(), noisy_errors(w, x, y, 20))
        for r in RADII:
            t = time.process_time()
            u = trained(x, y, r, 1000); 
            print(r, test_error(u, v), np.linalg.norm(u), u@w/np.linalg.norm(u)/np.linalg.norm(w), noisy_errors(u, x, y, 20), time.process_time()-t)
