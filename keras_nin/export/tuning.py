"""What is done to a calibrated float file before it is quantised."""

import dataclasses

from keras_nin.errors import InputError, one_of

RANGES = ("minmax", "mse")
ROUNDINGS = ("nearest", "adaptive")
REACH = 3  # levels: how far beyond its two neighbours on the grid adaptive rounding may take a weight
# Of the second moments that are kept at a time: 2**26 float64 are 512 MiB. More layers take more runs over the samples.
_MOST_ELEMENTS = 2**26


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How to choose ranges, weights and biases; without arguments what the converter does.

    Attributes:
        ranges: of the activations. "minmax": from the least to the largest value that the calibration images give;
            "mse": the part of it with the least mean square error of rounding and cutting off.
        rounding: of the weights. "nearest" integer; "adaptive": so that the outputs of the layer change least on the
            calibration images (`keras_nin.export.rounding.adaptive`).
        bias_correction: whether each bias makes good for what rounding the weights does to the mean of its output.
            Nagel et al., arXiv:1906.04721.
    """

    ranges: str = "minmax"
    rounding: str = "nearest"
    bias_correction: bool = False

    def __post_init__(self):
        one_of("ranges", self.ranges, RANGES)
        one_of("rounding", self.rounding, ROUNDINGS)
        one_of("bias_correction", self.bias_correction, (True, False))

    def apply(self, content, samples):
        """Return the calibrated file with other ranges, weights or biases.

        Args:
            content: bytes of a float .tflite file whose tensors have the least and largest value that they took.
            samples: as `keras_nin.export.quantizer.Quantizer` takes them.
        """
        if self == Tuning():
            return content
        from keras_nin.export import activations, ranges
        from keras_nin.export.float_file import FloatFile

        file = FloatFile(content)
        histograms = ranges.histograms(file) if self.ranges == "mse" else []
        parts = self._parts(file) or [[]]
        for number, moments in enumerate(parts):
            activations.observe(file, samples, [*moments, *(histograms if number == 0 else ())])
            for moment in moments:
                self._round(file, moment)
        ranges.set_ranges(file, histograms)
        return file.content()

    def _parts(self, file):
        """Return the layers to round as lists of `Moments`, so many at a time as memory allows."""
        from keras_nin.export.activations import Moments

        if self.rounding == "nearest" and not self.bias_correction:
            return []
        parts, elements = [], 0
        for layer in file.layers:
            moments = Moments(layer, squares=self.rounding == "adaptive" and layer.terms**2 <= _MOST_ELEMENTS)
            size = layer.terms**2 * layer.groups if moments.squares else 0
            if not parts or elements + size > _MOST_ELEMENTS:
                parts.append([])
                elements = 0
            parts[-1].append(moments)
            elements += size
        return parts

    def _round(self, file, moments):
        """Round the weights of a layer and correct its bias."""
        from keras_nin.export import rounding

        layer, rows, mean = moments.layer, file.rows(moments.layer), moments.mean()
        corrects = self.bias_correction and layer.bias is not None
        if moments.squares:
            # What a bias makes good for is no error: then it is the covariance that counts.
            means = mean[:, :, None] * mean[:, None] if corrects else 0
            rounded = rounding.adaptive(rows, moments.second() - means)
        else:
            rounded = rounding.nearest(rows)
        file.set_rows(layer, rounded)
        if corrects:
            file.set_values(layer.bias, file.values(layer.bias) + ((rows - rounded) * mean).sum(axis=1))

    def to_json(self):
        """Return the record as a dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document):
        """Return the record that `to_json` wrote; `InputError` where the keys or values are others."""
        known = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(document, dict) or not set(document) <= set(known):
            raise InputError(f"Expected a tuning as an object with the keys {', '.join(known)}. Received: {document!r}")
        return cls(**document)


# What the command does where nothing else is asked for.
DEFAULT = Tuning("mse", "adaptive", True)
