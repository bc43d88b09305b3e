"""A calibrated float .tflite file: its weights, biases and ranges, edited in place."""

import collections
import dataclasses
import struct

import numpy as np

from keras_nin.tflite import schema
from keras_nin.tflite.flatbuffer import FlatbufferReader
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteTensor

_KINDS = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense"}


@dataclasses.dataclass(frozen=True)
class WeightedOperator:
    """An operator with its own weights, which the converter rounds with one scale per output channel.

    Attributes:
        kind: "conv", "depthwise" or "dense".
        source: index of the tensor that the weights are multiplied with.
        weights: float32: conv (O, h, w, I), depthwise (1, h, w, O), dense (O, I).
        bias: float32 (O,); None where there is none, or where other operators read it too.
    """

    operator: TFLiteOperator
    kind: str
    source: int
    weights: TFLiteTensor
    bias: TFLiteTensor | None

    @property
    def terms(self) -> int:
        """How many products make up one output."""
        return self.weights.elements // self.weights.shape[-1 if self.kind == "depthwise" else 0]

    @property
    def groups(self) -> int:
        """How many different sets of inputs the outputs are computed from."""
        return self.weights.shape[-1] if self.kind == "depthwise" else 1


class FloatFile:
    """The bytes of a float .tflite file with one subgraph, whose tensors carry the range that calibration saw.

    Values are overwritten in place: nothing moves, so that the positions in `model` stay valid. What is read through
    `model` is the file as it came.
    """

    def __init__(self, content: bytes) -> None:
        self.model: TFLiteModel = read_model(bytes(content))
        self._content = bytearray(content)
        self._range_positions = _range_positions(self.model)
        main = self.model.main
        indexes = (index for operator in main.operators for index in operator.inputs if index >= 0)
        self._readers = collections.Counter(main.tensors[index].buffer for index in indexes)
        self.weighted_operators = tuple(filter(None, map(self._weighted_operator, main.operators)))

    def content(self) -> bytes:
        """Return the bytes of the file as it is now."""
        return bytes(self._content)

    def _weighted_operator(self, operator: TFLiteOperator) -> WeightedOperator | None:
        """Return None for an operator without float weights that no other operator reads."""
        kind = _KINDS.get(operator.op)
        if kind is None:
            return None
        source, weights_index, bias_index = (*operator.inputs, -1)[:3]
        weights, bias = self._own_constant(weights_index), self._own_constant(bias_index)
        channels = self.model.main.tensors[source].shape[-1]
        if weights is None or (kind == "conv" and channels != weights.shape[3]):  # a grouped convolution
            return None
        return WeightedOperator(operator, kind, source, weights, bias)

    def _own_constant(self, index: int) -> TFLiteTensor | None:
        tensor = self.model.main.tensors[index] if index >= 0 else None
        is_own = tensor and tensor.is_constant and tensor.dtype == "float32" and self._readers[tensor.buffer] == 1
        return tensor if is_own else None

    def rows(self, weighted: WeightedOperator) -> np.ndarray:
        """Return the weights of an operator as they are now: float64 (O, terms)."""
        values = self.values(weighted.weights).astype(np.float64)
        if weighted.kind == "depthwise":
            values = np.moveaxis(values[0], -1, 0)
        return values.reshape(values.shape[0], -1)

    def set_rows(self, weighted: WeightedOperator, rows: np.ndarray) -> None:
        """Write the weights of an operator, shaped as `rows` returns them."""
        shape = weighted.weights.shape
        if weighted.kind == "depthwise":
            rows = np.moveaxis(rows.reshape(shape[-1], *shape[1:3]), 0, -1)
        self.set_values(weighted.weights, rows.reshape(shape))

    def values(self, tensor: TFLiteTensor) -> np.ndarray:
        """Return the values of a float32 constant as they are now."""
        first, size = self.model.buffer_spans[tensor.buffer]
        return np.frombuffer(bytes(self._content[first : first + size]), "<f4").reshape(tensor.shape)

    def set_values(self, tensor: TFLiteTensor, values: np.ndarray) -> None:
        """Write the values of a float32 constant."""
        first, size = self.model.buffer_spans[tensor.buffer]
        self._content[first : first + size] = np.ascontiguousarray(values, "<f4").tobytes()

    def ranges(self) -> dict[int, tuple[float, float]]:
        """Return (minimum, maximum) of every tensor that calibration saw, by the tensor's index."""

        def read(position: int) -> float:
            return struct.unpack_from("<f", self._content, position)[0]

        return {index: (read(least), read(most)) for index, (least, most) in self._range_positions.items()}

    def set_range(self, index: int, minimum: float, maximum: float) -> None:
        """Write the range of a tensor that has one."""
        for position, value in zip(self._range_positions[index], (minimum, maximum), strict=True):
            struct.pack_into("<f", self._content, position, value)


def _range_positions(model: TFLiteModel) -> dict[int, tuple[int, int]]:
    """Return the byte positions of the minimum and the maximum of each tensor that has them."""
    subgraph = FlatbufferReader(model.content).root(schema.IDENTIFIER).tables(schema.ModelSlots.SUBGRAPHS)[0]
    positions = {}
    for index, table in enumerate(subgraph.tables(schema.SubgraphSlots.TENSORS)):
        quantization = table.table(schema.TensorSlots.QUANTIZATION)
        if quantization is None:
            continue
        minimum = quantization.span(schema.QuantizationSlots.MIN)
        maximum = quantization.span(schema.QuantizationSlots.MAX)
        if minimum and maximum and minimum[1] == maximum[1] == 1:
            positions[index] = minimum[0], maximum[0]
    return positions
