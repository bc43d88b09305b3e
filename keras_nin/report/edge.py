"""The Edge TPU's verdict as text and Markdown: a function of its record."""

from collections import defaultdict

from keras_nin.audit.tables import format_names, format_share, format_size
from keras_nin.edge.ethosu.records import NOWHERE
from keras_nin.edge.micro.records import TOO_SMALL
from keras_nin.formatting import escape_unprintable, format_markdown_table, format_table

EDGETPU_COLUMNS = ("#", "layer", "operator", "runs on", "status")
_MAX_NAMED_OPERATORS = 8


def format_edgetpu(verdict):
    """Return the verdict as text: every operator in order, why some are not mapped, the compiler's table, the totals.

    Args:
        verdict: `keras_nin.edge.edgetpu.EdgeTPUResult`.
    """
    table = format_table(EDGETPU_COLUMNS, [edgetpu_row(each) for each in verdict.operators], right=("#",))
    return "\n\n".join(
        filter(
            None,
            [
                table,
                "\n".join(edgetpu_reason_lines(verdict)),
                _format_compiler_table(verdict),
                "\n".join(edgetpu_summary_lines(verdict)),
            ],
        )
    )


def edgetpu_reason_lines(verdict):
    """Return a line for each reason that keeps operators off the Edge TPU, with their numbers and what to do."""
    groups = defaultdict(list)
    for each in verdict.operators:
        if not each.mapped:
            groups[each.why, each.fix].append(each)
    lines = []
    for (why, fix), members in groups.items():
        advice = f". Fix: {fix}" if fix else ""
        lines.append(escape_unprintable(f"{_name_operators(members)}: {why}{advice}"))
    return lines


def _name_operators(members):
    """Return the numbers of operators, and their types where the reason is one of the operators themselves."""
    more = f" and {len(members) - _MAX_NAMED_OPERATORS} more" if len(members) > _MAX_NAMED_OPERATORS else ""
    indexes = ", ".join(str(each.index) for each in members[:_MAX_NAMED_OPERATORS])
    types = ", ".join(dict.fromkeys(each.op for each in members if each.rule != "one-part"))
    return f"Operator{'s' if len(members) > 1 else ''} {indexes}{more}{f' ({types})' if types else ''}"


def edgetpu_summary_lines(verdict):
    """Return the totals as lines: what compiles, how much is mapped, where parameters lie, what else to know."""
    name = escape_unprintable(verdict.model)
    if verdict.failure:
        failure = verdict.failure
        lines = [f"{name}: does not compile: {failure.message}", f"Why: {failure.why}", f"Fix: {failure.fix}"]
    else:
        lines = [_mapped_operators_line(name, verdict), _parameter_memory_line(verdict)]
    lines += [f"Note: {note}" for note in (*verdict.doubts, *verdict.notes)]
    lines.append("Predicted for compiler 16.0 from the file alone: documented limits, and what other files taught.")
    return [escape_unprintable(line) for line in lines]


def _mapped_operators_line(name, verdict):
    cpu = verdict.kept - verdict.mapped
    left_out = len(verdict.operators) - verdict.kept
    several = f" in {verdict.subgraphs} parts" if verdict.subgraphs > 1 else ""
    dropped = f", {left_out} left out" if left_out else ""
    return (
        f"{name}: {verdict.mapped} of {verdict.kept} operators on the Edge TPU{several} ({verdict.share:.1%}), "
        f"{cpu} on the CPU{dropped}"
    )


def _parameter_memory_line(verdict):
    memory = verdict.memory
    streamed = f", at least {_format_mib(memory.streamed_bytes)} of them" if memory.streamed_bytes else ""
    return (
        f"Parameters of the mapped operators: {_format_mib(memory.parameter_bytes)}, {memory.state}{streamed} "
        "(of 8 MiB, published outputs leave 1.1 to 8.2 MiB for them, most 6.1 to 7.2)"
    )


def _format_mib(count):
    return f"{count / (1 << 20):.2f} MiB"


def edgetpu_row(each):
    """Return the row of an `OperatorVerdict` under `COLUMNS`."""
    runs = "-" if each.dropped else "Edge TPU" if each.mapped else "CPU"
    return [str(each.index), each.layer, each.op, runs, each.status or "-"]


def _format_compiler_table(verdict):
    """Return the compiler's own table."""
    rows = [[op, str(count), status] for (op, status), count in sorted(verdict.count_rows().items())]
    return format_table(("Operator", "Count", "Status"), rows, right=("Count",))


def format_compiler_comparison(compilation, differences):
    """Return what the compiler said beside the prediction.

    Args:
        compilation: `keras_nin.edge.edgetpu.compiler.EdgeTPUCompilation`.
        differences: `keras_nin.edge.edgetpu.compiler.CompilerDifference` records.
    """
    lines = [f"Compiler {compilation.version or '(version unknown)'}: {_compiler_outcome(compilation)}"]
    for label, name in (
        ("On-chip memory used for caching model parameters", "used_bytes"),
        ("On-chip memory remaining for caching model parameters", "remaining_bytes"),
        ("Off-chip memory used for streaming uncached model parameters", "streamed_bytes"),
    ):
        value = getattr(compilation, name)
        lines += [] if value is None else [f"{label}: {_format_mib(value)}"]
    if differences:
        rows = [[each.op, each.status, str(each.predicted), str(each.compiled)] for each in differences]
        columns = ("Operator", "Status", "predicted", "compiler")
        lines.append(format_table(columns, rows, right=columns[2:], title="The verdict was otherwise:"))
    elif compilation.rows:
        lines.append("The verdict was the compiler's, operator by operator and word by word.")
    return "\n".join(lines)


def _compiler_outcome(compilation):
    if compilation.succeeded:
        return "compiled"
    return escape_unprintable("; ".join(compilation.errors) or "it did not say that it succeeded")


def format_edgetpu_overview(verdicts):
    """Return a Markdown table with a line for each verdict."""
    columns = ("file", "operators", "mapped", "on the CPU", "parameters [MiB]", "what stands in the way")
    rows = []
    for verdict in verdicts:
        on_cpu = verdict.kept - verdict.mapped
        size = f"{verdict.memory.parameter_bytes / (1 << 20):.2f}"
        rows.append(
            [verdict.model, str(verdict.kept), str(verdict.mapped), str(on_cpu), size, blocking_operators_line(verdict)]
        )
    return format_markdown_table(columns, rows, right=columns[1:5])


def blocking_operators_line(verdict):
    """Return what keeps operators off the Edge TPU, or may do so, in one line; "-" where nothing does."""
    if verdict.failure:
        return verdict.failure.message
    doubts = [f"in doubt: {note}" for note in (*verdict.doubts, *verdict.notes)]
    return "; ".join([*verdict.blocking_operators, *doubts]) or "-"


def format_edgetpu_rules(rules):
    """Return the rules as a Markdown table, in the order in which they are asked.

    Args:
        rules: `keras_nin.edge.edgetpu.rules.OperatorRule` records.
    """
    rows = []
    for rule in rules:
        source = rule.source
        origin = source.text if source.kind != "data" else f"data: {source.text}"
        origin += f" (refuted by {', '.join(source.refuted_by)}: not asked)" if source.refuted_by else ""
        rows.append([rule.name, ", ".join(rule.operators) or "all", rule.limit, rule.status, origin])
    return format_markdown_table(("rule", "operators", "limit", "status", "source"), rows)


# MERGED What Vela expects of a file on Ethos-U accelerators, as text.

ETHOSU_COLUMNS = (
    "layer",
    "kind",
    "role",
    "on",
    "operations",
    "MACs",
    "cycles",
    "share",
    "MACs used",
    "bound by",
    "moved",
)
ETHOSU_RIGHT = ("operations", "MACs", "cycles", "share", "MACs used", "moved")
ETHOSU_GROUP_COLUMNS = ("layers of", "layers", "MACs", "cycles", "share", "MACs used")
ETHOSU_SWEEP_COLUMNS = (
    "accelerator",
    "clock",
    "time",
    "MACs used",
    "NPU",
    "SRAM",
    "DRAM",
    "flash",
    "compiled",
    "system, memory",
)
_MAX_LAYER_NAME = 48


def format_ethosu(estimate):
    """Return an `Estimate` as text: its layers, sums by 1x1 role and kind, totals and findings."""
    return "\n\n".join(
        [
            f"{ethosu_headline(estimate)}\n\n{format_table(ETHOSU_COLUMNS, ethosu_layer_rows(estimate), right=ETHOSU_RIGHT)}",
            format_table(ETHOSU_GROUP_COLUMNS, ethosu_group_rows(estimate), right=ETHOSU_GROUP_COLUMNS[1:]),
            "\n".join(ethosu_total_lines(estimate)),
            *_findings_block(ethosu_finding_lines(estimate.findings)),
        ]
    )


def format_ethosu_sweep(sweep):
    """Return a `Sweep` as text: a line for each accelerator, the refusals, and the findings that they share or not."""
    rows = [ethosu_sweep_row(estimate) for estimate in sweep.estimates]
    used = [place for place in range(len(ETHOSU_SWEEP_COLUMNS)) if any(row[place] for row in rows)]
    columns = [ETHOSU_SWEEP_COLUMNS[place] for place in used]
    table = format_table(columns, [[row[place] for place in used] for row in rows], right=columns[1:-1],
                       title=f"{sweep.file} as Vela {sweep.estimates[0].vela} expects it, batch 1")  # fmt: skip
    refused = [f"refused: {refusal.accelerator}: {escape_unprintable(refusal.message)}" for refusal in sweep.refusals]
    return "\n\n".join([table, *_findings_block([*refused, *_shared_findings(sweep)])])


def ethosu_finding_lines(found):
    """Return `Finding`s as lines: the rule, the layers, one sentence."""
    return [
        escape_unprintable(f"{each.rule}: {format_names(each.layers) + ': ' if each.layers else ''}{each.message}")
        for each in found
    ]


def _shared_findings(sweep):
    """Return the findings of all accelerators as lines, each once, with those that it is about."""
    about = {}
    for estimate in sweep.estimates:
        for line in ethosu_finding_lines(estimate.findings):
            about.setdefault(line, []).append(estimate.accelerator)
    return [line if len(on) == len(sweep.estimates) else f"{line} [{', '.join(on)}]" for line, on in about.items()]


def _findings_block(lines):
    return ["\n".join(["Findings", *(f"  {line}" for line in lines)])] if lines else []


def ethosu_headline(estimate):
    """Return the line without which no estimate is shown: file, accelerator, clock, memories, who says so."""
    return (
        f"{escape_unprintable(estimate.file)} on {estimate.accelerator} at {_format_clock(estimate)}, {estimate.system_config}, "
        f"{estimate.memory_mode}, as Vela {estimate.vela} expects it, batch 1"
    )


def ethosu_layer_rows(estimate):
    """Return the rows of the layers of an `Estimate` under `COLUMNS`, and last their sums."""
    lines = [_ethosu_layer_row(layer) for layer in estimate.layers]
    used = _format_share(estimate.utilization)
    moved = format_size(sum(each.moved for each in estimate.memories))
    operations = f"{sum(layer.operations for layer in estimate.layers):,}"
    total = ["total", "", "", "", operations, f"{estimate.macs:,}", f"{estimate.cycles:,}", "", used, "", moved]
    return [*lines, total]


def _ethosu_layer_row(layer):
    on = "-" if layer.target == NOWHERE else layer.target
    place = [_shorten_layer(layer.name), layer.kind, layer.role or "", on]
    if not layer.cycles:
        return [*place, *[""] * (len(ETHOSU_COLUMNS) - len(place))]
    moved = format_size(sum(layer.read.values()) + sum(layer.written.values()))
    counts = [f"{layer.operations:,}", f"{layer.macs:,}", f"{layer.cycles:,}"]
    return [*place, *counts, _format_share(layer.share), _format_share(layer.utilization), layer.bound, moved]


def _shorten_layer(name):
    return (
        name
        if len(name) <= _MAX_LAYER_NAME
        else f"{name[: _MAX_LAYER_NAME // 2 - 2]}...{name[-_MAX_LAYER_NAME // 2 + 1 :]}"
    )


def ethosu_group_rows(estimate):
    """Return the rows of the `Subtotal`s of an `Estimate` under `GROUP_COLUMNS`."""
    return [
        [
            each.group,
            f"{each.layers:,}",
            f"{each.macs:,}",
            f"{each.cycles:,}",
            _format_share(each.share),
            _format_share(each.utilization),
        ]
        for each in estimate.subtotals
    ]


def ethosu_total_lines(estimate):
    """Yield what an `Estimate` comes to, line by line: time, share of the NPU, memories, sizes, and what is meant."""
    computing, on_npu = (
        format_share(estimate.npu_cycles, estimate.cycles),
        _format_share(estimate.npu_share) or "not known",
    )
    cycles = f"{estimate.cycles:,} cycles ({computing} computing)" if estimate.cycles else "not estimated"
    yield f"Time: {_format_ethosu_time(estimate)}, {cycles}"
    yield f"NPU: {on_npu} of the network's MACs; operators left to the CPU: {len(estimate.cpu_layers):,}"
    for each in estimate.memories:
        yield f"{each.name}: {format_size(each.used)} in use at most, {format_size(each.moved)} moved in a run"
    yield (
        f"Compiled file: {format_size(estimate.compiled_bytes)} (from {format_size(estimate.file_bytes)}); weights "
        f"{format_size(estimate.encoded_weight_bytes)} encoded (from {format_size(estimate.weight_bytes)})"
    )
    yield (
        "MACs as Vela counts them, comparisons of poolings among them; MACs used: of those that the accelerator can do "
        f"in the cycles ({estimate.macs_per_cycle:,} a cycle)."
    )
    yield "Bound by: what takes most of a layer's cycles. -: no operation of its own. All is estimated, not measured."


def ethosu_sweep_row(estimate):
    """Return the row of an `Estimate` under `SWEEP_COLUMNS`."""
    flash = estimate.used_bytes("on-chip flash", "off-chip flash")
    sizes = [estimate.used_bytes("SRAM"), estimate.used_bytes("DRAM"), flash]
    return [
        estimate.accelerator,
        _format_clock(estimate),
        _format_ethosu_time(estimate),
        _format_share(estimate.utilization),
        _format_share(estimate.npu_share),
        *(format_size(count) if count else "" for count in sizes),
        format_size(estimate.compiled_bytes),
        f"{estimate.system_config}, {estimate.memory_mode}",
    ]


def _format_clock(estimate):
    return f"{estimate.clock_hz / 1e6:,.0f} MHz"


def _format_ethosu_time(estimate):
    if not estimate.cycles:
        return "the CPU's"
    return f"{estimate.us / 1000:,.3f} ms{' + CPU' if estimate.cpu_layers else ''}"


def _format_share(share):
    return "" if share is None else f"{share:.1%}"


# MERGED A file on TFLite Micro, as text.

MICRO_COLUMNS = ("operator", "count", "method")


def format_micro(micro, results=()):
    """Return what was found as text.

    Args:
        micro: `keras_nin.edge.micro.records.MicroResult`.
        results: `keras_nin.edge.micro.budget.MicroLimitCheck` records.
    """
    lines = [
        f"{escape_unprintable(micro.file)} on TFLite Micro {micro.package}",
        f"Flash: {_format_bytes(micro.file_bytes)}, of it weights {_format_bytes(micro.weight_bytes)}; the program comes on top",
        *_arena_lines(micro),
        *micro_comparison_lines(micro),
        *micro_float_lines(micro),
        "",
        format_table(MICRO_COLUMNS, micro_operator_rows(micro), right=MICRO_COLUMNS[1:2]),
        "",
        micro.resolver,
        *([""] if results else []),
        *map(str, results),
    ]
    return "\n".join(lines)


def _arena_lines(micro):
    arena = micro.arena
    if arena is None:
        more = ". Let it try more with --max-arena" if micro.finding.kind == TOO_SMALL else ""
        yield f"Arena: none works, {micro.finding.kind}: {escape_unprintable(micro.finding.message)}{more}"
        if micro.peak_activation_bytes is not None:
            yield f"Peak activation memory, by the audit: {_format_bytes(micro.peak_activation_bytes)}"
        return
    yield (
        f"Arena: {_format_bytes(arena.bytes)} is the smallest that runs, to {arena.step} bytes ({arena.tries} tries up to "
        f"{format_size(micro.max_arena)}), on this {arena.host_bits}-bit host:"
    )
    peak = micro.peak_activation_bytes
    beside = "" if peak is None else f" (peak activation memory, by the audit: {_format_bytes(peak)})"
    yield f"  tensors      {_format_bytes(arena.tensor_bytes)}{beside}"
    yield f"  persistent   {_format_bytes(arena.persistent_bytes)}, with pointers: less on a 32-bit microcontroller"
    for part in arena.sections:
        yield f"    {escape_unprintable(part.name)}: {part.bytes:,}"


def micro_comparison_lines(micro):
    """Yield how the outputs compare with those of LiteRT, where they could be compared."""
    compared, finding = micro.comparison, micro.comparison_finding
    if finding is not None:
        yield f"Not compared with LiteRT: {escape_unprintable(finding.message)}"
    if compared is None:
        return
    what = f"{compared.outputs:,} outputs on {compared.samples} x {escape_unprintable(compared.source)}"
    inputs = " (random numbers)" if compared.noise else ""
    if compared.differing:
        yield (
            f"Differs from LiteRT's reference kernels in {compared.differing:,} of {what}{inputs}, by at most "
            f"{compared.max_abs_diff:g}"
        )
    else:
        yield f"Bit for bit as LiteRT's reference kernels: {what}{inputs}"


def micro_float_lines(micro):
    """Yield how much of the file is no integers, where that is anything."""
    total = sum(use.count for use in micro.operators)
    if micro.float_operators:
        yield f"Not all integers: {micro.float_operators} of {total} operators read or write floating point"


def micro_operator_rows(micro):
    """Return the rows of the operators that a resolver must register, under `COLUMNS`."""
    uses = micro.operators
    return [[use.op, str(use.count), use.method or ("AddCustom" if use.is_custom else "none")] for use in uses]


def _format_bytes(count):
    return f"{count:,} bytes ({format_size(count)})"
