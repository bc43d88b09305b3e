"""Arithmetic on one layer: multiply-accumulates and applications of its non-linearity, for one input (batch 1)."""

import math

from keras_nin.audit.classify import (
    CONVOLUTIONS,
    DEPTHWISE,
    KIND_OF,
    PASS_THROUGH,
    TRANSPOSED,
    kind_of,
)

_FREE_KINDS = frozenset({"activation", "merge", "norm", "pool", "reshape"})
# Table look-ups and scaling element by element: no multiplication that is followed by an addition to a running sum.
_FREE = PASS_THROUGH | {
    *("Embedding", "LayerScale", "Rescaling", "Resizing", "Cast", "Negative", "Clip", "Pad", "Tile", "BroadcastTo"),
    *("Sum", "Mean", "Max", "Min", "Argmax", "Argmin", "TopK", "Where", "Absolute", "Sign", "Floor", "Ceil", "Round"),
    *("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr", "LogicalNot"),
    *("Square", "Sqrt", "Rsqrt", "Exp", "Log", "Power", "Sin", "Cos", "FloorDivide", "Mod"),
}
_TENSORS_OF_EINSUM = {"Einsum": 2, "EinsumDense": 1}


def macs(layer):
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
    if layer.op in _TENSORS_OF_EINSUM:
        return _einsum_macs(layer)
    return 0 if KIND_OF.get(layer.op) in _FREE_KINDS or layer.op in _FREE else None


def _einsum_macs(layer):
    """The product of the sizes of all indices; None where the equation is no product of two operands.

    An index that only the weights have ("ab,cd->ad"), or a constant operand, has no size here: not counted either.
    """
    entering, arrow, leaving = (layer.equation or "").partition("->")
    operands = entering.split(",")
    if not arrow or len(operands) != 2 or len(layer.inputs) != _TENSORS_OF_EINSUM[layer.op]:
        return None
    sizes = {}
    shapes = [tensor.shape for tensor in (*layer.inputs, *layer.outputs)]
    for labels, shape in zip([*operands[: len(layer.inputs)], leaving], shapes, strict=True):
        aligned = _aligned(labels, len(shape))
        if aligned is None:
            return None
        sizes |= zip(aligned, shape, strict=True)
    labels = {label for operand in operands for label in operand.replace("...", "")}
    return math.prod(sizes.values()) if labels <= sizes.keys() else None


def _aligned(labels, rank):
    """One label an axis: those that "..." stands for are numbers, counted from the end; None where they do not fit."""
    before, dots, after = labels.partition("...")
    hidden = rank - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        return None
    return [*before, *range(-hidden, 0), *after]


def activation_evaluations(layer):
    """Return how often `layer` applies a non-linearity: its output elements, or 0 where it applies none."""
    applied = kind_of(layer) == "activation" if layer.activation is None else layer.activation != "linear"
    return layer.output_elements if applied else 0


def arithmetic_intensity(macs, moved_bytes):
    """Return MACs per byte that is moved; None where `macs` is None."""
    return None if macs is None else macs / moved_bytes if moved_bytes else 0.0
