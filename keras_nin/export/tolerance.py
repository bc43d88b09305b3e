"""Where a file is compared with its model, and how far apart rounding alone can bring the two."""

import dataclasses
import math
import struct
import warnings

import numpy as np

from keras_nin.tflite import schema
from keras_nin.tflite.flatbuffer import FlatbufferReader
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteTensor

CLOSING = ("SOFTMAX", "LOGISTIC")
# The largest error of a closing softmax or sigmoid in steps of the output: its table and the rounding give up to one,
# and 1 itself is stored as 255/256, one step less.
CLOSING_LIMIT = 2.0
_CASTS = ("QUANTIZE", "DEQUANTIZE")
# Beyond these a float32 probability no longer says what went into the softmax or the sigmoid.
_LEAST = 1e-30
_MOST = 1 - 1e-4
# The error is one of the values and not of what differs between them: below this share of their size no range counts.
_LEAST_RANGE = 0.1
# Steps of 16 bits in one of 8 bits over the same range.
_FINER = 65535 / 255


@dataclasses.dataclass(frozen=True)
class ComparedTensor:
    """The tensor of a file with rounded weights or values that is compared with the model.

    It is the output, but what goes into a softmax or sigmoid that closes the network: behind that, steps of 1/256 hide
    most of a network with many classes or small outputs, and the errors of a few classes grow with the probabilities.

    Attributes:
        tensor: the tensor.
        closing: "SOFTMAX", "LOGISTIC", or None where the tensor is the output.
        step: scale of the file's output; None where that is in floating point.
        limit: largest root mean square difference of a channel, in steps of the tensor; of one in floating point in
            those that 8 bits over its range would have.
        closing_limit: largest error of the closing function, in steps of the output.
    """

    tensor: TFLiteTensor
    closing: str | None
    step: float | None
    limit: float
    closing_limit: float


def find_compared_tensor(graph, output=0):
    """Return the `Judged` tensor of an output of a file; None where nothing in it is rounded.

    Args:
        graph: `keras_nin.tflite.reader.TFLiteModel`.
        output: index of the output.
    """
    main = graph.main
    producers = {tensor: operator for operator in main.operators for tensor in operator.outputs}
    output = _behind_casts(main, producers, main.tensors[main.outputs[output]])
    variance = _variance(main, producers)
    if not is_quantized(output) and not variance:
        return None
    producer = producers.get(output.index)
    closing = producer.op if producer is not None and producer.op in CLOSING else None
    tensor = _behind_casts(main, producers, main.tensors[producer.inputs[0]]) if closing else output
    return ComparedTensor(
        tensor=tensor,
        closing=closing,
        step=output.quantization.scales[0] if is_quantized(output) else None,
        limit=8 * math.sqrt(variance or _ROUNDED) * (_FINER if tensor.dtype == "int16" else 1),
        closing_limit=_closing_limit(closing, output),
    )


def is_quantized(tensor):
    """Whether the values of a tensor are integers with a scale."""
    return tensor.quantization is not None and tensor.dtype not in FLOAT_DTYPES


def _behind_casts(main, producers, tensor):
    """Return the integer tensor that casts at the end of the file pass on, or `tensor` itself."""
    producer = producers.get(tensor.index)
    while producer is not None and producer.op in _CASTS and is_quantized(main.tensors[producer.inputs[0]]):
        if main.tensors[producer.inputs[0]].is_constant:
            break
        tensor = main.tensors[producer.inputs[0]]
        producer = producers.get(tensor.index)
    return tensor


def _closing_limit(closing, output):
    """Return the largest error of a closing function in steps of its output.

    The softmax of 16 bits cuts its table of exponentials off at exp(-10), which is stored as two steps: every class
    further below the largest counts two steps into the sum, whatever it is (measured: 19 steps with 10 classes, 196
    with 100, 1,884 with 1,000). Interpolation and rounding give up to 2.5 more with two classes.
    """
    return 2.0 * output.shape[-1] + 2 if closing == "SOFTMAX" and output.dtype == "int16" else CLOSING_LIMIT


# What an operator adds to the variance of the error, in squared steps of 8 bits over the range of its output. Rounding
# a value to a whole step adds 1/12; weights of 8 bits add about as much again.
_ROUNDED = 1 / 6
_WEIGHTS_ALONE = 1 / 12
# Half precision keeps 11 bits of a weight: a relative error of at most 2**-11, 2**-11 / sqrt(3) * 0.74 = 2.1e-4 root
# mean square, which the sum of products keeps. Six standard deviations being the range, one is 42 steps.
_HALF = (255 / 6 * 2.1e-4) ** 2


def _variance(main, producers):
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


def _added_variance(main, producers, operator):
    output = main.tensors[operator.outputs[0]]
    weights = _weight_types(main, producers, operator)
    if is_quantized(output) and output.dtype != "int16":
        return _ROUNDED
    if operator.op in _CASTS or not weights & {"int8", "uint8", "float16"}:
        return 0
    if is_quantized(output):
        return _WEIGHTS_ALONE
    return _ROUNDED if weights & {"int8", "uint8"} else _HALF


def _weight_types(main, producers, operator):
    """Return the data types, as the file stores them, of the constants that an operator takes."""
    types = set()
    for index in operator.inputs:
        cast = producers.get(index)
        if cast is not None and cast.op == "DEQUANTIZE":
            index = cast.inputs[0]
        if index >= 0 and main.tensors[index].is_constant:
            types.add(main.tensors[index].dtype)
    return types


def set_first_output(graph, tensor):
    """Return the bytes of the same file with `tensor` as its first output."""
    subgraph = (
        FlatbufferReader(graph.content, "the file").root(schema.IDENTIFIER).tables(schema.ModelSlots.SUBGRAPHS)[0]
    )
    first, _ = subgraph.span(schema.SubgraphSlots.OUTPUTS)
    content = bytearray(graph.content)
    struct.pack_into("<i", content, first, tensor.index)
    return bytes(content)


def nominal_step(values):
    """Return the scale that 8 bits over the range of `values` would have."""
    spread = float(values.max()) - float(values.min())
    size = float(np.abs(values).max())
    return float(np.maximum(np.maximum(spread, _LEAST_RANGE * size), np.finfo(np.float32).tiny)) / 255


def invert_closing(reference, values, closing):
    """Return what the model gives where a file is judged, as far as its outputs say it, as float64.

    Args:
        reference: the model's outputs (N, ..., channels).
        values: the file's values there, same shape, dequantised; they stand where the outputs say nothing.
        closing: "SOFTMAX", "LOGISTIC", or None where the output itself is judged.
    """
    reference, values = reference.astype(np.float64), values.astype(np.float64)
    if closing is None:
        return reference
    return _before_softmax(reference, values) if closing == "SOFTMAX" else _before_sigmoid(reference, values)


def worst_channel_rms(reference, values, where):
    """Return the largest root mean square difference of a channel (last axis) at a `Judged` tensor, in its steps.

    Args:
        reference: the model's outputs (N, ..., channels).
        values: the file's values of the tensor, same shape, dequantised.
        where: `Judged`.

    Returns:
        The number; NaN where the reference or the values are not all finite.
    """
    expected = invert_closing(reference, values, where.closing)
    known = expected[_invertible(reference, where.closing)]
    step = where.tensor.quantization.scales[0] if is_quantized(where.tensor) else nominal_step(known)
    squares = ((values - expected) / step) ** 2
    return float(np.sqrt(squares.mean(axis=tuple(range(squares.ndim - 1))).max()))


def _invertible(outputs, closing):
    """Return where outputs say what went into the closing function; everywhere if they do nowhere."""
    known = np.full(outputs.shape, True)
    if closing:
        known = (outputs >= _LEAST) & ((outputs <= _MOST) | (closing == "SOFTMAX"))
    return known if known.any() else ~known


def _before_softmax(outputs, values):
    """Return what went into the softmax of `outputs`; where they do not say it, `values` as far as those may be right.

    A softmax forgets a constant of each row: the one that brings most of the row to `values`.
    """
    known = outputs >= _LEAST
    logits = np.where(np.isnan(outputs), np.nan, np.log(np.maximum(outputs, _LEAST)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row of NaN gives NaN, and a warning
        logits += np.nanmedian(np.where(known, values - logits, np.nan), axis=-1, keepdims=True)
    return np.where(known | np.isnan(logits), logits, np.minimum(logits, values))


def _before_sigmoid(outputs, values):
    """Return what went into the sigmoid of `outputs`, as `_before_softmax` does."""
    inside = np.clip(outputs, _LEAST, _MOST)
    logits = np.log(inside) - np.log1p(-inside)
    logits = np.where(outputs < _LEAST, np.minimum(logits, values), logits)
    return np.where(outputs > _MOST, np.maximum(logits, values), logits)


def closing_error(output, values, where):
    """Return the largest difference of the file's closing softmax or sigmoid from the exact one, in output steps.

    Args:
        output: the file's outputs (N, ..., channels), dequantised.
        values: its values before the closing function, same shape, dequantised.
        where: `Judged`; an output in floating point is measured in steps of 1/256.
    """
    values = values.astype(np.float64)
    if where.closing == "SOFTMAX":
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        exact = powers / powers.sum(axis=-1, keepdims=True)
    else:
        exact = 1 / (1 + np.exp(-values))
    return float(np.abs(output - exact).max() / (where.step or 1 / 256))
