"""Is the exported file as good as the model? Both run on the same images; differences are in quantisation steps."""

import dataclasses

import numpy as np

from keras_nin.errors import InputError
from keras_nin.export import operator_layers, tolerance
from keras_nin.export.calibration import input_specs, output_specs, pack_inputs
from keras_nin.export.operator_layers import layer_chains, layers_by_path, map_output_layers
from keras_nin.export.parity import (
    Parity,
    ParityCheck,
    ParityLimits,
    check_labels,
    compare_outputs,
    with_weight_check,
    worst_parity,
)
from keras_nin.tflite.records import FLOAT_DTYPES

__all__ = ["ParityCheck", "ParityLimits", "Parity", "check_labels", "compare_outputs", "verify_files"]


def verify_files(model, runners, batches, *, source, random_weights=False, limits=None):
    """Run a model and its exported files on the same images and compare the outputs.

    Args:
        model: keras.Model.
        runners: `keras_nin.tflite.runner.TFLiteRunner` of each file.
        batches: iterable of (float32 images (N, H, W, C), labels (N,) or None), as `Dataset.batches` gives them; of
            several inputs a dictionary of arrays by the names of `keras_nin.export.calibration`.
        source: name of the images' source, for the record.
        random_weights: whether agreement and accuracy mean nothing because the weights are random.
        limits: `Limits`; None takes the defaults.

    Returns:
        List of `Parity`, one for each runner; of several outputs that of the worst, with the checks of all.

    Raises:
        InputError: no images, files whose input or output does not have the model's shape, or labels beyond its
            classes.
    """
    limits = limits or ParityLimits()
    limits = limits.untrained() if random_weights else limits
    sides = [[_FileOutput(runner, position) for position in _match_outputs(model, runner)] for runner in runners]
    references, labels = _run_model_and_files(model, [side for each in sides for side in each], batches)
    names = [port.name for port in output_specs(model)]
    found = []
    for runner, each in zip(runners, sides, strict=True):
        parities = [
            side.compare(reference, labels, name if len(names) > 1 else None, source, limits)
            for side, reference, name in zip(each, references, names, strict=True)
        ]
        found.append(with_weight_check(worst_parity(parities), find_worst_weight(model, runner.model), limits))
    return found


def _match_outputs(model, runner):
    """Return for each output of the model the index of the file's that computes it.

    Raises:
        InputError: the file's inputs or outputs have other shapes, or other names where there are several.
    """
    _check_shapes("input", model, runner, input_specs(model), runner.inputs)
    ports = output_specs(model)
    if len(ports) == 1 and len(runner.outputs) == 1:
        positions = [0]
    else:
        names = [entry.signature for entry in runner.outputs]
        if sorted(names, key=str) != sorted(port.name for port in ports):
            raise InputError(
                f"Expected a file with the outputs {[port.name for port in ports]} of {model.name!r} in its signature. "
                f"Received: {runner.model.source} with {names}"
            )
        positions = [names.index(port.name) for port in ports]
    _check_shapes("output", model, runner, ports, [runner.outputs[position] for position in positions])
    return positions


def _check_shapes(kind, model, runner, ports, entries):
    if len(ports) > 1 and kind == "input":
        named = {entry.signature: entry for entry in entries}
        entries = [named[port.name] for port in ports] if set(named) == {port.name for port in ports} else []
    expected, received = [port.shape for port in ports], [entry.shape[1:] for entry in entries]
    if len(expected) != len(received) or not all(map(_shape_fits, expected, received)):
        words = [", ".join(map(str, shapes)) or "others" for shapes in (expected, received)]
        raise InputError(
            f"Expected a file with the {kind} {words[0]} of {model.name!r}. Received: {runner.model.source} with {words[1]}"
        )


def _shape_fits(expected, received):
    pairs = zip(expected, received, strict=len(expected) == len(received))
    return len(expected) == len(received) and all(size in (None, other) for size, other in pairs)


class _FileOutput:
    """One output of a file, and the values before its closing softmax or sigmoid."""

    def __init__(self, runner, position):
        kind, graph = type(runner), runner.model
        several = len(runner.outputs) > 1
        self.place = tolerance.find_compared_tensor(graph, position)
        self.runner = kind(graph.content, runner.threads, position, runner.batch) if several else runner
        self.inner = None
        if self.place is not None and self.place.closing is not None:
            content = tolerance.set_first_output(graph, self.place.tensor)
            self.inner = kind(content, runner.threads, 0 if several else None, runner.batch)
        self.outputs, self.values = [], []

    def add(self, images):
        """Run the file."""
        self.outputs.append(self.runner.predict(images))
        if self.inner:
            self.values.append(self.inner.predict(images))

    def compare(self, reference, labels, name, source, limits):
        """Return the `Parity` with what the model gave; `name` is that of the output where there are several."""
        values = np.concatenate(self.values) if self.inner else None
        output = np.concatenate(self.outputs)
        labels = labels if name is None else None  # which nothing says of which of several outputs they are
        parity = compare_outputs(
            reference, output, labels, place=self.place, values=values, source=source, limits=limits
        )
        return dataclasses.replace(parity, output=name)


def _run_model_and_files(model, sides, batches):
    """Run the model and the files; return the model's outputs, in their order, and the labels or None."""
    import keras

    references, labels = [], []
    for images, batch_labels in batches:
        outputs = model.predict_on_batch(pack_inputs(model, images))
        references.append([np.asarray(output) for output in keras.tree.flatten(outputs)])
        for side in sides:
            side.add(images)
        labels.append(batch_labels)
    if not references:
        raise InputError("Expected at least one image to verify on. Received: none")
    joined = [np.concatenate(parts) for parts in zip(*references, strict=True)]
    return joined, None if labels[0] is None else np.concatenate(labels)


# MERGED Does a file hold the model's weights? Each is compared with the model's own, before anything runs.

# In steps of 8 bits over the range of a channel. Rounding to the nearest step is half a step away, adaptive rounding
# less than `REACH` and one; the scale in the file is that of the same range. A weight further off is another one: no
# image is needed to see it, and on few of them it shows, since one weight of a thousand is lost in the rounding of all.
_FUSIBLE_LAYERS = (
    "Activation",
    "ReLU",
    "LeakyReLU",
    "PReLU",
    "ELU",
    "Softmax",
    "Dropout",
    "SpatialDropout2D",
    "Identity",
)
# The axis of the output channels in the file, and the order of the axes of the Keras kernel there.
_KERNEL_LAYOUTS = {
    ("CONV_2D", "Conv2D"): (0, (3, 0, 1, 2)),
    ("CONV_2D", "Dense"): (0, (1, 0)),
    ("DEPTHWISE_CONV_2D", "DepthwiseConv2D"): (-1, (0, 1, 2, 3)),
    ("FULLY_CONNECTED", "Dense"): (0, (1, 0)),
    ("FULLY_CONNECTED", "Conv2D"): (0, (3, 0, 1, 2)),
}


@dataclasses.dataclass(frozen=True)
class WeightDifference:
    """The weight that differs most from the model's: `steps` in those of 8 bits over its channel, and its `layer`.

    `compared` is how many kernels were compared; others have no counterpart of the same form.
    """

    steps: float
    layer: str
    compared: int


def find_worst_weight(model, graph):
    """Compare the kernels of a file with those of its model, BatchNormalization folded in.

    Args:
        model: keras.Model.
        graph: the file (`keras_nin.tflite.reader.TFLiteModel`).

    Returns:
        `WorstWeight`, or None where no kernel has a counterpart.
    """
    main = graph.main
    producers = {index: operator for operator in main.operators for index in operator.outputs}
    layers, between = layers_by_path(model), layer_chains(model)
    first = operator_layers.map_operators(model, graph, operator_layers.layer_marks(model))
    last = map_output_layers(model, graph)
    worst = []
    for operator, path, end in zip(main.operators, first, last, strict=True):
        layout = _KERNEL_LAYOUTS.get((operator.op, type(layers.get(path)).__name__))
        factor = None if layout is None or end is None else _folded_factor(between(path, end))
        tensor = None if factor is None else _kernel_tensor(main, producers, operator)
        steps = None if tensor is None else _largest_difference(graph, tensor, layers[path].kernel, factor, *layout)
        if steps is not None:
            worst.append((steps, path))
    if not worst:
        return None
    steps, path = max(worst, key=lambda each: np.inf if np.isnan(each[0]) else each[0])
    return WeightDifference(float(steps), path, len(worst))


def _folded_factor(chain):
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
        elif type(layer).__name__ not in _FUSIBLE_LAYERS:
            return None
    return factor


def _kernel_tensor(main, producers, operator):
    """Return the constant tensor that holds an operator's kernel; None where it is computed."""
    index = operator.inputs[1]
    cast = producers.get(index)
    if cast is not None and cast.op == "DEQUANTIZE":
        index = cast.inputs[0]
    tensor = main.tensors[index]
    is_known = tensor.dtype in ("int8", "uint8", "float16", "float32") and not tensor.is_sparse
    return tensor if tensor.is_constant and is_known else None


def _largest_difference(graph, tensor, kernel, factor, axis, order):
    """Return the largest difference of a weight in steps of 8 bits; None where the forms differ."""
    expected = kernel.numpy().astype(np.float64).transpose(order)
    if axis == -1:  # depthwise: the channels and their multiples are one axis
        expected = expected.reshape(1, *expected.shape[:2], -1)
    found = _dequantized_constant(graph, tensor)
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


def _dequantized_constant(graph, tensor):
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
