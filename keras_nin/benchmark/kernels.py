"""Which operators of a file the delegate's kernels compute: the names in XNNPACK against those in TensorFlow Lite."""

_PRODUCTS = frozenset({"CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"})
_CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
_SLICES = frozenset({"SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "UNPACK"})
_RESHAPES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
_MEANS = frozenset({"MEAN", "AVERAGE_POOL_2D"})

_COMPUTES = {
    "Fully Connected": _PRODUCTS,
    "Dynamic Fully Connected": _PRODUCTS,
    "Batch Matrix Multiply": frozenset({"BATCH_MATMUL"}),
    "Convolution": _CONVOLUTIONS,
    "Deconvolution": frozenset({"TRANSPOSE_CONV", "Convolution2DTransposeBias"}),
    "Max Pooling": frozenset({"MAX_POOL_2D"}),
    "ArgMax Pooling": frozenset({"MaxPoolingWithArgmax2D"}),
    "Unpooling": frozenset({"MaxUnpooling2D"}),
    "Average Pooling": _MEANS,
    "Mean": _MEANS,
    "Mean Squared": frozenset({"MEAN"}),
    "Sum": frozenset({"SUM", "MEAN"}),
    "Reduce Max": frozenset({"REDUCE_MAX"}),
    "Reduce Min": frozenset({"REDUCE_MIN"}),
    "Softmax": frozenset({"SOFTMAX"}),
    "Copy": frozenset({"CONCATENATION", "PACK"}) | _SLICES | _RESHAPES,
    "Slice": _SLICES,
    "Static Reshape": _RESHAPES,
    "Static Expand Dims": _RESHAPES,
    "Split Dims": _RESHAPES,
    "Fuse Dims": _RESHAPES,
    "Transpose": frozenset({"TRANSPOSE"}),
    "Constant Pad": frozenset({"PAD", "PADV2"}),
    "Resize Bilinear": frozenset({"RESIZE_BILINEAR"}),
    "Depth To Space": frozenset({"DEPTH_TO_SPACE"}),
    "Space To Depth": frozenset({"SPACE_TO_DEPTH"}),
    "Convert": frozenset({"QUANTIZE", "DEQUANTIZE", "CAST"}),
    "Clamp": frozenset({"RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "MINIMUM", "MAXIMUM"}),
    "Add": frozenset({"ADD"}),
    "Subtract": frozenset({"SUB"}),
    "Multiply": frozenset({"MUL"}),
    "Divide": frozenset({"DIV"}),
    "Maximum": frozenset({"MAXIMUM"}),
    "Minimum": frozenset({"MINIMUM"}),
    "Squared Difference": frozenset({"SQUARED_DIFFERENCE"}),
    "Power": frozenset({"POW"}),
    "Modulus": frozenset({"FLOOR_MOD"}),
    "ATan2": frozenset({"ATAN2"}),
    "PReLU": frozenset({"PRELU"}),
    "Abs": frozenset({"ABS"}),
    "ApproxGELU": frozenset({"GELU"}),
    "Bankders Rounding": frozenset({"ROUND"}),  # so the runtime spells it
    "Ceiling": frozenset({"CEIL"}),
    "Cosine": frozenset({"COS"}),
    "ELU": frozenset({"ELU"}),
    "Exp": frozenset({"EXP"}),
    "Floor": frozenset({"FLOOR"}),
    "GELU": frozenset({"GELU"}),
    "HardSwish": frozenset({"HARD_SWISH"}),
    "LeakyReLU": frozenset({"LEAKY_RELU"}),
    "Log": frozenset({"LOG"}),
    "Negate": frozenset({"NEG"}),
    "Reciprocal Square Root": frozenset({"RSQRT"}),
    "Sigmoid": frozenset({"LOGISTIC"}),
    "Sign": frozenset({"SIGN"}),
    "Sine": frozenset({"SIN"}),
    "Square": frozenset({"SQUARE", "MUL"}),
    "Square Root": frozenset({"SQRT"}),
    "TanH": frozenset({"TANH"}),
    "Bitwise And": frozenset({"LOGICAL_AND"}),
    "Bitwise Or": frozenset({"LOGICAL_OR"}),
    "Bitwise Xor": frozenset({"BITWISE_XOR"}),
    "Bitwise Not": frozenset({"LOGICAL_NOT"}),
    "Shift Right Arithmetic": frozenset({"RIGHT_SHIFT"}),
    "Shift Right Logical": frozenset({"RIGHT_SHIFT"}),
}
# A table of 256 values has lost the name of its function, and may stand for several operators in a row: functions of
# one number, and sums or products with a constant.
_LOOKED_UP = frozenset({"Invalid Unary Op", "Unary Elementwise"})
_UNARY = frozenset().union(
    *(_COMPUTES[name] for name in _COMPUTES if name in {
        "Abs", "ApproxGELU", "Bankders Rounding", "Ceiling", "Clamp", "Convert", "Cosine", "ELU", "Exp", "Floor",
        "GELU", "HardSwish", "LeakyReLU", "Log", "Negate", "Reciprocal Square Root", "Sigmoid", "Sign", "Sine",
        "Square", "Square Root", "TanH",
    })
)  # fmt: skip
_BINARY = frozenset().union(
    *(_COMPUTES[name] for name in ("Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum", "Squared Difference"))
)

# Kernels that the runtime puts in beside those of the operators: to flatten what a matrix product reads, to change its
# numbers to 8 bits while running, to bring data into the order that a kernel wants.
INSERTED = frozenset({
    "Static Reshape", "Static Expand Dims", "Split Dims", "Fuse Dims", "Convert", "Copy", "Transpose", "Reduce Min",
    "Reduce Max",
})  # fmt: skip
# The insertions that are usual, and the operators whose inputs they prepare.
PREPARES = frozenset({"Static Reshape", "Convert"})
PREPARED = _PRODUCTS | _CONVOLUTIONS | {"TRANSPOSE_CONV"}
# Operators that may leave no kernel, and what became of them.
WITHOUT_KERNEL = {
    **dict.fromkeys(_RESHAPES, "reads its input in place"),
    **dict.fromkeys(("PAD", "PADV2"), "fused into the convolution that follows"),
    **dict.fromkeys(("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"), "fused into the kernel before"),
}


def base(kernel):
    """Return a kernel's name without data types and variant: ``"Convolution"`` of "Convolution (NHWC, F32) IGEMM"."""
    return kernel.partition("(")[0].strip()


def computes(kernel, op):
    """Return whether a kernel of the delegate by this name may compute an operator `op` ("CONV_2D")."""
    name = base(kernel)
    if name in _LOOKED_UP:
        return op in _UNARY | _BINARY
    return op in (_BINARY if name == "Binary Elementwise" else _COMPUTES.get(name, ()))


def looks_up(kernel):
    """Return whether the kernel reads a table, into which the runtime folds element-wise operators in a row."""
    return base(kernel) in _LOOKED_UP


def fits(kernel, op, is_product):
    """Return whether it is the variant that the delegate takes for a convolution that is a matrix product, or is not.

    A 1x1 convolution with stride 1 is a plain matrix product, others are indirect ones (IGEMM).
    """
    return op != "CONV_2D" or kernel.endswith("DWConv") or (base(kernel) == "Fully Connected") == is_product
