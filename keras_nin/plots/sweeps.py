"""Figures of sweeps over layer shapes and over Ethos-U accelerators, and of the soft mask's maps."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin import figures, plots
from keras_nin.formatting import format_count, format_host, format_percent, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from keras_nin.benchmark.sweep_results import AlignmentCost, KernelRatio
    from keras_nin.claims.equalities import SoftMask
    from keras_nin.edge.ethosu.records import EthosUEstimate, EthosUResult


# Color and marker by scheme, filled for one thread: distinct without color, too.
_SCHEME_STYLES = {"float32": ("#1f77b4", "o"), "int8": ("#d95f02", "s")}
_REFERENCE_LINE = {"color": "#777777", "linewidth": 1, "linestyle": "--"}
_RATIO_TICKS = (0.5, 1, 2, 3, 5, 9, 15, 25, 49, 100)
_BAR_INCHES, _RIGHT_MARGIN = 0.42, 1.35  # the margin leaves room for the text at the end of the longest bar
_MAP_COLUMNS = 8
_POSITIVE_COLOR, _NEGATIVE_COLOR = "#2171b5", "#b35806"


def plot_layer_sweep(
    kernel_ratios: "Sequence[KernelRatio]", alignment_costs: "Sequence[AlignmentCost]", host: Mapping[str, Any]
) -> "Figure":
    """Return a figure of a sweep over layer shapes.

    Left: each layer with a kernel of 3x3 or larger, its time relative to the same layer with 1x1, over the MACs of the
    1x1 layer; dashed, the ratio of the MACs. Right: time per channel of layers whose number of channels is not a
    multiple of 8, relative to the layer with the next multiple. Both come from `keras_nin.benchmark.sweep_results`.
    """
    with figures.new_figure(12, 5) as figure:
        left, right = figure.subplots(1, 2)
        _draw_kernel_ratios(left, kernel_ratios)
        _draw_alignment_costs(right, alignment_costs)
        figure.suptitle(format_host(host), fontsize=10)
        handles = {
            label: handle
            for axes in (left, right)
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        if handles:
            figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=len(handles))
    return figure


def _draw_kernel_ratios(axes: "Axes", kernel_ratios: "Sequence[KernelRatio]") -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set(title="Larger kernels relative to 1x1", xlabel="MACs of the 1x1 layer")
    axes.set_ylabel("time relative to 1x1 (inside the kernels)")
    if not kernel_ratios:
        _draw_placeholder(axes, "no layer was measured with 1x1 and a larger kernel")
        return
    axes.set(xscale="log", yscale="log")
    for macs in sorted({ratio.macs for ratio in kernel_ratios}):
        axes.axhline(macs, **_REFERENCE_LINE)
        axes.annotate(f"MACs: {macs} times", (1, macs), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    for series, members in _group_by_series(kernel_ratios):
        macs_1x1 = [ratio.point.layer.macs / ratio.macs for ratio in members]
        axes.plot(macs_1x1, [ratio.time or ratio.whole for ratio in members], **_marker_style(*series))
    macs_1x1 = [ratio.point.layer.macs / ratio.macs for ratio in kernel_ratios]
    times = [ratio.time or ratio.whole for ratio in kernel_ratios]
    highest = max([*times, *(ratio.macs for ratio in kernel_ratios)])
    axes.set(xlim=(min(macs_1x1) / 3, max(macs_1x1) * 3), ylim=(min(1, *times) / 1.2, highest * 2.5))
    axes.yaxis.set_major_locator(FixedLocator(_RATIO_TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _draw_alignment_costs(axes: "Axes", alignment_costs: "Sequence[AlignmentCost]") -> None:
    axes.set_title("Channel counts that are not a multiple of 8")
    axes.set_ylabel("time per channel relative to the multiple of 8")
    if not alignment_costs:
        _draw_placeholder(axes, "no such channel count was measured with its multiple of 8")
        return
    axes.axhline(1, **_REFERENCE_LINE)
    positions = sorted({_alignment_key(cost) for cost in alignment_costs})
    for number, (series, members) in enumerate(_group_by_series(alignment_costs)):
        side_by_side = [positions.index(_alignment_key(cost)) + 0.12 * (number - 1) for cost in members]
        axes.plot(side_by_side, [cost.cost for cost in members], **_marker_style(*series))
    labels = [
        f"{channels} {'in' if axis == 'cin' else 'out'}\n{kernel}x{kernel}" for axis, _, channels, kernel in positions
    ]
    axes.set_xticks(range(len(positions)), labels)
    axes.set_ylim(0, 1.1 * max(1.2, *(cost.cost for cost in alignment_costs)))


def _alignment_key(cost: "AlignmentCost") -> tuple[str, int, int, int]:
    return cost.axis, cost.aligned, cost.channels, cost.point.layer.kernel


def _group_by_series(measured: "Iterable[KernelRatio | AlignmentCost]") -> list[tuple[tuple[str, int], list[Any]]]:
    """Return what was measured by scheme and threads, sorted."""
    groups: dict[tuple[str, int], list[Any]] = {}
    for item in measured:
        groups.setdefault((item.point.scheme, item.point.threads), []).append(item)
    return sorted(groups.items(), key=lambda group: group[0])


def _marker_style(scheme: str, threads: int) -> dict[str, Any]:
    color, marker = _SCHEME_STYLES[scheme]
    look = {"linestyle": "", "marker": marker, "color": color, "alpha": 0.8}
    filling = color if threads == 1 else "none"
    return look | {"markerfacecolor": filling, "label": f"{scheme}, {format_count(threads, 'thread')}"}


def _draw_placeholder(axes: "Axes", reason: str) -> None:
    axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes)
    axes.set_axis_off()


def plot_accelerators(result: "EthosUResult") -> "Figure":
    """Return a figure with a bar for each Ethos-U accelerator: its time in ms, split by 1x1 role and kind.

    Operators that run on the CPU have no time in it; the text at the bar's end has their number.
    """
    estimates = result.estimates
    with figures.new_figure(9, 1.5 + _BAR_INCHES * len(estimates)) as figure:
        axes = figure.subplots()
        _draw_accelerator_bars(axes, estimates)
        labels = [f"{estimate.accelerator}\n{estimate.clock_hz / 1e6:,.0f} MHz" for estimate in estimates]
        axes.set_yticks(range(len(estimates)), labels)
        axes.invert_yaxis()
        axes.set(
            title=printable(result.file, 80), xlabel=f"ms per run, estimated by Vela, batch {result.estimates[0].batch}"
        )
        axes.set_xlim(0, _RIGHT_MARGIN * max(estimate.us for estimate in estimates) / 1000 or 1)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _draw_accelerator_bars(axes: "Axes", estimates: "Sequence[EthosUEstimate]") -> None:
    times = [{part.group: 1e3 * part.cycles / result.clock_hz for part in result.subtotals} for result in estimates]
    labels = [style.label for style in plots.LAYER_STYLES]
    groups = {group for by_group in times for group, time in by_group.items() if time}
    starts = [0.0] * len(estimates)
    for group in sorted(groups, key=lambda group: (labels.index(group) if group in labels else len(labels), group)):
        widths = [by_group.get(group, 0.0) for by_group in times]
        axes.barh(range(len(estimates)), widths, left=starts, label=group, color=plots.group_style(group).color)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for position, (end, estimate) in enumerate(zip(starts, estimates, strict=True)):
        utilization = "" if estimate.utilization is None else f", {format_percent(estimate.utilization, 0)} utilization"
        on_cpu = f", {len(estimate.cpu_layers):,} on the CPU" if estimate.cpu_layers else ""
        text = f" {estimate.us / 1000:,.2f}{utilization}{on_cpu}"
        axes.text(end, position, text, va="center", fontsize="small")


def plot_soft_mask(soft_mask: "SoftMask") -> "Figure":
    """Return a figure of a soft mask, from the photograph to the projected map.

    From left to right: the photograph and the network's input; the maps of the 3x3 layer on one gray scale, in the
    order of their weights in the 1x1 layer, which are above them; the mask on its own scale.
    """
    order = np.argsort(-soft_mask.weights, kind="stable")
    height, width, _ = soft_mask.image.shape
    with figures.new_figure(15, 5.6) as figure:
        parts: Any = figure.subfigures(1, 3, width_ratios=(2.2, 8.4, 4.2))
        left, middle, right = parts
        top, below = left.subplots(2, 1)
        _draw_image(top, soft_mask.photograph, f"photograph:\n{printable(soft_mask.name, 30)}", 9)
        _draw_image(below, soft_mask.image, f"input, {height}x{width}x3", 9)
        cells = list(middle.subplots(-(-len(order) // _MAP_COLUMNS), _MAP_COLUMNS, squeeze=False).flat)
        for axes in cells[len(order) :]:
            axes.set_axis_off()
        for axes, index in zip(cells, order, strict=False):
            weight = float(soft_mask.weights[index])
            _draw_image(axes, soft_mask.maps[..., index], f"{weight:+.3f}", 11, cmap="gray", vmin=-1, vmax=1)
            axes.title.set_color(_POSITIVE_COLOR if weight > 0 else _NEGATIVE_COLOR)
        middle.suptitle(f"{len(order)} maps of the 3x3 layer (tanh, black -1, white 1) and their 1x1 weights")
        axes = right.subplots()
        image = _draw_image(axes, soft_mask.mask, "", 11, cmap="gray")
        right.colorbar(image, ax=axes, location="bottom", shrink=0.8, aspect=30, pad=0.02)
        sign = "-" if soft_mask.bias < 0 else "+"
        right.suptitle(f"mask = sigmoid(sum of weight x map {sign} {abs(soft_mask.bias):.3f})")
        note = (
            f"The network is not trained: its weights are random (seed {soft_mask.seed}). Where the mask is bright is "
            "chance; that one weighted sum pools 32 maps into one that can be viewed is not."
        )
        if soft_mask.skin_auc is not None:
            share = format_percent(soft_mask.skin_auc)
            note = (
                f"Trained here, for {soft_mask.steps} steps (seed {soft_mask.seed}), to find a pulse in synthetic "
                "frames of skin on a flickering background, without being told where skin is. In frames that it was "
                f"not trained on, a pixel of skin has a larger mask than one of the background in {share} of all "
                "pairs. On a photograph the mask is bright where the colors are those of skin."
            )
        figure.supxlabel(textwrap.fill(note, 200), fontsize=11, color=figures.TEXT)
    return figure


def _draw_image(axes: "Axes", pixels: np.ndarray, title: str, size: int, **options: Any) -> "AxesImage":
    axes.set_axis_off()
    axes.set_title(title, fontsize=size, loc="center", weight="normal", pad=3)
    return axes.imshow(pixels, interpolation="nearest", **options)
