"""What each builtin operator of a .tflite file does, as fields of `LayerInfo`, and which constants are its weights."""

import dataclasses
from collections.abc import Callable, Container
from typing import Any

from keras_nin.audit.classification import LOCAL_RESPONSE
from keras_nin.audit.graph import ActivationTensor
from keras_nin.errors import InputError
from keras_nin.tflite.records import TFLiteModel, TFLiteOperator, TFLiteSubgraph, TFLiteTensor

_ACTIVATIONS = {
    **{"NONE": "linear", "RELU": "relu", "RELU6": "relu6", "RELU_N1_TO_1": "hard_tanh", "TANH": "tanh"},
    "SIGN_BIT": "sign",
}

# Operators whose counterpart in Keras does not depend on shapes or options.
_KERAS_COUNTERPARTS = {
    **{"ADD": "Add", "ADD_N": "Add", "SUB": "Subtract", "MUL": "Multiply", "DIV": "Divide"},
    **{"MAXIMUM": "Maximum", "MINIMUM": "Minimum", "CONCATENATION": "Concatenate", "PACK": "Concatenate"},
    **{"RELU": "ReLU", "RELU6": "Relu6", "RELU_N1_TO_1": "HardTanh", "RELU_0_TO_1": "Clip", "TANH": "Tanh"},
    **{"LOGISTIC": "Sigmoid", "SOFTMAX": "Softmax", "LOG_SOFTMAX": "LogSoftmax", "ELU": "ELU", "GELU": "Gelu"},
    **{"LEAKY_RELU": "LeakyReLU", "PRELU": "PReLU", "HARD_SWISH": "HardSilu", "NEG": "Negative", "CAST": "Cast"},
    # To another scale or number format: as far as the network's arithmetic goes, the same values.
    **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "FAKE_QUANT"), "Identity"),
    **{"RESHAPE": "Reshape", "SQUEEZE": "Squeeze", "EXPAND_DIMS": "ExpandDims", "TRANSPOSE": "Transpose"},
    **dict.fromkeys(
        ("DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "REVERSE_V2"), "Transpose"
    ),
    **dict.fromkeys(("SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "UNPACK", "GATHER_ND"), "GetItem"),
    **{"LOCAL_RESPONSE_NORMALIZATION": LOCAL_RESPONSE, "L2_NORMALIZATION": "UnitNormalization"},
    **{"EMBEDDING_LOOKUP": "Embedding", "ARG_MAX": "Argmax", "ARG_MIN": "Argmin", "SUM": "Sum", "REDUCE_MIN": "Min"},
    **{"EQUAL": "Equal", "NOT_EQUAL": "NotEqual", "LESS": "Less", "LESS_EQUAL": "LessEqual", "GREATER": "Greater"},
    **{"GREATER_EQUAL": "GreaterEqual", "SELECT": "Where", "SELECT_V2": "Where", "TOPK_V2": "TopK", "POW": "Power"},
    **{"LOGICAL_AND": "LogicalAnd", "LOGICAL_OR": "LogicalOr", "LOGICAL_NOT": "LogicalNot", "TILE": "Tile"},
    **{"SQUARE": "Square", "SQRT": "Sqrt", "RSQRT": "Rsqrt", "EXP": "Exp", "LOG": "Log", "ABS": "Absolute"},
    **{"FLOOR": "Floor", "CEIL": "Ceil", "ROUND": "Round", "SIGN": "Sign", "SIN": "Sin", "COS": "Cos"},
    **{"BROADCAST_TO": "BroadcastTo", "FLOOR_DIV": "FloorDivide", "FLOOR_MOD": "Mod"},
}

# Operators that convert constants: the weights belong to the operator that computes with the result.
_CONSTANT_CONVERSIONS = frozenset(
    {"CAST", "DENSIFY", "DEQUANTIZE", "EXPAND_DIMS", "QUANTIZE", "RESHAPE", "SQUEEZE", "TRANSPOSE"}
)
_OPERATORS_WITH_BIAS = frozenset(
    {"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "SVDF", "LSTM"}
)
_INTEGER_TYPES = frozenset({"int32", "uint32", "int64", "uint64", "bool", "string"})
# Inputs that say where or how much (shapes, axes, paddings, indices), by position: they are not weights.
_SETTING_INPUTS = {
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "BROADCAST_TO", "CUMSUM", "EXPAND_DIMS", "GATHER", "GATHER_ND"), {1}),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ANY", "REDUCE_ALL"), {1}),
    **dict.fromkeys(("MIRROR_PAD", "PAD", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE"), {1}),
    **dict.fromkeys(("REVERSE_SEQUENCE", "REVERSE_V2", "TILE", "TOPK_V2"), {1}),
    **dict.fromkeys(("BATCH_TO_SPACE_ND", "PADV2", "SLICE", "SPACE_TO_BATCH_ND", "SPLIT_V"), {1, 2}),
    **dict.fromkeys(("FILL", "SPLIT", "TRANSPOSE_CONV"), {0}),
    **dict.fromkeys(("RANGE", "SCATTER_ND"), {0, 1, 2}),
    "STRIDED_SLICE": {1, 2, 3},
    "ONE_HOT": {0, 1, 2, 3},
    "DYNAMIC_UPDATE_SLICE": {2},
    "SEGMENT_SUM": {1},
}

_Fields = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class OperatorUse:
    """An operator with what it reads and writes.

    Attributes:
        operands, results: the file's tensors; None for an optional operand that is left out.
        activations, outputs: theirs as the audit has them; None for an operand that is not computed.
        read_integers: returns the values of a constant tensor of integers; None for any other tensor.
        error: makes the `InputError` that reports a problem of this operator.
    """

    operator: TFLiteOperator
    operands: tuple[TFLiteTensor | None, ...]
    results: tuple[TFLiteTensor, ...]
    activations: tuple[ActivationTensor | None, ...]
    outputs: tuple[ActivationTensor, ...]
    read_integers: Callable[[TFLiteTensor], tuple[int, ...] | None]
    error: Callable[[str], InputError]

    @property
    def computed(self) -> tuple[ActivationTensor, ...]:
        """The tensors that the operator reads and that are computed, in its order."""
        return tuple(tensor for tensor in self.activations if tensor is not None)

    def activation(self, position: int) -> ActivationTensor | None:
        """Return the tensor at `position`; None if it is constant or left out."""
        return self.activations[position] if position < len(self.activations) else None

    def operand(self, position: int) -> TFLiteTensor | None:
        """Return the file's tensor at `position`; None if it is left out."""
        return self.operands[position] if position < len(self.operands) else None

    def shapes(self, *positions: int, rank: int = 4) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the operands at `positions` and of the first result, all of `rank` dimensions."""
        shapes = []
        for position in positions:
            operand = self.operand(position)
            if operand is None or len(operand.shape) != rank:
                shape = "none" if operand is None else operand.shape
                raise self.error(f"input {position} should have {rank} dimensions, its shape is {shape}")
            shapes.append(operand.shape)
        if not self.results or len(self.results[0].shape) != rank:
            raise self.error(f"its output should have {rank} dimensions")
        return (*shapes, self.results[0].shape)

    def with_first(self, tensor: ActivationTensor) -> tuple[ActivationTensor, ...]:
        """Return the computed operands with `tensor`, one of them or another view of one, in front."""
        return (tensor, *(other for other in self.computed if other.index != tensor.index))


def describe_operator(use: OperatorUse) -> _Fields:
    """Return the fields of `LayerInfo` that say what an operator does; `op` is None if nothing here vouches for it.

    Raises:
        InputError: shapes that contradict the operator.
    """
    fields: _Fields = {"op": None, "inputs": use.computed, "outputs": use.outputs}
    if use.operator.is_custom or not use.computed:
        return fields
    describe = _DESCRIPTIONS.get(use.operator.op)
    if describe:
        fields |= describe(use)
    else:
        fields["op"] = _KERAS_COUNTERPARTS.get(use.operator.op)
    if "fused_activation" in use.operator.options:
        fields["activation"] = _ACTIVATIONS[use.operator.options["fused_activation"]]
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
    """Return the fields of a product of `data` with weights; none if `data` is constant or a size is open."""
    tensors = (tensor for tensor in (*use.operands, *use.results) if tensor is not None)
    if data is None or any(-1 in (tensor.shape_signature or ())[1:] for tensor in tensors):
        return {}
    return {"op": op, "inputs": use.with_first(data), **fields}


def _describe_convolution(use: OperatorUse) -> _Fields:
    image, filters, result = use.shapes(0, 1)
    if not filters[3] or not image[3] or image[3] % filters[3] or result[3] != filters[0]:
        raise _channels_error(use, filters, image, result)
    fields = {"groups": image[3] // filters[3], "use_bias": use.operand(2) is not None}
    return _product_fields(use, "Conv2D", use.activation(0), **fields, **_window_fields(use, filters[1:3]))


def _describe_depthwise(use: OperatorUse) -> _Fields:
    image, filters, result = use.shapes(0, 1)
    if not image[3] or result[3] != filters[3] or result[3] % image[3]:
        raise _channels_error(use, filters, image, result)
    fields = {"use_bias": use.operand(2) is not None, **_window_fields(use, filters[1:3])}
    return _product_fields(use, "DepthwiseConv2D", use.activation(0), **fields)


def _describe_transposed(use: OperatorUse) -> _Fields:
    filters, image, result = use.shapes(1, 2)
    if filters[3] != image[3] or filters[0] != result[3]:
        raise _channels_error(use, filters, image, result)
    fields = {"use_bias": use.operand(3) is not None, **_window_fields(use, filters[1:3])}
    return _product_fields(use, "Conv2DTranspose", use.activation(2), **fields)


def _channels_error(
    use: OperatorUse, filters: tuple[int, ...], image: tuple[int, ...], result: tuple[int, ...]
) -> InputError:
    return use.error(f"filters of shape {filters} do not lead from {image[3]} to {result[3]} channels")


def _describe_fully_connected(use: OperatorUse) -> _Fields:
    data, weights = use.operand(0), use.operand(1)
    if data is None or weights is None or not use.results or len(weights.shape) != 2:
        raise use.error("it needs an input, weights of 2 dimensions and an output")
    (units, depth), result = weights.shape, use.results[0]
    if not depth or data.elements % depth or result.elements != data.elements // depth * units:
        raise use.error(f"weights of shape {(units, depth)} do not lead from {data.shape} to {result.shape}")
    use_bias, rows = use.operand(2) is not None, use.activation(0)
    if rows is None:  # a product of constant rows with computed weights
        return _product_fields(use, "Dense", use.activation(1), use_bias=use_bias)
    if rows.shape[-1] != depth or len(rows.shape) != len(result.shape):
        rows = _as_rows(rows, depth)
    return _product_fields(use, "Dense", rows, use_bias=use_bias)


def _describe_batch_matmul(use: OperatorUse) -> _Fields:
    first, second, options = use.operand(0), use.operand(1), use.operator.options
    if first is None or second is None or min(len(first.shape), len(second.shape)) < 2:
        raise use.error("it needs two inputs of 2 dimensions or more")
    left, right = _transposed_shape(first.shape, options["adj_x"]), _transposed_shape(second.shape, options["adj_y"])
    if left[-1] != right[-2]:
        raise use.error(f"rows of {left[-1]} meet columns of {right[-2]}")
    left_data, right_data = use.activation(0), use.activation(1)
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


def _transposed_shape(shape: tuple[int, ...], is_transposed: bool) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if is_transposed else shape


def _describe_pool(use: OperatorUse) -> _Fields:
    use.shapes(0)
    options = use.operator.options
    op = {"AVERAGE_POOL_2D": "AveragePooling2D", "MAX_POOL_2D": "MaxPooling2D"}.get(use.operator.op)
    return {"op": op, **_window_fields(use, (options["filter_height"], options["filter_width"]))}


def _describe_reduction(use: OperatorUse) -> _Fields:
    """A mean or maximum over all positions is a global pooling."""
    pool, plain = {"MEAN": ("Average", "Mean"), "REDUCE_MAX": ("Max", "Max")}[use.operator.op]
    data, axes = use.operand(0), _read_operand(use, 1)
    rank = len(data.shape) if data else 0
    positions = {3: {1}, 4: {1, 2}}.get(rank)
    if axes is None or positions is None or {axis % rank for axis in axes} != positions:
        return {"op": plain}
    return {"op": f"Global{pool}Pooling{rank - 2}D"}


def _describe_pad(use: OperatorUse) -> _Fields:
    """Zeros (or a reflection) around the positions of a map; on other axes it is another operation."""
    data, paddings = use.operand(0), _read_operand(use, 1)
    is_map = data is not None and len(data.shape) == 4
    return {"op": "ZeroPadding2D" if is_map and paddings and not any(paddings[:2] + paddings[6:]) else "Pad"}


def _read_operand(use: OperatorUse, position: int) -> tuple[int, ...] | None:
    operand = use.operand(position)
    return None if operand is None else use.read_integers(operand)


def _describe_resize(use: OperatorUse) -> _Fields:
    image, result = use.shapes(0)
    if not all(image[1:3]) or result[1] % image[1] or result[2] % image[2] or 0 in result:
        return {"op": "Resizing"}
    interpolation = "bilinear" if use.operator.op == "RESIZE_BILINEAR" else "nearest"
    factors = (result[1] // image[1], result[2] // image[2])
    return {"op": "UpSampling2D", "strides": factors, "interpolation": interpolation}


_DESCRIPTIONS: dict[str, Callable[[OperatorUse], _Fields]] = {
    "CONV_2D": _describe_convolution,
    "DEPTHWISE_CONV_2D": _describe_depthwise,
    "TRANSPOSE_CONV": _describe_transposed,
    "FULLY_CONNECTED": _describe_fully_connected,
    "BATCH_MATMUL": _describe_batch_matmul,
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"), _describe_pool),
    **dict.fromkeys(("MEAN", "REDUCE_MAX"), _describe_reduction),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _describe_pad),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _describe_resize),
    "GATHER": lambda use: {"op": "GetItem" if use.activation(0) is not None else "Embedding"},
}
KERNEL_OPERATORS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"})


# Weights


@dataclasses.dataclass(frozen=True)
class OperatorWeights:
    """The weights that no earlier operator has used, those that one has, and the bytes by data type as stored."""

    params: int = 0
    weight_bytes: int = 0
    shared_params: int = 0
    stored: tuple[tuple[str, int], ...] = ()


class WeightConstants:
    """The constants of a file's main subgraph. A buffer counts at its first use, however many tensors share it."""

    def __init__(self, model: TFLiteModel) -> None:
        self._model = model
        self._converted = _find_converted_constants(model.main)
        self._counted_buffers: set[int] = set()
        self._opened_subgraphs = {0}

    def holds(self, index: int) -> bool:
        """Return whether tensor `index` of the main subgraph is a constant, or a converted one."""
        return index in self._converted or _is_constant(self._model.main, index)

    def converts_constant(self, operator: TFLiteOperator) -> bool:
        """Return whether `operator` only converts a constant."""
        return bool(operator.outputs) and operator.outputs[0] in self._converted

    def take(self, operator: TFLiteOperator) -> OperatorWeights:
        """Return the weights that `operator` brings, those of the subgraphs that it calls included."""
        if self.converts_constant(operator):
            return OperatorWeights()
        unique = {tensor.buffer: tensor for tensor in self._constants_of(operator)}
        new = [tensor for buffer, tensor in unique.items() if buffer not in self._counted_buffers]
        params = sum(tensor.elements for tensor in new)
        self._counted_buffers.update(unique)
        return OperatorWeights(
            params=params,
            weight_bytes=sum(tensor.buffer_bytes for tensor in new),
            shared_params=sum(tensor.elements for tensor in unique.values()) - params,
            stored=tuple((tensor.dtype, tensor.buffer_bytes) for tensor in new),
        )

    def _constants_of(self, operator: TFLiteOperator) -> list[TFLiteTensor]:
        """Return the constants that `operator` computes with, and those of the subgraphs it calls, each opened once."""
        tensors = _operator_constants(self._model.main, operator, self._converted)
        pending = _called_subgraphs(operator)
        while pending:
            number = pending.pop()
            if number in self._opened_subgraphs:
                continue
            self._opened_subgraphs.add(number)
            subgraph = self._model.subgraphs[number]
            converted = _find_converted_constants(subgraph)
            for inner in subgraph.operators:
                if not (inner.outputs and inner.outputs[0] in converted):
                    tensors += _operator_constants(subgraph, inner, converted)
                pending += _called_subgraphs(inner)
        return tensors


def _called_subgraphs(operator: TFLiteOperator) -> list[int]:
    return [value for option, value in operator.options.items() if option.endswith("subgraph_index")]


def _is_constant(subgraph: TFLiteSubgraph, index: int) -> bool:
    return subgraph.tensors[index].is_constant and index not in subgraph.inputs


def _find_converted_constants(subgraph: TFLiteSubgraph) -> dict[int, TFLiteTensor]:
    """Return index of a tensor that is a converted constant -> that constant."""
    converted: dict[int, TFLiteTensor] = {}
    for operator in subgraph.operators:
        if operator.op in _CONSTANT_CONVERSIONS and not operator.is_custom and operator.inputs:
            index = operator.inputs[0]
            if index in converted:
                converted |= dict.fromkeys(operator.outputs, converted[index])
            elif index >= 0 and _is_constant(subgraph, index):
                converted |= dict.fromkeys(operator.outputs, subgraph.tensors[index])
    return converted


def _operator_constants(
    subgraph: TFLiteSubgraph, operator: TFLiteOperator, converted: dict[int, TFLiteTensor]
) -> list[TFLiteTensor]:
    settings: Container[int] = () if operator.is_custom else _SETTING_INPUTS.get(operator.op, ())
    constants = [
        converted.get(index) or subgraph.tensors[index]
        for position, index in enumerate(operator.inputs)
        if index >= 0 and position not in settings and (index in converted or _is_constant(subgraph, index))
    ]
    if operator.op in _OPERATORS_WITH_BIAS:
        return constants
    # Integers other than a bias are sizes and positions, unless a scale makes them real numbers.
    return [tensor for tensor in constants if tensor.quantization is not None or tensor.dtype not in _INTEGER_TYPES]
