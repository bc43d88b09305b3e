"""Where a quantised file is compared with its model, and how far apart rounding alone can bring the two."""

import dataclasses
import math
import struct
import warnings

import numpy as np

from keras_nin.tflite import schema
from keras_nin.tflite.flatbuffer import Reader
from keras_nin.tflite.graph import FLOAT_DTYPES
from keras_nin.tflite.records import Tensor

CLOSING = ("SOFTMAX", "LOGISTIC")
# The largest error of a closing softmax or sigmoid in steps of the output: its table and the rounding give up to one,
# and 1 itself is stored as 255/256, one step less.
CLOSING_LIMIT = 2.0
_CASTS = ("QUANTIZE", "DEQUANTIZE")
# Beyond these a float32 probability no longer says what went into the softmax or the sigmoid.
_LEAST = 1e-30
_MOST = 1 - 1e-4


@dataclasses.dataclass(frozen=True)
class Judged:
    """The tensor of a quantised file that is compared with the model.

    It is the output, but what goes into a softmax or sigmoid that closes the network: behind that, steps of 1/256 hide
    most of a network with many classes or small outputs, and the errors of a few classes grow with the probabilities.

    Attributes:
        tensor: the tensor.
        closing: "SOFTMAX", "LOGISTIC", or None where the tensor is the output.
        step: scale of the file's output.
        limit: largest root mean square difference of a channel, in steps of the tensor.
    """

    tensor: Tensor
    closing: str | None
    step: float
    limit: float


def judged(graph):
    """Return the `Judged` tensor of a file (`keras_nin.tflite.graph.Graph`); None where it computes in floats."""
    main = graph.main
    producers = {tensor: operator for operator in main.operators for tensor in operator.outputs}
    output = main.tensors[main.outputs[0]]
    producer = producers.get(output.index)
    while producer is not None and producer.op in _CASTS and _is_quantized(main.tensors[producer.inputs[0]]):
        output = main.tensors[producer.inputs[0]]
        producer = producers.get(output.index)
    if not _is_quantized(output):
        return None
    closing = producer.op if producer is not None and producer.op in CLOSING else None
    tensor = main.tensors[producer.inputs[0]] if closing else output
    return Judged(tensor, closing, output.quantization.scales[0], _limit(main))


def _is_quantized(tensor):
    return tensor.quantization is not None and tensor.dtype not in FLOAT_DTYPES


def _limit(main):
    """Return the largest root mean square difference of a channel that rounding explains, in steps.

    Each quantised operator rounds its output (variance 1/12 step) and has rounded weights (about as much again), and
    later layers carry the error on at the scale of their own range: n operators give the variance n / 6. A channel's
    errors have much in common (its weights, features that all images share) and do not average out, so that the worst
    of many channels lies beyond the root of that: measured at 0.5 to 6 times the root, over 12 to 20 seeds of random
    weights for six networks of the zoo, and at about once the root for trained weights. Eight times fails.

    For comparison, in the same unit: other weights 40 to 700, every second bias of a layer shifted by a fifth of the
    layer's range mostly 7 to 170, two swapped classes of trained weights 7 to 50. What random weights hide, such as
    classes that are always 0 or all but 1 behind a saturated softmax, no comparison of outputs finds.
    """
    depth = sum(main.tensors[operator.outputs[0]].quantization is not None for operator in main.operators)
    return 8 * math.sqrt(max(depth, 1) / 6)


def ending_at(graph, tensor):
    """Return the bytes of the same file with `tensor` as its only output."""
    subgraph = Reader(graph.content, "the file").root(schema.IDENTIFIER).tables(schema.Model.SUBGRAPHS)[0]
    first, _ = subgraph.span(schema.SubGraph.OUTPUTS)
    content = bytearray(graph.content)
    struct.pack_into("<i", content, first, tensor.index)
    return bytes(content)


def worst_channel(reference, values, where):
    """Return the largest root mean square difference of a channel (last axis) at a `Judged` tensor, in its steps.

    Args:
        reference: the model's outputs (N, ..., channels).
        values: the file's values of the tensor, same shape, dequantised.
        where: `Judged`.

    Returns:
        The number; NaN where the reference or the values are not all finite.
    """
    values = values.astype(np.float64)
    expected = reference.astype(np.float64)
    if where.closing:
        opened = _before_softmax if where.closing == "SOFTMAX" else _before_sigmoid
        expected = opened(expected, values)
    squares = ((values - expected) / where.tensor.quantization.scales[0]) ** 2
    return float(np.sqrt(squares.mean(axis=tuple(range(squares.ndim - 1))).max()))


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
    """Return the largest difference of the file's closing softmax or sigmoid from the exact one, in output steps."""
    values = values.astype(np.float64)
    if where.closing == "SOFTMAX":
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        exact = powers / powers.sum(axis=-1, keepdims=True)
    else:
        exact = 1 / (1 + np.exp(-values))
    return float(np.abs(output - exact).max() / where.step)
