"""Blocks as functions: each takes a Keras tensor (B, H, W, C), channels last, and returns one."""

import keras

from keras_nin.errors import InputError, check_choice

BYPASSES = (None, "simple", "complex")
ROUNDINGS = ("floor", "ceil")
_POOLS = {"max": keras.layers.MaxPooling2D, "average": keras.layers.AveragePooling2D}


def join_name(prefix, part):
    """Return the name of a part of a block: prefix_part; None where the block has no name."""
    return f"{prefix}_{part}" if prefix else None


def check_positive(what, value):
    """Return `value` where it is a positive integer; else raise `InputError` naming `what`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"Expected `{what}` to be a positive integer. Received: {value!r}")
    return value


def _check_map(x):
    if len(x.shape) != 4:
        raise InputError(f"Expected a map of shape (batch, height, width, channels). Received: shape {tuple(x.shape)}")
    return x


def conv2d(
    x,
    filters,
    kernel_size,
    *,
    strides=1,
    padding="same",
    activation="relu",
    use_bias=True,
    bias_initializer="zeros",
    batch_norm=False,
    scale=True,
    name=None,
):
    """Convolution with its non-linearity, optionally with batch normalisation between the two.

    Args:
        x: tensor (B, H, W, C).
        filters: number of output channels.
        kernel_size: side of the square kernel, or (height, width).
        strides: step in both directions.
        padding: ``"same"``, ``"valid"``, or the number of zeros on every side (Caffe), which for an even stride is not
            the same as ``"same"``.
        activation: name of the non-linearity; None for a linear layer.
        use_bias: whether the convolution has a bias; with `batch_norm` it never has, beta takes its place.
        bias_initializer: the bias before training.
        batch_norm: convolution, BatchNormalization (arXiv:1502.03167), activation.
        scale: whether the normalisation has a gamma; the next layer's weights can take its place after a ReLU.
        name: name of the convolution, and the prefix of the layers around it.

    Returns:
        Tensor (B, ceil(H / strides), ceil(W / strides), filters) with ``"same"`` padding.

    Raises:
        InputError: `x` is no map, or `filters` is no positive integer.
    """
    _check_map(x)
    if isinstance(padding, int):
        x, padding = _pad_every_side(x, padding, kernel_size, strides, name)
    conv = keras.layers.Conv2D(
        check_positive("filters", filters),
        kernel_size,
        strides=strides,
        padding=padding,
        activation=None if batch_norm else activation,
        use_bias=use_bias and not batch_norm,
        bias_initializer=bias_initializer,
        kernel_initializer="he_normal" if activation == "relu" else "glorot_uniform",
        name=name,
    )
    x = conv(x)
    if not batch_norm:
        return x
    x = keras.layers.BatchNormalization(scale=scale, name=join_name(name, "bn"))(x)
    return keras.layers.Activation(activation, name=join_name(name, activation))(x) if activation else x


def _pad_every_side(x, zeros, kernel_size, strides, name):
    """Return the input of a convolution with `zeros` on every side, and the padding that Keras is left to do."""
    sides = x.shape[1:3]
    totals = [None if side is None else (-(-side // strides) - 1) * strides + kernel_size - side for side in sides]
    if totals == [2 * zeros, 2 * zeros]:
        return x, "same"  # which leaves no PAD operator in an exported file
    return keras.layers.ZeroPadding2D(zeros, name=join_name(name, "pad"))(x), "valid"


def conv1x1(x, filters, *, strides=1, activation="relu", use_bias=True, batch_norm=False, name=None):
    """1x1 convolution: the same linear map over the channels at every position, then a non-linearity.

    Reduces the channels where `filters` < C, expands them where `filters` > C, mixes them where they are equal
    (Lin, Chen, Yan, "Network in Network", arXiv:1312.4400).

    Args:
        x: tensor (B, H, W, C).
        filters: number of output channels.
        strides, activation, use_bias, batch_norm, name: as in `conv2d`.

    Returns:
        Tensor (B, ceil(H / strides), ceil(W / strides), filters).

    Raises:
        InputError: as in `conv2d`.
    """
    return conv2d(
        x, filters, 1, strides=strides, activation=activation, use_bias=use_bias, batch_norm=batch_norm, name=name
    )


def mlpconv(x, filters, kernel_size, *, strides=1, padding="same", activation="relu", batch_norm=False, name=None):
    """Mlpconv block: a k x k convolution, then 1x1 layers, each with its non-linearity (arXiv:1312.4400).

    Args:
        x: tensor (B, H, W, C).
        filters: output channels of each layer; the first belongs to the k x k convolution, the others to 1x1 layers.
        kernel_size, strides, padding: of the k x k convolution.
        activation, batch_norm: of every layer, as in `conv2d`.
        name: prefix; the layers are called ``<name>_conv5x5``, ``<name>_conv1x1a``, ``<name>_conv1x1b``, ...

    Returns:
        Tensor (B, ceil(H / strides), ceil(W / strides), filters[-1]) with ``"same"`` padding.

    Raises:
        InputError: `filters` is empty, or as in `conv2d`.
    """
    if isinstance(filters, int) or not filters:
        raise InputError(f"Expected `filters` to list the channels of each layer. Received: {filters!r}")
    first, *pointwise = filters
    side = kernel_size if isinstance(kernel_size, int) else "x".join(map(str, kernel_size))
    label = f"conv{side}x{side}" if isinstance(kernel_size, int) else f"conv{side}"
    style = {"activation": activation, "batch_norm": batch_norm}
    x = conv2d(x, first, kernel_size, strides=strides, padding=padding, name=join_name(name, label), **style)
    for letter, width in zip("abcdefghijklmnopqrstuvwxyz", pointwise, strict=False):
        x = conv1x1(x, width, name=join_name(name, f"conv1x1{letter}"), **style)
    return x


def fire(x, squeeze, expand1x1, expand3x3, *, bypass=None, activation="relu", batch_norm=False, name=None):
    """Fire module: a 1x1 squeeze layer, then a 1x1 and a 3x3 expand layer side by side, concatenated.

    Iandola et al., "SqueezeNet", arXiv:1602.07360.

    Args:
        x: tensor (B, H, W, C).
        squeeze, expand1x1, expand3x3: output channels of the three layers.
        bypass: None; ``"simple"`` adds the input to the output, which needs C == expand1x1 + expand3x3;
            ``"complex"`` adds the input after a linear 1x1 layer that makes the channels equal (figure 2 of the paper).
        activation, batch_norm: as in `conv2d`.
        name: prefix; the layers are ``<name>_squeeze1x1``, ``<name>_expand1x1``, ``<name>_expand3x3``,
            ``<name>_concat`` and, with a bypass, ``<name>_bypass1x1`` and ``<name>_add``.

    Returns:
        Tensor (B, H, W, expand1x1 + expand3x3).

    Raises:
        InputError: a simple bypass between different numbers of channels, an unknown bypass, or as in `conv2d`.
    """
    check_choice("bypass", bypass, BYPASSES)
    channels = _check_map(x).shape[-1]
    out_channels = check_positive("expand1x1", expand1x1) + check_positive("expand3x3", expand3x3)
    if bypass == "simple" and channels != out_channels:
        raise InputError(
            f"Expected {out_channels} input channels for a simple bypass around {out_channels} output channels. "
            f"Received: {channels}. Use bypass='complex'"
        )
    style = {"activation": activation, "batch_norm": batch_norm}
    squeezed = conv1x1(x, check_positive("squeeze", squeeze), name=join_name(name, "squeeze1x1"), **style)
    branches = [
        conv1x1(squeezed, expand1x1, name=join_name(name, "expand1x1"), **style),
        conv2d(squeezed, expand3x3, 3, name=join_name(name, "expand3x3"), **style),
    ]
    output = keras.layers.Concatenate(name=join_name(name, "concat"))(branches)
    if bypass is None:
        return output
    if bypass == "complex":
        x = conv1x1(x, out_channels, activation=None, name=join_name(name, "bypass1x1"))
    return keras.layers.Add(name=join_name(name, "add"))([x, output])


def pointwise_head(x, classes, *, activation="relu", classifier_activation="softmax", zero_padding=0, name=None):
    """Classify with a 1x1 layer to the classes and global average pooling instead of dense layers.

    Section 3.2 of "Network in Network", arXiv:1312.4400.

    Args:
        x: tensor (B, H, W, C).
        classes: number of classes.
        activation: non-linearity of the 1x1 layer; None for a linear one.
        classifier_activation: applied to the averages; None to return them as they are.
        zero_padding: rows and columns of zeros around the map before the 1x1 layer. The Caffe release of
            SqueezeNet 1.0 has 1, and its weights mean that.
        name: name of the 1x1 layer and prefix of the layers after it.

    Returns:
        Tensor (B, classes).

    Raises:
        InputError: as in `conv2d`.
    """
    if zero_padding:
        x = keras.layers.ZeroPadding2D(check_positive("zero_padding", zero_padding), name=join_name(name, "pad"))(x)
    # A class whose scores are all below zero would get no gradient through a ReLU: start above.
    bias = "ones" if activation == "relu" else "zeros"
    x = conv2d(x, classes, 1, activation=activation, bias_initializer=bias, name=name)
    x = keras.layers.GlobalAveragePooling2D(name=join_name(name, "pool"))(x)
    if classifier_activation is None:
        return x
    return keras.layers.Activation(classifier_activation, name=join_name(name, classifier_activation))(x)


def pool2d(x, kind="max", size=3, strides=2, *, rounding="floor", name=None):
    """Max or average pooling without padding whose output size is rounded down (Keras) or up (Caffe).

    With ``"ceil"`` the last window may hang over the edge; what hangs over takes no part in the maximum or average.

    Args:
        x: tensor (B, H, W, C); H and W must be known for ``"ceil"``.
        kind: ``"max"`` or ``"average"``.
        size, strides: side of the square window and its step.
        rounding: ``"floor"`` or ``"ceil"``.
        name: name of the layer.

    Returns:
        Tensor (B, H', W', C) with H' = rounding((H - size) / strides) + 1.

    Raises:
        InputError: the map is smaller than the window, or a single Keras layer cannot round up at this size.
    """
    check_choice("kind", kind, tuple(_POOLS))
    check_choice("rounding", rounding, ROUNDINGS)
    sides = _check_map(x).shape[1:3]
    if rounding == "floor" and any(side is not None and side < size for side in sides):
        raise InputError(f"Expected a map of at least {size}x{size} to pool. Received: {sides[0]}x{sides[1]}")
    padding = "valid" if rounding == "floor" else _ceil_padding(sides, size, strides)
    return _POOLS[kind](size, strides=strides, padding=padding, name=name)(x)


def _ceil_padding(sides, size, strides):
    """Return the Keras padding that rounds up as Caffe does: 'same' pads after the end where one element is missing."""
    found = set()
    for side in sides:
        if side is None:
            raise InputError("Expected a known height and width where pooling rounds up. Received: an open size")
        out = -(-(side - size) // strides) + 1
        missing = (out - 1) * strides + size - side
        if missing == 0:
            found.add("valid")
        elif missing == 1 and out == -(-side // strides):
            found.add("same")
        else:
            found.add(None)
    if len(found) != 1 or None in found:
        raise InputError(
            f"Expected a map on which {size}x{size}/{strides} pooling can round up alike in both directions. "
            f"Received: {sides[0]}x{sides[1]}. Use rounding='floor'"
        )
    return found.pop()
