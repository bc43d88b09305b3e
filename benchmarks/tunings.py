"""Tunings that were measured and are not offered, for `quantization.py`."""

import dataclasses

import numpy as np

from keras_nin.export import tuning
from keras_nin.export.schemes import Tuning
from keras_nin.tflite.float_file import FloatFile


@dataclasses.dataclass(frozen=True)
class Percentile:
    """Each range leaves out the same share of values at either end."""

    share: float

    def __call__(self, content, samples):
        """Return the file with other ranges."""
        file = FloatFile(content)
        histograms = tuning.build_histograms(file)
        tuning.observe_activations(file, samples, histograms)
        tuning.set_activation_ranges(file, histograms, self.choose)
        return file.content()

    def choose(self, histogram):
        """Return the range without the share at either end; 0 stays in it."""
        below = np.cumsum(histogram.counts) / histogram.counts.sum()
        width = (histogram.maximum - histogram.minimum) / tuning.BINS
        first, last = np.searchsorted(below, (1 - self.share, self.share))
        largest = histogram.minimum + width * (last + 1)
        return min(histogram.minimum + width * first, 0) if histogram.minimum < 0 else 0, max(largest, 0)


@dataclasses.dataclass(frozen=True)
class Equalized:
    """Scales the channels between layers so that their sizes come together, then tunes.

    A ReLU and a maximum pass a positive scale on: an output channel is divided by it and the weights that read it are
    multiplied. By weights, with the scale sqrt(largest weight of the channel / largest that reads it), it is
    cross-layer equalisation (arXiv:1906.04721); by activations, with (largest value of the channel / mean of those of
    all channels) ** 0.5, what SmoothQuant does (arXiv:2211.10438).
    """

    by: str
    then: Tuning = Tuning.plain()

    def __call__(self, content, samples):
        """Return the file with other weights and ranges, tuned."""
        file = FloatFile(content)
        largest = Largest({layer.operator.outputs[0] for layer in file.weighted_operators})
        tuning.observe_activations(file, samples, [largest])
        for layer in file.weighted_operators:
            readers = self._readers(file, layer)
            if readers:
                self._scale(file, layer, readers, largest.values[layer.operator.outputs[0]])
        scaled = FloatFile(file.content())
        limits = Limits(scaled.ranges())
        tuning.observe_activations(scaled, samples, [limits])
        for index, (least, most) in limits.values.items():
            scaled.set_range(index, least, most)
        return tuning.tune_file(scaled.content(), samples, self.then)

    def _readers(self, file, layer):
        """Return (layer, first of its input channels) of all that reads the outputs of `layer`; [] where one cannot."""
        if (
            layer.kind != "conv"
            or layer.bias is None
            or layer.operator.options["fused_activation"] not in ("NONE", "RELU")
        ):
            return []
        layers = {each.operator.index: each for each in file.weighted_operators}
        found, places = [], [(layer.operator.outputs[0], 0)]
        while places:
            tensor, first = places.pop()
            if tensor in file.model.main.outputs:
                return []
            for operator in file.model.main.operators:
                if tensor not in operator.inputs:
                    continue
                if operator.op == "MAX_POOL_2D":
                    places.append((operator.outputs[0], first))
                elif operator.op == "CONCATENATION" and operator.options["axis"] in (3, -1):
                    before = operator.inputs[: operator.inputs.index(tensor)]
                    shift = sum(file.model.main.tensors[index].shape[3] for index in before)
                    places.append((operator.outputs[0], first + shift))
                elif operator.index in layers and layers[operator.index].kind == "conv":
                    found.append((layers[operator.index], first))
                else:
                    return []
        return found

    def _scale(self, file, layer, readers, largest):
        rows, count = file.rows(layer), layer.weights.shape[0]
        parts = [(reader, slice(first, first + count)) for reader, first in readers]
        if self.by == "weights":
            others = [np.abs(file.values(reader.weights)[..., part]).max(axis=(0, 1, 2)) for reader, part in parts]
            sizes, others = np.abs(rows).max(axis=1), np.max(others, axis=0)
            scale = np.sqrt(np.maximum(sizes, 1e-6) / np.maximum(others, 1e-6))
        else:
            scale = np.sqrt(np.maximum(largest / max(largest.mean(), 1e-6), 1e-2))
        file.set_rows(layer, rows / scale[:, None])
        file.set_values(layer.bias, file.values(layer.bias) / scale)
        for reader, part in parts:
            weights = file.values(reader.weights).copy()
            weights[..., part] *= scale
            file.set_values(reader.weights, weights)


class Largest:
    """Watcher: the largest value of each channel of some tensors."""

    def __init__(self, tensors):
        self.values = dict.fromkeys(tensors, 0.0)

    def __call__(self, tensor):
        """Look at the tensors."""
        for index, seen in self.values.items():
            values = tensor(index)
            self.values[index] = np.maximum(seen, values.reshape(-1, values.shape[-1]).max(axis=0))


class Limits:
    """Watcher: the least and the largest value of some tensors."""

    def __init__(self, tensors):
        self.values = dict.fromkeys(tensors, (np.inf, -np.inf))

    def __call__(self, tensor):
        """Look at the tensors."""
        for index, (least, most) in self.values.items():
            values = tensor(index)
            self.values[index] = min(least, values.min()), max(most, values.max())
