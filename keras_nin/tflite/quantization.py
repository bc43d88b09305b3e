"""Quantised input and output: the one place where reals become integers and back."""

import numpy as np

from keras_nin.errors import InputError

_QUOTIENT_LIMIT = np.float32(2.0**40)  # far outside every integer dtype of up to 32 bits


def quantize(values, scale, zero_point, dtype):
    """Return real `values` as integers of `dtype`, as TFLite's reference QUANTIZE does.

    The division is in float32, ties go away from zero, and what lies outside the range of `dtype` is clipped.

    Args:
        values: array of reals, any shape.
        scale: positive step size.
        zero_point: the integer that stands for 0.
        dtype: name of an integer dtype of up to 32 bits, e.g. ``"int8"``.

    Raises:
        InputError: a value is NaN or infinite, or the scale is not a positive number.
    """
    scale = _check_scale(scale)
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        values = np.asarray(values, np.float32)
    if not np.isfinite(values).all():
        raise InputError("Expected finite values to quantise. Received: NaN or infinity")
    with np.errstate(over="ignore"):  # a quotient beyond float32 is clipped like any other that is too large
        steps = np.clip(values / scale, -_QUOTIENT_LIMIT, _QUOTIENT_LIMIT)
    # Adding 0.5 and cutting off would lift 0.49999997 to 1: compare the exact remainder instead.
    whole = np.trunc(steps)
    whole = whole + np.where(np.abs(steps - whole) >= 0.5, np.sign(steps), 0)
    limits = np.iinfo(dtype)
    # float64 holds every integer up to 2**53: the sum is exact before it is clipped.
    return np.clip(whole.astype(np.float64) + zero_point, limits.min, limits.max).astype(dtype)


def dequantize(raw, scale, zero_point):
    """Return the float32 reals that the integers `raw` stand for: ``scale * (raw - zero_point)``.

    Raises:
        InputError: the scale is not a positive number.
    """
    difference = np.asarray(raw).astype(np.int64) - int(zero_point)
    return (difference * np.float64(_check_scale(scale))).astype(np.float32)


def _check_scale(scale):
    """Return `scale` as float32, the precision it has in a file."""
    with np.errstate(over="ignore"):
        rounded = np.float32(scale)
    if not (np.isfinite(rounded) and rounded > 0):
        raise InputError(f"Expected a positive quantisation scale. Received: {scale}")
    return rounded
