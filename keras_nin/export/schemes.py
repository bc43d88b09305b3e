"""The quantisation schemes, one row each: what the converter is told and what the file must hold."""

import dataclasses

from keras_nin.errors import InputError, one_of


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A way to store and compute a network.

    Attributes:
        name: the name on the command line and in file names.
        io_type: data type of the file's input and output.
        calibrated: whether the converter needs representative images.
        integer_only: whether the file must hold no operator that computes in floating point.
    """

    name: str
    io_type: str
    calibrated: bool = False
    integer_only: bool = False


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("float32", "float32"),
        Scheme("int8", "int8", calibrated=True, integer_only=True),
    )
}
DEFAULT = "float32,int8"


def parse_schemes(text):
    """Return the schemes of a comma-separated list of names, in its order, or of ``"all"``.

    Raises:
        InputError: an unknown or repeated name, or none at all.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        one_of("scheme", name, (*SCHEMES, "all"))
    if names == ["all"]:
        names = list(SCHEMES)
    if not names or "all" in names or len(set(names)) != len(names):
        raise InputError(
            f"Expected `scheme` to list each scheme once ({', '.join(SCHEMES)}), or all. Received: {text!r}"
        )
    return [SCHEMES[name] for name in names]
