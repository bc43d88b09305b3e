"""The operations that the Edge TPU knows, and what may stand for others."""

# Coral, TensorFlow models on the Edge TPU: supported operations, by TensorFlow Lite's names.
_NAMES = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED L2_NORMALIZATION LOGISTIC
MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE
RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SQUEEZE
STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM
"""
SUPPORTED = frozenset(_NAMES.split())

_REPLACEMENTS = {
    "LOCAL_RESPONSE_NORMALIZATION": "replace LRN by BatchNormalization, or export its integer form",
    "LEAKY_RELU": "use ReLU, or PReLU with shared_axes=[1, 2]",
    **dict.fromkeys(("ELU", "GELU"), "use ReLU"),
    "HARD_SWISH": "use ReLU6",
    "DEQUANTIZE": "export with int8 or uint8 output (--io int8)",
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "TOPK_V2"), "leave it out and do it on the host"),
    "BATCH_MATMUL": "use FULLY_CONNECTED or a 1x1 convolution with constant weights",
    "DIV": "multiply by the reciprocal",
    "SPLIT_V": "use SPLIT into equal parts, or slices",
    "PADV2": "use PAD, which pads with zeros",
    "DEPTH_TO_SPACE": "use a transposed convolution or a resize",
    **dict.fromkeys(("GATHER", "GATHER_ND"), "use slices and concatenations where the indexes are constant"),
}


def replacement(op):
    """Return what may stand for an operation that is not supported, None where nothing is known."""
    return None if op in SUPPORTED else _REPLACEMENTS.get(op)
