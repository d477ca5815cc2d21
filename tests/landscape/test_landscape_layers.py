"""Second derivatives of all layers of Keras, against central differences of the gradient."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.landscape import Scale

from keras_smoothout.landscape import Objective, gauss_newton, hessian

TENSORFLOW = keras.backend.backend() == "tensorflow"
# A large step drowns the noise of float32, a small one meets no kink.
STEPS = (1e-2, 1e-3, 1e-4, 1e-6)

LINE, PLANE, SPACE = (6, 3), (4, 4, 3), (3, 3, 3, 2)  # Steps or places, and channels.
PAIR = "two inputs"
WORDS = "integers below 5"

# What is no operation on numbers that a weight could have moved.
LEFT_OUT = {
    "Layer": "a base class",
    "Wrapper": "a base class",
    "InputLayer": "no operation",
    "FlaxLayer": "another library",
    "JaxLayer": "another library",
    "TFSMLayer": "another library",
    "TorchModuleWrapper": "another library",
    "CategoryEncoding": "integers in",
    "Discretization": "integers out",
    "Equalization": "integers in between",
    "HashedCrossing": "integers in",
    "Hashing": "integers in",
    "IntegerLookup": "integers in",
    "MaxNumBoundingBoxes": "boxes in",
    "StringLookup": "strings in",
    "TextVectorization": "strings in",
}


def cell(kind):
    return lambda: layers.RNN(getattr(layers, kind)(2))


def of_rank(name, shape, *args, **kwargs):
    return (lambda: getattr(layers, name)(*args, **kwargs)), shape


def table():
    """From names of layers to how each is made, and the shape of what it takes."""
    rows = {}
    for rank, shape in ((1, LINE), (2, PLANE), (3, SPACE)):
        ranked = {
            "AdaptiveAveragePooling": [2],
            "AdaptiveMaxPooling": [2],
            "AveragePooling": [2],
            "Conv": [2, 2],
            "ConvTranspose": [2, 2],
            "Cropping": [1],
            "GlobalAveragePooling": [],
            "GlobalMaxPooling": [],
            "MaxPooling": [2],
            "SpatialDropout": [0.5],
            "UpSampling": [2],
            "ZeroPadding": [1],
        }
        if rank < 3:
            ranked |= {"DepthwiseConv": [2], "SeparableConv": [2, 2]}
        for name, args in ranked.items():
            stem, transpose = name.removesuffix("Transpose"), name.endswith("Transpose")
            full = f"{stem}{rank}D" + "Transpose" * transpose
            rows[full] = of_rank(full, shape, *args)
        rows[f"ConvLSTM{rank}D"] = of_rank(f"ConvLSTM{rank}D", (2, *shape), 1, 2)
    for interpolation in ("bilinear", "bicubic", "lanczos3", "lanczos5"):
        rows[f"UpSampling2D {interpolation}"] = of_rank(
            "UpSampling2D", PLANE, 2, interpolation=interpolation
        )
    for interpolation in ("bilinear", "nearest", "bicubic", "lanczos3", "lanczos5"):
        rows[f"Resizing {interpolation}"] = of_rank("Resizing", PLANE, 3, 5, interpolation)
    for name in ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"):
        rows[name] = of_rank(name, PAIR)
    for name in ("AdditiveAttention", "Attention"):
        rows[name] = of_rank(name, PAIR)
    for name in dir(keras.activations):
        if name not in ("deserialize", "get", "serialize", "glu", "threshold") and name[0] != "_":
            rows[f"Activation {name}"] = of_rank("Activation", LINE, name)
    for name in dir(layers):  # Images: as they are, or changed in training only.
        if name.startswith("Random"):
            rows[name] = of_rank(name, PLANE, *RANDOM.get(name, [0.1]))
    return rows | OTHERS


RANDOM = {
    "RandomColorJitter": [(0, 1)],
    "RandomCrop": [3, 3],
    "RandomElasticTransform": [],
    "RandomErasing": [],
    "RandomFlip": [],
    "RandomGaussianBlur": [],
    "RandomGrayscale": [],
    "RandomInvert": [],
    "RandomPerspective": [],
    "RandomPosterization": [4],
    "RandomShear": [],
    "RandomTranslation": [0.1, 0.1],
}
OTHERS = {
    "Activation": of_rank("Activation", LINE, "tanh"),
    "ActivityRegularization": of_rank("ActivityRegularization", LINE),
    "AlphaDropout": of_rank("AlphaDropout", LINE, 0.5),
    "AugMix": of_rank("AugMix", PLANE),
    "AutoContrast": of_rank("AutoContrast", PLANE),
    "BatchNormalization": of_rank("BatchNormalization", LINE),
    "Bidirectional": (lambda: layers.Bidirectional(layers.SimpleRNN(2)), LINE),
    "CenterCrop": of_rank("CenterCrop", PLANE, 2, 2),
    "CenterCrop of a larger image": of_rank("CenterCrop", PLANE, 6, 6),
    "ContrastLimitedAdaptiveHistogramEqualization": of_rank(
        "ContrastLimitedAdaptiveHistogramEqualization", PLANE
    ),
    "CutMix": of_rank("CutMix", PLANE),
    "Dense": of_rank("Dense", LINE, 2),
    "Dot": of_rank("Dot", PAIR, axes=2),
    "Dropout": of_rank("Dropout", LINE, 0.5),
    "ELU": of_rank("ELU", LINE),
    "EinsumDense": of_rank("EinsumDense", LINE, "abc,cd->abd", (None, 2)),
    "Embedding": of_rank("Embedding", WORDS, 5, 3),
    "Flatten": of_rank("Flatten", LINE),
    "GRU": of_rank("GRU", LINE, 2),
    "GRUCell": (cell("GRUCell"), LINE),
    "GaussianDropout": of_rank("GaussianDropout", LINE, 0.5),
    "GaussianNoise": of_rank("GaussianNoise", LINE, 0.5),
    "GroupNormalization": of_rank("GroupNormalization", LINE, 3),
    "GroupQueryAttention": (lambda: Twice(layers.GroupQueryAttention(2, 2, 1)), LINE),
    "Identity": of_rank("Identity", LINE),
    "LSTM": of_rank("LSTM", LINE, 2),
    "LSTMCell": (cell("LSTMCell"), LINE),
    "Lambda": of_rank("Lambda", LINE, lambda x: x * ops.sin(x)),
    "LayerNormalization": of_rank("LayerNormalization", LINE),
    "LeakyReLU": of_rank("LeakyReLU", LINE),
    "Masking": of_rank("Masking", LINE),
    "MelSpectrogram": of_rank("MelSpectrogram", (300,), 64, 32, num_mel_bins=4),
    "MixUp": of_rank("MixUp", PLANE),
    "MultiHeadAttention": (lambda: Twice(layers.MultiHeadAttention(2, 2)), LINE),
    "Normalization": of_rank("Normalization", LINE, mean=0.1, variance=2.0),
    "PReLU": of_rank("PReLU", LINE, "ones"),
    "Permute": of_rank("Permute", LINE, (2, 1)),
    "Pipeline": of_rank("Pipeline", LINE, [layers.ReLU()]),
    "RMSNormalization": of_rank("RMSNormalization", LINE),
    "RNN": (cell("SimpleRNNCell"), LINE),
    "RandAugment": of_rank("RandAugment", PLANE),
    "ReLU": of_rank("ReLU", LINE),
    "RepeatVector": of_rank("RepeatVector", (3,), 2),
    "Rescaling": of_rank("Rescaling", LINE, 2.0),
    "Reshape": of_rank("Reshape", LINE, (18,)),
    "Resizing": of_rank("Resizing", PLANE, 3, 5),
    "ReversibleEmbedding": of_rank("ReversibleEmbedding", WORDS, 5, 3),
    "STFTSpectrogram": of_rank("STFTSpectrogram", (64, 1), "log", 16, 8),
    "SimpleRNN": of_rank("SimpleRNN", LINE, 2),
    "SimpleRNNCell": (cell("SimpleRNNCell"), LINE),
    "Softmax": of_rank("Softmax", LINE),
    "Solarization": of_rank("Solarization", PLANE),
    "SpectralNormalization": (lambda: layers.SpectralNormalization(layers.Dense(2)), LINE),
    "StackedRNNCells": (
        lambda: layers.RNN(layers.StackedRNNCells([layers.GRUCell(2), layers.LSTMCell(2)])),
        LINE,
    ),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dense(2)), LINE),
    "UnitNormalization": of_rank("UnitNormalization", LINE),
}


class Twice(layers.Layer):
    """A layer of attention, with its input as all that it takes."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def build(self, shape):
        self.layer.build(shape, shape)

    def call(self, x):
        return self.layer(x, x)


def objective(make, kind):
    """The loss of a net of one layer between two scales, at random weights."""
    rng = np.random.default_rng(0)
    if kind == WORDS:
        inputs, x = keras.Input((4,), dtype="int32"), rng.integers(0, 5, (2, 4))
        h = make()(inputs)
    else:
        shape = LINE if kind == PAIR else kind
        inputs, x = keras.Input(shape), rng.uniform(0.1, 0.9, (2, *shape))
        h = Scale()(inputs) if kind != PAIR else [Scale()(inputs), Scale()(ops.sin(inputs))]
        h = make()(h)
    h = layers.Flatten()(layers.Activation("tanh")(Scale()(h)))
    model = keras.Model(inputs, ops.mean(h, axis=1, keepdims=True))
    model.compile(loss="mse")
    return Objective(model, x, np.array([[0.3], [-0.2]]))


ROWS = table()
# What has no float64 in Keras: compared in float32.
if TENSORFLOW:
    SINGLE = ("AdaptiveAveragePooling3D", "AdaptiveMaxPooling3D", "AveragePooling3D")
    SINGLE += ("MaxPooling3D", "UpSampling2D lanczos3", "UpSampling2D lanczos5", "MelSpectrogram")
    SINGLE += ("Resizing lanczos3", "Resizing lanczos5")
else:  # Its loop over steps refuses `tanh`, which is rounded to float32.
    SINGLE = ("Bidirectional", "RNN", "SimpleRNN", "SimpleRNNCell")
# One of each kind that once was wrong, and of what is used most; the others are slow.
QUICK = ("UpSampling2D bilinear", "UpSampling2D bicubic", "Resizing nearest", "Resizing lanczos3")
QUICK += ("Activation softsign", "BatchNormalization", "LayerNormalization", "Conv2D", "Dense")
QUICK += ("MaxPooling2D", "SpectralNormalization", "Embedding")


def test_every_layer_of_keras_has_a_row():
    every = {c for c in vars(layers).values() if isinstance(c, type)}
    rows = {name.split()[0] for name in ROWS} | set(LEFT_OUT)
    assert {c for c in every if issubclass(c, keras.Layer)} == {getattr(layers, n) for n in rows}


@pytest.mark.filterwarnings("ignore:Layer 'flatten':UserWarning")  # It destroys a mask.
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.release) for n in ROWS]
)
def test_products_are_slopes(name, request):
    single = name in SINGLE
    if not single:
        request.getfixturevalue("precise")
    close = 1e-3 if TENSORFLOW and not single else 1e-2  # JAX rounds `tanh` to float32.
    o = objective(*ROWS[name])
    rng = np.random.default_rng(1)
    place, v = o.flatten(o.weights) + 0.1 * rng.normal(size=o.size), rng.normal(size=o.size)
    weights, ((x, _, _),) = o.unflatten(place), o.batches()

    def gradient(place):
        return o.flatten(o.loss_and_gradient(o.unflatten(place))[1])

    def outputs(place):
        return np.array(o.model.stateless_call(o.unflatten(place), o.state, x, training=False)[0])

    def slopes(function):
        return [(function(place + h * v) - function(place - h * v)) / (2 * h) for h in STEPS]

    Hv = hessian(o, weights) @ v
    error = min(np.linalg.norm(Hv - slope) for slope in slopes(gradient))
    assert error <= close * max(np.linalg.norm(Hv), 1e-2)
    vGv = v @ (gauss_newton(o, weights) @ v)  # G = 2 J'J / n, of a mean of (outputs - y)^2.
    error = min(abs(vGv - 2 * np.mean(Jv**2)) for Jv in slopes(outputs))
    assert error <= close * max(vGv, 1e-2)
