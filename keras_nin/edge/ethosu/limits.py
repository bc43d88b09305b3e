"""What a network must keep to on an accelerator, in strict units, and whether an estimate shows that it does."""

import re
from dataclasses import dataclass
from fractions import Fraction

from keras_nin.audit import budget
from keras_nin.audit.tables import format_size
from keras_nin.edge.ethosu import estimate as estimate_module
from keras_nin.errors import InputError, unknown_name_error

FULL = "full"
TIME, BYTES, SHARE = "time", "bytes", "share"
# The item that is a share must be reached; the others may not be exceeded.
ITEMS = {"npu": SHARE, "time": TIME, "sram": BYTES, "dram": BYTES, "flash": BYTES, "compiled": BYTES}
_MICROSECONDS = {"us": 1, "ms": 1000, "s": 10**6}
_UNITS = {TIME: _MICROSECONDS, BYTES: budget.UNITS[budget.BYTES], SHARE: {"%": Fraction(1, 100)}}
_EXAMPLES = {TIME: "500us, 20ms or 1.5s", BYTES: "500B, 512KiB, 1.3MiB or 2MB", SHARE: "95%"}
_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)([A-Za-z%]+)")


@dataclass(frozen=True)
class EthosULimit:
    """The most that one of `ITEMS` may be (us, bytes), the least share, or `FULL`, which has no `value`."""

    item: str
    value: Fraction | None = None


@dataclass(frozen=True)
class EthosULimitCheck:
    """What became of a limit on an accelerator: the figure (None: not known), whether it holds, and the reason."""

    accelerator: str
    limit: EthosULimit
    figure: int | float | None
    passed: bool
    reason: str | None = None

    def __str__(self):
        item, reason = self.limit.item, f" ({self.reason})" if self.reason else ""
        verdict = "holds" if self.passed else "does not hold"
        if item == FULL:
            return f"{self.accelerator}: all on the NPU: {verdict}{reason}"
        figure = "not known" if self.figure is None else _text(item, self.figure)
        word = "at least" if ITEMS[item] == SHARE else "at most"
        return f"{self.accelerator}: {item} {figure}, {word} {_text(item, self.limit.value)}: {verdict}{reason}"

    def to_json(self):
        """Return the result as a JSON-ready dictionary; times in us, sizes in bytes, shares from 0 to 1."""
        value = None if self.limit.value is None else float(self.limit.value)
        return {
            "accelerator": self.accelerator,
            "item": self.limit.item,
            "limit": value,
            "figure": self.figure,
            "passed": self.passed,
            "reason": self.reason,
        }


def parse(text):
    """Return the `Limit`s of a text such as ``"full"``, ``"95%"`` or ``"npu=95%,time=20ms,sram=512KiB"``.

    Raises:
        InputError: an unknown item, or a number or unit that is none of its kind.
    """
    return tuple(_limit(part.strip()) for part in text.split(","))


def _limit(part):
    if part == FULL:
        return EthosULimit(FULL)
    item, separator, value = (word.strip() for word in part.partition("="))
    if not separator:
        item, value = ("npu", part) if part.endswith("%") else (part, "")
    if item not in ITEMS:
        raise unknown_name_error("require", item, (FULL, *ITEMS))
    kind, match = ITEMS[item], _NUMBER.fullmatch(value)
    if not match or match[2] not in _UNITS[kind]:
        raise InputError(f"Expected `require` to give {item} as {_EXAMPLES[kind]}. Received: {part!r}")
    number = Fraction(match[1]) * _UNITS[kind][match[2]]
    if kind == SHARE and number > 1:
        raise InputError(f"Expected `require` to give a share of at most 100%. Received: {part!r}")
    return EthosULimit(item, number)


def check(estimate, limits):
    """Return the `Result` of each of `limits` for an `Estimate`; what is not known can not be shown to hold."""
    return tuple(_result(estimate, limit) for limit in limits)


def refused(refusal, limits):
    """Return the `Result`s for a `Refusal`: nothing holds on an accelerator that does not take the file."""
    return tuple(EthosULimitCheck(refusal.accelerator, limit, None, False, "Vela refuses the file") for limit in limits)


def _result(estimate, limit):
    left = estimate.left_to_cpu
    on_cpu = f"{estimate_module.describe_operator_count(left)} left to the CPU" if left else None
    if limit.item == FULL:
        return EthosULimitCheck(estimate.accelerator, limit, None, not left, on_cpu)
    figure = _figure(estimate, limit.item)
    if figure is None:
        return EthosULimitCheck(estimate.accelerator, limit, None, False, "MACs are not known")
    if ITEMS[limit.item] == SHARE:
        return EthosULimitCheck(estimate.accelerator, limit, figure, figure >= limit.value)
    passed = figure <= limit.value
    if limit.item == "time" and left and passed:
        return EthosULimitCheck(estimate.accelerator, limit, figure, False, f"{on_cpu}, whose time is not known")
    return EthosULimitCheck(estimate.accelerator, limit, figure, passed)


def _figure(estimate, item):
    return {
        "npu": estimate.npu_share,
        "time": estimate.us,
        "sram": estimate.used("SRAM"),
        "dram": estimate.used("DRAM"),
        "flash": estimate.used("on-chip flash") + estimate.used("off-chip flash"),
        "compiled": estimate.compiled_bytes,
    }[item]


def _text(item, value):
    return {TIME: lambda us: f"{float(us) / 1000:,.3f} ms", BYTES: lambda count: format_size(float(count)),
            SHARE: lambda share: f"{float(share):.1%}"}[ITEMS[item]](value)  # fmt: skip
