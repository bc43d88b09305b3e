"""Measurements in comparison, as text: layers with the roofline, a benchmark with an earlier one, and layer shapes."""

from collections.abc import Iterator, Mapping
from typing import Any

from keras_nin import schemas
from keras_nin.benchmark import roofline, sweep_results
from keras_nin.benchmark.comparison import UNKNOWN, FileChange, LayerChange, RunComparison
from keras_nin.benchmark.records import Profile
from keras_nin.benchmark.roofline import KindEfficiency, LayerEfficiency
from keras_nin.benchmark.sweep import SweepPoint
from keras_nin.benchmark.sweep_results import SweepRow
from keras_nin.formatting import (
    escape_unprintable,
    format_conditions,
    format_count,
    format_host,
    format_percent,
    format_table,
)
from keras_nin.report.latency import format_ratio_interval

_ROOFLINE_COLUMNS = ("layer", "1x1", "us", "GMAC/s", "MACs/byte", "roof GMAC/s", "of roof", "of peak", "bound by")
_KIND_COLUMNS = ("kind", "layers", "us", "GMAC/s", "of roof", "of peak")
RUN_COLUMNS = ("file", "threads", "before us", "after us", "ratio", "95% interval", "runs", "verdict")
_LAYER_CHANGE_COLUMNS = ("layer", "before us", "after us", "difference", "ratio", "kernel")
_MAX_CHANGED_LAYERS = 10
SWEEP_COLUMNS = (
    *("map", "in", "out", "kernel", "scheme", "threads", "MMACs", "us", "95% interval", "kernel us"),
    *("GMAC/s", "runs"),
)
SWEEP_RIGHT = SWEEP_COLUMNS[1:4] + SWEEP_COLUMNS[5:]


def format_roofline(profile: Profile) -> str:
    """Return the layers of a profile with peaks on the roofline, and the 1x1 layers next to the other kinds."""
    efficiencies = roofline.compute_efficiency(profile)
    if not efficiencies:
        return f"{profile.file}: no roofline, because no layer has MACs, a time and a measured peak."
    placed = [efficiency.layer for efficiency in efficiencies]
    missing = [layer.name for layer in profile.layers if layer.macs and layer not in placed]
    kinds = [_kind_row(kind) for kind in roofline.summarize_efficiency(efficiencies)]
    return "\n".join(
        [
            *_roofline_heading(profile),
            format_table(_ROOFLINE_COLUMNS, [_roofline_row(row) for row in efficiencies], right=_ROOFLINE_COLUMNS[2:8]),
            "",
            format_table(_KIND_COLUMNS, kinds, right=_KIND_COLUMNS[1:]),
            *([f"Left out (no time, or no peak of their compute type): {', '.join(missing)}"] if missing else []),
            *_roofline_notes(efficiencies),
        ]
    )


def _roofline_heading(profile: Profile) -> Iterator[str]:
    yield f"{profile.file} on the roofline. {format_conditions(profile.host, profile.threads, profile.runs)}"
    for peak in profile.peaks:
        ridge = peak.gmacs_per_s / peak.gbytes_per_s
        yield (
            f"{peak.dtype}: peak {peak.gmacs_per_s:.1f} GMAC/s, memory {peak.gbytes_per_s:.1f} GB/s; compute bound "
            f"from {ridge:.1f} MACs/byte"
        )


def _roofline_row(efficiency: LayerEfficiency) -> list[str]:
    layer = efficiency.layer
    us = layer.us.typical if layer.us else 0.0
    return [
        layer.name,
        (layer.role or "1x1") if layer.kind == "pointwise" else "",
        f"{us:,.1f}",
        f"{efficiency.gmacs_per_s:.1f}",
        f"{efficiency.intensity:.1f}",
        f"{efficiency.attainable_gmacs_per_s:.1f}",
        format_percent(efficiency.efficiency, 0),
        format_percent(efficiency.peak_share, 0),
        efficiency.bound,
    ]


def _kind_row(kind: KindEfficiency) -> list[str]:
    return [
        "1x1" if kind.name == "pointwise" else kind.name,
        f"{kind.layers:,}",
        f"{kind.us:,.1f}",
        f"{kind.macs / kind.us / 1000:.1f}",
        format_percent(kind.efficiency, 0),
        format_percent(kind.peak_share, 0),
    ]


def _roofline_notes(efficiencies: tuple[LayerEfficiency, ...]) -> Iterator[str]:
    cached = sum(efficiency.bound == roofline.CACHE for efficiency in efficiencies)
    if cached:
        yield (
            f"cache: {format_count(cached, 'layer')} ran faster than memory could supply data, which came from the "
            "caches: only the peak limits them."
        )


def format_run_comparison(comparison: RunComparison) -> str:
    """Return two benchmarks side by side: the files, and the layers that changed."""
    rows = [run_change_row(change) for change in comparison.changes]
    tables = [format_table(RUN_COLUMNS, rows, right=RUN_COLUMNS[1:7], title="Whole runs, median")]
    tables += [_format_layer_changes(change) for change in comparison.changes if change.layers]
    notes = "\n".join(escape_unprintable(line) for line in (*host_lines(comparison), *comparison_notes(comparison)))
    return "\n\n".join([*tables, notes] if notes else tables)


def run_change_row(change: FileChange) -> list[str]:
    """Return the row of a file: before, after, their ratio with its interval, and the verdict."""
    counts = [f"{count:,}" for count in (change.before_runs, change.after_runs) if count is not None]
    return [
        change.file,
        f"{change.threads}",
        f"{change.before_us:,.1f}",
        f"{change.after_us:,.1f}",
        f"{change.ratio:.3f}",
        format_ratio_interval(change.low, change.high),
        ", ".join(counts),
        change.verdict,
    ]


def _format_layer_changes(change: FileChange) -> str:
    shown = change.layers[:_MAX_CHANGED_LAYERS]
    rows = [
        [
            layer.name,
            _format_number(layer.before_us),
            _format_number(layer.after_us),
            f"{layer.added_us:+,.1f}",
            f"{layer.after_us / layer.before_us:.2f}" if layer.before_us and layer.after_us else "",
            _kernel_change(layer),
        ]
        for layer in shown
    ]
    first = "" if len(shown) == len(change.layers) else f", the first {len(shown)} of {len(change.layers)}"
    title = f"Layers of {change.file} on {format_count(change.threads, 'thread')} that changed{first}"
    return format_table(_LAYER_CHANGE_COLUMNS, rows, right=_LAYER_CHANGE_COLUMNS[1:5], title=title)


def _kernel_change(layer: LayerChange) -> str:
    if layer.before_kernel == layer.after_kernel:
        return layer.after_kernel or ""
    return f"{layer.before_kernel or 'none'} -> {layer.after_kernel or 'none'}"


def host_lines(comparison: RunComparison) -> Iterator[str]:
    """Yield the machines of two benchmarks, one line for both where they are the same; none that is unknown."""
    hosts = {"Before": comparison.before_host, "After": comparison.after_host}
    lines = {when: format_host(host) for when, host in hosts.items() if host is not None}
    if len(lines) == 2 and len(set(lines.values())) == 1:
        lines = {"Before and after": lines["Before"]}
    yield from (f"{when}: batch 1; {line}" for when, line in lines.items())


def comparison_notes(comparison: RunComparison) -> Iterator[str]:
    """Yield what limits the comparison: different machines or files, missing results, warnings."""
    if comparison.hosts:
        yield "The machines differ, so the ratios are not about the files alone:"
        yield from (f"  {line}" for line in comparison.hosts)
    yield from (
        f"{change.file}: the file's content changed." for change in comparison.changes if not change.same_content
    )
    if any(change.verdict == UNKNOWN for change in comparison.changes):
        yield "unknown: too few runs for an interval; only the medians are compared."
    for when, missing in (("before", comparison.only_before), ("after", comparison.only_after)):
        yield from (f"{file} on {format_count(threads, 'thread')}: only {when}." for file, threads in missing)
    yield from (f"Warning, {line}" for line in comparison.warnings)


def format_sweep(rows: Mapping[SweepPoint, SweepRow], host: Mapping[str, Any]) -> str:
    """Return the table of a sweep over layer shapes, and its findings.

    Args:
        rows: what was measured, by point.
        host: the machine.
    """
    failed = [row for row in rows.values() if row.error]
    unsettled = sum(not row.converged for row in rows.values() if not row.error)
    table = [sweep_row(rows[point]) for point in sorted(rows)]
    lines = [
        format_table(SWEEP_COLUMNS, table, right=SWEEP_RIGHT),
        "",
        f"{format_host(host)}; medians, 1 MAC = one multiply + one add.",
        "Each layer alone, with random weights and random calibration: for latency only.",
    ]
    if unsettled:
        lines.append(f"{unsettled} of {len(rows)} medians are not within 1%: the machine was busy, or time ran out.")
    return "\n".join([*lines, *sweep_results.format_findings(rows), *map(_sweep_failure_line, failed)])


def sweep_to_json(rows: Mapping[SweepPoint, SweepRow], host: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sweep as a JSON-ready dictionary (schema ``keras_nin.sweep/1``); arguments as in `format_sweep`."""
    return {
        "schema": schemas.SWEEP,
        "host": host,
        "rows": [_sweep_row_to_json(rows[point]) for point in sorted(rows)],
        "findings": list(sweep_results.format_findings(rows)),
    }


def _sweep_row_to_json(row: SweepRow) -> dict[str, Any]:
    layer = row.point.layer
    return {
        "size": layer.size,
        "cin": layer.cin,
        "cout": layer.cout,
        "kernel": layer.kernel,
        "scheme": row.point.scheme,
        "threads": row.point.threads,
        "macs": layer.macs,
        "us": {"median": row.us, "low": row.low_us, "high": row.high_us},
        **{
            key: getattr(row, key)
            for key in ("gmacs_per_s", "kernel_us", "kernel_name", "runs", "converged", "load", "turn", "error")
        },
    }


def sweep_row(row: SweepRow) -> list[str]:
    """Return the row of a point of a sweep: its layer, and what was measured."""
    layer = row.point.layer
    has_interval = row.low_us is not None and row.high_us is not None
    return [
        f"{layer.size}x{layer.size}",
        f"{layer.cin:,}",
        f"{layer.cout:,}",
        f"{layer.kernel}x{layer.kernel}",
        row.point.scheme,
        f"{row.point.threads}",
        f"{layer.macs / 1e6:,.2f}",
        _format_number(row.us, "-"),
        f"{row.low_us:,.1f} to {row.high_us:,.1f}" if has_interval else "-",
        _format_number(row.kernel_us, "-"),
        _format_number(row.gmacs_per_s, "-"),
        f"{row.runs:,}",
    ]


def _format_number(value: float | None, missing: str = "") -> str:
    return missing if value is None else f"{value:,.1f}"


def _sweep_failure_line(row: SweepRow) -> str:
    layer = row.point.layer
    return (
        f"Not measured: {layer.kernel}x{layer.kernel}, {layer.cin} to {layer.cout} at {layer.size}x{layer.size}, "
        f"{row.point.scheme}: {row.error}"
    )
