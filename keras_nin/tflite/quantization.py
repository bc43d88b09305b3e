"""Quantized input and output: the one place where reals become integers and back."""

from typing import TYPE_CHECKING

import numpy as np

from keras_nin.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from keras_nin.tflite.records import TFLiteTensor

_QUOTIENT_LIMIT = np.float32(2.0**40)  # far outside every integer dtype of up to 32 bits


def quantize(values: "ArrayLike", scale: float, zero_point: int, dtype: str) -> np.ndarray:
    """Return real `values` as integers of `dtype`, as TFLite's reference QUANTIZE does.

    The division is in float32, ties go away from zero, and what lies outside the range of `dtype` (an integer of up to
    32 bits) is clipped.

    Raises:
        InputError: a value is NaN or infinite, or the scale is not a positive number.
    """
    step = _check_scale(scale)
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        reals = np.asarray(values, np.float32)
    if not np.isfinite(reals).all():
        raise InputError("Expected finite values to quantize. Received: NaN or infinity")
    with np.errstate(over="ignore"):  # a quotient beyond float32 is clipped like any other that is too large
        quotients = np.clip(reals / step, -_QUOTIENT_LIMIT, _QUOTIENT_LIMIT)
    # Adding 0.5 and cutting off would lift 0.49999997 to 1: compare the exact remainder instead.
    whole = np.trunc(quotients)
    whole = whole + np.where(np.abs(quotients - whole) >= 0.5, np.sign(quotients), 0)
    limits = np.iinfo(dtype)
    # float64 holds every integer up to 2**53: the sum is exact before it is clipped.
    return np.clip(whole.astype(np.float64) + zero_point, limits.min, limits.max).astype(dtype)


def dequantize(integers: "ArrayLike", scale: float, zero_point: int) -> np.ndarray:
    """Return the float32 reals that `integers` stand for: ``scale * (integers - zero_point)``.

    Raises:
        InputError: the scale is not a positive number.
    """
    difference = np.asarray(integers).astype(np.int64) - int(zero_point)
    return (difference * np.float64(_check_scale(scale))).astype(np.float32)


def per_channel_parameters(tensor: "TFLiteTensor") -> tuple[np.ndarray, np.ndarray]:
    """Return the scales and zero points of a tensor, shaped to broadcast against its values; 1 and 0 without any.

    Raises:
        InputError: the scales do not fit the shape.
    """
    quantization = tensor.quantization
    if quantization is None or tensor.scale is None:
        return np.ones(1), np.zeros(1)
    if len(quantization.scales) > 1 and (tensor.has_misfit_scales or not tensor.shape):
        raise InputError(f"Expected scales that fit a tensor's shape. Received: those of tensor {tensor.index}")
    shape = [1] * len(tensor.shape)
    if len(quantization.scales) > 1:
        shape[quantization.axis] = -1
    return np.reshape(quantization.scales, shape), np.reshape(quantization.zero_points, shape)


def _check_scale(scale: float) -> np.float32:
    """Return `scale` as float32, the precision it has in a file."""
    with np.errstate(over="ignore"):
        rounded = np.float32(scale)
    if not (np.isfinite(rounded) and rounded > 0):
        raise InputError(f"Expected a positive quantization scale. Received: {scale}")
    return rounded
