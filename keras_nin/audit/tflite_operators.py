"""What each builtin operator of a .tflite file does, in the words of `LayerInfo`."""

import dataclasses
from dataclasses import dataclass

from keras_nin.audit import classification

_ACTIVATIONS = {"NONE": "linear", "RELU": "relu", "RELU6": "relu6", "RELU_N1_TO_1": "hard_tanh", "TANH": "tanh"}
_ACTIVATIONS["SIGN_BIT"] = "sign"

# Operators whose counterpart in Keras needs no look at shapes or options.
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
    **{"LOCAL_RESPONSE_NORMALIZATION": classification.LOCAL_RESPONSE, "L2_NORMALIZATION": "UnitNormalization"},
    **{"EMBEDDING_LOOKUP": "Embedding", "ARG_MAX": "Argmax", "ARG_MIN": "Argmin", "SUM": "Sum", "REDUCE_MIN": "Min"},
    **{"EQUAL": "Equal", "NOT_EQUAL": "NotEqual", "LESS": "Less", "LESS_EQUAL": "LessEqual", "GREATER": "Greater"},
    **{"GREATER_EQUAL": "GreaterEqual", "SELECT": "Where", "SELECT_V2": "Where", "TOPK_V2": "TopK", "POW": "Power"},
    **{"LOGICAL_AND": "LogicalAnd", "LOGICAL_OR": "LogicalOr", "LOGICAL_NOT": "LogicalNot", "TILE": "Tile"},
    **{"SQUARE": "Square", "SQRT": "Sqrt", "RSQRT": "Rsqrt", "EXP": "Exp", "LOG": "Log", "ABS": "Absolute"},
    **{"FLOOR": "Floor", "CEIL": "Ceil", "ROUND": "Round", "SIGN": "Sign", "SIN": "Sin", "COS": "Cos"},
    **{"BROADCAST_TO": "BroadcastTo", "FLOOR_DIV": "FloorDivide", "FLOOR_MOD": "Mod"},
}


@dataclasses.dataclass(frozen=True)
class OperatorUse:
    """One operator with what it reads and writes.

    Attributes:
        operator: `keras_nin.tflite.reader.TFLiteOperator`.
        operands, results: the file's tensors; None for an optional operand left out.
        activations: the audit's `Tensor` of each operand that is computed, else None.
        outputs: the audit's `Tensor` of each result.
        values: function from a tensor to its whole numbers, or None where they are not constant.
        fail: function from a problem to the `InputError` that says it of this operator.
    """

    operator: object
    operands: tuple
    results: tuple
    activations: tuple
    outputs: tuple
    values: object
    fail: object

    @property
    def computed(self):
        """The audit's tensors that the operator reads, in its order."""
        return tuple(tensor for tensor in self.activations if tensor is not None)

    def activation(self, position):
        """The audit's tensor at `position`, None where it is constant or left out."""
        return self.activations[position] if position < len(self.activations) else None

    def shapes(self, *positions_and_ranks):
        """Return the shapes of operands, held to ranks: (position, rank), ...; the last is the first result's rank."""
        *pairs, rank = positions_and_ranks
        shapes = []
        for position, expected in pairs:
            operand = self.operands[position] if position < len(self.operands) else None
            if operand is None or len(operand.shape) != expected:
                found = "none" if operand is None else operand.shape
                raise self.fail(f"input {position} should have {expected} dimensions, its shape is {found}")
            shapes.append(operand.shape)
        if not self.results or len(self.results[0].shape) != rank:
            raise self.fail(f"its output should have {rank} dimensions")
        return (*shapes, self.results[0].shape)

    def first(self, tensor):
        """Return the computed operands with `tensor`, one of them or another view of one, in front."""
        return (tensor, *(other for other in self.computed if other.index != tensor.index))

    def has(self, position):
        """Whether there is an operand at `position`."""
        return position < len(self.operands) and self.operands[position] is not None


def describe_operator(use):
    """Return the fields of `LayerInfo` that say what an operator does; `op` is None where nothing here vouches for it.

    Raises:
        InputError: shapes that contradict the operator.
    """
    found = {"op": None, "inputs": use.computed, "outputs": use.outputs}
    if use.operator.is_custom or not use.computed:
        return found
    handler = _HANDLERS.get(use.operator.op)
    if handler:
        found |= handler(use)
    else:
        found["op"] = _KERAS_COUNTERPARTS.get(use.operator.op)
    if "fused_activation" in use.operator.options:
        found["activation"] = _ACTIVATIONS[use.operator.options["fused_activation"]]
    return found


def _window_fields(use, kernel):
    options = use.operator.options
    return {
        "kernel": kernel,
        "strides": (options["stride_h"], options["stride_w"]),
        "dilation": (options.get("dilation_h", 1), options.get("dilation_w", 1)),
        "padding": options["padding"].lower(),
    }


def _has_open_axis(tensor):
    """Whether the size of an axis after the batch is only known when the network runs."""
    return -1 in (tensor.shape_signature or ())[1:]


def _product_fields(use, op, data, **fields):
    """The fields of an operator with products, whose `data` is computed; unknown where a size is open."""
    tensors = (operand for operand in use.operands if operand is not None)
    if data is None or any(_has_open_axis(tensor) for tensor in (*tensors, *use.results)):
        return {}
    return {"op": op, "inputs": use.first(data), **fields}


def _describe_convolution(use):
    image, filters, result = use.shapes((0, 4), (1, 4), 4)
    channels, entering = image[3], filters[3]
    if not entering or not channels or channels % entering or result[3] != filters[0]:
        raise use.fail(f"filters of shape {filters} do not lead from {channels} to {result[3]} channels")
    fields = {"groups": channels // entering, "use_bias": use.has(2), **_window_fields(use, filters[1:3])}
    return _product_fields(use, "Conv2D", use.activation(0), **fields)


def _describe_depthwise(use):
    image, filters, result = use.shapes((0, 4), (1, 4), 4)
    if not image[3] or result[3] != filters[3] or result[3] % image[3]:
        raise use.fail(f"filters of shape {filters} do not lead from {image[3]} to {result[3]} channels")
    fields = {"use_bias": use.has(2), **_window_fields(use, filters[1:3])}
    return _product_fields(use, "DepthwiseConv2D", use.activation(0), **fields)


def _describe_transposed(use):
    filters, image, result = use.shapes((1, 4), (2, 4), 4)
    if filters[3] != image[3] or filters[0] != result[3]:
        raise use.fail(f"filters of shape {filters} do not lead from {image[3]} to {result[3]} channels")
    fields = {"use_bias": use.has(3), **_window_fields(use, filters[1:3])}
    return _product_fields(use, "Conv2DTranspose", use.activation(2), **fields)


def _describe_fully_connected(use):
    if not use.has(0) or not use.has(1) or not use.results or len(use.operands[1].shape) != 2:
        raise use.fail("it needs an input, weights of 2 dimensions and an output")
    units, depth = use.operands[1].shape
    elements, result = use.operands[0].elements, use.results[0]
    if not depth or elements % depth or result.elements != elements // depth * units:
        shapes = f"{use.operands[0].shape} to {result.shape}"
        raise use.fail(f"weights of shape {(units, depth)} do not lead from {shapes}")
    data = use.activation(0)
    if data is None:  # a product of constant rows with computed weights
        return _product_fields(use, "Dense", use.activation(1), use_bias=use.has(2))
    if data.shape[-1] != depth or len(data.shape) != len(result.shape):
        data = dataclasses.replace(data, shape=(elements // depth, depth))
    return _product_fields(use, "Dense", data, use_bias=use.has(2))


def _describe_batch_matmul(use):
    if not use.has(0) or not use.has(1) or min(len(operand.shape) for operand in use.operands[:2]) < 2:
        raise use.fail("it needs two inputs of 2 dimensions or more")
    left, right = (
        _transposed_shape(shape, use.operator.options[option])
        for shape, option in zip((use.operands[0].shape, use.operands[1].shape), ("adj_x", "adj_y"), strict=True)
    )
    if left[-1] != right[-2]:
        raise use.fail(f"rows of {left[-1]} meet columns of {right[-2]}")
    first, second = use.activation(0), use.activation(1)
    if first is None:  # a constant on the left: the same product with both sides turned over
        return _product_fields(use, "Dense", _as_rows(second, right[-2]))
    if second is not None:
        return _product_fields(use, "Matmul", dataclasses.replace(first, shape=left))
    is_dense = set(right[:-2]) <= {1}
    return _product_fields(
        use, "Dense", dataclasses.replace(first, shape=left) if is_dense else _as_rows(first, left[-1])
    )


def _as_rows(tensor, depth):
    """`tensor` seen as rows of `depth` values, in whichever order."""
    return dataclasses.replace(tensor, shape=(tensor.elements // depth if depth else 0, depth))


def _transposed_shape(shape, swap):
    return (*shape[:-2], shape[-1], shape[-2]) if swap else shape


def _describe_pool(use):
    use.shapes((0, 4), 4)
    options = use.operator.options
    op = {"AVERAGE_POOL_2D": "AveragePooling2D", "MAX_POOL_2D": "MaxPooling2D"}.get(use.operator.op)
    return {"op": op, **_window_fields(use, (options["filter_height"], options["filter_width"]))}


def _describe_reduction(use):
    """A mean or maximum over all positions is a global pooling."""
    which = {"MEAN": ("Average", "Mean"), "REDUCE_MAX": ("Max", "Max")}[use.operator.op]
    rank = len(use.operands[0].shape) if use.has(0) else 0
    axes = use.values(use.operands[1]) if use.has(1) else None
    positions = {3: {1}, 4: {1, 2}}.get(rank)
    if axes is None or positions is None or {axis % rank for axis in axes} != positions:
        return {"op": which[1]}
    return {"op": f"Global{which[0]}Pooling{rank - 2}D"}


def _describe_pad(use):
    """Zeros (or a reflection) around the positions of a map; on other axes it is another operation."""
    paddings = use.values(use.operands[1]) if use.has(1) else None
    is_map = use.has(0) and len(use.operands[0].shape) == 4
    return {"op": "ZeroPadding2D" if is_map and paddings and not any(paddings[:2] + paddings[6:]) else "Pad"}


def _describe_resize(use):
    image, result = use.shapes((0, 4), 4)
    if not all(image[1:3]) or result[1] % image[1] or result[2] % image[2] or 0 in result:
        return {"op": "Resizing"}
    interpolation = "bilinear" if use.operator.op == "RESIZE_BILINEAR" else "nearest"
    factors = (result[1] // image[1], result[2] // image[2])
    return {"op": "UpSampling2D", "strides": factors, "interpolation": interpolation}


def _describe_gather(use):
    return {"op": "GetItem" if use.activation(0) is not None else "Embedding"}


_HANDLERS = {
    "CONV_2D": _describe_convolution,
    "DEPTHWISE_CONV_2D": _describe_depthwise,
    "TRANSPOSE_CONV": _describe_transposed,
    "FULLY_CONNECTED": _describe_fully_connected,
    "BATCH_MATMUL": _describe_batch_matmul,
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"), _describe_pool),
    **dict.fromkeys(("MEAN", "REDUCE_MAX"), _describe_reduction),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _describe_pad),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _describe_resize),
    "GATHER": _describe_gather,
}
KERNEL_OPERATORS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"})


# MERGED Which constants of a .tflite file are weights, and which operator they belong to.

# What passes constants on, changed in form only: the weights belong to the operator that computes with them.
_CONSTANT_CONVERSIONS = frozenset(
    {"CAST", "DENSIFY", "DEQUANTIZE", "EXPAND_DIMS", "QUANTIZE", "RESHAPE", "SQUEEZE", "TRANSPOSE"}
)
_OPERATORS_WITH_BIAS = frozenset(
    {"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "SVDF", "LSTM"}
)
_INTEGER_TYPES = frozenset({"int32", "uint32", "int64", "uint64", "bool", "string"})
# Positions of inputs that say where or how much (shapes, axes, paddings, indices) and hold no weights.
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


@dataclass(frozen=True)
class OperatorWeights:
    """What an operator brings: elements, bytes as stored, and elements that an earlier operator has brought already.

    `stored` is the bytes by data type: ((dtype, bytes), ...).
    """

    params: int = 0
    weight_bytes: int = 0
    shared_params: int = 0
    stored: tuple[tuple[str, int], ...] = ()


class WeightConstants:
    """The constants of a file's main subgraph. A buffer counts at its first use, however many tensors share it."""

    def __init__(self, file):
        self._file = file
        self._passed_on = _find_converted_constants(file.main)
        self._counted = set()
        self._opened = {0}

    def passed(self, index):
        """Whether the main subgraph's tensor `index` is a constant, or one in another form."""
        return index in self._passed_on or _is_constant(self._file.main, index)

    def passes_on(self, operator):
        """Whether all that `operator` gives is a constant in another form."""
        return bool(operator.outputs) and operator.outputs[0] in self._passed_on

    def take(self, operator):
        """Return the `Weights` that `operator` brings, those of the subgraphs that it calls included."""
        if self.passes_on(operator):
            return OperatorWeights()
        tensors = self._used(operator)
        unique = {tensor.buffer: tensor for tensor in tensors}
        new = {buffer: tensor for buffer, tensor in unique.items() if buffer not in self._counted}
        self._counted.update(new)
        return OperatorWeights(
            params=sum(tensor.elements for tensor in new.values()),
            weight_bytes=sum(tensor.buffer_bytes for tensor in new.values()),
            shared_params=sum(tensor.elements for buffer, tensor in unique.items() if buffer not in new),
            stored=tuple((tensor.dtype, tensor.buffer_bytes) for tensor in new.values()),
        )

    def _used(self, operator):
        """The constants that `operator` computes with, and those of the subgraphs it calls, each opened once."""
        tensors = _operator_constants(self._file.main, operator, self._passed_on)
        waiting = _called_subgraphs(operator)
        while waiting:
            number = waiting.pop()
            if number in self._opened:
                continue
            self._opened.add(number)
            subgraph = self._file.subgraphs[number]
            passed_on = _find_converted_constants(subgraph)
            for inner in subgraph.operators:
                if not (inner.outputs and inner.outputs[0] in passed_on):
                    tensors += _operator_constants(subgraph, inner, passed_on)
                waiting += _called_subgraphs(inner)
        return tensors


def _called_subgraphs(operator):
    return [value for option, value in operator.options.items() if option.endswith("subgraph_index")]


def _is_constant(subgraph, index):
    return subgraph.tensors[index].is_constant and index not in subgraph.inputs


def _find_converted_constants(subgraph):
    """Index of a tensor that is a constant in another form -> that constant."""
    found = {}
    for operator in subgraph.operators:
        if operator.op in _CONSTANT_CONVERSIONS and not operator.is_custom and operator.inputs:
            index = operator.inputs[0]
            source = found.get(index) or (index >= 0 and _is_constant(subgraph, index) and subgraph.tensors[index])
            if source:
                found |= dict.fromkeys(operator.outputs, source)
    return found


def _operator_constants(subgraph, operator, passed_on):
    settings = () if operator.is_custom else _SETTING_INPUTS.get(operator.op, ())
    used = [
        passed_on.get(index) or subgraph.tensors[index]
        for position, index in enumerate(operator.inputs)
        if index >= 0 and position not in settings and (index in passed_on or _is_constant(subgraph, index))
    ]
    return [tensor for tensor in used if operator.op in _OPERATORS_WITH_BIAS or _holds_real_numbers(tensor)]


def _holds_real_numbers(tensor):
    """Whether a constant stands for real numbers; plain integers elsewhere than in a bias are sizes and positions."""
    return tensor.quantization is not None or tensor.dtype not in _INTEGER_TYPES
