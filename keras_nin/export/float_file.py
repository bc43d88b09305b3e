"""A calibrated float file that is edited in place: weights, biases and the ranges of what flows between operators."""

import collections
import dataclasses
import struct

import numpy as np

from keras_nin.data.dataset import seeded_generator
from keras_nin.tflite import reader as tflite_graph
from keras_nin.tflite import schema
from keras_nin.tflite.flatbuffer import FlatbufferReader
from keras_nin.tflite.records import TFLiteOperator, TFLiteTensor

WEIGHTED_KINDS = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense"}


@dataclasses.dataclass(frozen=True)
class WeightedOperator:
    """An operator with weights of its own, as the converter rounds them: with one scale for each output channel.

    Attributes:
        operator: the operator.
        kind: "conv", "depthwise" or "dense".
        source: index of the tensor that the weights are multiplied with.
        weights: the tensor of the weights, float32: conv (O, h, w, I), depthwise (1, h, w, O), dense (O, I).
        bias: the tensor of the bias, float32 (O,); None where there is none, or one that other operators read too.
    """

    operator: TFLiteOperator
    kind: str
    source: int
    weights: TFLiteTensor
    bias: TFLiteTensor | None

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
        self.graph = tflite_graph.read_model(bytes(content))
        self._content = bytearray(content)
        self._limits = _range_positions(self.graph)
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
        kind = WEIGHTED_KINDS.get(operator.op)
        if kind is None:
            return None
        source, weights, bias = (*operator.inputs, -1)[:3]
        weights, bias = self._own_constant(weights), self._own_constant(bias)
        if weights is None or (kind == "conv" and self._channels(source) != weights.shape[3]):  # a grouped convolution
            return None
        return WeightedOperator(operator, kind, source, weights, bias)

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


def _range_positions(graph):
    """Return the byte positions of the least and the largest value of each tensor that has them."""
    slots = schema.QuantizationSlots
    subgraph = (
        FlatbufferReader(graph.content, "the file").root(schema.IDENTIFIER).tables(schema.ModelSlots.SUBGRAPHS)[0]
    )
    positions = {}
    for index, table in enumerate(subgraph.tables(schema.SubgraphSlots.TENSORS)):
        quantization = table.table(schema.TensorSlots.QUANTIZATION)
        if quantization is None:
            continue
        spans = [quantization.span(slot) for slot in (slots.MIN, slots.MAX)]
        if all(span is not None and span[1] == 1 for span in spans):
            positions[index] = tuple(first for first, _ in spans)
    return positions


# MERGED What flows through a float file while it sees the calibration images.

POSITIONS_PER_IMAGE = 256  # of a feature map, per image: they are alike, and images are what there are few of


def observe_activations(file, samples, watchers):
    """Run a float file over the samples, and show each of `watchers` what its tensors hold.

    Args:
        file: `keras_nin.export.float_file.FloatFile`; it runs as it came.
        samples: as `keras_nin.export.conversion.Quantizer` takes them.
        watchers: callables of a function from a tensor's index to its values.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from keras_nin.output_capture import capture_output

    with capture_output():
        interpreter = Interpreter(
            model_content=file.graph.content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
            num_threads=1,  # so that sums are taken in one order
        )
        interpreter.allocate_tensors()
    for sample in samples:
        for index, values in _sample_inputs(file.graph, sample):
            interpreter.set_tensor(index, np.asarray(values, np.float32))
        interpreter.invoke()
        for watch in watchers:
            watch(interpreter.get_tensor)


def _sample_inputs(graph, sample):
    """Return pairs of an input's tensor index and its values."""
    if isinstance(sample, dict):
        named = dict(graph.signatures[0].inputs)
        return [(named[name], values) for name, values in sample.items()]
    return list(zip(graph.main.inputs, sample, strict=True))


class InputMoments:
    """Watcher: mean and second moment of what the weights of a layer are multiplied with.

    Args:
        layer: `keras_nin.export.float_file.WeightedOperator`.
        squares: whether the second moment is wanted.

    A layer has one group of terms for all its outputs; a depthwise convolution one for each output.
    """

    def __init__(self, layer, squares=True):
        self.layer, self.squares = layer, squares
        self._sum = self._products = 0
        self._count = 0

    def __call__(self, tensor):
        """Add what the layer's input holds."""
        columns = _input_columns(self.layer, tensor(self.layer.source))
        self._sum = self._sum + columns.sum(axis=1, dtype=np.float64)
        if self.squares:
            self._products = self._products + (columns.transpose(0, 2, 1) @ columns).astype(np.float64)
        self._count += columns.shape[1]

    def mean(self):
        """Return the mean of each term: (groups, terms)."""
        return self._of_outputs(self._sum / self._count)

    def second(self):
        """Return the mean of the product of every two terms: (groups, terms, terms)."""
        return self._of_outputs(self._products / self._count)

    def _of_outputs(self, moments):
        if self.layer.kind == "depthwise":  # each input channel makes `depth_multiplier` outputs
            return np.repeat(moments, self.layer.weights.shape[3] // len(moments), axis=0)
        return moments


def _input_columns(layer, values):
    """Return what the rows of a layer's weights are multiplied with: float32 (groups, positions, terms)."""
    if layer.kind == "dense":
        return values.reshape(1, -1, layer.weights.shape[1])
    patches = np.concatenate([_patches(image, layer) for image in values])
    if layer.kind == "depthwise":
        return np.ascontiguousarray(np.moveaxis(patches, 2, 0))
    return patches.reshape(1, len(patches), -1)


def _patches(image, layer):
    """Return the windows of an image (H, W, C) that a convolution sees, at some positions: (positions, h * w, C)."""
    options = layer.operator.options
    _, height, width, _ = layer.weights.shape
    rows = _window_starts(image.shape[0], height, options["stride_h"], options["dilation_h"], options["padding"])
    columns = _window_starts(image.shape[1], width, options["stride_w"], options["dilation_w"], options["padding"])
    count = len(rows) * len(columns)
    chosen = np.arange(count)
    if count > POSITIONS_PER_IMAGE:
        chosen = np.sort(seeded_generator(0).permutation(count)[:POSITIONS_PER_IMAGE])
    row = rows[chosen // len(columns), None, None] + options["dilation_h"] * np.arange(height)[:, None]
    column = columns[chosen % len(columns), None, None] + options["dilation_w"] * np.arange(width)
    inside = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
    patches = image[row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)] * inside[..., None]
    return patches.reshape(len(chosen), height * width, image.shape[2])


def _window_starts(size, kernel, stride, dilation, padding):
    """Return where the windows along one side start; before 0 where zeros are put in front."""
    extent = (kernel - 1) * dilation + 1
    if padding == "VALID":
        return np.arange(0, size - extent + 1, stride)
    count = -(-size // stride)
    return np.arange(count) * stride - max((count - 1) * stride + extent - size, 0) // 2
