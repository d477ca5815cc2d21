"""`pruned`: a sparse model as a plain Keras model, for where this package is not installed."""

import math

import keras
import numpy as np

from keras_smoothout import keras_internals
from keras_smoothout.around import chain
from keras_smoothout.checks import check_model
from keras_smoothout.evaluation import sync
from keras_smoothout.keras_internals import Functional
from keras_smoothout.methods.rigl import RigL


def pruned(model):
    """Return a plain Keras model of the weights that `RigL` has left; all others are exactly 0.

    The new model has its own weights, is not compiled, and holds nothing of this package: it can
    be saved, loaded and exported without it. The zeros are stored, so a file is smaller only when
    it is compressed, and a step of inference as long as before.

    Args:
        model: A built functional or sequential model, or what `keras_smoothout.wrap` made of one,
            compiled with `RigL`, alone or in a nest. Inside of `with keras_smoothout.weights_of`
            its weights are the average of a method around it.

    Raises:
        ValueError: If the model was not trained with `RigL`, has its own `call` or layers of this
            package, or if a kernel has more weights than its mask leaves: if they were set, or
            averaged while masks moved.

    Example:
        >>> import keras, keras_smoothout as ks, numpy as np
        >>> net = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
        >>> model = ks.wrap(net)
        >>> model.compile(ks.RigL("sgd", sparsity=0.9), "mse")
        >>> history = model.fit(np.ones((8, 20)), np.ones((8, 10)), verbose=0)
        >>> plain = ks.pruned(model)
        >>> type(plain).__module__.split(".")[0], int(np.sum(plain.get_weights()[0] != 0))
        ('keras', 20)
    """
    check_model(model)
    sync(model)
    rigl = [o for o in chain(getattr(model, "optimizer", None)) if isinstance(o, RigL)]
    if not rigl or not rigl[0].built:
        raise ValueError(
            "`model` must have been trained with `keras_smoothout.RigL`. Received: a model with "
            f"optimizer={getattr(model, 'optimizer', None)}"
        )
    check_sparse(model, rigl[0])
    ours = [x for x in keras_internals.layers(model) if is_ours(x)]
    own_call = type(model).call not in (Functional.call, keras.Sequential.call)
    if ours or own_call:
        what = f"layers {[x.name for x in ours]}" if ours else "its own `call`"
        raise ValueError(
            "`model` must be functional or sequential, of Keras' layers only: others need this "
            f"package, or the code of the class. Received: {type(model).__name__} with {what}"
        )
    plain = model
    if is_ours(model):
        plain = keras.Model(model.input, model.output, name=model.name)
    plain = keras.models.clone_model(plain)
    plain.set_weights(model.get_weights())
    return plain


def is_ours(layer):
    """Whether the class of a layer is of this package."""
    return type(layer).__module__.split(".")[0] == __package__


def check_sparse(model, rigl):
    """Raise if a kernel has more weights than its mask."""
    left = rigl.densities()
    for variable in model.trainable_variables:
        share = float(np.mean(keras.ops.convert_to_numpy(variable) != 0))
        if share > left.get(variable.path, 1.0) + 0.5 / math.prod(variable.shape):
            raise ValueError(
                "`model` must be as sparse as its masks: train another step after weights are set, "
                "and begin an average after the `end` of `RigL`. Received: "
                f"{share:.3g} of {variable.path} for a mask of {left[variable.path]:.3g}"
            )
