"""The section of a latency: whole runs, kinds and roles, blocks, every layer, the roofline."""

import collections

from keras_nin import plots as plots_module
from keras_nin.audit.tables import format_size
from keras_nin.benchmark import layer_times, sweep_results
from keras_nin.benchmark.roofline import compute_efficiency
from keras_nin.plots import latency as latency_module
from keras_nin.plots import sweeps
from keras_nin.report.accuracy import format_percent, format_time
from keras_nin.report.html import Bar, Bars, ItemList, Paragraph, Section, figure_picture, make_table, png_picture
from keras_nin.report.latency import comparison_host_lines, conditions_line, describe_machine, method_line

_STATISTICS_COLUMNS = (
    "median",
    "95 % interval",
    "mean",
    "p10",
    "p90",
    "p99",
    "fastest",
    "load",
    "first run",
    "peak memory",
)
_SUBTOTAL_COLUMNS = ("rows", "time", "share", "MACs", "GMAC/s")
_LAYER_COLUMNS = (
    "layer", "kind", "time", "median", "p90", "share", "MACs", "GMAC/s", "of roof", "of peak", "bound by", "bytes",
    "operator", "kernel", "data type",
)  # fmt: skip
_LAYER_RIGHT = ("time", "median", "p90", "share", "MACs", "GMAC/s", "of roof", "of peak", "bytes")
_UNKNOWN = "-"


def latency_section(profile, name):
    """Return the `Section` of a `keras_nin.benchmark.Profile`."""
    threads = f"{profile.threads} thread{'' if profile.threads == 1 else 's'}"
    state = (
        [] if profile.converged else [Paragraph("The median is not known to within 1 %: the machine was busy.", "bad")]
    )
    parts = (_statistics_table(profile), Paragraph(conditions_line(profile)), *state)
    sections = _layer_sections(profile, name) if profile.layers else ()
    return Section(name, f"Latency on {threads}: {format_time(profile.total.median)}", parts, sections)


def _statistics_table(profile):
    total = profile.total
    interval = _UNKNOWN
    if total.low is not None and total.high is not None:
        interval = f"{total.low:,.1f} to {total.high:,.1f} us"
    times = (total.mean, total.p10, total.p90, total.p99, total.min, profile.load_us, profile.first_us)
    row = (format_time(total.median), interval, *map(format_time, times), format_size(profile.peak_bytes))
    return make_table("Whole runs", _STATISTICS_COLUMNS, [row], right=_STATISTICS_COLUMNS)


def _layer_sections(profile, name):
    groups = (layer_times.sum_pointwise(profile), *layer_times.sum_by_role(profile))
    alt = "Share of the run and of the MACs: " + "; ".join(
        f"{each.name} {format_percent(each.share)}" for each in groups[1:]
    )
    kinds = Section(
        f"{name}-kinds", "1x1 by role, and the rest",
        (figure_picture(latency_module.plot_kind_shares(profile), alt), _subtotal_table("kind", groups), Paragraph(conditions_line(profile))),
    )  # fmt: skip
    every = Section(
        f"{name}-layers", "Every layer",
        (_layer_bars(profile), Paragraph(f"{method_line(profile)} {conditions_line(profile)}."), _layer_table(profile)),
    )  # fmt: skip
    return (kinds, *_block_section(profile, name), every, *_roofline_section(profile, name))


def _block_section(profile, name):
    groups = layer_times.sum_by_block(profile)
    if len(groups) <= 2:
        return ()
    return (
        Section(f"{name}-blocks", "By block", (_subtotal_table("block", groups), Paragraph(conditions_line(profile)))),
    )


def _subtotal_table(what, groups):
    rows = [
        (
            each.name,
            str(each.rows),
            format_time(each.us),
            format_percent(each.share),
            f"{each.macs:,}",
            _UNKNOWN if each.gmacs_per_s is None else f"{each.gmacs_per_s:,.3g}",
        )
        for each in groups
    ]
    return make_table(f"Time by {what}", (what, *_SUBTOTAL_COLUMNS), rows, right=_SUBTOTAL_COLUMNS)


def _layer_bars(profile):
    longest = max([layer.us.typical for layer in profile.layers if layer.us is not None] + [profile.overhead_us or 0])
    bars = [_layer_bar(layer, longest) for layer in profile.layers]
    looks = plots_module.used_styles(profile.layers)
    if profile.overhead_us is not None:
        share = profile.overhead_us / profile.total.median
        look = plots_module.OVERHEAD_STYLE
        length = max(0.0, profile.overhead_us / longest) if longest else 0.0
        value = format_time(profile.overhead_us)
        bars.append(Bar(look.label, "", look.key, length, value, format_percent(share)))
        looks.append(look)
    return Bars("Time of each layer, in order of execution", tuple(bars), tuple(looks))


def _layer_bar(layer, longest):
    look = plots_module.layer_style(layer.kind, layer.role)
    if layer.us is None:
        return Bar(layer.name, look.label, look.key, 0.0, layer.note or "no time")
    length = layer.us.typical / longest if longest else 0.0
    return Bar(layer.name, look.label, look.key, length, format_time(layer.us.typical), format_percent(layer.share))


def _layer_table(profile):
    placed = {id(each.layer): each for each in compute_efficiency(profile)}
    rows = [_layer_row(layer, placed.get(id(layer))) for layer in profile.layers]
    return make_table(
        "Every layer", _LAYER_COLUMNS, rows, right=_LAYER_RIGHT, folded=f"All {len(rows)} layers in figures"
    )


def _layer_row(layer, placed):
    us = layer.us
    return (
        layer.name,
        plots_module.layer_style(layer.kind, layer.role).label,
        *(map(format_time, (us.typical, us.median, us.p90)) if us else (_UNKNOWN,) * 3),
        format_percent(layer.share),
        _UNKNOWN if layer.macs is None else f"{layer.macs:,}",
        _UNKNOWN if layer.gmacs_per_s is None else f"{layer.gmacs_per_s:,.3g}",
        *(
            (_UNKNOWN,) * 3
            if placed is None
            else (format_percent(placed.efficiency), format_percent(placed.peak_share), placed.bound)
        ),
        f"{layer.bytes:,}",
        layer.op or _UNKNOWN,
        " ".join(filter(None, (layer.kernel or _UNKNOWN, not layer.joined and "(not joined)", layer.note))),
        layer.dtype or _UNKNOWN,
    )


def _roofline_section(profile, name):
    made = latency_module.plot_roofline(profile)
    if made is None:
        return ()
    placed = compute_efficiency(profile)
    bounds = collections.Counter(each.bound for each in placed)
    peaks = "; ".join(
        f"{peak.dtype} {peak.gmacs_per_s:,.3g} GMAC/s, memory {peak.gbytes_per_s:,.3g} GB/s" for peak in profile.peaks
    )
    alt = (
        f"Speed of {len(placed)} layers over their MACs for each byte moved, below the roofs of the machine ({peaks}). "
        f"Bound by {', '.join(f'{bound}: {count}' for bound, count in bounds.items())}."
    )
    lines = (Paragraph(alt, "plain"), Paragraph(conditions_line(profile)))
    return (Section(f"{name}-roofline", "Against the machine's limit", (figure_picture(made, alt), *lines)),)


# MERGED The sections of comparisons: files that took turns, and the same files at two times.

_RATIO_COLUMNS = ("file", "against", "threads", "ratio", "95 % interval")
_RUN_COLUMNS = ("file", "threads", "before", "after", "ratio", "95 % interval", "runs", "verdict")
_LAYER_CHANGE_COLUMNS = ("layer", "file", "before", "after", "difference", "kernel before", "kernel after")
_UNKNOWN = "-"


def ratio_section(interleaved, name):
    """Return the `Section` of files measured in turns (`keras_nin.report.documents.InterleavedRatios`)."""
    rows = [
        (each.file, each.base, str(each.threads), f"{each.ratio:.3f}", _format_ratio_interval(each))
        for each in interleaved.ratios
    ]
    lines = [Paragraph(f"{each.file}: {conditions_line(each)}") for each in interleaved.benchmark.profiles]
    parts = (
        Paragraph("Time of a file over that of another, measured in turns.", "plain"),
        make_table("Ratios of times", _RATIO_COLUMNS, rows, right=_RATIO_COLUMNS[2:]),
        *lines,
    )
    return Section(name, "Files against each other", parts)


def run_comparison_section(comparison, name):
    """Return the `Section` of a `keras_nin.benchmark.comparison.RunComparison`."""
    rows = [
        (
            each.file, str(each.threads), _format_us(each.before_us), _format_us(each.after_us), f"{each.ratio:.3f}",
            _format_ratio_interval(each), _format_runs(each), each.verdict,
        )
        for each in comparison.changes
    ]  # fmt: skip
    layers = [_layer_change_row(change, each) for change in comparison.changes for each in change.layers]
    folded = f"{len(layers)} layers that changed"
    parts = [
        make_table("Whole runs, median", _RUN_COLUMNS, rows, right=_RUN_COLUMNS[1:7]),
        *map(Paragraph, comparison_host_lines(comparison)),
        *(
            [
                make_table(
                    "Layers that changed",
                    _LAYER_CHANGE_COLUMNS,
                    layers,
                    right=_LAYER_CHANGE_COLUMNS[2:5],
                    folded=folded,
                )
            ]
            if layers
            else []
        ),
        *(Paragraph(text, tone) for text, tone in _run_comparison_notes(comparison)),
    ]
    return Section(name, "Before and after", tuple(parts))


def _layer_change_row(change, layer):
    kernels = (layer.before_kernel or _UNKNOWN, layer.after_kernel or _UNKNOWN)
    return (
        layer.name,
        change.file,
        _format_us(layer.before_us),
        _format_us(layer.after_us),
        f"{layer.added_us:+,.1f} us",
        *kernels,
    )


def _run_comparison_notes(comparison):
    if comparison.hosts:
        yield "The machines differ, so the ratios say nothing about the files alone:", "bad"
        yield from ((line, "plain") for line in comparison.hosts)
    for change in comparison.changes:
        if not change.same_content:
            yield f"{change.file}: the file has other content than before.", "plain"
    for when, missing in (("before", comparison.only_before), ("after", comparison.only_after)):
        yield from ((f"{file} on {threads} threads: only {when}.", "plain") for file, threads in missing)
    yield from ((f"Warning, {line}", "bad") for line in comparison.warnings)


def _format_ratio_interval(each):
    return _UNKNOWN if each.low is None or each.high is None else f"{each.low:.3f} to {each.high:.3f}"


def _format_runs(change):
    """Return how many runs each median is over."""
    counts = (change.before_runs, change.after_runs)
    return ", ".join(_UNKNOWN if count is None else f"{count:,}" for count in counts)


def _format_us(value):
    return _UNKNOWN if value is None else f"{value:,.1f} us"


# MERGED The section of a sweep: what it shows, its picture, every row.

_SWEEP_COLUMNS = (
    "map", "in", "out", "kernel", "scheme", "threads", "MACs", "time in us", "95 % interval", "in kernels", "GMAC/s",
    "runs",
)  # fmt: skip
_SWEEP_RIGHT = (*_SWEEP_COLUMNS[1:3], *_SWEEP_COLUMNS[5:])
_SWEEP_ALT = (
    "Left: each layer with a larger kernel against the same with 1x1, the ratio of their times over the MACs of the "
    "1x1 layer. Right: time for each channel where their number is no multiple of 8, over that of the multiple."
)


def sweep_section(swept, name):
    """Return the `Section` of a `keras_nin.report.documents.SweepDocument`."""
    rows = [_sweep_row(swept.rows[point]) for point in sorted(swept.rows)]
    found = tuple(sweep_results.format_findings(swept.rows))
    failed = tuple((f"{row.point}", f"Not measured: {row.error}") for row in swept.rows.values() if row.error)
    parts = [
        Paragraph(
            f"Medians at batch 1, each layer alone, weights and calibration random; {describe_machine(swept.who)}"
        ),
        *(Paragraph(sentence, "plain") for sentence in found),
        png_picture(sweeps.render_layer_sweep(swept.rows, swept.who), _SWEEP_ALT),
        make_table("Every point", _SWEEP_COLUMNS, rows, right=_SWEEP_RIGHT, folded=f"All {len(rows)} points"),
        *([ItemList(failed)] if failed else []),
    ]
    return Section(name, f"Sweep: {swept.name}", tuple(parts), labels=("random weights and calibration: latency only",))


def _sweep_row(row):
    layer = row.point.layer
    interval = "-" if row.low_us is None or row.high_us is None else f"{row.low_us:,.1f} to {row.high_us:,.1f}"
    return (
        f"{layer.size}x{layer.size}", f"{layer.cin:,}", f"{layer.cout:,}", f"{layer.kernel}x{layer.kernel}",
        row.point.scheme, str(row.point.threads), f"{layer.macs:,}", _format_number(row.us), interval,
        _format_number(row.kernel_us), _format_number(row.gmacs_per_s), f"{row.runs:,}",
    )  # fmt: skip


def _format_number(value):
    return "-" if value is None else f"{value:,.1f}"
