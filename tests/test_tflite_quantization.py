"""Reals to integers and back, against exact arithmetic and the runtime's reference kernels."""

import fractions
import math

import numpy as np
import pytest
import tflite_writer as writer
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_nin.errors import InputError
from keras_nin.tflite.quantization import dequantize, per_channel_parameters, quantize
from keras_nin.tflite.records import QuantizationParameters, TFLiteTensor
from keras_nin.tflite.runner import TFLiteRunner

SCALES = {"int8": 1 / 256, "uint8": 0.02, "int16": 3e-5}
DTYPES = st.sampled_from(["int8", "uint8", "int16", "int32"])
POSITIVE = st.sampled_from([1 / 256, 0.0039213490672409534, 0.1, 7.0]) | st.floats(2**-20, 2**20, width=32)


def exactly(value, scale, zero_point, dtype):
    """TFLite's arithmetic in rational numbers: divide in float32, round half away from zero, add, clip."""
    quotient = fractions.Fraction(float(np.float32(value) / np.float32(scale)))
    rounded = math.copysign(math.floor(abs(quotient) + fractions.Fraction(1, 2)), quotient)
    limits = np.iinfo(dtype)
    return min(max(int(rounded) + zero_point, limits.min), limits.max)


@settings(max_examples=50)
@given(DTYPES, POSITIVE, st.integers(-128, 255), st.lists(st.integers(-400, 400) | st.floats(-1e5, 1e5), min_size=1))
def test_quantize_equals_exact_arithmetic(dtype, scale, zero_point, halves):
    """Multiples of half a step, so that ties are among them, and other numbers."""
    values = (np.array(halves) / 2 * scale).astype(np.float32)
    result = quantize(values, scale, zero_point, dtype)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, [exactly(value, scale, zero_point, dtype) for value in values])


@given(DTYPES, POSITIVE, st.integers(-128, 255), st.data())
def test_dequantize_equals_exact_arithmetic(dtype, scale, zero_point, data):
    limits = np.iinfo(dtype)
    integer = data.draw(st.integers(limits.min, limits.max))
    expected = np.float32(float(np.float32(scale)) * (integer - zero_point))
    result = dequantize(np.array([integer], dtype), scale, zero_point)
    assert (result.dtype, result[0]) == (np.float32, expected)


@pytest.mark.parametrize(
    ("value", "scale", "zero_point", "dtype", "expected"),
    [
        (0.0, 1 / 256, -128, "int8", -128),
        (255 / 256, 1 / 256, -128, "int8", 127),
        (1.0, 1 / 256, -128, "int8", 127),  # 256 - 128 is one above the range
        (-1.0, 1 / 256, -128, "int8", -128),
        (-0.0, 1.0, 127, "int8", 127),
        (0.5, 1.0, 0, "int8", 1),
        (-0.5, 1.0, 0, "int8", -1),
        (2.5, 1.0, 0, "uint8", 3),
        (np.nextafter(np.float32(0.5), np.float32(0)), 1.0, 0, "int8", 0),
        (8388609.0, 1.0, 0, "int32", 8388609),  # a float32 with no bit left for a half
        (3e38, 1e-30, 0, "int8", 127),  # the quotient is beyond float32
        (-3e38, 1e-30, -128, "int8", -128),
        (3e38, 1.0, 0, "int32", 2**31 - 1),
        (-3e38, 1.0, 0, "int32", -(2**31)),
        (1e9, 1.0, 0, "int16", 32767),
        (-1e9, 1.0, 255, "uint8", 0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_quantize_at_the_edges(value, scale, zero_point, dtype, expected):
    assert quantize(value, scale, zero_point, dtype) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_no_finite_float32_is_not_quantized(value):
    with pytest.raises(InputError, match="Expected finite values to quantize"):
        quantize(np.array([0.0, value]), 1.0, 0, "int8")


@pytest.mark.parametrize("scale", [0, -1.0, np.nan, np.inf, 1e-60])
def test_a_scale_is_positive(scale):
    for function in (lambda: quantize([1.0], scale, 0, "int8"), lambda: dequantize(np.int8([1]), scale, 0)):
        with pytest.raises(InputError, match="Expected a positive quantization scale"):
            function()


def test_the_difference_to_the_zero_point_does_not_wrap():
    np.testing.assert_array_equal(dequantize(np.array([-128, 127], np.int8), 0.5, 127), np.float32([-127.5, 0]))
    np.testing.assert_array_equal(dequantize(np.array([0, 255], np.uint8), 2.0, 255), np.float32([-510, 0]))
    np.testing.assert_array_equal(dequantize(np.int32([2**31 - 1]), 1.0, -128), np.float32([2**31 + 127]))
    assert dequantize(np.int8([1]), 0.1, 0).dtype == np.float32


@pytest.mark.parametrize("dtype", SCALES)
def test_every_integer_survives_a_round_trip(dtype):
    limits = np.iinfo(dtype)
    every = np.arange(limits.min, limits.max + 1).astype(dtype)
    for zero_point in (limits.min, 0, limits.max):
        reals = dequantize(every, SCALES[dtype], zero_point)
        np.testing.assert_array_equal(quantize(reals, SCALES[dtype], zero_point, dtype), every)


def test_quantize_and_dequantize_equal_the_runtimes_reference_kernels(tmp_path):
    """On a file that only quantizes, ties included; then back."""
    scale, zero_point = 0.0039213490672409534, -5
    quantization = writer._record("QuantizationParameters", scale=[scale], zeroPoint=[zero_point])
    path = writer.write(
        tmp_path / "quantize.tflite",
        [
            writer.tensor("x", (1, 4096), "FLOAT32"),
            writer.tensor("y", (1, 4096), "INT8", quantization=quantization),
            writer.tensor("z", (1, 4096), "FLOAT32"),
        ],
        [writer.operator("QUANTIZE", [0], [1]), writer.operator("DEQUANTIZE", [1], [2])],
        outputs=[1, 2],
    )
    values = np.random.default_rng(0).normal(size=(1, 4096)).astype(np.float32)
    values[0, :400] = np.arange(-200, 200) / 2 * np.float32(scale)
    integers, reals = TFLiteRunner(path, reference_kernels=True).run_raw([values])
    np.testing.assert_array_equal(quantize(values, scale, zero_point, "int8"), integers)
    np.testing.assert_array_equal(dequantize(integers, scale, zero_point), reals)


@pytest.mark.parametrize(
    ("quantization", "scales", "zero_points"),
    [
        (None, [1], [0]),
        (QuantizationParameters((0.5,), (3,), 0), [[[0.5]]], [[[3]]]),
        (QuantizationParameters((0.5, 0.25), (3, 4), 1), [[[0.5], [0.25]]], [[[3], [4]]]),
    ],
)
def test_parameters_broadcast_against_the_tensors_values(quantization, scales, zero_points):
    tensor = TFLiteTensor(0, "x", (5, 2, 3), None, "int8", quantization, 0, 0, False, False)
    for values, expected in zip(per_channel_parameters(tensor), (scales, zero_points), strict=True):
        np.testing.assert_array_equal(values, expected)
