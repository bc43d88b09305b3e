"""A .tflite file as plain records, read from its flatbuffer alone."""

import os

from keras_nin.files import read_bytes
from keras_nin.tflite import schema
from keras_nin.tflite.flatbuffer import FlatbufferReader
from keras_nin.tflite.records import (
    QuantizationParameters,
    TFLiteModel,
    TFLiteOperator,
    TFLiteSignature,
    TFLiteSubgraph,
    TFLiteTensor,
)

__all__ = [
    "FLOAT_DTYPES",
    "TFLiteModel",
    "TFLiteOperator",
    "QuantizationParameters",
    "TFLiteSignature",
    "TFLiteSubgraph",
    "TFLiteTensor",
    "float_operators",
    "read_model",
]

_MAX_DIMENSIONS = 254  # as TensorFlow has it
FLOAT_DTYPES = frozenset(name for name, _ in schema.DTYPES if name.startswith(("float", "bfloat", "complex")))


def float_operators(graph):
    """Return the operators, of all subgraphs, that read or write a tensor of real or complex numbers.

    An integer network has none: QUANTIZE and DEQUANTIZE at a float input or output count, and so does the
    DEQUANTIZE of weights kept as float16.
    """
    return tuple(
        operator
        for subgraph in graph.subgraphs
        for operator in subgraph.operators
        if any(
            subgraph.tensors[index].dtype in FLOAT_DTYPES for index in operator.inputs + operator.outputs if index >= 0
        )
    )


def read_model(source):
    """Return the `Graph` of a .tflite file.

    Nothing in the file is trusted: every offset, index and size is checked.

    Args:
        source: path of the file, or its content as bytes.

    Raises:
        InputError: the file cannot be read, or is not a valid .tflite file of schema version 3.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_model(FlatbufferReader(bytes(source), "the bytes given"))
    return _read_model(FlatbufferReader(read_bytes(source), repr(os.fspath(source))))


def _read_model(reader):
    model = reader.root(schema.IDENTIFIER)
    version = model.scalar(schema.ModelSlots.VERSION, "I")
    if version != schema.VERSION:
        raise reader.fail(f"the schema version is {version}, not {schema.VERSION}")
    codes = [_read_operator_code(code) for code in model.tables(schema.ModelSlots.OPERATOR_CODES)]
    buffers = tuple(
        _read_buffer_span(index, buffer) for index, buffer in enumerate(model.tables(schema.ModelSlots.BUFFERS))
    )
    tables = model.tables(schema.ModelSlots.SUBGRAPHS)
    if not tables:
        raise reader.fail("there is no subgraph")
    subgraphs = tuple(_read_subgraph(index, table, codes, buffers, len(tables)) for index, table in enumerate(tables))
    return TFLiteModel(
        subgraphs=subgraphs,
        description=model.string(schema.ModelSlots.DESCRIPTION),
        version=version,
        size_bytes=len(reader.data),
        signatures=tuple(_read_signature(table, subgraphs) for table in model.tables(schema.ModelSlots.SIGNATURE_DEFS)),
        metadata=tuple(entry.string(schema.MetadataSlots.NAME) for entry in model.tables(schema.ModelSlots.METADATA)),
        content=reader.data,
        buffer_spans=buffers,
    )


def _read_buffer_span(index, table):
    """Return (first byte, bytes) of a buffer's content; (0, 0) where it has none."""
    first, size = table.span(schema.BufferSlots.DATA) or (0, 0)
    if not size:
        first, size = table.scalar(schema.BufferSlots.OFFSET, "Q"), table.scalar(schema.BufferSlots.SIZE, "Q")
        if first <= 1 or size <= 1:  # the schema's mark for "not used"
            return 0, 0
        table.reader.check(first, size, f"buffer {index}")
    return first, size


def _read_operator_code(table):
    """Return (name, version, is custom) of an operator type."""
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


def _read_subgraph(index, table, codes, buffers, subgraph_count):
    tensors = tuple(
        _read_tensor(i, entry, buffers) for i, entry in enumerate(table.tables(schema.SubgraphSlots.TENSORS))
    )
    operators = tuple(
        _read_operator(i, entry, index, codes, tensors, subgraph_count)
        for i, entry in enumerate(table.tables(schema.SubgraphSlots.OPERATORS))
    )
    return TFLiteSubgraph(
        name=table.string(schema.SubgraphSlots.NAME),
        tensors=tensors,
        operators=operators,
        inputs=_read_tensor_indexes(table, schema.SubgraphSlots.INPUTS, tensors, f"subgraph {index}"),
        outputs=_read_tensor_indexes(table, schema.SubgraphSlots.OUTPUTS, tensors, f"subgraph {index}"),
    )


def _read_tensor_indexes(table, slot, tensors, owner, least=0):
    """Return a vector of tensor indexes, each checked to name one of `tensors`."""
    indexes = table.vector(slot, "i") or ()
    for index in indexes:
        if not least <= index < len(tensors):
            raise table.reader.fail(f"{owner} refers to tensor {index} of {len(tensors)}")
    return indexes


def _read_tensor(index, table, buffers):
    fail = table.reader.fail
    slots = schema.TensorSlots
    code, buffer = table.scalar(slots.TYPE, "b"), table.scalar(slots.BUFFER, "I")
    shape = table.vector(slots.SHAPE, "i") or ()
    if not 0 <= code < len(schema.DTYPES):
        raise fail(f"tensor {index} has the unknown type code {code} (known: 0 to {len(schema.DTYPES) - 1})")
    if buffer >= max(len(buffers), 1):
        raise fail(f"tensor {index} refers to buffer {buffer} of {len(buffers)}")
    if len(shape) > _MAX_DIMENSIONS:
        raise fail(f"tensor {index} has {len(shape)} dimensions, more than {_MAX_DIMENSIONS}")
    if any(size < 0 for size in shape):
        raise fail(f"tensor {index} has the negative size {min(shape)}")
    if table.scalar(slots.EXTERNAL_BUFFER, "I"):
        raise fail(f"tensor {index} keeps its values in another file, which is not supported")
    tensor = TFLiteTensor(
        index=index,
        name=table.string(slots.NAME),
        shape=shape,
        shape_signature=table.vector(slots.SHAPE_SIGNATURE, "i"),
        dtype=schema.DTYPES[code][0],
        quantization=_read_quantization(index, table, shape),
        buffer=buffer,
        buffer_bytes=buffers[buffer][1] if buffer else 0,  # buffer 0 stands for "none", whatever it holds
        is_variable=table.scalar(slots.IS_VARIABLE, "?", False),
        is_sparse=table.table(slots.SPARSITY) is not None,
    )
    if tensor.is_constant and not tensor.is_sparse and tensor.nbytes not in (None, tensor.buffer_bytes):
        raise fail(f"tensor {index} takes {tensor.nbytes} bytes, but its buffer has {tensor.buffer_bytes}")
    return tensor


def _read_quantization(index, tensor, shape):
    table = tensor.table(schema.TensorSlots.QUANTIZATION)
    scales = table.vector(schema.QuantizationSlots.SCALE, "f") if table else None
    if not scales:
        return None
    fail = table.reader.fail
    zero_points = table.vector(schema.QuantizationSlots.ZERO_POINT, "q") or ()
    axis = table.scalar(schema.QuantizationSlots.QUANTIZED_DIMENSION, "i")
    if len(zero_points) not in (1, len(scales)):
        raise fail(f"tensor {index} has {len(scales)} scales but {len(zero_points)} zero points")
    if len(scales) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scales)):
        raise fail(f"tensor {index} of shape {shape} has {len(scales)} scales along dimension {axis}")
    return QuantizationParameters(scales, zero_points * (len(scales) // len(zero_points)), axis)


def _read_operator(index, table, subgraph, codes, tensors, subgraph_count):
    fail = table.reader.fail
    owner = f"operator {index} of subgraph {subgraph}"
    code = table.scalar(schema.OperatorSlots.OPCODE_INDEX, "I")
    if code >= len(codes):
        raise fail(f"{owner} refers to operator type {code} of {len(codes)}")
    op, version, is_custom = codes[code]
    owner = f"{owner} ({op})"
    operator = TFLiteOperator(
        index=index,
        op=op,
        version=version,
        inputs=_read_tensor_indexes(table, schema.OperatorSlots.INPUTS, tensors, owner, least=-1),
        outputs=_read_tensor_indexes(table, schema.OperatorSlots.OUTPUTS, tensors, owner),
        options={} if is_custom else _read_options(op, table, owner),
        is_custom=is_custom,
        subgraph=subgraph,
    )
    for name, value in operator.options.items():
        if name.endswith("subgraph_index") and not 0 <= value < subgraph_count:
            raise fail(f"{owner} has the {name} {value} of {subgraph_count}")
    # The runtime would write over the file's content.
    if any(tensors[output].is_constant for output in operator.outputs):
        raise fail(f"{owner} writes to a constant tensor")
    return operator


def _read_options(op, table, owner):
    """Return the options of a builtin by name; an absent one has the schema's default."""
    known = schema.OPERATOR_OPTIONS.get(op)
    if known is None:
        return {}
    code = table.scalar(schema.OperatorSlots.BUILTIN_OPTIONS_TYPE, "B")
    if code not in (0, known.code):
        raise table.reader.fail(f"{owner} has options of type {code}, not {known.code} ({known.schema_name})")
    options = table.table(schema.OperatorSlots.BUILTIN_OPTIONS) if code else None
    return {option.name: _read_option(option, options, table.reader, owner) for option in known.options}


def _read_option(option, options, reader, owner):
    if options is None:
        value = option.default
    elif option.code.endswith("*"):
        value = options.vector(option.slot, option.code[:-1])
    else:
        value = options.scalar(option.slot, option.code, option.default)
    if option.least is not None and value < option.least:
        raise reader.fail(f"{owner} has the {option.name} {value}, less than {option.least}")
    if option.names is None:
        return value
    if not 0 <= value < len(option.names):
        raise reader.fail(f"{owner} has the unknown {option.name} {value}")
    return option.names[value]


def _read_signature(table, subgraphs):
    slots = schema.SignatureSlots
    key, subgraph = table.string(slots.SIGNATURE_KEY), table.scalar(slots.SUBGRAPH_INDEX, "I")
    if subgraph >= len(subgraphs):
        raise table.reader.fail(f"signature {key!r} refers to subgraph {subgraph} of {len(subgraphs)}")

    def named(slot):
        pairs = tuple(
            (entry.string(schema.TensorMapSlots.NAME), entry.scalar(schema.TensorMapSlots.TENSOR_INDEX, "I"))
            for entry in table.tables(slot)
        )
        for name, index in pairs:
            if index >= len(subgraphs[subgraph].tensors):
                raise table.reader.fail(f"{name!r} of signature {key!r} refers to tensor {index}")
        return pairs

    return TFLiteSignature(key, subgraph, named(slots.INPUTS), named(slots.OUTPUTS))
