"""Damage done to .tflite files, as a flash with a bad cell or a wrong tool would."""

import importlib

import numpy as np

generated = importlib.import_module("ai_edge_litert.schema_py_generated")
flatbuffers = importlib.import_module("flatbuffers")

BYTES = {"float32": 4, "float16": 2, "int8": 1, "int32": 4}


def edited(content, change):
    """Return a file after `change(model, subgraph)`."""
    model = generated.ModelT.InitFromPackedBuf(content, 0)
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def flipped(content, tensor, element):
    """Return a file in which the highest bit below the sign of one element changed, or the sign of an int8."""

    def flip(model, subgraph):
        size = BYTES[tensor.dtype]
        values = _values(model, subgraph, tensor)
        values[element * size + size - 1] ^= 0x80 if size == 1 else 0x40
        _buffer(model, subgraph, tensor).data = values

    return edited(content, flip)


def reordered(content, tensor, axis, order):
    """Return a file in which the positions of a constant along one axis changed places, with scales of their own."""

    def reorder(model, subgraph):
        values = _values(model, subgraph, tensor).reshape(*tensor.shape, BYTES[tensor.dtype])
        _buffer(model, subgraph, tensor).data = np.take(values, order, axis).ravel()
        quantization = subgraph.tensors[tensor.index].quantization
        scales = None if quantization is None else quantization.scale
        if scales is not None and len(scales) == len(order) > 1 and quantization.quantizedDimension == axis:
            quantization.scale = np.take(scales, order)

    return edited(content, reorder)


def shifted(content, tensor, by):
    """Return a file in which the zero point of a tensor is another."""

    def shift(_, subgraph):
        quantization = subgraph.tensors[tensor.index].quantization
        quantization.zeroPoint = np.array(quantization.zeroPoint) + by

    return edited(content, shift)


def _buffer(model, subgraph, tensor):
    return model.buffers[subgraph.tensors[tensor.index].buffer]


def _values(model, subgraph, tensor):
    return np.array(_buffer(model, subgraph, tensor).data, np.uint8)
