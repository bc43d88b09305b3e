"""Small .tflite files for tests, written with the schema's generated module."""

import importlib
import math

import numpy as np

generated = importlib.import_module("ai_edge_litert.schema_py_generated")
flatbuffers = importlib.import_module("flatbuffers")

SIZES = {"UINT8": np.uint8, "INT8": np.int8, "INT32": np.int32, "FLOAT16": np.float16, "FLOAT32": np.float32}


def _record(kind, **fields):
    made = getattr(generated, kind + "T")()
    for name, value in fields.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    return made


def tensor(name, shape, dtype="INT8", data=None, **fields):
    """Return a tensor; a constant where `data` is values, or a number to fill it with."""
    made = _record("Tensor", name=name, shape=list(shape), type=getattr(generated.TensorType, dtype), **fields)
    made.values = None
    if data is not None:
        values = np.full(math.prod(shape), data) if isinstance(data, int) else np.array(data)
        made.values = values.astype(SIZES[dtype]).tobytes()
    return made


def quantization(scales):
    """Return the quantization of weights: one scale, or one for each position along the first axis."""
    return _record("QuantizationParameters", scale=scales, zeroPoint=[0] * len(scales), quantizedDimension=0)


def operator(op, inputs, outputs, options=None, **values):
    """Return a builtin operator by its name."""
    made = _record("Operator", inputs=inputs, outputs=outputs)
    made.code = (getattr(generated.BuiltinOperator, op), None)
    if options:
        made.builtinOptionsType = getattr(generated.BuiltinOptions, options)
        made.builtinOptions = _record(options, **values)
    return made


def custom(code, inputs, outputs):
    """Return a custom operator."""
    made = _record("Operator", inputs=inputs, outputs=outputs)
    made.code = (generated.BuiltinOperator.CUSTOM, code)
    return made


def write(path, tensors, operators, *, inputs=(0,), outputs=None, more=()):
    """Write a file and return its path; the last tensor is the output.

    `more` is (tensors, operators) of further subgraphs, or (tensors, operators, inputs, outputs).
    """
    buffers, codes, subgraphs = [_record("Buffer")], [], []
    for each_tensors, each_operators, *own in ((tensors, operators), *more):
        for each in each_tensors:
            if each.values is not None:
                each.buffer = len(buffers)
                buffers.append(_record("Buffer", data=list(each.values)))
        for each in each_operators:
            if each.code not in codes:
                codes.append(each.code)
            each.opcodeIndex = codes.index(each.code)
        starts, ends = own or (inputs, outputs if outputs is not None else [len(each_tensors) - 1])
        subgraphs.append(
            _record("SubGraph", tensors=each_tensors, operators=each_operators, inputs=list(starts), outputs=list(ends))
        )
    made = [
        _record("OperatorCode", builtinCode=code, deprecatedBuiltinCode=min(code, 127), customCode=name)
        for code, name in codes
    ]
    model = _record("Model", version=3, operatorCodes=made, subgraphs=subgraphs, buffers=buffers)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
