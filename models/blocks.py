"""What the networks share: checked arguments, weight decay, convolutions, batch norm, logits."""

import numbers

import keras


def check_positive_int(**values):
    """Raises a ValueError, with the argument's name, at the first value that is not 1, 2, 3, ..."""
    for name, value in values.items():
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value}")


def check_in(allowed, **values):
    """Raises a ValueError, with the argument's name, at the first value that is not allowed."""
    for name, value in values.items():
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {tuple(allowed)}. Received: {name}={value}")


def image(input_shape, classes, l2):
    """The input of a network, after a check of the three arguments that every builder takes.

    Args:
        input_shape: (height, width, channels), all fixed.
        classes: number of logits.
        l2: weight decay, see `decay`.
    """
    check_positive_int(classes=classes)
    try:
        check_positive_int(height=input_shape[0], width=input_shape[1], channels=input_shape[2])
        fits = len(input_shape) == 3
    except (IndexError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            "`input_shape` must be (height, width, channels), positive integers. "
            f"Received: input_shape={input_shape}"
        )
    if not l2 >= 0:
        raise ValueError(f"`l2` must be >= 0. Received: l2={l2}")
    return keras.Input(tuple(input_shape))


def decay(l2):
    """The regularizer whose gradient is `l2 * w`: a loss of `l2 / 2 * sum(w ** 2)`.

    `l2` is thus the `weight_decay` of the papers and of PyTorch's SGD, and half of that is what
    `keras.regularizers.L2` takes. None for `l2=0`, so that the model has no losses.
    """
    return keras.regularizers.L2(l2 / 2) if l2 else None


def batch_norm(x):
    """Batch normalization as the reference networks have it (in PyTorch's words: momentum .1)."""
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def relu(x):
    """A rectifier as a layer of its own."""
    return keras.layers.ReLU()(x)


def dropout(x, rate):
    """Dropout; no layer for `rate=0`."""
    if not 0 <= rate < 1:
        raise ValueError(f"`dropout` must be >= 0 and < 1. Received: dropout={rate}")
    return keras.layers.Dropout(rate)(x) if rate else x


def conv(x, filters, kernel_size, strides=1, l2=0.0, use_bias=False):
    """A convolution of He's initialisation that keeps, or divides by `strides`, the image size.

    With strides, the padding is `kernel_size // 2` on both sides, as in PyTorch: the kernels are
    centred at pixels 0, 2, 4, ..., as are those of the 1x1 shortcut beside them. (Keras' "same"
    would centre 3x3 kernels at 1, 3, 5, ... of an even image.)
    """
    padding = "same"
    if strides > 1 and kernel_size > 1:
        x, padding = keras.layers.ZeroPadding2D(kernel_size // 2)(x), "valid"
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides,
        padding=padding,
        use_bias=use_bias,
        kernel_initializer="he_normal",
        kernel_regularizer=decay(l2),
    )(x)


def dense(x, units, l2=0.0):
    """A fully connected layer, with a bias, of He's initialisation: for use before a ReLU."""
    return keras.layers.Dense(units, kernel_initializer="he_normal", kernel_regularizer=decay(l2))(
        x
    )


def max_pool(x, pool_size):
    """Max pooling with strides 2, which leaves a single pixel a single pixel."""
    return keras.layers.MaxPooling2D(pool_size, 2, padding="same")(x)


def vgg_features(x, stacks, l2=0.0, rates=(0.0, 0.0, 0.0, 0.0, 0.0)):
    """Five stacks of 3x3 convolution-BN-ReLU, of 64 to 512 filters, each followed by pooling.

    Args:
        x: images.
        stacks: number of convolutions in each stack.
        l2: weight decay, see `decay`.
        rates: rate of the dropout between the convolutions of each stack.
    """
    for filters, convs, rate in zip((64, 128, 256, 512, 512), stacks, rates, strict=True):
        for i in range(convs):
            x = dropout(x, rate) if i else x
            x = relu(batch_norm(conv(x, filters, 3, l2=l2, use_bias=True)))
        x = max_pool(x, 2)
    return x


def classifier(inputs, features, classes, l2, name):
    """The model from inputs to logits, which are linear in the features.

    Logits have the dtype of the weights: float32 under mixed precision.
    """
    dtype = keras.config.dtype_policy().variable_dtype
    logits = keras.layers.Dense(int(classes), kernel_regularizer=decay(l2), dtype=dtype)(features)
    return keras.Model(inputs, logits, name=name)
