"""The TFLite schema, version 3, as far as `reader` reads it: field slots, enumerations and operator options.

Source: https://github.com/google-ai-edge/LiteRT, `schema.fbs`. A test compares every number here with the module that
is generated from that file, which is not used itself because it trusts the file it reads and is slow to import.
"""

import pathlib
import tomllib
from enum import IntEnum
from typing import Any, NamedTuple

IDENTIFIER = b"TFL3"
VERSION = 3
CUSTOM = "CUSTOM"

ModelSlots = IntEnum(
    "ModelSlots",
    "VERSION OPERATOR_CODES SUBGRAPHS DESCRIPTION BUFFERS METADATA_BUFFER METADATA SIGNATURE_DEFS",
    start=0,
)
OperatorCodeSlots = IntEnum("OperatorCodeSlots", "DEPRECATED_BUILTIN_CODE CUSTOM_CODE VERSION BUILTIN_CODE", start=0)
BufferSlots = IntEnum("BufferSlots", "DATA OFFSET SIZE", start=0)  # no DATA where it is behind the flatbuffer (> 2 GB)
MetadataSlots = IntEnum("MetadataSlots", "NAME BUFFER", start=0)
SignatureSlots = IntEnum("SignatureSlots", {"INPUTS": 0, "OUTPUTS": 1, "SIGNATURE_KEY": 2, "SUBGRAPH_INDEX": 4})
TensorMapSlots = IntEnum("TensorMapSlots", "NAME TENSOR_INDEX", start=0)
SubgraphSlots = IntEnum("SubgraphSlots", "TENSORS INPUTS OUTPUTS OPERATORS NAME", start=0)
TensorSlots = IntEnum(
    "TensorSlots",
    "SHAPE TYPE BUFFER NAME QUANTIZATION IS_VARIABLE SPARSITY SHAPE_SIGNATURE HAS_RANK VARIANT_TENSORS EXTERNAL_BUFFER",
    start=0,
)
QuantizationSlots = IntEnum(
    "QuantizationSlots", "MIN MAX SCALE ZERO_POINT DETAILS_TYPE DETAILS QUANTIZED_DIMENSION", start=0
)
OperatorSlots = IntEnum(
    "OperatorSlots",
    "OPCODE_INDEX INPUTS OUTPUTS BUILTIN_OPTIONS_TYPE BUILTIN_OPTIONS CUSTOM_OPTIONS CUSTOM_OPTIONS_FORMAT "
    "MUTATING_VARIABLE_INPUTS INTERMEDIATES LARGE_CUSTOM_OPTIONS_OFFSET LARGE_CUSTOM_OPTIONS_SIZE "
    "BUILTIN_OPTIONS_2_TYPE BUILTIN_OPTIONS_2",
    start=0,
)


class Option(NamedTuple):
    """One option of an operator: its slot, its `struct` format (a trailing ``*`` marks a vector) and its default.

    `names` turns the number into a word, `minimum` is the smallest value that makes sense.
    """

    name: str
    slot: int
    code: str
    default: object
    names: tuple[str, ...] | None
    minimum: int | None


class OptionsTable(NamedTuple):
    """The options of an operator: the code in its union, the schema's table and what is read of it.

    `union` is 1 for `BuiltinOptions`, 2 for `BuiltinOptions2`.
    """

    code: int
    schema_name: str
    options: tuple[Option, ...] = ()
    union: int = 1


_TABLES: dict[str, Any] = tomllib.loads(pathlib.Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_ENUMS = {name: tuple(words) for name, words in _TABLES["enums"].items()}
PADDINGS, ACTIVATIONS = _ENUMS["paddings"], _ENUMS["activations"]
# Position = the code of `TensorType`; with each the bits per element, None where elements have no fixed size.
DTYPES: tuple[tuple[str, int | None], ...] = tuple(
    (name, bits[0] if bits else None) for name, *bits in _TABLES["dtypes"]
)
BITS = dict(DTYPES)
OPERATORS: tuple[str, ...] = tuple(_TABLES["operators"].split())  # position = the code of `BuiltinOperator`


_DEFAULTS = {"?": False, "f": 0.0, "i*": None}


def _read_option(
    name: str, slot: int, code: str = "i", default: object = None, enum: str = "", minimum: int | None = None
) -> Option:
    return Option(name, slot, code, default or _DEFAULTS.get(code, 0), _ENUMS.get(enum), minimum)


OPERATOR_OPTIONS = {
    operator: OptionsTable(
        table["code"], schema_name, tuple(_read_option(**option) for option in table["options"]), table.get("union", 1)
    )
    for schema_name, table in _TABLES["options"].items()
    for operator in table["operators"]
}

# What every table of the schema consists of; see `keras_nin.tflite.flatbuffer.check_structure`.
LAYOUTS: dict[str, tuple[str, ...]] = {name: tuple(slots.split()) for name, slots in _TABLES["layouts"].items()}
UNIONS: dict[str, tuple[str, ...]] = {name: tuple(tables.split()) for name, tables in _TABLES["unions"].items()}


def _named_options() -> dict[str, OptionsTable]:
    """Return the table of options that is named for each operator, where it has fields."""
    tables = {
        name.lower(): OptionsTable(code, name, (), number)
        for number, union in enumerate(("BuiltinOptions", "BuiltinOptions2"), 1)
        for code, name in enumerate(UNIONS[union])
        if name in LAYOUTS
    }
    names = {operator: f"{operator.replace('_', '').lower()}options" for operator in OPERATORS}
    return {operator: tables[name] for operator, name in names.items() if name in tables}


OPTION_TABLES = _named_options() | OPERATOR_OPTIONS  # those whose type is checked


class Arity(NamedTuple):
    """The least and the most inputs and outputs of an operator; None for any number."""

    inputs: tuple[int, int | None]
    outputs: tuple[int, int | None]


def _read_range(text: str) -> tuple[int, int | None]:
    low, hyphen, high = text.partition("-")
    return int(low), int(high) if high else None if hyphen else int(low)


ARITIES = {
    operator: Arity(*map(_read_range, counts.split()))
    for counts, operators in _TABLES["arities"].items()
    for operator in operators.split()
}
