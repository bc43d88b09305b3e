"""The rules of the Edge TPU compiler, read from rules.toml: constraints with their evidence, a status and a fix."""

import dataclasses
import enum
import functools
import math
import pathlib
import tomllib
from collections.abc import Callable
from typing import Any

from keras_nin.edge.edgetpu.operators import BoundOperator, format_shape
from keras_nin.edge.edgetpu.records import CompileFailure, FailureMessage, Status
from keras_nin.schemas import record_from_json

_DATA: dict[str, Any] = tomllib.loads(pathlib.Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SUPPORTED_OPERATORS = frozenset(_DATA["supported"])
DYNAMIC_OUTPUTS = frozenset(_DATA["dynamic_outputs"])
HIGHEST_VERSIONS: dict[str, int] = _DATA["highest_versions"]
LARGEST_MAPPED: dict[str, int] = _DATA["largest_mapped"]
REJECTED_MAP = math.prod(_DATA["rejected_map"])


class Origin(enum.StrEnum):
    """Kind of evidence: the vendor's documentation, its issue tracker, or files with the compiler's result."""

    DOCUMENT = "document"
    REPORT = "report"
    DATA = "data"


@dataclasses.dataclass(frozen=True)
class RuleSource:
    """The evidence for a rule, with the repositories that taught it (`Origin.DATA`) or that show it does not apply."""

    kind: Origin
    text: str
    learned_from: tuple[str, ...] = ()
    refuted_by: tuple[str, ...] = ()

    def applies(self, without: str | None = None) -> bool:
        """Return whether the rule applies by the evidence without that of the repository `without`."""
        refuted = any(repository != without for repository in self.refuted_by)
        known = self.kind is not Origin.DATA or any(repository != without for repository in self.learned_from)
        return known and not refuted


@dataclasses.dataclass(frozen=True)
class OperatorRule:
    """A limit of some operators, or of all: the constraint, the limit in words, the compiler's status and a fix."""

    name: str
    operators: tuple[str, ...]
    violation: Callable[[BoundOperator], str | None]
    limit: str
    status: Status
    fix: str
    source: RuleSource

    def explain_refusal(self, operator: BoundOperator) -> str | None:
        """Return why the rule refuses an operator, None where it does not."""
        if self.operators and operator.op not in self.operators:
            return None
        violation = self.violation(operator)
        return f"{violation}: {self.limit}" if violation else None


def _unknown_operation(operator: BoundOperator) -> str | None:
    return None if operator.op in SUPPORTED_OPERATORS else "it is not among the supported operations"


def _read_rule(entry: dict[str, Any]) -> OperatorRule:
    name, size, arguments = entry["violation"], entry.get("size", ()), dict(entry.get("arguments", {}))
    if size:
        arguments["size"] = math.prod(size)
    violation = _unknown_operation if name == "unknown_operation" else getattr(BoundOperator, name)
    return OperatorRule(
        name=entry["name"],
        operators=tuple(entry.get("operators", ())),
        violation=functools.partial(violation, **arguments),
        limit=entry["limit"].format(size=format_shape(size) if len(size) > 1 else f"{sum(size):,}"),
        status=Status[entry["status"]],
        fix=entry["fix"],
        source=record_from_json(RuleSource, entry["source"]),
    )


REPEATS = record_from_json(RuleSource, _DATA["repeats"])
RULES = tuple(map(_read_rule, _DATA["rules"]))


def find_refusal(operator: BoundOperator, without: str | None = None) -> tuple[OperatorRule, str] | None:
    """Return the first rule that refuses an operator, and why, without the evidence of the repository `without`."""
    for rule in RULES:
        if rule.source.applies(without) and (why := rule.explain_refusal(operator)):
            return rule, why
    return None


def suggest_fix(rule: OperatorRule, operator: BoundOperator) -> str | None:
    """Return how to get a refused operator mapped, None where no way is known."""
    boundary = {"QUANTIZE": operator.data, "DEQUANTIZE": operator.output}.get(operator.op)
    main = operator.model.main
    if boundary is not None and boundary.index not in (*main.inputs, *main.outputs):
        return "quantize the floating-point operator beside it"
    replacement = None if operator.op in SUPPORTED_OPERATORS else _DATA["replacements"].get(operator.op)
    return replacement or rule.fix or None


def compile_failure(rule: str, operator: BoundOperator | None = None, **facts: object) -> CompileFailure:
    """Return why the compiler rejects a file, for an operator or for all of it; `facts` are named in rules.toml."""
    entry = _DATA["failures"][rule]
    fix = entry["fix"]
    if operator and rule == "operator-version":
        fix = _DATA["version_fixes"].get(operator.op, fix)
    facts |= {"rejected": REJECTED_MAP} | ({"index": operator.index, "op": operator.op} if operator else {})
    message = FailureMessage[entry["message"]].format(**facts)
    return CompileFailure(message, entry["why"].format(**facts), fix, rule)
