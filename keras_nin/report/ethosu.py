"""What Vela expects of a file on Ethos-U accelerators, as text."""

from keras_nin.audit.render.notes import names, percent, size
from keras_nin.edge.ethosu.records import NOWHERE, subtotals
from keras_nin.tables import printable, text_table

COLUMNS = ("layer", "kind", "role", "on", "operations", "MACs", "cycles", "share", "MACs used", "bound by", "moved")
RIGHT = ("operations", "MACs", "cycles", "share", "MACs used", "moved")
GROUP_COLUMNS = ("layers of", "layers", "MACs", "cycles", "share", "MACs used")
SWEEP_COLUMNS = (
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
_LONGEST = 48


def text(estimate):
    """Return an `Estimate` as text: its layers, sums by 1x1 role and kind, totals and findings."""
    return "\n\n".join(
        [
            f"{head(estimate)}\n\n{text_table(COLUMNS, layer_rows(estimate), right=RIGHT)}",
            text_table(GROUP_COLUMNS, group_rows(estimate), right=GROUP_COLUMNS[1:]),
            "\n".join(totals(estimate)),
            *_findings_block(findings(estimate.findings)),
        ]
    )


def sweep_text(sweep):
    """Return a `Sweep` as text: a line for each accelerator, the refusals, and the findings that they share or not."""
    rows = [sweep_row(estimate) for estimate in sweep.estimates]
    used = [place for place in range(len(SWEEP_COLUMNS)) if any(row[place] for row in rows)]
    columns = [SWEEP_COLUMNS[place] for place in used]
    table = text_table(columns, [[row[place] for place in used] for row in rows], right=columns[1:-1],
                       title=f"{sweep.file} as Vela {sweep.estimates[0].vela} expects it, batch 1")  # fmt: skip
    refused = [f"refused: {refusal.accelerator}: {printable(refusal.message)}" for refusal in sweep.refusals]
    return "\n\n".join([table, *_findings_block([*refused, *_shared_findings(sweep)])])


def findings(found):
    """Return `Finding`s as lines: the rule, the layers, one sentence."""
    return [
        printable(f"{each.rule}: {names(each.layers) + ': ' if each.layers else ''}{each.message}") for each in found
    ]


def _shared_findings(sweep):
    """Return the findings of all accelerators as lines, each once, with those that it is about."""
    about = {}
    for estimate in sweep.estimates:
        for line in findings(estimate.findings):
            about.setdefault(line, []).append(estimate.accelerator)
    return [line if len(on) == len(sweep.estimates) else f"{line} [{', '.join(on)}]" for line, on in about.items()]


def _findings_block(lines):
    return ["\n".join(["Findings", *(f"  {line}" for line in lines)])] if lines else []


def head(estimate):
    """Return the line without which no estimate is shown: file, accelerator, clock, memories, who says so."""
    return (
        f"{printable(estimate.file)} on {estimate.accelerator} at {_clock(estimate)}, {estimate.system_config}, "
        f"{estimate.memory_mode}, as Vela {estimate.vela} expects it, batch 1"
    )


def layer_rows(estimate):
    """Return the rows of the layers of an `Estimate` under `COLUMNS`, and last their sums."""
    lines = [_layer(layer) for layer in estimate.layers]
    used = _share(estimate.utilisation)
    moved = size(sum(each.moved for each in estimate.memories))
    operations = f"{sum(layer.operations for layer in estimate.layers):,}"
    total = ["total", "", "", "", operations, f"{estimate.macs:,}", f"{estimate.cycles:,}", "", used, "", moved]
    return [*lines, total]


def _layer(layer):
    on = "-" if layer.target == NOWHERE else layer.target
    place = [_short(layer.name), layer.kind, layer.role or "", on]
    if not layer.cycles:
        return [*place, *[""] * (len(COLUMNS) - len(place))]
    moved = size(sum(layer.read.values()) + sum(layer.written.values()))
    counts = [f"{layer.operations:,}", f"{layer.macs:,}", f"{layer.cycles:,}"]
    return [*place, *counts, _share(layer.share), _share(layer.utilisation), layer.bound, moved]


def _short(name):
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2 - 2]}...{name[-_LONGEST // 2 + 1 :]}"


def group_rows(estimate):
    """Return the rows of the `Subtotal`s of an `Estimate` under `GROUP_COLUMNS`."""
    return [
        [
            each.group,
            f"{each.layers:,}",
            f"{each.macs:,}",
            f"{each.cycles:,}",
            _share(each.share),
            _share(each.utilisation),
        ]
        for each in subtotals(estimate)
    ]


def totals(estimate):
    """Yield what an `Estimate` comes to, line by line: time, share of the NPU, memories, sizes, and what is meant."""
    computing, on_npu = percent(estimate.npu_cycles, estimate.cycles), _share(estimate.npu_share) or "not known"
    cycles = f"{estimate.cycles:,} cycles ({computing} computing)" if estimate.cycles else "not estimated"
    yield f"Time: {_time(estimate)}, {cycles}"
    yield f"NPU: {on_npu} of the network's MACs; operators left to the CPU: {len(estimate.left_to_cpu):,}"
    for each in estimate.memories:
        yield f"{each.name}: {size(each.used)} in use at most, {size(each.moved)} moved in a run"
    yield (
        f"Compiled file: {size(estimate.compiled_bytes)} (from {size(estimate.file_bytes)}); weights "
        f"{size(estimate.encoded_weight_bytes)} encoded (from {size(estimate.weight_bytes)})"
    )
    yield (
        "MACs as Vela counts them, comparisons of poolings among them; MACs used: of those that the accelerator can do "
        f"in the cycles ({estimate.macs_per_cycle:,} a cycle)."
    )
    yield "Bound by: what takes most of a layer's cycles. -: no operation of its own. All is estimated, not measured."


def sweep_row(estimate):
    """Return the row of an `Estimate` under `SWEEP_COLUMNS`."""
    flash = estimate.used("on-chip flash") + estimate.used("off-chip flash")
    sizes = [estimate.used("SRAM"), estimate.used("DRAM"), flash]
    return [
        estimate.accelerator,
        _clock(estimate),
        _time(estimate),
        _share(estimate.utilisation),
        _share(estimate.npu_share),
        *(size(count) if count else "" for count in sizes),
        size(estimate.compiled_bytes),
        f"{estimate.system_config}, {estimate.memory_mode}",
    ]


def _clock(estimate):
    return f"{estimate.clock_hz / 1e6:,.0f} MHz"


def _time(estimate):
    if not estimate.cycles:
        return "the CPU's"
    return f"{estimate.us / 1000:,.3f} ms{' + CPU' if estimate.left_to_cpu else ''}"


def _share(share):
    return "" if share is None else f"{share:.1%}"
