"""C++ for TFLite Micro: the model as an aligned array with its constants, and the op resolver."""

import math
import os
import pathlib
import re
import tomllib
from collections import Counter
from collections.abc import Sequence

from keras_nin.edge.micro.records import MicroOperator, MicroResult
from keras_nin.errors import InputError
from keras_nin.formatting import TEXT_LIMIT, escape_unprintable, printable
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteModel

_BYTES_PER_LINE = 16

_RESOLVER = tomllib.loads(pathlib.Path(__file__).with_name("resolver.toml").read_text(encoding="utf-8"))
_METHODS = {name.upper(): f"Add{name}" for name in _RESOLVER["builtins"].split()}
_CUSTOM_METHODS = {
    **{code: f"Add{name}" for code, name in _RESOLVER["custom"].items()},
    **{f"Signal{name}": f"Add{name}" for name in _RESOLVER["signal"].split()},
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
    unknown = [(_comment_text(operator.op), operator.is_custom) for operator in operators if not operator.method]
    custom = [f"// resolver.AddCustom(...) for the custom operator {op}" for op, is_custom in unknown if is_custom]
    absent = [f"// TFLite Micro has no operator {op}" for op, is_custom in unknown if not is_custom]
    declaration = f"tflite::MicroMutableOpResolver<{max(len(methods) + len(custom), 1)}> resolver;"
    return "\n".join([declaration, *(f"resolver.{method}();" for method in methods), *custom, *absent])


def format_c_array(result: MicroResult, model: TFLiteModel, path: str | os.PathLike[str]) -> dict[pathlib.Path, str]:
    """Return the text of a .cc and of a .h file (C++11), by their paths; the names are in a namespace of the path's.

    Args:
        result, model: the measurement of a file, and the file.
        path: path of either file, or of both without the ending.

    Raises:
        InputError: another ending, or the scale of an input or output is not finite.
    """
    import jinja2

    source, header = c_array_paths(path)
    content, main = model.content, model.main
    starts = range(0, len(content), _BYTES_PER_LINE)
    inputs, outputs = ([main.tensors[index] for index in indexes] for indexes in (main.inputs, main.outputs))
    is_row = len(outputs) == 1 and outputs[0].shape and all(size == 1 for size in outputs[0].shape[:-1])
    facts = {
        "header": header.name,
        "space": cpp_identifier(source.stem),
        "lines": (
            " ".join(f"0x{value:02x}," for value in content[start : start + _BYTES_PER_LINE]) for start in starts
        ),
        "result": result,
        "inputs": inputs,
        "outputs": outputs,
        "labels": outputs[0].shape[-1] if is_row else None,  # the only output is one row of them
        "float_dtypes": FLOAT_DTYPES,
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"comment": _comment_text, "float_literal": _float_literal}
    names = {source: "array.cc.j2", header: "array.h.j2"}
    return {path: environment.get_template(name).render(facts) for path, name in names.items()}


def c_array_paths(path: str | os.PathLike[str]) -> tuple[pathlib.Path, pathlib.Path]:
    """Return the paths of the .cc and the .h file that `path` means; errors as in `format_c_array`."""
    path = pathlib.Path(path)
    if path.suffix not in ("", ".cc", ".h") or not path.stem:
        expected = "Expected a path that ends in .cc or .h, or without an ending"
        raise InputError(f"{expected}. Received: {str(path)!r}", path=path)
    if not path.name.isprintable() or set(path.name) & set('"\\') or "??" in path.name:
        expected = "Expected a file name that #include can hold, without quotes and backslashes"
        raise InputError(f"{expected}. Received: {str(path)!r}", path=path)
    return path.with_suffix(".cc"), path.with_suffix(".h")


def cpp_identifier(text: str) -> str:
    """Return a C++ name for `text`: "m3d_net_model" for "3d-net", which is no keyword and no macro such as `unix`."""
    name = re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")
    return f"{'m' if name[0].isdigit() else ''}{name}_model" if name else "model"


def _float_literal(value: float) -> str:
    """Return a float32 as a literal that reads back as the same value."""
    if not math.isfinite(value):
        raise InputError(f"Expected a finite scale. Received: {value}")
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _comment_text(text: str) -> str:
    r"""Return text that can end a // comment: a backslash, or its trigraph, would continue the comment."""
    return re.sub(r"\?+", "?", escape_unprintable(printable(text, TEXT_LIMIT), "ascii").replace("\\", "/"))
