"""Which layer of an exported file adds the most quantization noise: the signal-to-noise ratio of every operator."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.errors import input_error
from keras_nin.export.operator_layers import LayerIndex
from keras_nin.export.parity import CAST_OPERATORS, round_floats
from keras_nin.export.weight_comparison import map_fused_layers
from keras_nin.keras_graph import pack_inputs
from keras_nin.metrics import energy_ratio_db
from keras_nin.tflite.isolated import IsolatedRunner
from keras_nin.tflite.layer_names import operator_paths
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteSubgraph, TFLiteTensor
from keras_nin.tflite.runner import TFLiteRunner

if TYPE_CHECKING:
    import keras

    from keras_nin.export.verification import Batch

_NO_NOISE = 1e-10  # as a share of the signal: float32 sums in another order give less
_IMAGES_AT_ONCE = 8  # images whose outputs of every layer are in memory


@dataclasses.dataclass(frozen=True)
class LayerNoise:
    """How far the output of one operator is from that of the Keras layer it computes.

    Attributes:
        layer: name of the operator, as in every command.
        compared_with: path of the last Keras layer that was fused into it, whose output it has; None if not compared.
        shape: of the operator's output.
        reason: why it is not compared, or None.
        snr_db: signal-to-noise ratio in dB, over all images; None where nothing differs or nothing was compared.
        snr_change_db: change of the ratio against the operator's noisiest input, negative for a loss; None where that
            input has no noise (beyond 100 dB).
        added_noise: what the operator adds to the noise energy, as a share of the signal's: the difference of the
            noise-to-signal ratios of its output and of its noisiest input.
        max_abs_diff_lsb: largest difference, in steps of the output; in floating point in those of 8 bits over its
            range.
    """

    index: int
    op: str
    layer: str
    shape: tuple[int, ...]
    compared_with: str | None = None
    reason: str | None = None
    snr_db: float | None = None
    snr_change_db: float | None = None
    added_noise: float | None = None
    max_abs_diff_lsb: float | None = None


@dataclasses.dataclass(frozen=True)
class LayerNoiseTable:
    """The noise of every operator, in the file's order, over a number of images.

    `delegate_diff_lsb` is the largest difference between the outputs with and without the runtime's delegate, in steps
    of the output: the operators are compared without it.
    """

    images: int
    rows: tuple[LayerNoise, ...]
    delegate_diff_lsb: float

    @property
    def worst(self) -> LayerNoise | None:
        """The row that adds the most noise, or the first that is not finite; None where nothing could be compared."""
        compared = [row for row in self.rows if row.max_abs_diff_lsb is not None]
        not_finite = next((row for row in compared if not math.isfinite(row.max_abs_diff_lsb or 0)), None)
        finite = [row for row in compared if row.added_noise is not None]
        return not_finite or max(finite, key=lambda row: row.added_noise or 0.0, default=None)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rows as a list of dictionaries."""
        return [round_floats(dataclasses.asdict(row)) for row in self.rows]


def measure_layer_noise(model: "keras.Model", runner: TFLiteRunner, batches: "Iterable[Batch]") -> LayerNoiseTable:
    """Compare the output of every operator of a file with the Keras layer that it computes.

    Args:
        model: keras.Model.
        runner: `keras_nin.tflite.runner.TFLiteRunner` of the file.
        batches: (float32 images (N, H, W, C), labels or None); for several inputs a dictionary of arrays by name.

    Returns:
        `LayerNoiseTable`. An operator of no known layer, or of a layer that it does not compute alone, has a reason.

    Raises:
        InputError: no images, or a file that does not run without the delegate.
    """
    runner_class = IsolatedRunner if isinstance(runner, IsolatedRunner) else TFLiteRunner
    with runner_class(runner.model, runner.threads, keep_tensors=True) as inner_runner:
        measurement = _NoiseMeasurement(model, runner, inner_runner)
        for images, _ in batches:
            for start in range(0, count_samples(images), _IMAGES_AT_ONCE):
                measurement.add(take_samples(images, slice(start, start + _IMAGES_AT_ONCE)))
    if not measurement.images:
        raise input_error("at least one image to compare layers on", "none")
    return LayerNoiseTable(measurement.images, tuple(measurement.rows()), measurement.delegate_diff_lsb())


class _NoiseMeasurement:
    """A model and a file whose operators are compared, a few images at a time."""

    def __init__(self, model: "keras.Model", runner: TFLiteRunner, inner_runner: TFLiteRunner) -> None:
        self.runner, self.inner_runner = runner, inner_runner
        self.main = main = runner.model.main
        mapped = map_fused_layers(model, runner.model)
        self.names = operator_paths(runner.model, mapped.layers)
        self.reasons, self.joined = _join_operators(main, mapped.output_layers)
        by_path = LayerIndex(model).by_path
        self.model, self.layers = model, {path: by_path[path].layer for path in self.joined.values()}
        self.inputs = [main.tensors[index] for index in main.inputs]
        self.tensors = [main.tensors[main.operators[index].outputs[0]] for index in self.joined]
        self.sums = {tensor.index: _NoiseSums() for tensor in (*self.inputs, *self.tensors)}
        self.delegate_sums = [_NoiseSums() for _ in main.outputs]
        self.images = 0

    def add(self, images: Any) -> None:
        """Add what every operator and its layer compute for some images."""
        # As arrays once: to slice a tensor of TensorFlow for each image and layer takes longer than to run the file.
        references = {
            path: [np.asarray(output) if hasattr(output, "shape") else output for output in outputs]
            for path, outputs in run_layers(self.model, self.layers, images).items()
        }
        names = [entry.signature or entry.name for entry in self.runner.inputs]
        count = count_samples(images)
        for position in range(count):
            image = take_samples(images, slice(position, position + 1))
            received = self.inner_runner.tensor_values(image, (*self.inputs, *self.tensors))
            for name, tensor, value in zip(names, self.inputs, received, strict=False):
                self.sums[tensor.index].add(image[name] if isinstance(image, dict) else image, value)
            values = received[len(self.inputs) :]
            for (index, path), tensor, value in zip(self.joined.items(), self.tensors, values, strict=True):
                reason, reference = _layer_reference(references[path], position, value)
                if reason:
                    self.reasons[index] = reason
                elif reference is not None:
                    self.sums[tensor.index].add(reference, value)
        pairs = zip(self.runner.predict_outputs(images), self.inner_runner.predict_outputs(images), strict=True)
        for sums, (output, inner_output) in zip(self.delegate_sums, pairs, strict=True):
            sums.add(output, inner_output)
        self.images += count

    def delegate_diff_lsb(self) -> float:
        """Return the largest difference of an output with and without the delegate, in its steps."""
        pairs = zip(self.delegate_sums, (self.main.tensors[index] for index in self.main.outputs), strict=True)
        # Class indices have no steps: one that differs counts as one.
        return max(sums.largest / (1 if output.is_index else sums.lsb(output)) for sums, output in pairs)

    def rows(self) -> Iterator[LayerNoise]:
        """Yield the rows of all operators; one that is not compared passes on the noise of its inputs."""
        noise = {tensor.index: self.sums[tensor.index].share for tensor in self.inputs}
        for operator in self.main.operators:
            output = self.main.tensors[operator.outputs[0]]
            before = max((noise[index] for index in operator.inputs if index in noise), default=0.0)
            row = LayerNoise(operator.index, operator.op, self.names[operator.index], output.shape)
            if operator.index in self.reasons:
                noise |= dict.fromkeys(operator.outputs, before)
                yield dataclasses.replace(row, reason=self.reasons[operator.index])
                continue
            sums = self.sums[output.index]
            noise[output.index] = after = sums.share
            yield dataclasses.replace(
                row,
                compared_with=self.joined[operator.index],
                snr_db=energy_ratio_db(sums.signal, sums.noise),
                snr_change_db=energy_ratio_db(before, after) if after and before > _NO_NOISE else None,
                added_noise=after - before if math.isfinite(after - before) else None,
                max_abs_diff_lsb=sums.largest / sums.lsb(output),
            )


def _join_operators(main: TFLiteSubgraph, layers: Sequence[str | None]) -> tuple[dict[int, str], dict[int, str]]:
    """Return why operators cannot be compared, by index, and the last fused layer of those that can."""
    last = {path: index for index, path in enumerate(layers) if path and main.operators[index].op not in CAST_OPERATORS}
    reasons, joined = {}, {}
    for operator, path in zip(main.operators, layers, strict=True):
        output = main.tensors[operator.outputs[0]]
        if operator.op in CAST_OPERATORS:
            reasons[operator.index] = "changes the type alone"
        elif path is None:
            reasons[operator.index] = "its output is that of no layer"
        elif last[path] != operator.index:
            reasons[operator.index] = f"a part of {path}"
        elif len(operator.outputs) > 1 or (output.scale is None and output.dtype not in FLOAT_DTYPES):
            reasons[operator.index] = "does not give real numbers in one tensor"
        else:
            joined[operator.index] = path
    return reasons, joined


def _layer_reference(outputs: list[Any], position: int, value: np.ndarray) -> tuple[str | None, np.ndarray | None]:
    """Return (why there is none, or None; a layer's output for one image in the shape of `value`)."""
    if len(outputs) != 1:
        return f"its layer is used {len(outputs)} times", None
    if not hasattr(outputs[0], "shape"):
        return "its layer gives several tensors", None
    reference = outputs[0][position]
    expected, received = ([size for size in shape if size > 1] for shape in (reference.shape, value.shape))
    if expected != received:
        return f"its layer gives {tuple(reference.shape)}", None
    return None, reference.reshape(value.shape)


class _NoiseSums:
    """Energies and extremes over images, so that no image has to be kept."""

    def __init__(self) -> None:
        self.signal = self.noise = self.largest = 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, reference: np.ndarray, values: np.ndarray) -> None:
        """Add the values of one or more images."""
        with np.errstate(all="ignore"):
            difference = values.astype(np.float64) - reference
            self.signal += float(np.sum(reference.astype(np.float64) ** 2))
            self.noise += float(np.sum(difference**2))
            self.largest = float(np.maximum(self.largest, np.abs(difference).max()))  # NaN stays
            self.low, self.high = min(self.low, float(reference.min())), max(self.high, float(reference.max()))

    @property
    def share(self) -> float:
        """Noise energy as a share of the signal's."""
        return self.noise / self.signal if self.signal else math.inf if self.noise else 0.0

    def lsb(self, tensor: TFLiteTensor) -> float:
        """Return the step in which differences at a tensor are counted."""
        return tensor.scale or max(self.high - self.low, float(np.finfo(np.float32).tiny)) / 255


def count_samples(images: Any) -> int:
    """Return the number of samples of an array (N, ...), or of a dictionary of arrays by the name of the input."""
    return len(next(iter(images.values())) if isinstance(images, dict) else images)


def take_samples(images: Any, part: slice) -> Any:
    """Return some samples of an array, or of each array of a dictionary."""
    return {name: array[part] for name, array in images.items()} if isinstance(images, dict) else images[part]


def run_layers(model: "keras.Model", layers: "dict[str, keras.Layer]", images: Any) -> dict[str, list[Any]]:
    """Run a model on images (N, H, W, C) and return the outputs of some layers by key, one for each use of the layer.

    The layers may lie in nested models and blocks. For several inputs `images` is a dictionary of arrays by name.
    """
    outputs: dict[str, list[Any]] = {key: [] for key in layers}

    def record(call: Callable[..., Any], received: list[Any], *arguments: Any, **options: Any) -> Any:
        received.append(call(*arguments, **options))
        return received[-1]

    try:
        for key, layer in layers.items():  # the instance gets its own `call`
            layer.__dict__["call"] = functools.partial(record, layer.call, outputs[key])
        model(pack_inputs(model, images), training=False)
    finally:
        for layer in layers.values():
            layer.__dict__.pop("call", None)
    return outputs
