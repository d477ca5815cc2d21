"""`GradientNoiseScale` and the batches that follow it: estimates by hand, goldens, an epoch."""

import math

import keras
import numpy as np
import pytest
from support.nets import two_replicas
from support.problems import golden

import keras_smoothout as ks

GOLDEN = golden("noise_scale")
G = np.array(GOLDEN["inputs"]["G"], "float32")  # (12 examples, 5 weights): one gradient a row.


def linear(optimizer="sgd", **kwargs):
    """A model whose gradient for an example is the example itself, wherever the weights are."""
    inputs = keras.Input((5,))
    model = ks.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    model.compile(optimizer, lambda y, outputs: outputs[:, 0], **kwargs)
    return model


def by_hand(parts):
    """Noise scale from gradients of parts of a batch: `parts` are lists of examples."""
    weights = np.array([len(p) for p in parts]) / sum(map(len, parts))
    whole = sum(w * np.mean(p, axis=0) for w, p in zip(weights, parts, strict=True))
    small = sum(w * np.sum(np.mean(p, axis=0) ** 2) for w, p in zip(weights, parts, strict=True))
    a, b, large = len(parts) / len(G), 1 / len(G), np.sum(whole**2)
    return ((small - large) / (a - b)) / ((a * large - b * small) / (a - b))


def measured(model, **kwargs):
    callback = ks.GradientNoiseScale(**kwargs)
    history = model.fit(G, np.zeros(12), 12, verbose=0, shuffle=False, callbacks=[callback])
    assert history.history["gradient_noise_scale"] == callback.scales
    return callback.scales[-1]


def test_golden():
    expected = GOLDEN["expected"]["B_simple"]
    assert by_hand(np.split(G, 4)) == pytest.approx(expected, rel=1e-5)
    assert measured(linear(ghost_batch_size=3)) == pytest.approx(expected, rel=1e-4)


def test_ghost_batches_that_differ_in_size():
    expected = by_hand([G[:5], G[5:10], G[10:]])
    assert measured(linear(ghost_batch_size=5)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.tensorflow
@pytest.mark.parametrize("ghosts", [None, 3])
def test_replicas(ghosts):
    with two_replicas().scope():
        model = linear(ghost_batch_size=ghosts)
    expected = by_hand(np.split(G, 2 if ghosts is None else 4))
    assert measured(model) == pytest.approx(expected, rel=1e-4)


def test_running_means_are_kept_apart():
    # The mean of the ratios, or a mean of one of the two alone, is another number.
    callback = ks.GradientNoiseScale(decay=GOLDEN["inputs"]["ema"])
    values, ratios = [0.0, 0.0, 0.0], []
    for trace, square in GOLDEN["inputs"]["sequence"]:
        # Of ghost batches of 1 in batches of 2: |g_a|^2 = G^2 + S, |g_b|^2 = G^2 + S / 2.
        values = callback.seen(values, square + trace, square + trace / 2, 1.0, 0.5)
        ratios.append(float(values[1]) / float(values[0]))
    np.testing.assert_allclose(ratios, GOLDEN["expected"]["ema_ratio"], rtol=1e-4)


def test_a_step_without_two_parts_or_with_an_overflow_counts_for_nothing():
    callback = ks.GradientNoiseScale()
    for numbers in ((2.0, 2.0, 0.5, 0.5), (math.inf, 1.0, 1.0, 0.5), (math.nan, 1.0, 1.0, 0.5)):
        after = callback.seen([1.0, 2.0, 3.0], *numbers)
        assert [float(v) for v in after] == [1.0, 2.0, 3.0]
    assert math.isnan(measured(linear(ghost_batch_size=12)))


def test_a_signal_that_is_lost_in_the_noise_has_an_infinite_scale():
    x = np.concatenate([G, -G])[[0, 12, 1, 13]]
    callback = ks.GradientNoiseScale()
    model = linear(ghost_batch_size=1)
    model.fit(x, np.zeros(4), 4, verbose=0, callbacks=[callback])
    assert callback.scales == [math.inf]


def test_watching_changes_no_weight_and_ends_with_the_training():
    weights = []
    for callbacks in ([], [ks.GradientNoiseScale()]):
        keras.utils.set_random_seed(0)
        model = linear(keras.optimizers.SGD(0.1, momentum=0.9), ghost_batch_size=3)
        before = len(model.variables)
        for _ in range(2):  # The second one is traced again.
            model.fit(
                G,
                np.zeros(12),
                6,
                2,
                shuffle=False,
                verbose=0,
                callbacks=callbacks,
                validation_data=(G, np.zeros(12)),
            )
        assert len(model.variables) == before and model._watcher is None
        weights.append(model.get_weights())
    np.testing.assert_allclose(*weights, rtol=1e-6)
    assert len(callbacks[0].scales) == 4


def test_where_there_are_no_parts_it_says_so():
    plain = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    plain.compile("sgd", "mse")
    for model in (plain, linear()):
        with pytest.raises(ValueError) as error:
            model.fit(G, np.zeros(12), verbose=0, callbacks=[ks.GradientNoiseScale()])
        assert "`ghost_batch_size`" in str(error.value)
    with pytest.raises(ValueError) as error:
        ks.GradientNoiseScale(batches=3)
    assert "batches=3" in str(error.value)


def test_batches_follow_the_scale_by_twofold_steps_in_whole_units():
    x = np.arange(4096)
    data = ks.NoiseScaleBatches(x, x, batch_size=16, updates=10, most=100)
    for epoch, scale in enumerate([math.nan, 1000.0, 50.0, math.inf, math.inf, 1.0, 30.0]):
        data.begin(epoch, scale)
        sizes = {len(data[i][0]) for i in range(data.num_batches)}
        assert sizes == {data.batch_sizes[10 * epoch]}
    assert list(data.batch_sizes.values()) == [16, 32, 48, 96, 96, 48, 16]
    again = ks.NoiseScaleBatches(x, x, 16, 10, 100, batch_sizes=data.batch_sizes)
    again.begin(3, 1.0)  # A plan that is given is kept.
    data.begin(3, 1.0)
    np.testing.assert_array_equal(again[4][0], data[4][0])
    assert len(data[4][0]) == 96


def test_every_example_is_seen_once_a_pass():
    x = np.arange(60)
    data = ks.NoiseScaleBatches(x, x, batch_size=6, updates=5)
    seen = []
    for epoch, scale in enumerate([math.nan, 12.0]):
        data.begin(epoch, scale)
        seen += [data[i][0] for i in range(5)]
    assert [len(s) for s in seen] == 5 * [6] + 5 * [12]
    assert sorted(np.concatenate(seen)[:60]) == list(x)


def test_in_fit_the_size_of_an_epoch_is_the_scale_of_the_one_before():
    # S = 5 and ||G||^2 = 0.1 or 11.25.
    x = np.random.default_rng(0).normal(size=(2048, 5)).astype("float32")
    for mean, expected in ((0.02**0.5, [8, 16, 32]), (1.5, [8, 8, 8])):
        data = ks.NoiseScaleBatches(x + mean, np.zeros(2048), 8, updates=100, most=64)
        callback = ks.GradientNoiseScale(decay=0.99, batches=data)
        model = linear(keras.optimizers.SGD(0.0), ghost_batch_size=4)
        model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[callback])
        assert list(data.batch_sizes.values()) == expected
        assert int(model.optimizer.iterations) == 300
    assert callback.scales[-1] == pytest.approx(5 / 11.25, rel=0.3)


def test_batches_without_their_callback_are_refused_before_a_step():
    x = np.ones((16, 5), "float32")
    for callbacks in ([], [ks.GradientNoiseScale()]):
        data = ks.NoiseScaleBatches(x, np.zeros(16), 8, updates=2)
        model = linear(ghost_batch_size=4)
        with pytest.raises(ValueError, match=r"`GradientNoiseScale\(batches=...\)`"):
            model.fit(data, shuffle=False, verbose=0, callbacks=callbacks)
        assert int(model.optimizer.iterations) == 0


@pytest.mark.release
def test_it_agrees_with_the_scale_that_is_measured_at_fixed_weights():
    from sklearn.datasets import load_digits

    from keras_smoothout import landscape

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    inputs = keras.Input((64,))
    model = ks.Model(inputs, keras.layers.Dense(10)(inputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss)
    model.fit(x, y, 128, 10, verbose=0)
    model.compile(keras.optimizers.SGD(0.0), loss, ghost_batch_size=16)
    callback = ks.GradientNoiseScale(decay=0.99)
    model.fit(x, y, 256, 40, verbose=0, callbacks=[callback])
    there = landscape.gradient_noise_scale(landscape.Objective(model, x, y), examples=400)
    assert callback.scales[-1] == pytest.approx(there.value, rel=0.3)
