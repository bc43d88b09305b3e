"""What a file must keep to on the targets, in strict units, and whether its figures show that it does."""

from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit.budget import parse_bytes
from keras_nin.audit.tables import format_size
from keras_nin.edge.ethosu import limits as shares_and_times
from keras_nin.edge.fit import CPU, EDGETPU, ETHOSU, MICRO
from keras_nin.errors import InputError, unknown_name_error

_TIME, _SHARE, _BYTES = "time", "share", "bytes"
# The target that an item is of, None for the file itself, and what it may be. A share must be reached; the others may
# not be exceeded. A share of operators, on the Edge TPU.
_ITEMS = {
    "cpu": (CPU, _TIME),
    "edgetpu": (EDGETPU, _SHARE),
    "ethosu": (ETHOSU, _TIME),
    "sram": (ETHOSU, _BYTES),
    "arena": (MICRO, _BYTES),
    "flash": (None, _BYTES),
}
_EXAMPLES = {_TIME: "500us, 20ms or 1.5s", _SHARE: "full or 95%"}


@dataclass(frozen=True)
class FitLimit:
    """An item, its target (None: the file itself), and the most it may be (us, bytes) or the least (a share of 1)."""

    item: str
    target: str | None
    value: Fraction

    @property
    def is_share(self):
        """Whether it must be reached."""
        return _ITEMS[self.item][1] == _SHARE

    def text(self, value):
        """Return a value of the item as text."""
        kind = _ITEMS[self.item][1]
        if kind == _TIME:
            return f"{float(value) / 1000:,.3f} ms" if value >= 1000 else f"{float(value):,.1f} us"
        return f"{float(value):.1%}" if kind == _SHARE else format_size(float(value))


@dataclass(frozen=True)
class FitLimitCheck:
    """What became of a limit for a file: the figure (None: there is none), whether it holds, and the reason."""

    file: str
    limit: FitLimit
    figure: float | None
    passed: bool
    reason: str | None = None

    def __str__(self):
        figure = "no figure" if self.figure is None else self.limit.text(self.figure)
        word = "at least" if self.limit.is_share else "at most"
        reason = f" ({self.reason})" if self.reason else ""
        verdict = "holds" if self.passed else "does not hold"
        return f"{self.file}: {self.limit.item} {figure}, {word} {self.limit.text(self.limit.value)}: {verdict}{reason}"

    def to_json(self):
        """Return the result as a JSON-ready dictionary; times in us, sizes in bytes, shares from 0 to 1."""
        return {
            "file": self.file,
            "item": self.limit.item,
            "limit": float(self.limit.value),
            "figure": self.figure,
            "passed": self.passed,
            "reason": self.reason,
        }


def parse(text):
    """Return the `Limit`s of a text such as ``"cpu=5ms,edgetpu=full,ethosu=2ms,arena=256KiB"``.

    Raises:
        InputError: an unknown item, or a number or unit that is none of its kind.
    """
    return tuple(_limit(part.strip()) for part in text.split(","))


def _limit(part):
    item, _, value = (word.strip() for word in part.partition("="))
    if item not in _ITEMS:
        raise unknown_name_error("require", item, _ITEMS)
    target, kind = _ITEMS[item]
    if kind == _BYTES:
        return FitLimit(item, target, Fraction(parse_bytes(value, f"require {item}")))
    # Bare, these are the share of an accelerator and "full"; what has a name of its own is none of them.
    try:
        (found,) = shares_and_times.parse(f"time={value}" if kind == _TIME or "=" in value else value)
    except InputError:
        raise InputError(f"Expected `require` to give {item} as {_EXAMPLES[kind]}. Received: {part!r}") from None
    return FitLimit(item, target, Fraction(1) if found.item == shares_and_times.FULL else found.value)


def check(fit, limits):
    """Return the `Result`s of `Limit`s for every file of a `Fit`; what is not known can not be shown to hold."""
    return tuple(_result(each, limit) for each in fit.results for limit in limits)


def _result(result, limit):
    missing = result.why_not(limit.target)
    if missing is not None:
        return FitLimitCheck(result.file, limit, None, False, f"{missing.word}: {missing.reason}")
    figure, reason = _FIGURES[limit.item](result)
    passed = figure >= limit.value if limit.is_share else figure <= limit.value
    return FitLimitCheck(result.file, limit, figure, passed and reason is None, reason)


def _edgetpu(result):
    found = result.edgetpu
    if not found.compiles:
        return 0.0, found.failure
    return (found.mapped / found.operators if found.operators else 0.0), None


def _ethosu(result):
    left = result.ethosu.left_to_cpu
    reason = f"{left:,} of {result.ethosu.operators:,} operators left to the CPU, whose time is not known"
    return result.ethosu.us, reason if left else None


# Of each item the figure, and why it is not the whole of it.
_FIGURES = {
    "cpu": lambda result: (result.cpu.median_us, None),
    "edgetpu": _edgetpu,
    "ethosu": _ethosu,
    "sram": lambda result: (result.ethosu.sram_bytes, None),
    "arena": lambda result: (result.micro.arena_bytes, None),
    "flash": lambda result: (result.file_bytes, None),
}
