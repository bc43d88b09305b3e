"""C++ for TFLite Micro: the model as an aligned array with its constants, and the op resolver."""

import math
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from keras_nin.edge.micro.records import MicroOperator, MicroResult
from keras_nin.errors import InputError
from keras_nin.formatting import escape_unprintable
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteModel, TFLiteSubgraph

_ENDINGS = ("", ".cc", ".h")
_BYTES_PER_LINE = 16

# Methods of tflite::MicroMutableOpResolver in tensorflow/lite/micro/micro_mutable_op_resolver.h, without "Add".
_BUILTINS = """
Abs Add AddN ArgMax ArgMin AssignVariable AveragePool2D BatchMatMul BatchToSpaceNd BroadcastArgs BroadcastTo CallOnce
Cast Ceil Concatenation Conv2D Cos CumSum DepthToSpace DepthwiseConv2D Dequantize Div DynamicUpdateSlice
Elu EmbeddingLookup Equal Exp ExpandDims Fill Floor FloorDiv FloorMod FullyConnected Gather GatherNd Greater
GreaterEqual HardSwish If L2Normalization L2Pool2D LeakyRelu Less LessEqual Log LogSoftmax LogicalAnd LogicalNot
LogicalOr Logistic MaxPool2D Maximum Mean Minimum MirrorPad Mul Neg NotEqual Pack Pad PadV2 Prelu Quantize ReadVariable
ReduceAll ReduceMax ReduceMin Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor ReverseV2 Round Rsqrt SelectV2
Shape Sin Slice Softmax SpaceToBatchNd SpaceToDepth Split SplitV Sqrt Square SquaredDifference Squeeze StridedSlice Sub
Sum Svdf Tanh Transpose TransposeConv UnidirectionalSequenceLSTM Unpack VarHandle While ZerosLike
"""
# Methods of custom operators, whose codes in the file are "Signal" and the name.
_SIGNAL_OPERATORS = """
Delay Energy FftAutoScale FilterBank FilterBankLog FilterBankSpectralSubtraction FilterBankSquareRoot Framer Irfft
OverlapAdd PCAN Rfft Stacker Window
"""
_METHODS = {name.upper(): f"Add{name}" for name in _BUILTINS.split()}
_CUSTOM_METHODS = {
    "CIRCULAR_BUFFER": "AddCircularBuffer",
    "TFLM_DECODE": "AddDecode",
    "TFLite_Detection_PostProcess": "AddDetectionPostprocess",
    "ethos-u": "AddEthosU",
    **{f"Signal{name}": f"Add{name}" for name in _SIGNAL_OPERATORS.split()},
}


def resolver_method(op: str, is_custom: bool = False) -> str | None:
    """Return the op resolver's method for an operator ("CONV_2D": "AddConv2D"); None where it has none."""
    return _CUSTOM_METHODS.get(op) if is_custom else _METHODS.get(op.replace("_", ""))


def list_operators(model: TFLiteModel) -> tuple[MicroOperator, ...]:
    """Return every operator type of a file with its number of uses, sorted by name."""
    uses = Counter((operator.op, operator.is_custom) for subgraph in model.subgraphs for operator in subgraph.operators)
    return tuple(
        MicroOperator(op, count, resolver_method(op, is_custom), is_custom)
        for (op, is_custom), count in sorted(uses.items())
    )


def format_resolver(operators: Sequence[MicroOperator]) -> str:
    """Return C++ that declares an op resolver; operators that it cannot register are named in comments."""
    methods = sorted({operator.method for operator in operators if operator.method})
    unknown = [operator for operator in operators if not operator.method]
    custom = [_comment_text(operator.op) for operator in unknown if operator.is_custom]
    absent = [_comment_text(operator.op) for operator in unknown if not operator.is_custom]
    return "\n".join(
        [
            f"tflite::MicroMutableOpResolver<{max(len(methods) + len(custom), 1)}> resolver;",
            *(f"resolver.{method}();" for method in methods),
            *(f"// resolver.AddCustom(...) for the custom operator {op}" for op in custom),
            *(f"// TFLite Micro has no operator {op}" for op in absent),
        ]
    )


def format_c_array(result: MicroResult, model: TFLiteModel, path: str | os.PathLike[str]) -> dict[pathlib.Path, str]:
    """Return the text of a .cc and of a .h file (C++11), by their paths; the names are in a namespace of the path's.

    Args:
        result: the measurement of the file.
        model: the same file.
        path: path of either file, or of both without the ending.

    Raises:
        InputError: another ending, or the scale of an input or output is not finite.
    """
    source, header = c_array_paths(path)
    namespace = cpp_identifier(source.stem)
    return {
        source: _format_source(namespace, header.name, model.content),
        header: _format_header(namespace, result, model),
    }


def c_array_paths(path: str | os.PathLike[str]) -> tuple[pathlib.Path, pathlib.Path]:
    """Return the paths of the .cc and the .h file that `path` means; errors as in `format_c_array`."""
    path = pathlib.Path(path)
    if path.suffix not in _ENDINGS or not path.stem:
        raise InputError(
            f"Expected a path that ends in .cc or .h, or without an ending. Received: {str(path)!r}", path=path
        )
    return path.with_suffix(".cc"), path.with_suffix(".h")


def cpp_identifier(text: str) -> str:
    """Return a C++ name for `text`: each run of other characters is one underscore; "3d-net" is "m3d_net_model".

    The suffix keeps the name apart from keywords and from macros such as `unix`.
    """
    name = re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")
    if not name:
        return "model"
    return f"{'m' if name[0].isdigit() else ''}{name}_model"


def _format_source(namespace: str, header: str, content: bytes) -> str:
    starts = range(0, len(content), _BYTES_PER_LINE)
    lines = (content[start : start + _BYTES_PER_LINE] for start in starts)
    body = "\n".join("    " + " ".join(f"0x{value:02x}," for value in line) for line in lines)
    return f"""\
#include "{header}"

namespace {namespace} {{

alignas(16) const unsigned char kData[kDataSize] = {{
{body}
}};

}}  // namespace {namespace}
"""


def _format_header(namespace: str, result: MicroResult, model: TFLiteModel) -> str:
    guard = f"{namespace.upper()}_H_"
    main = model.main
    lines = [
        *_arena_lines(result),
        "",
        *_tensor_lines("Input", main, main.inputs),
        *_tensor_lines("Output", main, main.outputs),
        *_label_lines(main),
        "// Operators to register:",
        *(f"//   {_comment_text(line)}" for line in result.resolver.splitlines()),
    ]
    body = "\n".join(lines)
    return f"""\
// {_comment_text(result.file)}, SHA-256 {result.sha256}
#ifndef {guard}
#define {guard}

#include <cstddef>
#include <cstdint>

namespace {namespace} {{

constexpr std::size_t kDataSize = {result.file_bytes};
extern const unsigned char kData[kDataSize];

{body}

}}  // namespace {namespace}

#endif  // {guard}
"""


def _arena_lines(result: MicroResult) -> list[str]:
    if result.arena is None:
        return [f"// No arena size: {_comment_text(result.finding.message if result.finding else 'none works')}"]
    return [
        f"// Smallest that works on a {result.arena.host_bits}-bit host with tflite-micro {result.package};",
        "// 32-bit pointers need less, kernels optimized for a processor may need more scratch memory.",
        f"constexpr std::size_t kArenaSize = {result.arena.bytes};",
    ]


def _tensor_lines(what: str, main: TFLiteSubgraph, indexes: Sequence[int]) -> Iterator[str]:
    """Yield the lines of inputs or outputs, numbered where there are several."""
    for position, index in enumerate(indexes):
        tensor = main.tensors[index]
        prefix = f"k{what}{position if len(indexes) > 1 else ''}"
        yield f"// {what} {position}: {_comment_text(tensor.name)}, {tensor.dtype}"
        if tensor.shape:
            yield f"constexpr std::int32_t {prefix}Shape[] = {{{', '.join(map(str, tensor.shape))}}};"
        yield f"constexpr std::size_t {prefix}Elements = {tensor.elements};"
        if tensor.quantization and tensor.dtype not in FLOAT_DTYPES:
            yield f"constexpr float {prefix}Scale = {_float_literal(tensor.quantization.scales[0])};"
            yield f"constexpr std::int32_t {prefix}ZeroPoint = {tensor.quantization.zero_points[0]};"
        yield ""


def _label_lines(main: TFLiteSubgraph) -> list[str]:
    """Return the number of classes, where the only output is one row of them."""
    shapes = [main.tensors[index].shape for index in main.outputs]
    if len(shapes) != 1 or not shapes[0] or any(size != 1 for size in shapes[0][:-1]):
        return []
    return [f"constexpr std::size_t kLabels = {shapes[0][-1]};", ""]


def _float_literal(value: float) -> str:
    """Return a float32 as a literal that reads back as the same value."""
    if not math.isfinite(value):
        raise InputError(f"Expected a finite scale. Received: {value}")
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _comment_text(text: str) -> str:
    r"""Return text that can end a // comment: a backslash, or its trigraph, would continue the comment."""
    return escape_unprintable(text, "ascii").replace("\\", "/").replace("??", "?")
