"""One operator with the tensors that it reads and writes, as the rules look at it."""

import dataclasses
import math
from typing import Any

from keras_nin.tflite.records import Operator, Tensor

EIGHT_BITS = frozenset(["int8", "uint8"])
# Where the data is, if not first.
_DATA = {"SPLIT": 1, "TRANSPOSE_CONV": 2}
# What decides the output's shape: an operand that must be constant.
_SHAPE_OPERANDS = {
    **dict.fromkeys(("RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "PAD", "PADV2", "MIRROR_PAD"), (1,)),
    **dict.fromkeys(("EXPAND_DIMS", "TILE", "BROADCAST_TO", "TRANSPOSE", "SPLIT_V"), (1,)),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL"), (1,)),
    **dict.fromkeys(("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "SLICE"), (1, 2)),
    **dict.fromkeys(("SPLIT", "FILL", "TRANSPOSE_CONV"), (0,)),
    "STRIDED_SLICE": (1, 2, 3),
}


@dataclasses.dataclass(frozen=True)
class Use:
    """An `operator` of a `graph`; `inputs` holds None where an optional input is left out."""

    graph: Any
    operator: Operator
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]

    @property
    def op(self):
        """The builtin's name, or the custom code."""
        return self.operator.op

    @property
    def options(self):
        """The builtin's options."""
        return self.operator.options

    @property
    def data(self):
        """The tensor that the operator works on, None where there is none."""
        return self.input(_DATA.get(self.op, 0))

    @property
    def output(self):
        """The first output, None where there is none."""
        return self.outputs[0] if self.outputs else None

    @property
    def shape_operands(self):
        """The inputs that decide the output's shape."""
        found = (self.input(place) for place in _SHAPE_OPERANDS.get(self.op, ()))
        return tuple(tensor for tensor in found if tensor is not None)

    @property
    def activations(self):
        """Computed 8-bit inputs and all outputs."""
        read = (each for each in self.inputs if each and not each.is_constant and each.dtype in EIGHT_BITS)
        return (*read, *self.outputs)

    def input(self, place):
        """Return the input at a place, None where there is none."""
        return self.inputs[place] if place < len(self.inputs) else None

    def values(self, place):
        """Return a constant input as a flat list, None where it is computed, left out or of another kind."""
        tensor = self.input(place)
        if tensor is None or not tensor.is_constant or tensor.is_sparse or tensor.dtype not in _PLAIN:
            return None
        return self.graph.data(tensor).ravel().tolist()

    def axes(self, place):
        """Return the dimensions of the data that a constant input names, none negative; None where it is computed."""
        values = self.values(place)
        if values is None or self.data is None:
            return None
        rank = len(self.data.shape)
        return sorted({int(axis) % rank for axis in values}) if rank else []


_PLAIN = frozenset(["int8", "uint8", "int16", "int32", "int64", "float32"])


def uses(graph):
    """Return the `Use` of every operator of the main subgraph, in the file's order."""
    tensors = graph.main.tensors
    return tuple(
        Use(
            graph,
            operator,
            tuple(tensors[index] if index >= 0 else None for index in operator.inputs),
            tuple(tensors[index] for index in operator.outputs),
        )
        for operator in graph.main.operators
    )


def shown(shape):
    """Return a shape as 1x224x224x3; "scalar" without dimensions."""
    return "x".join(map(str, shape)) or "scalar"


def outer(shape):
    """Return the product of all dimensions but the three innermost."""
    return math.prod(shape[:-3])
