"""Which weights are perturbed, decayed and adapted, for each of Keras' layers that has weights."""

import inspect
import pathlib

import keras
import numpy as np
import pytest
from keras import layers

import keras_smoothout as ks
from keras_smoothout.method import included

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "design.md"
S, I, C = (2, 5, 4), (2, 5, 6, 4), (2, 5, 5, 6, 4)  # Batches of sequences, images, cubes.
LAYERS = {  # A layer, and the shapes of its inputs.
    "AdditiveAttention": (lambda: layers.AdditiveAttention(), S, S),
    "Attention": (lambda: layers.Attention(use_scale=True), S, S),
    "BatchNormalization": (lambda: layers.BatchNormalization(), I),
    "Conv1D": (lambda: layers.Conv1D(3, 2), S),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(3, 2), S),
    "Conv2D": (lambda: layers.Conv2D(3, 2), I),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(3, 2), I),
    "Conv3D": (lambda: layers.Conv3D(3, 2), C),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(3, 2), C),
    "ConvLSTM1D": (lambda: layers.ConvLSTM1D(3, 2), I),
    "ConvLSTM2D": (lambda: layers.ConvLSTM2D(3, 2), C),
    "ConvLSTM3D": (lambda: layers.ConvLSTM3D(3, 2), (2, *C)),
    "Dense": (lambda: layers.Dense(3), S),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(2), S),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(2), I),
    "EinsumDense": (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"), S),
    "Embedding": (lambda: layers.Embedding(7, 3), (2, 5)),
    "GroupNormalization": (lambda: layers.GroupNormalization(2), I),
    "GRU": (lambda: layers.GRU(3), S),
    "GRUCell": (lambda: layers.RNN(layers.GRUCell(3)), S),
    "LayerNormalization": (lambda: layers.LayerNormalization(axis=[1, 2]), S),
    "LSTM": (lambda: layers.LSTM(3), S),
    "LSTMCell": (lambda: layers.RNN(layers.LSTMCell(3)), S),
    "MultiHeadAttention": (lambda: layers.MultiHeadAttention(2, 3), S, S),
    "PReLU": (lambda: layers.PReLU(), I),
    "ReversibleEmbedding": (lambda: layers.ReversibleEmbedding(7, 3), (2, 5)),
    "RMSNormalization": (lambda: layers.RMSNormalization(), S),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(3, 2), S),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(3, 2), I),
    "SimpleRNN": (lambda: layers.SimpleRNN(3), S),
    "SimpleRNNCell": (lambda: layers.RNN(layers.SimpleRNNCell(3)), S),
    "SpectralNormalization": (lambda: layers.SpectralNormalization(layers.Dense(3)), S),
}
# No trainable weights of their own, or those of a model from elsewhere.
WITHOUT = {"FlaxLayer", "JaxLayer", "Normalization", "RNN", "STFTSpectrogram", "TFSMLayer"}
# Neither decayed nor adapted, of more than one axis.
OFFSETS = {"bias", "gamma", "beta", "alpha"}


def built(name):
    make, *shapes = LAYERS[name]
    layer = make()
    inputs = [np.zeros(shape, "int32" if "Embedding" in name else "float32") for shape in shapes]
    if name == "MultiHeadAttention":
        layer(*inputs)
    else:
        layer(inputs if len(inputs) > 1 else inputs[0])
    return layer


def test_every_layer_of_keras_that_has_weights_is_in_the_table():
    found = set()
    for name in dir(layers):
        cls = getattr(layers, name)
        if isinstance(cls, type) and issubclass(cls, layers.Layer) and cls is not layers.Layer:
            own = [c for c in cls.__mro__ if issubclass(c, layers.Layer) and c is not layers.Layer]
            if any("add_weight(" in inspect.getsource(c) for c in own):
                found.add(cls.__name__)
    assert found <= LAYERS.keys() | WITHOUT


def row(name):
    """Name of the layer; its weights that are perturbed; those that are decayed and adapted."""
    variables = built(name).trainable_variables
    columns = []
    for method in (ks.SmoothOut("sgd"), ks.LAMB(), ks.LARS()):
        columns.append([variables[i].name for i in included(variables, method.exclude)])
    assert columns[1] == columns[2]
    names = lambda values: ", ".join(dict.fromkeys(values)) or "none"  # noqa: E731
    others = [v.name for i, v in enumerate(variables)]
    return f"| {name} | {names(others)} | {names(columns[0])} | {names(columns[1])} |"


def test_the_page_has_the_table():
    assert "\n".join(map(row, LAYERS)) in PAGE.read_text()


@pytest.mark.parametrize("name", LAYERS)
def test_normalizations_are_not_perturbed_and_offsets_neither_decayed_nor_adapted(name):
    variables = built(name).trainable_variables
    perturbed = included(variables, ks.SmoothOut("sgd").exclude)
    adapted = included(variables, ks.LAMB().exclude)
    assert variables
    for i, variable in enumerate(variables):
        assert (i in adapted) == (len(variable.shape) > 1 and variable.name not in OFFSETS)
        normalizes = "Normalization" in name and name != "SpectralNormalization"
        scale = normalizes or name.endswith("Attention") and variable.name == "scale"
        assert (i in perturbed) != scale


@pytest.mark.parametrize("optimizer", [ks.LAMB(0.1, decay=0.9), ks.LARS(0.1, decay=0.9)])
@pytest.mark.parametrize("name", ["RMSNormalization", "LayerNormalization", "PReLU", "Attention"])
def test_a_step_without_gradient_leaves_scales_as_they_are(name, optimizer):
    variables = built(name).trainable_variables
    fresh = type(optimizer).from_config(optimizer.get_config())
    before = [keras.ops.convert_to_numpy(v) for v in variables]
    fresh.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
