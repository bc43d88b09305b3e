"""The sections of measurements: the latency of a file, files relative to a baseline, two benchmarks, and sweeps."""

import collections
from collections.abc import Sequence

from keras_nin import plots
from keras_nin.benchmark import layer_times, sweep_results
from keras_nin.benchmark.comparison import FileChange, LayerChange, RunComparison
from keras_nin.benchmark.layer_times import LatencySubtotal
from keras_nin.benchmark.records import PROFILER, SINGLE_OPERATORS, LayerTime, Profile
from keras_nin.benchmark.roofline import LayerEfficiency, compute_efficiency
from keras_nin.formatting import (
    format_bytes,
    format_conditions,
    format_count,
    format_host,
    format_percent,
    format_us,
)
from keras_nin.plots import latency, sweeps
from keras_nin.report import comparisons
from keras_nin.report.documents import RatiosDocument, SweepDocument
from keras_nin.report.html import (
    Bar,
    Bars,
    HtmlTable,
    ItemList,
    Paragraph,
    Section,
    make_table,
    png_picture,
    svg_picture,
)
from keras_nin.report.latency import format_ratio_interval

_STATISTICS_COLUMNS = (
    *("median", "95% interval", "mean", "p10", "p90", "p99", "fastest", "load", "first run"),
    "peak memory",
)
_SUBTOTAL_COLUMNS = ("rows", "time", "share", "MACs", "GMAC/s")
_LAYER_COLUMNS = (
    *("layer", "kind", "time", "median", "p90", "share", "MACs", "GMAC/s", "of roof", "of peak", "bound by"),
    *("bytes", "operator", "kernel", "compute type"),
)
_LAYER_RIGHT = ("time", "median", "p90", "share", "MACs", "GMAC/s", "of roof", "of peak", "bytes")
_RATIO_COLUMNS = ("file", "baseline", "threads", "ratio", "95% interval")
_LAYER_CHANGE_COLUMNS = ("layer", "file", "before", "after", "difference", "kernel before", "kernel after")
_SWEEP_ALT = (
    "Left: each layer with a larger kernel, its time relative to the same layer with 1x1, over the MACs of the 1x1 "
    "layer. Right: time per channel where their number is not a multiple of 8, relative to that of the multiple."
)
_METHODS = {
    PROFILER: "by the runtime's profiler, mean over the runs nearest to the median",
    SINGLE_OPERATORS: "each operator alone, its weights not in the caches, median",
}
_APIS = {"compiled_model": "LiteRT's compiled model", "interpreter": "the TensorFlow Lite interpreter"}
_MISSING = "-"


def latency_section(profile: Profile, id: str) -> Section:
    """Return the section of a profile: whole runs, kinds and roles, blocks, layers, the roofline."""
    busy = Paragraph("The median is not known to within 1%: the machine was busy.", "bad")
    parts = (_statistics_table(profile), _conditions(profile), *(() if profile.converged else (busy,)))
    title = f"Latency on {format_count(profile.threads, 'thread')}: {format_us(profile.total.median)}"
    return Section(id, title, parts, _layer_sections(profile, id) if profile.layers else ())


def _conditions(profile: Profile) -> Paragraph:
    return Paragraph(format_conditions(profile.host, profile.threads, profile.runs))


def _statistics_table(profile: Profile) -> HtmlTable:
    total, interval = profile.total, _MISSING
    if total.low is not None and total.high is not None:
        interval = f"{total.low:,.1f} to {total.high:,.1f} us"
    times = (total.mean, total.p10, total.p90, total.p99, total.min, profile.load_us, profile.first_us)
    peak = _MISSING if profile.peak_bytes is None else format_bytes(profile.peak_bytes)
    row = (format_us(total.median), interval, *map(_format_time, times), peak)
    return make_table("Whole runs", _STATISTICS_COLUMNS, [row], right=_STATISTICS_COLUMNS)


def _layer_sections(profile: Profile, id: str) -> tuple[Section, ...]:
    by_role, blocks = layer_times.sum_by_role(profile), layer_times.sum_by_block(profile)
    shares = "; ".join(f"{subtotal.name} {format_percent(subtotal.share)}" for subtotal in by_role)
    figure = svg_picture(latency.plot_kind_shares(profile, by_role), f"Share of the run and of the MACs: {shares}")
    kinds = _subtotal_table("kind", (layer_times.sum_pointwise(profile), *by_role))
    sections = [Section(f"{id}-kinds", "1x1 by role, and other kinds", (figure, kinds, _conditions(profile)))]
    if len(blocks) > 2:
        parts = (_subtotal_table("block", blocks), _conditions(profile))
        sections.append(Section(f"{id}-blocks", "By block", parts))
    efficiencies = compute_efficiency(profile)
    method = Paragraph(f"{_method_sentence(profile)} {format_conditions(profile.host, profile.threads, profile.runs)}.")
    parts = (_layer_bars(profile), method, _layer_table(profile, efficiencies))
    sections.append(Section(f"{id}-layers", "Every layer", parts))
    if efficiencies:
        sections.append(_roofline_section(profile, efficiencies, f"{id}-roofline"))
    return tuple(sections)


def _method_sentence(profile: Profile) -> str:
    method, api = _METHODS.get(profile.method or "", profile.method), _APIS.get(profile.api, profile.api)
    runs = format_count(profile.profiled_runs, "run")
    return f"Times of layers: {method}; {runs}. Whole runs: with {api}, not profiled."


def _subtotal_table(what: str, subtotals: Sequence[LatencySubtotal]) -> HtmlTable:
    rows = [
        (
            subtotal.name,
            f"{subtotal.rows:,}",
            format_us(subtotal.us),
            format_percent(subtotal.share),
            f"{subtotal.macs:,}",
            _format_rate(subtotal.gmacs_per_s),
        )
        for subtotal in subtotals
    ]
    return make_table(f"Time by {what}", (what, *_SUBTOTAL_COLUMNS), rows, right=_SUBTOTAL_COLUMNS)


def _layer_bars(profile: Profile) -> Bars:
    overhead = profile.overhead_us
    longest = max([layer.us.typical for layer in profile.layers if layer.us is not None] + [overhead or 0.0])
    bars = [_layer_bar(layer, longest) for layer in profile.layers]
    styles = plots.used_styles(profile.layers)
    if overhead is not None:
        style, length = plots.OVERHEAD_STYLE, max(0.0, overhead / longest) if longest else 0.0
        share = format_percent(overhead / profile.total.median)
        bars.append(Bar(style.label, "", style.key, length, format_us(overhead), share))
        styles.append(style)
    return Bars("Time of each layer, in order of execution", tuple(bars), tuple(styles))


def _layer_bar(layer: LayerTime, longest: float) -> Bar:
    style = plots.layer_style(layer.kind, layer.role)
    if layer.us is None:
        return Bar(layer.name, style.label, style.key, 0.0, layer.note or "not measured")
    length = layer.us.typical / longest if longest else 0.0
    share = format_percent(layer.share)
    return Bar(layer.name, style.label, style.key, length, format_us(layer.us.typical), share)


def _layer_table(profile: Profile, efficiencies: Sequence[LayerEfficiency]) -> HtmlTable:
    by_layer = {id(efficiency.layer): efficiency for efficiency in efficiencies}
    rows = [_layer_row(layer, by_layer.get(id(layer))) for layer in profile.layers]
    return make_table(
        "Every layer", _LAYER_COLUMNS, rows, right=_LAYER_RIGHT, folded=f"All {len(rows)} layers in figures"
    )


def _layer_row(layer: LayerTime, efficiency: LayerEfficiency | None) -> list[str]:
    us = layer.us
    roofline = [_MISSING] * 3
    if efficiency is not None:
        roofline = [format_percent(efficiency.efficiency), format_percent(efficiency.peak_share), efficiency.bound]
    kernel = [layer.kernel or _MISSING, "" if layer.joined else "(not joined)", layer.note or ""]
    return [
        layer.name,
        plots.layer_style(layer.kind, layer.role).label,
        *(map(_format_time, (us.typical, us.median, us.p90)) if us else [_MISSING] * 3),
        format_percent(layer.share),
        _MISSING if layer.macs is None else f"{layer.macs:,}",
        _format_rate(layer.gmacs_per_s),
        *roofline,
        f"{layer.bytes:,}",
        layer.op or _MISSING,
        " ".join(filter(None, kernel)),
        layer.dtype or _MISSING,
    ]


def _roofline_section(profile: Profile, efficiencies: Sequence[LayerEfficiency], id: str) -> Section:
    bounds = collections.Counter(efficiency.bound for efficiency in efficiencies)
    peaks = "; ".join(
        f"{peak.dtype} {peak.gmacs_per_s:,.3g} GMAC/s, memory {peak.gbytes_per_s:,.3g} GB/s" for peak in profile.peaks
    )
    alt = (
        f"Speed of {format_count(len(efficiencies), 'layer')} over their MACs per byte moved, below the roofs of the "
        f"machine ({peaks}). Bound by {', '.join(f'{bound}: {count}' for bound, count in bounds.items())}."
    )
    figure = svg_picture(latency.plot_roofline(profile, efficiencies), alt)
    return Section(id, "Roofline", (figure, Paragraph(alt, "plain"), _conditions(profile)))


def ratios_section(document: RatiosDocument, id: str) -> Section:
    """Return the section of files measured interleaved."""
    rows = [
        (
            ratio.file,
            ratio.base,
            f"{ratio.threads}",
            f"{ratio.ratio:.3f}",
            format_ratio_interval(ratio.low, ratio.high) or _MISSING,
        )
        for ratio in document.ratios
    ]
    parts = (
        Paragraph("Time of each file relative to a baseline, measured interleaved.", "plain"),
        make_table("Ratios of times", _RATIO_COLUMNS, rows, right=_RATIO_COLUMNS[2:]),
        *(
            Paragraph(f"{profile.file}: {format_conditions(profile.host, profile.threads, profile.runs)}")
            for profile in document.benchmark.profiles
        ),
    )
    return Section(id, "Files relative to a baseline", parts)


def run_comparison_section(comparison: RunComparison, id: str) -> Section:
    """Return the section of two benchmarks."""
    columns, rows = comparisons.RUN_COLUMNS, map(comparisons.run_change_row, comparison.changes)
    layers = [_layer_change_row(change, layer) for change in comparison.changes for layer in change.layers]
    changed = make_table(
        "Layers that changed",
        _LAYER_CHANGE_COLUMNS,
        layers,
        right=_LAYER_CHANGE_COLUMNS[2:5],
        folded=f"{format_count(len(layers), 'layer')} that changed",
    )
    parts = (
        make_table("Whole runs, median", columns, rows, right=columns[1:7]),
        *map(Paragraph, comparisons.host_lines(comparison)),
        *([changed] if layers else []),
        *(Paragraph(line, "plain") for line in comparisons.comparison_notes(comparison)),
    )
    return Section(id, "Before and after", parts)


def _layer_change_row(change: FileChange, layer: LayerChange) -> list[str]:
    kernels = (layer.before_kernel or _MISSING, layer.after_kernel or _MISSING)
    times = (_format_time(layer.before_us), _format_time(layer.after_us), f"{layer.added_us:+,.1f} us")
    return [layer.name, change.file, *times, *kernels]


def sweep_section(sweep: SweepDocument, id: str) -> Section:
    """Return the section of a sweep: its findings, its figure, every row."""
    rows = [comparisons.sweep_row(sweep.rows[point]) for point in sorted(sweep.rows)]
    failed = tuple((f"{row.point}", f"Not measured: {row.error}") for row in sweep.rows.values() if row.error)
    ratios, costs = sweep_results.compute_kernel_ratios(sweep.rows), sweep_results.compute_alignment_costs(sweep.rows)
    parts = (
        Paragraph(f"Medians at batch 1, each layer alone, weights and calibration random; {format_host(sweep.host)}"),
        *(Paragraph(sentence, "plain") for sentence in sweep_results.format_findings(sweep.rows)),
        png_picture(sweeps.plot_layer_sweep(ratios, costs, sweep.host), _SWEEP_ALT),
        make_table(
            "Every point",
            comparisons.SWEEP_COLUMNS,
            rows,
            right=comparisons.SWEEP_RIGHT,
            folded=f"All {format_count(len(rows), 'point')}",
        ),
        *([ItemList(failed)] if failed else []),
    )
    return Section(id, f"Sweep: {sweep.name}", parts, labels=("random weights and calibration: for latency only",))


def _format_time(us: float | None) -> str:
    return _MISSING if us is None else format_us(us)


def _format_rate(gmacs_per_s: float | None) -> str:
    return _MISSING if gmacs_per_s is None else f"{gmacs_per_s:,.3g}"
