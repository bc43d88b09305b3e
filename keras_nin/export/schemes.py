"""The quantisation schemes, one row each: what the converter is told and what the file must hold."""

import dataclasses

from keras_nin.errors import InputError, check_choice

IO_TYPES = ("int8", "uint8", "float32")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A way to store and compute a network.

    Attributes:
        name: the name on the command line and in file names.
        weights: data type of the stored weights of convolutions and dense layers.
        activations: data type of what flows between layers.
        io_type: data type of the file's input and output.
        calibrated: whether the converter needs representative images.
        trained: what is trained before the conversion: None, "qat", "pruned" or "clustered".
        computes: in words, what kind of numbers are multiplied and added.
        per_channel: whether each output channel of a weight tensor has a scale of its own; with one scale for all,
            equal weights stay equal.
    """

    name: str
    weights: str
    activations: str
    io_type: str
    calibrated: bool = False
    trained: str | None = None
    computes: str = "int8, sums in int32"
    per_channel: bool = True

    @property
    def needs(self):
        """What a scheme needs beyond the model, in words."""
        needed = [*(["training"] if self.trained else []), *(["calibration"] if self.calibrated else [])]
        return " and ".join(needed) or "-"

    @property
    def integer_only(self):
        """Whether the file must hold no operator that computes in floating point."""
        return self.activations != "float32"

    def with_io(self, io_type):
        """Return the scheme with another type of input and output, where it has the choice.

        A network of 8-bit activations takes int8, uint8 and float32, one of 16-bit activations its own int16 and
        float32. The others are float32 at both ends, whatever is asked for.

        Raises:
            InputError: `io_type` is none of `IO_TYPES`.
        """
        check_choice("io", io_type, IO_TYPES)
        if self.activations == "int8" or (self.activations == "int16" and io_type == "float32"):
            return dataclasses.replace(self, io_type=io_type)
        return self


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("float32", "float32", "float32", "float32", computes="float32"),
        Scheme("float16", "float16", "float32", "float32", computes="float32"),
        Scheme("dynamic", "int8", "float32", "float32", computes="int8 in convolutions, else float32"),
        Scheme("int8", "int8", "int8", "int8", calibrated=True),
        Scheme("int16x8", "int8", "int16", "int16", calibrated=True, computes="int16 by int8, sums in int64"),
        Scheme("qat", "int8", "int8", "int8", trained="qat"),
        Scheme("pruned", "int8", "int8", "int8", calibrated=True, trained="pruned"),
        Scheme("clustered", "int8", "int8", "int8", calibrated=True, trained="clustered", per_channel=False),
    )
}
DEFAULT_SCHEMES = "float32,int8"


SCHEME_COLUMNS = ("scheme", "weights", "activations", "input and output", "computes in", "needs")


def scheme_table_rows():
    """Return a row of words for each scheme, what is integer in each, in the order of `COLUMNS`."""
    return [
        (each.name, each.weights, each.activations, _io_choices(each), each.computes, each.needs)
        for each in SCHEMES.values()
    ]


def _io_choices(scheme):
    choice = dict.fromkeys([scheme.io_type, *(scheme.with_io(io_type).io_type for io_type in IO_TYPES)])
    return ", ".join(choice)


def parse_schemes(text):
    """Return the schemes of a comma-separated list of names, in its order; ``"all"`` is those that train nothing.

    Raises:
        InputError: an unknown or repeated name, or none at all.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        check_choice("scheme", name, (*SCHEMES, "all"))
    if "all" in names:
        untrained = [scheme.name for scheme in SCHEMES.values() if not scheme.trained]
        place = names.index("all")
        names[place : place + 1] = untrained
    if not names or len(set(names)) != len(names):
        raise InputError(
            f"Expected `scheme` to list each scheme once ({', '.join(SCHEMES)}), or all. Received: {text!r}"
        )
    return [SCHEMES[name] for name in names]


# MERGED What is done to a calibrated float file before it is quantised.

RANGES = ("minmax", "mse")
ROUNDINGS = ("nearest", "adaptive")
ROUNDING_REACH = 3  # levels: how far beyond its two neighbours on the grid adaptive rounding may take a weight
# Of the second moments that are kept at a time: 2**26 float64 are 512 MiB. More layers take more runs over the samples.
_MAX_MOMENT_ELEMENTS = 2**26


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How to choose ranges, weights and biases; without arguments what the converter does.

    Attributes:
        ranges: of the activations. "minmax": from the least to the largest value that the calibration images give;
            "mse": the part of it with the least mean square error of rounding and cutting off.
        rounding: of the weights. "nearest" integer; "adaptive": so that the outputs of the layer change least on the
            calibration images (`keras_nin.export.rounding.round_adaptively`).
        bias_correction: whether each bias makes good for what rounding the weights does to the mean of its output.
            Nagel et al., arXiv:1906.04721.
    """

    ranges: str = "minmax"
    rounding: str = "nearest"
    bias_correction: bool = False

    def __post_init__(self):
        check_choice("ranges", self.ranges, RANGES)
        check_choice("rounding", self.rounding, ROUNDINGS)
        check_choice("bias_correction", self.bias_correction, (True, False))

    def apply(self, content, samples):
        """Return the calibrated file with other ranges, weights or biases.

        Args:
            content: bytes of a float .tflite file whose tensors have the least and largest value that they took.
            samples: as `keras_nin.export.conversion.Quantizer` takes them.
        """
        if self == Tuning():
            return content
        from keras_nin.export import float_file
        from keras_nin.export import rounding as rounding_module
        from keras_nin.export.float_file import FloatFile

        file = FloatFile(content)
        histograms = rounding_module.build_histograms(file) if self.ranges == "mse" else []
        parts = self._parts(file) or [[]]
        for number, moments in enumerate(parts):
            float_file.observe_activations(file, samples, [*moments, *(histograms if number == 0 else ())])
            for moment in moments:
                self._round(file, moment)
        rounding_module.set_activation_ranges(file, histograms)
        return file.content()

    def _parts(self, file):
        """Return the layers to round as lists of `Moments`, so many at a time as memory allows."""
        from keras_nin.export.float_file import InputMoments

        if self.rounding == "nearest" and not self.bias_correction:
            return []
        parts, elements = [], 0
        for layer in file.layers:
            moments = InputMoments(
                layer, squares=self.rounding == "adaptive" and layer.terms**2 <= _MAX_MOMENT_ELEMENTS
            )
            size = layer.terms**2 * layer.groups if moments.squares else 0
            if not parts or elements + size > _MAX_MOMENT_ELEMENTS:
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
            rounded = rounding.round_adaptively(rows, moments.second() - means)
        else:
            rounded = rounding.round_to_nearest(rows)
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
DEFAULT_TUNING = Tuning("mse", "adaptive", True)
