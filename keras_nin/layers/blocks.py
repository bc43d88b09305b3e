"""Blocks as functions: each takes a Keras tensor (B, H, W, C), channels last, and returns one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import keras

from keras_nin.errors import check_choice, check_whole_number, expected_error, input_error

KernelSize: TypeAlias = int | tuple[int, int]

BYPASSES = (None, "simple", "complex")
ROUNDINGS = ("floor", "ceil")
_POOLS = {"max": keras.layers.MaxPooling2D, "average": keras.layers.AveragePooling2D}


def join_name(prefix: str | None, part: str) -> str | None:
    """Return the name of a part of a block: prefix_part; None where the block has no name."""
    return f"{prefix}_{part}" if prefix else None


def _check_map(x: keras.KerasTensor) -> keras.KerasTensor:
    if len(x.shape) != 4:
        received = f"shape {tuple(x.shape)}"
        raise input_error("a map of shape (batch, height, width, channels)", received, argument="x")
    return x


def conv2d(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: KernelSize,
    *,
    strides: int = 1,
    padding: str | int = "same",
    activation: str | None = "relu",
    use_bias: bool = True,
    bias_initializer: str = "zeros",
    batch_norm: bool = False,
    scale: bool = True,
    name: str | None = None,
) -> keras.KerasTensor:
    """Convolution with its non-linearity, optionally with batch normalization between the two.

    Args:
        x, filters: tensor (B, H, W, C), and the number of output channels.
        kernel_size, strides: side of the square kernel, or (height, width); step in both directions.
        padding: ``"same"``, ``"valid"``, or the number of zeros on every side (Caffe), which for an even stride is not
            the same as ``"same"``.
        activation: name of the non-linearity; None for a linear layer.
        use_bias, bias_initializer: with `batch_norm` there is no bias, beta takes its place.
        batch_norm: convolution, BatchNormalization (arXiv:1502.03167), activation.
        scale: whether the normalization has a gamma; the next layer's weights can take its place after a ReLU.
        name: name of the convolution, and the prefix of the layers around it.

    Returns:
        Tensor (B, ceil(H / strides), ceil(W / strides), filters) with ``"same"`` padding.

    Raises:
        InputError: `x` is not a map, or `filters` is not a positive integer.
    """
    _check_map(x)
    if isinstance(padding, int):
        x, padding = _pad_every_side(x, padding, kernel_size, strides, name)
    x = keras.layers.Conv2D(
        check_whole_number("filters", filters),
        kernel_size,
        strides=strides,
        padding=padding,
        activation=None if batch_norm else activation,
        use_bias=use_bias and not batch_norm,
        bias_initializer=bias_initializer,
        kernel_initializer="he_normal" if activation == "relu" else "glorot_uniform",
        name=name,
    )(x)
    if not batch_norm:
        return x
    x = keras.layers.BatchNormalization(scale=scale, name=join_name(name, "bn"))(x)
    return keras.layers.Activation(activation, name=join_name(name, activation))(x) if activation else x


def _pad_every_side(
    x: keras.KerasTensor, zeros: int, kernel_size: KernelSize, strides: int, name: str | None
) -> tuple[keras.KerasTensor, str]:
    """Return the input of a convolution with `zeros` on every side, and the padding that is left to Keras."""
    sizes = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    totals = [
        None if side is None else (-(-side // strides) - 1) * strides + size - side
        for side, size in zip(x.shape[1:3], sizes, strict=True)
    ]
    if totals == [2 * zeros, 2 * zeros]:
        return x, "same"  # so that an exported file needs no PAD operator
    return keras.layers.ZeroPadding2D(zeros, name=join_name(name, "pad"))(x), "valid"


def conv1x1(
    x: keras.KerasTensor,
    filters: int,
    *,
    strides: int = 1,
    activation: str | None = "relu",
    use_bias: bool = True,
    batch_norm: bool = False,
    name: str | None = None,
) -> keras.KerasTensor:
    """1x1 convolution: the same linear map over the channels at every position, then a non-linearity.

    Reduces the channels where `filters` < C, expands them where `filters` > C, mixes them where they are equal
    (Lin, Chen, Yan, "Network in Network", arXiv:1312.4400).

    Args:
        x, filters: tensor (B, H, W, C), and the number of output channels.
        strides, activation, use_bias, batch_norm, name: as in `conv2d`.

    Returns:
        Tensor (B, ceil(H / strides), ceil(W / strides), filters).
    """
    style = {"activation": activation, "use_bias": use_bias, "batch_norm": batch_norm}
    return conv2d(x, filters, 1, strides=strides, name=name, **style)


def mlpconv(
    x: keras.KerasTensor,
    filters: Sequence[int],
    kernel_size: KernelSize,
    *,
    strides: int = 1,
    padding: str = "same",
    activation: str | None = "relu",
    batch_norm: bool = False,
    name: str | None = None,
) -> keras.KerasTensor:
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
        raise expected_error("filters", "to list the channels of each layer", filters)
    first, *pointwise = filters
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    part, style = join_name(name, f"conv{height}x{width}"), {"activation": activation, "batch_norm": batch_norm}
    x = conv2d(x, first, (height, width), strides=strides, padding=padding, name=part, **style)
    for letter, channels in zip("abcdefghijklmnopqrstuvwxyz", pointwise, strict=False):
        x = conv1x1(x, channels, name=join_name(name, f"conv1x1{letter}"), **style)
    return x


def fire(
    x: keras.KerasTensor,
    squeeze: int,
    expand1x1: int,
    expand3x3: int,
    *,
    bypass: str | None = None,
    activation: str | None = "relu",
    batch_norm: bool = False,
    name: str | None = None,
) -> keras.KerasTensor:
    """Fire module (arXiv:1602.07360): a 1x1 squeeze layer, then a 1x1 and a 3x3 expand layer, concatenated.

    Args:
        x: tensor (B, H, W, C).
        squeeze, expand1x1, expand3x3: output channels of the three layers.
        bypass: None; ``"simple"`` adds the input to the output, which needs C == expand1x1 + expand3x3;
            ``"complex"`` adds the input after a linear 1x1 layer that makes the channels equal (figure 2 of the paper).
        activation, batch_norm: of every layer but the bypass, as in `conv2d`.
        name: prefix; the layers are ``<name>_squeeze1x1``, ``<name>_expand1x1``, ``<name>_expand3x3``,
            ``<name>_concat`` and, with a bypass, ``<name>_bypass1x1`` and ``<name>_add``.

    Returns:
        Tensor (B, H, W, expand1x1 + expand3x3).

    Raises:
        InputError: a simple bypass between different numbers of channels, an unknown bypass, or as in `conv2d`.
    """
    check_choice("bypass", bypass, BYPASSES)
    channels = _check_map(x).shape[-1]
    out_channels = check_whole_number("expand1x1", expand1x1) + check_whole_number("expand3x3", expand3x3)
    if bypass == "simple" and channels != out_channels:
        expected = f"{out_channels} input channels for a simple bypass around {out_channels} output channels"
        raise input_error(expected, f"{channels}. Use bypass='complex'", argument="bypass")

    def convolve(y: keras.KerasTensor, filters: int, kernel_size: int, part: str) -> keras.KerasTensor:
        part_name = join_name(name, part)
        return conv2d(y, filters, kernel_size, activation=activation, batch_norm=batch_norm, name=part_name)

    squeezed = convolve(x, check_whole_number("squeeze", squeeze), 1, "squeeze1x1")
    branches = [convolve(squeezed, expand1x1, 1, "expand1x1"), convolve(squeezed, expand3x3, 3, "expand3x3")]
    output = keras.layers.Concatenate(name=join_name(name, "concat"))(branches)
    if bypass is None:
        return output
    if bypass == "complex":
        x = conv1x1(x, out_channels, activation=None, name=join_name(name, "bypass1x1"))
    return keras.layers.Add(name=join_name(name, "add"))([x, output])


def pointwise_head(
    x: keras.KerasTensor,
    classes: int | None,
    *,
    activation: str | None = "relu",
    classifier_activation: str | None = "softmax",
    zero_padding: int = 0,
    name: str | None = None,
) -> keras.KerasTensor:
    """1x1 layer to the classes and global average pooling instead of dense layers (arXiv:1312.4400, section 3.2).

    Args:
        x, classes: tensor (B, H, W, C), and the number of classes.
        activation, classifier_activation: of the 1x1 layer, and of the averages; None for none.
        zero_padding: rows and columns of zeros around the map before the 1x1 layer. The Caffe release of
            SqueezeNet 1.0 has 1, which its weights need.
        name: name of the 1x1 layer and prefix of the layers after it.

    Returns:
        Tensor (B, classes).
    """
    if zero_padding:
        x = keras.layers.ZeroPadding2D(zero_padding, name=join_name(name, "pad"))(x)
    # A class whose scores are all below zero would get no gradient through a ReLU: start above.
    bias = "ones" if activation == "relu" else "zeros"
    x = conv2d(x, check_whole_number("classes", classes), 1, activation=activation, bias_initializer=bias, name=name)
    x = keras.layers.GlobalAveragePooling2D(name=join_name(name, "pool"))(x)
    if classifier_activation is None:
        return x
    return keras.layers.Activation(classifier_activation, name=join_name(name, classifier_activation))(x)


def pool2d(
    x: keras.KerasTensor,
    kind: str = "max",
    size: int = 3,
    strides: int = 2,
    *,
    rounding: str = "floor",
    name: str | None = None,
) -> keras.KerasTensor:
    """Max or average pooling without padding whose output size is rounded down (Keras) or up (Caffe).

    With ``"ceil"`` the last window may overlap the edge; positions outside take no part in the maximum or average.

    Args:
        x: tensor (B, H, W, C); H and W must be known for ``"ceil"``.
        kind, rounding: ``"max"`` or ``"average"``; ``"floor"`` or ``"ceil"``.
        size, strides, name: side of the square window, its step, and the layer's name.

    Returns:
        Tensor (B, H', W', C) with H' = rounding((H - size) / strides) + 1.

    Raises:
        InputError: the map is smaller than the window, or a single Keras layer cannot round up at this size.
    """
    check_choice("kind", kind, tuple(_POOLS))
    check_choice("rounding", rounding, ROUNDINGS)
    sides = _check_map(x).shape[1:3]
    if rounding == "floor" and any(side is not None and side < size for side in sides):
        raise input_error(f"a map of at least {size}x{size} to pool", f"{sides[0]}x{sides[1]}", argument="x")
    padding = "valid" if rounding == "floor" else _ceil_padding(sides, size, strides)
    return _POOLS[kind](size, strides=strides, padding=padding, name=name)(x)


def _ceil_padding(sides: Sequence[int | None], size: int, strides: int) -> str:
    """Return the Keras padding that rounds up as Caffe does: 'same' pads after the end where one element is missing."""
    paddings = set()
    for side in sides:
        if side is None:
            raise input_error("a known height and width where pooling rounds up", "an open size")
        outputs = -(-(side - size) // strides) + 1
        missing = (outputs - 1) * strides + size - side
        same = "same" if missing == 1 and outputs == -(-side // strides) else None
        paddings.add("valid" if missing == 0 else same)
    if len(paddings) != 1 or None in paddings:
        expected = f"a map on which {size}x{size}/{strides} pooling rounds up with one padding in both directions"
        received = f"{sides[0]}x{sides[1]}. Use rounding='floor'"
        raise input_error(expected, received, argument="rounding")
    return paddings.pop()
