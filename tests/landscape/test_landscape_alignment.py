"""Permutations of hidden units, normal forms, geodesics, and barriers before and after them."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.nets import LOSS, assert_equal
from support.problems import assert_close, golden

import models
from benchmarks import barriers as experiment
from keras_smoothout import landscape

GOLDEN = golden("alignment")
GIVEN, EXPECTED = GOLDEN["inputs"], GOLDEN["expected"]


def dense_weights(kernels, biases):
    return [np.array(a) for pair in zip(kernels, biases, strict=True) for a in pair]


A = dense_weights(GIVEN["W"], GIVEN["b"])
OTHER = dense_weights(GIVEN["W_other"], GIVEN["b_other"])


def mlp():
    """The MLP of the file with its first weights; arrays stay in float64 outside of it."""
    net = [layers.Dense(6, "relu"), layers.Dense(5, "relu"), layers.Dense(3)]
    model = keras.Sequential([keras.Input((4,)), *net])
    model.set_weights(A)
    return model


def logits(weights, x):
    """Outputs of the MLP, in float64."""
    x = np.array(x)
    for i in range(0, 6, 2):
        x = x @ weights[i] + weights[i + 1]
        x = np.maximum(x, 0) if i < 4 else x
    return x


def copied():
    """The MLP with units rescaled and permuted, as the file says."""
    weights = [w.copy() for w in A]
    for layer, scales in enumerate(GIVEN["scales"]):
        for i in (2 * layer, 2 * layer + 1):
            weights[i] *= scales
        weights[2 * layer + 2] /= np.array(scales)[:, None]
    return landscape.permute(mlp(), GIVEN["perms"], weights)


def test_golden_normal_form():
    form = landscape.normal_form(mlp(), A)
    for found, expected in zip(
        form.weights, dense_weights(EXPECTED["normal_W"], EXPECTED["normal_b"]), strict=True
    ):
        assert_close(found, expected, 1e-12)
    assert form.scale == pytest.approx(EXPECTED["scale"], abs=1e-11)
    assert_close(form.scale * logits(form.weights, GIVEN["probe"]), EXPECTED["logits_a"], 1e-12)


def test_golden_matching():
    model = mlp()
    first = landscape.match(model, OTHER, restarts=1, weights=(A, OTHER))
    expected = EXPECTED["matching_other"]
    assert_equal(first.permutations, expected["perms"])
    assert first.similarity == pytest.approx(expected["objective_history"][-1], abs=1e-10)
    # Random orders lead elsewhere: restarts pay.
    best = landscape.match(model, OTHER, restarts=10, weights=(A, OTHER))
    assert best.similarity == pytest.approx(expected["objective_global_optimum"], abs=1e-10)
    assert best.similarities[0] == pytest.approx(first.similarity)
    assert best.similarity == best.similarities.max() == sum(map(np.vdot, A, best.weights))


def test_golden_copy_is_found_again():
    model, copy = mlp(), copied()
    assert_close(logits(copy, GIVEN["probe"]), EXPECTED["logits_a"], 1e-13)
    first, second = (landscape.normal_form(model, w).weights for w in (A, copy))
    found = landscape.match(model, copy, weights=(first, second))
    assert_equal(found.permutations, EXPECTED["recovered_perms"])
    aligned = landscape.permute(model, found.permutations, second)
    before, after = (np.sqrt(sum(map(square, first, w))) for w in (second, aligned))
    assert before == pytest.approx(EXPECTED["distance_before"], abs=1e-12)
    assert after < 1e-14


def square(a, b):
    return np.sum((a - b) ** 2)


def test_golden_geodesic():
    path = landscape.geodesic(mlp(), A, OTHER)
    assert path.length == pytest.approx(EXPECTED["geodesic_distance"], abs=1e-12)
    for t, outputs in EXPECTED["geodesic_outputs"].items():
        assert_close(logits(path(float(t)), GIVEN["probe"]), outputs, 1e-13)


def test_a_geodesic_has_constant_speed_and_its_ends():
    path = landscape.geodesic(mlp(), A, OTHER)
    for t, end in ((0.0, A), (1.0, OTHER)):
        form = landscape.normal_form(mlp(), end).weights
        for w, expected in zip(path(t), form, strict=True):
            assert_close(w, expected, 1e-14)
    places = [path(t) for t in np.linspace(0, 1, 1001)]
    steps = [np.sqrt(sum(map(square, *two))) for two in zip(places, places[1:], strict=False)]
    assert_close(steps, path.length / 1000, 1e-7)
    assert np.sum(steps) == pytest.approx(path.length, rel=1e-5)


def small_net():
    """Everything the walk knows, in one net: (batch, 6, 6, 3) to three logits."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = layers.ZeroPadding2D()(layers.Conv2D(4, 3, padding="same")(inputs))
    x = layers.PReLU(shared_axes=[1, 2])(layers.BatchNormalization()(x))
    y = layers.Conv2D(4, 1, use_bias=False)(x)
    x = ops.relu(layers.Add()([x, layers.BatchNormalization(scale=False)(y)]))
    gate = layers.Dense(4, "sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, gate])
    y = layers.LayerNormalization()(layers.SeparableConv2D(2, 3, padding="same")(x))
    x = layers.DepthwiseConv2D(3, padding="same", activation="tanh")(x)
    x = layers.Concatenate()([layers.MaxPooling2D(2)(x), layers.AveragePooling2D(2)(y)])
    x = layers.BatchNormalization()(layers.Dropout(0.1)(x))
    inside = keras.Sequential([keras.Input((4, 4, 6)), layers.Conv2D(5, 3), layers.LeakyReLU()])
    shared = layers.Conv2DTranspose(5, 1)
    x = shared(shared(inside(x)))
    x = layers.PReLU()(layers.Flatten()(x))
    x = layers.Dense(7, "tanh")(x)
    x = layers.Reshape((1, 7))(x)
    x = layers.Conv1D(4, 1, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Reshape((4,))(x)))


def drawn(model, seed=1, kernels=True):
    """`model` with all weights moved from where symmetries would hide errors, or all but kernels.

    Kernels with a mean let outputs grow from layer to layer, which few layers stand.
    """
    rng = np.random.default_rng(seed)
    moved = [(w, rng.uniform(0.05, 0.3, w.shape)) for w in model.get_weights()]
    model.set_weights([w + d if kernels or w.ndim < 2 else w for w, d in moved])
    return model


def mlp_net():
    keras.utils.set_random_seed(0)
    net = [layers.Dense(9, "relu"), layers.Dense(8, "leaky_relu"), layers.Dense(3)]
    return keras.Sequential([keras.Input((5,)), *net])


def cnn():
    keras.utils.set_random_seed(0)
    net = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]
    net += [layers.Conv2D(5, 2, activation="relu"), layers.Flatten(), layers.Dense(3)]
    return keras.Sequential([keras.Input((8, 8, 1)), *net])


NETS = {
    "mlp": mlp_net,
    "cnn": cnn,
    "resnet8": lambda: models.resnet8((8, 8, 3), 10),
    "resnet20": lambda: models.resnet20((8, 8, 3), 10),
    "wrn": lambda: models.wide_resnet(10, 1, (8, 8, 3), 10),
}


def outputs(model, weights, x):
    kept = model.get_weights()
    model.set_weights(weights)
    found = model.predict_on_batch(x)
    model.set_weights(kept)
    return found


def inputs_of(model, count=4):
    return np.random.default_rng(0).normal(size=(count, *model.input_shape[1:])).astype("float32")


def permutations_of(model, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.permutation(units.size) for units in landscape.hidden_units(model)]


def check_function_is_kept(model, normal=True, tolerance=2e-6):
    x = inputs_of(model)
    before = model.predict_on_batch(x)
    largest = abs(before).max()
    permuted = landscape.permute(model, permutations_of(model))
    assert any(np.any(a != b) for a, b in zip(permuted, model.get_weights(), strict=True))
    assert_close(outputs(model, permuted, x) / largest, before / largest, tolerance)
    if normal:
        form = landscape.normal_form(model)
        found = form.scale * outputs(model, form.weights, x)
        assert_close(found / largest, before / largest, tolerance)
        on = np.concatenate([s.ravel() for s in form.spheres])
        values = np.concatenate([w.ravel() for w in form.weights])
        assert_close(np.bincount(on[on >= 0], values[on >= 0] ** 2), 1, 1e-5)


@pytest.mark.parametrize("name", NETS)
def test_the_function_is_kept(name):
    check_function_is_kept(drawn(NETS[name]()))


def test_the_function_is_kept_by_permutations_of_all_that_is_known():
    model = drawn(small_net())
    units = landscape.hidden_units(model)
    assert [u.size for u in units] == [4, 2, 5, 7, 4]
    flattened = [place for u in units for place in u.places if place[2] > 0]
    assert len(flattened) > 4 * 2  # Flatten repeats a set of units at each pixel.
    check_function_is_kept(model, normal=False)


@pytest.mark.release
def test_resnet50_of_keras():
    def net(activation):
        options = {"classes": 10, "classifier_activation": activation}
        return keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), **options)

    model = net(None)
    # The stem, a stream for each of four stages, and two convolutions inside each of 16 blocks.
    assert len(landscape.hidden_units(model)) == 1 + 4 + 2 * 16
    check_function_is_kept(drawn(model, kernels=False), tolerance=2e-5)
    with pytest.raises(ValueError, match="`predictions` is not positively homogeneous"):
        landscape.normal_form(net("softmax"))


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet8"])
def test_a_permuted_copy_is_at_distance_0_behind_no_barrier(name):
    model = drawn(NETS[name]())
    permuted = landscape.permute(model, permutations_of(model))
    found = landscape.match(model, permuted, restarts=3)
    assert_equal(found.weights, model.get_weights())
    x = inputs_of(model, 16)
    y = np.argmax(model.predict_on_batch(x), axis=1)
    model.compile(loss=LOSS)
    bars = landscape.barriers(model, permuted, x, y, points=3, restarts=3)
    for way in ("aligned", "aligned_normal", "aligned_geodesic"):
        assert bars[way]["distance"] < 1e-5, way
        assert bars[way]["barrier"] == 0, way
    assert bars["straight"]["distance"] > 0.1
    assert bars["geodesic"]["length"] > 0.1


def test_the_distance_never_grows():
    model = drawn(NETS["resnet8"]())
    for seed in (2, 3):
        other = drawn(NETS["resnet8"](), seed)
        found = landscape.match(model, other, restarts=1)
        statistics = ("moving_mean", "moving_variance")
        kept = [i for i, v in enumerate(model.weights) if v.name not in statistics]
        before, after = (
            sum(square(model.get_weights()[i], w[i]) for i in kept)
            for w in (other.get_weights(), found.weights)
        )
        assert after <= before


def test_moving_statistics_are_permuted_but_do_not_count():
    model = cnn()
    weights = landscape.permute(model, permutations_of(model))
    shifted = [w.copy() for w in weights]
    index = [v.name for v in model.weights].index("moving_mean")
    shifted[index] = shifted[index] + np.arange(4.0, dtype="float32")
    found = landscape.match(model, shifted, restarts=2)
    assert_equal(found.permutations, landscape.match(model, weights, restarts=2).permutations)
    assert_equal([found.weights[index]], [shifted[index][found.permutations[0]]])


def test_units_of_frozen_weights_keep_their_order():
    model = mlp_net()
    weights = landscape.permute(model, permutations_of(model))
    model.layers[0].trainable = False
    found = landscape.match(model, weights)
    assert_equal(found.permutations[:1], [np.arange(9)])
    assert np.any(found.permutations[1] != np.arange(8))


def test_the_largest_barrier_of_a_line_is_removed_from_an_objective():
    # An `Objective` takes arrays as of `get_weights`, where it wants trainable ones.
    model = drawn(cnn())
    model.compile(loss=LOSS)
    x = inputs_of(model, 16)
    objective = landscape.Objective(model, x, np.zeros(16, int))
    weights = landscape.permute(model, permutations_of(model))
    path = landscape.straight(objective, weights)
    kept = [w for v, w in zip(model.weights, weights, strict=True) if v.trainable]
    assert len(kept) < len(weights)
    assert_equal(path(1.0), kept)


def test_taxonomy_aligns_first():
    model = drawn(mlp_net())
    other = mlp_net()
    other.set_weights(landscape.permute(model, permutations_of(model)))
    x = inputs_of(model, 16)
    y = np.argmax(model.predict_on_batch(x), axis=1)
    for one in (model, other):
        one.compile(loss=LOSS)
    options = {"sharpness": {}, "join": lambda o, end: landscape.straight(o, end)}
    raw = landscape.taxonomy([model, other], x, y, **options)
    aligned = landscape.taxonomy([model, other], x, y, align=True, **options)
    assert raw["distance"][0] > 0.1 and aligned["distance"][0] == 0
    assert aligned["barrier"][0] == 0
    assert aligned["cka"] == raw["cka"]


class Own(layers.Layer):
    def call(self, x):
        return x


class OwnDense(layers.Dense):
    pass


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (Own(name="own"), "own"),
        (OwnDense(4, name="own_dense"), "own_dense"),
        (layers.Conv2D(4, 1, groups=2, name="grouped"), "grouped"),
        (layers.DepthwiseConv2D(1, depth_multiplier=2, name="multiplied"), "multiplied"),
        (layers.GroupNormalization(2, name="groups"), "groups"),
        (layers.BatchNormalization(axis=1, name="axis"), "axis"),
        (layers.Permute((3, 1, 2), name="turned"), "turned"),
        (layers.Reshape((-1, 2), name="cut"), "cut"),
        (layers.Dense(4, activation=lambda x: x, name="function"), "function"),
        (layers.Lambda(lambda x: x, name="lambda"), "lambda"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_known_is_refused_by_name(layer, name):
    inputs = keras.Input((3, 3, 2))
    x = layer(layers.Conv2D(4, 1)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    for function in (landscape.hidden_units, landscape.normal_form):
        with pytest.raises(ValueError) as error:
            function(model)
        assert f"`{name}`" in str(error.value) and f"Received: {name} of " in str(error.value)


def joined():
    """Two branches that are added, and the sum beside a third one."""
    inputs = keras.Input((5,))
    one, two = (layers.Dense(4, "relu", name=name)(inputs) for name in ("one", "two"))
    three = layers.Dense(3, "relu", name="three")(inputs)
    x = layers.Concatenate()([layers.Add()([one, two]), three])
    return keras.Model(inputs, layers.Dense(2)(x))


def broadcast():
    """One channel that is added to all of another branch.

    Their number is not that of the examples: TensorFlow's `ops.add` would take it for a bias.
    """
    inputs = keras.Input((5,))
    one = layers.Dense(1, "relu", name="gate")(inputs)
    x = layers.Add()([layers.Dense(6, "relu")(inputs), one])
    return keras.Model(inputs, layers.Dense(2)(x))


def leaky():
    """A layer that is given as an activation."""
    inputs = keras.Input((5,))
    x = layers.Dense(4, activation=layers.LeakyReLU(negative_slope=0.3), name="leaky")(inputs)
    return keras.Model(inputs, layers.Dense(2)(x))


@pytest.mark.parametrize("net", [joined, broadcast])
def test_the_function_is_kept_where_branches_join(net):
    keras.utils.set_random_seed(0)
    model = drawn(net())
    check_function_is_kept(model)
    sizes = [units.size for units in landscape.hidden_units(model)]
    assert sorted(sizes) == ([3, 4] if net is joined else [1, 6])


def test_one_scale_for_two_outputs():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    x = layers.Dense(4, "relu")(inputs)
    model = drawn(keras.Model(inputs, [layers.Dense(2)(x), layers.Dense(3)(x)]))
    x = inputs_of(model)
    form = landscape.normal_form(model)
    pairs = zip(outputs(model, form.weights, x), model.predict_on_batch(x), strict=True)
    for found, expected in pairs:
        assert_close(form.scale * found, expected, 2e-6)
    assert sum(np.sum(w**2) for w in form.weights[2:]) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_units_that_a_frozen_layer_carries_are_not_scaled(frozen):
    model = drawn(mlp_net())
    model.layers[frozen].trainable = False
    form, before, x = landscape.normal_form(model), model.get_weights(), inputs_of(model)
    assert_equal(form.weights[2 * frozen : 2 * frozen + 2], before[2 * frozen : 2 * frozen + 2])
    assert_close(form.scale * outputs(model, form.weights, x), model.predict_on_batch(x), 2e-6)
    moved = [np.any(a != b) for a, b in zip(form.weights, before, strict=True)]
    assert moved[{0: 4, 1: 4, 2: 0}[frozen]]  # A kernel that can be scaled.


@pytest.mark.parametrize("function", [landscape.hidden_units, landscape.normal_form])
def test_an_embedding_that_is_an_output_too_is_refused(function):
    words = keras.Input((3,), dtype="int32")
    embedding = layers.ReversibleEmbedding(7, 4, name="tied")
    x = layers.Dense(4, "relu")(embedding(words))
    with pytest.raises(ValueError, match="`tied`"):
        function(keras.Model(words, embedding(x, reverse=True)))


@pytest.mark.parametrize("function", [landscape.hidden_units, landscape.normal_form])
def test_a_layer_as_an_activation_is_refused_by_the_layer_that_has_it(function):
    with pytest.raises(ValueError, match="`leaky` has the activation"):
        function(leaky())


def residual(norm):
    inputs = keras.Input((3,))
    x = layers.Dense(4, "relu", name="stem")(inputs)
    y = layers.Dense(4, name="branch")(layers.Dense(5, "relu", name="inner")(x))
    y = layers.BatchNormalization()(y) if norm else y
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Add()([x, y])))


def test_no_normal_form_where_there_is_none():
    net = [layers.Dense(4, "tanh", name="bent"), layers.Dense(2)]
    with pytest.raises(ValueError, match="`bent` is not positively homogeneous"):
        landscape.normal_form(keras.Sequential([keras.Input((3,)), *net]))
    with pytest.raises(ValueError, match="Received: `branch/kernel` behind the units of `inner`"):
        landscape.normal_form(residual(False))
    # Behind a normalization any activation will do, and what is added to one has its scale.
    normalized = [layers.Dense(4), layers.BatchNormalization(), layers.Activation("tanh")]
    check_function_is_kept(
        drawn(keras.Sequential([keras.Input((3,)), *normalized, layers.Dense(2)]))
    )
    check_function_is_kept(drawn(residual(True)))


def test_what_a_normalization_follows_is_scaled_alone():
    # Nothing is pushed forward, and the moving statistics follow: also where epsilon counts.
    keras.utils.set_random_seed(0)
    net = [layers.Dense(4), layers.BatchNormalization(epsilon=0.5), layers.ReLU(), layers.Dense(2)]
    model = drawn(keras.Sequential([keras.Input((3,)), *net]))
    form = landscape.normal_form(model)
    kept = model.get_weights()
    norms = np.sqrt(np.sum(kept[0] ** 2, 0) + kept[1] ** 2)
    assert_close(form.weights[0], kept[0] / norms, 1e-6)
    assert_close(form.weights[2], kept[2], 0)  # gamma
    assert_close(form.weights[4], kept[4] / norms, 1e-6)  # moving mean
    assert_close(form.weights[5], (kept[5] + 0.5) / norms**2 - 0.5, 1e-6)  # moving variance
    check_function_is_kept(model)


def test_a_unit_without_weights_stays():
    model = mlp()
    weights = [w.copy() for w in A]
    weights[0][:, 2], weights[1][2] = 0, 0
    form = landscape.normal_form(model, weights)
    assert np.all(np.isfinite(np.concatenate([w.ravel() for w in form.weights])))
    expected = logits(weights, GIVEN["probe"])
    assert_close(form.scale * logits(form.weights, GIVEN["probe"]), expected, 1e-13)
    path = landscape.geodesic(model, weights, OTHER)
    assert np.all(np.isfinite(np.concatenate([w.ravel() for w in path(0.5)])))


@pytest.mark.parametrize(
    "permutations",
    [[], [np.arange(6)], [np.arange(6), np.zeros(5, int)], [np.arange(5), np.arange(6)]],
    ids=["none", "one", "no permutation", "sizes"],
)
def test_wrong_permutations(permutations):
    with pytest.raises(ValueError, match="`permutations`.*\\[6, 5\\].*Received: permutations="):
        landscape.permute(mlp(), permutations)


def test_weights_of_another_model_are_refused():
    for call in (
        lambda: landscape.match(mlp(), mlp_net()),
        lambda: landscape.normal_form(mlp(), A[:-1]),
        lambda: landscape.geodesic(mlp(), A, mlp_net()),
        lambda: landscape.ways(mlp(), mlp_net()),
    ):
        with pytest.raises(ValueError, match="same weights.*Received: shapes"):
            call()


SEEDS = ((0, 1), (2, 3), (4, 5))


@pytest.mark.release
def test_barriers_of_two_trainings_on_digits():
    # The notes' experiment: train-error barriers of two nets 64-64-64-10 of other seeds; means.
    pairs = [landscape.barriers(*nets, x, y) for nets, x, y in map(experiment.trained, SEEDS)]

    def mean(path, name):
        return np.mean([pair[path][name] for pair in pairs])

    assert mean("straight", "barrier") > 0.12
    assert mean("geodesic", "barrier") > 0.12
    assert mean("aligned", "barrier") < mean("straight", "barrier") / 3
    assert mean("aligned_geodesic", "barrier") < mean("geodesic", "barrier") / 2
    assert mean("aligned_geodesic", "distance") < 0.87 * mean("geodesic", "distance")
