"""Arithmetic on a graph: MACs and nonlinearities per layer, memory, bytes moved, and receptive fields.

A receptive field is theoretical: it is composed from kernels, strides and dilations alone, so it may exceed the input.
After an upsampling or a transposed convolution, where neighboring positions read the same ones, it is an upper bound.
Layers that collect all positions (global pooling, Flatten, and what follows) have the size of the input.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit.classification import (
    CONVOLUTIONS,
    DEPTHWISE,
    FOLDABLE_NORMS,
    GLOBAL_POOLS,
    LOCAL_RESPONSE,
    OPERATION_KINDS,
    PADDING,
    PASS_THROUGH,
    TRANSPOSED,
    UPSAMPLING,
    WINDOW_POOLS,
    layer_kind,
)
from keras_nin.audit.graph import LayerGraph, LayerInfo

_FREE_KINDS = frozenset({"activation", "merge", "norm", "pool", "reshape"})
# Table lookups and elementwise scaling: no multiplication that is followed by an addition to a running sum.
_FREE_OPERATIONS = PASS_THROUGH | {
    *("Embedding", "LayerScale", "Rescaling", "Resizing", "Cast", "Negative", "Clip", "Pad", "Tile", "BroadcastTo"),
    *("Sum", "Mean", "Max", "Min", "Argmax", "Argmin", "TopK", "Where", "Absolute", "Sign", "Floor", "Ceil", "Round"),
    *("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr", "LogicalNot"),
    *("Square", "Sqrt", "Rsqrt", "Exp", "Log", "Power", "Sin", "Cos", "FloorDivide", "Mod"),
}
_EINSUM_INPUTS = {"Einsum": 2, "EinsumDense": 1}
# A pass-through layer is dropped at conversion; the others give their input another shape.
_ALIASING_OPERATIONS = PASS_THROUGH | {"Flatten", "Reshape", "Squeeze", "ExpandDims"}
# Input positions that one output position of an upsampling reads, along one axis.
_INTERPOLATION_TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}
_FIELD_PRESERVING = PASS_THROUGH | PADDING | {LOCAL_RESPONSE, "Dense", "LayerScale", "Rescaling"}
_FIELD_PRESERVING |= {"Cropping1D", "Cropping2D"}
# Norms over the channels, unless the layer says that it is set to other axes.
_CHANNEL_NORMS = FOLDABLE_NORMS | {"LayerNormalization", "RMSNormalization", "UnitNormalization"}
_WINDOW_OPERATIONS = CONVOLUTIONS | DEPTHWISE | WINDOW_POOLS


def count_macs(layer: LayerInfo) -> int | None:
    """Return the MACs of `layer` for one input (batch 1); None if unknown.

    One MAC is one multiply and one add to a running sum: convolutions and matrix products. Biases, activations,
    poolings, resizing, merges, normalizations and elementwise scaling count 0.
    """
    if layer.op in CONVOLUTIONS:
        return layer.output_elements * layer.kernel_size * (layer.input_channels // layer.groups)
    if layer.op in DEPTHWISE:
        return layer.output_elements * layer.kernel_size
    if layer.op in TRANSPOSED:
        # Every input element is multiplied by one kernel window for every output channel.
        return layer.inputs[0].elements * layer.kernel_size * layer.output_channels
    if layer.op == "Dense":
        return layer.output_elements * layer.input_channels
    if layer.op == "Matmul":
        # The product of a tensor and a constant does not say which of the two comes first.
        return layer.output_elements * layer.input_channels if len(layer.inputs) == 2 else None
    if layer.op in _EINSUM_INPUTS:
        return _count_einsum_macs(layer)
    return 0 if OPERATION_KINDS.get(layer.op or "") in _FREE_KINDS or layer.op in _FREE_OPERATIONS else None


def _count_einsum_macs(layer: LayerInfo) -> int | None:
    """Return the product of the sizes of all indices; None if the equation is not a product of two operands.

    An index that only the weights have ("ab,cd->ad"), or a constant operand, has no size here: unknown too.
    """
    subscripts, arrow, result = (layer.equation or "").partition("->")
    operands = subscripts.split(",")
    if not arrow or len(operands) != 2 or len(layer.inputs) != _EINSUM_INPUTS[layer.op or ""]:
        return None
    sizes = {}
    shapes = [tensor.shape for tensor in (*layer.inputs, *layer.outputs)]
    for labels, shape in zip([*operands[: len(layer.inputs)], result], shapes, strict=True):
        axes = _align_labels(labels, len(shape))
        if axes is None:
            return None
        sizes |= zip(axes, shape, strict=True)
    labels = {label for operand in operands for label in operand.replace("...", "")}
    return math.prod(sizes.values()) if labels <= sizes.keys() else None


def _align_labels(labels: str, rank: int) -> list[str | int] | None:
    """Return one label per axis, numbers counted from the end for the axes of "..."; None if they do not fit."""
    before, dots, after = labels.partition("...")
    hidden = rank - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        return None
    return [*before, *range(-hidden, 0), *after]


def count_activation_evaluations(layer: LayerInfo) -> int:
    """Return how often `layer` applies a nonlinearity: its number of output elements, or 0 if it applies none."""
    is_applied = layer_kind(layer) == "activation" if layer.activation is None else layer.activation != "linear"
    return layer.output_elements if is_applied else 0


def compute_intensity(macs: int | None, moved_bytes: int) -> float | None:
    """Return MACs per byte moved; None if `macs` is None."""
    return None if macs is None else macs / moved_bytes if moved_bytes else 0.0


# Memory


def compute_peak_bytes(graph: LayerGraph, *, bits: int | None = None) -> int:
    """Return the largest number of bytes that are live at once while `graph` runs.

    While a layer runs, its inputs, its output and every earlier tensor that a later layer still reads are live. Layers
    run in the graph's order, on the fused graph: an activation or a BatchNormalization that is the only reader of its
    input is part of the layer before it and has no tensor of its own; dropout, Flatten and Reshape share their input's
    memory. Concatenate, Add and ZeroPadding2D write tensors of their own; padding inside a convolution takes none.
    `bits` is the size of every element, such as 8 for int8; None takes the tensors' own.
    """
    buffers = _find_buffers(graph)
    tensors = (*graph.inputs, *(tensor for layer in graph.layers for tensor in layer.outputs))
    size = {tensor.index: tensor.nbytes if bits is None else -(-tensor.elements * bits // 8) for tensor in tensors}
    first_step = {tensor.index: 0 for tensor in graph.inputs}
    last_step = {}
    for step, layer in enumerate(graph.layers):
        for tensor in (*layer.inputs, *layer.outputs):
            first_step.setdefault(buffers[tensor.index], step)
            last_step[buffers[tensor.index]] = step
    last_step |= {buffers[tensor.index]: len(graph.layers) for tensor in graph.outputs}

    change = Counter()
    for index, step in first_step.items():
        change[step] += size[index]
        change[last_step.get(index, step) + 1] -= size[index]
    return max(itertools.accumulate(change[step] for step in range(len(graph.layers) + 1)))


def count_moved_bytes(graph: LayerGraph) -> int:
    """Return the bytes that `graph` reads and writes in one run: inputs, outputs and weights of every layer once each.

    On the fused graph, as in `compute_peak_bytes`: a layer without a tensor of its own moves nothing, and neither do
    weights outside the graph.
    """
    buffers = _find_buffers(graph)
    moved = 0
    for layer in graph.layers:
        inputs, outputs = ({buffers[tensor.index] for tensor in ends} for ends in (layer.inputs, layer.outputs))
        moved += 0 if outputs <= inputs else layer.moved_bytes
    return moved


def _find_buffers(graph: LayerGraph) -> dict[int, int]:
    """Return tensor index -> index of the tensor whose memory it uses, which mostly is itself."""
    aliases = _find_aliases(graph)
    fused = _find_fused_tensors(graph, aliases)
    buffers: dict[int, int] = {}
    for index, original in aliases.items():
        if index != original:
            buffers[index] = buffers[original]
        else:
            buffers[index] = buffers[fused[index]] if index in fused else index
    return buffers


def _find_aliases(graph: LayerGraph) -> dict[int, int]:
    """Return tensor index -> index of the tensor that it is a view of, which mostly is itself; producers first."""
    aliases = {tensor.index: tensor.index for tensor in graph.inputs}
    for layer in graph.layers:
        for tensor in layer.outputs:
            is_alias = layer.op in _ALIASING_OPERATIONS
            aliases[tensor.index] = aliases[layer.inputs[0].index] if is_alias else tensor.index
    return aliases


def _find_fused_tensors(graph: LayerGraph, aliases: dict[int, int]) -> dict[int, int]:
    """Return index of a fused output -> index of its input. A tensor with other readers is never overwritten."""
    readers = Counter()
    for layer in graph.layers:
        if layer.op not in _ALIASING_OPERATIONS:
            readers.update({aliases[tensor.index] for tensor in layer.inputs})
    # The network's inputs have no producer to fuse with; its outputs are read from outside.
    kept = {aliases[tensor.index] for tensor in (*graph.inputs, *graph.outputs)}
    fused = {}
    for layer in graph.layers:
        if layer_kind(layer) == "activation" or layer.op == "BatchNormalization":
            source = aliases[layer.inputs[0].index]
            if readers[source] == 1 and source not in kept:
                fused[layer.outputs[0].index] = source
    return fused


# Receptive fields


@dataclass(frozen=True)
class _ReceptiveField:
    """Size of a field, and the distance between neighboring positions, as (height, width) in input pixels."""

    size: tuple[Fraction, Fraction]
    jump: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))

    def widen(self, taps: Sequence[int], strides: Sequence[int | Fraction]) -> "_ReceptiveField":
        """Return the field after a window of (height, width) `taps`, moved by `strides`."""
        (height, width), (down, right) = self.size, self.jump
        return _ReceptiveField(
            (height + (taps[0] - 1) * down, width + (taps[1] - 1) * right),
            (down * strides[0], right * strides[1]),
        )


def compute_receptive_fields(graph: LayerGraph) -> tuple[tuple[int, int] | None, ...]:
    """Return (height, width) in input pixels, or None if unknown, for every layer of `graph`, in its order.

    Where branches meet, the largest counts.
    """
    sizes = [tensor.spatial for tensor in graph.inputs if tensor.spatial]
    whole = _ReceptiveField((Fraction(max(h for h, _ in sizes)), Fraction(max(w for _, w in sizes)))) if sizes else None
    pixel = _ReceptiveField((Fraction(1), Fraction(1)))
    fields = {tensor.index: pixel if tensor.spatial else None for tensor in graph.inputs}
    rounded = []
    for layer in graph.layers:
        field = _layer_field(layer, _largest_field(fields[tensor.index] for tensor in layer.inputs), whole)
        fields |= {tensor.index: field for tensor in layer.outputs}
        rounded.append((math.ceil(field.size[0]), math.ceil(field.size[1])) if field and layer.outputs else None)
    return tuple(rounded)


def _largest_field(fields: Iterable[_ReceptiveField | None]) -> _ReceptiveField | None:
    known = []
    for field in fields:
        if field is None:
            return None
        known.append(field)
    if not known:
        return None
    height, width = (max(field.size[axis] for field in known) for axis in (0, 1))
    down, right = (max(field.jump[axis] for field in known) for axis in (0, 1))
    return _ReceptiveField((height, width), (down, right))


def _layer_field(
    layer: LayerInfo, field: _ReceptiveField | None, whole: _ReceptiveField | None
) -> _ReceptiveField | None:
    if layer.op in GLOBAL_POOLS or layer.op == "GroupNormalization":
        return whole
    if field is None:
        return None
    if layer.op in _WINDOW_OPERATIONS:
        return field.widen(_kernel_extent(layer), layer.strides)
    if layer.op in TRANSPOSED:
        pairs = zip(_kernel_extent(layer), layer.strides, strict=True)
        taps = [math.ceil(Fraction(extent, stride)) for extent, stride in pairs]
        return field.widen(taps, [Fraction(1, stride) for stride in layer.strides])
    if layer.op in UPSAMPLING:
        taps = _INTERPOLATION_TAPS.get(layer.interpolation or "")
        return field.widen((taps, taps), [Fraction(1, factor) for factor in layer.strides]) if taps else None
    if layer.op in _CHANNEL_NORMS:
        # Statistics that a BatchNormalization has learned are constants, whatever their axis.
        return field if layer.per_position or layer.op in FOLDABLE_NORMS else None
    if layer.op in _FIELD_PRESERVING or OPERATION_KINDS.get(layer.op or "") in ("activation", "merge"):
        return field
    return _reshaped_field(layer, field, whole) if layer_kind(layer) == "reshape" else None


def _kernel_extent(layer: LayerInfo) -> list[int]:
    """Return the positions from the first to the last that a kernel covers, gaps of the dilation included."""
    return [(kernel - 1) * dilation + 1 for kernel, dilation in zip(layer.kernel or (), layer.dilation, strict=True)]


def _reshaped_field(layer: LayerInfo, field: _ReceptiveField, whole: _ReceptiveField | None) -> _ReceptiveField | None:
    if layer.outputs[0].spatial is None:
        return whole
    if whole and all(extent >= limit for extent, limit in zip(field.size, whole.size, strict=True)):
        return field
    moves_positions = layer.op in ("Permute", "Transpose", "RepeatVector")
    return field if not moves_positions and layer.inputs[0].spatial == layer.outputs[0].spatial else None
