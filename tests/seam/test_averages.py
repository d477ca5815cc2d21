"""Averages in `fit`: validation sees them with statistics of their own, and training nothing."""

import keras
import numpy as np
import pytest
from keras import ops
from support.contract import arrays, contract_net, examples
from support.nets import LOSS, assert_equal, sgd
from support.problems import TENSORFLOW, assert_close, flat, golden, mlp

import keras_smoothout as ks

GOLDEN = golden("averaging")


def small(optimizer, model=None, **compiled):
    model = contract_net() if model is None else model
    model.compile(optimizer, LOSS, **compiled)
    return model


def plain():
    model = contract_net()
    return keras.Model(model.input, model.output)


def losses_at(model, weights, x, data):
    """Loss on `data` of the layers of `model` at `weights`, with the statistics of `x` there."""
    copy = plain()
    copy.compile(loss=LOSS)
    for variable, weight in zip(copy.trainable_variables, weights, strict=True):
        variable.assign(weight)
    ks.recalibrate(copy, x)
    return copy.evaluate(*data, verbose=0)


class Watched(keras.callbacks.Callback):
    """What the model holds at the end of each epoch, as a checkpoint would."""

    def __init__(self):
        super().__init__()
        self.held = []

    def on_epoch_end(self, epoch, logs=None):
        getattr(self.model, "jax_state_sync", lambda: None)()
        self.held.append([np.array(a) for a in arrays(self.model.variables)])


@pytest.mark.parametrize("make", [contract_net, plain], ids=["ours", "keras"])
def test_validation_is_that_of_the_average_and_training_never_sees_it(make):
    x, y = examples()
    data, runs = examples(12), []
    for shown in (True, False):
        watched = Watched()
        callbacks = [ks.callbacks.Averages(x), watched] if shown else [watched]
        model = small(ks.SWA(sgd(), start=4), make())
        fitted = model.fit(
            x, y, 16, 3, validation_data=data, shuffle=False, verbose=0, callbacks=callbacks
        )
        runs.append((watched.held, arrays(model.optimizer.variables), fitted.history))
    for ours, theirs in zip(runs[0][0], runs[1][0], strict=True):
        assert_equal(ours, theirs)
    assert_equal(runs[0][1], runs[1][1])
    average = ops.convert_to_numpy  # Of the last epoch.
    expected = losses_at(model, [average(w) for w in model.optimizer.evaluation_weights()], x, data)
    assert runs[0][2]["val_loss"][-1] == pytest.approx(expected, rel=1e-5)
    assert runs[1][2]["val_loss"][-1] != pytest.approx(expected, rel=1e-3)
    # Before the start, it is that of the weights in training.
    first = runs[0][0][0]
    known = zip(model.variables, first, strict=True)
    trained = {id(v): value for v, value in known}
    live = [trained[id(v)] for v in model.trainable_variables]
    assert runs[0][2]["val_loss"][0] == pytest.approx(losses_at(model, live, x, data), rel=1e-5)


def test_an_error_in_validation_leaves_the_weights_in_training():
    class Stop(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    x, y = examples()
    model = small(ks.SWA(sgd(), start=2))
    averages = ks.callbacks.Averages(x)
    model.fit(x, y, 16, shuffle=False, verbose=0)
    before = [np.array(a) for a in arrays(model.variables[:-1])]
    for callbacks in ([averages, Stop()], [Stop(), averages]):
        with pytest.raises(KeyboardInterrupt):
            model.evaluate(x, y, verbose=0, callbacks=callbacks)
        assert_equal(arrays(model.variables[:-1]), before)
    if not TENSORFLOW:  # Where Keras itself loses the weights of a plain model.
        return
    # A plain model is put right by the next `fit`.
    other = small(ks.SWA(sgd(), start=2), plain())
    other.fit(x, y, 16, shuffle=False, verbose=0)
    before = [np.array(a) for a in arrays(other.trainable_variables)]
    with pytest.raises(KeyboardInterrupt):
        other.evaluate(x, y, verbose=0, callbacks=[averages, Stop()])
    averages.on_train_begin()
    assert_equal(arrays(other.trainable_variables), before)


def test_wrong_data_is_refused_before_an_epoch():
    x, y = examples()
    for data, error in (
        (iter([x]), "`data`"),
        (np.full_like(x, np.nan), "`data`"),
        ((x, y), "`data`"),
    ):
        model, watched = small(ks.SWA(sgd())), Watched()
        with pytest.raises(ValueError, match=error):
            model.fit(x, y, 16, verbose=0, callbacks=[ks.callbacks.Averages(data), watched])
        assert not watched.held


@pytest.mark.parametrize("directory", [None, "snapshots"])
def test_snapshots_are_taken_by_updates(directory, tmp_path):
    x, y = examples()  # 6 batches of 8 an epoch; 2 for an update.
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model, seen = small(inner), {}
    snapshots = ks.callbacks.Snapshots(2, 3, keep=2, directory=directory and tmp_path / directory)

    def note(batch, logs):
        getattr(model, "jax_state_sync", lambda: None)()
        seen[len(seen) + 1] = [np.array(w) for w in model.get_weights()]

    count = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    model.fit(x, y, 8, 4, shuffle=False, verbose=0, callbacks=[snapshots, count])
    assert snapshots.updates == [8, 11]  # Of 2, 5, 8 and 11.
    for update, held in zip(snapshots.updates, snapshots.arrays(), strict=True):
        assert_equal(held, seen[2 * update])
    members = snapshots.models()
    assert_equal(members[0].get_weights(), seen[16])
    assert np.isfinite(members[0].evaluate(x, y, verbose=0))
    if directory:
        names = sorted(path.name for path in (tmp_path / directory).iterdir())
        assert names == ["snapshot-00000008.npz", "snapshot-00000011.npz"]
        again = ks.callbacks.Snapshots(2, 3, directory=tmp_path / directory)
        model.fit(x, y, 8, 6, initial_epoch=4, shuffle=False, verbose=0, callbacks=[again])
        assert again.updates == [8, 11, 14, 17]
        assert_equal(again.arrays()[1], seen[22])


def test_several_steps_at_once_snapshot_at_their_end():
    x, y = examples()
    model = small(keras.optimizers.SGD(0.1), steps_per_execution=3)
    snapshots = ks.callbacks.Snapshots(start=2, period=3)
    model.fit(x, y, 8, 2, shuffle=False, verbose=0, callbacks=[snapshots])
    assert snapshots.updates == [3, 6, 9, 12]


@pytest.mark.parametrize("inner", ["sgd_momentum", "adam"])
def test_golden_lawa(inner):
    case = next(c for c in GOLDEN["expected"]["cases"] if c["inner"] == inner)
    optimizer = (
        keras.optimizers.SGD(case["lr"], case["momentum"])
        if inner == "sgd_momentum"
        else keras.optimizers.Adam(case["lr"], epsilon=1e-8)
    )
    model, (x, y) = mlp(GOLDEN["inputs"]["net"])
    lawa = ks.callbacks.LAWA(case["lawa_window"], case["start"], case["period"])
    model.compile(optimizer, LOSS)
    batches = [slice(2 * (step % 4), 2 * (step % 4) + 2) for step in range(case["steps"])]
    xs, ys = (np.concatenate([a[rows] for rows in batches]) for a in (x, y))
    model.fit(xs, ys, 2, shuffle=False, verbose=0, callbacks=[lawa])
    assert lawa.updates == case["snapshot_steps"][-3:]
    assert_close(flat(model.trainable_variables), case["last"], 1e-4)
    assert_close(np.concatenate([w.ravel() for w in lawa.weights()]), case["lawa"], 1e-4)


def test_lawa_validates_the_mean_of_the_last_epochs():
    x, y = examples()
    data, watched = examples(12), Watched()
    model = small(sgd())
    lawa = ks.callbacks.LAWA(window=2, data=x)
    options = {"validation_data": data, "shuffle": False, "verbose": 0}
    fitted = model.fit(x, y, 16, 3, callbacks=[lawa, watched], **options)
    alone = small(sgd())
    alone.fit(x, y, 16, 3, shuffle=False, verbose=0)
    assert_equal(model.get_weights(), alone.get_weights())
    assert lawa.updates == [6, 9]
    ours = {id(v): i for i, v in enumerate(model.variables)}
    last, before = watched.held[-1], watched.held[-2]
    mean = [(last[i] + before[i]) / 2 for i in (ours[id(v)] for v in model.trainable_variables)]
    for a, b in zip(lawa.weights(), mean, strict=True):
        assert_close(a, b, 1e-6)
    expected = losses_at(model, mean, x, data)
    assert fitted.history["val_loss"][-1] == pytest.approx(expected, rel=1e-5)
    with ks.weights_of(model, data=x, weights=lawa.weights()):
        assert model.evaluate(*data, verbose=0) == pytest.approx(expected, rel=1e-5)
    assert_equal(model.get_weights(), alone.get_weights())


@pytest.mark.parametrize("optimizer", [ks.SWA(sgd()), ks.Lookahead(sgd()), ks.SAM(ks.SWA(sgd()))])
@pytest.mark.parametrize("validated", [True, False])
def test_lawa_refuses_another_average_before_a_step_is_lost(optimizer, validated):
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    model, (x, y) = small(optimizer), examples()
    before, watched = model.get_weights(), Watched()
    options = {"validation_data": examples(12)} if validated else {}
    with pytest.raises(ValueError) as error:
        callbacks = [watched, ks.callbacks.LAWA(window=2)]
        model.fit(x, y, 16, 2, verbose=0, callbacks=callbacks, **options)
    name = type(optimizer).__name__
    assert "`optimizer`" in str(error.value) and f"optimizer={name}" in str(error.value)
    assert not watched.held
    assert_equal(model.get_weights(), before)


def test_weights_that_do_not_fit_or_would_not_be_seen_are_refused():
    model = small(ks.Lookahead(sgd()))
    model.optimizer.build(model.trainable_variables)
    weights = arrays(model.trainable_variables)
    with pytest.raises(ValueError, match="`weights`"), ks.weights_of(model, weights=weights):
        pass
    with pytest.raises(ValueError, match="`weights`"), ks.weights_of(model, weights=weights[1:]):
        pass


@pytest.mark.parametrize("row", GOLDEN["expected"]["ar1"], ids=str)
def test_the_variance_of_the_average_is_that_of_theory(row):
    # Along an eigenvalue h of a quadratic with noise in the gradient, SGD is an AR(1) chain of
    # factor q = 1 - lr h; the file has the variance of the mean of n values by the closed form.
    # Each weight is a chain of its own: L2 of h / 2, and a loss whose gradient is the input.
    q, s = GOLDEN["inputs"]["ar1"]["q"], GOLDEN["inputs"]["ar1"]["s"]
    steps, rate, rng = row["n"] * row["spacing"], 0.5, np.random.default_rng(0)
    chains = 2_000_000 // steps
    inputs = keras.Input((chains,))
    l2 = keras.regularizers.L2((1 - q) / rate / 2)
    model = ks.Model(inputs, keras.layers.Dense(1, use_bias=False, kernel_regularizer=l2)(inputs))
    model.set_weights([rng.normal(size=(chains, 1)) * s / (1 - q**2) ** 0.5])
    model.compile(ks.SWA(keras.optimizers.SGD(rate), period=row["spacing"]), loss=total)
    x = (rng.normal(size=(steps, chains)) * s / rate).astype("float32")
    model.fit(x, np.zeros(steps), 1, shuffle=False, verbose=0)
    average = ops.convert_to_numpy(model.optimizer.average[0])
    assert np.mean(average**2) == pytest.approx(row["variance"], rel=5 * (2 / chains) ** 0.5)


def total(y, outputs):
    return ops.sum(outputs)
