"""Layers against what the machine can do, as text."""

from keras_nin.benchmark import roofline, sweep_results
from keras_nin.benchmark.comparison import UNKNOWN
from keras_nin.formatting import escape_unprintable, format_table
from keras_nin.report.latency import comparison_host_lines

_ROOFLINE_COLUMNS = ("layer", "1x1", "us", "GMAC/s", "MACs/byte", "roof GMAC/s", "of roof", "of peak", "bound")
_ROOFLINE_SHARE_COLUMNS = ("kind", "layers", "us", "GMAC/s", "of roof", "of peak")
_KIND_LABELS = {"pointwise": "1x1"}


def format_roofline(profile):
    """Return the table of a `Profile` with peaks: its layers on the roofline, and the 1x1 layers beside the others."""
    placed = roofline.compute_efficiency(profile)
    if not placed:
        return f"{profile.file}: no layer with MACs, a time and a measured peak: nothing to set against the roofline."
    rows = [_roofline_row(each) for each in placed]
    shares = [_roofline_share_row(each) for each in roofline.summarize_efficiency(placed)]
    unplaced = [layer.name for layer in profile.layers if layer.macs and layer not in [each.layer for each in placed]]
    return "\n".join(
        [
            *_roofline_heading(profile),
            format_table(_ROOFLINE_COLUMNS, rows, right=_ROOFLINE_COLUMNS[2:8]),
            "",
            format_table(_ROOFLINE_SHARE_COLUMNS, shares, right=_ROOFLINE_SHARE_COLUMNS[1:]),
            *([f"Not placed (no time, or a data type without a peak): {', '.join(unplaced)}"] if unplaced else []),
            *_roofline_notes(placed),
        ]
    )


def _roofline_heading(profile):
    host = profile.host
    yield (
        f"{profile.file} against this machine: {host['cpu']}, {profile.threads} "
        f"thread{'s' if profile.threads > 1 else ''}, LiteRT {host['litert']}, {profile.runs} runs"
    )
    for peak in profile.peaks:
        ridge = peak.gmacs_per_s / peak.gbytes_per_s
        yield (
            f"{peak.dtype}: {peak.gmacs_per_s:.1f} GMAC/s at most, memory {peak.gbytes_per_s:.1f} GB/s; compute bounds "
            f"from {ridge:.1f} MACs/byte on"
        )


def _roofline_row(each):
    layer = each.layer
    rate = layer.macs / layer.us.typical / 1000
    return [
        layer.name,
        (layer.role or "1x1") if layer.kind == "pointwise" else "",
        f"{layer.us.typical:,.1f}",
        f"{rate:.1f}",
        f"{each.intensity:.1f}",
        f"{each.attainable_gmacs_per_s:.1f}",
        f"{each.efficiency:.0%}",
        f"{each.peak_share:.0%}",
        each.bound,
    ]


def _roofline_share_row(share):
    return [
        _KIND_LABELS.get(share.name, share.name),
        str(share.layers),
        f"{share.us:,.1f}",
        f"{share.macs / share.us / 1000:.1f}",
        f"{share.efficiency:.0%}",
        f"{share.peak_share:.0%}",
    ]


def _roofline_notes(placed):
    cached = sum(each.bound == roofline.CACHE for each in placed)
    if cached:
        yield (
            f"cache: {cached} layer{'s' if cached > 1 else ''} ran faster than memory could feed it: the data came "
            "from the caches, and only the peak bounds it."
        )


# MERGED Two benchmarks side by side as text: a pure function of the records.

_MAX_CHANGED_LAYERS = 10


def format_run_comparison(comparison):
    """Return a `RunComparison` as tables for the terminal."""
    parts = [_format_run_changes(comparison.changes)]
    parts += [_format_layer_changes(change) for change in comparison.changes if change.layers]
    notes = list(_run_comparison_notes(comparison))
    return "\n\n".join(parts + (["\n".join(map(escape_unprintable, notes))] if notes else []))


def _format_run_changes(changes):
    columns = ("file", "threads", "before [us]", "after [us]", "ratio", "95 % interval", "runs", "")
    rows = [
        [
            change.file,
            str(change.threads),
            f"{change.before_us:,.1f}",
            f"{change.after_us:,.1f}",
            f"{change.ratio:.3f}",
            "" if change.low is None else f"{change.low:.3f} to {change.high:.3f}",
            ", ".join(f"{count:,}" for count in (change.before_runs, change.after_runs) if count is not None),
            change.verdict,
        ]
        for change in changes
    ]
    return format_table(columns, rows, right=columns[1:7], title="Whole runs, median")


def _format_layer_changes(change):
    columns = ("layer", "before [us]", "after [us]", "difference", "ratio", "kernel")
    shown = change.layers[:_MAX_CHANGED_LAYERS]
    rows = [
        [
            layer.name,
            _format_us(layer.before_us),
            _format_us(layer.after_us),
            f"{layer.added_us:+,.1f}",
            f"{layer.after_us / layer.before_us:.2f}" if layer.before_us and layer.after_us else "",
            _kernel_change(layer),
        ]
        for layer in shown
    ]
    more = "" if len(shown) == len(change.layers) else f", the first {len(shown)} of {len(change.layers)}"
    title = f"Layers of {change.file} on {change.threads} {_threads_word(change.threads)} that changed{more}"
    return format_table(columns, rows, right=columns[1:5], title=title)


def _kernel_change(layer):
    if layer.before_kernel == layer.after_kernel:
        return layer.after_kernel or ""
    return f"{layer.before_kernel or 'none'} -> {layer.after_kernel or 'none'}"


def _format_us(value):
    return "" if value is None else f"{value:,.1f}"


def _threads_word(count):
    return "thread" if count == 1 else "threads"


def _run_comparison_notes(comparison):
    yield from comparison_host_lines(comparison)
    if comparison.hosts:
        yield "The machines differ, so the ratios say nothing about the files alone:"
        yield from (f"  {line}" for line in comparison.hosts)
    for change in comparison.changes:
        if not change.same_content:
            yield f"{change.file}: the file has other content than before."
    if any(change.verdict == UNKNOWN for change in comparison.changes):
        yield "unknown: too few runs for an interval; the medians are compared as they are."
    for name, missing in (("second", comparison.only_before), ("first", comparison.only_after)):
        for file, threads in missing:
            yield f"{file} on {threads} {_threads_word(threads)}: not in the {name} benchmark."
    yield from (f"Warning, {line}" for line in comparison.warnings)


# MERGED The rows of a sweep as text and JSON.

SWEEP_SCHEMA = "keras_nin.sweep/1"
_SWEEP_COLUMNS = (
    "map",
    "in",
    "out",
    "kernel",
    "scheme",
    "threads",
    "MMACs",
    "us",
    "95 %",
    "kernel us",
    "GMAC/s",
    "runs",
)


def format_sweep(rows, host):
    """Return the table of `Row`s (by point) and what they show; `host` is the machine's dictionary."""
    failed = [row for row in rows.values() if row.error]
    unsettled = sum(not row.converged for row in rows.values() if not row.error)
    lines = [
        format_table(
            _SWEEP_COLUMNS,
            [_sweep_row(rows[point]) for point in sorted(rows)],
            right=_SWEEP_COLUMNS[1:4] + _SWEEP_COLUMNS[5:],
        ),
        "",
        f"{host['cpu']}, {host['cores']} cores, LiteRT {host['litert']}; medians, 1 MAC = one multiply and one add.",
        "Each layer alone, with random weights; int8 calibrated with noise: files for latency only.",
    ]
    if unsettled:
        lines.append(f"{unsettled} of {len(rows)} medians are not known to 1 %: the machine was busy, or time was up.")
    return "\n".join([*lines, *sweep_results.format_findings(rows), *(_sweep_failure_line(row) for row in failed)])


def sweep_to_json(rows, host):
    """Return `Row`s (by point) as a JSON-ready dictionary (schema ``keras_nin.sweep/1``)."""
    return {
        "schema": SWEEP_SCHEMA,
        "host": host,
        "rows": [_sweep_row_to_json(rows[point]) for point in sorted(rows)],
        "findings": list(sweep_results.format_findings(rows)),
    }


def _sweep_row_to_json(row):
    layer = row.point.layer
    return {
        "size": layer.size, "cin": layer.cin, "cout": layer.cout, "kernel": layer.kernel,
        "scheme": row.point.scheme, "threads": row.point.threads, "macs": layer.macs, "gmacs_per_s": row.gmacs_per_s,
        "us": {"median": row.us, "low": row.low_us, "high": row.high_us}, "kernel_us": row.kernel_us,
        "kernel_name": row.kernel_name, "runs": row.runs, "converged": row.converged, "load": row.load,
        "turn": row.turn, "error": row.error,
    }  # fmt: skip


def _sweep_row(row):
    layer = row.point.layer
    interval = "-" if row.low_us is None else f"{row.low_us:,.1f} to {row.high_us:,.1f}"
    return [
        f"{layer.size}x{layer.size}",
        str(layer.cin),
        str(layer.cout),
        f"{layer.kernel}x{layer.kernel}",
        row.point.scheme,
        str(row.point.threads),
        f"{layer.macs / 1e6:.2f}",
        _format_number(row.us),
        interval,
        _format_number(row.kernel_us),
        _format_number(row.gmacs_per_s),
        str(row.runs),
    ]


def _format_number(value):
    return "-" if value is None else f"{value:,.1f}"


def _sweep_failure_line(row):
    layer = row.point.layer
    return (
        f"Not measured: {layer.kernel}x{layer.kernel}, {layer.cin} to {layer.cout} at {layer.size}x{layer.size}, "
        f"{row.point.scheme}: {row.error}"
    )
