"""Inception modules as functions: each takes a Keras tensor (B, H, W, C), channels last, and returns one."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_nin.errors import check_choice, check_whole_number, input_error
from keras_nin.layers.blocks import KernelSize, conv2d, join_name, pool2d

MODULE_KINDS = ("a", "b", "c")
REDUCTION_KINDS = ("a", "b")
# Channels and kernel of the convolutions along each branch of a grid reduction.
_REDUCTIONS: dict[str, dict[str, Sequence[tuple[int, KernelSize]]]] = {
    "a": {"3x3": [(384, 3)], "3x3dbl": [(64, 1), (96, 3), (96, 3)]},
    "b": {"3x3": [(192, 1), (320, 3)], "7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)]},
}


def inception_module(
    x: keras.KerasTensor,
    conv1x1_filters: int,
    conv3x3_filters: int,
    conv5x5_filters: int,
    *,
    reduce3x3: int | None = None,
    reduce5x5: int | None = None,
    pool_projection: int | None = None,
    branch5x5_kernel_size: int = 5,
    activation: str | None = "relu",
    batch_norm: bool = False,
    name: str | None = None,
) -> keras.KerasTensor:
    """Inception v1 module: 1x1, 3x3 and 5x5 convolutions and a 3x3 pooling side by side, concatenated.

    The 1x1 reductions before the two larger convolutions, and the 1x1 projection after the pooling, are what makes it
    affordable (Szegedy et al., "Going deeper with convolutions", arXiv:1409.4842).

    Args:
        x: tensor (B, H, W, C).
        conv1x1_filters, conv3x3_filters, conv5x5_filters: output channels of the three convolutions.
        reduce3x3, reduce5x5: channels of the 1x1 layers before the larger convolutions; None leaves them out (the
            naive module of the paper's figure 2a).
        pool_projection: channels of the 1x1 layer after the pooling; None lets all C channels through.
        branch5x5_kernel_size: side of the 5x5 convolution's kernel; 3 in TF-Slim and torchvision.
        activation, batch_norm: of every convolution, as in `conv2d`.
        name: prefix; the layers are ``<name>_1x1``, ``<name>_3x3reduce1x1``, ``<name>_3x3``, ``<name>_5x5reduce1x1``,
            ``<name>_5x5``, ``<name>_pool``, ``<name>_poolproj1x1`` and ``<name>_concat``.

    Returns:
        Tensor (B, H, W, conv1x1_filters + conv3x3_filters + conv5x5_filters + (pool_projection or C)).

    Raises:
        InputError: `x` is not a map, or a number of channels is not a positive integer.
    """

    def convolve(y: keras.KerasTensor, filters: int, side: int, part: str) -> keras.KerasTensor:
        part_name = join_name(name, part)
        return conv2d(y, filters, side, activation=activation, batch_norm=batch_norm, name=part_name)

    branches = [convolve(x, conv1x1_filters, 1, "1x1")]
    for part, side, reduction, filters in (
        ("3x3", 3, reduce3x3, conv3x3_filters),
        ("5x5", branch5x5_kernel_size, reduce5x5, conv5x5_filters),
    ):
        reduced = x if reduction is None else convolve(x, reduction, 1, f"{part}reduce1x1")
        branches.append(convolve(reduced, filters, side, part))
    pooled = keras.layers.MaxPooling2D(3, strides=1, padding="same", name=join_name(name, "pool"))(x)
    if pool_projection is not None:
        pooled = convolve(pooled, pool_projection, 1, "poolproj1x1")
    return keras.layers.Concatenate(name=join_name(name, "concat"))([*branches, pooled])


def inception_v3_module(
    x: keras.KerasTensor,
    kind: str,
    *,
    pool_projection: int = 192,
    width: int = 128,
    padded_pool: bool = False,
    name: str | None = None,
) -> keras.KerasTensor:
    """Inception v3 module on a grid of 35 (kind "a"), 17 ("b") or 8 ("c"), with factorized convolutions.

    "a" has two 3x3 layers where v1 has a 5x5 beside its 5x5 branch; "b" factorizes 7x7 into 1x7 and 7x1; "c" puts 1x3
    and 3x1 side by side (Szegedy et al., "Rethinking the Inception Architecture", arXiv:1512.00567, figures 5 to 7).
    Convolutions have no bias; each is followed by BatchNormalization without gamma, and ReLU.

    Args:
        x, kind: tensor (B, H, W, C), and ``"a"``, ``"b"`` or ``"c"``.
        pool_projection, width: channels of the 1x1 layer after the average pooling, and inside the 7x7 branches of
            kind ``"b"``.
        padded_pool: whether the average pooling counts zeros around the map, as torchvision's does.
        name: prefix of the layers' names.

    Returns:
        Tensor (B, H, W, C') with C' = 224 + pool_projection ("a"), 576 + pool_projection ("b") or
        1856 + pool_projection ("c").

    Raises:
        InputError: an unknown kind, `x` is not a map, or a number of channels is not a positive integer.
    """
    check_choice("kind", kind, MODULE_KINDS)
    check_whole_number("width", width)
    chains: dict[str, dict[str, Sequence[tuple[int, KernelSize]]]] = {
        "a": {"": [(64, 1)], "5x5": [(48, 1), (64, 5)], "3x3dbl": [(64, 1), (96, 3), (96, 3)]},
        "b": {
            "": [(192, 1)],
            "7x7": [(width, 1), (width, (1, 7)), (192, (7, 1))],
            "7x7dbl": [(width, 1), (width, (7, 1)), (width, (1, 7)), (width, (7, 1)), (192, (1, 7))],
        },
        "c": {"": [(320, 1)], "3x3": [(384, 1)], "3x3dbl": [(448, 1), (384, 3)]},
    }
    branches = []
    for branch, steps in chains[kind].items():
        y = _conv_chain(x, name, branch, steps)
        if kind == "c" and branch:  # a 1x3 and a 3x1 layer side by side
            halves = [_conv_bn_relu(y, 384, kernel, name, f"{branch}split") for kernel in ((1, 3), (3, 1))]
            y = keras.layers.Concatenate(name=join_name(name, f"{branch}split"))(halves)
        branches.append(y)
    border = "valid" if padded_pool else "same"
    pooled = keras.layers.ZeroPadding2D(1, name=join_name(name, "pool_pad"))(x) if padded_pool else x
    pooled = keras.layers.AveragePooling2D(3, strides=1, padding=border, name=join_name(name, "pool"))(pooled)
    pooled = _conv_bn_relu(pooled, pool_projection, 1, name, "poolproj")
    return keras.layers.Concatenate(name=join_name(name, "concat"))([*branches, pooled])


def inception_reduction(x: keras.KerasTensor, kind: str, *, name: str | None = None) -> keras.KerasTensor:
    """Inception v3 grid reduction: strided convolutions beside a strided pooling, 35 to 17 ("a") or 17 to 8 ("b").

    Halving the grid in parallel branches avoids both a bottleneck and its cost (arXiv:1512.00567, section 5).

    Args:
        x, kind, name: tensor (B, H, W, C), ``"a"`` or ``"b"``, and the prefix of the layers' names.

    Returns:
        Tensor (B, (H - 3) // 2 + 1, (W - 3) // 2 + 1, C') with C' = C + 480 ("a") or C + 512 ("b").

    Raises:
        InputError: an unknown kind, `x` is not a map, or it is smaller than 3x3.
    """
    check_choice("kind", kind, REDUCTION_KINDS)
    if any(side is not None and side < 3 for side in x.shape[1:3]):
        raise input_error("a map of at least 3x3 to reduce", f"{x.shape[1]}x{x.shape[2]}", argument="x")
    branches = [_conv_chain(x, name, branch, steps, reduce=True) for branch, steps in _REDUCTIONS[kind].items()]
    pooled = pool2d(x, name=join_name(name, "pool"))
    return keras.layers.Concatenate(name=join_name(name, "concat"))([*branches, pooled])


def _conv_chain(
    x: keras.KerasTensor, name: str | None, branch: str, steps: Sequence[tuple[int, KernelSize]], reduce: bool = False
) -> keras.KerasTensor:
    """Add convolutions one after the other, each (filters, kernel); with `reduce` the last has stride 2."""
    for number, (filters, kernel) in enumerate(steps):
        label = f"{branch}{'abcde'[number]}" if branch else ""
        x = _conv_bn_relu(x, filters, kernel, name, label, strides=2 if reduce and number == len(steps) - 1 else 1)
    return x


def _conv_bn_relu(
    x: keras.KerasTensor, filters: int, kernel: KernelSize, name: str | None, branch: str, strides: int = 1
) -> keras.KerasTensor:
    """Add a convolution without bias, BatchNormalization without gamma, ReLU; named by its branch and its kernel."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    label = join_name(name, f"{branch}conv{height}x{width}")
    padding = "valid" if strides > 1 else "same"
    return conv2d(x, filters, kernel, strides=strides, padding=padding, batch_norm=True, scale=False, name=label)
