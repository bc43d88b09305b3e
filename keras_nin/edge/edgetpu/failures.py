"""What makes the compiler refuse a whole file."""

from keras_nin.edge.edgetpu import status
from keras_nin.edge.edgetpu.records import Failure
from keras_nin.edge.edgetpu.use import EIGHT_BITS, shown

# Highest versions that a TensorFlow later than compiler 16 registers (lite/kernels/register.cc, with CONV_2D 6); the
# compiler is known to refuse CONV_2D 6, TRANSPOSE_CONV 4 and EXP 2.
HIGHEST = {
    "CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "TRANSPOSE_CONV": 3, "FULLY_CONNECTED": 9, "EXP": 1, "ADD": 4, "SUB": 5,
    "MUL": 5, "AVERAGE_POOL_2D": 3, "MAX_POOL_2D": 3, "CONCATENATION": 3, "SOFTMAX": 3, "LOGISTIC": 3, "TANH": 3,
    "RELU": 3, "RELU6": 3, "RELU_N1_TO_1": 1, "RESHAPE": 1, "MEAN": 3, "SUM": 2, "REDUCE_MAX": 3, "REDUCE_MIN": 3,
    "PAD": 4, "PADV2": 4, "PACK": 3, "SPLIT": 4, "SQUEEZE": 2, "STRIDED_SLICE": 6, "SLICE": 5, "TRANSPOSE": 5,
    "RESIZE_BILINEAR": 4, "RESIZE_NEAREST_NEIGHBOR": 4, "MAXIMUM": 4, "MINIMUM": 4, "L2_NORMALIZATION": 2, "PRELU": 1,
    "SPACE_TO_DEPTH": 2, "DEPTH_TO_SPACE": 2, "RSQRT": 2, "SQUARED_DIFFERENCE": 2, "EXPAND_DIMS": 1, "QUANTIZE": 3,
    "DEQUANTIZE": 5, "CAST": 4, "GATHER": 5, "LEAKY_RELU": 2, "DIV": 2, "HARD_SWISH": 1, "ELU": 1, "BATCH_MATMUL": 4,
    "LOCAL_RESPONSE_NORMALIZATION": 1, "ARG_MAX": 3, "SELECT_V2": 1, "EQUAL": 3, "LESS_EQUAL": 2,
}  # fmt: skip
_DYNAMIC_OUTPUTS = frozenset(["WHERE", "UNIQUE", "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "RANGE"])
_MOVING = frozenset(["QUANTIZE", "DEQUANTIZE", "CAST"])
# 512x512x64 (issue 60) and 512x512x151 (issue 176) did not compile; the largest map
# in a file that did has 11,107,248 elements (361x641x48).
REFUSED_MAP = 512 * 512 * 64


def failure(uses):
    """Return the first `Failure` of a file, None where it compiles.

    Args:
        uses: `Use` records.
    """
    for check in (_unknown_version, _flex, _dynamic, _not_quantized, _large_map):
        if found := check(uses):
            return found
    return None


def _unknown_version(uses):
    for use in uses:
        version = use.operator.version
        if version > HIGHEST.get(use.op, version):
            return Failure(
                status.UNKNOWN_VERSION.format(op=use.op, version=version),
                f"operator {use.operator.index} has version {version}; the last compiler, of 2021, knows none above "
                f"{HIGHEST[use.op]}",
                "convert with an older TensorFlow, or with per-tensor weights where their kind raised the version",
                "operator-version",
            )
    return None


def _flex(uses):
    for use in uses:
        if use.operator.is_custom and use.op.startswith("Flex"):
            return Failure(
                status.FLEX,
                f"operator {use.operator.index} is {use.op}, which only TensorFlow runs",
                "convert without SELECT_TF_OPS",
                "flex",
            )
    return None


def _dynamic(uses):
    for use in uses:
        computed = [tensor for tensor in use.shape_operands if not tensor.is_constant]
        if computed or use.op in _DYNAMIC_OUTPUTS:
            return Failure(
                status.DYNAMIC,
                f"the output of operator {use.operator.index} ({use.op}) has a size that is computed",
                "export with a static batch and static shapes",
                "dynamic",
            )
    return None


def _is_quantized(use):
    if use.op in _MOVING or use.data is None or use.output is None:
        return False
    return all(each.dtype in EIGHT_BITS and each.quantization is not None for each in (use.data, use.output))


def _not_quantized(uses):
    if any(_is_quantized(use) for use in uses):
        return None
    kinds = ", ".join(sorted({use.output.dtype for use in uses if use.output is not None}))
    return Failure(
        status.NOT_QUANTIZED,
        f"no operator computes with 8-bit integers, but with {kinds or 'nothing'}",
        "export with full-integer quantisation (--scheme int8)",
        "not-quantized",
    )


def _large_map(uses):
    for use in uses:
        for tensor in use.activations:
            if tensor.dtype in EIGHT_BITS and tensor.elements >= REFUSED_MAP:
                return Failure(
                    status.LARGE,
                    f"operator {use.operator.index} ({use.op}) has a map of {shown(tensor.shape)}, {tensor.elements:,} "
                    f"bytes; {REFUSED_MAP:,} did not compile",
                    "use a smaller input or fewer channels",
                    "large-map",
                )
    return None
