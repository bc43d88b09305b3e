"""Networks of a few operators, written as .tflite files for the tests of edge targets."""

from tflite_writer import custom, generated, operator, tensor, write

QUANTIZED = generated.QuantizationParametersT


def quantized(name, shape, dtype="INT8", data=None, zero_point=0):
    parameters = QUANTIZED()
    parameters.scale, parameters.zeroPoint = [0.5], [zero_point]
    return tensor(name, shape, dtype, data, quantization=parameters)


def unary(op, before, after, options=None, constants=(), dtypes=("INT8", "INT8"), **values):
    """Return (tensors, operators) of a file of one operator on one input; `constants` are its other operands."""
    made = [_activation("in", before, dtypes[0]), *constants, _activation("out", after, dtypes[1])]
    return made, [operator(op, list(range(len(made) - 1)), [len(made) - 1], options, **values)]


def _activation(name, shape, dtype):
    return quantized(name, shape, dtype) if dtype == "INT8" else tensor(name, shape, dtype)


def conv(dilation=1, computed=None, kernel=(1, 1)):
    weights, bias = quantized("w", [4, *kernel, 4], data=1), tensor("b", [4], "INT32", 0)
    weights = quantized("w", [1, 1, 1, 4]) if computed == "weights" else weights
    bias = tensor("b", [4], "INT32") if computed == "bias" else bias
    made, operators = unary(
        "CONV_2D",
        [1, 8, 8, 4],
        [1, 8, 8, 4],
        "Conv2DOptions",
        (weights, bias),
        strideW=1,
        strideH=1,
        dilationWFactor=dilation,
        dilationHFactor=1,
    )
    return made, operators


def chain(path, *names, ends=None):
    """Write a file of operators of one input each, in a row; names in lower case are custom operators."""
    tensors = [quantized(f"t{index}", [1, 4]) for index in range(len(names) + 1)]
    operators = [_link(name, index) for index, name in enumerate(names)]
    return write(path, tensors, operators, outputs=ends)


def _link(name, index):
    make = custom if name.islower() else operator
    return make(name, [index], [index + 1])
