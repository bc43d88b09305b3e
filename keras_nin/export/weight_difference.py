"""The weights of an exported file, compared with those of its model; what the converter folds into them is derived."""

import dataclasses
import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.export.operator_layers import LayerIndex, absorbs_scale, map_operators
from keras_nin.tflite.quantization import per_channel_parameters
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteModel, TFLiteOperator, TFLiteTensor

if TYPE_CHECKING:
    import keras

    from keras_nin.keras_graph import GraphCall, TensorSlot

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
_COMPARED_DTYPES = ("int4", "int8", "uint8", "float16", "float32")
_LEVELS = {"int4": 7}  # of a weight on one side of zero; 127 in any other file
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
    Rescaling, where the file has no operator for it.
    """
    index, mapped = LayerIndex(model), map_operators(model, tflite)
    differences = []
    for operator, path, last in zip(tflite.main.operators, mapped.layers, mapped.output_layers, strict=True):
        if path is None or last is None or path not in index.by_path:
            continue
        layer = index.by_path[path].layer
        layout = _KERNEL_LAYOUTS.get((operator.op, type(layer).__name__))
        tensor = tflite.main.stored_constant(operator.inputs[1]) if layout else None
        if layout is None or tensor is None or tensor.is_sparse or tensor.dtype not in _COMPARED_DTYPES:
            continue
        kernel = _kernel_of(layer, operator)
        behind = _factor_behind(index, path, last, kernel.shape[-1])
        before = _factor_before(index, path, _input_producer(tflite, operator, mapped.output_layers), kernel)
        if behind is not None:
            scaled = kernel * (before if before.size == 1 else before[:, np.newaxis])
            lsb = _largest_difference(tflite, tensor, scaled, behind, *layout)
            differences += [] if lsb is None else [(lsb, path)]
    if not differences:
        return None
    lsb, path = max(differences, key=lambda difference: np.inf if np.isnan(difference[0]) else difference[0])
    return WeightDifference(lsb, path, len(differences))


def _kernel_of(layer: Any, operator: TFLiteOperator) -> np.ndarray:
    """Return the weights that an operator multiplies with, float64, in the layout of Keras: (..., in, out)."""
    if type(layer).__name__ == "SeparableConv2D":
        is_depthwise = operator.op == "DEPTHWISE_CONV_2D"
        return (layer.depthwise_kernel if is_depthwise else layer.pointwise_kernel).numpy().astype(np.float64)
    kernel = layer.kernel.numpy().astype(np.float64)
    return np.swapaxes(kernel, -1, -2) if operator.op == "TRANSPOSE_CONV" else kernel


def _input_producer(
    tflite: TFLiteModel, operator: TFLiteOperator, output_layers: Sequence[str | None]
) -> tuple[bool, str | None]:
    """Return (whether an operator computes what a kernel is multiplied with, path of the last layer fused into it)."""
    producer = tflite.main.producers.get(operator.inputs[2 if operator.op == "TRANSPOSE_CONV" else 0])
    while producer is not None and producer.op in ("QUANTIZE", "DEQUANTIZE"):
        producer = tflite.main.producers.get(producer.inputs[0])
    return (False, None) if producer is None else (True, output_layers[producer.index])


# Scales that the converter multiplies into a kernel


def _factor_behind(index: LayerIndex, first: str, last: str, channels: int) -> np.ndarray | None:
    """Return what the converter multiplies the output channels of a kernel with; None where that is not known.

    `first` is the path of the kernel's layer, `last` that of the last layer that was fused.
    """
    chain = index.chain(first, last)
    if chain is None:
        return None
    factor = np.ones(1)
    for call in _operations_behind(index, last):
        scale = _affine_scale(call.operation, functools.partial(_fill_in, call), call.kwargs, (1, 1, 1, channels))
        if scale is None:
            break
        factor = factor * scale
    for layer in chain[1:]:
        norm: Any = layer
        if type(layer).__name__ == "BatchNormalization" and norm.axis in (-1, len(norm.input.shape) - 1):
            gamma = norm.gamma.numpy() if norm.scale else 1
            factor = factor * gamma / np.sqrt(norm.moving_variance.numpy().astype(np.float64) + norm.epsilon)
        elif type(layer).__name__ not in _FUSIBLE_LAYERS:
            scale = _affine_scale(layer, lambda values: (values,), {}, (1, 1, 1, channels))
            if scale is None:
                return None
            factor = factor * scale
    return factor


def _factor_before(index: LayerIndex, path: str, producer: tuple[bool, str | None], kernel: np.ndarray) -> np.ndarray:
    """Return what the converter multiplies the input channels of a kernel with, to broadcast against it.

    It multiplies a scale into the kernel that follows where nothing comes between: ``w (s x + t) = (w s) x + w t``. So
    the calls between the operator that computes the input and the kernel's layer are folded as far as they are affine.
    """
    is_computed, boundary = producer
    calls = _calls_of(index, path)
    if len(calls) != 1 or (is_computed and boundary in (None, path)):  # the path: the other half of a separable layer
        return np.ones(1)
    channels, rank = kernel.shape[-2], len(kernel.shape)
    factor = np.ones(1)
    for call in _calls_before(index, calls[0].inputs[0]):
        position = index.by_scope.get(call.scope)
        if position is not None and boundary is not None and position.path == boundary:
            is_folded_back = any(_operations_behind(index, boundary))
            return np.ones(1) if is_folded_back else factor
        if type(call.operation).__name__.startswith("ZeroPadding"):  # 0 s = 0
            continue
        scale = _affine_scale(
            call.operation, functools.partial(_fill_in, call), call.kwargs, (*[1] * (rank - 1), channels)
        )
        if scale is None:
            break
        factor = factor * scale
    return factor


def _calls_of(index: LayerIndex, path: str) -> "list[GraphCall]":
    """Return the calls of a layer."""
    return [call for call in index.trace.calls if index.by_scope.get(call.scope) is index.by_path[path]]


def _operations_behind(index: LayerIndex, path: str) -> "Iterator[GraphCall]":
    """Yield the operations of `keras.ops` behind a layer whose weights take up their scale, until the next layer."""
    calls = _calls_of(index, path)
    if len(calls) != 1 or not absorbs_scale(index.by_path[path].layer):
        return
    consumers = index.trace.consumers[calls[0].outputs[0]]
    while len(consumers) == 1 and len(consumers[0].inputs) == 1 and consumers[0].scope not in index.by_scope:
        yield consumers[0]
        consumers = index.trace.consumers[consumers[0].outputs[0]]


def _calls_before(index: LayerIndex, slot: "TensorSlot") -> "Iterator[GraphCall]":
    """Yield the calls of one input each that lead to a slot, the nearest first."""
    call = index.trace.producers.get(slot)
    while call is not None and len(call.inputs) == 1:
        yield call
        call = index.trace.producers.get(call.inputs[0])


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


def _largest_difference(
    tflite: TFLiteModel, tensor: TFLiteTensor, kernel: np.ndarray, factor: np.ndarray, axis: int, order: tuple[int, ...]
) -> float | None:
    """Return the largest difference of a weight in steps over its channel; None where the forms differ."""
    expected = kernel.transpose(order)
    if axis == -1:  # depthwise: the channels and their multiples are one axis
        expected = expected.reshape(1, *expected.shape[:2], -1)
    scales, zero_points = per_channel_parameters(tensor)
    with np.errstate(invalid="ignore"):  # a damaged float is NaN, which is no small difference
        stored = (tflite.data(tensor).astype(np.float64) - zero_points) * scales
    if expected.shape[axis] != stored.shape[axis] or expected.size != stored.size:
        return None
    channels = expected.shape[axis]
    expected, stored = (np.moveaxis(values, axis, 0).reshape(channels, -1) for values in (expected, stored))
    expected = expected * np.reshape(factor, (-1, 1))
    largest = np.abs(expected).max(axis=1, keepdims=True)
    if scales.size == 1 and tensor.dtype not in FLOAT_DTYPES:
        largest = largest.max()
    # A channel without any weight has the step of the others.
    step = np.where(largest > 0, largest, max(np.max(largest), np.finfo(np.float32).tiny)) / _LEVELS.get(
        tensor.dtype, 127
    )
    return float((np.abs(stored - expected) / step).max())
