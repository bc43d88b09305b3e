"""Is an exported file as good as its model? Both run on the same images, and their weights are compared."""

import dataclasses
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.errors import input_error
from keras_nin.export.operator_layers import LayerIndex, map_operators
from keras_nin.export.parity import (
    Parity,
    ParityLimits,
    check_value,
    compare_outputs,
    find_compared_tensor,
    worst_parity,
)
from keras_nin.keras_graph import TensorSpec, input_specs, output_specs, pack_inputs
from keras_nin.tflite import schema
from keras_nin.tflite.flatbuffer import FlatbufferReader
from keras_nin.tflite.quantization import per_channel_parameters
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteModel, TFLiteTensor

if TYPE_CHECKING:
    import keras

    from keras_nin.tflite.runner import IODetails, TFLiteRunner

    # Float32 images (N, H, W, C), for several inputs a dictionary of arrays by input name; and labels (N,) or None.
    Batch = tuple[Any, np.ndarray | None]

_FUSIBLE_LAYERS = frozenset(
    ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "Dropout", "SpatialDropout2D", "Identity")
)
# The axis of the output channels in the file, and the order of the axes of the Keras kernel there.
_KERNEL_LAYOUTS = {
    ("CONV_2D", "Conv2D"): (0, (3, 0, 1, 2)),
    ("CONV_2D", "Dense"): (0, (1, 0)),
    ("DEPTHWISE_CONV_2D", "DepthwiseConv2D"): (-1, (0, 1, 2, 3)),
    ("FULLY_CONNECTED", "Dense"): (0, (1, 0)),
    ("FULLY_CONNECTED", "Conv2D"): (0, (3, 0, 1, 2)),
}


def verify_files(
    model: "keras.Model",
    runners: "Sequence[TFLiteRunner]",
    batches: "Iterable[Batch]",
    *,
    source: str,
    random_weights: bool = False,
    limits: ParityLimits | None = None,
) -> list[Parity]:
    """Run a model and its exported files on the same images and compare the outputs.

    Args:
        model: keras.Model.
        runners: `keras_nin.tflite.runner.TFLiteRunner` of each file.
        batches: (float32 images (N, H, W, C), labels (N,) or None), as `Dataset.batches` gives them; for several inputs
            a dictionary of arrays by the names of `keras_nin.keras_graph.input_specs`.
        source: name of the images' source, for the record.
        random_weights: whether top-1 match and accuracy mean nothing because the weights are random.
        limits: `ParityLimits`; None takes the defaults.

    Returns:
        A `Parity` per runner; of several outputs that of the worst, with the checks of all.

    Raises:
        InputError: no images, files whose input or output does not have the model's shape, or labels beyond its
            classes.
    """
    limits = limits or ParityLimits()
    limits = limits.untrained() if random_weights else limits
    outputs = [[_FileOutput(runner, position) for position in _match_outputs(model, runner)] for runner in runners]
    references, labels = _run_model_and_files(model, [output for row in outputs for output in row], batches)
    specs = output_specs(model)
    labels = labels if len(specs) == 1 else None  # nothing says which of several outputs the labels belong to
    parities = []
    for runner, row in zip(runners, outputs, strict=True):
        parity = worst_parity(
            [
                output.compare(reference, labels, source, limits, spec.name if len(specs) > 1 else None)
                for output, reference, spec in zip(row, references, specs, strict=True)
            ]
        )
        worst = find_worst_weight(model, runner.model)
        if worst is not None and limits.max_weight is not None:
            check = check_value("weight_diff_lsb", worst.lsb, limits.max_weight)
            parity = dataclasses.replace(parity, checks=(*parity.checks, check))
        parities.append(parity)
    return parities


def _match_outputs(model: "keras.Model", runner: "TFLiteRunner") -> list[int]:
    """Return for each output of the model the index of the file's output that computes it.

    Raises:
        InputError: the file's inputs or outputs have other shapes, or other names where there are several.
    """
    _check_shapes("input", model, runner, input_specs(model), runner.inputs)
    specs, positions = output_specs(model), [0]
    if len(specs) > 1 or len(runner.outputs) > 1:
        names = [details.signature for details in runner.outputs]
        expected = [spec.name for spec in specs]
        if sorted(names, key=str) != sorted(expected):
            problem = f"{runner.model.source} with {names}"
            raise input_error(f"a file with the outputs {expected} of {model.name!r} in its signature", problem)
        positions = [names.index(name) for name in expected]
    _check_shapes("output", model, runner, specs, [runner.outputs[position] for position in positions])
    return positions


def _check_shapes(
    kind: str, model: "keras.Model", runner: "TFLiteRunner", specs: Sequence[TensorSpec], details: "Sequence[IODetails]"
) -> None:
    if len(specs) > 1 and kind == "input":
        named = {entry.signature: entry for entry in details}
        details = [named[spec.name] for spec in specs] if set(named) == {spec.name for spec in specs} else []
    expected, received = [spec.shape for spec in specs], [entry.shape[1:] for entry in details]
    fits = (
        len(shape) == len(other) and all(size in (None, found) for size, found in zip(shape, other, strict=True))
        for shape, other in zip(expected, received, strict=False)
    )
    if len(expected) != len(received) or not all(fits):
        listed = [", ".join(map(str, shapes)) or "others" for shapes in (expected, received)]
        problem = f"{runner.model.source} with {listed[1]}"
        raise input_error(f"a file with the {kind} {listed[0]} of {model.name!r}", problem)


class _FileOutput:
    """One output of a file, and the values before its closing softmax or sigmoid."""

    def __init__(self, runner: "TFLiteRunner", position: int) -> None:
        open_runner, several = type(runner), len(runner.outputs) > 1
        self.compared = find_compared_tensor(runner.model, position)
        self.runner = open_runner(runner.model, runner.threads, position, runner.batch) if several else runner
        self.inner = None
        if self.compared is not None and self.compared.closing is not None:
            inner = with_first_output(runner.model, self.compared.tensor)
            self.inner = open_runner(inner, runner.threads, 0 if several else None, runner.batch)
        self.outputs: list[np.ndarray] = []
        self.values: list[np.ndarray] = []

    def run(self, images: Any) -> None:
        """Run the file and keep what it computes."""
        self.outputs.append(self.runner.predict(images))
        if self.inner:
            self.values.append(self.inner.predict(images))

    def compare(
        self, reference: np.ndarray, labels: np.ndarray | None, source: str, limits: ParityLimits, name: str | None
    ) -> Parity:
        """Return the `Parity` with what the model computes."""
        values = np.concatenate(self.values) if self.inner else None
        options: dict[str, Any] = {"compared": self.compared, "values": values, "source": source, "limits": limits}
        return dataclasses.replace(
            compare_outputs(reference, np.concatenate(self.outputs), labels, **options), output=name
        )


def with_first_output(tflite: TFLiteModel, tensor: TFLiteTensor) -> TFLiteModel:
    """Return the same file with `tensor` as its first output."""
    root = FlatbufferReader(tflite.content).root(schema.IDENTIFIER)
    span = root.tables(schema.ModelSlots.SUBGRAPHS)[0].span(schema.SubgraphSlots.OUTPUTS)
    assert span is not None  # a file that was read has outputs
    content = bytearray(tflite.content)
    struct.pack_into("<i", content, span[0], tensor.index)
    main = dataclasses.replace(tflite.main, outputs=(tensor.index, *tflite.main.outputs[1:]))
    return dataclasses.replace(tflite, content=bytes(content), subgraphs=(main, *tflite.subgraphs[1:]))


def _run_model_and_files(
    model: "keras.Model", outputs: Sequence[_FileOutput], batches: "Iterable[Batch]"
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Run the model and the files; return the model's outputs, in their order, and the labels or None."""
    import keras

    references, labels = [], []
    for images, batch_labels in batches:
        predicted: Any = model.predict_on_batch(pack_inputs(model, images))
        references.append([np.asarray(output) for output in keras.tree.flatten(predicted)])
        for output in outputs:
            output.run(images)
        labels.append(batch_labels)
    if not references:
        raise input_error("at least one image to verify on", "none")
    joined = [np.concatenate(parts) for parts in zip(*references, strict=True)]
    return joined, None if labels[0] is None else np.concatenate(labels)


@dataclasses.dataclass(frozen=True)
class WeightDifference:
    """The weight that differs most from the model's: by how many `lsb` of 8 bits over its channel, in which `layer`.

    `compared` is how many kernels were compared; the others have no counterpart of the same form.
    """

    lsb: float
    layer: str
    compared: int


def find_worst_weight(model: "keras.Model", tflite: TFLiteModel) -> WeightDifference | None:
    """Compare the kernels of a file with those of its model, BatchNormalization folded in; None without counterpart."""
    index, mapped = LayerIndex(model), map_operators(model, tflite)
    differences = []
    for operator, path, last in zip(tflite.main.operators, mapped.layers, mapped.output_layers, strict=True):
        if path is None or last is None or path not in index.by_path:
            continue
        layer: Any = index.by_path[path].layer
        layout = _KERNEL_LAYOUTS.get((operator.op, type(layer).__name__))
        factor = _folded_factor(index.chain(path, last)) if layout else None
        tensor = tflite.main.stored_constant(operator.inputs[1]) if layout else None
        if layout is None or factor is None or tensor is None or tensor.is_sparse:
            continue
        if tensor.dtype in ("int8", "uint8", "float16", "float32"):
            lsb = _largest_difference(tflite, tensor, layer.kernel.numpy(), factor, *layout)
            differences += [] if lsb is None else [(lsb, path)]
    if not differences:
        return None
    lsb, path = max(differences, key=lambda difference: np.inf if np.isnan(difference[0]) else difference[0])
    return WeightDifference(lsb, path, len(differences))


def _folded_factor(chain: "list[keras.Layer] | None") -> np.ndarray | None:
    """Return what the converter multiplies the channels of a kernel with; None where that is not known.

    `chain` has the layers from that of the kernel to the last one that was fused, or is None.
    """
    if chain is None:
        return None
    factor = np.ones(1)
    for layer in chain[1:]:
        norm: Any = layer
        if type(layer).__name__ == "BatchNormalization" and norm.axis in (-1, len(norm.input.shape) - 1):
            gamma = norm.gamma.numpy() if norm.scale else 1
            factor = factor * gamma / np.sqrt(norm.moving_variance.numpy().astype(np.float64) + norm.epsilon)
        elif type(layer).__name__ not in _FUSIBLE_LAYERS:
            return None
    return factor


def _largest_difference(
    tflite: TFLiteModel, tensor: TFLiteTensor, kernel: np.ndarray, factor: np.ndarray, axis: int, order: tuple[int, ...]
) -> float | None:
    """Return the largest difference of a weight in steps of 8 bits; None where the forms differ."""
    expected = kernel.astype(np.float64).transpose(order)
    if axis == -1:  # depthwise: the channels and their multiples are one axis
        expected = expected.reshape(1, *expected.shape[:2], -1)
    scales, zero_points = per_channel_parameters(tensor)
    stored = (tflite.data(tensor).astype(np.float64) - zero_points) * scales
    if expected.shape[axis] != stored.shape[axis] or expected.size != stored.size:
        return None
    channels = expected.shape[axis]
    expected, stored = (np.moveaxis(values, axis, 0).reshape(channels, -1) for values in (expected, stored))
    expected = expected * np.reshape(factor, (-1, 1))
    largest = np.abs(expected).max(axis=1, keepdims=True)
    if scales.size == 1 and tensor.dtype not in FLOAT_DTYPES:
        largest = largest.max()
    # A channel without any weight has the step of the others.
    step = np.where(largest > 0, largest, max(np.max(largest), np.finfo(np.float32).tiny)) / 127
    return float((np.abs(stored - expected) / step).max())
