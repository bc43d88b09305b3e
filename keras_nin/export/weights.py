"""Does a file hold the model's weights? Each is compared with the model's own, before anything runs."""

import dataclasses

import numpy as np

from keras_nin.export import operators
from keras_nin.export.output_layers import chains_of, layers_by_path, output_layers_of_operators
from keras_nin.export.tuning import REACH
from keras_nin.tflite.graph import FLOAT_DTYPES

# In steps of 8 bits over the range of a channel. Rounding to the nearest step is half a step away, adaptive rounding
# less than `REACH` and one; the scale in the file is that of the same range. A weight further off is another one: no
# image is needed to see it, and on few of them it shows, since one weight of a thousand is lost in the rounding of all.
WEIGHT_LIMIT = REACH + 1.0
_PASSING = ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "Dropout", "SpatialDropout2D", "Identity")
# The axis of the output channels in the file, and the order of the axes of the Keras kernel there.
_LAYOUTS = {
    ("CONV_2D", "Conv2D"): (0, (3, 0, 1, 2)),
    ("CONV_2D", "Dense"): (0, (1, 0)),
    ("DEPTHWISE_CONV_2D", "DepthwiseConv2D"): (-1, (0, 1, 2, 3)),
    ("FULLY_CONNECTED", "Dense"): (0, (1, 0)),
    ("FULLY_CONNECTED", "Conv2D"): (0, (3, 0, 1, 2)),
}


@dataclasses.dataclass(frozen=True)
class WorstWeight:
    """The weight that differs most from the model's: `steps` in those of 8 bits over its channel, and its `layer`.

    `compared` is how many kernels were compared; others have no counterpart of the same form.
    """

    steps: float
    layer: str
    compared: int


def worst_weight(model, graph):
    """Compare the kernels of a file with those of its model, BatchNormalization folded in.

    Args:
        model: keras.Model.
        graph: the file (`keras_nin.tflite.graph.Graph`).

    Returns:
        `WorstWeight`, or None where no kernel has a counterpart.
    """
    main = graph.main
    producers = {index: operator for operator in main.operators for index in operator.outputs}
    layers, between = layers_by_path(model), chains_of(model)
    first = operators.layers_of_operators(model, graph, operators.marks_of(model))
    last = output_layers_of_operators(model, graph)
    worst = []
    for operator, path, end in zip(main.operators, first, last, strict=True):
        layout = _LAYOUTS.get((operator.op, type(layers.get(path)).__name__))
        factor = None if layout is None or end is None else _folded(between(path, end))
        tensor = None if factor is None else _kernel(main, producers, operator)
        steps = None if tensor is None else _difference(graph, tensor, layers[path].kernel, factor, *layout)
        if steps is not None:
            worst.append((steps, path))
    if not worst:
        return None
    steps, path = max(worst, key=lambda each: np.inf if np.isnan(each[0]) else each[0])
    return WorstWeight(float(steps), path, len(worst))


def _folded(chain):
    """Return what the converter multiplies the channels of a kernel with; None where that is not known.

    `chain` are the layers from that of the kernel to the last that was fused, or None.
    """
    if chain is None:
        return None
    factor = np.float64(1)
    for layer in chain[1:]:
        if type(layer).__name__ == "BatchNormalization" and layer.axis in (-1, len(layer.input.shape) - 1):
            gamma = layer.gamma.numpy() if layer.scale else 1
            factor = factor * gamma / np.sqrt(layer.moving_variance.numpy().astype(np.float64) + layer.epsilon)
        elif type(layer).__name__ not in _PASSING:
            return None
    return factor


def _kernel(main, producers, operator):
    """Return the constant tensor that holds an operator's kernel; None where it is computed."""
    index = operator.inputs[1]
    cast = producers.get(index)
    if cast is not None and cast.op == "DEQUANTIZE":
        index = cast.inputs[0]
    tensor = main.tensors[index]
    is_known = tensor.dtype in ("int8", "uint8", "float16", "float32") and not tensor.is_sparse
    return tensor if tensor.is_constant and is_known else None


def _difference(graph, tensor, kernel, factor, axis, order):
    """Return the largest difference of a weight in steps of 8 bits; None where the forms differ."""
    expected = kernel.numpy().astype(np.float64).transpose(order)
    if axis == -1:  # depthwise: the channels and their multiples are one axis
        expected = expected.reshape(1, *expected.shape[:2], -1)
    found = _reals(graph, tensor)
    if expected.shape[axis] != found.shape[axis] or expected.size != found.size:
        return None
    channels = expected.shape[axis]
    expected, found = (np.moveaxis(each, axis, 0).reshape(channels, -1) for each in (expected, found))
    expected = expected * np.reshape(factor, (-1, 1))
    largest = np.abs(expected).max(axis=1, keepdims=True)
    quantization = None if tensor.dtype in FLOAT_DTYPES else tensor.quantization
    if quantization is not None and len(quantization.scales) == 1:
        largest = largest.max()
    # A channel without any weight has the step of the others.
    step = np.where(largest > 0, largest, max(np.max(largest), np.finfo(np.float32).tiny)) / 127
    return float((np.abs(found - expected) / step).max())


def _reals(graph, tensor):
    """Return the values of a constant tensor as float64, integers dequantised."""
    values = graph.data(tensor).astype(np.float64)
    if tensor.dtype in FLOAT_DTYPES or tensor.quantization is None:
        return values
    shape = [1] * values.ndim
    shape[tensor.quantization.axis] = -1
    scales, zero_points = (
        np.reshape(each, shape) for each in (tensor.quantization.scales, tensor.quantization.zero_points)
    )
    return (values - zero_points) * scales
