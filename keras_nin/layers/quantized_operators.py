"""The integer arithmetic of TFLite's operators in float32, as the XNNPACK kernels of LiteRT round it.

A rule takes the levels of the operands, the quantization of each operand and output, and the operator's options; it
returns the levels of the output, or a list of them. Levels are integers minus their zero point, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

ops: Any = keras.ops
_LOWEST, _HIGHEST = -128, 127
_ADD_BITS = 20  # of the multipliers of ADD and SUB


class Quantization(NamedTuple):
    """Scale and zero point of a tensor, as scalar tensors; a zero point that is fixed may be a number."""

    scale: Any
    zero_point: Any


def constant(x: Any) -> Any:
    """Return a tensor or number without its gradient."""
    return x if isinstance(x, float) else ops.stop_gradient(x)


def straight_through(exact: Any, surrogate: Any) -> Any:
    """Return `exact` with the gradient of `surrogate`."""
    return surrogate + ops.stop_gradient(exact - surrogate)


def round_levels(x: Any) -> Any:
    """Round to the nearest integer, halves to the even one, with the gradient of the identity."""
    return straight_through(ops.round(x), x)


def _round_half_away(x: Any) -> Any:
    return ops.sign(x) * ops.floor(ops.abs(x) + 0.5)


def clip_levels(x: Any, low: Any, high: Any) -> Any:
    """Clip; where `x` equals a limit, the gradient is that of the identity, as in TensorFlow and PyTorch.

    JAX halves it there, and weights at the ends of their grid are there.
    """
    if keras.backend.backend() == "jax":
        return ops.where(x < low, low, ops.where(x > high, high, x))
    return ops.clip(x, low, high)


def clip_range(output: Quantization, activation: str = "NONE") -> tuple[Any, Any]:
    """Return the lowest and the highest level of an output behind a fused activation."""
    low, high = _LOWEST - output.zero_point, _HIGHEST - output.zero_point
    if activation in ("RELU", "RELU6"):
        low = 0.0  # a zero point is never below the lowest integer
    if activation == "RELU6":
        high = ops.minimum(high, ops.stop_gradient(_round_half_away(6 / output.scale)))
    if activation in ("RELU_N1_TO_1", "RELU_MINUS1_TO_1"):
        limit = ops.stop_gradient(_round_half_away(1 / output.scale))
        low, high = ops.maximum(low, -limit), ops.minimum(high, limit)
    return low, high


def requantize(total: Any, multiplier: Any, low: Any, high: Any) -> Any:
    """Return whole sums as levels of the output: multiplied, clipped and rounded."""
    return round_levels(clip_levels(total * multiplier, low, high))


# Arithmetic


def _add(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    """ADD and SUB: two products with multipliers of 21 bits, added and shifted in int32."""
    (x, y), (first, second), (output,) = values, sources, targets
    a, b = first.scale / output.scale, second.scale / output.scale
    sign = options.get("sign", 1)
    surrogate = x * a + y * (sign * b)
    exponent = ops.floor(ops.log2(ops.stop_gradient(ops.maximum(a, b))))
    power = ops.cast(ops.power(2.0, _ADD_BITS - exponent), "float32")
    factors = [ops.cast(ops.round(ops.stop_gradient(factor) * power), "int32") for factor in (a, b * sign)]
    shift = ops.cast(_ADD_BITS - exponent, "int32")
    products = [
        ops.cast(ops.stop_gradient(levels), "int32") * factor for levels, factor in zip((x, y), factors, strict=True)
    ]
    half = ops.left_shift(ops.ones_like(shift), shift - 1)
    exact = ops.cast(ops.right_shift(products[0] + products[1] + half, shift), "float32")
    low, high = clip_range(output, options["fused_activation"])
    return straight_through(clip_levels(exact, constant(low), constant(high)), clip_levels(surrogate, low, high))


def _subtract(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    return _add(values, sources, targets, options | {"sign": -1})


def _multiply(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    (x, y), (first, second), (output,) = values, sources, targets
    multiplier = first.scale * second.scale / output.scale
    return requantize(x * y, multiplier, *clip_range(output, options["fused_activation"]))


def _mean(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    axes, (x,), (source,), (output,) = tuple(options["axes"]), values, sources, targets
    count = math.prod(x.shape[axis] for axis in axes)
    total = ops.sum(x, axis=axes, keepdims=options["keep_dims"])
    return requantize(total, source.scale / (output.scale * count), *clip_range(output))


def _average_pool(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    """AVERAGE_POOL_2D: the mean of the integers themselves, zero point and all, rounded half away from zero."""
    (x,), (source,), (output,) = values, sources, targets
    height, width = options["filter_height"], options["filter_width"]
    sizes, strides = (height, width), (options["stride_h"], options["stride_w"])
    counts: Any = height * width
    if options["padding"] == "SAME":
        pads = [same_padding(*sides) for sides in zip(x.shape[1:3], sizes, strides, strict=True)]
        if any(map(any, pads)):
            counts = ops.convert_to_tensor(window_counts(x.shape[1:3], sizes, strides, pads))
            x = ops.pad(x, [(0, 0), *pads, (0, 0)])
    mean = ops.average_pool(x, sizes, strides, padding="valid", data_format="channels_last")
    total = ops.round(ops.stop_gradient(mean) * (height * width))  # of levels
    zero_point = constant(source.zero_point)
    integers = total / counts + zero_point
    # A whole number over its count is never nearer to a half than 1 / (2 * count), except at the half.
    rounded = ops.sign(integers) * ops.floor(ops.abs(integers) + (0.5 + 0.25 / (height * width)))
    surrogate = mean * ((height * width) / counts)
    low, high = clip_range(output, options["fused_activation"])
    exact = clip_levels(rounded - zero_point, constant(low), constant(high))
    return straight_through(
        exact, clip_levels(surrogate, low, high) if options["fused_activation"] != "NONE" else surrogate
    )


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """Return how much TFLite's padding SAME adds before and behind a side."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def window_counts(shape: Any, sizes: Any, strides: Any, pads: Any) -> np.ndarray:
    """Return how many values of the image are in each window: float32 (1, rows, columns, 1)."""
    sides = []
    for size, window, stride, pad in zip(shape, sizes, strides, pads, strict=True):
        inside = np.pad(np.ones(size, np.float32), pad)
        sides.append([inside[start : start + window].sum() for start in range(0, len(inside) - window + 1, stride)])
    return np.outer(*sides).astype(np.float32)[None, :, :, None]


def _max_pool(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    sizes, strides = (options["filter_height"], options["filter_width"]), (options["stride_h"], options["stride_w"])
    pooled = ops.max_pool(values[0], sizes, strides, padding=options["padding"].lower(), data_format="channels_last")
    return _clip(pooled, targets[0], options)


def _clip(x: Any, output: Quantization, options: Any) -> Any:
    activation = options.get("fused_activation", "NONE")
    return x if activation == "NONE" else clip_levels(x, *clip_range(output, activation))


def _relu(activation: str) -> Any:
    def rule(values: Any, sources: Any, targets: Any, options: Any) -> Any:
        multiplier = sources[0].scale / targets[0].scale
        return requantize(values[0], multiplier, *clip_range(targets[0], activation))

    return rule


def _rescale(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    """QUANTIZE from int8 to int8, and LEAKY_RELU: multipliers of 8 bits behind the point."""
    x, low, high = values[0], *clip_range(targets[0])
    multiplier = sources[0].scale / targets[0].scale
    if "alpha" in options:
        multiplier = ops.where(x < 0, multiplier * options["alpha"], multiplier)
    exact = ops.floor((ops.stop_gradient(x) * ops.round(256 * ops.stop_gradient(multiplier)) + 128) / 256)
    exact = clip_levels(exact, constant(low), constant(high))
    return straight_through(exact, clip_levels(x * multiplier, low, high))


# Functions with a table of 256 values in the file


def _softmax(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    shares = ops.softmax(values[0] * (sources[0].scale * options["beta"]), axis=-1)
    return _tabulated(shares, targets[0], options)


def _pointwise(function: Callable[[Any], Any]) -> Any:
    def rule(values: Any, sources: Any, targets: Any, options: Any) -> Any:
        return _tabulated(function(values[0] * sources[0].scale), targets[0], options)

    return rule


def _tabulated(reals: Any, output: Quantization, options: Any) -> Any:
    levels = reals / output.scale
    return round_levels(clip_levels(levels, *clip_range(output))) if options["exact"] else levels


# What moves values


def _concatenate(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    return _clip(ops.concatenate(values, axis=options["axis"]), targets[0], options)


def _reshape(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    return ops.reshape(values[0], (-1, *options["shape"]))


def _pad(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    return ops.pad(values[0], options["paddings"])


def _transpose(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    return ops.transpose(values[0], options["permutation"])


def _slice(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    parts = tuple(slice(*bounds) for bounds in options["bounds"])
    return ops.reshape(values[0][(slice(None), *parts)], (-1, *options["shape"]))


def _split(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    return list(ops.split(values[0], options["num_splits"], axis=options["axis"]))


def _tile(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    return ops.tile(values[0], options["multiples"])


def _repeat(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    """RESIZE_NEAREST_NEIGHBOR by whole factors."""
    rows, columns = options["factors"]
    return ops.repeat(ops.repeat(values[0], rows, axis=1), columns, axis=2)


def _depth_to_space(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    size, (_, height, width, channels) = options["block_size"], values[0].shape
    blocks = ops.reshape(values[0], (-1, height, width, size, size, channels // size**2))
    return ops.reshape(
        ops.transpose(blocks, (0, 1, 3, 2, 4, 5)), (-1, height * size, width * size, channels // size**2)
    )


def _space_to_depth(values: Any, sources: Any, targets: Any, options: Any) -> Any:
    size, (_, height, width, channels) = options["block_size"], values[0].shape
    blocks = ops.reshape(values[0], (-1, height // size, size, width // size, size, channels))
    return ops.reshape(
        ops.transpose(blocks, (0, 1, 3, 2, 4, 5)), (-1, height // size, width // size, channels * size**2)
    )


OPERATORS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "ADD": _add,
    "AVERAGE_POOL_2D": _average_pool,
    "CONCATENATION": _concatenate,
    "DEPTH_TO_SPACE": _depth_to_space,
    "EXPAND_DIMS": _reshape,
    "LEAKY_RELU": _rescale,
    "LOGISTIC": _pointwise(ops.sigmoid),
    "MAX_POOL_2D": _max_pool,
    "MEAN": _mean,
    "MUL": _multiply,
    "PAD": _pad,
    "QUANTIZE": _rescale,
    "RELU": _relu("RELU"),
    "RELU6": _relu("RELU6"),
    "RELU_N1_TO_1": _relu("RELU_N1_TO_1"),
    "RESHAPE": _reshape,
    "RESIZE_NEAREST_NEIGHBOR": _repeat,
    "SLICE": _slice,
    "SOFTMAX": _softmax,
    "SPACE_TO_DEPTH": _space_to_depth,
    "SPLIT": _split,
    "SQUEEZE": _reshape,
    "STRIDED_SLICE": _slice,
    "SUB": _subtract,
    "TANH": _pointwise(ops.tanh),
    "TILE": _tile,
    "TRANSPOSE": _transpose,
}
