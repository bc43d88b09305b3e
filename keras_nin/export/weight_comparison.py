"""Are the weights of a file those of its model, and which layers do its operators compute?"""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.export.operator_layers import LayerIndex, OperatorLayers, absorbs_scale, map_operators
from keras_nin.keras_graph import trace_model
from keras_nin.tflite.layer_names import KERNEL_OPERATORS
from keras_nin.tflite.quantization import per_channel_parameters
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteModel, TFLiteOperator

if TYPE_CHECKING:
    import keras

    from keras_nin.keras_graph import GraphCall, GraphTrace, TensorSlot

_FUSIBLE_LAYERS = frozenset(
    ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "Dropout", "SpatialDropout2D", "Identity")
)
# The axis of the output channels in the file, and the order of the axes of the Keras kernel there.
_KERNEL_LAYOUTS = {
    ("CONV_2D", "Conv2D"): (0, (3, 0, 1, 2)),
    ("CONV_2D", "Conv1D"): (0, (2, 0, 1)),
    ("CONV_2D", "Dense"): (0, (1, 0)),
    ("CONV_2D", "SeparableConv2D"): (0, (3, 0, 1, 2)),
    ("DEPTHWISE_CONV_2D", "DepthwiseConv2D"): (-1, (0, 1, 2, 3)),
    ("DEPTHWISE_CONV_2D", "SeparableConv2D"): (-1, (0, 1, 2, 3)),
    ("FULLY_CONNECTED", "Dense"): (0, (1, 0)),
    ("FULLY_CONNECTED", "Conv2D"): (0, (3, 0, 1, 2)),
    ("TRANSPOSE_CONV", "Conv2DTranspose"): (0, (3, 0, 1, 2)),
}
# Operators that a scale behind them may be folded into.
_SCALED_OPERATORS = KERNEL_OPERATORS | {"MUL", "DIV", "ADD", "SUB"}
_COMPARED_DTYPES = ("int4", "int8", "uint8", "float16", "float32")
_LEVELS = {"int4": 7}  # of a weight on one side of zero; 127 in any other file
# TensorFlow quantizes a channel of weights that are all smaller as if this was the largest (kNearZeroTolerance / 2).
_SMALLEST_RANGE = 5e-7
_AFFINE_TOLERANCE = 1e-4  # of the size of a value: float32 arithmetic of a few operations is nearer to a line


@dataclasses.dataclass(frozen=True)
class WeightDifference:
    """The weight that differs most from the model's: by how many `lsb` over its channel, in which `layer`.

    One LSB is one step of the 8 bits (of an int4 weight: of the 4 bits) over the range of a channel. `compared` is how
    many kernels were compared; the others have no counterpart of the same form.
    """

    lsb: float
    layer: str
    compared: int


def find_worst_weight(model: "keras.Model", tflite: TFLiteModel) -> WeightDifference | None:
    """Compare the kernels of a file with those of its model; None without a counterpart.

    BatchNormalization behind a kernel is folded into it, and so is a scale before or behind it, such as that of
    Rescaling, where the file has no operator for it. A scale between two kernels is in the one or in the other.
    """
    kernels = _KernelMatcher(model, tflite).kernels.values()
    differences = [(kernel.largest, kernel.path) for kernel in kernels]
    if not differences:
        return None
    lsb, path = max(differences, key=lambda difference: np.inf if np.isnan(difference[0]) else difference[0])
    return WeightDifference(lsb, path, len(differences))


def map_fused_layers(model: "keras.Model", tflite: TFLiteModel) -> OperatorLayers:
    """Return `map_operators` without the layers whose scale is in the weights of the operator that follows."""
    matcher = _KernelMatcher(model, tflite)
    return OperatorLayers(matcher.mapped.layers, tuple(matcher.last_layers))


# A call and the scale of each channel that it multiplies by, (channels,) or (1,); None where it is not affine.
_ScaledCall = tuple["GraphCall", np.ndarray | None]


@dataclasses.dataclass
class _Kernel:
    """The weights of an operator, and the scales behind it in the model that the converter may have folded into them.

    Attributes:
        path: of the Keras layer.
        stored: the weights in the file, float64 (output channels, weights of each).
        expected: those of the layer, in the same order.
        levels: steps of the stored type on one side of zero.
        smallest: range of a channel whose weights are all smaller.
        is_per_tensor: whether all channels have one step.
        fused: the calls behind the layer that the operator computes too.
        sure: how many of them it certainly computes; it may compute the others.
        kept: of how many the scale is in the weights; the kernel that follows has those of the other sure ones.
        largest: the largest difference of a weight in steps, once it is settled.
    """

    path: str
    stored: np.ndarray
    expected: np.ndarray
    levels: int
    smallest: float
    is_per_tensor: bool
    fused: list[_ScaledCall] = dataclasses.field(default_factory=list)
    sure: int = 0
    kept: int = 0
    largest: float = 0.0

    def differences(self, kept: int) -> np.ndarray:
        """Return the difference of every weight in steps over its channel, with the first `kept` scales folded in."""
        expected = self.expected * np.reshape(_product(self.fused[:kept]), (-1, 1))
        largest = np.maximum(np.abs(expected).max(axis=1, keepdims=True), self.smallest)
        if self.is_per_tensor:
            largest = largest.max()
        # A channel without any weight has the step of the others.
        step = np.where(largest > 0, largest, max(np.max(largest), np.finfo(np.float32).tiny)) / self.levels
        return np.abs(self.stored - expected) / step

    def median(self, kept: int) -> float:
        """Return the median of `differences`, which damage to some weights does not change; infinite for NaN."""
        return float(np.nan_to_num(np.median(self.differences(kept)), nan=np.inf))

    def choose_kept(self, choices: range) -> None:
        """Set `kept` to the choice that the weights in the file are nearest to, the first one of several."""
        self.kept = min(choices, key=self.median) if len(choices) > 1 else choices[0]

    def pass_on_scales(self) -> np.ndarray:
        """Return the scales behind the kernel that its weights lack: the kernel that follows must have them."""
        self.choose_kept(range(self.sure, self.sure - self.movable - 1, -1))
        return _product(self.fused[self.kept : self.sure])

    @property
    def movable(self) -> int:
        """Of how many sure calls the scale may be in the kernel that follows: those behind the last activation."""
        return len(list(itertools.takewhile(lambda fused: fused[1] is not None, reversed(self.fused[: self.sure]))))

    def settle(self) -> None:
        """Set `largest` and drop the weights, which are as large as the model in twice its precision."""
        self.largest = float(self.differences(self.kept).max())
        self.stored = self.expected = np.empty(0)


def _product(fused: Sequence[_ScaledCall]) -> np.ndarray:
    return functools.reduce(np.multiply, (scale for _, scale in fused if scale is not None), np.ones(1))


class _KernelMatcher:
    """Matches the kernels of a file with the layers of its model, in the order of the file.

    Attributes:
        kernels: those with a counterpart, by the index of their operator.
        last_layers: as `OperatorLayers.output_layers`, without a layer whose scale is in the kernel that follows.
    """

    def __init__(self, model: "keras.Model", tflite: TFLiteModel) -> None:
        self.index, self.tflite, self.mapped = LayerIndex(model), tflite, map_operators(model, tflite)
        self.kernels: dict[int, _Kernel] = {}
        self.last_layers = list(self.mapped.output_layers)
        for operator in tflite.main.operators:
            kernel = self._match(operator)
            if kernel is not None:
                self.kernels[operator.index] = kernel
                if not kernel.movable:
                    kernel.settle()
        for index, kernel in self.kernels.items():
            if kernel.movable:
                kernel.settle()
            if kernel.sure:  # the operator computes the last call whose scale it has, which may be of no layer
                kept = min(kernel.kept, kernel.sure)
                last = (
                    self.index.by_scope.get(kernel.fused[kept - 1][0].scope)
                    if kept
                    else self.index.by_path[kernel.path]
                )
                self.last_layers[index] = last.path if last else None

    def _match(self, operator: TFLiteOperator) -> _Kernel | None:
        path, last = self.mapped.layers[operator.index], self.mapped.output_layers[operator.index]
        if path is None or last is None or path not in self.index.by_path:
            return None
        layer = self.index.by_path[path].layer
        layout = _KERNEL_LAYOUTS.get((operator.op, type(layer).__name__))
        tensor = self.tflite.main.stored_constant(operator.inputs[1]) if layout else None
        if layout is None or tensor is None or tensor.is_sparse or tensor.dtype not in _COMPARED_DTYPES:
            return None
        weights, (axis, order) = _kernel_of(layer, operator), layout
        scales, zero_points = per_channel_parameters(tensor)
        with np.errstate(invalid="ignore"):  # a damaged float is NaN, which is no small difference
            stored = _channels_first((self.tflite.data(tensor).astype(np.float64) - zero_points) * scales, axis)
        is_per_tensor = scales.size == 1 and tensor.dtype not in FLOAT_DTYPES
        levels, smallest = _LEVELS.get(tensor.dtype, 127), 0 if tensor.dtype in FLOAT_DTYPES else _SMALLEST_RANGE
        kernels = []
        for before in self._scales_before(operator, path, (*[1] * (weights.ndim - 1), weights.shape[-2])):
            scaled = weights * (before if before.size == 1 else before[:, np.newaxis])
            expected = scaled.transpose(order)
            if axis == -1:  # depthwise: the channels and their multiples are one axis
                expected = expected.reshape(1, *expected.shape[:2], -1)
            kernels.append(_Kernel(path, stored, _channels_first(expected, axis), levels, smallest, is_per_tensor))
        channels = len(kernels[0].expected)
        fused = _fused_calls(self.index, path, last, (*[1] * (weights.ndim - 1), channels))
        if fused is None or kernels[0].expected.shape != stored.shape:
            return None
        for kernel in kernels:
            kernel.fused, kernel.sure = fused
            kernel.choose_kept(range(kernel.sure, len(kernel.fused) + 1))
        if len(kernels) == 1:
            return kernels[0]
        kernel = min(kernels, key=lambda kernel: kernel.median(kernel.kept))
        producer = _input_producer(self.tflite, operator)
        if producer and kernel is not kernels[0]:  # no operator computes the user's layer up to its end
            part = self.last_layers[producer.index]
            self.last_layers = [None if last == part else last for last in self.last_layers]
        return kernel

    def _scales_before(self, operator: TFLiteOperator, path: str, shape: tuple[int, ...]) -> list[np.ndarray]:
        """Return what the converter can have multiplied the input channels of a kernel with, (channels,) or (1,).

        It multiplies a scale into the kernel that follows where nothing comes between: ``w (s x + t) = (w s) x + w t``.
        So the calls between the operator that computes the input and the kernel's layer are folded as far as they are
        affine, and those fused into that operator as far as its own weights lack their scales. Of a user's layer that
        is not affine the last operations may be.
        """
        calls, producer, factor = _calls_of(self.index, path), _input_producer(self.tflite, operator), np.ones(1)
        boundary = producer and self.mapped.output_layers[producer.index]
        if len(calls) != 1 or (producer and boundary in (None, path)):  # the path: the other half of a separable layer
            return [factor]
        source = self.kernels.get(producer.index) if producer else None
        if producer and source is None and producer.op not in _SCALED_OPERATORS:
            boundary = self.mapped.layers[producer.index]  # what follows is not in the operator, which has no weights
        last_fused = source.fused[source.sure - 1][0] if source and source.sure else None
        for call in _calls_before(self.index.trace, calls[0].inputs[0]):
            position = self.index.by_scope.get(call.scope)
            is_boundary = last_fused is None and position is not None and position.path == boundary
            scale = _scale_of(call, shape)
            if source and (call is last_fused or is_boundary):
                is_shared = len(self.index.trace.consumers[call.outputs[0]]) > 1
                return [factor if is_shared else factor * source.pass_on_scales()]
            if scale is None and (inner := _inner_trace(call)):
                ends = (_scale_of(end, shape) for end in _calls_before(inner, inner.outputs[0]))
                known = itertools.takewhile(lambda end: end is not None, ends)
                return list(itertools.accumulate(known, lambda product, end: product * end, initial=factor))
            if position and is_boundary:  # its weights, if it has any, take up an operation behind it
                fused = _fused_calls(self.index, position.path, position.path, shape)
                return [np.ones(1) if fused and fused[1] else factor]
            if type(call.operation).__name__.startswith("ZeroPadding"):  # 0 s = 0
                continue
            if scale is None:
                break
            factor = factor * scale
        return [factor]


def _channels_first(weights: np.ndarray, axis: int) -> np.ndarray:
    """Return weights as (output channels, weights of each)."""
    return np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)


def _kernel_of(layer: Any, operator: TFLiteOperator) -> np.ndarray:
    """Return the weights that an operator multiplies with, float64, in the layout of Keras: (..., in, out)."""
    if type(layer).__name__ == "SeparableConv2D":
        is_depthwise = operator.op == "DEPTHWISE_CONV_2D"
        return (layer.depthwise_kernel if is_depthwise else layer.pointwise_kernel).numpy().astype(np.float64)
    kernel = layer.kernel.numpy().astype(np.float64)
    return np.swapaxes(kernel, -1, -2) if operator.op == "TRANSPOSE_CONV" else kernel


def _input_producer(tflite: TFLiteModel, operator: TFLiteOperator) -> TFLiteOperator | None:
    """Return the operator that computes what a kernel is multiplied with; None for an input of the file."""
    producer = tflite.main.producers.get(operator.inputs[2 if operator.op == "TRANSPOSE_CONV" else 0])
    while producer is not None and producer.op in ("QUANTIZE", "DEQUANTIZE"):
        producer = tflite.main.producers.get(producer.inputs[0])
    return producer


# Scales that the converter multiplies into a kernel


def _fused_calls(
    index: LayerIndex, first: str, last: str, shape: tuple[int, ...]
) -> tuple[list[_ScaledCall], int] | None:
    """Return (the calls behind a kernel that its operator computes, of how many that is sure); None if it is unknown.

    They are those up to the layer `last`, and behind it the operations of `keras.ops` that scale. Those with which a
    user's layer begins may be. `first` is the path of the kernel's layer, `shape` one of its outputs.
    """
    calls, is_complete = _calls_of(index, first), first == last
    if len(calls) != 1:
        return ([], 0) if is_complete else None
    fused: list[_ScaledCall] = []
    layer: Any = calls[0].operation
    for call in _calls_behind(index.trace, calls[0].outputs[0]):
        position = index.by_scope.get(call.scope)
        is_last = position is not None and position.path == last
        scale = _scale_of(call, shape) if not is_complete or absorbs_scale(layer) else None
        if is_complete and position is None and scale is None:
            break
        if scale is None and (is_complete or is_last) and absorbs_scale(layer) and (inner := _inner_trace(call)):
            starts = ((start, _scale_of(start, shape)) for start in _calls_behind(inner, inner.inputs[0]))
            return [*fused, *itertools.takewhile(lambda start: start[1] is not None, starts)], len(fused)
        if is_complete and position is not None:
            break
        if scale is None and type(call.operation).__name__ not in _FUSIBLE_LAYERS:
            return None
        fused.append((call, scale))
        layer = layer if position is None else call.operation
        is_complete = is_complete or is_last
    return (fused, len(fused)) if is_complete else None


def _inner_trace(call: "GraphCall") -> "GraphTrace | None":
    """Return the operations of `keras.ops` that a user's layer of one input consists of; None for any other layer."""
    layer: Any = call.operation
    if type(layer).__module__.split(".")[0] in ("keras", "keras_nin") or not hasattr(layer, "weights"):
        return None
    import keras

    try:
        inputs = keras.Input(batch_shape=layer.input.shape)
        trace = trace_model(keras.Model(inputs, layer.call(inputs)))
    except Exception:  # whatever the user's code raises, such as a function that takes no symbolic tensor
        return None
    return trace if trace and len(trace.outputs) == 1 else None


def _scale_of(call: "GraphCall", shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the scale of each channel of a call that is affine; None for any other."""
    norm: Any = call.operation
    if type(norm).__name__ == "BatchNormalization" and norm.axis in (-1, len(shape) - 1):
        gamma = norm.gamma.numpy() if norm.scale else 1
        return gamma / np.sqrt(norm.moving_variance.numpy().astype(np.float64) + norm.epsilon)
    return _affine_scale(call.operation, functools.partial(_fill_in, call), call.kwargs, shape)


def _calls_of(index: LayerIndex, path: str) -> "list[GraphCall]":
    """Return the calls of a layer."""
    return [call for call in index.trace.calls if index.by_scope.get(call.scope) is index.by_path[path]]


def _calls_before(trace: "GraphTrace", slot: "TensorSlot") -> "Iterator[GraphCall]":
    """Yield the calls of one input each that lead to a slot, the nearest first."""
    call = trace.producers.get(slot)
    while call is not None and len(call.inputs) == 1:
        yield call
        call = trace.producers.get(call.inputs[0])


def _calls_behind(trace: "GraphTrace", slot: "TensorSlot") -> "Iterator[GraphCall]":
    """Yield the calls of one input each that a slot leads to, each the only consumer of the one before."""
    consumers = trace.consumers[slot]
    while len(consumers) == 1 and len(consumers[0].inputs) == 1:
        yield consumers[0]
        consumers = trace.consumers[consumers[0].outputs[0]]


def _fill_in(call: "GraphCall", values: Any) -> Any:
    """Return the arguments of a call with `values` in the place of its input."""
    import keras

    return keras.tree.map_structure(lambda value: values if value is call.inputs[0] else value, call.args)


def _affine_scale(operation: Any, arguments: Any, kwargs: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the scale of each channel (last axis) of an operation ``s x + t``; None for any other operation.

    Args:
        operation: layer or operation of `keras.ops`.
        arguments: from values of `shape` to the positional arguments of the call.
        kwargs: the others.
        shape: with which the operation is tried; the channels last.
    """
    training = {"training": False} if "training" in inspect.signature(operation.call).parameters else {}

    def apply(values: np.ndarray) -> np.ndarray:
        return np.asarray(operation(*arguments(values), **kwargs, **training), np.float64)

    probe = np.linspace(-2, 3, shape[-1] + 2)[1:-1].astype(np.float32).reshape((1,) * (len(shape) - 1) + (-1,))
    zeros = np.zeros(shape, np.float32)
    try:
        offset, large, probed, negative = (apply(zeros + values) for values in (0, 1024, probe, -2))
    except Exception:  # whatever a layer raises for a shape that is not its own
        return None
    if offset.shape != shape:
        return None
    scale = (large - offset) / 1024
    size = np.abs(scale) + np.abs(offset)
    for values, results in ((probe, probed), (-2, negative)):
        if not (np.abs(scale * values + offset - results) <= _AFFINE_TOLERANCE * size).all():
            return None
    scale = scale.reshape(-1, shape[-1])[0]
    return scale[:1] if np.ptp(scale) <= _AFFINE_TOLERANCE * np.abs(scale).max() else scale
