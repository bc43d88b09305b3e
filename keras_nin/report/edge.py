"""Edge TPU, Ethos-U and TFLite Micro as text: the verdict, the estimate and the memory of a file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from keras_nin.edge.edgetpu.records import Confidence, EdgeTPUResult
from keras_nin.formatting import format_bytes, format_markdown_table, format_names
from keras_nin.report.rendering import Table, make_table, render_text

if TYPE_CHECKING:
    from keras_nin.edge.edgetpu.compiler import CompilerDifference, EdgeTPUCompilation
    from keras_nin.edge.edgetpu.evidence import Evidence
    from keras_nin.edge.edgetpu.rules import OperatorRule
    from keras_nin.edge.ethosu.records import EthosUEstimate, EthosUResult
    from keras_nin.edge.micro.records import MicroResult


def format_edgetpu(result: EdgeTPUResult) -> str:
    """Return the verdict: every operator in order, why some are not mapped, the compiler's table, and the totals."""
    return render_text("edgetpu.j2", "edgetpu", result, edgetpu_reason_lines(result), edgetpu_summary_lines(result))


def edgetpu_reason_lines(result: EdgeTPUResult) -> list[str]:
    """Return a line for each reason that keeps operators off the Edge TPU, and for each doubt about mapped ones."""
    refused, doubted = defaultdict(list), defaultdict(list)
    for operator in result.operators:
        if not operator.mapped:
            evidence = None if result.failure or operator.rule == "one-part" else operator.evidence
            refused[operator.why, evidence, operator.fix].append(operator)
        elif not operator.is_certain and operator.confidence is not Confidence.DEPENDENT:
            doubted[operator.confidence, operator.evidence].append(operator)
    return render_text("edgetpu.j2", "edgetpu_reasons", refused, doubted).splitlines()


def edgetpu_summary_lines(result: EdgeTPUResult) -> list[str]:
    """Return the totals: whether it compiles, what is mapped, where the parameters are, and remarks."""
    return render_text("edgetpu.j2", "edgetpu_summary", result).splitlines()


def format_compiler_comparison(compilation: EdgeTPUCompilation, differences: Sequence[CompilerDifference]) -> str:
    """Return what the compiler printed, next to the prediction."""
    return render_text("edgetpu.j2", "compiler_comparison", compilation, differences)


def format_edgetpu_overview(results: Iterable[EdgeTPUResult]) -> str:
    """Return a Markdown table with a row for each verdict."""
    records = [{"row": result, "blocking": _blocking_operators_line(result)} for result in results]
    return make_table("edgetpu_files", records).format(format_markdown_table)


def _blocking_operators_line(result: EdgeTPUResult) -> str:
    """Return what keeps operators off the Edge TPU, or may do so, in one line; "-" where nothing does."""
    if result.failure:
        return result.failure.message
    blocking = format_names(result.blocking_operators, separator="; ")
    uncertain = f"uncertain: {result.uncertain} of {len(result.operators)}" if result.uncertain else ""
    return "; ".join(filter(None, [blocking, uncertain, *result.doubts])) or "-"


def format_edgetpu_rules(rules: Iterable[OperatorRule], evidence: Evidence) -> str:
    """Return the rules as a Markdown table, in the order in which they apply, with the files that they rest on."""
    records = [{"row": rule, "evidence": rule.describe_evidence(evidence)} for rule in rules]
    return make_table("edgetpu_rules", records).format(format_markdown_table)


def format_ethosu(estimate: EthosUEstimate) -> str:
    """Return an estimate: its layers, sums by 1x1 role and kind, totals and findings."""
    return render_text("edge.j2", "ethosu", estimate, ethosu_layer_table(estimate))


def ethosu_layer_table(estimate: EthosUEstimate) -> Table:
    """Return the layers of an estimate, their sums last."""
    operations = sum(layer.operations for layer in estimate.layers)
    counts = [f"{count:,}" for count in (operations, estimate.macs, estimate.cycles)]
    utilization = "" if estimate.utilization is None else f"{estimate.utilization:.1%}"
    moved = format_bytes(sum(memory.moved for memory in estimate.memories))
    total = ["total", "", "", "", *counts, "", utilization, "", moved]
    return make_table("ethosu_layers", estimate.layers, last=[total])


def format_ethosu_sweep(result: EthosUResult) -> str:
    """Return a row for each accelerator, the refusals, and the findings with the accelerators they are about."""
    findings = defaultdict(list)
    for estimate in result.estimates:
        for finding in estimate.findings:
            layers = f"{format_names(finding.layers)}: " if finding.layers else ""
            findings[finding.rule, f"{layers}{finding.message}"].append(estimate.accelerator)
    return render_text("edge.j2", "ethosu_sweep", result, list(findings.items()))


def format_micro(micro: MicroResult) -> str:
    """Return a file on TFLite Micro: flash, arena, comparison with LiteRT, and operators."""
    return render_text("edge.j2", "micro", micro)
