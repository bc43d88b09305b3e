"""The picture of a sweep over accelerators: where the time goes on each."""

import io

from keras_nin.edge.ethosu.records import subtotals

# 1x1 roles in blues, the kinds that compute in warm colours, the rest in greys.
_COLOURS = {
    "1x1 reduce": "#08519c",
    "1x1 expand": "#3182bd",
    "1x1 mix": "#6baed6",
    "1x1 head": "#9ecae1",
    "1x1 projection": "#c6dbef",
    "spatial": "#e6550d",
    "depthwise": "#fd8d3c",
    "dense": "#fdae6b",
    "pool": "#969696",
}
_OTHER = "#d9d9d9"
_ROOM = 1.35  # for what stands at the end of the longest bar
_BAR_INCHES, _WIDTH_INCHES, _MARGIN_INCHES, _DPI = 0.42, 9.0, 1.5, 120


def png(sweep):
    """Return a PNG file, as bytes: a bar for each accelerator, its time in ms in parts by 1x1 role and kind.

    Operators left to the CPU have no time and no part; the bar's end says how many there are.

    Args:
        sweep: `keras_nin.edge.ethosu.Sweep`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(sweep.estimates)
    figure = Figure((_WIDTH_INCHES, _MARGIN_INCHES + _BAR_INCHES * count), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    _bars(axes, sweep)
    axes.set_yticks(range(count), [_label(estimate) for estimate in sweep.estimates])
    axes.invert_yaxis()
    axes.set_xlim(0, _ROOM * max(estimate.us for estimate in sweep.estimates) / 1000 or 1)
    axes.set_xlabel("ms a run, as Vela expects it, batch 1")
    # A name may hold what would be a formula.
    axes.set_title(sweep.file, parse_math=False)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()


def _bars(axes, sweep):
    parts = [{part.group: part.cycles for part in subtotals(estimate)} for estimate in sweep.estimates]
    found = dict.fromkeys(group for groups in parts for group, cycles in groups.items() if cycles)
    ordered = [*(group for group in _COLOURS if group in found), *(group for group in found if group not in _COLOURS)]
    starts = [0.0] * len(parts)
    for group in ordered:
        widths = [
            1000 * groups.get(group, 0) / estimate.clock_hz
            for groups, estimate in zip(parts, sweep.estimates, strict=True)
        ]
        axes.barh(range(len(parts)), widths, left=starts, label=group, color=_COLOURS.get(group, _OTHER))
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for place, (end, estimate) in enumerate(zip(starts, sweep.estimates, strict=True)):
        axes.text(end, place, f" {_end(estimate)}", va="center", fontsize="small")


def _end(estimate):
    on_cpu = len(estimate.left_to_cpu)
    used = "" if estimate.utilisation is None else f", {estimate.utilisation:.0%} of MACs used"
    return f"{estimate.us / 1000:,.2f}{used}{f', {on_cpu:,} on the CPU' if on_cpu else ''}"


def _label(estimate):
    return f"{estimate.accelerator}\n{estimate.clock_hz / 1e6:,.0f} MHz"
