"""A sweep as a picture: time against MACs for larger kernels, and the cost of channel counts beside a multiple of 8."""

import io

import numpy as np

from keras_nin import figures
from keras_nin.benchmark import sweep_results
from keras_nin.claims.equalities import SOFT_MASK_SEED

# Told apart without colours too: colour and marker for the scheme, filled for one thread.
_SCHEME_STYLES = {"float32": ("#1f77b4", "o"), "int8": ("#d95f02", "s")}
_REFERENCE_LINE = {"color": "#777777", "linewidth": 1, "linestyle": "--"}


def render_layer_sweep(rows, host):
    """Return a PNG file, as bytes, of `Row`s by point.

    On the left each layer with a kernel of 3x3 or larger against the same layer with 1x1: the ratio of their times over
    the MACs of the 1x1 layer, and dashed the ratio of their MACs. On the right the time for each channel of a layer
    whose number of channels is no multiple of 8, over that of the layer with the multiple beside it.

    Args:
        rows: `keras_nin.benchmark.sweep_results.SweepRow`s by their points.
        host: the machine's dictionary, for the title.
    """
    # Not pyplot, which would choose a window system and keep the figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_kernel_ratios(left, sweep_results.compute_kernel_ratios(rows))
    _draw_alignment_costs(right, sweep_results.compute_alignment_costs(rows))
    figure.suptitle(f"{host['cpu']}, {host['cores']} cores, LiteRT {host['litert']}", fontsize=10)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def _draw_kernel_ratios(axes, found):
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_title("Larger kernels against 1x1")
    axes.set_xlabel("MACs of the 1x1 layer")
    axes.set_ylabel("time over the time of 1x1 (inside the kernels)")
    if not found:
        _draw_placeholder(axes, "no layer with 1x1 beside a larger kernel")
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    for macs in sorted({each.macs for each in found}):
        axes.axhline(macs, **_REFERENCE_LINE)
        axes.annotate(f"MACs: {macs} times", (1, macs), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    for series, members in _group_by_series(found):
        xs = [each.point.layer.macs / each.macs for each in members]
        axes.plot(xs, [each.time or each.whole for each in members], **_marker_style(*series))
    low, high = (end(each.point.layer.macs / each.macs for each in found) for end in (min, max))
    axes.set_xlim(low / 3, high * 3)
    ratios = [each.time or each.whole for each in found]
    axes.set_ylim(min(1, *ratios) / 1.2, max([*ratios, *(each.macs for each in found)]) * 2.5)
    axes.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 3, 5, 9, 15, 25, 49, 100]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend()


def _draw_alignment_costs(axes, found):
    axes.set_title("Channel counts that are no multiple of 8")
    axes.set_ylabel("time for each channel, over that of the multiple of 8")
    if not found:
        _draw_placeholder(axes, "no layer with such a count beside its multiple of 8")
        return
    axes.axhline(1, **_REFERENCE_LINE)
    places = sorted({(each.axis, each.aligned, each.channels, each.point.layer.kernel) for each in found})
    for number, (series, members) in enumerate(_group_by_series(found)):
        xs = [places.index((each.axis, each.aligned, each.channels, each.point.layer.kernel)) for each in members]
        xs = [x + 0.12 * (number - 1) for x in xs]  # side by side
        axes.plot(xs, [each.cost for each in members], **_marker_style(*series))
    labels = [
        f"{channels} {'in' if axis == 'cin' else 'out'}\n{kernel}x{kernel}" for axis, _, channels, kernel in places
    ]
    axes.set_xticks(range(len(places)), labels)
    axes.set_ylim(0, 1.1 * max(1.2, *(each.cost for each in found)))
    axes.legend()


def _group_by_series(found):
    """Return [((scheme, threads), records)], sorted."""
    groups = {}
    for each in found:
        groups.setdefault((each.point.scheme, each.point.threads), []).append(each)
    return sorted(groups.items())


def _marker_style(scheme, threads):
    color, marker = _SCHEME_STYLES[scheme]
    return {
        "linestyle": "",
        "marker": marker,
        "color": color,
        "markerfacecolor": color if threads == 1 else "none",
        "alpha": 0.8,
        "label": f"{scheme}, {threads} thread{'s' if threads > 1 else ''}",
    }


def _draw_placeholder(axes, why):
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
    axes.set_axis_off()


# MERGED The picture of a sweep over accelerators: where the time goes on each.

# 1x1 roles in blues, the kinds that compute in warm colours, the rest in greys.
_GROUP_COLORS = {
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
_OTHER_COLOR = "#d9d9d9"
_RIGHT_MARGIN = 1.35  # for what stands at the end of the longest bar
_BAR_INCHES, _WIDTH_INCHES, _MARGIN_INCHES, _DPI = 0.42, 9.0, 1.5, 120


def render_ethosu_sweep(sweep):
    """Return a PNG file, as bytes: a bar for each accelerator, its time in ms in parts by 1x1 role and kind.

    Operators left to the CPU have no time and no part; the bar's end says how many there are.

    Args:
        sweep: `keras_nin.edge.ethosu.EthosUResult`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(sweep.estimates)
    figure = Figure((_WIDTH_INCHES, _MARGIN_INCHES + _BAR_INCHES * count), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    _draw_accelerator_bars(axes, sweep)
    axes.set_yticks(range(count), [_accelerator_label(estimate) for estimate in sweep.estimates])
    axes.invert_yaxis()
    axes.set_xlim(0, _RIGHT_MARGIN * max(estimate.us for estimate in sweep.estimates) / 1000 or 1)
    axes.set_xlabel("ms a run, as Vela expects it, batch 1")
    # A name may hold what would be a formula.
    axes.set_title(sweep.file, parse_math=False)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()


def _draw_accelerator_bars(axes, sweep):
    parts = [{part.group: part.cycles for part in estimate.subtotals} for estimate in sweep.estimates]
    found = dict.fromkeys(group for groups in parts for group, cycles in groups.items() if cycles)
    ordered = [
        *(group for group in _GROUP_COLORS if group in found),
        *(group for group in found if group not in _GROUP_COLORS),
    ]
    starts = [0.0] * len(parts)
    for group in ordered:
        widths = [
            1000 * groups.get(group, 0) / estimate.clock_hz
            for groups, estimate in zip(parts, sweep.estimates, strict=True)
        ]
        axes.barh(range(len(parts)), widths, left=starts, label=group, color=_GROUP_COLORS.get(group, _OTHER_COLOR))
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for place, (end, estimate) in enumerate(zip(starts, sweep.estimates, strict=True)):
        axes.text(end, place, f" {_bar_annotation(estimate)}", va="center", fontsize="small")


def _bar_annotation(estimate):
    on_cpu = len(estimate.cpu_layers)
    used = "" if estimate.utilization is None else f", {estimate.utilization:.0%} of MACs used"
    return f"{estimate.us / 1000:,.2f}{used}{f', {on_cpu:,} on the CPU' if on_cpu else ''}"


def _accelerator_label(estimate):
    return f"{estimate.accelerator}\n{estimate.clock_hz / 1e6:,.0f} MHz"


# MERGED The maps of the soft mask as a picture: what goes in, 32 maps with their weights, and the one map they add up to.

_MAP_COLUMNS = 8
_POSITIVE_COLOR, _NEGATIVE_COLOR = "#2171b5", "#b35806"
SOFT_MASK_NOTE = (
    f"The network is not trained: its weights are random (seed {SOFT_MASK_SEED}). What the mask lights up is chance; that one "
    "weighted sum pools 32 maps into one that can be looked at is not."
)


def render_soft_mask(seen):
    """Return the picture of `seen` (`keras_nin.claims.equalities.SoftMask`) as the bytes of a PNG file."""
    return figures.render_png(plot_soft_mask(seen))


def plot_soft_mask(seen):
    """Return the picture of `seen` as a matplotlib `Figure`.

    From left to right: the photograph and the network's input; the maps of the 3x3 layer, all on one scale of grey, in
    the order of their weights in the 1x1 layer, which stand above them; the mask on its own scale. Below: what the
    network was trained on.
    """
    order = np.argsort(-seen.weights, kind="stable")
    rows = -(-len(order) // _MAP_COLUMNS)
    with figures.figure_style():
        made = figures.new_figure(15, 5.6)
        inputs, middle, right = made.subfigures(1, 3, width_ratios=(2.2, 8.4, 4.2))
        _draw_inputs(inputs, seen)
        for axes, index in zip(middle.subplots(rows, _MAP_COLUMNS, squeeze=False).flat, order, strict=False):
            _draw_map(axes, seen.maps[..., index], seen.weights[index])
        for axes in middle.axes[len(order) :]:
            axes.set_axis_off()
        middle.suptitle(f"{len(order)} maps of the 3x3 layer (tanh, black -1, white 1) and their 1x1 weights")
        _draw_mask(right, seen)
        made.supxlabel(SOFT_MASK_NOTE, fontsize=11, color=figures.TEXT)
    return made


def _draw_inputs(part, seen):
    height, width, _ = seen.image.shape
    top, below = part.subplots(2, 1)
    _draw_image(top, seen.photograph, f"photograph:\n{figures.shorten(seen.name, 30)}", 9)
    _draw_image(below, seen.image, f"input, {height}x{width}x3", 9)


def _draw_map(axes, values, weight):
    _draw_image(axes, values, f"{weight:+.3f}", 11, cmap="gray", vmin=-1, vmax=1)
    axes.title.set_color(_POSITIVE_COLOR if weight > 0 else _NEGATIVE_COLOR)


def _draw_mask(part, seen):
    axes = part.subplots()
    shown = _draw_image(axes, seen.mask, "", 11, cmap="gray")
    part.colorbar(shown, ax=axes, location="bottom", shrink=0.8, aspect=30, pad=0.02)
    sign = "-" if seen.bias < 0 else "+"
    part.suptitle(f"mask = sigmoid(sum of weight x map {sign} {abs(seen.bias):.3f})")


def _draw_image(axes, pixels, title, size, **options):
    axes.set_axis_off()
    axes.set_title(title, fontsize=size, loc="center", weight="normal", pad=3)
    return axes.imshow(pixels, interpolation="nearest", **options)
