"""The smallest .tflite files that multiply matrices: what the runtime's own matrix product is measured with."""

import numpy as np

from keras_nin.errors import one_of

DTYPES = ("float32", "int8")
_SCALE = 1 / 128


def write(path, rows, inner, columns, dtype):
    """Write a file of one FULLY_CONNECTED: (rows, inner) times (inner, columns), `rows * inner * columns` MACs.

    int8 is quantised as the converter does it: a scale for each output channel, int32 biases.

    Args:
        path: of the file, a `pathlib.Path`.
        rows, inner, columns: sizes.
        dtype: of the matrices, one of `DTYPES`.

    Raises:
        InputError: another dtype.
    """
    one_of("dtype", dtype, DTYPES)
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    quantized = dtype == "int8"
    code = getattr(schema.TensorType, dtype.upper())
    bias_code = schema.TensorType.INT32 if quantized else code
    weights, bias = _constants(inner, columns, quantized)
    tensors = [
        _tensor(schema, "input", (rows, inner), code, 0, [_SCALE] if quantized else None),
        _tensor(schema, "weights", (columns, inner), code, 1, [_SCALE] * columns if quantized else None),
        _tensor(schema, "bias", (columns,), bias_code, 2, [_SCALE**2] * columns if quantized else None),
        # The sum of `inner` products of noise grows with its root.
        _tensor(schema, "output", (rows, columns), code, 0, [_SCALE * inner**0.5] if quantized else None),
    ]
    options = schema.FullyConnectedOptionsT()
    operator = _record(
        schema.OperatorT, opcodeIndex=0, inputs=[0, 1, 2], outputs=[3], builtinOptions=options,
        builtinOptionsType=schema.BuiltinOptions.FullyConnectedOptions,
    )  # fmt: skip
    kind = schema.BuiltinOperator.FULLY_CONNECTED
    model = _record(
        schema.ModelT,
        version=3,
        operatorCodes=[_record(schema.OperatorCodeT, builtinCode=kind, deprecatedBuiltinCode=kind, version=1)],
        subgraphs=[_record(schema.SubGraphT, tensors=tensors, operators=[operator], inputs=[0], outputs=[3])],
        buffers=[schema.BufferT(), *(_record(schema.BufferT, data=_bytes(each)) for each in (weights, bias))],
    )
    builder = flatbuffers.Builder(weights.nbytes + 2**12)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())


def _constants(inner, columns, quantized):
    random = np.random.default_rng(0)
    if quantized:
        return random.integers(-127, 127, (columns, inner), np.int8, endpoint=True), np.zeros(columns, np.int32)
    return random.standard_normal((columns, inner), np.float32), np.zeros(columns, np.float32)


def _bytes(values):
    return np.frombuffer(values.tobytes(), np.uint8)


def _tensor(schema, name, shape, code, buffer, scales):
    made = _record(schema.TensorT, name=name, shape=list(shape), type=code, buffer=buffer)
    if scales is not None:
        made.quantization = _record(schema.QuantizationParametersT, scale=scales, zeroPoint=[0] * len(scales))
    return made


def _record(kind, **fields):
    made = kind()
    for name, value in fields.items():
        setattr(made, name, value)
    return made
