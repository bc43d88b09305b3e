"""How a network is stored and computed: the quantization schemes, one row each, and how an int8 scheme is tuned."""

import dataclasses
from typing import Any

from keras_nin.errors import check_choice, expected_error

IO_TYPES = ("int8", "uint8", "float32")
RANGES = ("minmax", "mse")
ROUNDINGS = ("nearest", "adaptive")
ROUNDING_REACH = 3  # steps of the weight grid that adaptive rounding may take a weight beyond its two neighbors
DEFAULT_SCHEMES = "float32,int8"
# Converters, and the packages that each needs besides those that run a model and a file.
CONVERTERS = {"tensorflow": ("tensorflow",), "litert": ("jax", "litert-converter")}
SCHEME_COLUMNS = ("scheme", "weights", "activations", "input and output", "compute type", "needs")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A way to store and compute a network.

    Attributes:
        name: the name on the command line and in file names.
        weights, activations, io_type: data types of the stored weights of convolutions and dense layers, of what flows
            between layers, and of the file's input and output.
        calibrated: whether the converter needs representative images.
        trained: what is trained before the conversion: None, "qat", "qat_keras", "pruned" or "clustered".
        compute_type: in words, what kind of numbers are multiplied and added.
        per_channel: whether each output channel of a weight tensor has its own scale; with one scale for all channels,
            equal weights stay equal.
        mixed: whether some operators stay in float32, so that a target is met (`keras_nin.export.mixed_precision`).
    """

    name: str
    weights: str
    activations: str
    io_type: str
    calibrated: bool = False
    trained: str | None = None
    compute_type: str = "int8, sums in int32"
    per_channel: bool = True
    mixed: bool = False

    @property
    def integer_only(self) -> bool:
        """Whether no operator of the file may compute in floating point."""
        return self.activations != "float32"

    @property
    def tunable(self) -> bool:
        """Whether a `Tuning` other than the converter's own way applies."""
        return self.calibrated and self.activations == "int8"

    def with_io(self, io_type: str) -> "Scheme":
        """Return the scheme with another input and output type, where it has the choice.

        A network with 8-bit activations takes int8, uint8 or float32, one with 16-bit activations int16 or float32.
        The inputs and outputs of the other schemes are always float32.

        Raises:
            InputError: `io_type` is not one of `IO_TYPES`.
        """
        check_choice("io", io_type, IO_TYPES)
        if self.activations == "int8" or (self.activations == "int16" and io_type == "float32"):
            return dataclasses.replace(self, io_type=io_type)
        return self

    def table_row(self) -> tuple[str, ...]:
        """Return the scheme as text in the order of `SCHEME_COLUMNS`."""
        choices = dict.fromkeys([self.io_type, *(self.with_io(io_type).io_type for io_type in IO_TYPES)])
        needs = [*(["training"] if self.trained else []), *(["calibration"] if self.calibrated else [])]
        needs += ["a target"] if self.mixed else []
        types = self.weights, self.activations, ", ".join(choices), self.compute_type
        return (self.name, *types, " and ".join(needs) or "-")


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("float32", "float32", "float32", "float32", compute_type="float32"),
        Scheme("float16", "float16", "float32", "float32", compute_type="float32"),
        Scheme("dynamic", "int8", "float32", "float32", compute_type="int8 in convolutions, else float32"),
        Scheme("int8", "int8", "int8", "int8", calibrated=True),
        Scheme("int16x8", "int8", "int16", "int16", calibrated=True, compute_type="int16 by int8, sums in int64"),
        Scheme(
            "mixed",
            "int8",
            "int8",
            "float32",
            calibrated=True,
            mixed=True,
            compute_type="int8, sums in int32; chosen operators float32",
        ),
        Scheme("qat", "int8", "int8", "int8", trained="qat"),
        Scheme("qat_keras", "int8", "int8", "int8", calibrated=True, trained="qat_keras"),
        Scheme("pruned", "int8", "int8", "int8", calibrated=True, trained="pruned"),
        Scheme("clustered", "int8", "int8", "int8", calibrated=True, trained="clustered", per_channel=False),
    )
}


def get_scheme(scheme: str | Scheme) -> Scheme:
    """Return a scheme by its name, or as it is; raise `InputError` for an unknown name."""
    return scheme if isinstance(scheme, Scheme) else SCHEMES[check_choice("scheme", scheme, tuple(SCHEMES))]


def parse_schemes(text: str) -> list[Scheme]:
    """Return the schemes of a comma-separated list of names, in its order; ``"all"`` is every post-training scheme
    without a target.

    Raises:
        InputError: an unknown or repeated name, or no name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        check_choice("scheme", name, (*SCHEMES, "all"))
    if "all" in names:
        position = names.index("all")
        names[position : position + 1] = [
            scheme.name for scheme in SCHEMES.values() if not (scheme.trained or scheme.mixed)
        ]
    if not names or len(set(names)) != len(names):
        raise expected_error("scheme", f"to list each scheme once ({', '.join(SCHEMES)}), or all", text)
    return [SCHEMES[name] for name in names]


def scheme_table_rows() -> list[tuple[str, ...]]:
    """Return a row of text for each scheme, in the order of `SCHEME_COLUMNS`."""
    return [scheme.table_row() for scheme in SCHEMES.values()]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How the ranges, weights and biases of a calibrated 8-bit file are chosen.

    Attributes:
        ranges: of the activations. "minmax": from the smallest to the largest value on the calibration images;
            "mse": the part of that range with the smallest mean squared error of rounding and clipping.
        rounding: of the weights. "nearest": to the nearest integer; "adaptive": so that the outputs of the layer change
            least on the calibration images (GPTQ, arXiv:2210.17323).
        bias_correction: whether each bias compensates for what rounding the weights does to the mean of its output
            (arXiv:1906.04721).
    """

    ranges: str = "mse"
    rounding: str = "adaptive"
    bias_correction: bool = True

    def __post_init__(self) -> None:
        check_choice("ranges", self.ranges, RANGES)
        check_choice("rounding", self.rounding, ROUNDINGS)
        check_choice("bias_correction", self.bias_correction, (True, False))

    @classmethod
    def plain(cls) -> "Tuning":
        """Return the converter's own way: the whole range, and the nearest integer."""
        return cls("minmax", "nearest", False)

    def to_json(self) -> dict[str, Any]:
        """Return the tuning as a dictionary."""
        return dataclasses.asdict(self)
