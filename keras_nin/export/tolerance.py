"""Where a file is compared with its model, and how far apart rounding alone can bring the two."""

import dataclasses
import math
import struct
import warnings
from collections.abc import Mapping

import numpy as np

from keras_nin.tflite import schema
from keras_nin.tflite.flatbuffer import FlatbufferReader
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteModel, TFLiteOperator, TFLiteSubgraph, TFLiteTensor

# Operators by the tensors that they compute.
Producers = Mapping[int, TFLiteOperator]

CLOSING = ("SOFTMAX", "LOGISTIC")
# The largest error of a closing softmax or sigmoid in steps of the output: its table and the rounding give up to one,
# and 1 itself is stored as 255/256, one step less.
CLOSING_LIMIT = 2.0
_CASTS = ("QUANTIZE", "DEQUANTIZE")
# Beyond these a float32 probability no longer says what went into the softmax or the sigmoid.
_MIN_PROBABILITY = 1e-30
_MAX_PROBABILITY = 1 - 1e-4
# The error is one of the values and not of what differs between them: below this share of their size no range counts.
_MIN_RANGE = 0.1
# Steps of 16 bits in one step of 8 bits over the same range.
_INT16_STEPS = 65535 / 255


@dataclasses.dataclass(frozen=True)
class ComparedTensor:
    """The tensor of a file with rounded weights or values that is compared with the model.

    It is the output, except where a softmax or sigmoid closes the network: then it is what goes into that. Behind it,
    steps of 1/256 hide most of a network with many classes or small outputs, and the errors of a few classes grow with
    the probabilities.

    Attributes:
        tensor: the tensor.
        closing: "SOFTMAX", "LOGISTIC", or None where the tensor is the output.
        lsb: scale of the file's output; None where that is in floating point.
        limit: largest root mean square difference of a channel, in steps of the tensor; for a tensor in floating point
            in the steps that 8 bits over its range would have.
        closing_limit: largest error of the closing function, in steps of the output.
    """

    tensor: TFLiteTensor
    closing: str | None
    lsb: float | None
    limit: float
    closing_limit: float


def find_compared_tensor(tflite: TFLiteModel, output: int = 0) -> ComparedTensor | None:
    """Return the `ComparedTensor` of an output of a file, by its index; None where nothing in the file is rounded."""
    main = tflite.main
    producers = {tensor: operator for operator in main.operators for tensor in operator.outputs}
    tensor = _behind_casts(main, producers, main.tensors[main.outputs[output]])
    variance = _rounding_variance(main, producers)
    if not is_quantized(tensor) and not variance:
        return None
    producer = producers.get(tensor.index)
    closing = producer.op if producer is not None and producer.op in CLOSING else None
    compared = tensor
    if producer is not None and closing:
        compared = _behind_casts(main, producers, main.tensors[producer.inputs[0]])
    return ComparedTensor(
        tensor=compared,
        closing=closing,
        lsb=tensor_scale(tensor),
        limit=8 * math.sqrt(variance or _ROUNDING) * (_INT16_STEPS if compared.dtype == "int16" else 1),
        closing_limit=_closing_limit(closing, tensor),
    )


def is_quantized(tensor: TFLiteTensor) -> bool:
    """Whether the values of a tensor are integers with a scale."""
    return tensor.quantization is not None and tensor.dtype not in FLOAT_DTYPES


def tensor_scale(tensor: TFLiteTensor) -> float | None:
    """Return the scale of a tensor of integers; None for one without."""
    return tensor.quantization.scales[0] if tensor.quantization is not None and is_quantized(tensor) else None


def per_channel_parameters(tensor: TFLiteTensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the scales and zero points of a tensor, shaped to broadcast against its values; 1 and 0 without any."""
    quantization = tensor.quantization
    if quantization is None or tensor.dtype in FLOAT_DTYPES:
        return np.ones(1), np.zeros(1)
    shape = [1] * len(tensor.shape)
    if len(quantization.scales) > 1:
        shape[quantization.axis] = -1
    return np.reshape(quantization.scales, shape), np.reshape(quantization.zero_points, shape)


def stored_constant(main: TFLiteSubgraph, producers: Producers, index: int) -> TFLiteTensor | None:
    """Return the constant that an operator reads at a tensor index, as the file stores it; None for a computed one.

    Weights stored as float16, and some stored as int8, pass through a DEQUANTIZE first.
    """
    cast = producers.get(index)
    if cast is not None and cast.op == "DEQUANTIZE":
        index = cast.inputs[0]
    return main.tensors[index] if index >= 0 and main.tensors[index].is_constant else None


def _behind_casts(main: TFLiteSubgraph, producers: Producers, tensor: TFLiteTensor) -> TFLiteTensor:
    """Return the integer tensor that casts at the end of the file pass on, or `tensor` itself."""
    producer = producers.get(tensor.index)
    while producer is not None and producer.op in _CASTS:
        source = main.tensors[producer.inputs[0]]
        if not is_quantized(source) or source.is_constant:
            break
        tensor = source
        producer = producers.get(tensor.index)
    return tensor


def _closing_limit(closing: str | None, output: TFLiteTensor) -> float:
    """Return the largest error of a closing function in steps of its output.

    The softmax of 16 bits cuts its table of exponentials off at exp(-10), which is stored as two steps: every class
    further below the largest counts two steps into the sum, whatever it is (measured: 19 steps with 10 classes, 196
    with 100, 1,884 with 1,000). Interpolation and rounding give up to 2.5 more with two classes.
    """
    return 2.0 * output.shape[-1] + 2 if closing == "SOFTMAX" and output.dtype == "int16" else CLOSING_LIMIT


# What an operator adds to the variance of the error, in squared steps of 8 bits over the range of its output. Rounding
# a value to a whole step adds 1/12; weights of 8 bits add about as much again.
_ROUNDING = 1 / 6
_WEIGHT_ROUNDING = 1 / 12
# Half precision keeps 11 bits of a weight: a relative error of at most 2**-11, 2**-11 / sqrt(3) * 0.74 = 2.1e-4 root
# mean square, which the sum of products keeps. Six standard deviations being the range, one is 42 steps.
_FLOAT16_ROUNDING = (255 / 6 * 2.1e-4) ** 2


def _rounding_variance(main: TFLiteSubgraph, producers: Producers) -> float:
    """Return the variance that rounding adds up to over the file, in squared steps of 8 bits; 0 for a float32 file.

    The limit is eight times its root. Rounding of values to 8 bits and of weights (about as much again) gives each
    operator 1/6, and later layers carry the error on at the scale of their own range: n operators give n / 6. A
    channel's errors have much in common (its weights, features that all images share) and do not average out, so that
    the worst of many channels lies beyond the root of that: measured at 0.5 to 6 times the root, over 12 to 20 seeds of
    random weights for six networks of the zoo, and at about once the root for trained weights. Eight times fails.

    The other schemes leave parts of that. Values of 16 bits are exact beside weights of 8 bits: 1/12 for an operator
    with weights and nothing for others, which in steps of 16 bits is 257 times as many. Weights of 8 bits with values
    in floating point are multiplied with an input that is rounded to 8 bits as it arrives: 1/6 again. Weights in half
    precision give 8e-5.

    For comparison, in the same unit: other weights 40 to 700, every second bias of a layer shifted by a fifth of the
    layer's range mostly 7 to 170, two swapped classes of trained weights 7 to 50. What random weights hide, such as
    classes that are always 0 or all but 1 behind a saturated softmax, no comparison of outputs finds.
    """
    return sum(_added_variance(main, producers, operator) for operator in main.operators)


def _added_variance(main: TFLiteSubgraph, producers: Producers, operator: TFLiteOperator) -> float:
    output = main.tensors[operator.outputs[0]]
    constants = (stored_constant(main, producers, index) for index in operator.inputs)
    stored = {tensor.dtype for tensor in constants if tensor is not None}
    if is_quantized(output) and output.dtype != "int16":
        return _ROUNDING
    if operator.op in _CASTS or not stored & {"int8", "uint8", "float16"}:
        return 0
    if is_quantized(output):
        return _WEIGHT_ROUNDING
    return _ROUNDING if stored & {"int8", "uint8"} else _FLOAT16_ROUNDING


def with_first_output(tflite: TFLiteModel, tensor: TFLiteTensor) -> TFLiteModel:
    """Return the same file with `tensor` as its first output."""
    root = FlatbufferReader(tflite.content).root(schema.IDENTIFIER)
    span = root.tables(schema.ModelSlots.SUBGRAPHS)[0].span(schema.SubgraphSlots.OUTPUTS)
    if span is None:
        raise ValueError("a file that was read has outputs")
    content = bytearray(tflite.content)
    struct.pack_into("<i", content, span[0], tensor.index)
    main = dataclasses.replace(tflite.main, outputs=(tensor.index, *tflite.main.outputs[1:]))
    return dataclasses.replace(tflite, content=bytes(content), subgraphs=(main, *tflite.subgraphs[1:]))


def nominal_scale(values: np.ndarray) -> float:
    """Return the scale that 8 bits over the range of `values` would have."""
    spread = float(values.max()) - float(values.min())
    size = float(np.abs(values).max())
    return float(np.maximum(np.maximum(spread, _MIN_RANGE * size), np.finfo(np.float32).tiny)) / 255


def invert_closing(reference: np.ndarray, values: np.ndarray, closing: str | None) -> np.ndarray:
    """Return what the model computes where a file is compared, as far as its outputs say it, as float64.

    Args:
        reference: the model's outputs (N, ..., channels).
        values: the file's values there, same shape, dequantized; they stand where the outputs say nothing.
        closing: "SOFTMAX", "LOGISTIC", or None where the output itself is compared.
    """
    reference, values = reference.astype(np.float64), values.astype(np.float64)
    if closing is None:
        return reference
    return _before_softmax(reference, values) if closing == "SOFTMAX" else _before_sigmoid(reference, values)


def worst_channel_rms(reference: np.ndarray, values: np.ndarray, compared: ComparedTensor) -> float:
    """Return the largest root mean square difference of a channel (last axis) at a tensor, in its steps.

    Args:
        reference: the model's outputs (N, ..., channels).
        values: the file's values of the tensor, same shape, dequantized.
        compared: the tensor.

    Returns:
        The number; NaN where the reference or the values are not all finite.
    """
    expected = invert_closing(reference, values, compared.closing)
    scale = tensor_scale(compared.tensor)
    if scale is None:
        scale = nominal_scale(expected[_invertible(reference, compared.closing)])
    squares = ((values - expected) / scale) ** 2
    return float(np.sqrt(squares.mean(axis=tuple(range(squares.ndim - 1))).max()))


def _invertible(outputs: np.ndarray, closing: str | None) -> np.ndarray:
    """Return where outputs say what went into the closing function; everywhere if they do so nowhere."""
    known = np.full(outputs.shape, True)
    if closing:
        known = (outputs >= _MIN_PROBABILITY) & ((outputs <= _MAX_PROBABILITY) | (closing == "SOFTMAX"))
    return known if known.any() else ~known


def _before_softmax(outputs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return what went into the softmax of `outputs`; where they do not say it, `values` as far as those may be right.

    A softmax forgets a constant of each row: the one that brings most of the row to `values`.
    """
    known = outputs >= _MIN_PROBABILITY
    logits = np.where(np.isnan(outputs), np.nan, np.log(np.maximum(outputs, _MIN_PROBABILITY)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row of NaN gives NaN, and a warning
        logits += np.nanmedian(np.where(known, values - logits, np.nan), axis=-1, keepdims=True)
    return np.where(known | np.isnan(logits), logits, np.minimum(logits, values))


def _before_sigmoid(outputs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return what went into the sigmoid of `outputs`, as `_before_softmax` does."""
    inside = np.clip(outputs, _MIN_PROBABILITY, _MAX_PROBABILITY)
    logits = np.log(inside) - np.log1p(-inside)
    logits = np.where(outputs < _MIN_PROBABILITY, np.minimum(logits, values), logits)
    return np.where(outputs > _MAX_PROBABILITY, np.maximum(logits, values), logits)


def closing_error(output: np.ndarray, values: np.ndarray, compared: ComparedTensor) -> float:
    """Return the largest difference of the file's closing softmax or sigmoid from the exact one, in output steps.

    Args:
        output: the file's outputs (N, ..., channels), dequantized.
        values: its values before the closing function, same shape, dequantized.
        compared: the tensor; an output in floating point is measured in steps of 1/256.
    """
    values = values.astype(np.float64)
    if compared.closing == "SOFTMAX":
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        exact = powers / powers.sum(axis=-1, keepdims=True)
    else:
        exact = 1 / (1 + np.exp(-values))
    return float(np.abs(output - exact).max() / (compared.lsb or 1 / 256))
