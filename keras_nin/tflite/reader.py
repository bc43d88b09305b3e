"""Reading a .tflite file from its flatbuffer alone. Nothing in the file is trusted."""

import dataclasses
import os
import pathlib
import struct
from collections.abc import Sequence
from typing import Any, TypeAlias

from keras_nin.errors import InputError
from keras_nin.files import read_bytes
from keras_nin.formatting import format_count
from keras_nin.tflite import records, schema, validation
from keras_nin.tflite.flatbuffer import FlatbufferReader, FlatbufferTable, check_structure

# A file: its path, its content, or what was read of it.
ModelSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | records.TFLiteModel

_MAX_DIMENSIONS = 254  # as TensorFlow has it
_OperatorCode: TypeAlias = tuple[str, int, bool]  # name, version, whether it is a custom operator
_Span: TypeAlias = tuple[int, int]  # first byte, number of bytes


def read_model(source: ModelSource) -> records.TFLiteModel:
    """Return a .tflite file as records; every offset, index and size in it is checked.

    Args:
        source: path of the file, or its content. A `TFLiteModel` is returned as it is.

    Raises:
        InputError: the file cannot be read, or is not a valid .tflite file of schema version 3.
    """
    if isinstance(source, records.TFLiteModel):
        return source
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_model(FlatbufferReader(bytes(source)))
    path = pathlib.Path(source)
    return _read_model(FlatbufferReader(read_bytes(path), path))


def read_checked_model(source: ModelSource) -> records.TFLiteModel:
    """Return a .tflite file that somebody else may have made, with no error of `keras-nin check`.

    Arguments and errors are those of `read_model`; the first of several problems is named.
    """
    model = read_model(source)
    errors = [problem for problem in validation.find_problems(model) if problem.severity == validation.ERROR]
    if errors:
        more = f" ({format_count(len(errors) - 1, 'more error')}; keras-nin check lists them)" if errors[1:] else ""
        raise FlatbufferReader(b"", model.path).fail(f"{errors[0].message}{more}")
    return model


def expose_tensors(model: records.TFLiteModel, tensors: Sequence[int]) -> records.TFLiteModel:
    """Return a file with further outputs: these tensors of its main subgraph, behind its own.

    The delegate does not keep what lies between its operators, but for outputs. Nothing in the file moves: the longer
    list of outputs is behind its end.

    Raises:
        InputError: a file without outputs.
    """
    outputs = (*model.main.outputs, *(index for index in tensors if index not in model.main.outputs))
    content = bytearray(model.content)
    content += bytes(-len(content) % 16)
    subgraph = FlatbufferReader(model.content).root(schema.IDENTIFIER).tables(schema.ModelSlots.SUBGRAPHS)[0]
    position = subgraph.field_position(schema.SubgraphSlots.OUTPUTS)
    if position is None:
        raise InputError(f"Expected a file with outputs. Received: {model.source}")
    struct.pack_into("<I", content, position, len(content) - position)
    content += struct.pack(f"<I{len(outputs)}i", len(outputs), *outputs)
    main = dataclasses.replace(model.main, outputs=outputs)
    return dataclasses.replace(model, content=bytes(content), subgraphs=(main, *model.subgraphs[1:]))


def _read_model(reader: FlatbufferReader) -> records.TFLiteModel:
    slots = schema.ModelSlots
    model = reader.root(schema.IDENTIFIER)
    version = model.scalar(slots.VERSION, "I")
    if version != schema.VERSION:
        raise reader.fail(f"the schema version is {version}, not {schema.VERSION}")
    codes = [_read_operator_code(code) for code in model.tables(slots.OPERATOR_CODES)]
    spans = tuple(_read_buffer_span(index, buffer) for index, buffer in enumerate(model.tables(slots.BUFFERS)))
    tables = model.tables(slots.SUBGRAPHS)
    if not tables:
        raise reader.fail("there is no subgraph")
    subgraphs = tuple(_read_subgraph(index, table, codes, spans, len(tables)) for index, table in enumerate(tables))
    metadata = model.tables(slots.METADATA)
    for entry in metadata:
        if (buffer := entry.scalar(schema.MetadataSlots.BUFFER, "I")) >= max(len(spans), 1):
            raise reader.fail(f"a metadata entry refers to buffer {buffer} of {len(spans)}")
    file = records.TFLiteModel(
        subgraphs=subgraphs,
        description=model.string(slots.DESCRIPTION),
        version=version,
        size_bytes=len(reader.data),
        signatures=tuple(_read_signature(table, subgraphs) for table in model.tables(slots.SIGNATURE_DEFS)),
        metadata=tuple(entry.string(schema.MetadataSlots.NAME) for entry in metadata),
        content=reader.data,
        buffer_spans=spans,
        path=reader.path,
    )
    check_structure(reader.data, reader.path, "Model", schema.LAYOUTS, schema.UNIONS)
    return file


def _read_buffer_span(index: int, table: FlatbufferTable) -> _Span:
    """Return (first byte, bytes) of a buffer's content; (0, 0) where it has none."""
    first, size = table.span(schema.BufferSlots.DATA) or (0, 0)
    if not size:
        first, size = table.scalar(schema.BufferSlots.OFFSET, "Q"), table.scalar(schema.BufferSlots.SIZE, "Q")
        if first <= 1 or size <= 1:  # the schema's mark for "not used"
            return 0, 0
        table.reader.check(first, size, f"buffer {index}")
    return first, size


def _read_operator_code(table: FlatbufferTable) -> _OperatorCode:
    # Files from before code 127 was passed have the first field only; newer ones write both.
    code = max(
        table.scalar(schema.OperatorCodeSlots.DEPRECATED_BUILTIN_CODE, "b"),
        table.scalar(schema.OperatorCodeSlots.BUILTIN_CODE, "i"),
    )
    if not 0 <= code < len(schema.OPERATORS):
        raise table.reader.fail(f"operator code {code} is unknown (known: 0 to {len(schema.OPERATORS) - 1})")
    name, version = schema.OPERATORS[code], table.scalar(schema.OperatorCodeSlots.VERSION, "i", 1)
    if name != schema.CUSTOM:
        return name, version, False
    return table.string(schema.OperatorCodeSlots.CUSTOM_CODE) or name, version, True


def _read_subgraph(
    index: int, table: FlatbufferTable, codes: list[_OperatorCode], spans: tuple[_Span, ...], subgraph_count: int
) -> records.TFLiteSubgraph:
    slots = schema.SubgraphSlots
    tensors = tuple(_read_tensor(number, entry, spans) for number, entry in enumerate(table.tables(slots.TENSORS)))
    operators = tuple(
        _read_operator(number, entry, index, codes, tensors, subgraph_count)
        for number, entry in enumerate(table.tables(slots.OPERATORS))
    )
    return records.TFLiteSubgraph(
        name=table.string(slots.NAME),
        tensors=tensors,
        operators=operators,
        inputs=_read_tensor_indexes(table, slots.INPUTS, tensors, f"subgraph {index}"),
        outputs=_read_tensor_indexes(table, slots.OUTPUTS, tensors, f"subgraph {index}"),
    )


def _read_tensor_indexes(
    table: FlatbufferTable, slot: int, tensors: tuple[records.TFLiteTensor, ...], owner: str, minimum: int = 0
) -> tuple[int, ...]:
    """Return a vector of tensor indexes, each checked to name one of `tensors`."""
    indexes = table.vector(slot, "i") or ()
    for index in indexes:
        if not minimum <= index < len(tensors):
            raise table.reader.fail(f"{owner} refers to tensor {index} of {len(tensors)}")
    return indexes


def _read_tensor(index: int, table: FlatbufferTable, spans: tuple[_Span, ...]) -> records.TFLiteTensor:
    fail = table.reader.fail
    slots = schema.TensorSlots
    code, buffer = table.scalar(slots.TYPE, "b"), table.scalar(slots.BUFFER, "I")
    shape = table.vector(slots.SHAPE, "i") or ()
    if not 0 <= code < len(schema.DTYPES):
        raise fail(f"tensor {index} has the unknown type code {code} (known: 0 to {len(schema.DTYPES) - 1})")
    if buffer >= max(len(spans), 1):
        raise fail(f"tensor {index} refers to buffer {buffer} of {len(spans)}")
    if len(shape) > _MAX_DIMENSIONS:
        raise fail(f"tensor {index} has {len(shape)} dimensions, more than {_MAX_DIMENSIONS}")
    if any(size < 0 for size in shape):
        raise fail(f"tensor {index} has the negative size {min(shape)}")
    if table.scalar(slots.EXTERNAL_BUFFER, "I"):
        raise fail(f"tensor {index} keeps its values in another file, which is not supported")
    tensor = records.TFLiteTensor(
        index=index,
        name=table.string(slots.NAME),
        shape=shape,
        shape_signature=table.vector(slots.SHAPE_SIGNATURE, "i"),
        dtype=schema.DTYPES[code][0],
        quantization=_read_quantization(index, table),
        buffer=buffer,
        buffer_bytes=spans[buffer][1] if buffer else 0,  # buffer 0 stands for "none", whatever it holds
        is_variable=table.scalar(slots.IS_VARIABLE, "?", False),
        is_sparse=table.table(slots.SPARSITY) is not None,
    )
    if tensor.is_constant and not tensor.is_sparse and tensor.nbytes not in (None, tensor.buffer_bytes):
        raise fail(f"tensor {index} takes {tensor.nbytes} bytes, but its buffer has {tensor.buffer_bytes}")
    return tensor


def _read_quantization(index: int, tensor: FlatbufferTable) -> records.QuantizationParameters | None:
    table = tensor.table(schema.TensorSlots.QUANTIZATION)
    if table is None:
        return None
    slots = schema.QuantizationSlots
    scales = table.vector(slots.SCALE, "f")
    if not scales:
        return None
    fail = table.reader.fail
    zero_points = table.vector(slots.ZERO_POINT, "q") or ()
    axis = table.scalar(slots.QUANTIZED_DIMENSION, "i")
    if len(zero_points) not in (1, len(scales)):
        raise fail(f"tensor {index} has {len(scales)} scales but {len(zero_points)} zero points")
    return records.QuantizationParameters(scales, zero_points * (len(scales) // len(zero_points)), axis)


def _read_operator(
    index: int,
    table: FlatbufferTable,
    subgraph: int,
    codes: list[_OperatorCode],
    tensors: tuple[records.TFLiteTensor, ...],
    subgraph_count: int,
) -> records.TFLiteOperator:
    fail = table.reader.fail
    slots = schema.OperatorSlots
    owner = f"operator {index} of subgraph {subgraph}"
    code = table.scalar(slots.OPCODE_INDEX, "I")
    if code >= len(codes):
        raise fail(f"{owner} refers to operator type {code} of {len(codes)}")
    op, version, is_custom = codes[code]
    owner = f"{owner} ({op})"
    _read_tensor_indexes(table, slots.INTERMEDIATES, tensors, owner, minimum=-1)
    first, size = (
        table.scalar(slots.LARGE_CUSTOM_OPTIONS_OFFSET, "Q"),
        table.scalar(slots.LARGE_CUSTOM_OPTIONS_SIZE, "Q"),
    )
    if first > 1:  # the schema's mark for "not used"
        table.reader.check(first, size, f"the options of {owner}")
    operator = records.TFLiteOperator(
        index=index,
        op=op,
        version=version,
        inputs=_read_tensor_indexes(table, slots.INPUTS, tensors, owner, minimum=-1),
        outputs=_read_tensor_indexes(table, slots.OUTPUTS, tensors, owner),
        options={} if is_custom else _read_options(op, table, owner),
        is_custom=is_custom,
        subgraph=subgraph,
    )
    for name, value in operator.options.items():
        for number in value or () if name == "branch_subgraph_indices" else (value,):
            if "_subgraph_ind" in name and not 0 <= number < subgraph_count:
                raise fail(f"{owner} has the {name} {number} of {subgraph_count}")
    # The runtime would write over the file's content.
    if any(tensors[output].is_constant for output in operator.outputs):
        raise fail(f"{owner} writes to a constant tensor")
    return operator


def _read_options(op: str, table: FlatbufferTable, owner: str) -> dict[str, Any]:
    """Return the options of a builtin by name; an absent one has the schema's default."""
    known = schema.OPTION_TABLES.get(op)
    if known is None:
        return {}
    slots = schema.OperatorSlots
    type_slot = slots.BUILTIN_OPTIONS_TYPE if known.union == 1 else slots.BUILTIN_OPTIONS_2_TYPE
    code = table.scalar(type_slot, "B")
    if code not in (0, known.code):
        raise table.reader.fail(f"{owner} has options of type {code}, not {known.code} ({known.schema_name})")
    options = table.table(type_slot + 1) if code else None
    return {option.name: _read_option(option, options, table.reader, owner) for option in known.options}


def _read_option(option: schema.Option, options: FlatbufferTable | None, reader: FlatbufferReader, owner: str) -> Any:
    value: Any
    if options is None:
        value = option.default
    elif option.code.endswith("*"):
        value = options.vector(option.slot, option.code[:-1])
    else:
        value = options.scalar(option.slot, option.code, option.default)
    if option.minimum is not None and value < option.minimum:
        raise reader.fail(f"{owner} has the {option.name} {value}, less than {option.minimum}")
    if option.names is None:
        return value
    if not 0 <= value < len(option.names):
        raise reader.fail(f"{owner} has the unknown {option.name} {value}")
    return option.names[value]


def _read_signature(table: FlatbufferTable, subgraphs: tuple[records.TFLiteSubgraph, ...]) -> records.TFLiteSignature:
    slots = schema.SignatureSlots
    key, subgraph = table.string(slots.SIGNATURE_KEY), table.scalar(slots.SUBGRAPH_INDEX, "I")
    if subgraph >= len(subgraphs):
        raise table.reader.fail(f"signature {key!r} refers to subgraph {subgraph} of {len(subgraphs)}")

    def read_pairs(slot: int) -> tuple[tuple[str, int], ...]:
        pairs = tuple(
            (entry.string(schema.TensorMapSlots.NAME), entry.scalar(schema.TensorMapSlots.TENSOR_INDEX, "I"))
            for entry in table.tables(slot)
        )
        for name, index in pairs:
            if index >= len(subgraphs[subgraph].tensors):
                raise table.reader.fail(f"{name!r} of signature {key!r} refers to tensor {index}")
        return pairs

    return records.TFLiteSignature(key, subgraph, read_pairs(slots.INPUTS), read_pairs(slots.OUTPUTS))
