"""Is an exported file as good as its model? Both run on the same images, and their weights are compared."""

import dataclasses
import functools
import inspect
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.errors import input_error
from keras_nin.export.operator_layers import LayerIndex, absorbs_scale, map_operators
from keras_nin.export.parity import (
    Parity,
    ParityLimits,
    check_value,
    compare_outputs,
    find_compared_tensor,
    worst_parity,
)
from keras_nin.heads import Head, fitting_targets, make_heads, targets_of
from keras_nin.keras_graph import TensorSpec, input_specs, output_activations, output_specs, pack_inputs
from keras_nin.tflite import schema
from keras_nin.tflite.flatbuffer import FlatbufferReader
from keras_nin.tflite.quantization import per_channel_parameters
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteModel, TFLiteOperator, TFLiteTensor

if TYPE_CHECKING:
    import keras

    from keras_nin.keras_graph import GraphCall, TensorSlot
    from keras_nin.tflite.runner import IODetails, TFLiteRunner

    # Float32 images (N, H, W, C), for several inputs a dictionary of arrays by input name; and labels (N, ...), for
    # several outputs a dictionary of them by output name, or None.
    Batch = tuple[Any, Any]

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


def verify_files(
    model: "keras.Model",
    runners: "Sequence[TFLiteRunner]",
    batches: "Iterable[Batch]",
    *,
    source: str,
    random_weights: bool = False,
    limits: ParityLimits | None = None,
    task: str | None = None,
) -> list[Parity]:
    """Run a model and its exported files on the same images and compare the outputs.

    Args:
        model: keras.Model.
        runners: `keras_nin.tflite.runner.TFLiteRunner` of each file.
        batches: (float32 images (N, H, W, C), labels or None), as `Dataset.batches` gives them; for several inputs a
            dictionary of arrays by the names of `keras_nin.keras_graph.input_specs`. Labels (N, ...) are those of the
            only output, or a dictionary of them by the names of `output_specs`.
        source: name of the images' source, for the record.
        random_weights: whether top-1 match and accuracy mean nothing because the weights are random.
        limits: `ParityLimits`; None takes the defaults.
        task: what the outputs mean, as in `keras_nin.heads.make_heads`; None infers it.

    Returns:
        A `Parity` per runner; of several outputs that of the worst, with the checks of all.

    Raises:
        InputError: no images, files whose input or output does not have the model's shape, or labels beyond its
            classes.
    """
    limits = limits or ParityLimits()
    limits = limits.untrained() if random_weights else limits
    outputs = [[_FileOutput(runner, position) for position in _match_outputs(model, runner)] for runner in runners]
    references, labels = _run_model_and_files(model, [output for row in outputs for output in row], batches)
    names = [spec.name for spec in output_specs(model)]
    heads = model_heads(model, task, labels)
    targets = [fitting_targets(head, targets_of(labels, name, names)) for head, name in zip(heads, names, strict=True)]
    parities = []
    for runner, row in zip(runners, outputs, strict=True):
        compared = [
            output.compare(reference, target, source, limits, head)
            for output, reference, target, head in zip(row, references, targets, heads, strict=True)
        ]
        parity = worst_parity(compared)
        worst = find_worst_weight(model, runner.model)
        if worst is not None and limits.max_weight is not None:
            check = check_value("weight_diff_lsb", worst.lsb, limits.max_weight)
            parity = dataclasses.replace(parity, checks=(*parity.checks, check))
        parities.append(parity)
    return parities


def model_heads(model: "keras.Model", task: str | None = None, labels: Any = None) -> tuple[Head, ...]:
    """Return what the outputs of a model mean, in their order; `task` and `labels` as in `make_heads`."""
    specs = zip(output_specs(model), output_activations(model), strict=True)
    return make_heads([(spec.name, spec.shape, activation) for spec, activation in specs], task, labels)


def _match_outputs(model: "keras.Model", runner: "TFLiteRunner") -> list[int]:
    """Return for each output of the model the index of the file's output that computes it.

    Raises:
        InputError: the file's inputs or outputs have other shapes, or other names where there are several.
    """
    _check_shapes("input", model, runner, input_specs(model), runner.inputs)
    specs, positions = output_specs(model), [0]
    if len(specs) > 1 or len(runner.outputs) > 1:
        names = [details.signature for details in runner.outputs]
        expected = [spec.name for spec in specs]
        if sorted(names, key=str) != sorted(expected):
            problem = f"{runner.model.source} with {names}"
            raise input_error(f"a file with the outputs {expected} of {model.name!r} in its signature", problem)
        positions = [names.index(name) for name in expected]
    _check_shapes("output", model, runner, specs, [runner.outputs[position] for position in positions])
    return positions


def _check_shapes(
    kind: str, model: "keras.Model", runner: "TFLiteRunner", specs: Sequence[TensorSpec], details: "Sequence[IODetails]"
) -> None:
    if len(specs) > 1 and kind == "input":
        named = {entry.signature: entry for entry in details}
        details = [named[spec.name] for spec in specs] if set(named) == {spec.name for spec in specs} else []
    expected, received = [spec.shape for spec in specs], [entry.shape[1:] for entry in details]
    fits = (
        len(shape) == len(other) and all(size in (None, found) for size, found in zip(shape, other, strict=True))
        for shape, other in zip(expected, received, strict=False)
    )
    if len(expected) != len(received) or not all(fits):
        listed = [", ".join(map(str, shapes)) or "others" for shapes in (expected, received)]
        problem = f"{runner.model.source} with {listed[1]}"
        raise input_error(f"a file with the {kind} {listed[0]} of {model.name!r}", problem)


class _FileOutput:
    """One output of a file, and the values before its closing softmax or sigmoid."""

    def __init__(self, runner: "TFLiteRunner", position: int) -> None:
        open_runner, several = type(runner), len(runner.outputs) > 1
        self.compared = find_compared_tensor(runner.model, position)
        self.runner = open_runner(runner.model, runner.threads, position, runner.batch) if several else runner
        self.inner = None
        if self.compared is not None and self.compared.closing is not None:
            inner = with_first_output(runner.model, self.compared.tensor)
            self.inner = open_runner(inner, runner.threads, 0 if several else None, runner.batch)
        self.outputs: list[np.ndarray] = []
        self.values: list[np.ndarray] = []

    def run(self, images: Any) -> None:
        """Run the file and keep what it computes."""
        self.outputs.append(self.runner.predict(images))
        if self.inner:
            self.values.append(self.inner.predict(images))

    def compare(
        self, reference: np.ndarray, labels: np.ndarray | None, source: str, limits: ParityLimits, head: Head
    ) -> Parity:
        """Return the `Parity` with what the model computes."""
        values = np.concatenate(self.values) if self.inner else None
        options: dict[str, Any] = {"compared": self.compared, "values": values, "source": source, "limits": limits}
        return compare_outputs(reference, np.concatenate(self.outputs), labels, head=head, **options)


def with_first_output(tflite: TFLiteModel, tensor: TFLiteTensor) -> TFLiteModel:
    """Return the same file with `tensor` as its first output."""
    root = FlatbufferReader(tflite.content).root(schema.IDENTIFIER)
    span = root.tables(schema.ModelSlots.SUBGRAPHS)[0].span(schema.SubgraphSlots.OUTPUTS)
    assert span is not None  # a file that was read has outputs
    content = bytearray(tflite.content)
    struct.pack_into("<i", content, span[0], tensor.index)
    main = dataclasses.replace(tflite.main, outputs=(tensor.index, *tflite.main.outputs[1:]))
    return dataclasses.replace(tflite, content=bytes(content), subgraphs=(main, *tflite.subgraphs[1:]))


def _run_model_and_files(
    model: "keras.Model", outputs: Sequence[_FileOutput], batches: "Iterable[Batch]"
) -> tuple[list[np.ndarray], Any]:
    """Run the model and the files; return the model's outputs, in their order, and the labels or None."""
    import keras

    references, labels = [], []
    for images, batch_labels in batches:
        predicted: Any = model.predict_on_batch(pack_inputs(model, images))
        references.append([np.asarray(output) for output in keras.tree.flatten(predicted)])
        for output in outputs:
            output.run(images)
        labels.append(batch_labels)
    if not references:
        raise input_error("at least one image to verify on", "none")
    joined = [np.concatenate(parts) for parts in zip(*references, strict=True)]
    return joined, join_labels(labels)


def join_labels(batches: Sequence[Any]) -> Any:
    """Return the labels of all batches: an array, a dictionary of arrays by the name of the output, or None."""
    first = batches[0]
    if first is None or not isinstance(first, dict):
        return None if first is None else np.concatenate(batches)
    return {name: np.concatenate([labels[name] for labels in batches]) for name in first}


# The weights


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
