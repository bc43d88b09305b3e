"""The file as C++: an aligned constant array, and a header with what a program must know of it."""

import math
import pathlib
import re

from keras_nin.errors import InputError
from keras_nin.tables import printable
from keras_nin.tflite.graph import FLOAT_DTYPES

_ENDINGS = ("", ".cc", ".h")
_A_LINE = 16
_HEX = [f"0x{value:02x}," for value in range(256)]


def c_array(micro, graph, path):
    """Return the text of a .cc and of a .h file, by their paths.

    Both are C++11; all names are in a namespace that is called after the path.

    Args:
        micro: `keras_nin.edge.micro.records.Micro`.
        graph: `keras_nin.tflite.graph.Graph` of the same file.
        path: of either file, or of both without the ending.

    Raises:
        InputError: another ending, or a scale of an input or output that is not finite.
    """
    source, header = paths(path)
    name = identifier(source.stem)
    return {source: _source(name, header.name, graph.content), header: _header(name, micro, graph)}


def paths(path):
    """Return the paths of the .cc and the .h file that `path` means; errors as in `c_array`."""
    path = pathlib.Path(path)
    if path.suffix not in _ENDINGS or not path.stem:
        raise InputError(f"Expected a path that ends in .cc or .h, or without an ending. Received: {str(path)!r}")
    return path.with_suffix(".cc"), path.with_suffix(".h")


def identifier(text):
    """Return a C++ name for `text`: each run of other characters is one underscore; "3d-net" is "m3d_net_model".

    The suffix keeps it apart from keywords and from macros such as `unix`.
    """
    name = re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")
    if not name:
        return "model"
    return f"{'m' if name[0].isdigit() else ''}{name}_model"


def _source(name, header, content):
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


def _header(name, micro, graph):
    guard = f"{name.upper()}_H_"
    main = graph.main
    ends = [*_ends("Input", main, main.inputs), *_ends("Output", main, main.outputs)]
    return "\n".join(
        [
            f"// {_comment(micro.file)}, SHA-256 {micro.sha256}",
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
            *_arena(micro),
            "",
            *ends,
            *_labels(main),
            "// Operators to register:",
            *(f"//   {_comment(line)}" for line in micro.resolver.splitlines()),
            "",
            f"}}  // namespace {name}",
            "",
            f"#endif  // {guard}",
            "",
        ]
    )


def _arena(micro):
    if micro.arena is None:
        return [f"// No arena size: {_comment(micro.finding.message)}"]
    return [
        f"// Smallest that runs on a {micro.arena.host_bits}-bit host with tflite-micro {micro.package};",
        "// 32-bit pointers need less, kernels made for a processor may need more for scratch buffers.",
        f"constexpr std::size_t kArenaSize = {micro.arena.bytes};",
    ]


def _ends(what, main, indexes):
    """Yield the lines of inputs or outputs; numbered where there are several."""
    for position, index in enumerate(indexes):
        tensor = main.tensors[index]
        prefix = f"k{what}{position if len(indexes) > 1 else ''}"
        yield f"// {what} {position}: {_comment(tensor.name)}, {tensor.dtype}"
        if tensor.shape:
            yield f"constexpr std::int32_t {prefix}Shape[] = {{{', '.join(map(str, tensor.shape))}}};"
        yield f"constexpr std::size_t {prefix}Elements = {tensor.elements};"
        if tensor.quantization and tensor.dtype not in FLOAT_DTYPES:
            yield f"constexpr float {prefix}Scale = {_float(tensor.quantization.scales[0])};"
            yield f"constexpr std::int32_t {prefix}ZeroPoint = {tensor.quantization.zero_points[0]};"
        yield ""


def _labels(main):
    """Return the number of classes, where the only output is a row of them."""
    shapes = [main.tensors[index].shape for index in main.outputs]
    if len(shapes) != 1 or not shapes[0] or any(size != 1 for size in shapes[0][:-1]):
        return []
    return [f"constexpr std::size_t kLabels = {shapes[0][-1]};", ""]


def _float(value):
    """Return a float32 as a literal that is read back as the same."""
    if not math.isfinite(value):
        raise InputError(f"Expected a finite scale. Received: {value}")
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _comment(text):
    r"""Return text that can end a // comment: a backslash, or the trigraph of one, would join the next line to it."""
    return printable(text, "ascii").replace("\\", "/").replace("??", "?")
