"""Edge TPU, Ethos-U and TFLite Micro as text: the verdict, the estimate and the memory of a file."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from keras_nin.edge.edgetpu.records import EdgeTPUResult, OperatorVerdict
from keras_nin.edge.ethosu.records import (
    NOWHERE,
    EthosUEstimate,
    EthosUFinding,
    EthosULayer,
    EthosUResult,
)
from keras_nin.edge.micro.records import TOO_SMALL, MicroResult
from keras_nin.formatting import (
    escape_unprintable,
    format_bytes,
    format_count,
    format_markdown_table,
    format_names,
    format_percent,
    format_ratio_percent,
    format_table,
    shorten,
)

if TYPE_CHECKING:
    from keras_nin.edge.edgetpu.compiler import CompilerDifference, EdgeTPUCompilation
    from keras_nin.edge.edgetpu.rules import OperatorRule

EDGETPU_COLUMNS = ("#", "layer", "operator", "runs on", "status")
_OVERVIEW_COLUMNS = ("file", "operators", "mapped", "on the CPU", "parameters [MiB]", "blocking operators")
_RULE_COLUMNS = ("rule", "operators", "limit", "status", "source")
_MAX_NAMED_OPERATORS = 8

ETHOSU_COLUMNS = (
    "layer",
    "kind",
    "role",
    "on",
    "operations",
    "MACs",
    "cycles",
    "share",
    "utilization",
    "bound by",
    "moved",
)
ETHOSU_RIGHT = ("operations", "MACs", "cycles", "share", "utilization", "moved")
ETHOSU_GROUP_COLUMNS = ("layers of", "layers", "MACs", "cycles", "share", "utilization")
ETHOSU_SWEEP_COLUMNS = (
    *("accelerator", "clock", "time", "utilization", "NPU", "SRAM", "DRAM", "flash", "compiled"),
    "system, memory",
)
_MAX_LAYER_NAME = 48

MICRO_COLUMNS = ("operator", "count", "method")


def format_edgetpu(result: EdgeTPUResult) -> str:
    """Return the verdict: every operator in order, why some are not mapped, the compiler's table, and the totals."""
    blocks = [
        format_table(EDGETPU_COLUMNS, [edgetpu_row(operator) for operator in result.operators], right=("#",)),
        "\n".join(edgetpu_reason_lines(result)),
        _format_compiler_table(result),
        "\n".join(edgetpu_summary_lines(result)),
    ]
    return "\n\n".join(filter(None, blocks))


def edgetpu_row(operator: OperatorVerdict) -> list[str]:
    """Return the row of an operator under `EDGETPU_COLUMNS`."""
    device = "-" if operator.dropped else "Edge TPU" if operator.mapped else "CPU"
    return [str(operator.index), operator.layer, operator.op, device, operator.status or "-"]


def edgetpu_reason_lines(result: EdgeTPUResult) -> list[str]:
    """Return a line for each reason that keeps operators off the Edge TPU, with their indexes and a fix."""
    groups = defaultdict(list)
    for operator in result.operators:
        if not operator.mapped:
            groups[operator.why, operator.fix].append(operator)
    return [
        escape_unprintable(f"{_name_operators(operators)}: {why}{f'. Fix: {fix}' if fix else ''}")
        for (why, fix), operators in groups.items()
    ]


def _name_operators(operators: Sequence[OperatorVerdict]) -> str:
    """Return the indexes of operators, and their types where the reason is the operators themselves."""
    indexes = format_names([str(operator.index) for operator in operators], _MAX_NAMED_OPERATORS)
    types = ", ".join(dict.fromkeys(operator.op for operator in operators if operator.rule != "one-part"))
    return f"Operator{'s' if len(operators) > 1 else ''} {indexes}{f' ({types})' if types else ''}"


def _format_compiler_table(result: EdgeTPUResult) -> str:
    """Return the table that the compiler prints."""
    counts = {(op, status or "-"): count for (op, status), count in result.count_rows().items()}
    rows = [[op, str(count), status] for (op, status), count in sorted(counts.items())]
    return format_table(("Operator", "Count", "Status"), rows, right=("Count",))


def edgetpu_summary_lines(result: EdgeTPUResult) -> list[str]:
    """Return the totals: whether it compiles, what is mapped, where the parameters are, and remarks."""
    if result.failure:
        failure = result.failure
        lines = [f"{result.model}: does not compile: {failure.message}", f"Why: {failure.why}", f"Fix: {failure.fix}"]
    else:
        lines = [_mapped_operators_line(result), _parameter_memory_line(result)]
    lines += [f"Note: {note}" for note in (*result.doubts, *result.notes)]
    lines.append("Predicted for compiler 16.0 from the file alone, by documented limits and published compiler logs.")
    return [escape_unprintable(line) for line in lines]


def _mapped_operators_line(result: EdgeTPUResult) -> str:
    dropped = len(result.operators) - result.kept
    subgraphs = f" in {result.subgraphs} subgraphs" if result.subgraphs > 1 else ""
    return (
        f"{result.model}: {result.mapped} of {format_count(result.kept, 'operator')} on the Edge TPU{subgraphs} "
        f"({format_percent(result.share)}), {result.kept - result.mapped} on the CPU"
        f"{f', {dropped} removed by the compiler' if dropped else ''}"
    )


def _parameter_memory_line(result: EdgeTPUResult) -> str:
    memory = result.memory
    streamed = f", at least {_format_mib(memory.streamed_bytes)} of them streamed" if memory.streamed_bytes else ""
    return (
        f"Parameters of the mapped operators: {_format_mib(memory.parameter_bytes)}, {memory.state}{streamed} (of "
        "8 MiB on-chip memory, published logs leave 1.1 to 8.2 MiB for parameters, mostly 6.1 to 7.2)"
    )


def _format_mib(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"


def format_compiler_comparison(compilation: "EdgeTPUCompilation", differences: "Sequence[CompilerDifference]") -> str:
    """Return what the compiler printed, next to the prediction."""
    errors = "; ".join(compilation.errors) or "did not report success"
    outcome = "compiled" if compilation.succeeded else escape_unprintable(errors)
    lines = [f"Compiler {compilation.version or '(unknown version)'}: {outcome}"]
    for label, size in (
        ("On-chip memory used for caching model parameters", compilation.used_bytes),
        ("On-chip memory remaining for caching model parameters", compilation.remaining_bytes),
        ("Off-chip memory used for streaming uncached model parameters", compilation.streamed_bytes),
    ):
        lines += [] if size is None else [f"{label}: {_format_mib(size)}"]
    if differences:
        rows = [
            [difference.op, difference.status, str(difference.predicted), str(difference.compiled)]
            for difference in differences
        ]
        columns = ("Operator", "Status", "predicted", "compiler")
        lines.append(format_table(columns, rows, right=columns[2:], title="The prediction differs from the compiler:"))
    elif compilation.rows:
        lines.append("The prediction matches the compiler, operator by operator and word by word.")
    return "\n".join(lines)


def format_edgetpu_overview(results: Iterable[EdgeTPUResult]) -> str:
    """Return a Markdown table with a row for each verdict."""
    rows = [
        [
            result.model,
            f"{result.kept}",
            f"{result.mapped}",
            f"{result.kept - result.mapped}",
            f"{result.memory.parameter_bytes / 2**20:.2f}",
            blocking_operators_line(result),
        ]
        for result in results
    ]
    return format_markdown_table(_OVERVIEW_COLUMNS, rows, right=_OVERVIEW_COLUMNS[1:5])


def blocking_operators_line(result: EdgeTPUResult) -> str:
    """Return what keeps operators off the Edge TPU, or may do so, in one line; "-" where nothing does."""
    if result.failure:
        return result.failure.message
    return "; ".join([*result.blocking_operators, *(f"undecided: {doubt}" for doubt in result.doubts)]) or "-"


def format_edgetpu_rules(rules: "Iterable[OperatorRule]") -> str:
    """Return the rules as a Markdown table, in the order in which they apply."""
    rows = []
    for rule in rules:
        source = rule.source
        origin = source.text if source.kind != "data" else f"data: {source.text}"
        origin += f" (refuted by {', '.join(source.refuted_by)}: not applied)" if source.refuted_by else ""
        rows.append([rule.name, ", ".join(rule.operators) or "all", rule.limit, rule.status, origin])
    return format_markdown_table(_RULE_COLUMNS, rows)


def format_ethosu(estimate: EthosUEstimate) -> str:
    """Return an estimate: its layers, sums by 1x1 role and kind, totals and findings."""
    findings = [ethosu_finding_line(finding) for finding in estimate.findings]
    return "\n\n".join(
        [
            ethosu_headline(estimate),
            format_table(ETHOSU_COLUMNS, ethosu_layer_rows(estimate), right=ETHOSU_RIGHT),
            format_table(ETHOSU_GROUP_COLUMNS, ethosu_group_rows(estimate), right=ETHOSU_GROUP_COLUMNS[1:]),
            "\n".join(ethosu_total_lines(estimate)),
            *_findings_block(findings),
        ]
    )


def format_ethosu_sweep(result: EthosUResult) -> str:
    """Return a row for each accelerator, the refusals, and the findings with the accelerators they are about."""
    rows = [ethosu_sweep_row(estimate) for estimate in result.estimates]
    used = [place for place in range(len(ETHOSU_SWEEP_COLUMNS)) if any(row[place] for row in rows)]
    columns = [ETHOSU_SWEEP_COLUMNS[place] for place in used]
    title = f"{result.file}, estimated by Vela {result.estimates[0].vela}, batch 1"
    table = format_table(columns, [[row[place] for place in used] for row in rows], right=columns[1:-1], title=title)
    refused = [escape_unprintable(f"refused: {refusal.accelerator}: {refusal.message}") for refusal in result.refusals]
    return "\n\n".join([table, *_findings_block([*refused, *_shared_findings(result)])])


def ethosu_finding_line(finding: EthosUFinding) -> str:
    """Return a finding in one line: the rule, the layers, one sentence."""
    return escape_unprintable(f"{finding.rule}: {finding_text(finding)}")


def finding_text(finding: EthosUFinding) -> str:
    """Return a finding without its rule: the layers, one sentence."""
    return f"{format_names(finding.layers)}: {finding.message}" if finding.layers else finding.message


def _shared_findings(result: EthosUResult) -> list[str]:
    """Return the findings of all accelerators, each once, with the accelerators it is about unless all are."""
    accelerators: dict[str, list[str]] = {}
    for estimate in result.estimates:
        for finding in estimate.findings:
            accelerators.setdefault(ethosu_finding_line(finding), []).append(estimate.accelerator)
    return [
        line if len(names) == len(result.estimates) else f"{line} [{', '.join(names)}]"
        for line, names in accelerators.items()
    ]


def _findings_block(lines: Sequence[str]) -> list[str]:
    return ["\n".join(["Findings", *(f"  {line}" for line in lines)])] if lines else []


def ethosu_headline(estimate: EthosUEstimate) -> str:
    """Return the conditions of an estimate: file, accelerator, clock, memories, version of Vela."""
    return (
        f"{escape_unprintable(estimate.file)} on {estimate.accelerator} at {_format_clock(estimate)}, "
        f"{estimate.system_config}, {estimate.memory_mode}, estimated by Vela {estimate.vela}, batch 1"
    )


def ethosu_layer_rows(estimate: EthosUEstimate) -> list[list[str]]:
    """Return the rows of the layers under `ETHOSU_COLUMNS`, their sums last."""
    operations = sum(layer.operations for layer in estimate.layers)
    moved = format_bytes(sum(memory.moved for memory in estimate.memories))
    counts = [f"{operations:,}", f"{estimate.macs:,}", f"{estimate.cycles:,}"]
    total = ["total", "", "", "", *counts, "", _format_share(estimate.utilization), "", moved]
    return [*map(_ethosu_layer_row, estimate.layers), total]


def _ethosu_layer_row(layer: EthosULayer) -> list[str]:
    target = "-" if layer.target == NOWHERE else layer.target
    cells = [shorten(layer.name, _MAX_LAYER_NAME), layer.kind, layer.role or "", target]
    if not layer.cycles:
        return [*cells, *[""] * (len(ETHOSU_COLUMNS) - len(cells))]
    moved = format_bytes(sum(layer.read.values()) + sum(layer.written.values()))
    counts = [f"{layer.operations:,}", f"{layer.macs:,}", f"{layer.cycles:,}"]
    shares = [_format_share(layer.share), _format_share(layer.utilization)]
    return [*cells, *counts, *shares, layer.bound or "", moved]


def ethosu_group_rows(estimate: EthosUEstimate) -> list[list[str]]:
    """Return the rows of the subtotals of an estimate under `ETHOSU_GROUP_COLUMNS`."""
    return [
        [
            subtotal.group,
            *(f"{count:,}" for count in (subtotal.layers, subtotal.macs, subtotal.cycles)),
            _format_share(subtotal.share),
            _format_share(subtotal.utilization),
        ]
        for subtotal in estimate.subtotals
    ]


def ethosu_total_lines(estimate: EthosUEstimate) -> Iterator[str]:
    """Yield the totals of an estimate: time, share of the NPU, memories, sizes, and what the columns mean."""
    computing = format_ratio_percent(estimate.npu_cycles, estimate.cycles)
    cycles = f"{estimate.cycles:,} cycles ({computing} computing)" if estimate.cycles else "not estimated"
    on_npu = "unknown" if estimate.npu_share is None else format_percent(estimate.npu_share)
    yield f"Time: {_format_time(estimate)}, {cycles}"
    yield f"NPU: {on_npu} of the network's MACs; operators on the CPU: {len(estimate.cpu_layers):,}"
    for memory in estimate.memories:
        yield f"{memory.name}: peak {format_bytes(memory.used)}, {format_bytes(memory.moved)} moved per run"
    yield (
        f"Compiled file: {format_bytes(estimate.compiled_bytes)} (from {format_bytes(estimate.file_bytes)}); weights "
        f"{format_bytes(estimate.encoded_weight_bytes)} encoded (from {format_bytes(estimate.weight_bytes)})"
    )
    yield (
        "MACs as Vela counts them, including the comparisons of pooling; utilization: their share of the accelerator's "
        f"peak of {estimate.macs_per_cycle:,} per cycle."
    )
    yield "Bound by: what takes most of a layer's cycles. -: no operation of its own. Estimated, not measured."


def ethosu_sweep_row(estimate: EthosUEstimate) -> list[str]:
    """Return the row of an accelerator under `ETHOSU_SWEEP_COLUMNS`."""
    flash = estimate.used_bytes("on-chip flash", "off-chip flash")
    sizes = (estimate.used_bytes("SRAM"), estimate.used_bytes("DRAM"), flash)
    return [
        estimate.accelerator,
        _format_clock(estimate),
        _format_time(estimate),
        _format_share(estimate.utilization),
        _format_share(estimate.npu_share),
        *(format_bytes(size) if size else "" for size in sizes),
        format_bytes(estimate.compiled_bytes),
        f"{estimate.system_config}, {estimate.memory_mode}",
    ]


def _format_clock(estimate: EthosUEstimate) -> str:
    return f"{estimate.clock_hz / 1e6:,.0f} MHz"


def _format_time(estimate: EthosUEstimate) -> str:
    if not estimate.cycles:
        return "all on the CPU"
    return f"{estimate.us / 1000:,.3f} ms{' + CPU' if estimate.cpu_layers else ''}"


def _format_share(share: float | None) -> str:
    return "" if share is None else format_percent(share)


def format_micro(micro: MicroResult) -> str:
    """Return a file on TFLite Micro: flash, arena, comparison with LiteRT, and operators."""
    return "\n".join(
        [
            f"{escape_unprintable(micro.file)} on TFLite Micro {micro.package}",
            f"Flash: {_format_exact_bytes(micro.file_bytes)}, of which weights "
            f"{_format_exact_bytes(micro.weight_bytes)}; the program is not included",
            *_arena_lines(micro),
            *micro_comparison_lines(micro),
            *micro_float_lines(micro),
            "",
            format_table(MICRO_COLUMNS, micro_operator_rows(micro), right=MICRO_COLUMNS[1:2]),
            "",
            micro.resolver,
        ]
    )


def _arena_lines(micro: MicroResult) -> Iterator[str]:
    arena, peak = micro.arena, micro.peak_activation_bytes
    if arena is None:
        assert micro.finding is not None  # there is an arena, or the reason why there is none
        hint = ". A larger limit may help: `max_arena`" if micro.finding.kind == TOO_SMALL else ""
        yield f"Arena: none works, {micro.finding.kind}: {escape_unprintable(micro.finding.message)}{hint}"
        if peak is not None:
            yield f"Peak activation memory (audit): {_format_exact_bytes(peak)}"
        return
    yield (
        f"Arena: {_format_exact_bytes(arena.bytes)}, the smallest that runs, to {arena.step} bytes ({arena.tries} "
        f"tries up to {format_bytes(micro.max_arena)}), on this {arena.host_bits}-bit host:"
    )
    audit = "" if peak is None else f" (peak activation memory of the audit: {_format_exact_bytes(peak)})"
    yield f"  tensors      {_format_exact_bytes(arena.tensor_bytes)}{audit}"
    persistent = _format_exact_bytes(arena.persistent_bytes)
    yield f"  persistent   {persistent}, with pointers: less on a 32-bit microcontroller"
    for section in arena.sections:
        yield f"    {escape_unprintable(section.name)}: {section.bytes:,}"


def micro_comparison_lines(micro: MicroResult) -> Iterator[str]:
    """Yield how the outputs compare with those of LiteRT, where they could be compared."""
    compared = micro.comparison
    if micro.comparison_finding is not None:
        yield f"Not compared with LiteRT: {escape_unprintable(micro.comparison_finding.message)}"
    if compared is None:
        return
    noise = " (random numbers)" if compared.noise else ""
    outputs = f"{compared.outputs:,} outputs on {compared.samples} x {escape_unprintable(compared.source)}{noise}"
    if compared.differing:
        diff = f"max abs diff {compared.max_abs_diff:g}"
        yield f"Not bit-exact with LiteRT's reference kernels: {compared.differing:,} of {outputs} differ, {diff}"
    else:
        yield f"Bit-exact with LiteRT's reference kernels: {outputs}"


def micro_float_lines(micro: MicroResult) -> Iterator[str]:
    """Yield the number of operators that are not integer-only, where there are any."""
    if micro.float_operators:
        total = sum(operator.count for operator in micro.operators)
        yield f"Not integer-only: {micro.float_operators} of {format_count(total, 'operator')} read or write floats"


def micro_operator_rows(micro: MicroResult) -> list[list[str]]:
    """Return the operators that a resolver must register, under `MICRO_COLUMNS`."""
    return [
        [operator.op, str(operator.count), operator.method or ("AddCustom" if operator.is_custom else "none")]
        for operator in micro.operators
    ]


def _format_exact_bytes(count: int) -> str:
    return f"{count:,} bytes ({format_bytes(count)})"
