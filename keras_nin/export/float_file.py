"""A calibrated float file that is edited in place: weights, biases and the ranges of what flows between operators."""

import collections
import dataclasses
import struct

import numpy as np

from keras_nin.tflite import graph as tflite_graph
from keras_nin.tflite import schema
from keras_nin.tflite.flatbuffer import Reader
from keras_nin.tflite.records import Operator, Tensor

KINDS = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense"}


@dataclasses.dataclass(frozen=True)
class Layer:
    """An operator with weights of its own, as the converter rounds them: with one scale for each output channel.

    Attributes:
        operator: the operator.
        kind: "conv", "depthwise" or "dense".
        source: index of the tensor that the weights are multiplied with.
        weights: the tensor of the weights, float32: conv (O, h, w, I), depthwise (1, h, w, O), dense (O, I).
        bias: the tensor of the bias, float32 (O,); None where there is none, or one that other operators read too.
    """

    operator: Operator
    kind: str
    source: int
    weights: Tensor
    bias: Tensor | None

    @property
    def terms(self):
        """How many products make up one output."""
        outputs = self.weights.shape[-1 if self.kind == "depthwise" else 0]
        return self.weights.elements // outputs

    @property
    def groups(self):
        """How many sets of inputs the outputs are made from."""
        return self.weights.shape[-1] if self.kind == "depthwise" else 1


class FloatFile:
    """The bytes of a float .tflite file of one subgraph, whose tensors carry the range that calibration saw.

    Values are written over: nothing moves, so the positions that `graph` was read with stay good. What was read
    through `graph` is the file as it came.

    Args:
        content: bytes of the file.

    Raises:
        InputError: the file is not valid.
    """

    def __init__(self, content):
        self.graph = tflite_graph.read(bytes(content))
        self._content = bytearray(content)
        self._limits = _limit_positions(self.graph)
        main = self.graph.main
        self._readers = collections.Counter(
            main.tensors[index].buffer for operator in main.operators for index in operator.inputs if index >= 0
        )
        self.layers = tuple(filter(None, map(self._layer, main.operators)))

    def content(self):
        """Return the bytes of the file as it is now."""
        return bytes(self._content)

    def _layer(self, operator):
        """Return the `Layer` of an operator; None where it has no float weights that it alone reads."""
        kind = KINDS.get(operator.op)
        if kind is None:
            return None
        source, weights, bias = (*operator.inputs, -1)[:3]
        weights, bias = self._own_constant(weights), self._own_constant(bias)
        if weights is None or (kind == "conv" and self._channels(source) != weights.shape[3]):  # a grouped convolution
            return None
        return Layer(operator, kind, source, weights, bias)

    def _own_constant(self, index):
        tensor = self.graph.main.tensors[index] if index >= 0 else None
        own = tensor and tensor.is_constant and tensor.dtype == "float32" and self._readers[tensor.buffer] == 1
        return tensor if own else None

    def _channels(self, index):
        return self.graph.main.tensors[index].shape[-1]

    def rows(self, layer):
        """Return the weights of a layer as they are now: float64 (O, terms of one output)."""
        values = self.values(layer.weights).astype(np.float64)
        if layer.kind == "depthwise":
            return np.moveaxis(values[0], -1, 0).reshape(values.shape[-1], -1)
        return values.reshape(values.shape[0], -1)

    def set_rows(self, layer, rows):
        """Write the weights of a layer, shaped as `rows` gives them."""
        shape = layer.weights.shape
        if layer.kind == "depthwise":
            rows = np.moveaxis(rows.reshape(shape[-1], *shape[1:3]), 0, -1)
        self.set_values(layer.weights, rows.reshape(shape))

    def values(self, tensor):
        """Return the values of a float32 constant as they are now."""
        first, size = self.graph.buffer_spans[tensor.buffer]
        return np.frombuffer(bytes(self._content[first : first + size]), "<f4").reshape(tensor.shape)

    def set_values(self, tensor, values):
        """Write the values of a float32 constant."""
        first, size = self.graph.buffer_spans[tensor.buffer]
        self._content[first : first + size] = np.ascontiguousarray(values, "<f4").tobytes()

    def ranges(self):
        """Return (least, largest) of every tensor that calibration saw, by the tensor's index."""
        return {
            index: tuple(struct.unpack_from("<f", self._content, position)[0] for position in positions)
            for index, positions in self._limits.items()
        }

    def set_range(self, index, least, largest):
        """Write the range of a tensor that has one."""
        for position, value in zip(self._limits[index], (least, largest), strict=True):
            struct.pack_into("<f", self._content, position, value)


def _limit_positions(graph):
    """Return the byte positions of the least and the largest value of each tensor that has them."""
    slots = schema.QuantizationParameters
    subgraph = Reader(graph.content, "the file").root(schema.IDENTIFIER).tables(schema.Model.SUBGRAPHS)[0]
    positions = {}
    for index, table in enumerate(subgraph.tables(schema.SubGraph.TENSORS)):
        quantization = table.table(schema.Tensor.QUANTIZATION)
        if quantization is None:
            continue
        spans = [quantization.span(slot) for slot in (slots.MIN, slots.MAX)]
        if all(span is not None and span[1] == 1 for span in spans):
            positions[index] = tuple(first for first, _ in spans)
    return positions
