"""The weights that an optimizer wants evaluated: seen by evaluation, swapped in a `with` block."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.nets import LOSS, assert_equal, images, sgd, standard_net, two_replicas

import keras_smoothout as ks
from keras_smoothout import backend
from keras_smoothout.asks import evaluation_weights


@keras.saving.register_keras_serializable("weights_of")
class Average(ks.Method):
    """Evaluate the mean of the weights after each update, by a sum beside them."""

    def build(self, variables):
        super().build(variables)
        self.total, self.count = self.slots("total"), self.add_variable((), name="count")

    def update(self, apply, grads, variables):
        apply(grads)
        backend.assign_if(
            self.updated,
            [*self.total, self.count],
            lambda: [
                *[
                    backend.read(t) + backend.read(v)
                    for t, v in zip(self.total, variables, strict=True)
                ],
                backend.read(self.count) + 1.0,
            ],
        )

    def evaluation_weights(self):
        count = ops.maximum(backend.read(self.count), 1.0)
        return [backend.read(t) / count for t in self.total]


def trained(optimizer, steps=3, **compiled):
    model = ks.wrap(standard_net())
    model.compile(optimizer, LOSS, metrics=["accuracy"], **compiled)
    x, y = images(8)
    for _ in range(steps):
        model.train_on_batch(x, y)
    return model


def plain(model, weights):
    """A plain Keras model at given weights, with the moving statistics of `model`."""
    copy = standard_net()
    copy.compile(sgd(), LOSS, metrics=["accuracy"])
    pairs = zip(copy.non_trainable_variables, model.non_trainable_variables, strict=True)
    for variable, value in pairs:
        variable.assign(ops.convert_to_numpy(value))
    for variable, value in zip(copy.trainable_variables, weights, strict=True):
        variable.assign(value)
    return copy


def arrays(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


OPTIMIZERS = {
    "average": lambda: Average(sgd()),
    "lookahead": lambda: ks.Lookahead(sgd(), sync_period=2),
    "inside": lambda: ks.SmoothOut(ks.SAM(ks.Lookahead(sgd(), sync_period=2))),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_evaluation_sees_them_and_training_does_not(name):
    model = trained(OPTIMIZERS[name]())
    x, y = images(12, seed=1)
    before = arrays([*model.variables, *model.optimizer.variables])
    wanted = arrays(evaluation_weights(model.optimizer))
    assert any(
        np.any(a != b) for a, b in zip(wanted, arrays(model.trainable_variables), strict=True)
    )
    expected = plain(model, wanted)
    logs = model.evaluate(x, y, batch_size=5, verbose=0, return_dict=True)
    assert logs == pytest.approx(
        expected.evaluate(x, y, batch_size=5, verbose=0, return_dict=True), rel=1e-6
    )
    reference = expected.predict(x, verbose=0)
    np.testing.assert_allclose(model.predict(x, verbose=0), reference, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.predict_on_batch(x), reference, rtol=1e-5, atol=1e-6)
    found = model.test_on_batch(x, y, return_dict=True)
    assert found["loss"] == pytest.approx(logs["loss"], rel=1e-5)
    assert_equal(arrays([*model.variables, *model.optimizer.variables]), before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_validation_in_fit_sees_them_and_changes_nothing(name):
    x, y = images(24)
    models, logs = [], []
    for validation in (None, (x[:7], y[:7])):
        model = ks.wrap(standard_net())
        model.compile(OPTIMIZERS[name](), LOSS)
        logs.append(
            model.fit(x, y, 8, 2, validation_data=validation, shuffle=False, verbose=0).history
        )
        models.append(model)
    assert_equal(*(arrays([*m.variables, *m.optimizer.variables]) for m in models))
    expected = plain(models[1], arrays(evaluation_weights(models[1].optimizer)))
    loss = expected.evaluate(x[:7], y[:7], verbose=0, return_dict=True)["loss"]
    assert logs[1]["val_loss"][-1] == pytest.approx(loss, rel=1e-5)


def test_a_loaded_model_is_evaluated_at_them_before_any_training(tmp_path):
    model = trained(ks.Lookahead(sgd(), sync_period=2))
    x, y = images(12, seed=1)
    expected = model.evaluate(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    for name in ("evaluate", "test_on_batch"):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        options = {"verbose": 0} if name == "evaluate" else {}
        assert getattr(loaded, name)(x, y, **options) == pytest.approx(expected, rel=1e-5)
    fresh = ks.wrap(standard_net())
    fresh.compile(ks.Lookahead(sgd()), LOSS, metrics=["accuracy"])
    fresh.optimizer.build(fresh.trainable_variables)
    assert np.isfinite(fresh.evaluate(x, y, verbose=0)).all()


def test_an_error_in_evaluate_leaves_the_weights():
    model = trained(Average(sgd()))
    before = arrays([*model.trainable_variables, *model.optimizer.variables])

    class Stop(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.evaluate(*images(12), batch_size=5, verbose=0, callbacks=[Stop()])
    assert_equal(arrays([*model.trainable_variables, *model.optimizer.variables]), before)


def test_the_block_swaps_recalibrates_and_restores_to_the_bit(tmp_path):
    model = trained(Average(sgd()))
    x, _ = images(32, seed=2)
    before = arrays(model.variables)
    wanted = arrays(evaluation_weights(model.optimizer))
    expected = plain(model, wanted)
    ks.recalibrate(expected, x)
    with ks.weights_of(model, data=x) as inside:
        assert inside is model
        assert_equal(arrays(model.trainable_variables), wanted)
        for ours, theirs in zip(
            model.non_trainable_variables, expected.non_trainable_variables, strict=True
        ):
            np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=1e-5, atol=1e-6)
        model.save(tmp_path / "average.keras")
    assert_equal(arrays(model.variables), before)
    loaded = keras.saving.load_model(tmp_path / "average.keras")
    assert_equal(arrays(loaded.trainable_variables), wanted)


def test_the_block_restores_after_an_error_also_in_recalibration():
    model = trained(Average(sgd()))
    before = arrays(model.variables)
    with pytest.raises(ZeroDivisionError), ks.weights_of(model):
        raise ZeroDivisionError
    assert_equal(arrays(model.variables), before)
    bad = images(8)[0] * np.nan
    with pytest.raises(ValueError, match="`data`"), ks.weights_of(model, data=bad):
        pass
    assert_equal(arrays(model.variables), before)


@pytest.mark.parametrize("data", [None, "x"])
@pytest.mark.parametrize("optimizer", [lambda: Average(sgd()), sgd])
def test_what_the_model_does_inside_the_block_leaves_no_trace(data, optimizer):
    model = trained(optimizer())
    x, y = images(12, seed=2)
    before = arrays([*model.trainable_variables, *model.layers[2].variables])
    with ks.weights_of(model, data=data and x):
        model.evaluate(x, y, verbose=0)
        model.predict(x, verbose=0)
    assert_equal(arrays([*model.trainable_variables, *model.layers[2].variables]), before)
    model.train_on_batch(x, y)


def test_without_such_weights_the_block_keeps_the_models():
    model = trained(ks.SAM(sgd()))
    before = arrays(model.variables)
    with ks.weights_of(model):
        assert_equal(arrays(model.variables), before)
    assert_equal(arrays(model.variables), before)
    uncompiled = standard_net()
    with ks.weights_of(uncompiled, data=images(8)[0]):
        assert any(np.any(a != 0) for a in arrays([uncompiled.layers[2].moving_mean]))
    assert not np.any(arrays([uncompiled.layers[2].moving_mean])[0])


@pytest.mark.tensorflow
def test_on_two_replicas_each_keeps_its_statistics():
    x, y = images(16)
    with two_replicas().scope():
        model = ks.wrap(standard_net())
        model.compile(Average(sgd()), LOSS)
    model.fit(x, y, 8, epochs=2, shuffle=False, verbose=0)

    def parts():
        local = two_replicas().experimental_local_results
        return [part.numpy() for v in model.variables for part in local(v.value)]

    before = parts()
    wanted = plain(model, [w.numpy() for w in average(model)])
    logs = model.evaluate(x, y, batch_size=16, verbose=0)
    with ks.weights_of(model, data=x):
        assert any(np.any(a != b) for a, b in zip(parts(), before, strict=True))
    assert_equal(parts(), before)
    assert np.isfinite(logs)
    assert wanted.evaluate(x, y, verbose=0)[0] == pytest.approx(logs, rel=0.05)


def average(model):
    return [t / model.optimizer.count for t in model.optimizer.total]


@pytest.mark.parametrize("accumulate", [None, 3])
def test_updates_are_counted_not_calls(accumulate):
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulate)
    model = trained(Average(inner), steps=6)
    assert float(model.optimizer.count) == (6 if accumulate is None else 2)
    slow = trained(ks.Lookahead(inner.from_config(inner.get_config()), sync_period=2), steps=6)
    assert int(slow.optimizer.iterations) == (6 if accumulate is None else 2)


def test_a_mean_gradient_is_that_of_the_whole_update():
    @keras.saving.register_keras_serializable("weights_of")
    class Recorded(ks.Method):
        def build(self, variables):
            super().build(variables)
            self.mean = self.slots("mean")

        def update(self, apply, grads, variables):
            mean = self.mean_gradient(grads)
            apply(grads)
            backend.assign_if(self.updated, self.mean, lambda: mean)

    def recorded(accumulate, parts, **options):
        keras.utils.set_random_seed(0)
        model = ks.wrap(keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.Dense(1)]))
        inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulate, **options)
        model.compile(Recorded(inner), "mse")
        x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
        for part in np.split(x, parts):
            model.train_on_batch(part, part[:, :1])
        return arrays(model.optimizer.mean)

    whole = recorded(None, 1)
    assert all(np.any(a) for a in whole)
    for other in (recorded(4, 4), recorded(2, 2, loss_scale_factor=64.0)):
        for a, b in zip(other, whole, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_model_without_an_optimizer_evaluates_and_predicts():
    x, y = images(6)
    model = ks.wrap(standard_net())
    assert model.predict(x, verbose=0).shape == (6, 10)
    model.compile(optimizer=None, loss=LOSS)
    assert np.isfinite(model.evaluate(x, y, verbose=0))
