"""The quantisation schemes, one row each: what the converter is told and what the file must hold."""

import dataclasses

from keras_nin.errors import InputError, one_of

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
        one_of("io", io_type, IO_TYPES)
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
DEFAULT = "float32,int8"


COLUMNS = ("scheme", "weights", "activations", "input and output", "computes in", "needs")


def table_rows():
    """Return a row of words for each scheme, what is integer in each, in the order of `COLUMNS`."""
    return [
        (each.name, each.weights, each.activations, _ends(each), each.computes, each.needs) for each in SCHEMES.values()
    ]


def _ends(scheme):
    choice = dict.fromkeys([scheme.io_type, *(scheme.with_io(io_type).io_type for io_type in IO_TYPES)])
    return ", ".join(choice)


def parse_schemes(text):
    """Return the schemes of a comma-separated list of names, in its order; ``"all"`` is those that train nothing.

    Raises:
        InputError: an unknown or repeated name, or none at all.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        one_of("scheme", name, (*SCHEMES, "all"))
    if "all" in names:
        untrained = [scheme.name for scheme in SCHEMES.values() if not scheme.trained]
        place = names.index("all")
        names[place : place + 1] = untrained
    if not names or len(set(names)) != len(names):
        raise InputError(
            f"Expected `scheme` to list each scheme once ({', '.join(SCHEMES)}), or all. Received: {text!r}"
        )
    return [SCHEMES[name] for name in names]
