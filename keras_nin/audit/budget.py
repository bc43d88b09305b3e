"""Budgets: what a network may cost, in strict units, and whether an audit shows that it holds."""

import re
from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit.tables import format_names, format_size
from keras_nin.errors import InputError, unknown_name_error

COUNT, BYTES, SHARE = "count", "bytes", "share"
ITEMS = {
    "params": COUNT,
    "trainable_params": COUNT,
    "macs": COUNT,
    "weights": BYTES,
    "peak": BYTES,
    "peak_int8": BYTES,
    "activations": BYTES,
    "pointwise_share": SHARE,
    "pointwise_params_share": SHARE,
}
UNITS = {
    COUNT: {"": 1, "k": 10**3, "M": 10**6, "G": 10**9},
    BYTES: {
        **{"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9},
        **{"KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    },
    SHARE: {"": 1, "%": Fraction(1, 100)},
}
_EXAMPLES = {COUNT: "1300000, 1300k or 1.3M", BYTES: "500B, 64KiB, 1.3MiB or 2MB", SHARE: "0.4 or 40%"}
_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)([A-Za-z%]*)")
_HOLDS, _OVER, _UNDER, _UNKNOWN = "holds", "exceeded", "not reached", "not known"


@dataclass(frozen=True)
class AuditLimit:
    """The range that one of `ITEMS` has to lie in, its ends included; None is no end. Shares are fractions of 1."""

    item: str
    low: Fraction | None = None
    high: Fraction | None = None

    def __str__(self):
        ends = [("at least", self.low), ("at most", self.high)]
        return " and ".join(f"{word} {_format_quantity(self.item, end)}" for word, end in ends if end is not None)


@dataclass(frozen=True)
class AuditLimitCheck:
    """What became of a limit: the figure (None where there is none), the verdict, and why where it is not known.

    `verdict` is "holds", "exceeded", "not reached" or "not known".
    """

    limit: AuditLimit
    figure: int | float | None
    verdict: str
    reason: str | None = None

    @property
    def passed(self):
        """Whether the audit shows that the limit holds."""
        return self.verdict == _HOLDS

    def __str__(self):
        figure = "none" if self.figure is None else _format_quantity(self.limit.item, self.figure)
        why = f" ({self.reason})" if self.reason else ""
        return f"Budget {self.limit.item}: {figure}, {self.limit}: {self.verdict}{why}"

    def to_json(self):
        """Return the result as a JSON-ready dict."""
        return {
            "item": self.limit.item,
            "figure": self.figure,
            "at_least": _json_number(self.limit.low),
            "at_most": _json_number(self.limit.high),
            "passed": self.passed,
            "verdict": self.verdict,
            "reason": self.reason,
        }


def parse_audit_limits(text):
    """Return the `Limit`s of a text such as ``"params=1.3M,peak=2MiB,pointwise_share=0.4.."``.

    ``x`` and ``..x`` mean at most x, ``x..`` at least x, ``x..y`` both. Counts are plain or in k, M, G (thousands);
    bytes need a unit: B, kB, MB, GB (thousands) or KiB, MiB, GiB (1,024); shares are 0 to 1 or in %. Units are read
    as written here, capitals included.

    Raises:
        InputError: an unknown item, a number or unit that is none of these, or a range that nothing lies in.
    """
    return tuple(_parse_limit(part.strip()) for part in text.split(","))


def check_audit_limits(audit, limits):
    """Return the `Result` of each of `limits` for `audit`. What is not known can not be shown to hold."""
    return tuple(_check_limit(limit, *_quantity_bounds(audit, limit.item)) for limit in limits)


def _parse_limit(part):
    item, separator, value = (word.strip() for word in part.partition("="))
    if not separator or not value:
        raise InputError(f"Expected `budget` as ITEM=LIMIT, such as params=1.3M. Received: {part!r}")
    if item not in ITEMS:
        raise unknown_name_error("budget", item, ITEMS)
    low, dots, high = value.partition("..")
    if not dots:
        low, high = "", value
    ends = [_parse_number(item, end, part) if end else (None, None) for end in (low, high)]
    (least, low_unit), (most, high_unit) = ends
    if least is None and most is None:
        raise InputError(f"Expected `budget` to give at least one end of a range. Received: {part!r}")
    if least and most and bool(low_unit) != bool(high_unit):
        raise InputError(f"Expected a unit at both ends of a range, or at neither. Received: {part!r}")
    if least is not None and most is not None and least > most:
        raise InputError(f"Expected a range from low to high. Received: {part!r}")
    return AuditLimit(item, least, most)


def _parse_number(item, text, part):
    unit_kind = ITEMS[item]
    match = _NUMBER.fullmatch(text)
    units = UNITS[unit_kind]
    if not match or match[2] not in units:
        listed = ", ".join(unit for unit in units if unit)
        raise InputError(
            f"Expected `budget` to give {item} as a {unit_kind} such as {_EXAMPLES[unit_kind]} (units as written: "
            f"{listed}). Received: {part!r}"
        )
    value = Fraction(match[1]) * units[match[2]]
    if unit_kind == SHARE and value > 1:
        raise InputError(f"Expected `budget` to give a share from 0 to 1, or to 100%. Received: {part!r}")
    return value, match[2]


def _quantity_bounds(audit, item):
    """The figure, the least and the most that it can be (None: no end), and why those differ."""
    total = audit.total
    exact = {
        "params": total.params,
        "trainable_params": total.trainable_params,
        "weights": total.weight_bytes,
        "peak": total.peak_activation_bytes,
        "peak_int8": total.peak_activation_bytes_int8,
        "activations": total.activation_bytes,
    }
    if item in exact:
        return exact[item], exact[item], exact[item], None
    unknown = f"MACs not known: {format_names(audit.unknown)}" if audit.unknown else None
    if item == "macs":  # more than is known, never less
        return total.macs, total.macs, None if unknown else total.macs, unknown
    part, whole = {
        "pointwise_share": (total.pointwise_macs, total.macs),
        "pointwise_params_share": (total.pointwise_params, total.params),
    }[item]
    if not whole:
        return None, Fraction(0), Fraction(1), "the network has none to take a share of"
    share = Fraction(part, whole)
    known = item != "pointwise_share" or not unknown
    return float(share), share if known else Fraction(0), share, None if known else unknown


def _check_limit(limit, figure, least, most, reason):
    if limit.high is not None and least > limit.high:
        return AuditLimitCheck(limit, figure, _OVER)
    if limit.low is not None and most is not None and most < limit.low:
        return AuditLimitCheck(limit, figure, _UNDER)
    low_holds = limit.low is None or least >= limit.low
    high_holds = limit.high is None or (most is not None and most <= limit.high)
    return (
        AuditLimitCheck(limit, figure, _HOLDS)
        if low_holds and high_holds
        else AuditLimitCheck(limit, figure, _UNKNOWN, reason)
    )


def _format_quantity(item, value):
    kind = ITEMS[item]
    if kind == SHARE:
        return f"{100 * float(value):.6g}%"
    value = _json_number(value)
    return f"{value:,} bytes ({format_size(value)})" if kind == BYTES else f"{value:,}"


def _json_number(value):
    """A fraction as the number that JSON holds."""
    if value is None or isinstance(value, (int, float)):
        return value
    return int(value) if value.denominator == 1 else float(value)


def parse_bytes(text, what):
    """Return the bytes in a text such as "256KiB", units as `parse` takes them; `what` is its name in the error.

    Raises:
        InputError: no such size, or no whole number of bytes.
    """
    match = _NUMBER.fullmatch(text.strip())
    units = UNITS[BYTES]
    count = Fraction(match[1]) * units[match[2]] if match and match[2] in units else Fraction(1, 2)
    if count.denominator != 1:
        raise InputError(
            f"Expected `{what}` as a size such as {_EXAMPLES[BYTES]} (units as written: {', '.join(units)}). "
            f"Received: {text!r}"
        )
    return int(count)
