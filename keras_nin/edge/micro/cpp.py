"""The file as C++: an aligned constant array, and a header with what a program must know of it."""

import collections
import math
import pathlib
import re

from keras_nin.edge.micro.records import MicroOperator
from keras_nin.errors import InputError
from keras_nin.formatting import escape_unprintable
from keras_nin.tflite.records import FLOAT_DTYPES

_ENDINGS = ("", ".cc", ".h")
_A_LINE = 16
_HEX = [f"0x{value:02x}," for value in range(256)]


def format_c_array(micro, graph, path):
    """Return the text of a .cc and of a .h file, by their paths.

    Both are C++11; all names are in a namespace that is called after the path.

    Args:
        micro: `keras_nin.edge.micro.records.MicroResult`.
        graph: `keras_nin.tflite.reader.TFLiteModel` of the same file.
        path: of either file, or of both without the ending.

    Raises:
        InputError: another ending, or a scale of an input or output that is not finite.
    """
    source, header = c_array_paths(path)
    name = cpp_identifier(source.stem)
    return {source: _format_source(name, header.name, graph.content), header: _format_header(name, micro, graph)}


def c_array_paths(path):
    """Return the paths of the .cc and the .h file that `path` means; errors as in `c_array`."""
    path = pathlib.Path(path)
    if path.suffix not in _ENDINGS or not path.stem:
        raise InputError(f"Expected a path that ends in .cc or .h, or without an ending. Received: {str(path)!r}")
    return path.with_suffix(".cc"), path.with_suffix(".h")


def cpp_identifier(text):
    """Return a C++ name for `text`: each run of other characters is one underscore; "3d-net" is "m3d_net_model".

    The suffix keeps it apart from keywords and from macros such as `unix`.
    """
    name = re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")
    if not name:
        return "model"
    return f"{'m' if name[0].isdigit() else ''}{name}_model"


def _format_source(name, header, content):
    lines = (
        "    " + " ".join(_HEX[value] for value in content[start : start + _A_LINE])
        for start in range(0, len(content), _A_LINE)
    )
    body = "\n".join(lines)
    return f"""\
#include "{header}"

namespace {name} {{

alignas(16) const unsigned char kData[kDataSize] = {{
{body}
}};

}}  // namespace {name}
"""


def _format_header(name, micro, graph):
    guard = f"{name.upper()}_H_"
    main = graph.main
    ends = [*_tensor_lines("Input", main, main.inputs), *_tensor_lines("Output", main, main.outputs)]
    return "\n".join(
        [
            f"// {_comment_text(micro.file)}, SHA-256 {micro.sha256}",
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            "#include <cstddef>",
            "#include <cstdint>",
            "",
            f"namespace {name} {{",
            "",
            f"constexpr std::size_t kDataSize = {micro.file_bytes};",
            "extern const unsigned char kData[kDataSize];",
            "",
            *_arena_lines(micro),
            "",
            *ends,
            *_label_lines(main),
            "// Operators to register:",
            *(f"//   {_comment_text(line)}" for line in micro.resolver.splitlines()),
            "",
            f"}}  // namespace {name}",
            "",
            f"#endif  // {guard}",
            "",
        ]
    )


def _arena_lines(micro):
    if micro.arena is None:
        return [f"// No arena size: {_comment_text(micro.finding.message)}"]
    return [
        f"// Smallest that runs on a {micro.arena.host_bits}-bit host with tflite-micro {micro.package};",
        "// 32-bit pointers need less, kernels made for a processor may need more for scratch buffers.",
        f"constexpr std::size_t kArenaSize = {micro.arena.bytes};",
    ]


def _tensor_lines(what, main, indexes):
    """Yield the lines of inputs or outputs; numbered where there are several."""
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


def _label_lines(main):
    """Return the number of classes, where the only output is a row of them."""
    shapes = [main.tensors[index].shape for index in main.outputs]
    if len(shapes) != 1 or not shapes[0] or any(size != 1 for size in shapes[0][:-1]):
        return []
    return [f"constexpr std::size_t kLabels = {shapes[0][-1]};", ""]


def _float_literal(value):
    """Return a float32 as a literal that is read back as the same."""
    if not math.isfinite(value):
        raise InputError(f"Expected a finite scale. Received: {value}")
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _comment_text(text):
    r"""Return text that can end a // comment: a backslash, or the trigraph of one, would join the next line to it."""
    return escape_unprintable(text, "ascii").replace("\\", "/").replace("??", "?")


# MERGED The operators that a program has to register with TFLite Micro, as the C++ that does it.

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
# The same of custom operators, by the code that is in the file.
_CUSTOM = {
    "CIRCULAR_BUFFER": "AddCircularBuffer",
    "TFLM_DECODE": "AddDecode",
    "TFLite_Detection_PostProcess": "AddDetectionPostprocess",
    "ethos-u": "AddEthosU",
    "SignalDelay": "AddDelay",
    "SignalEnergy": "AddEnergy",
    "SignalFftAutoScale": "AddFftAutoScale",
    "SignalFilterBank": "AddFilterBank",
    "SignalFilterBankLog": "AddFilterBankLog",
    "SignalFilterBankSpectralSubtraction": "AddFilterBankSpectralSubtraction",
    "SignalFilterBankSquareRoot": "AddFilterBankSquareRoot",
    "SignalFramer": "AddFramer",
    "SignalIrfft": "AddIrfft",
    "SignalOverlapAdd": "AddOverlapAdd",
    "SignalPCAN": "AddPCAN",
    "SignalRfft": "AddRfft",
    "SignalStacker": "AddStacker",
    "SignalWindow": "AddWindow",
}
_BY_LETTERS = {name.upper(): f"Add{name}" for name in _BUILTINS.split()}


def resolver_method(op, is_custom=False):
    """Return the name of the resolver's method for an operator ("CONV_2D": "AddConv2D"); None where it has none."""
    return _CUSTOM.get(op) if is_custom else _BY_LETTERS.get(op.replace("_", ""))


def list_operators(graph):
    """Return the `OperatorUse` of every operator type of a `keras_nin.tflite.reader.TFLiteModel`, sorted by name."""
    uses = collections.Counter(
        (operator.op, operator.is_custom) for subgraph in graph.subgraphs for operator in subgraph.operators
    )
    return tuple(
        MicroOperator(op, count, resolver_method(op, is_custom), is_custom)
        for (op, is_custom), count in sorted(uses.items())
    )


def format_resolver(uses):
    """Return C++ that declares a resolver for `OperatorUse` records; what it cannot register is named in comments."""
    known = sorted({use.method for use in uses if use.method})
    own = [use for use in uses if use.is_custom and not use.method]
    absent = [use for use in uses if not use.is_custom and not use.method]
    lines = [f"tflite::MicroMutableOpResolver<{max(len(known) + len(own), 1)}> resolver;"]
    lines += [f"resolver.{name}();" for name in known]
    lines += [f"// resolver.AddCustom(...) for the custom operator {_comment_name(use.op)}" for use in own]
    lines += [f"// TFLite Micro has no operator {_comment_name(use.op)}" for use in absent]
    return "\n".join(lines)


def _comment_name(name):
    """Return a name from a file as it can end a C++ comment, where a backslash would join the next line to it."""
    return escape_unprintable(name).replace("\\", "?")
