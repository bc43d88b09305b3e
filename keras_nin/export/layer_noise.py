"""Which layer of an exported file hurts: the signal to noise of what every operator computes."""

import contextlib
import dataclasses
import math

import numpy as np

from keras_nin.errors import InputError
from keras_nin.export.operator_layers import layers_by_path, map_output_layers
from keras_nin.export.parity import round_floats
from keras_nin.export.tolerance import is_quantized
from keras_nin.metrics import energy_ratio_db
from keras_nin.tflite.records import FLOAT_DTYPES
from keras_nin.tflite.runner import TFLiteRunner

_CASTS = ("QUANTIZE", "DEQUANTIZE")
_NO_NOISE = 1e-10  # as a share of the signal: float32 sums in another order give less
_IMAGES_AT_ONCE = 8  # images whose outputs of every layer are in memory


@dataclasses.dataclass(frozen=True)
class LayerNoise:
    """How far the output of one operator is from that of the Keras layer it computes.

    Attributes:
        index, op: the operator in the file.
        layer: path of the last Keras layer that was fused into it, or None.
        shape: of the operator's output.
        reason: why it is not compared, or None.
        snr_db: signal to noise in dB, over all images; None where nothing differs or nothing was compared.
        snr_change_db: by how much that is worse than at the operator's noisiest input; None where that has no noise (beyond
            100 dB).
        added_noise: what the operator adds to the noise energy, as a share of the signal's: the difference of the
            noise-to-signal ratios of its output and its noisiest input.
        max_abs_diff_lsb: largest difference, in steps of the output; in floating point those of 8 bits over its range.
    """

    index: int
    op: str
    layer: str | None
    shape: tuple[int, ...]
    reason: str | None = None
    snr_db: float | None = None
    snr_change_db: float | None = None
    added_noise: float | None = None
    max_abs_diff_lsb: float | None = None


@dataclasses.dataclass(frozen=True)
class LayerNoiseTable:
    """The noise of every operator, in the file's order.

    Attributes:
        images: on how many images.
        rows: `LayerNoise` of every operator.
        delegate_diff_lsb: largest difference between the outputs with and without the runtime's delegate, in steps of the
            output: operators are looked at without it.
    """

    images: int
    rows: tuple[LayerNoise, ...]
    delegate_diff_lsb: float

    @property
    def worst(self):
        """The row that adds most noise, or the first that is not finite; None where nothing could be compared."""
        compared = [row for row in self.rows if row.reason is None]
        broken = (row for row in compared if not math.isfinite(row.max_abs_diff_lsb))
        finite = [row for row in compared if row.added_noise is not None]
        return next(broken, None) or max(finite, key=lambda row: row.added_noise, default=None)

    def to_json(self):
        """Return the rows as a list of dictionaries."""
        return [round_floats(dataclasses.asdict(row)) for row in self.rows]


def measure_layer_noise(model, runner, batches):
    """Compare the output of every operator of a file with the Keras layer that it computes.

    Args:
        model: keras.Model.
        runner: `keras_nin.tflite.runner.TFLiteRunner` of the file.
        batches: iterable of (float32 images (N, H, W, C), labels or None).

    Returns:
        `PerLayer`. An operator of no known layer, or of a layer that it does not compute alone, says why.

    Raises:
        InputError: no images, or a file that does not run without the delegate.
    """
    comparison = _NoiseMeasurement(model, runner)
    for images, _ in batches:
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            comparison.add(images[start : start + _IMAGES_AT_ONCE])
    if not comparison.images:
        raise InputError("Expected at least one image to compare layers on. Received: none")
    return comparison.result()


class _NoiseMeasurement:
    """A model and a file whose operators are compared, a few images at a time."""

    def __init__(self, model, runner):
        self.runner = runner
        self.tap = TFLiteRunner(runner.model, runner.threads, keep_tensors=True)
        self.main = main = runner.model.main
        self.reasons, self.joined = _join_operators(model, runner.model)
        self.layers = LayerOutputs(model, self.joined.values())
        self.entry = main.tensors[main.inputs[0]]
        self.tensors = [main.tensors[main.operators[index].outputs[0]] for index in self.joined]
        self.sums = {tensor.index: _NoiseSums() for tensor in (self.entry, *self.tensors)}
        self.runtimes = _NoiseSums()
        self.images = 0

    def add(self, images):
        references = self.layers.of(images)
        for position, image in enumerate(images):
            first, *values = self.tap.tensor_values(image, (self.entry, *self.tensors))
            self.sums[self.entry.index].add(image, first)
            for (index, path), tensor, value in zip(self.joined.items(), self.tensors, values, strict=True):
                self._add(index, references[path], position, tensor, value)
        self.runtimes.add(self.runner.predict(images), self.tap.predict(images))
        self.images += len(images)

    def _add(self, index, outputs, position, tensor, value):
        """Add what one operator gave for one image; `outputs` are what its layer gave for all."""
        why, reference = _reference(outputs, position, value)
        if why:
            self.reasons[index] = why
        else:
            self.sums[tensor.index].add(reference, value)

    def result(self):
        rows = tuple(_noise_rows(self.main, self.joined, self.reasons, self.sums))
        output = self.main.tensors[self.main.outputs[0]]
        return LayerNoiseTable(self.images, rows, self.runtimes.largest / _lsb(output, self.runtimes))


def _join_operators(model, graph):
    """Return why operators cannot be compared, by index, and the layer of those that can."""
    main = graph.main
    layers = map_output_layers(model, graph)
    last = {path: index for index, path in enumerate(layers) if path and main.operators[index].op not in _CASTS}
    reasons, joined = {}, {}
    for operator, path in zip(main.operators, layers, strict=True):
        output = main.tensors[operator.outputs[0]]
        if operator.op in _CASTS:
            reasons[operator.index] = "changes the type alone"
        elif path is None:
            reasons[operator.index] = "of no layer that its name tells"
        elif last[path] != operator.index:
            reasons[operator.index] = f"a part of {path}"
        elif len(operator.outputs) > 1 or not (is_quantized(output) or output.dtype in FLOAT_DTYPES):
            reasons[operator.index] = "gives no real numbers in one tensor"
        else:
            joined[operator.index] = path
    return reasons, joined


def _reference(outputs, position, value):
    """Return (why there is none, or None; a layer's output for one image in the shape of `value`)."""
    if len(outputs) != 1:
        return f"its layer is used {len(outputs)} times", None
    if not hasattr(outputs[0], "shape"):
        return "its layer gives several tensors", None
    reference = np.asarray(outputs[0][position])
    sizes = [[size for size in shape if size > 1] for shape in (reference.shape, value.shape)]
    if sizes[0] != sizes[1]:
        return f"its layer gives {tuple(reference.shape)}", None
    return None, reference.reshape(value.shape)


class _NoiseSums:
    """Energies and extremes over images, so that no image has to be kept."""

    def __init__(self):
        self.signal = self.noise = self.largest = 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, reference, values):
        with np.errstate(all="ignore"):
            difference = values.astype(np.float64) - reference
            self.signal += float(np.sum(reference.astype(np.float64) ** 2))
            self.noise += float(np.sum(difference**2))
            self.largest = float(np.maximum(self.largest, np.abs(difference).max()))  # NaN stays
            self.low, self.high = min(self.low, float(reference.min())), max(self.high, float(reference.max()))

    @property
    def share(self):
        """Noise energy as a share of the signal's."""
        return self.noise / self.signal if self.signal else math.inf if self.noise else 0.0


def _noise_rows(main, joined, reasons, sums):
    """Yield the `LayerNoise` of every operator; an operator that is not compared passes on the noise of its inputs."""
    noise = {main.inputs[0]: sums[main.inputs[0]].share}
    for operator in main.operators:
        output = main.tensors[operator.outputs[0]]
        before = max((noise[index] for index in operator.inputs if index in noise), default=0.0)
        row = LayerNoise(operator.index, operator.op, joined.get(operator.index), output.shape)
        if operator.index in reasons:
            noise |= dict.fromkeys(operator.outputs, before)
            yield dataclasses.replace(row, reason=reasons[operator.index])
            continue
        found = sums[output.index]
        noise[output.index] = after = found.share
        yield dataclasses.replace(
            row,
            snr_db=energy_ratio_db(found.signal, found.noise),
            snr_change_db=energy_ratio_db(before, after) if after and before > _NO_NOISE else None,
            added_noise=after - before if math.isfinite(after - before) else None,
            max_abs_diff_lsb=found.largest / _lsb(output, found),
        )


def _lsb(tensor, found):
    """Return the step that differences at a tensor are counted in."""
    if is_quantized(tensor):
        return tensor.quantization.scales[0]
    return max(found.high - found.low, float(np.finfo(np.float32).tiny)) / 255


# MERGED What chosen layers of a Keras model give, those of nested models and blocks too.


class LayerOutputs:
    """Runs a model and keeps the outputs of some of its layers.

    Args:
        model: keras.Model.
        paths: which layers, "outer/inner" in nested models; unknown ones are left out.
    """

    def __init__(self, model, paths):
        found = layers_by_path(model)
        self._model = model
        self._layers = {path: found[path] for path in paths if path in found}

    def of(self, images):
        """Return a dictionary from path to the list of the layer's outputs for `images`, one for each use of it."""
        outputs = {path: [] for path in self._layers}
        with contextlib.ExitStack() as stack:
            for path, layer in self._layers.items():
                stack.enter_context(_recording(layer, outputs[path].append))
            self._model(images, training=False)
        return outputs


@contextlib.contextmanager
def _recording(layer, receive):
    """Pass what `layer` returns to `receive`, for a while: its `call` gives way to one of the instance's own."""
    call = layer.call

    def heard(*arguments, **options):
        output = call(*arguments, **options)
        receive(output)
        return output

    vars(layer)["call"] = heard
    try:
        yield
    finally:
        del vars(layer)["call"]
