"""A calibrated float .tflite file: its weights, biases and ranges, edited in place, and what flows through it."""

import collections
import dataclasses
import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.tflite import schema
from keras_nin.tflite.flatbuffer import FlatbufferReader
from keras_nin.tflite.reader import read_model

if TYPE_CHECKING:
    from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteTensor

# Gives the values of a tensor, by its index, after an inference.
ReadTensor = Callable[[int], np.ndarray]
# Positions of a feature map per image: they resemble each other, and images are scarce.
POSITIONS_PER_IMAGE = 256
_KINDS = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense"}


@dataclasses.dataclass(frozen=True)
class WeightedOperator:
    """An operator with its own weights, which the converter rounds with one scale per output channel.

    Attributes:
        operator: the operator.
        kind: "conv", "depthwise" or "dense".
        source: index of the tensor that the weights are multiplied with.
        weights: the float32 weights: conv (O, h, w, I), depthwise (1, h, w, O), dense (O, I).
        bias: the float32 bias (O,); None where there is none, or where other operators read it too.
    """

    operator: "TFLiteOperator"
    kind: str
    source: int
    weights: "TFLiteTensor"
    bias: "TFLiteTensor | None"

    @property
    def terms(self) -> int:
        """How many products make up one output."""
        outputs = self.weights.shape[-1 if self.kind == "depthwise" else 0]
        return self.weights.elements // outputs

    @property
    def groups(self) -> int:
        """How many different sets of inputs the outputs are computed from."""
        return self.weights.shape[-1] if self.kind == "depthwise" else 1


class FloatFile:
    """The bytes of a float .tflite file with one subgraph, whose tensors carry the range that calibration saw.

    Values are overwritten in place: nothing moves, so that the positions in `model` stay valid. What is read through
    `model` is the file as it came.

    Args:
        content: bytes of the file.

    Raises:
        InputError: the file is not valid.
    """

    def __init__(self, content: bytes) -> None:
        self.model: TFLiteModel = read_model(bytes(content))
        self._content = bytearray(content)
        self._range_positions = _range_positions(self.model)
        self._readers = collections.Counter(
            self.model.main.tensors[index].buffer
            for operator in self.model.main.operators
            for index in operator.inputs
            if index >= 0
        )
        self.weighted_operators = tuple(filter(None, map(self._weighted_operator, self.model.main.operators)))

    def content(self) -> bytes:
        """Return the bytes of the file as it is now."""
        return bytes(self._content)

    def _weighted_operator(self, operator: "TFLiteOperator") -> WeightedOperator | None:
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

    def _own_constant(self, index: int) -> "TFLiteTensor | None":
        tensor = self.model.main.tensors[index] if index >= 0 else None
        if tensor and tensor.is_constant and tensor.dtype == "float32" and self._readers[tensor.buffer] == 1:
            return tensor
        return None

    def rows(self, weighted: WeightedOperator) -> np.ndarray:
        """Return the weights of an operator as they are now: float64 (O, terms)."""
        values = self.values(weighted.weights).astype(np.float64)
        if weighted.kind == "depthwise":
            return np.moveaxis(values[0], -1, 0).reshape(values.shape[-1], -1)
        return values.reshape(values.shape[0], -1)

    def set_rows(self, weighted: WeightedOperator, rows: np.ndarray) -> None:
        """Write the weights of an operator, shaped as `rows` returns them."""
        shape = weighted.weights.shape
        if weighted.kind == "depthwise":
            rows = np.moveaxis(rows.reshape(shape[-1], *shape[1:3]), 0, -1)
        self.set_values(weighted.weights, rows.reshape(shape))

    def values(self, tensor: "TFLiteTensor") -> np.ndarray:
        """Return the values of a float32 constant as they are now."""
        first, size = self.model.buffer_spans[tensor.buffer]
        return np.frombuffer(bytes(self._content[first : first + size]), "<f4").reshape(tensor.shape)

    def set_values(self, tensor: "TFLiteTensor", values: np.ndarray) -> None:
        """Write the values of a float32 constant."""
        first, size = self.model.buffer_spans[tensor.buffer]
        self._content[first : first + size] = np.ascontiguousarray(values, "<f4").tobytes()

    def ranges(self) -> dict[int, tuple[float, float]]:
        """Return (minimum, maximum) of every tensor that calibration saw, by the tensor's index."""
        return {
            index: (self._float(minimum), self._float(maximum))
            for index, (minimum, maximum) in self._range_positions.items()
        }

    def _float(self, position: int) -> float:
        return struct.unpack_from("<f", self._content, position)[0]

    def set_range(self, index: int, minimum: float, maximum: float) -> None:
        """Write the range of a tensor that has one."""
        for position, value in zip(self._range_positions[index], (minimum, maximum), strict=True):
            struct.pack_into("<f", self._content, position, value)


def _range_positions(model: "TFLiteModel") -> dict[int, tuple[int, int]]:
    """Return the byte positions of the minimum and the maximum of each tensor that has them."""
    slots = schema.QuantizationSlots
    root = FlatbufferReader(model.content).root(schema.IDENTIFIER)
    subgraph = root.tables(schema.ModelSlots.SUBGRAPHS)[0]
    positions = {}
    for index, table in enumerate(subgraph.tables(schema.SubgraphSlots.TENSORS)):
        quantization = table.table(schema.TensorSlots.QUANTIZATION)
        if quantization is None:
            continue
        minimum, maximum = quantization.span(slots.MIN), quantization.span(slots.MAX)
        if minimum and maximum and minimum[1] == maximum[1] == 1:
            positions[index] = minimum[0], maximum[0]
    return positions


def observe_activations(
    file: FloatFile, samples: Iterable[Any], observers: Iterable[Callable[[ReadTensor], None]]
) -> None:
    """Run a float file on calibration samples, and call each observer with a `ReadTensor` after every sample.

    Args:
        file: runs as it came, without the edits.
        samples: as `keras_nin.export.conversion.Quantizer` takes them.
        observers: `InputMoments`, `keras_nin.export.tuning.ActivationHistogram` or other functions.
    """
    from keras_nin._compat.litert import interpreter as open_interpreter
    from keras_nin.output_capture import capture_output

    observers = list(observers)
    with capture_output():
        # One thread, so that sums are taken in one order.
        interpreter = open_interpreter(file.model.content, threads=1, keep_tensors=True)
        interpreter.allocate_tensors()
    for sample in samples:
        for index, values in _sample_inputs(file.model, sample):
            interpreter.set_tensor(index, np.asarray(values, np.float32))
        interpreter.invoke()
        for observe in observers:
            observe(interpreter.get_tensor)


def _sample_inputs(model: "TFLiteModel", sample: Any) -> list[tuple[int, Any]]:
    """Return pairs of an input's tensor index and its values."""
    if isinstance(sample, dict):
        indexes = dict(model.signatures[0].inputs)
        return [(indexes[name], values) for name, values in sample.items()]
    return list(zip(model.main.inputs, sample, strict=True))


class InputMoments:
    """Observer of the mean and the second moment of what the weights of an operator are multiplied with.

    A convolution or dense layer has one group of terms for all its outputs, a depthwise convolution one per output.

    Args:
        weighted: the operator.
        second_moment: whether the second moment is wanted.
    """

    def __init__(self, weighted: WeightedOperator, second_moment: bool = True) -> None:
        self.weighted = weighted
        self.has_second_moment = second_moment
        self._sum: Any = 0
        self._products: Any = 0
        self._count = 0

    def __call__(self, read_tensor: ReadTensor) -> None:
        """Add the values of the operator's input."""
        columns = _input_columns(self.weighted, read_tensor(self.weighted.source))
        self._sum = self._sum + columns.sum(axis=1, dtype=np.float64)
        if self.has_second_moment:
            self._products = self._products + (columns.transpose(0, 2, 1) @ columns).astype(np.float64)
        self._count += columns.shape[1]

    def mean(self) -> np.ndarray:
        """Return the mean of each term: (groups, terms)."""
        return self._per_output(self._sum / self._count)

    def second_moment(self) -> np.ndarray:
        """Return the mean of the product of every two terms: (groups, terms, terms)."""
        return self._per_output(self._products / self._count)

    def _per_output(self, moments: np.ndarray) -> np.ndarray:
        if self.weighted.kind == "depthwise":  # each input channel makes `depth_multiplier` outputs
            return np.repeat(moments, self.weighted.weights.shape[3] // len(moments), axis=0)
        return moments


def _input_columns(weighted: WeightedOperator, values: np.ndarray) -> np.ndarray:
    """Return what the rows of an operator's weights are multiplied with: float32 (groups, positions, terms)."""
    if weighted.kind == "dense":
        return values.reshape(1, -1, weighted.weights.shape[1])
    patches = np.concatenate([_patches(image, weighted) for image in values])
    if weighted.kind == "depthwise":
        return np.ascontiguousarray(np.moveaxis(patches, 2, 0))
    return patches.reshape(1, len(patches), -1)


def _patches(image: np.ndarray, weighted: WeightedOperator) -> np.ndarray:
    """Return the windows of an image (H, W, C) that a convolution sees, at some positions: (positions, h * w, C)."""
    options = weighted.operator.options
    _, height, width, _ = weighted.weights.shape
    rows = _window_starts(image.shape[0], height, options["stride_h"], options["dilation_h"], options["padding"])
    columns = _window_starts(image.shape[1], width, options["stride_w"], options["dilation_w"], options["padding"])
    count = len(rows) * len(columns)
    chosen = np.arange(count)
    if count > POSITIONS_PER_IMAGE:
        # RandomState: its stream is the same in every NumPy.
        chosen = np.sort(np.random.RandomState(0).permutation(count)[:POSITIONS_PER_IMAGE])
    row = rows[chosen // len(columns), None, None] + options["dilation_h"] * np.arange(height)[:, None]
    column = columns[chosen % len(columns), None, None] + options["dilation_w"] * np.arange(width)
    inside = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
    patches = image[row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)] * inside[..., None]
    return patches.reshape(len(chosen), height * width, image.shape[2])


def _window_starts(size: int, kernel: int, stride: int, dilation: int, padding: str) -> np.ndarray:
    """Return where the windows along one side start; below 0 where zeros are padded in front."""
    extent = (kernel - 1) * dilation + 1
    if padding == "VALID":
        return np.arange(0, size - extent + 1, stride)
    count = -(-size // stride)
    return np.arange(count) * stride - max((count - 1) * stride + extent - size, 0) // 2
