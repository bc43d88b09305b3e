"""Limits: what a network or a file may cost, written as text with strict units, and whether a value keeps to them.

A limit is ``ITEM=RANGE``; several are separated by commas: ``"params=1.3M,peak=..2MiB,pointwise_share=0.4.."``.
``x..`` means at least x, ``..x`` at most x and ``x..y`` both; ``x`` alone means at most x, or at least x for an item
that is better the larger it is. Units are read as written, capitals included: counts are plain or in k, M, G
(thousands); bytes need B, kB, MB, GB (thousands) or KiB, MiB, GiB (1,024); times need us, ms or s; shares are 0 to 1,
or in %, or ``full`` for 100%. Of a comparison, dB, LSB (quantization steps), pp (percentage points) and x (times) may
be left out.
"""

import dataclasses
import enum
import math
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

from keras_nin.errors import expected_error, unknown_name_error
from keras_nin.formatting import format_bytes, format_us

FULL = "full"
_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)([A-Za-z%]*)")


class Unit(enum.Enum):
    """What the values of an item are; as numbers they are counts, bytes, microseconds and shares of 1."""

    COUNT = "count"
    BYTES = "size in bytes"
    TIME = "time"
    SHARE = "share"
    DECIBELS = "ratio in dB"
    STEPS = "number of quantization steps"
    POINTS = "number of percentage points"
    FACTOR = "factor"
    NUMBER = "number"


_FACTORS: dict[Unit, dict[str, int | Fraction]] = {
    Unit.COUNT: {"": 1, "k": 10**3, "M": 10**6, "G": 10**9},
    Unit.BYTES: {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    Unit.TIME: {"us": 1, "ms": 10**3, "s": 10**6},
    Unit.SHARE: {"": 1, "%": Fraction(1, 100)},
    Unit.DECIBELS: {"": 1, "dB": 1},
    Unit.STEPS: {"": 1, "LSB": 1},
    Unit.POINTS: {"": 1, "pp": 1},
    Unit.FACTOR: {"": 1, "x": 1},
    Unit.NUMBER: {"": 1},
}
_EXAMPLES = {
    Unit.COUNT: "1300000, 1300k or 1.3M",
    Unit.BYTES: "500B, 64KiB, 1.3MiB or 2MB",
    Unit.TIME: "500us, 20ms or 1.5s",
    Unit.SHARE: "0.4, 40% or full",
    Unit.DECIBELS: "30dB",
    Unit.STEPS: "8LSB",
    Unit.POINTS: "2.5pp",
    Unit.FACTOR: "1.25x",
    Unit.NUMBER: "0.5",
}


@dataclasses.dataclass(frozen=True)
class LimitItem:
    """What can be limited; a bare number is the greatest value that passes, or with `at_least` the least.

    `label` is what a check calls the value where the name does not say what it is.
    """

    name: str
    unit: Unit
    at_least: bool = False
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class Limit:
    """The range that the value of an item has to lie in, its ends included; None is no end."""

    item: LimitItem
    low: Fraction | None = None
    high: Fraction | None = None

    @property
    def name(self) -> str:
        """Name of the item."""
        return self.item.name

    def __str__(self) -> str:
        ends = (("at least", self.low), ("at most", self.high))
        return " and ".join(f"{word} {format_value(self.item.unit, end)}" for word, end in ends if end is not None)


class Verdict(enum.Enum):
    """Whether a limit is kept. What is not known to be kept does not pass."""

    PASS = "pass"
    EXCEEDED = "exceeded"
    NOT_REACHED = "not reached"
    UNKNOWN = "unknown"
    IDLE = "nothing runs"


@dataclasses.dataclass(frozen=True)
class LimitCheck:
    """A limit, the value it was compared with, and the verdict.

    The value is in counts, bytes, us or a share of 1; `reason` says why it is missing, or not the whole of it.
    `subject` is what was checked, such as a file or an accelerator; None where there is only one thing.
    """

    limit: Limit
    value: float | Fraction | None
    verdict: Verdict
    reason: str | None = None
    subject: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the limit is known to be kept."""
        return self.verdict is Verdict.PASS

    def __str__(self) -> str:
        subject = f"{self.subject}: " if self.subject else ""
        missing = "none" if self.verdict is Verdict.IDLE else "unknown"
        value = missing if self.value is None else format_value(self.limit.item.unit, self.value)
        verdict = "pass" if self.passed else f"FAIL, {self.verdict.value}"
        reason = f" ({self.reason})" if self.reason else ""
        return f"{subject}{self.limit.item.label or self.limit.name} {value}, limit {self.limit}: {verdict}{reason}"

    def to_json(self) -> dict[str, object]:
        """Return the check as a JSON-ready dictionary; times in us, sizes in bytes, shares from 0 to 1."""
        return {
            **({"subject": self.subject} if self.subject else {}),
            "item": self.limit.name,
            "value": _to_number(self.value),
            "at_least": _to_number(self.limit.low),
            "at_most": _to_number(self.limit.high),
            "passed": self.passed,
            "verdict": self.verdict.value,
            "reason": self.reason,
        }


def parse_limits(
    text: str, items: Iterable[LimitItem], *, argument: str, bare_item: str | None = None
) -> tuple[Limit, ...]:
    """Return the limits of a text such as ``"params=1.3M,pointwise_share=0.4.."``; see the module for the syntax.

    `argument` names what the text is the value of, `bare_item` the item of a limit without one, such as ``"95%"``.

    Raises:
        InputError: an unknown item, a number or unit that its item does not take, or an empty range.
    """
    known = {item.name: item for item in items}
    return tuple(_parse_limit(part.strip(), known, argument, bare_item) for part in text.split(","))


def _parse_limit(text: str, items: dict[str, LimitItem], argument: str, bare_item: str | None) -> Limit:
    name, separator, value = (word.strip() for word in text.partition("="))
    if not separator and bare_item is not None and name not in items:
        name, value = bare_item, name
    if name not in items:
        raise unknown_name_error(argument, name, items)
    item = items[name]
    if not value:
        example = _EXAMPLES[item.unit].split(",")[0]
        raise expected_error(argument, f"as ITEM=LIMIT, such as {name}={example}", text)
    low, dots, high = value.partition("..")
    if not dots:
        low, high = (value, "") if item.at_least else ("", value)
    least, low_unit = _parse_end(low, item, argument, text)
    most, high_unit = _parse_end(high, item, argument, text)
    if least is None and most is None:
        raise expected_error(argument, "with at least one end of a range", text)
    if least and most and bool(low_unit) != bool(high_unit):
        raise expected_error(argument, "with a unit at both ends of a range, or at neither", text)
    if least is not None and most is not None and least > most:
        raise expected_error(argument, "with a range from low to high", text)
    return Limit(item, least, most)


def _parse_end(text: str, item: LimitItem, argument: str, limit: str) -> tuple[Fraction | None, str]:
    if not text:
        return None, ""
    value, unit = _parse_number(text, item.unit)
    if value is None:
        raise expected_error(argument, f"to give {item.name} as a {_describe(item.unit)}", limit)
    if item.unit is Unit.SHARE and value > 1:
        raise expected_error(argument, "to give a share from 0 to 1, or to 100%", limit)
    return value, unit


def _parse_number(text: str, unit: Unit) -> tuple[Fraction | None, str]:
    if unit is Unit.SHARE and text == FULL:
        return Fraction(1), "%"
    match = _NUMBER.fullmatch(text)
    if not match or match[2] not in _FACTORS[unit]:
        return None, ""
    return Fraction(match[1]) * _FACTORS[unit][match[2]], match[2]


def _describe(unit: Unit) -> str:
    units = ", ".join(name for name in _FACTORS[unit] if name)
    return f"{unit.value} such as {_EXAMPLES[unit]}" + (f" (units as written: {units})" if units else "")


def parse_byte_count(text: str, *, argument: str) -> int:
    """Return the bytes of a text such as ``"256KiB"``; `InputError` where it is no such size, or no whole number."""
    count, _ = _parse_number(text.strip(), Unit.BYTES)
    if count is None or count.denominator != 1:
        raise expected_error(argument, f"as a {_describe(Unit.BYTES)}", text)
    return int(count)


def check_limit(
    limit: Limit,
    value: float | Fraction | None,
    *,
    bounds: tuple[float | Fraction | None, float | Fraction | None] | None = None,
    reason: str | None = None,
    subject: str | None = None,
) -> LimitCheck:
    """Compare a value, in the unit of `LimitCheck.value`, with a limit.

    Args:
        bounds: the least and the greatest that the true value can be (None: no such end) where `value` is not the
            whole of it, such as MACs of which some are unknown.
        reason: why `value` is missing or not the whole of it; reported where that leaves the limit undecided.
    """
    least, most = map(_exact, bounds if bounds is not None else (value, value))
    low_kept = limit.low is None or (least is not None and least >= limit.low)
    high_kept = limit.high is None or (most is not None and most <= limit.high)
    if limit.high is not None and least is not None and least > limit.high:
        verdict = Verdict.EXCEEDED
    elif limit.low is not None and most is not None and most < limit.low:
        verdict = Verdict.NOT_REACHED
    else:
        verdict = Verdict.PASS if low_kept and high_kept else Verdict.UNKNOWN
    return LimitCheck(limit, value, verdict, reason if verdict is Verdict.UNKNOWN else None, subject)


def _exact(value: float | Fraction | None) -> float | Fraction | None:
    """Return a float as the decimal that it stands for: 19 of 20 are at least 95%, though 0.95 is stored as less."""
    return Fraction(repr(value)) if isinstance(value, float) and math.isfinite(value) else value


def fail_idle(limit: Limit, reason: str, *, subject: str | None = None) -> LimitCheck:
    """Return the failed check of a limit on a target that computes nothing: its figures would be 0 and mean nothing."""
    return LimitCheck(limit, None, Verdict.IDLE, reason, subject)


def check_result(
    limit: Limit, value: float | Fraction | None, passed: bool, *, subject: str | None = None
) -> LimitCheck:
    """Return the check of a limit whose verdict was found elsewhere."""
    failure = Verdict.NOT_REACHED if limit.item.at_least else Verdict.EXCEEDED
    return LimitCheck(limit, value, Verdict.PASS if passed else failure, None, subject)


def single_end(limit: Limit, *, argument: str) -> Fraction:
    """Return the end of a range that has one, low where the item is better the larger it is, else high.

    Raises:
        InputError: the range has the other end.
    """
    end, other = (limit.low, limit.high) if limit.item.at_least else (limit.high, limit.low)
    if end is None or other is not None:
        kept = "at least" if limit.item.at_least else "at most"
        raise expected_error(argument, f"to give what {limit.name} is {kept}", str(limit))
    return end


def all_passed(checks: Sequence[LimitCheck]) -> bool:
    """Whether every limit is known to be kept."""
    return all(check.passed for check in checks)


def format_value(unit: Unit, value: float | Fraction) -> str:
    """Return a value of an item as text: ``"1,300,000"``, ``"983,040 bytes (960.0 KiB)"``, ``"28.5 us"``, ``"40%"``."""
    if unit is Unit.TIME:
        return format_us(float(value))
    if unit is Unit.SHARE:
        return f"{100 * float(value):.6g}%"
    if unit is Unit.FACTOR:
        return f"{float(value):.3g}x"
    if unit in (Unit.DECIBELS, Unit.STEPS, Unit.POINTS):
        return f"{float(value):.6g} {list(_FACTORS[unit])[-1]}"
    if unit is Unit.NUMBER:
        return f"{float(value):.6g}"
    number = _to_number(value)
    return f"{number:,} bytes ({format_bytes(float(value))})" if unit is Unit.BYTES else f"{number:,}"


def _to_number(value: float | Fraction | None) -> int | float | None:
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
