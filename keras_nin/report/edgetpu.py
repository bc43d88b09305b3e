"""The Edge TPU's verdict as text and Markdown: a function of its record."""

from collections import defaultdict

from keras_nin.tables import markdown_table, printable, text_table

COLUMNS = ("#", "layer", "operator", "runs on", "status")
_MOST_NAMED = 8


def text(verdict):
    """Return the verdict as text: every operator in order, why some are not mapped, the compiler's table, the totals.

    Args:
        verdict: `keras_nin.edge.edgetpu.Verdict`.
    """
    table = text_table(COLUMNS, [cells(each) for each in verdict.operators], right=("#",))
    return "\n\n".join(
        filter(None, [table, "\n".join(reasons(verdict)), _counts(verdict), "\n".join(summary(verdict))])
    )


def reasons(verdict):
    """Return a line for each reason that keeps operators off the Edge TPU, with their numbers and what to do."""
    groups = defaultdict(list)
    for each in verdict.operators:
        if not each.mapped:
            groups[each.why, each.fix].append(each)
    lines = []
    for (why, fix), members in groups.items():
        advice = f". Fix: {fix}" if fix else ""
        lines.append(printable(f"{_named(members)}: {why}{advice}"))
    return lines


def _named(members):
    """Return the numbers of operators, and their types where the reason is one of the operators themselves."""
    more = f" and {len(members) - _MOST_NAMED} more" if len(members) > _MOST_NAMED else ""
    indexes = ", ".join(str(each.index) for each in members[:_MOST_NAMED])
    types = ", ".join(dict.fromkeys(each.op for each in members if each.rule != "one-part"))
    return f"Operator{'s' if len(members) > 1 else ''} {indexes}{more}{f' ({types})' if types else ''}"


def summary(verdict):
    """Return the totals as lines: what compiles, how much is mapped, where parameters lie, what else to know."""
    name = printable(verdict.model)
    if verdict.failure:
        failure = verdict.failure
        lines = [f"{name}: does not compile: {failure.message}", f"Why: {failure.why}", f"Fix: {failure.fix}"]
    else:
        lines = [_mapped(name, verdict), _parameters(verdict)]
    lines += [f"Note: {note}" for note in verdict.notes]
    lines.append("Predicted for compiler 16.0 from the file alone: documented limits, and what other files taught.")
    return [printable(line) for line in lines]


def _mapped(name, verdict):
    cpu = verdict.kept - verdict.mapped
    left_out = len(verdict.operators) - verdict.kept
    several = f" in {verdict.subgraphs} parts" if verdict.subgraphs > 1 else ""
    dropped = f", {left_out} left out" if left_out else ""
    return (
        f"{name}: {verdict.mapped} of {verdict.kept} operators on the Edge TPU{several} ({verdict.share:.1%}), "
        f"{cpu} on the CPU{dropped}"
    )


def _parameters(verdict):
    memory = verdict.memory
    streamed = f", at least {_mib(memory.streamed_bytes)} of them" if memory.streamed_bytes else ""
    return (
        f"Parameters of the mapped operators: {_mib(memory.parameter_bytes)}, {memory.state}{streamed} "
        "(of 8 MiB, published outputs leave 1.1 to 8.2 MiB for them, most 6.1 to 7.2)"
    )


def _mib(count):
    return f"{count / (1 << 20):.2f} MiB"


def cells(each):
    """Return the row of an `OperatorVerdict` under `COLUMNS`."""
    runs = "-" if each.dropped else "Edge TPU" if each.mapped else "CPU"
    return [str(each.index), each.layer, each.op, runs, each.status or "-"]


def _counts(verdict):
    """Return the compiler's own table."""
    rows = [[op, str(count), status] for (op, status), count in sorted(verdict.rows().items())]
    return text_table(("Operator", "Count", "Status"), rows, right=("Count",))


def comparison_text(compilation, differences):
    """Return what the compiler said beside the prediction.

    Args:
        compilation: `keras_nin.edge.edgetpu.compiler.Compilation`.
        differences: `keras_nin.edge.edgetpu.comparison.Difference` records.
    """
    lines = [f"Compiler {compilation.version or '(version unknown)'}: {_outcome(compilation)}"]
    for label, name in (
        ("On-chip memory used for caching model parameters", "used_bytes"),
        ("On-chip memory remaining for caching model parameters", "remaining_bytes"),
        ("Off-chip memory used for streaming uncached model parameters", "streamed_bytes"),
    ):
        value = getattr(compilation, name)
        lines += [] if value is None else [f"{label}: {_mib(value)}"]
    if differences:
        rows = [[each.op, each.status, str(each.predicted), str(each.found)] for each in differences]
        columns = ("Operator", "Status", "predicted", "compiler")
        lines.append(text_table(columns, rows, right=columns[2:], title="The verdict was otherwise:"))
    elif compilation.rows:
        lines.append("The verdict was the compiler's, operator by operator and word by word.")
    return "\n".join(lines)


def _outcome(compilation):
    if compilation.succeeded:
        return "compiled"
    return printable("; ".join(compilation.errors) or "it did not say that it succeeded")


def overview(verdicts):
    """Return a Markdown table with a line for each verdict."""
    columns = ("file", "operators", "mapped", "on the CPU", "parameters [MiB]", "what stands in the way")
    rows = []
    for verdict in verdicts:
        on_cpu = verdict.kept - verdict.mapped
        size = f"{verdict.memory.parameter_bytes / (1 << 20):.2f}"
        rows.append([verdict.model, str(verdict.kept), str(verdict.mapped), str(on_cpu), size, obstacles(verdict)])
    return markdown_table(columns, rows, right=columns[1:5])


def obstacles(verdict):
    """Return what keeps operators off the Edge TPU, or may do so, in one line; "-" where nothing does."""
    if verdict.failure:
        return verdict.failure.message
    doubts = [f"in doubt: {note}" for note in verdict.notes]
    return "; ".join([*verdict.obstacles, *doubts]) or "-"


def rules_table(rules):
    """Return the rules as a Markdown table, in the order in which they are asked.

    Args:
        rules: `keras_nin.edge.edgetpu.rules.Rule` records.
    """
    rows = []
    for rule in rules:
        source = rule.source
        origin = source.text if source.kind != "data" else f"data: {source.text}"
        origin += f" (refuted by {', '.join(source.refuted_by)}: not asked)" if source.refuted_by else ""
        rows.append([rule.name, ", ".join(rule.operators) or "all", rule.limit, rule.status, origin])
    return markdown_table(("rule", "operators", "limit", "status", "source"), rows)
