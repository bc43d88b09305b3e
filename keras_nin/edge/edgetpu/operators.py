"""One operator with the tensors that it reads and writes, as the rules look at it."""

import dataclasses
import math
from typing import Any

from keras_nin.tflite.records import TFLiteOperator, TFLiteTensor

EIGHT_BITS = frozenset(["int8", "uint8"])
# Where the data is, if not first.
_DATA_OPERAND = {"SPLIT": 1, "TRANSPOSE_CONV": 2}
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
class BoundOperator:
    """An `operator` of a `graph`; `inputs` holds None where an optional input is left out."""

    graph: Any
    operator: TFLiteOperator
    inputs: tuple[TFLiteTensor | None, ...]
    outputs: tuple[TFLiteTensor, ...]

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
        return self.input(_DATA_OPERAND.get(self.op, 0))

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
        if tensor is None or not tensor.is_constant or tensor.is_sparse or tensor.dtype not in _READABLE_DTYPES:
            return None
        return self.graph.data(tensor).ravel().tolist()

    def axes(self, place):
        """Return the dimensions of the data that a constant input names, none negative; None where it is computed."""
        values = self.values(place)
        if values is None or self.data is None:
            return None
        rank = len(self.data.shape)
        return sorted({int(axis) % rank for axis in values}) if rank else []


_READABLE_DTYPES = frozenset(["int8", "uint8", "int16", "int32", "int64", "float32"])


def bind_operators(graph):
    """Return the `Use` of every operator of the main subgraph, in the file's order."""
    tensors = graph.main.tensors
    return tuple(
        BoundOperator(
            graph,
            operator,
            tuple(tensors[index] if index >= 0 else None for index in operator.inputs),
            tuple(tensors[index] for index in operator.outputs),
        )
        for operator in graph.main.operators
    )


def format_shape(shape):
    """Return a shape as 1x224x224x3; "scalar" without dimensions."""
    return "x".join(map(str, shape)) or "scalar"


def outer_size(shape):
    """Return the product of all dimensions but the three innermost."""
    return math.prod(shape[:-3])


# MERGED Limits of single operators: each a function of a `Use` that returns what breaks the limit, or None.

DOCUMENTED_SOFTMAX = 16_000
SEEN_SOFTMAX = 16_384
REFUSED_MEAN = 256 * 128
REFUSED_RESIZE = 1024 * 1024 * 3


def reads_float(use):
    """A QUANTIZE at a float boundary."""
    dtype = use.data.dtype if use.data else "nothing"
    return None if dtype in EIGHT_BITS else f"it turns {dtype} into {use.output.dtype if use.output else 'nothing'}"


def other_data_type(use):
    """Data or results that are not 8-bit integers; indexes and shapes beside the data do not count."""
    found = [tensor.dtype for tensor in (use.data, *use.outputs) if tensor is not None]
    others = sorted({dtype for dtype in found if dtype not in EIGHT_BITS})
    return f"it works on {', '.join(others)}" if others else None


def unsupported_rank(use):
    """More than three dimensions above 1, or not the innermost ones."""
    for tensor in use.activations:
        if outer_size(tensor.shape) > 1:
            return f"a tensor of {format_shape(tensor.shape)} has more than its three innermost dimensions above 1"
    return None


def fused_activation(use):
    """An activation inside an operator that has none on the Edge TPU."""
    fused = use.options.get("fused_activation", "NONE")
    return None if fused == "NONE" else f"{fused} is fused into it"


def uneven_dilation(use):
    """Another dilation in x than in y."""
    width, height = use.options["dilation_w"], use.options["dilation_h"]
    return None if width == height else f"its dilation is {height}x{width}"


def computed_weights(use):
    """A convolution whose weights are no constants."""
    weights = use.input(1)
    return None if weights is None or weights.is_constant else "its weights are computed"


def computed_bias(use):
    """A bias that is no constant."""
    bias = use.input(2)
    return None if bias is None or bias.is_constant else "its bias is computed"


def shuffled_weights(use):
    """Weights in another order than the default."""
    order = use.options.get("weights_format", "DEFAULT")
    return None if order == "DEFAULT" else f"its weights have the format {order}"


def matrix_output(use):
    """A FULLY_CONNECTED whose output has more than one dimension above 1."""
    shape = use.output.shape if use.output else ()
    return f"its output is {format_shape(shape)}" if sum(size > 1 for size in shape) > 1 else None


def constant_concatenated(use):
    """A constant among the inputs that is not one zero padding beside one tensor."""
    constants = [place for place, tensor in enumerate(use.inputs) if tensor is not None and tensor.is_constant]
    if not constants:
        return None
    if len(use.inputs) != 2:
        return f"{len(constants)} of its {len(use.inputs)} inputs are constant"
    tensor = use.inputs[constants[0]]
    zero = tensor.quantization.zero_points[0] if tensor.quantization else 0
    values = use.values(constants[0])
    return None if values is not None and set(values) <= {zero} else "its constant input is not all zeros"


def _first_axis(use, place, ranks):
    axes, rank = use.axes(place), len(use.data.shape) if use.data else 0
    return axes is not None and 0 in axes and rank in ranks


def reduces_batch(use):
    """A reduction over the first of four dimensions."""
    return "it reduces over the batch" if _first_axis(use, 1, (4,)) else None


def reduces_first(use):
    """A reduction over the first of at most three dimensions."""
    return "it reduces over the first dimension" if _first_axis(use, 1, (1, 2, 3)) else None


def odd_channels(use):
    """A mean over channels that are no multiple of 4."""
    axes, shape = use.axes(1), use.data.shape if use.data else ()
    over_channels = axes and len(shape) - 1 in axes and len(shape) > 1
    return f"it averages over {shape[-1]} channels" if over_channels and shape[-1] % 4 else None


def large_mean(use):
    """A mean over a map as large as one that the compiler left on the CPU."""
    shape, axes = use.data.shape if use.data else (), use.axes(1)
    if len(shape) != 4 or axes is None or not {1, 2} <= set(axes):
        return None
    return f"it averages over {shape[1]}x{shape[2]}" if shape[1] * shape[2] >= REFUSED_MEAN else None


def packs_first(use):
    """Tensors packed into the first of at most three dimensions; with four the rank is unsupported."""
    rank, count = len(use.output.shape) if use.output else 0, len(use.inputs)
    first = rank in (1, 2, 3) and count > 1 and use.options["axis"] % rank == 0
    return "it packs along the first dimension" if first else None


def splits_first(use):
    """A split along the first dimension, whatever the rank."""
    axes = use.axes(0)
    several = len(use.outputs) > 1
    return f"it splits {format_shape(use.data.shape)} along the first dimension" if axes == [0] and several else None


def expands_batch(use):
    """A new first dimension before at least three others."""
    axes, rank = use.values(1), len(use.output.shape) if use.output else 0
    return "it adds a batch dimension" if axes and rank >= 4 and axes[0] % rank == 0 else None


def wide_alpha(use):
    """A PRELU whose slopes vary over more than the channels."""
    alpha = use.input(1)
    if alpha is None or all(size == 1 for size in alpha.shape[:-1]):
        return None
    return f"its slopes are {format_shape(alpha.shape)}"


def interpolates_point(use):
    """A resize of one position."""
    shape = use.data.shape if use.data else ()
    return (
        f"its input is {format_shape(shape)}, one position" if len(shape) == 4 and shape[1] == shape[2] == 1 else None
    )


def large_resize(use):
    """A resize to a map as large as one that the compiler left on the CPU."""
    output = use.output
    return f"its output is {format_shape(output.shape)}" if output and output.elements >= REFUSED_RESIZE else None


def _softmax_above(use, limit):
    shape = use.data.shape if use.data else ()
    return f"it is over {shape[-1]:,} elements" if shape and shape[-1] > limit else None


def documented_softmax(use):
    """More elements than the documentation allows."""
    return _softmax_above(use, DOCUMENTED_SOFTMAX)


def seen_softmax(use):
    """More elements than any softmax that was seen mapped."""
    return _softmax_above(use, SEEN_SOFTMAX)


def softmax_of_rows(use):
    """A softmax of several rows."""
    shape = use.data.shape if use.data else ()
    return f"its input is {format_shape(shape)}" if sum(size > 1 for size in shape) > 1 else None


def squeezes_inside(use):
    """Dimensions removed after one that stays."""
    before, after = use.data.shape if use.data else (), use.output.shape if use.output else ()
    leading = len(before) - len(after)
    return None if before[leading:] == after else f"it turns {format_shape(before)} into {format_shape(after)}"


def strided(use):
    """A slice with a stride other than 1."""
    strides = use.values(3)
    return f"its strides are {format_shape(strides)}" if strides and set(strides) != {1} else None


def masked(use):
    """A slice with an ellipsis or a new axis."""
    found = [name for name in ("ellipsis_mask", "new_axis_mask") if use.options.get(name)]
    return f"it has an {found[0]}" if found else None
