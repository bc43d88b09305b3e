"""Operators with their tensors, and the constraints of the Edge TPU on single operators.

A constraint is a function of a `BoundOperator`. It returns how the operator violates it, or None.
"""

import dataclasses
import math
from typing import Any

from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteTensor

EIGHT_BITS = frozenset(["int8", "uint8"])
# Position of the data input, where it is not the first.
_DATA_OPERAND = {"SPLIT": 1, "TRANSPOSE_CONV": 2}
# Operands that determine the output's shape, and so must be constant.
_SHAPE_OPERANDS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "PAD", "PADV2", "MIRROR_PAD"), (1,)),
    **dict.fromkeys(("EXPAND_DIMS", "TILE", "BROADCAST_TO", "TRANSPOSE", "SPLIT_V"), (1,)),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL"), (1,)),
    **dict.fromkeys(("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "SLICE"), (1, 2)),
    **dict.fromkeys(("SPLIT", "FILL", "TRANSPOSE_CONV"), (0,)),
    "STRIDED_SLICE": (1, 2, 3),
}
_READABLE_DTYPES = frozenset(["int8", "uint8", "int16", "int32", "int64", "float32"])

MAX_DOCUMENTED_SOFTMAX = 16_000
MAX_MAPPED_SOFTMAX = 16_384
UNMAPPED_MEAN = 256 * 128
UNMAPPED_RESIZE = 1024 * 1024 * 3


@dataclasses.dataclass(frozen=True)
class BoundOperator:
    """An operator of a model with the tensors it reads and writes; an omitted optional input is None."""

    model: TFLiteModel
    record: TFLiteOperator
    inputs: tuple[TFLiteTensor | None, ...]
    outputs: tuple[TFLiteTensor, ...]

    @property
    def index(self) -> int:
        """Position in the file."""
        return self.record.index

    @property
    def op(self) -> str:
        """Name of the builtin, or the custom code."""
        return self.record.op

    @property
    def options(self) -> dict[str, Any]:
        """Options of the builtin."""
        return self.record.options

    @property
    def data(self) -> TFLiteTensor | None:
        """The data input, None where there is none."""
        return self.input(_DATA_OPERAND.get(self.op, 0))

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of the data input, () where there is none."""
        return self.data.shape if self.data else ()

    @property
    def output(self) -> TFLiteTensor | None:
        """The first output, None where there is none."""
        return self.outputs[0] if self.outputs else None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the first output, () where there is none."""
        return self.output.shape if self.output else ()

    @property
    def shape_operands(self) -> tuple[TFLiteTensor, ...]:
        """The inputs that determine the output's shape."""
        operands = map(self.input, _SHAPE_OPERANDS.get(self.op, ()))
        return tuple(tensor for tensor in operands if tensor is not None)

    @property
    def activations(self) -> tuple[TFLiteTensor, ...]:
        """The computed 8-bit inputs and all outputs."""
        inputs = (tensor for tensor in self.inputs if tensor and not tensor.is_constant and tensor.dtype in EIGHT_BITS)
        return (*inputs, *self.outputs)

    def input(self, position: int) -> TFLiteTensor | None:
        """Return the input at a position, None where there is none."""
        return self.inputs[position] if position < len(self.inputs) else None

    def constant_values(self, position: int) -> list[Any] | None:
        """Return a constant input as a flat list; None for one that is computed, absent or not readable."""
        tensor = self.input(position)
        if tensor is None or not tensor.is_constant or tensor.is_sparse or tensor.dtype not in _READABLE_DTYPES:
            return None
        return self.model.data(tensor).ravel().tolist()

    def axes(self, position: int) -> list[int] | None:
        """Return the data's axes that a constant input names, none of them negative; None where it is computed."""
        values = self.constant_values(position)
        if values is None or self.data is None:
            return None
        rank = len(self.data.shape)
        return sorted({int(axis) % rank for axis in values}) if rank else []


def bind_operators(model: TFLiteModel) -> tuple[BoundOperator, ...]:
    """Return every operator of the main subgraph with its tensors, in the file's order."""
    tensors = model.main.tensors
    return tuple(
        BoundOperator(
            model,
            operator,
            tuple(tensors[index] if index >= 0 else None for index in operator.inputs),
            tuple(tensors[index] for index in operator.outputs),
        )
        for operator in model.main.operators
    )


def format_shape(shape: tuple[int, ...] | list[int]) -> str:
    """Return a shape as ``"1x224x224x3"``, or ``"scalar"``."""
    return "x".join(map(str, shape)) or "scalar"


def reads_float(operator: BoundOperator) -> str | None:
    """A QUANTIZE at a float boundary."""
    dtype = operator.data.dtype if operator.data else "nothing"
    output = operator.output.dtype if operator.output else "nothing"
    return None if dtype in EIGHT_BITS else f"it converts {dtype} to {output}"


def unsupported_dtype(operator: BoundOperator) -> str | None:
    """Data or outputs that are not 8-bit integers; index and shape operands do not count."""
    dtypes = {tensor.dtype for tensor in (operator.data, *operator.outputs) if tensor is not None}
    others = sorted(dtypes - EIGHT_BITS)
    return f"it computes with {', '.join(others)}" if others else None


def unsupported_rank(operator: BoundOperator) -> str | None:
    """Dimensions above 1 outside the three innermost ones."""
    for tensor in operator.activations:
        if math.prod(tensor.shape[:-3]) > 1:
            return f"a tensor of shape {format_shape(tensor.shape)} has an outer dimension above 1"
    return None


def uneven_dilation(operator: BoundOperator) -> str | None:
    """A dilation that differs between x and y."""
    width, height = operator.options["dilation_w"], operator.options["dilation_h"]
    return None if width == height else f"its dilation is {height}x{width}"


def computed_weights(operator: BoundOperator) -> str | None:
    """Weights that are not constant."""
    weights = operator.input(1)
    return None if weights is None or weights.is_constant else "its weights are computed"


def computed_bias(operator: BoundOperator) -> str | None:
    """A bias that is not constant."""
    bias = operator.input(2)
    return None if bias is None or bias.is_constant else "its bias is computed"


def shuffled_weights(operator: BoundOperator) -> str | None:
    """Weights in a format other than the default."""
    weights_format = operator.options.get("weights_format", "DEFAULT")
    return None if weights_format == "DEFAULT" else f"its weights have the format {weights_format}"


def matrix_output(operator: BoundOperator) -> str | None:
    """A FULLY_CONNECTED output with more than one dimension above 1."""
    shape = operator.output_shape
    return f"its output is {format_shape(shape)}" if sum(size > 1 for size in shape) > 1 else None


def fused_activation(operator: BoundOperator) -> str | None:
    """A fused activation, which the operator does not have on the Edge TPU."""
    activation = operator.options.get("fused_activation", "NONE")
    return None if activation == "NONE" else f"{activation} is fused into it"


def concatenated_constant(operator: BoundOperator) -> str | None:
    """A constant input, unless there are two inputs and the constant is all zeros."""
    constants = [position for position, tensor in enumerate(operator.inputs) if tensor and tensor.is_constant]
    if not constants:
        return None
    if len(operator.inputs) != 2:
        return f"{len(constants)} of its {len(operator.inputs)} inputs are constant"
    tensor = operator.inputs[constants[0]]
    zero_point = tensor.quantization.zero_points[0] if tensor and tensor.quantization else 0
    values = operator.constant_values(constants[0])
    return None if values is not None and set(values) <= {zero_point} else "its constant input is not all zeros"


def _reduces_first_axis(operator: BoundOperator, ranks: tuple[int, ...]) -> bool:
    axes = operator.axes(1)
    return axes is not None and 0 in axes and len(operator.data_shape) in ranks


def reduced_batch(operator: BoundOperator) -> str | None:
    """A reduction over the first of four dimensions."""
    return "it reduces over the batch" if _reduces_first_axis(operator, (4,)) else None


def reduced_first(operator: BoundOperator) -> str | None:
    """A reduction over the first of at most three dimensions."""
    return "it reduces over the first dimension" if _reduces_first_axis(operator, (1, 2, 3)) else None


def odd_channels(operator: BoundOperator) -> str | None:
    """A mean over channels whose number is not a multiple of 4."""
    axes, shape = operator.axes(1), operator.data_shape
    if not axes or len(shape) < 2 or len(shape) - 1 not in axes:
        return None
    return f"it averages over {shape[-1]} channels" if shape[-1] % 4 else None


def large_mean(operator: BoundOperator) -> str | None:
    """A mean over a map at least as large as one that the compiler left on the CPU."""
    shape, axes = operator.data_shape, operator.axes(1)
    if len(shape) != 4 or axes is None or not {1, 2} <= set(axes):
        return None
    return f"it averages over {shape[1]}x{shape[2]}" if shape[1] * shape[2] >= UNMAPPED_MEAN else None


def packed_first(operator: BoundOperator) -> str | None:
    """Tensors packed along the first of at most three dimensions; with four the rank is unsupported."""
    rank = len(operator.output_shape)
    is_first = rank in (1, 2, 3) and len(operator.inputs) > 1 and operator.options["axis"] % rank == 0
    return "it packs along the first dimension" if is_first else None


def split_first(operator: BoundOperator) -> str | None:
    """A split along the first dimension, whatever the rank."""
    is_first = operator.axes(0) == [0] and len(operator.outputs) > 1
    return f"it splits {format_shape(operator.data_shape)} along the first dimension" if is_first else None


def expanded_batch(operator: BoundOperator) -> str | None:
    """A new first dimension before at least three others."""
    axes, rank = operator.constant_values(1), len(operator.output_shape)
    return "it adds a batch dimension" if axes and rank >= 4 and axes[0] % rank == 0 else None


def squeezed_inner(operator: BoundOperator) -> str | None:
    """A dimension removed after one that stays."""
    before, after = operator.data_shape, operator.output_shape
    leading = len(before) - len(after)
    return None if before[leading:] == after else f"it turns {format_shape(before)} into {format_shape(after)}"


def strided(operator: BoundOperator) -> str | None:
    """A slice with a stride other than 1."""
    strides = operator.constant_values(3)
    return f"its strides are {format_shape(strides)}" if strides and set(strides) != {1} else None


def masked(operator: BoundOperator) -> str | None:
    """A slice with an ellipsis or a new axis."""
    masks = [name for name in ("ellipsis_mask", "new_axis_mask") if operator.options.get(name)]
    return f"it has an {masks[0]}" if masks else None


def wide_alpha(operator: BoundOperator) -> str | None:
    """A PRELU whose slopes vary over more than the channels."""
    alpha = operator.input(1)
    if alpha is None or all(size == 1 for size in alpha.shape[:-1]):
        return None
    return f"its slopes are {format_shape(alpha.shape)}"


def softmax_of_rows(operator: BoundOperator) -> str | None:
    """A softmax over more than one row."""
    shape = operator.data_shape
    return f"its input is {format_shape(shape)}" if sum(size > 1 for size in shape) > 1 else None


def _softmax_above(operator: BoundOperator, limit: int) -> str | None:
    shape = operator.data_shape
    return f"it has {shape[-1]:,} elements" if shape and shape[-1] > limit else None


def softmax_above_documented(operator: BoundOperator) -> str | None:
    """A softmax over more elements than the documentation allows."""
    return _softmax_above(operator, MAX_DOCUMENTED_SOFTMAX)


def softmax_above_mapped(operator: BoundOperator) -> str | None:
    """A softmax over more elements than any that is known to be mapped."""
    return _softmax_above(operator, MAX_MAPPED_SOFTMAX)


def resized_point(operator: BoundOperator) -> str | None:
    """A resize of a single position."""
    shape = operator.data_shape
    is_point = len(shape) == 4 and shape[1] == shape[2] == 1
    return f"its input is {format_shape(shape)}, one position" if is_point else None


def large_resize(operator: BoundOperator) -> str | None:
    """A resize to a map at least as large as one that the compiler left on the CPU."""
    output = operator.output
    return f"its output is {format_shape(output.shape)}" if output and output.elements >= UNMAPPED_RESIZE else None
