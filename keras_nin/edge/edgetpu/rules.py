"""The rules of the Edge TPU compiler, read from rules.toml: constraints and sizes, each with a status and a fix."""

import dataclasses
import enum
import functools
import pathlib
import tomllib
from collections.abc import Callable
from typing import Any

from keras_nin.edge.edgetpu.evidence import Evidence, Support
from keras_nin.edge.edgetpu.operators import BoundOperator
from keras_nin.edge.edgetpu.records import CompileFailure, Confidence, FailureMessage, Status
from keras_nin.schemas import record_from_json

_DATA: dict[str, Any] = tomllib.loads(pathlib.Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SUPPORTED_OPERATORS = frozenset(_DATA["supported"])
DYNAMIC_OUTPUTS = frozenset(_DATA["dynamic_outputs"])
HIGHEST_VERSIONS: dict[str, int] = _DATA["highest_versions"]
LARGE_MAP, REPEATED = "large-map", "repeated"
NEVER_OBSERVED = "documented only, never observed"


class Origin(enum.StrEnum):
    """Where a rule comes from: the vendor's documentation, its issue tracker, or files with the compiler's result."""

    DOCUMENT = "document"
    REPORT = "report"
    DATA = "data"


@dataclasses.dataclass(frozen=True)
class RuleSource:
    """Where a rule comes from, in words."""

    kind: Origin
    text: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a rule, or the operator type itself, says about an operator.

    `rule` is the one that refuses it, `why` how the operator breaks it; None where it is mapped. `support` is where the
    same was seen.
    """

    rule: "OperatorRule | None"
    why: str | None
    confidence: Confidence
    evidence: str
    support: Support = Support()

    @property
    def is_certain(self) -> bool:
        """Whether files show the same."""
        return self.confidence is Confidence.OBSERVED


@dataclasses.dataclass(frozen=True)
class OperatorRule:
    """A limit of some operators, or of all: a constraint or a size, the limit in words, the status and a fix.

    Attributes:
        violation: returns how an operator breaks the constraint, None where it does not.
        size: returns the number that a limit is about, in `unit`; None where the limit does not apply.
        documented: the limit of the size that the documentation states; None where it states none.
    """

    name: str
    operators: tuple[str, ...]
    violation: Callable[[BoundOperator], str | None] | None
    size: Callable[[BoundOperator], int | None] | None
    unit: str
    documented: int | None
    limit: str
    status: Status
    fix: str
    source: RuleSource

    def check(self, operator: BoundOperator, evidence: Evidence) -> Finding | None:
        """Return the refusal of one of its operators, or the doubt about one that is accepted; None for neither."""
        if self.violation:
            violation = self.violation(operator)
            return self._check_violation(violation, evidence) if violation else None
        size = self.size(operator) if self.size else None
        return None if size is None else self._check_size(size, evidence)

    def applies(self, evidence: Evidence) -> bool:
        """Return whether the evidence leaves the rule in force."""
        return not evidence.refuted(self.name).files and (
            self.source.kind is not Origin.DATA or bool(self.size or evidence.confirmed(self.name).files)
        )

    def describe_evidence(self, evidence: Evidence) -> str:
        """Return in words which files the rule rests on."""
        seen, refuted, bound = evidence.confirmed(self.name), evidence.refuted(self.name), evidence.bound(self.name)
        if refuted.files:
            return f"not applied: mapped all the same in {refuted}"
        if not self.size:
            return f"on the CPU in {seen}" if seen.files else NEVER_OBSERVED
        documented = f"; documented: {self.documented:,}" if self.documented else ""
        return f"{self.unit}: {bound}{documented}" + (f"; on the CPU in {seen}" if seen.files else "")

    def _check_violation(self, violation: str, evidence: Evidence) -> Finding | None:
        why, seen = f"{violation}: {self.limit}", evidence.confirmed(self.name)
        if self.applies(evidence):
            confidence = Confidence.OBSERVED if seen.files else Confidence.DOCUMENTED
            return Finding(self, why, confidence, f"on the CPU in {seen}" if seen.files else NEVER_OBSERVED, seen)
        return None if evidence.refuted(self.name).files else Finding(None, None, Confidence.DOCUMENTED, why)

    def _check_size(self, size: int, evidence: Evidence) -> Finding | None:
        bound, words = evidence.bound(self.name), f"{size:,} {self.unit}"
        if not bound.is_known(size) and self.documented:
            # Compiler 16.0 maps more than the documentation says, so its limits are taken as accepted, not as sharp.
            bound = dataclasses.replace(bound, accepted=max(bound.accepted, self.documented))
            if size <= self.documented:
                return Finding(None, None, Confidence.DOCUMENTED, f"{words}: {NEVER_OBSERVED}")
        refused, seen = bound.refuses(size), evidence.confirmed(self.name)
        if not bound.is_known(size):
            confidence, text, seen = Confidence.BETWEEN, f"{words}: {bound}", Support()
        elif refused:
            where = f"in {seen}" if seen.files else "elsewhere"
            confidence, text = Confidence.OBSERVED, f"on the CPU {where}, from {bound.refused:,} {self.unit}"
        else:
            return None
        return Finding(self if refused else None, f"{words}: {self.limit}" if refused else None, confidence, text, seen)


def _unknown_operation(operator: BoundOperator) -> str | None:
    return None if operator.op in SUPPORTED_OPERATORS else "it is not among the supported operations"


def _read_rule(entry: dict[str, Any]) -> OperatorRule:
    name, size = entry.get("violation"), entry.get("size")
    violation = _unknown_operation if name == "unknown_operation" else name and getattr(BoundOperator, name)
    documented = entry.get("documented")
    return OperatorRule(
        name=entry["name"],
        operators=tuple(entry.get("operators", ())),
        violation=violation and functools.partial(violation, **entry.get("arguments", {})),
        size=size and getattr(BoundOperator, size),
        unit=entry.get("unit", ""),
        documented=documented,
        limit=entry["limit"].format(documented=documented),
        status=Status[entry["status"]],
        fix=entry["fix"],
        source=record_from_json(RuleSource, entry["source"]),
    )


RULES = tuple(map(_read_rule, _DATA["rules"]))
_RULES_FOR_ALL = tuple(rule for rule in RULES if not rule.operators)
_RULES_BY_OPERATOR = {
    op: tuple(rule for rule in RULES if not rule.operators or op in rule.operators)
    for op in {op for rule in RULES for op in rule.operators}
}


def check_operator(operator: BoundOperator, evidence: Evidence) -> Finding:
    """Return the first refusal of an operator; else the first doubt about it, or where its type was mapped."""
    findings = []
    seen = evidence.mapped(operator.op)
    for rule in _RULES_BY_OPERATOR.get(operator.op, _RULES_FOR_ALL):
        if rule.name == "unknown-operation" and seen.files:
            continue
        if finding := rule.check(operator, evidence):
            if finding.rule:
                return finding
            findings.append(finding)
    return findings[0] if findings else _check_type(operator, seen, evidence)


def _check_type(operator: BoundOperator, seen: Support, evidence: Evidence) -> Finding:
    accept = functools.partial(Finding, None, None)
    map_size, bound = operator.largest_map() or 0, evidence.bound(LARGE_MAP)
    if not seen.files:
        return accept(Confidence.DOCUMENTED, NEVER_OBSERVED)
    if not bound.is_known(map_size):
        return accept(Confidence.BETWEEN, f"a map of {map_size:,} elements: {bound}")
    return accept(Confidence.OBSERVED, f"mapped in {seen}", seen)


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
    facts |= {"index": operator.index, "op": operator.op} if operator else {}
    message = FailureMessage[entry["message"]].format(**facts)
    return CompileFailure(message, entry["why"].format(**facts), fix, rule)
