"""The TFLite schema, version 3, as far as `reader` reads it: field slots, enumerations and operator options.

Source: https://github.com/google-ai-edge/LiteRT, `schema.fbs`. A test compares every number here with the module that
is generated from that file, which is not used itself because it trusts the file it reads and is slow to import.
"""

from typing import NamedTuple

IDENTIFIER = b"TFL3"
VERSION = 3


class ModelSlots:
    """Slots of the root table."""

    VERSION, OPERATOR_CODES, SUBGRAPHS, DESCRIPTION, BUFFERS = range(5)
    METADATA, SIGNATURE_DEFS = 6, 7


class OperatorCodeSlots:
    """Slots of one entry of the model's list of operator types."""

    DEPRECATED_BUILTIN_CODE, CUSTOM_CODE, VERSION, BUILTIN_CODE = range(4)


class BufferSlots:
    """Slots of a buffer; `OFFSET` and `SIZE` stand for `DATA` in files that keep it behind the flatbuffer (> 2 GB)."""

    DATA, OFFSET, SIZE = range(3)


class MetadataSlots:
    """Slots of one metadata entry."""

    NAME, BUFFER = range(2)


class SignatureSlots:
    """Slots of a signature."""

    INPUTS, OUTPUTS, SIGNATURE_KEY = range(3)
    SUBGRAPH_INDEX = 4


class TensorMapSlots:
    """Slots of one named input or output of a signature."""

    NAME, TENSOR_INDEX = range(2)


class SubgraphSlots:
    """Slots of a subgraph."""

    TENSORS, INPUTS, OUTPUTS, OPERATORS, NAME = range(5)


class TensorSlots:
    """Slots of a tensor."""

    SHAPE, TYPE, BUFFER, NAME, QUANTIZATION, IS_VARIABLE, SPARSITY, SHAPE_SIGNATURE = range(8)
    EXTERNAL_BUFFER = 10


class QuantizationSlots:
    """Slots of a tensor's quantization."""

    MIN, MAX, SCALE, ZERO_POINT = range(4)
    QUANTIZED_DIMENSION = 6


class OperatorSlots:
    """Slots of an operator."""

    OPCODE_INDEX, INPUTS, OUTPUTS, BUILTIN_OPTIONS_TYPE, BUILTIN_OPTIONS = range(5)


PADDINGS = ("SAME", "VALID")
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
CUSTOM = "CUSTOM"

# Position = the code of `TensorType`; the number is bits per element, None where elements have no fixed size.
DTYPES = (
    ("float32", 32),
    ("float16", 16),
    ("int32", 32),
    ("uint8", 8),
    ("int64", 64),
    ("string", None),
    ("bool", 8),
    ("int16", 16),
    ("complex64", 64),
    ("int8", 8),
    ("float64", 64),
    ("complex128", 128),
    ("uint64", 64),
    ("resource", None),
    ("variant", None),
    ("uint32", 32),
    ("uint16", 16),
    ("int4", 4),
    ("bfloat16", 16),
    ("int2", 2),
    ("uint4", 4),
    ("float8_e4m3fn", 8),
    ("float8_e5m2", 8),
)
BITS = dict(DTYPES)

# Position = the code of `BuiltinOperator`.
_OPERATOR_NAMES = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
    FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC
    LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH
    SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER
    BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE
    BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM
    ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE
    TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK
    LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL
    FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL
    REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND
    HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM
    BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS
    HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE
    ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU
    DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
    UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE
    STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP STABLEHLO_CONCATENATE
    STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE
    STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG
    STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT
    STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT
    STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA STABLEHLO_DOT_GENERAL
    STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE
    STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
"""
OPERATORS = tuple(_OPERATOR_NAMES.split())


class Option(NamedTuple):
    """One option of an operator: its slot, its `struct` format (a trailing ``*`` marks a vector) and its default.

    `names` turns the number into a word, `minimum` is the smallest value that makes sense.
    """

    name: str
    slot: int
    code: str = "i"
    default: object = 0
    names: tuple[str, ...] | None = None
    minimum: int | None = None


def _activation(slot: int) -> Option:
    return Option("fused_activation", slot, "b", names=ACTIVATIONS)


_WINDOW = (
    Option("padding", 0, "b", names=PADDINGS),
    Option("stride_w", 1, minimum=1),
    Option("stride_h", 2, minimum=1),
)
_CONV = (
    *_WINDOW,
    _activation(3),
    Option("dilation_w", 4, default=1, minimum=1),
    Option("dilation_h", 5, default=1, minimum=1),
)
_DEPTHWISE = (
    *_WINDOW,
    Option("depth_multiplier", 3),
    _activation(4),
    Option("dilation_w", 5, default=1, minimum=1),
    Option("dilation_h", 6, default=1, minimum=1),
)
_CONV_3D = (
    Option("padding", 0, "b", names=PADDINGS),
    Option("stride_d", 1, minimum=1),
    Option("stride_w", 2, minimum=1),
    Option("stride_h", 3, minimum=1),
    _activation(4),
    Option("dilation_d", 5, default=1, minimum=1),
    Option("dilation_w", 6, default=1, minimum=1),
    Option("dilation_h", 7, default=1, minimum=1),
)
_POOL = (*_WINDOW, Option("filter_width", 3, minimum=1), Option("filter_height", 4, minimum=1), _activation(5))
_REDUCE = (Option("keep_dims", 0, "?", default=False),)


class OptionsTable(NamedTuple):
    """The options of an operator: the code in `BuiltinOptions`, the schema's table and what is read of it."""

    code: int
    schema_name: str
    options: tuple[Option, ...]


OPERATOR_OPTIONS = {
    "CONV_2D": OptionsTable(1, "Conv2DOptions", _CONV),
    "DEPTHWISE_CONV_2D": OptionsTable(2, "DepthwiseConv2DOptions", _DEPTHWISE),
    "TRANSPOSE_CONV": OptionsTable(49, "TransposeConvOptions", (*_WINDOW, _activation(3))),
    "CONV_3D": OptionsTable(106, "Conv3DOptions", _CONV_3D),
    "CONV_3D_TRANSPOSE": OptionsTable(106, "Conv3DOptions", _CONV_3D),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"), OptionsTable(5, "Pool2DOptions", _POOL)),
    "FULLY_CONNECTED": OptionsTable(
        8,
        "FullyConnectedOptions",
        (
            _activation(0),
            Option("weights_format", 1, "b", names=("DEFAULT", "SHUFFLED4x16INT8")),
            Option("keep_num_dims", 2, "?", default=False),
        ),
    ),
    "BATCH_MATMUL": OptionsTable(
        101, "BatchMatMulOptions", (Option("adj_x", 0, "?", default=False), Option("adj_y", 1, "?", default=False))
    ),
    "ADD": OptionsTable(11, "AddOptions", (_activation(0),)),
    "MUL": OptionsTable(21, "MulOptions", (_activation(0),)),
    "SUB": OptionsTable(28, "SubOptions", (_activation(0),)),
    "DIV": OptionsTable(29, "DivOptions", (_activation(0),)),
    "L2_NORMALIZATION": OptionsTable(12, "L2NormOptions", (_activation(0),)),
    "CONCATENATION": OptionsTable(10, "ConcatenationOptions", (Option("axis", 0), _activation(1))),
    "SOFTMAX": OptionsTable(9, "SoftmaxOptions", (Option("beta", 0, "f", default=0.0),)),
    "LEAKY_RELU": OptionsTable(75, "LeakyReluOptions", (Option("alpha", 0, "f", default=0.0),)),
    **dict.fromkeys(
        ("MEAN", "SUM", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ANY", "REDUCE_ALL"),
        OptionsTable(27, "ReducerOptions", _REDUCE),
    ),
    "RESHAPE": OptionsTable(17, "ReshapeOptions", (Option("new_shape", 0, "i*", default=None),)),
    "SQUEEZE": OptionsTable(30, "SqueezeOptions", (Option("squeeze_dims", 0, "i*", default=None),)),
    "PACK": OptionsTable(59, "PackOptions", (Option("values_count", 0), Option("axis", 1))),
    "UNPACK": OptionsTable(64, "UnpackOptions", (Option("num", 0), Option("axis", 1))),
    "SPLIT": OptionsTable(35, "SplitOptions", (Option("num_splits", 0),)),
    "GATHER": OptionsTable(23, "GatherOptions", (Option("axis", 0), Option("batch_dims", 1))),
    "STRIDED_SLICE": OptionsTable(
        32,
        "StridedSliceOptions",
        (
            Option("begin_mask", 0),
            Option("end_mask", 1),
            Option("ellipsis_mask", 2),
            Option("new_axis_mask", 3),
            Option("shrink_axis_mask", 4),
        ),
    ),
    "RESIZE_BILINEAR": OptionsTable(
        15,
        "ResizeBilinearOptions",
        (Option("align_corners", 2, "?", default=False), Option("half_pixel_centers", 3, "?", default=False)),
    ),
    "RESIZE_NEAREST_NEIGHBOR": OptionsTable(
        74,
        "ResizeNearestNeighborOptions",
        (Option("align_corners", 0, "?", default=False), Option("half_pixel_centers", 1, "?", default=False)),
    ),
    "SPACE_TO_DEPTH": OptionsTable(19, "SpaceToDepthOptions", (Option("block_size", 0, minimum=1),)),
    "DEPTH_TO_SPACE": OptionsTable(94, "DepthToSpaceOptions", (Option("block_size", 0, minimum=1),)),
    "IF": OptionsTable(92, "IfOptions", (Option("then_subgraph_index", 0), Option("else_subgraph_index", 1))),
    "WHILE": OptionsTable(93, "WhileOptions", (Option("cond_subgraph_index", 0), Option("body_subgraph_index", 1))),
    "CALL_ONCE": OptionsTable(103, "CallOnceOptions", (Option("init_subgraph_index", 0),)),
}
