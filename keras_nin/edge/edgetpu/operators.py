"""Operators with their tensors, and the constraints of the Edge TPU on them; rules.toml says what each one is."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

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

Violation: TypeAlias = str | None
Size: TypeAlias = int | None


@dataclasses.dataclass(frozen=True)
class BoundOperator:
    """An operator of a model with the tensors it reads and writes; an omitted optional input is None.

    `data` is its data input, `output` its first output; where there is none, it is None and the shape is ().
    """

    model: TFLiteModel
    record: TFLiteOperator
    index: int
    op: str
    options: dict[str, Any]
    inputs: tuple[TFLiteTensor | None, ...]
    outputs: tuple[TFLiteTensor, ...]

    @functools.cached_property
    def data(self) -> TFLiteTensor | None:
        return self.input(_DATA_OPERAND.get(self.op, 0))

    @functools.cached_property
    def data_shape(self) -> tuple[int, ...]:
        return self.data.shape if self.data else ()

    @functools.cached_property
    def output(self) -> TFLiteTensor | None:
        return self.outputs[0] if self.outputs else None

    @functools.cached_property
    def output_shape(self) -> tuple[int, ...]:
        return self.output.shape if self.output else ()

    @property
    def shape_operands(self) -> tuple[TFLiteTensor, ...]:
        """The inputs that determine the output's shape."""
        return tuple(filter(None, map(self.input, _SHAPE_OPERANDS.get(self.op, ()))))

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

    # The constraints: each returns how the operator violates it, or None.

    def reads_float(self) -> Violation:
        dtype = self.data.dtype if self.data else "nothing"
        output = self.output.dtype if self.output else "nothing"
        return None if dtype in EIGHT_BITS else f"it converts {dtype} to {output}"

    def unsupported_dtype(self) -> Violation:
        dtypes = {tensor.dtype for tensor in (self.data, *self.outputs) if tensor is not None}
        others = sorted(dtypes - EIGHT_BITS)
        return f"it computes with {', '.join(others)}" if others else None

    def unsupported_rank(self) -> Violation:
        for tensor in self.activations:
            if math.prod(tensor.shape[:-3]) > 1:
                return f"a tensor of shape {format_shape(tensor.shape)} has an outer dimension above 1"
        return None

    def uneven_dilation(self) -> Violation:
        """Dilation does not matter along an axis where the kernel is 1 wide."""
        dilations, weights = (self.options["dilation_h"], self.options["dilation_w"]), self.input(1)
        kernel = weights.shape[1:3] if weights is not None and len(weights.shape) == 4 else (2, 2)
        applied = {dilation for dilation, size in zip(dilations, kernel, strict=True) if size > 1}
        return f"its dilation is {dilations[0]}x{dilations[1]}" if len(applied) > 1 else None

    def computed_operand(self, position: int, words: str) -> Violation:
        operand = self.input(position)
        return None if operand is None or operand.is_constant else f"its {words} computed"

    def shuffled_weights(self) -> Violation:
        weights_format = self.options.get("weights_format", "DEFAULT")
        return None if weights_format == "DEFAULT" else f"its weights have the format {weights_format}"

    def several_rows(self) -> Violation:
        shape = self.output_shape
        return f"its output is {format_shape(shape)}" if sum(size > 1 for size in shape) > 1 else None

    def fused_activation(self) -> Violation:
        activation = self.options.get("fused_activation", "NONE")
        return None if activation == "NONE" else f"{activation} is fused into it"

    def concatenated_constant(self) -> Violation:
        constants = [position for position, tensor in enumerate(self.inputs) if tensor and tensor.is_constant]
        if not constants:
            return None
        if len(self.inputs) != 2:
            return f"{len(constants)} of its {len(self.inputs)} inputs are constant"
        tensor = self.inputs[constants[0]]
        zero_point = tensor.quantization.zero_points[0] if tensor and tensor.quantization else 0
        values = self.constant_values(constants[0])
        return None if values is not None and set(values) <= {zero_point} else "its constant input is not all zeros"

    def reduced_batch(self) -> Violation:
        is_batch = 0 in (self.axes(1) or ()) and len(self.data_shape) == 4
        return "it reduces over the batch" if is_batch else None

    def odd_channels(self) -> Violation:
        axes, shape = self.axes(1), self.data_shape
        if not axes or len(shape) < 2 or len(shape) - 1 not in axes:
            return None
        return f"it averages over {shape[-1]} channels" if shape[-1] % 4 else None

    def split_first(self) -> Violation:
        is_first = self.axes(0) == [0] and len(self.outputs) > 1
        return f"it splits {format_shape(self.data_shape)} along the first dimension" if is_first else None

    def expanded_batch(self) -> Violation:
        axes, rank = self.constant_values(1), len(self.output_shape)
        return "it adds a batch dimension" if axes and rank >= 4 and axes[0] % rank == 0 else None

    def squeezed_inner(self) -> Violation:
        before, after = self.data_shape, self.output_shape
        leading = len(before) - len(after)
        return None if before[leading:] == after else f"it turns {format_shape(before)} into {format_shape(after)}"

    def strided(self) -> Violation:
        strides = self.constant_values(3)
        return f"its strides are {format_shape(strides)}" if strides and set(strides) != {1} else None

    def masked(self) -> Violation:
        masks = [name for name in ("ellipsis_mask", "new_axis_mask") if self.options.get(name)]
        return f"it has an {masks[0]}" if masks else None

    def wide_alpha(self) -> Violation:
        alpha = self.input(1)
        if alpha is None or all(size == 1 for size in alpha.shape[:-1]):
            return None
        return f"its slopes are {format_shape(alpha.shape)}"

    def resized_point(self) -> Violation:
        shape = self.data_shape
        is_point = len(shape) == 4 and shape[1] == shape[2] == 1
        return f"its input is {format_shape(shape)}, one position" if is_point else None

    # The sizes that limits are about: each returns a number, or None where the limit is not about the operator.

    def elements(self) -> Size:
        """Elements of the output."""
        return self.output.elements if self.output else None

    def largest_map(self) -> Size:
        """Elements of the largest 8-bit activation."""
        return max((tensor.elements for tensor in self.activations if tensor.dtype in EIGHT_BITS), default=None)

    def constant_data(self) -> Size:
        """Elements of a constant data input."""
        return self.data.elements if self.data is not None and self.data.is_constant else None

    def row(self) -> Size:
        """Elements of the longest row, width x channels, of the data input and the output."""
        return max(math.prod(self.data_shape[-2:]), math.prod(self.output_shape[-2:]))

    def input_row(self) -> Size:
        """Elements of a row of the data input."""
        return math.prod(self.data_shape[-2:])

    def rows(self) -> Size:
        """Number of rows of the data input."""
        return math.prod(self.data_shape[:-2])

    def channels(self) -> Size:
        """Size of the data input's last dimension."""
        return self.data_shape[-1] if self.data_shape else None

    def averaged_positions(self) -> Size:
        """Positions of a map that height and width are reduced of."""
        shape, axes = self.data_shape, self.axes(1)
        return shape[1] * shape[2] if len(shape) == 4 and axes is not None and {1, 2} <= set(axes) else None


def bind_operators(model: TFLiteModel) -> tuple[BoundOperator, ...]:
    """Return every operator of the main subgraph with its tensors, in the file's order."""
    bound, tensors = [], model.main.tensors
    for record in model.main.operators:
        inputs = tuple(tensors[index] if index >= 0 else None for index in record.inputs)
        outputs = tuple(tensors[index] for index in record.outputs)
        bound.append(BoundOperator(model, record, record.index, record.op, record.options, inputs, outputs))
    return tuple(bound)


def format_shape(shape: Sequence[int]) -> str:
    """Return a shape as ``"1x224x224x3"``, or ``"scalar"``."""
    return "x".join(map(str, shape)) or "scalar"
