"""Arithmetic on a graph: MACs and nonlinearities per layer, memory, bytes moved, and receptive fields.

A receptive field is composed from kernels, strides and dilations alone, so it may exceed the input; after an upsampling
it is an upper bound. Layers that collect all positions (global pooling, Flatten) have the size of the input.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from keras_nin.audit import operations as ops
from keras_nin.audit.graph import LayerGraph, LayerInfo

_FREE_KINDS = frozenset({"activation", "merge", "norm", "pool", "reshape"})
_EINSUM_INPUTS = {"Einsum": 2, "EinsumDense": 1}
# Input positions that one output position of an upsampling reads, along one axis.
_INTERPOLATION_TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}
_WINDOW_OPERATIONS = ops.CONVOLUTIONS | ops.DEPTHWISE | ops.WINDOW_POOLS


def count_macs(layer: LayerInfo) -> int | None:
    """Return the MACs of `layer` for one sample: a multiply and an add to a running sum; None if unknown."""
    macs = _count_run_macs(layer) if layer.own_macs is None else layer.own_macs
    return None if macs is None else -(-macs // layer.batch)


def _count_run_macs(layer: LayerInfo) -> int | None:
    if layer.op in ops.CONVOLUTIONS or layer.op == "Conv3D":
        return layer.output_elements * layer.kernel_size * (layer.input_channels // layer.groups)
    if layer.op in ops.DEPTHWISE:
        return layer.output_elements * layer.kernel_size
    if layer.op in ops.TRANSPOSED or layer.op == "Conv3DTranspose":
        # Every input element is multiplied by one kernel window for every output channel.
        return layer.inputs[0].elements * layer.kernel_size * layer.output_channels
    if layer.op == "Dense":
        return layer.output_elements * layer.input_channels
    if layer.op == "Matmul":
        # The product of a tensor and a constant does not say which of the two comes first.
        return layer.output_elements * layer.input_channels if len(layer.inputs) == 2 else None
    if layer.op in _EINSUM_INPUTS:
        return _count_einsum_macs(layer)
    return 0 if ops.KINDS.get(layer.op or "") in _FREE_KINDS or layer.op in ops.WITHOUT_MACS else None


def _count_einsum_macs(layer: LayerInfo) -> int | None:
    """Return the product of the sizes of all indices; None without two operands, or if only the weights have one."""
    subscripts, arrow, result = (layer.equation or "").partition("->")
    operands = subscripts.split(",")
    if not arrow or len(operands) != 2 or len(layer.inputs) != _EINSUM_INPUTS[layer.op or ""]:
        return None
    sizes: dict[str | int, int] = {}
    tensors = (*layer.inputs, *layer.outputs)
    for labels, tensor in zip([*operands[: len(layer.inputs)], result], tensors, strict=True):
        before, dots, after = labels.partition("...")
        hidden = len(tensor.shape) - len(before) - len(after)
        if hidden < 0 or (hidden and not dots):
            return None
        # One label per axis, numbers counted from the end for the axes of "...".
        sizes |= zip([*before, *range(-hidden, 0), *after], tensor.shape, strict=True)
    labels = {label for operand in operands for label in operand.replace("...", "")}
    return math.prod(sizes.values()) if labels <= sizes.keys() else None


def count_activation_evaluations(layer: LayerInfo) -> int:
    """Return how often `layer` applies a nonlinearity to one sample: once per output element, or 0 times."""
    is_applied = layer.kind == "activation" if layer.activation is None else layer.activation != "linear"
    return -(-layer.output_elements // layer.batch) if is_applied else 0


def compute_intensity(macs: int | None, moved_bytes: int) -> float | None:
    """Return MACs per byte moved; None if `macs` is None."""
    return None if macs is None else macs / moved_bytes if moved_bytes else 0.0


# Memory


def compute_peak_bytes(graph: LayerGraph, *, bits: int | None = None) -> int:
    """Return the largest number of bytes that are live at once while `graph` runs.

    While a layer runs, its inputs, its output and every earlier tensor that a later layer still reads are live. On the
    fused graph: an activation or a BatchNormalization that is the only reader of its input has no tensor of its own;
    dropout, Flatten and Reshape share their input's memory. `bits` is the size of every element; None takes their own,
    and then no tensor shares the memory of one whose elements have another size. What a compiler has laid out for its
    operators in a file counts whole.
    """
    buffers = _find_buffers(graph, is_one_size=bits is not None)
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
    peak = max(itertools.accumulate(change[step] for step in range(len(graph.layers) + 1)))
    return max(peak, graph.planned_bytes)


def count_moved_bytes(graph: LayerGraph) -> int:
    """Return the bytes of inputs, outputs and weights of every layer on the fused graph of `compute_peak_bytes`."""
    buffers = _find_buffers(graph)
    moved = 0
    for layer in graph.layers:
        inputs, outputs = ({buffers[tensor.index] for tensor in ends} for ends in (layer.inputs, layer.outputs))
        moved += 0 if outputs <= inputs else layer.moved_bytes
    return moved


def _find_buffers(graph: LayerGraph, is_one_size: bool = False) -> dict[int, int]:
    """Return tensor index -> index of the tensor whose memory it uses, which mostly is itself.

    Values that change to elements of another size, as in QUANTIZE, move, unless all elements count as of one size.
    """

    def keeps_size(layer: LayerInfo) -> bool:
        return is_one_size or {tensor.bits for tensor in layer.outputs} <= {layer.inputs[0].bits}

    sources = {tensor.index: tensor.index for tensor in graph.inputs}  # of which tensor it is a view; producers first
    readers = Counter()
    for layer in graph.layers:
        is_view = layer.op in ops.VIEWS and keeps_size(layer)
        if not is_view:
            readers.update({sources[tensor.index] for tensor in layer.inputs})
        viewed = sources[layer.inputs[0].index] if is_view else None
        sources |= {tensor.index: tensor.index if viewed is None else viewed for tensor in layer.outputs}
    # The network's inputs have no producer to fuse with; its outputs are read from outside.
    kept = {sources[tensor.index] for tensor in (*graph.inputs, *graph.outputs)}
    buffers = {tensor.index: tensor.index for tensor in graph.inputs}
    for layer in graph.layers:
        source = sources[layer.inputs[0].index] if layer.inputs else None
        is_fusible = layer.kind == "activation" or layer.op == "BatchNormalization"
        # A tensor with other readers is never overwritten.
        is_shared = layer.op in ops.VIEWS or (is_fusible and readers[source] == 1 and source not in kept)
        shared = buffers[source] if is_shared and source is not None and keeps_size(layer) else None
        for tensor in layer.outputs:
            buffers[tensor.index] = tensor.index if shared is None else shared
    return buffers


# Receptive fields


class _Field(NamedTuple):
    """Size of a receptive field, and distance between neighboring positions, along one axis in input pixels."""

    size: Fraction
    jump: Fraction = Fraction(1)

    def widen(self, taps: int, stride: int | Fraction) -> "_Field":
        """Return the field after a window of `taps`, moved by `stride`."""
        return _Field(self.size + (taps - 1) * self.jump, self.jump * stride)


def compute_receptive_fields(graph: LayerGraph) -> tuple[tuple[int, int] | None, ...]:
    """Return (height, width) in input pixels, or None if unknown, per layer; the largest counts where branches meet."""
    axes = zip(_axis_fields(graph, 0), _axis_fields(graph, 1), strict=True)
    return tuple(None if height is None or width is None else (height, width) for height, width in axes)


def _axis_fields(graph: LayerGraph, axis: int) -> Iterator[int | None]:
    sizes = [tensor.spatial[axis] for tensor in graph.inputs if tensor.spatial]
    whole = _Field(Fraction(max(sizes))) if sizes else None
    fields = {tensor.index: _Field(Fraction(1)) if tensor.spatial else None for tensor in graph.inputs}
    for layer in graph.layers:
        known = [field for tensor in layer.inputs if (field := fields[tensor.index]) is not None]
        largest = _Field(*map(max, zip(*known, strict=True))) if known and len(known) == len(layer.inputs) else None
        field = _layer_field(layer, axis, largest, whole)
        fields |= {tensor.index: field for tensor in layer.outputs}
        yield math.ceil(field.size) if field and layer.outputs else None


def _layer_field(layer: LayerInfo, axis: int, field: _Field | None, whole: _Field | None) -> _Field | None:
    if layer.op in ops.GLOBAL_POOLS or layer.op == "GroupNormalization":
        return whole
    if field is None or layer.op in ops.VOLUMETRIC:
        return None
    stride = layer.strides[axis]
    # The positions from the first to the last that a kernel covers, gaps of the dilation included.
    extent = (layer.kernel[axis] - 1) * layer.dilation[axis] + 1 if layer.kernel else 1
    if layer.op in _WINDOW_OPERATIONS:
        return field.widen(extent, stride)
    if layer.op in ops.TRANSPOSED:
        return field.widen(-(-extent // stride), Fraction(1, stride))
    if layer.op in ops.UPSAMPLING:
        taps = _INTERPOLATION_TAPS.get(layer.interpolation or "")
        return field.widen(taps, Fraction(1, stride)) if taps else None
    if layer.op in ops.CHANNEL_NORMS:
        # Statistics that a BatchNormalization has learned are constants, whatever their axis.
        return field if layer.per_position or layer.op in ops.FOLDABLE_NORMS else None
    if layer.op in ops.FIELD_PRESERVING or ops.KINDS.get(layer.op or "") in ("activation", "merge"):
        return field
    if layer.kind != "reshape":
        return None
    if layer.outputs[0].spatial is None:
        return whole
    moves_positions = layer.op in ("Permute", "Transpose", "RepeatVector")
    keeps_positions = not moves_positions and layer.inputs[0].spatial == layer.outputs[0].spatial
    return field if keeps_positions or (whole and field.size >= whole.size) else None
