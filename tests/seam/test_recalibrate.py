"""Moving statistics counted again: those of the data set, and nothing else is touched."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.nets import assert_equal, images, standard_net

import keras_smoothout as ks

DATA = np.random.default_rng(0).normal(3, 2, (70, 4)).astype("float32")


def one_layer(cls=layers.BatchNormalization, **options):
    return keras.Sequential([keras.Input((4,)), cls(**options)])


@pytest.mark.parametrize("size", [1, 16, 70, 1000])
def test_equals_the_statistics_of_the_data(size):
    model = one_layer()
    ks.recalibrate(model, DATA, size)
    np.testing.assert_allclose(model.layers[0].moving_mean, DATA.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.layers[0].moving_variance, DATA.var(0), rtol=1e-4)
    assert model.layers[0].momentum == 0.99


def test_ghost_layers_are_recalibrated_alike():
    model = one_layer(ks.GhostBatchNormalization, ghost_batch_size=4)
    ks.recalibrate(model, DATA, 16)
    np.testing.assert_allclose(model.layers[0].moving_variance, DATA.var(0), rtol=1e-4)
    layer = model.layers[0]
    assert np.abs(np.array(layer(DATA[:4], training=True)).mean(0)).max() < 1e-5  # Ghosts again.


def test_batches_as_they_come():
    batches = [(DATA[:30], None), (DATA[30:], None)]
    a, b = one_layer(), one_layer()
    ks.recalibrate(a, batches)
    ks.recalibrate(b, [x for x, _ in batches])
    assert_equal(a.get_weights(), b.get_weights())
    np.testing.assert_allclose(a.layers[0].moving_mean, DATA.mean(0), rtol=1e-5)


def test_several_inputs():
    inputs = {name: keras.Input((2,), name=name) for name in "ab"}
    parts = {"a": DATA[:, :2], "b": DATA[:, 2:]}
    outputs = layers.BatchNormalization()(layers.Concatenate()([inputs["a"], inputs["b"]]))
    dicts = (
        parts,
        [({k: v[:30] for k, v in parts.items()}, None), {"a": DATA[30:, :2], "b": DATA[30:, 2:]}],
    )
    lists = ([*parts.values()], tuple(parts.values()))
    for nest, forms in ((inputs, dicts), ([*inputs.values()], lists)):
        for data in forms:
            model = keras.Model(nest, outputs)
            model.layers[-1].moving_mean.assign(np.zeros(4))
            ks.recalibrate(model, data, 16)
            np.testing.assert_allclose(model.layers[-1].moving_mean, DATA.mean(0), rtol=1e-5)


def test_every_call_of_a_layer_counts():
    norm = layers.BatchNormalization()
    a, b = keras.Input((1,)), keras.Input((1,))
    model = keras.Model([a, b], [norm(a), norm(b)])
    parts = [DATA[:, :1], DATA[:, 1:2] + 10]
    ks.recalibrate(model, parts, 16)
    np.testing.assert_allclose(norm.moving_mean, [np.mean(parts)], rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, [np.var(parts)], rtol=1e-4)


@pytest.mark.parametrize("size", [16, 70])
def test_each_of_several_steps_and_channels_counts(size):
    steps = np.stack([DATA, DATA + 5], axis=1)  # (examples, steps, channels)
    inner = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((2, 4)), layers.TimeDistributed(inner)])
    ks.recalibrate(model, steps, size)
    np.testing.assert_allclose(inner.moving_mean, steps.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(inner.moving_variance, steps.var((0, 1)), rtol=1e-4)
    model = keras.Sequential([keras.Input((2, 4)), layers.BatchNormalization(axis=1)])
    ks.recalibrate(model, steps, size)
    np.testing.assert_allclose(model.layers[0].moving_mean, steps.mean((0, 2)), rtol=1e-5)


def test_masked_steps_do_not_count():
    steps = np.stack([DATA, DATA], axis=1)
    steps[:40, 1] = 0  # More of them in the first batches than in the last one.
    inputs = keras.Input((2, 4))
    model = keras.Model(inputs, layers.BatchNormalization()(layers.Masking()(inputs)))
    ks.recalibrate(model, steps, 16)
    held = steps[np.any(steps != 0, axis=-1)]
    np.testing.assert_allclose(model.layers[-1].moving_mean, held.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.layers[-1].moving_variance, held.var(0), rtol=1e-4)


def test_a_layer_that_is_not_called_keeps_its_statistics():
    class Spare(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.spare = layers.BatchNormalization(), layers.BatchNormalization()
            for norm in (self.used, self.spare):
                norm.build((None, 4))
            self.built = True

        def call(self, x):
            return self.used(x)

    model = Spare()
    model.spare.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    ks.recalibrate(model, DATA, 16)
    np.testing.assert_array_equal(model.spare.moving_mean, [1, 2, 3, 4])
    np.testing.assert_allclose(model.used.moving_mean, DATA.mean(0), rtol=1e-5)


def test_a_pair_of_inputs_and_targets_is_not_taken_for_two_batches():
    with pytest.raises(ValueError, match="pass `x` of"):
        ks.recalibrate(one_layer(), (DATA, DATA))


def test_deeper_layers_see_what_normalized_layers_give():
    # The second layer's input has mean beta and variance gamma^2, to epsilon: the batch's own.
    model = keras.Sequential(
        [keras.Input((4,)), layers.BatchNormalization(epsilon=1e-6), layers.BatchNormalization()]
    )
    model.layers[0].gamma.assign([1.0, 2.0, 3.0, 4.0])
    model.layers[0].beta.assign([0.0, 1.0, 2.0, 3.0])
    ks.recalibrate(model, DATA, 10)
    np.testing.assert_allclose(model.layers[1].moving_mean, [0, 1, 2, 3], atol=1e-5)
    np.testing.assert_allclose(model.layers[1].moving_variance, [1, 4, 9, 16], rtol=1e-4)


def test_nothing_else_changes_and_dropout_is_off():
    model, (x, _) = standard_net(), images()
    weights = [np.array(v) for v in model.variables]
    ks.recalibrate(model, x, 20)
    changed = [v.path for v, w in zip(model.variables, weights, strict=True) if np.any(v != w)]
    assert sorted(path.split("/")[-1] for path in changed) == ["moving_mean", "moving_variance"]
    first = [np.array(v) for v in model.variables]
    ks.recalibrate(model, x, 20)
    assert_equal([np.array(v) for v in model.variables], first)


def test_frozen_layers_are_left_alone():
    model = one_layer()
    model.layers[0].trainable = False
    ks.recalibrate(model, DATA)
    np.testing.assert_array_equal(model.layers[0].moving_mean, np.zeros(4))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_model_as_it_was(error):
    def batches():
        yield DATA[:30]
        raise error

    model = one_layer()
    before = model.get_weights()
    with pytest.raises(error):
        ks.recalibrate(model, batches())
    assert_equal(model.get_weights(), before)
    y = ops.convert_to_numpy(model(DATA, training=False))
    np.testing.assert_allclose(y, DATA, rtol=1e-3)  # It infers as before.
    assert model.layers[0].momentum == 0.99


def test_no_data_is_an_error():
    with pytest.raises(ValueError, match="`data` must hold examples"):
        ks.recalibrate(one_layer(), [])


class Slices(keras.utils.PyDataset):
    """Two batches; Python would go on to empty ones without end."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return (np.array([[1.0], [2.0], [6.0], [7.0]])[2 * index : 2 * index + 2],)


def test_batches_that_end_and_a_part_of_those_that_do_not():
    model = keras.Sequential([keras.Input((1,)), layers.BatchNormalization()])
    ks.recalibrate(model, Slices())
    assert float(model.layers[0].moving_mean[0]) == 4
    endless = ks.WarmUpBatches(np.array([[1.0], [5.0]]), np.zeros(2), {0: 2})
    ks.recalibrate(model, itertools.islice(endless, 3))
    assert float(model.layers[0].moving_mean[0]) == 3


@pytest.mark.tensorflow
def test_endless_datasets_are_refused():
    import tensorflow as tf

    model = keras.Sequential([keras.Input((1,)), layers.BatchNormalization()])
    with pytest.raises(ValueError, match="`data` must end"):
        ks.recalibrate(model, tf.data.Dataset.from_tensors(np.ones((2, 1))).repeat())
