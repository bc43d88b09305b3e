"""What a file may take on a microcontroller, and whether it does."""

import dataclasses

from keras_nin.audit.budget import parse_bytes
from keras_nin.errors import InputError, unknown_name_error

_FIGURES = {
    "arena": lambda micro: micro.arena.bytes if micro.arena else None,
    "flash": lambda micro: micro.file_bytes,
}


@dataclasses.dataclass(frozen=True)
class MicroLimit:
    """An item, "arena" or "flash", and the bytes that it may take at most."""

    item: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class MicroLimitCheck:
    """What became of a limit: the figure in bytes (None: no arena works), and whether it holds."""

    limit: MicroLimit
    figure: int | None
    passed: bool

    def to_json(self):
        """Return the result as a JSON-ready dictionary."""
        return {"item": self.limit.item, "figure": self.figure, "at_most": self.limit.bytes, "passed": self.passed}


def parse(text):
    """Return the `Limit`s of a text such as ``"arena=256KiB,flash=1MiB"``.

    Raises:
        InputError: an unknown item, or no size.
    """
    return tuple(_limit(part.strip()) for part in text.split(","))


def check(micro, limits):
    """Return the `Result` of each of `limits` for a `Micro`; an arena that does not exist fits into nothing."""
    return tuple(_result(limit, _FIGURES[limit.item](micro)) for limit in limits)


def _limit(part):
    item, separator, size = (word.strip() for word in part.partition("="))
    if not separator:
        raise InputError(f"Expected `require` as ITEM=SIZE, such as arena=256KiB. Received: {part!r}")
    if item not in _FIGURES:
        raise unknown_name_error("require", item, _FIGURES)
    return MicroLimit(item, parse_bytes(size, f"require {item}"))


def _result(limit, figure):
    return MicroLimitCheck(limit, figure, figure is not None and figure <= limit.bytes)
