"""PersistentBatches, FluctuationDissipation, replica_distance: chains, closed forms, resuming."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.nets import assert_equal
from support.problems import golden

import keras_smoothout as ks

GOLDEN = golden("persistent_fdt")
GIVEN, EXPECTED = GOLDEN["inputs"], GOLDEN["expected"]
X = np.arange(2000.0, dtype="float32")[:, None]


def masks(data, steps, examples):
    found = np.zeros((steps, examples), bool)
    for step in range(steps):
        found[step, data.active(step)] = True
    return found


def test_golden_rates():
    # Of two states in turn: P(out -> in), P(in -> out), the share, and no memory, as time = 1 / b.
    data = ks.PersistentBatches(X, X, GIVEN["b"], GIVEN["tau"])
    found = masks(data, 50, len(X))
    before, after = found[:-1], found[1:]
    count = before.size
    for rate, expected in (
        (after[~before].mean(), EXPECTED["p_on"]),
        (1 - after[before].mean(), EXPECTED["p_off"]),
        (found.mean(), EXPECTED["stationary"]),
        (np.corrcoef(before.ravel(), after.ravel())[0, 1], EXPECTED["autocorrelation"][1]),
    ):
        assert abs(rate - expected) < 5 / np.sqrt(0.2 * count)


@pytest.mark.parametrize(("share", "time"), [(0.1, 50.0), (0.5, 4.0), (0.9, 1.5)])
def test_rates_and_memory(share, time):
    data = ks.PersistentBatches(X, X, share, time, seed=3)
    found = masks(data, 60, len(X)).astype(float)
    before, after = found[:-1], found[1:]
    out, into = 1 - before, after * (1 - before)
    assert into.sum() / out.sum() == pytest.approx(1 / time, rel=0.05)
    left = (before * (1 - after)).sum() / before.sum()
    assert left == pytest.approx((1 - share) / (share * time), rel=0.05)
    # The first batch has the share of all others: the chain starts where it settles.
    assert found[0].mean() == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / len(X)))
    memory = 1 - 1 / (share * time)
    for lag in (1, 3):
        correlation = np.corrcoef(found[:-lag].ravel(), found[lag:].ravel())[0, 1]
        assert correlation == pytest.approx(memory**lag, abs=0.03)


def test_a_batch_has_one_size_and_the_loss_of_the_paper():
    data = ks.PersistentBatches(X, -X, 0.1, 20)
    sizes = set()
    for step in range(30):
        x, y, weights = data[step]
        assert_equal([y], [-x])
        active = data.active(step)
        assert_equal([x[: len(active), 0]], [X[active, 0]])
        assert np.all(weights[len(active) :] == 0)
        # Keras divides by the padded size: sum(w * loss) / size is sum over active / (b N).
        assert np.sum(weights * x[:, 0]) / len(x) == pytest.approx(X[active].sum() / 200, rel=1e-5)
        assert set(x[:, 0]) <= set(X[active, 0])  # Padding repeats the batch.
        sizes.add(len(x))
    assert len(sizes) == 1 and 200 < sizes.pop() < 300


def test_more_examples_than_the_size_are_not_dropped():
    data = ks.PersistentBatches(X[:50], X[:50], 0.5, 4)
    data.size = 10
    x, _, weights = data[0]
    assert len(x) % 10 == 0 and np.count_nonzero(weights) == len(data.active(0)) > 10


def test_a_share_of_1_is_the_full_batch():
    data = ks.PersistentBatches(X, X, 1.0, 7)
    for step in (0, 5):
        x, y, weights = data[step]
        assert_equal([x, y, weights], [X, X, np.ones(len(X))])


def test_a_batch_is_a_function_of_seed_and_step():
    # In any order, from any start: a resumed training sees what it would have seen.
    data = ks.PersistentBatches(X, X, 0.2, 30, seed=5)
    there = [data[step] for step in (9, 3, 4, 0, 9)]
    for step, batch in zip((9, 3, 4, 0, 9), there, strict=True):
        fresh = ks.PersistentBatches(X, X, 0.2, 30, seed=5, start=step)
        assert_equal(fresh[0], batch)
    other = ks.PersistentBatches(X, X, 0.2, 30, seed=6)
    assert set(other.active(9)) != set(data.active(9))


def linear(momentum=0.9):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, momentum), "mse")
    return model


def test_save_then_resume(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 1)).astype("float32")
    options = {"steps_per_epoch": 5, "shuffle": False, "verbose": 0}
    whole, half = linear(), linear()
    whole.fit(ks.PersistentBatches(x, x, 0.3, 10), epochs=2, **options)
    half.fit(ks.PersistentBatches(x, x, 0.3, 10), epochs=1, **options)
    half.save(tmp_path / "model.keras")
    half = keras.saving.load_model(tmp_path / "model.keras")
    data = ks.PersistentBatches(x, x, 0.3, 10, start=5)
    half.fit(data, epochs=2, initial_epoch=1, **options)
    assert_equal(half.get_weights(), whole.get_weights())


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"time": 4.0}, {"x": X[:3]}, {"x": 3.0}])
def test_wrong_arguments(wrong):
    given = {"x": X, "y": X, "share": 0.2, "time": 5.0} | wrong
    (name, value), *_ = wrong.items()
    shown = f"Received: {name}={value}" if np.isscalar(value) else "Received: 3 inputs"
    with pytest.raises(ValueError, match=f"`{name}`.*{shown}"):
        ks.PersistentBatches(**given)


class Noisy(layers.Layer):
    """Adds the loss `sum(h * w**2) / 2 + noise . w`, whose gradient is `h * w + noise`."""

    def build(self, input_shape):
        self.w = self.add_weight(shape=(3,), initializer="zeros")

    def call(self, x):
        h = ops.convert_to_tensor(np.array(GIVEN["h"], "float32"))
        self.add_loss(ops.sum(h * self.w**2) / 2 + ops.sum(ops.mean(x, axis=0) * self.w))
        return x


def quadratic(momentum, steps, seed=0, **options):
    """A model of the file's quadratic after a training, and the callback."""
    inputs = keras.Input((3,))
    model = keras.Model(inputs, Noisy()(inputs))
    model.compile(keras.optimizers.SGD(GIVEN["lr"], momentum))
    noise = np.random.default_rng(seed).normal(size=(steps, 3)) * np.sqrt(GIVEN["D"])
    callback = ks.FluctuationDissipation()
    model.fit(
        noise.astype("float32"),
        batch_size=1,
        verbose=0,
        shuffle=False,
        callbacks=[callback],
        **options,
    )
    return model, callback


def expected(momentum, name):
    return [row[name] for row in EXPECTED["moments"] if row["momentum"] == momentum]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_golden_relation(momentum):
    # Both sides against the closed form, summed over the three modes, within the time's noise.
    _, callback = quadratic(momentum, 1500, epochs=2)
    last = callback.found[-1]
    exact = sum(expected(momentum, "w_dot_g"))
    assert sum(expected(momentum, "fdr_rhs")) == pytest.approx(exact, rel=1e-9)
    assert last["fluctuation"] == pytest.approx(exact, rel=0.25)
    assert last["dissipation"] == pytest.approx(exact, rel=0.1)
    mean = np.mean(expected(momentum, "effective_temperature"))
    assert last["temperature"] == pytest.approx(mean, rel=0.1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_gradient_is_that_of_the_step(momentum):
    # From the second step on with momentum, g = h w + noise to rounding.
    rows = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    h, w, v, found = np.array(GIVEN["h"]), np.zeros(3), np.zeros(3), []
    for row in rows:
        g = h * w + row
        found.append([w @ g, 0])
        v = momentum * v - 0.1 * g
        found[-1][1] = (1 + momentum) / 0.2 * (v @ v)
        w = w + v
    inputs = keras.Input((3,))
    model = keras.Model(inputs, Noisy()(inputs))
    model.compile(keras.optimizers.SGD(0.1, momentum))
    logs = model.fit(
        rows,
        batch_size=1,
        verbose=0,
        shuffle=False,
        callbacks=[ks.FluctuationDissipation()],
    ).history
    counted = np.mean(found[1 if momentum else 0 :], axis=0)
    assert logs["fluctuation"][0] == pytest.approx(counted[0], rel=1e-4)
    assert logs["dissipation"][0] == pytest.approx(counted[1], rel=1e-4)
    assert logs["temperature"][0] == pytest.approx(counted[1] / 3, rel=1e-4)


@pytest.mark.release
def test_golden_replica_distance():
    # Two trainings of independent noise: half the squared distance is the variance.
    distances = []
    for seed in range(60):
        first, second = (quadratic(0.0, 80, 2 * seed + k)[0] for k in (0, 1))
        distances.append(ks.replica_distance(first, second))
    assert np.mean(distances) == pytest.approx(sum(expected(0.0, "replica_distance")), rel=0.4)


def test_replica_distance():
    first, second = linear(), linear()
    assert ks.replica_distance(first, second) == 0
    second.set_weights([w + 2 for w in first.get_weights()])
    assert ks.replica_distance(first, second) == pytest.approx(4)
    other = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    with pytest.raises(ValueError, match="`first`.*Received: shapes"):
        ks.replica_distance(first, other)


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [
        (lambda: keras.optimizers.Adam(), "optimizer=adam"),
        (lambda: keras.optimizers.SGD(0.1, 0.9, nesterov=True), "'nesterov': True"),
        (lambda: keras.optimizers.SGD(0.1, clipnorm=1.0), "'clipnorm': 1.0"),
        (lambda: keras.optimizers.SGD(0.1, weight_decay=0.1), "'weight_decay': 0.1"),
        (lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "accumulation"),
        (lambda: ks.Lookahead("sgd"), r"\['Lookahead'\]"),
    ],
)
def test_optimizers_of_other_steps_are_refused(optimizer, told):
    model = linear()
    model.compile(optimizer(), "mse")
    with pytest.raises(ValueError, match=f"FluctuationDissipation.*Received: .*{told}"):
        model.fit(X[:4], X[:4], verbose=0, callbacks=[ks.FluctuationDissipation()])


def test_a_look_at_each_step_is_needed():
    model = linear()
    model.compile("sgd", "mse", steps_per_execution=2)
    with pytest.raises(ValueError, match="Received: steps_per_execution=2"):
        model.fit(X[:4], X[:4], verbose=0, callbacks=[ks.FluctuationDissipation()])


@pytest.mark.release
def test_persistent_batches_part_further():
    # The notes' experiment: digits, a fifth of the labels redrawn, b=.1; the longer an example
    # stays, the further two trainings part.
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))[:1200]
    x, y = (x[order] / 16).astype("float32"), y[order]
    y = np.where(rng.random(1200) < 0.2, rng.integers(0, 10, 1200), y)
    distances = {}
    for time in (10, 50, 300):
        pair = []
        for seed in (1, 2):
            keras.utils.set_random_seed(0)
            net = [layers.Dense(64, "relu"), layers.Dense(64, "relu"), layers.Dense(10)]
            model = keras.Sequential([keras.Input((64,)), *net])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.SGD(0.1), loss)
            data = ks.PersistentBatches(x, y, 0.1, time, seed)
            model.fit(data, steps_per_epoch=400, shuffle=False, verbose=0)
            pair.append(model)
        distances[time] = ks.replica_distance(*pair)
    assert distances[10] < distances[50] / 3 and distances[50] < distances[300] / 2, distances
