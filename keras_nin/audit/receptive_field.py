"""How much of the network's input one output position of every layer sees.

The field is theoretical: it is composed from kernels, strides and dilations alone, so it may exceed the input, and
after an up-sampling or a transposed convolution, where neighbouring positions read the same ones, it is an upper
bound. What collects all positions (global pooling, Flatten, and what follows) sees the input's own size.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit import classify

# Positions of the input that one output position of an up-sampling reads, along one axis.
_INTERPOLATION_TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}
_UNCHANGED = (
    classify.PASS_THROUGH
    | {classify.LOCAL_RESPONSE, "Dense", "LayerScale", "Rescaling"}
    | {"ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D"}
)
# Norms by or over the channels, unless the layer says that it is set to other axes.
_POSITION_NORMS = classify.FOLDABLE_NORMS | {"LayerNormalization", "RMSNormalization", "UnitNormalization"}
_WINDOWS = classify.CONVOLUTIONS | classify.DEPTHWISE | classify.WINDOW_POOLS


@dataclass(frozen=True)
class _Field:
    """Extent of the field, and the distance between neighbouring positions, both as (height, width) in input pixels."""

    size: tuple[Fraction, Fraction]
    jump: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))


def receptive_fields(graph):
    """Return (height, width) in input pixels, or None where it is not known, for every layer of `graph`, in its order.

    Where branches meet, the largest counts.
    """
    whole = _whole_input(graph)
    fields = {tensor.index: _Field((Fraction(1),) * 2) if tensor.spatial else None for tensor in graph.inputs}
    for layer in graph.layers:
        entering = _largest([fields[tensor.index] for tensor in layer.inputs])
        fields |= {tensor.index: _through(layer, entering, whole) for tensor in layer.outputs}
    return tuple(_rounded(fields[layer.outputs[0].index]) if layer.outputs else None for layer in graph.layers)


def _whole_input(graph):
    sizes = [tensor.spatial for tensor in graph.inputs if tensor.spatial]
    return _Field(tuple(Fraction(max(axis)) for axis in zip(*sizes, strict=True))) if sizes else None


def _largest(fields):
    if not fields or None in fields:
        return None
    return _Field(
        tuple(map(max, zip(*(field.size for field in fields), strict=True))),
        tuple(map(max, zip(*(field.jump for field in fields), strict=True))),
    )


def _rounded(field):
    return field and tuple(math.ceil(extent) for extent in field.size)


def _through(layer, field, whole):
    if layer.op in classify.GLOBAL_POOLS or layer.op == "GroupNormalization":
        return whole
    if field is None:
        return None
    if layer.op in _WINDOWS:
        return _widened(field, _reach(layer), layer.strides)
    if layer.op in classify.TRANSPOSED:
        taps = [math.ceil(Fraction(reach, stride)) for reach, stride in zip(_reach(layer), layer.strides, strict=True)]
        return _widened(field, taps, [Fraction(1, stride) for stride in layer.strides])
    if layer.op in classify.UPSAMPLING:
        taps = _INTERPOLATION_TAPS.get(layer.interpolation)
        return taps and _widened(field, (taps, taps), [Fraction(1, factor) for factor in layer.strides])
    if layer.op in _POSITION_NORMS:
        # Statistics that a BatchNormalization has learned are constants, whatever their axis.
        return field if layer.per_position or layer.op in classify.FOLDABLE_NORMS else None
    if layer.op in _UNCHANGED or classify.KIND_OF.get(layer.op) in ("activation", "merge"):
        return field
    return _reshaped(layer, field, whole) if classify.kind_of(layer) == "reshape" else None


def _reach(layer):
    """Positions from the first to the last that a kernel covers, gaps of the dilation included."""
    return [(kernel - 1) * dilation + 1 for kernel, dilation in zip(layer.kernel, layer.dilation, strict=True)]


def _widened(field, taps, strides):
    return _Field(
        tuple(size + (tap - 1) * jump for size, tap, jump in zip(field.size, taps, field.jump, strict=True)),
        tuple(jump * stride for jump, stride in zip(field.jump, strides, strict=True)),
    )


def _reshaped(layer, field, whole):
    if layer.outputs[0].spatial is None:
        return whole
    if whole and all(extent >= all_of_it for extent, all_of_it in zip(field.size, whole.size, strict=True)):
        return field
    moves_positions = layer.op in ("Permute", "Transpose", "RepeatVector")
    return field if not moves_positions and layer.inputs[0].spatial == layer.outputs[0].spatial else None
