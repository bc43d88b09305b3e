"""Arithmetic on one layer: multiply-accumulates and applications of its non-linearity, for one input (batch 1)."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit import classification
from keras_nin.audit.classification import (
    CONVOLUTIONS,
    DEPTHWISE,
    OPERATION_KINDS,
    PASS_THROUGH,
    TRANSPOSED,
    layer_kind,
)

_FREE_KINDS = frozenset({"activation", "merge", "norm", "pool", "reshape"})
# Table look-ups and scaling element by element: no multiplication that is followed by an addition to a running sum.
_FREE_OPERATIONS = PASS_THROUGH | {
    *("Embedding", "LayerScale", "Rescaling", "Resizing", "Cast", "Negative", "Clip", "Pad", "Tile", "BroadcastTo"),
    *("Sum", "Mean", "Max", "Min", "Argmax", "Argmin", "TopK", "Where", "Absolute", "Sign", "Floor", "Ceil", "Round"),
    *("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr", "LogicalNot"),
    *("Square", "Sqrt", "Rsqrt", "Exp", "Log", "Power", "Sin", "Cos", "FloorDivide", "Mod"),
}
_EINSUM_INPUTS = {"Einsum": 2, "EinsumDense": 1}


def count_macs(layer):
    """Return the MACs of `layer` (`LayerInfo`), or None where they are not known.

    One MAC is one multiply and one add to a running sum: convolutions and matrix products. Biases, activations,
    poolings, resizing, merges, normalisations and scaling element by element count 0.
    """
    if layer.op in CONVOLUTIONS:
        return layer.output_elements * math.prod(layer.kernel) * (layer.inputs[0].channels // layer.groups)
    if layer.op in DEPTHWISE:
        return layer.output_elements * math.prod(layer.kernel)
    if layer.op in TRANSPOSED:
        # Every input element is multiplied by one kernel window for every output channel.
        return layer.inputs[0].elements * math.prod(layer.kernel) * layer.outputs[0].channels
    if layer.op == "Dense":
        return layer.output_elements * layer.inputs[0].channels
    if layer.op == "Matmul":
        # The product of a tensor and a constant does not say which of the two comes first.
        return layer.output_elements * layer.inputs[0].channels if len(layer.inputs) == 2 else None
    if layer.op in _EINSUM_INPUTS:
        return _count_einsum_macs(layer)
    return 0 if OPERATION_KINDS.get(layer.op) in _FREE_KINDS or layer.op in _FREE_OPERATIONS else None


def _count_einsum_macs(layer):
    """The product of the sizes of all indices; None where the equation is no product of two operands.

    An index that only the weights have ("ab,cd->ad"), or a constant operand, has no size here: not counted either.
    """
    entering, arrow, leaving = (layer.equation or "").partition("->")
    operands = entering.split(",")
    if not arrow or len(operands) != 2 or len(layer.inputs) != _EINSUM_INPUTS[layer.op]:
        return None
    sizes = {}
    shapes = [tensor.shape for tensor in (*layer.inputs, *layer.outputs)]
    for labels, shape in zip([*operands[: len(layer.inputs)], leaving], shapes, strict=True):
        aligned = _align_labels(labels, len(shape))
        if aligned is None:
            return None
        sizes |= zip(aligned, shape, strict=True)
    labels = {label for operand in operands for label in operand.replace("...", "")}
    return math.prod(sizes.values()) if labels <= sizes.keys() else None


def _align_labels(labels, rank):
    """One label an axis: those that "..." stands for are numbers, counted from the end; None where they do not fit."""
    before, dots, after = labels.partition("...")
    hidden = rank - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        return None
    return [*before, *range(-hidden, 0), *after]


def count_activation_evaluations(layer):
    """Return how often `layer` applies a non-linearity: its output elements, or 0 where it applies none."""
    applied = layer_kind(layer) == "activation" if layer.activation is None else layer.activation != "linear"
    return layer.output_elements if applied else 0


def compute_intensity(macs, moved_bytes):
    """Return MACs per byte that is moved; None where `macs` is None."""
    return None if macs is None else macs / moved_bytes if moved_bytes else 0.0


# MERGED The memory that a network's tensors need while it runs, and what it moves through it.

# A pass-through layer is dropped at conversion, and these only give their input another shape.
_ALIASING_OPERATIONS = PASS_THROUGH | {"Flatten", "Reshape", "Squeeze", "ExpandDims"}


def compute_peak_bytes(graph, *, bits=None):
    """Return the largest number of bytes that are live at once while `graph` (`Graph`) runs.

    While a layer runs, its inputs, its output and every earlier tensor that a later layer still reads are live. Layers
    run in the graph's order, on the fused graph: an activation or a BatchNormalization that alone reads its input
    belongs to what produced it and has no tensor of its own; dropout, Flatten and Reshape share their input's memory.
    Concatenate, Add and ZeroPadding2D write tensors of their own; padding inside a convolution takes none.

    Args:
        graph: the network.
        bits: size of every element, 8 for int8; None takes each tensor's own.
    """
    home = _find_buffers(graph)
    tensors = (*graph.inputs, *(tensor for layer in graph.layers for tensor in layer.outputs))
    size = {tensor.index: tensor.nbytes if bits is None else -(-tensor.elements * bits // 8) for tensor in tensors}
    first = {tensor.index: 0 for tensor in graph.inputs}
    last = {}
    for step, layer in enumerate(graph.layers):
        for tensor in (*layer.inputs, *layer.outputs):
            first.setdefault(home[tensor.index], step)
            last[home[tensor.index]] = step
    last |= {home[tensor.index]: len(graph.layers) for tensor in graph.outputs}

    change = Counter()
    for index, step in first.items():
        change[step] += size[index]
        change[last.get(index, step) + 1] -= size[index]
    return max(itertools.accumulate(change[step] for step in range(len(graph.layers) + 1)))


def count_moved_bytes(graph):
    """Return the bytes that `graph` reads and writes in one run: every layer's inputs, outputs and weights once each.

    On the fused graph, as in `peak_activation_bytes`: a layer that has no tensor of its own moves nothing, and neither
    do weights outside the graph.
    """
    home = _find_buffers(graph)
    return sum(layer.moved_bytes for layer in graph.layers if not _writes_nothing(layer, home))


def _writes_nothing(layer, home):
    return {home[tensor.index] for tensor in layer.outputs} <= {home[tensor.index] for tensor in layer.inputs}


def _find_buffers(graph):
    """Tensor index -> index of the tensor whose memory it lies in (its own, mostly)."""
    alias = _find_aliases(graph)
    fused = _find_fused_tensors(graph, alias)
    home = {}
    for index, original in alias.items():
        if index == original:
            home[index] = home[fused[index]] if index in fused else index
        else:
            home[index] = home[original]
    return home


def _find_aliases(graph):
    """Tensor index -> index of the tensor that it is another view of (itself, mostly), producers first."""
    alias = {tensor.index: tensor.index for tensor in graph.inputs}
    for layer in graph.layers:
        for tensor in layer.outputs:
            alias[tensor.index] = alias[layer.inputs[0].index] if layer.op in _ALIASING_OPERATIONS else tensor.index
    return alias


def _find_fused_tensors(graph, alias):
    """Index of the output of a fused layer -> index of its input. Only what nobody else reads may be overwritten."""
    readers = Counter()
    for layer in graph.layers:
        if layer.op not in _ALIASING_OPERATIONS:
            readers.update({alias[tensor.index] for tensor in layer.inputs})
    # The network's input has no producer to fuse with; its outputs are read from outside.
    kept = {alias[tensor.index] for tensor in (*graph.inputs, *graph.outputs)}
    fused = {}
    for layer in graph.layers:
        if layer_kind(layer) == "activation" or layer.op == "BatchNormalization":
            entering = alias[layer.inputs[0].index]
            if readers[entering] == 1 and entering not in kept:
                fused[layer.outputs[0].index] = entering
    return fused


# MERGED How much of the network's input one output position of every layer sees.
# MERGED
# MERGED The field is theoretical: it is composed from kernels, strides and dilations alone, so it may exceed the input, and
# MERGED after an up-sampling or a transposed convolution, where neighbouring positions read the same ones, it is an upper
# MERGED bound. What collects all positions (global pooling, Flatten, and what follows) sees the input's own size.

# Positions of the input that one output position of an up-sampling reads, along one axis.
_INTERPOLATION_TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}
_FIELD_PRESERVING = (
    classification.PASS_THROUGH
    | {classification.LOCAL_RESPONSE, "Dense", "LayerScale", "Rescaling"}
    | {"ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D"}
)
# Norms by or over the channels, unless the layer says that it is set to other axes.
_CHANNEL_NORMS = classification.FOLDABLE_NORMS | {"LayerNormalization", "RMSNormalization", "UnitNormalization"}
_WINDOW_OPERATIONS = classification.CONVOLUTIONS | classification.DEPTHWISE | classification.WINDOW_POOLS


@dataclass(frozen=True)
class _ReceptiveField:
    """Extent of the field, and the distance between neighbouring positions, both as (height, width) in input pixels."""

    size: tuple[Fraction, Fraction]
    jump: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))


def compute_receptive_fields(graph):
    """Return (height, width) in input pixels, or None where it is not known, for every layer of `graph`, in its order.

    Where branches meet, the largest counts.
    """
    whole = _input_field(graph)
    fields = {tensor.index: _ReceptiveField((Fraction(1),) * 2) if tensor.spatial else None for tensor in graph.inputs}
    for layer in graph.layers:
        entering = _largest_field([fields[tensor.index] for tensor in layer.inputs])
        fields |= {tensor.index: _layer_field(layer, entering, whole) for tensor in layer.outputs}
    return tuple(_field_pixels(fields[layer.outputs[0].index]) if layer.outputs else None for layer in graph.layers)


def _input_field(graph):
    sizes = [tensor.spatial for tensor in graph.inputs if tensor.spatial]
    return _ReceptiveField(tuple(Fraction(max(axis)) for axis in zip(*sizes, strict=True))) if sizes else None


def _largest_field(fields):
    if not fields or None in fields:
        return None
    return _ReceptiveField(
        tuple(map(max, zip(*(field.size for field in fields), strict=True))),
        tuple(map(max, zip(*(field.jump for field in fields), strict=True))),
    )


def _field_pixels(field):
    return field and tuple(math.ceil(extent) for extent in field.size)


def _layer_field(layer, field, whole):
    if layer.op in classification.GLOBAL_POOLS or layer.op == "GroupNormalization":
        return whole
    if field is None:
        return None
    if layer.op in _WINDOW_OPERATIONS:
        return _widen_field(field, _kernel_extent(layer), layer.strides)
    if layer.op in classification.TRANSPOSED:
        taps = [
            math.ceil(Fraction(reach, stride))
            for reach, stride in zip(_kernel_extent(layer), layer.strides, strict=True)
        ]
        return _widen_field(field, taps, [Fraction(1, stride) for stride in layer.strides])
    if layer.op in classification.UPSAMPLING:
        taps = _INTERPOLATION_TAPS.get(layer.interpolation)
        return taps and _widen_field(field, (taps, taps), [Fraction(1, factor) for factor in layer.strides])
    if layer.op in _CHANNEL_NORMS:
        # Statistics that a BatchNormalization has learned are constants, whatever their axis.
        return field if layer.per_position or layer.op in classification.FOLDABLE_NORMS else None
    if layer.op in _FIELD_PRESERVING or classification.OPERATION_KINDS.get(layer.op) in ("activation", "merge"):
        return field
    return _reshaped_field(layer, field, whole) if classification.layer_kind(layer) == "reshape" else None


def _kernel_extent(layer):
    """Positions from the first to the last that a kernel covers, gaps of the dilation included."""
    return [(kernel - 1) * dilation + 1 for kernel, dilation in zip(layer.kernel, layer.dilation, strict=True)]


def _widen_field(field, taps, strides):
    return _ReceptiveField(
        tuple(size + (tap - 1) * jump for size, tap, jump in zip(field.size, taps, field.jump, strict=True)),
        tuple(jump * stride for jump, stride in zip(field.jump, strides, strict=True)),
    )


def _reshaped_field(layer, field, whole):
    if layer.outputs[0].spatial is None:
        return whole
    if whole and all(extent >= all_of_it for extent, all_of_it in zip(field.size, whole.size, strict=True)):
        return field
    moves_positions = layer.op in ("Permute", "Transpose", "RepeatVector")
    return field if not moves_positions and layer.inputs[0].spatial == layer.outputs[0].spatial else None
