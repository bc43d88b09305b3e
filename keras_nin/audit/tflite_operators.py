"""What each builtin operator of a .tflite file does, as fields of `LayerInfo`, and which constants are its weights."""

import dataclasses
import pathlib
import struct
import tomllib
from collections.abc import Callable, Container
from typing import Any

from keras_nin.audit.graph import ActivationTensor
from keras_nin.errors import InputError
from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteSubgraph, TFLiteTensor
from keras_nin.tflite.runtime_support import is_compiled

TABLES: dict[str, Any] = tomllib.loads(pathlib.Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_KERAS_COUNTERPARTS = {op: name for name, operators in TABLES["counterparts"].items() for op in operators}
_SETTING_INPUTS = {op: {*map(int, digits)} for digits, ops in TABLES["setting_inputs"].items() for op in ops}
_INTEGER_TYPES = frozenset({"int32", "uint32", "int64", "uint64", "bool", "string"})
# The Keras name of a convolution, and the position of its input.
_CONVOLUTIONS = {
    "CONV_2D": ("Conv2D", 0),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2D", 0),
    "TRANSPOSE_CONV": ("Conv2DTranspose", 2),
}
_VOLUME_CONVOLUTIONS = {"CONV_3D": ("Conv3D", 0), "CONV_3D_TRANSPOSE": ("Conv3DTranspose", 2)}
_INTEGER_FORMATS = {"int32": "i", "int64": "q"}
_MAX_CONSTANT_VALUES = 64

_Fields = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class OperatorUse:
    """An operator with what it reads and writes: as tensors of the file, and (`activations`, `outputs`) of the audit.

    None stands for an operand that is left out, also beyond the last one, or that is not computed. `settings` are the
    values of the second operand if it is a constant of integers; `error` makes the error that reports a problem.
    """

    operator: TFLiteOperator
    operands: tuple[TFLiteTensor | None, ...]
    results: tuple[TFLiteTensor, ...]
    activations: tuple[ActivationTensor | None, ...]
    outputs: tuple[ActivationTensor, ...]
    settings: tuple[int, ...] | None
    error: Callable[[str], InputError]

    def shapes(self, *positions: int) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the operands at `positions` and of the first result, all of 4 dimensions."""
        shapes = []
        for position in positions:
            operand = self.operands[position]
            if operand is None or len(operand.shape) != 4:
                shape = "none" if operand is None else operand.shape
                raise self.error(f"input {position} should have 4 dimensions, its shape is {shape}")
            shapes.append(operand.shape)
        if not self.results or len(self.results[0].shape) != 4:
            raise self.error("its output should have 4 dimensions")
        return (*shapes, self.results[0].shape)


def describe_operator(use: OperatorUse) -> _Fields:
    """Return the fields of `LayerInfo` that say what an operator does; `op` is None if nothing here vouches for it."""
    computed = tuple(tensor for tensor in use.activations if tensor is not None)
    fields: _Fields = {"op": None, "inputs": computed, "outputs": use.outputs}
    if not use.operator.is_custom and _KERAS_COUNTERPARTS.get(use.operator.op) in ("Shape", "Fill"):
        fields["op"] = _KERAS_COUNTERPARTS[use.operator.op]
    if use.operator.is_custom or not computed:
        return fields
    if describe := _DESCRIPTIONS.get(use.operator.op):
        fields |= describe(use)
    else:
        fields["op"] = _KERAS_COUNTERPARTS.get(use.operator.op)
    if "fused_activation" in use.operator.options:
        fields["activation"] = TABLES["activations"][use.operator.options["fused_activation"]]
    return fields


def _window_fields(use: OperatorUse, kernel: tuple[int, ...]) -> _Fields:
    options = use.operator.options
    return {
        "kernel": kernel,
        "strides": (options["stride_h"], options["stride_w"]),
        "dilation": (options.get("dilation_h", 1), options.get("dilation_w", 1)),
        "padding": options["padding"].lower(),
    }


def _product_fields(use: OperatorUse, op: str, data: ActivationTensor | None, **fields: Any) -> _Fields:
    """Return the fields of a product of `data`, a view of an operand; none if it is constant or a size is open."""
    tensors = (tensor for tensor in (*use.operands, *use.results) if tensor is not None)
    if data is None or any(-1 in (tensor.shape_signature or ())[1:] for tensor in tensors):
        return {}
    others = (tensor for tensor in use.activations if tensor is not None and tensor.index != data.index)
    return {"op": op, "inputs": (data, *others), **fields}


def _describe_convolution(use: OperatorUse) -> _Fields:
    op, data = _CONVOLUTIONS[use.operator.op]
    image, filters, result = use.shapes(data, 1)
    (outer, height, width, inner), channels, outputs = filters, image[3], result[3]
    fits = {
        "Conv2D": channels and inner and channels % inner == 0 and outer == outputs,
        "DepthwiseConv2D": channels and inner == outputs and outputs % channels == 0,
        "Conv2DTranspose": inner == channels and outer == outputs,
    }
    if not fits[op]:
        raise use.error(f"filters of shape {filters} do not lead from {channels} to {outputs} channels")
    fields = _window_fields(use, (height, width)) | {"use_bias": use.operands[3 if data else 2] is not None}
    groups = channels // inner if op == "Conv2D" else 1
    return _product_fields(use, op, use.activations[data], groups=groups, **fields)


def _describe_volume_convolution(use: OperatorUse) -> _Fields:
    op, data = _VOLUME_CONVOLUTIONS[use.operator.op]
    volume, filters = use.operands[data], use.operands[1]
    if volume is None or filters is None or not use.results:
        raise use.error("it needs an input, filters and an output")
    shapes = volume.shape, filters.shape, use.results[0].shape
    if any(len(shape) != 5 for shape in shapes):
        raise use.error(f"its tensors should have 5 dimensions, their shapes are {', '.join(map(str, shapes))}")
    channels, outputs = volume.shape[4], use.results[0].shape[4]
    inner, outer = filters.shape[3:] if op == "Conv3D" else filters.shape[:2:-1]
    if outer != outputs or not inner or (channels % inner if op == "Conv3D" else channels != inner):
        raise use.error(f"filters of shape {filters.shape} do not lead from {channels} to {outputs} channels")
    groups = channels // inner
    return _product_fields(use, op, use.activations[data], kernel=filters.shape[:3], groups=groups)


def _describe_recurrent(use: OperatorUse) -> _Fields:
    """Every row of the input, or of the state, is multiplied with each matrix of weights once."""
    rows = use.activations[0]
    matrices = [
        tensor
        for tensor, computed in zip(use.operands, use.activations, strict=True)
        if tensor is not None and computed is None and not tensor.is_variable and len(tensor.shape) == 2
    ]
    if rows is None or not rows.elements or not matrices:
        return {}
    return {"own_macs": rows.elements // rows.channels * sum(matrix.elements for matrix in matrices)}


def _describe_fully_connected(use: OperatorUse) -> _Fields:
    data, weights = use.operands[0], use.operands[1]
    if data is None or weights is None or not use.results or len(weights.shape) != 2:
        raise use.error("it needs an input, weights of 2 dimensions and an output")
    (units, depth), result = weights.shape, use.results[0]
    if not depth or data.elements % depth or result.elements != data.elements // depth * units:
        raise use.error(f"weights of shape {(units, depth)} do not lead from {data.shape} to {result.shape}")
    use_bias, rows = use.operands[2] is not None, use.activations[0]
    if rows is None:  # a product of constant rows with computed weights
        return _product_fields(use, "Dense", use.activations[1], use_bias=use_bias)
    if rows.shape[-1] != depth or len(rows.shape) != len(result.shape):
        rows = _as_rows(rows, depth)
    return _product_fields(use, "Dense", rows, use_bias=use_bias)


def _describe_batch_matmul(use: OperatorUse) -> _Fields:
    first, second, options = use.operands[0], use.operands[1], use.operator.options
    if first is None or second is None or min(len(first.shape), len(second.shape)) < 2:
        raise use.error("it needs two inputs of 2 dimensions or more")
    left, right = (
        (*side.shape[:-2], side.shape[-1], side.shape[-2]) if options[option] else side.shape
        for side, option in ((first, "adj_x"), (second, "adj_y"))
    )
    if left[-1] != right[-2]:
        raise use.error(f"rows of {left[-1]} meet columns of {right[-2]}")
    left_data, right_data = use.activations[0], use.activations[1]
    if left_data is None:  # a constant on the left: the same product with both sides transposed
        return _product_fields(use, "Dense", right_data and _as_rows(right_data, right[-2]))
    if right_data is not None:
        return _product_fields(use, "Matmul", dataclasses.replace(left_data, shape=left))
    is_dense = set(right[:-2]) <= {1}
    data = dataclasses.replace(left_data, shape=left) if is_dense else _as_rows(left_data, left[-1])
    return _product_fields(use, "Dense", data)


def _as_rows(tensor: ActivationTensor, depth: int) -> ActivationTensor:
    """Return `tensor` seen as rows of `depth` values, in whichever order."""
    return dataclasses.replace(tensor, shape=(tensor.elements // depth if depth else 0, depth))


def _describe_pool(use: OperatorUse) -> _Fields:
    use.shapes(0)
    kernel = use.operator.options["filter_height"], use.operator.options["filter_width"]
    op = {"AVERAGE_POOL_2D": "AveragePooling2D", "MAX_POOL_2D": "MaxPooling2D"}.get(use.operator.op)
    return {"op": op, **_window_fields(use, kernel)}


def _describe_reduction(use: OperatorUse) -> _Fields:
    """A mean or maximum over all positions is a global pooling."""
    pool, plain = {"MEAN": ("Average", "Mean"), "REDUCE_MAX": ("Max", "Max")}[use.operator.op]
    data, axes = use.operands[0], use.settings
    rank = len(data.shape) if data else 0
    positions = {3: {1}, 4: {1, 2}}.get(rank)
    if axes is None or positions is None or {axis % rank for axis in axes} != positions:
        return {"op": plain}
    return {"op": f"Global{pool}Pooling{rank - 2}D"}


def _describe_pad(use: OperatorUse) -> _Fields:
    """Zeros (or a reflection) around the positions of a map; on other axes it is another operation."""
    data, paddings = use.operands[0], use.settings
    is_map = data is not None and len(data.shape) == 4
    return {"op": "ZeroPadding2D" if is_map and paddings and not any(paddings[:2] + paddings[6:]) else "Pad"}


def _describe_resize(use: OperatorUse) -> _Fields:
    image, result = use.shapes(0)
    if not all(image[1:3]) or result[1] % image[1] or result[2] % image[2] or 0 in result:
        return {"op": "Resizing"}
    interpolation = "bilinear" if use.operator.op == "RESIZE_BILINEAR" else "nearest"
    factors = (result[1] // image[1], result[2] // image[2])
    return {"op": "UpSampling2D", "strides": factors, "interpolation": interpolation}


_DESCRIPTIONS: dict[str, Callable[[OperatorUse], _Fields]] = {
    **dict.fromkeys(_CONVOLUTIONS, _describe_convolution),
    **dict.fromkeys(_VOLUME_CONVOLUTIONS, _describe_volume_convolution),
    **dict.fromkeys(TABLES["groups"]["recurrent"], _describe_recurrent),
    "FULLY_CONNECTED": _describe_fully_connected,
    "BATCH_MATMUL": _describe_batch_matmul,
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"), _describe_pool),
    **dict.fromkeys(("MEAN", "REDUCE_MAX"), _describe_reduction),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _describe_pad),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _describe_resize),
    "GATHER": lambda use: {"op": "GetItem" if use.activations[0] is not None else "Embedding"},
}


# Loops


def read_integers(model: TFLiteModel, tensor: TFLiteTensor) -> tuple[int, ...] | None:
    """Return the values of a small constant tensor of integers, such as axes; None for any other tensor."""
    code = _INTEGER_FORMATS.get(tensor.dtype)
    is_small = tensor.is_constant and not tensor.is_sparse and tensor.elements <= _MAX_CONSTANT_VALUES
    if code is None or not is_small:
        return None
    offset, _ = model.buffer_spans[tensor.buffer]
    return struct.unpack_from(f"<{tensor.elements}{code}", model.content, offset)


def count_loop_steps(model: TFLiteModel, loop: TFLiteOperator) -> int | None:
    """Return how often a WHILE runs its body; None unless it counts in constant steps up to constants."""
    condition = model.subgraphs[loop.options["cond_subgraph_index"]]
    body, caller = model.subgraphs[loop.options["body_subgraph_index"]], model.subgraphs[loop.subgraph]
    if not len(loop.inputs) == len(condition.inputs) == len(body.inputs) == len(body.outputs) or not condition.outputs:
        return None

    def read_number(subgraph: TFLiteSubgraph, index: int) -> int | None:
        values = read_integers(model, subgraph.tensors[index]) if index >= 0 else None
        return values[0] if values is not None and len(values) == 1 else None

    def read_limit(index: int) -> int | None:
        """Return a constant of the condition, or one that the loop passes on from step to step."""
        if index not in condition.inputs:
            return read_number(condition, index)
        position = condition.inputs.index(index)
        is_kept = body.outputs[position] == body.inputs[position]
        return read_number(caller, loop.inputs[position]) if is_kept else None

    def count_steps(index: int) -> int | None:
        """Return how often the condition `index < limit` holds."""
        operator = condition.producers.get(index)
        if operator is None or operator.op != "LESS" or operator.inputs[0] not in condition.inputs:
            return None
        position, limit = condition.inputs.index(operator.inputs[0]), read_limit(operator.inputs[1])
        start, addition = read_number(caller, loop.inputs[position]), body.producers.get(body.outputs[position])
        if limit is None or start is None or addition is None or addition.op != "ADD":
            return None
        others = [number for number in addition.inputs if number != body.inputs[position]]
        step = read_number(body, others[0]) if len(others) == 1 else None
        return max(0, -(-(limit - start) // step)) if step and step > 0 else None

    pending = [condition.outputs[0]]
    for index in pending:  # which grows meanwhile
        operator = condition.producers.get(index)
        if operator is not None and operator.op == "LOGICAL_AND" and len(pending) < _MAX_CONSTANT_VALUES:
            pending += operator.inputs
    leaves = [index for index in pending if getattr(condition.producers.get(index), "op", None) != "LOGICAL_AND"]
    steps = [count_steps(index) for index in leaves]
    known = [count for count in steps if count is not None]
    return min(known) if len(known) == len(steps) else None


# Weights


@dataclasses.dataclass(frozen=True)
class OperatorWeights:
    """The weights that no earlier operator has used, those that one has, and the bytes by data type as stored.

    What a chip's compiler encoded is bytes without a number of parameters.
    """

    params: int = 0
    weight_bytes: int = 0
    shared_params: int = 0
    stored: tuple[tuple[str, int], ...] = ()


class WeightConstants:
    """The constants of a file. A buffer counts at its first use, however many tensors share it."""

    def __init__(self, model: TFLiteModel) -> None:
        self._subgraphs = model.subgraphs
        self._converted = [_find_converted_constants(subgraph) for subgraph in model.subgraphs]
        self._counted_buffers: set[int] = set()
        self._opened_subgraphs = {0}

    def holds(self, index: int, subgraph: int = 0) -> bool:
        """Return whether tensor `index` of a subgraph is a constant, or a converted one."""
        return index in self._converted[subgraph] or _is_constant(self._subgraphs[subgraph], index)

    def converts_constant(self, operator: TFLiteOperator, subgraph: int = 0) -> bool:
        """Return whether `operator` only converts a constant."""
        return bool(operator.outputs) and operator.outputs[0] in self._converted[subgraph]

    def take(self, operator: TFLiteOperator) -> OperatorWeights:
        """Return the weights that `operator` brings, with those of the subgraphs that it calls, each opened once."""
        tensors, pending = [], [(0, operator)]
        for number, current in pending:  # which grows meanwhile
            tensors += self._constants_of(number, current)
            called = {value for option, value in current.options.items() if option.endswith("subgraph_index")}
            for subgraph in sorted(called - self._opened_subgraphs):
                pending += [(subgraph, inner) for inner in self._subgraphs[subgraph].operators]
            self._opened_subgraphs |= called
        unique = {tensor.buffer: tensor for tensor in tensors}
        new = [tensor for buffer, tensor in unique.items() if buffer not in self._counted_buffers]
        params = 0 if is_compiled(operator) else sum(tensor.elements for tensor in new)
        self._counted_buffers.update(unique)
        return OperatorWeights(
            params=params,
            weight_bytes=sum(tensor.buffer_bytes for tensor in new),
            shared_params=sum(tensor.elements for tensor in unique.values()) - params,
            stored=tuple((tensor.dtype, tensor.buffer_bytes) for tensor in new),
        )

    def _constants_of(self, number: int, operator: TFLiteOperator) -> list[TFLiteTensor]:
        """Return the constants that an operator of a subgraph computes with; none if it only converts one."""
        if self.converts_constant(operator, number):
            return []
        subgraph, converted = self._subgraphs[number], self._converted[number]
        settings: Container[int] = () if operator.is_custom else _SETTING_INPUTS.get(operator.op, ())
        constants = [
            converted.get(index) or subgraph.tensors[index]
            for position, index in enumerate(operator.inputs)
            if index >= 0 and position not in settings and (index in converted or _is_constant(subgraph, index))
        ]
        if operator.op in TABLES["groups"]["with_bias"]:
            return constants
        # Integers other than a bias are sizes and positions, unless a scale makes them real numbers.
        return [tensor for tensor in constants if tensor.quantization is not None or tensor.dtype not in _INTEGER_TYPES]


def _is_constant(subgraph: TFLiteSubgraph, index: int) -> bool:
    return subgraph.tensors[index].is_constant and index not in subgraph.inputs


def _find_converted_constants(subgraph: TFLiteSubgraph) -> dict[int, TFLiteTensor]:
    """Return index of a tensor that is a converted constant -> that constant."""
    converted: dict[int, TFLiteTensor] = {}
    for operator in subgraph.operators:
        if operator.op in TABLES["groups"]["constant_conversions"] and not operator.is_custom and operator.inputs:
            index = operator.inputs[0]
            if index in converted:
                converted |= dict.fromkeys(operator.outputs, converted[index])
            elif index >= 0 and _is_constant(subgraph, index):
                converted |= dict.fromkeys(operator.outputs, subgraph.tensors[index])
    return converted
