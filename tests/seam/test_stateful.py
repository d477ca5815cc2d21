"""Stateful recurrent layers keep their state from batch to batch, as with Keras' own step."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_smoothout as ks

X = np.random.default_rng(0).normal(size=(8, 5, 3)).astype("float32")
Y = np.zeros((8, 1), "float32")
RECURRENT = {
    "LSTM": lambda: layers.LSTM(4, stateful=True),
    "GRU": lambda: layers.GRU(4, stateful=True),
    "SimpleRNN": lambda: layers.SimpleRNN(4, stateful=True),
    "RNN": lambda: layers.RNN(layers.StackedRNNCells([layers.GRUCell(4)]), stateful=True),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(4, stateful=True)),
}


def fitted(name, optimizer, wrap=lambda model: model, batch=4, callbacks=None, **compiled):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 3), batch_size=4)
    outputs = layers.Dense(1)(RECURRENT[name]()(inputs))
    model = wrap(keras.Model(inputs, outputs))
    model.compile(optimizer, "mse", jit_compile=False, **compiled)
    if batch != 4:  # Keras builds by the first batch, which must have the size of the states.
        model.train_on_batch(X[:4], Y[:4])
    history = model.fit(X, Y, batch, 3, shuffle=False, verbose=0, callbacks=callbacks).history
    losses = history["loss"]
    states = [v for layer in model._flatten_layers() for v in getattr(layer, "states", None) or ()]
    return losses, model, keras.tree.flatten(states)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", RECURRENT)
def test_states_go_on_as_in_keras(name):
    losses, plain, states = fitted(name, "sgd")
    found, model, kept = fitted(name, ks.SmoothOut("sgd", radius=0.0), ks.wrap)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    assert states and all(np.any(state.numpy()) for state in states)
    for a, b in zip(kept, states, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-6)
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.tensorflow
def test_evaluation_at_slow_weights_goes_on_too():
    _, model, states = fitted("LSTM", ks.Lookahead("sgd", 2), ks.wrap)
    before = [state.numpy() for state in states]
    model.evaluate(X, Y, 4, verbose=0)
    assert all(np.any(state.numpy() != old) for state, old in zip(states, before, strict=True))


@pytest.mark.tensorflow
def test_states_and_the_measured_noise_scale_are_kept_apart():
    # Two ghost batches a step, of which the second goes on from the states of the first.
    found = []
    for callbacks in ([], [ks.GradientNoiseScale(decay=0.0)]):
        run = fitted("LSTM", "sgd", ks.wrap, 8, callbacks, ghost_batch_size=4)
        losses, model, states = run
        assert all(np.any(state.numpy()) for state in states)
        found.append([losses, *model.get_weights(), *(s.numpy() for s in states)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    square, trace, measured = (float(v) for v in callbacks[0].variables)
    assert measured == 1 and callbacks[0].scales[-1] == trace / square


@pytest.mark.jax
def test_what_keras_forgets_is_refused():
    with pytest.raises(ValueError, match="forgets the states .* `stateful=True`"):
        fitted("LSTM", ks.SmoothOut("sgd"), ks.wrap)
