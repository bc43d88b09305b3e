"""Figures of a profile and of an audit: times of layers, shares of kinds and 1x1 roles, and the roofline."""

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_nin import figures, plots
from keras_nin.formatting import format_conditions, format_percent, format_us, printable

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_nin.audit.api import Audit
    from keras_nin.benchmark.layer_times import LatencySubtotal
    from keras_nin.benchmark.records import MachinePeak, Profile
    from keras_nin.benchmark.roofline import LayerEfficiency

_MAX_BAR_NAME, _MAX_LEGEND_NAME, _MAX_HEADING, _WIDTH = 34, 34, 400, 6.4
_BAR_INCHES, _NUMBERED_LAYERS = 0.19, 5


def plot_layer_times(profile: "Profile") -> "Figure":
    """Return a figure with a bar for each layer in order of execution, colored by kind and 1x1 role."""
    from matplotlib.patches import Patch

    bars = [
        (layer.name, plots.layer_style(layer.kind, layer.role), None if layer.us is None else layer.us.typical)
        for layer in profile.layers
    ]
    styles = plots.used_styles(profile.layers)
    if profile.overhead_us is not None:
        bars.append((plots.OVERHEAD_STYLE.label, plots.OVERHEAD_STYLE, profile.overhead_us))
        styles.append(plots.OVERHEAD_STYLE)
    with figures.new_figure(7, 1.7 + _BAR_INCHES * len(bars)) as figure:
        axes = figure.subplots()
        widths = [us or 0.0 for *_, us in bars]
        axes.barh(range(len(bars)), widths, color=[style.color for _, style, _ in bars], height=0.72)
        axes.set_yticks(range(len(bars)), [printable(name, _MAX_BAR_NAME) for name, *_ in bars], fontsize=8)
        axes.tick_params(axis="y", length=0)
        for position, (*_, us) in enumerate(bars):
            text = " not measured" if us is None else f" {us:,.1f}"
            axes.text(max(us or 0.0, 0.0), position, text, va="center", fontsize=7.5, color=figures.MUTED)
        axes.xaxis.grid(True)
        axes.set(ylim=(len(bars) - 0.4, -0.6), xlabel="us (typical)")
        axes.margins(x=0.12)
        _add_heading(figure, f"{profile.file}: time of each layer", _describe_run(profile))
        patches = [Patch(color=style.color, label=style.label) for style in styles]
        _add_legend(axes, patches, 4)
    return figure


def plot_kind_shares(profile: "Profile", subtotals: "Sequence[LatencySubtotal]") -> "Figure":
    """Return a figure of the share of each kind, 1x1 by role, of the time and of the MACs; see `sum_by_role`."""
    macs = sum(subtotal.macs for subtotal in subtotals)
    shares = [(subtotal.name, subtotal.share, subtotal.macs / macs if macs else 0.0) for subtotal in subtotals]
    label = "% of the run (solid), % of the MACs (pale)"
    return _draw_shares(shares, label, "Time and MACs by kind", _describe_run(profile))


def plot_cost_shares(audit: "Audit") -> "Figure":
    """Return a figure of the share of each kind, 1x1 by role, of the parameters and of the MACs."""
    total, shares = audit.total, []
    for style in plots.used_styles(audit.rows):
        rows = [row for row in audit.rows if plots.layer_style(row.kind, row.role) == style]
        params, macs = sum(row.params for row in rows), sum(row.macs or 0 for row in rows)
        if params or macs:
            shares.append((style.label, params / max(total.params, 1), macs / max(total.macs, 1)))
    least = "at least " if total.macs_unknown else ""
    label = f"% of the params (solid), % of the {'known ' if total.macs_unknown else ''}MACs (pale)"
    return _draw_shares(shares, label, audit.model, f"Total: {total.params:,} params, {least}{total.macs:,} MACs")


def _draw_shares(shares: Sequence[tuple[str, float, float]], label: str, title: str, foot: str) -> "Figure":
    """Return a figure with two bars, solid and pale, for the shares of each group of layers."""
    with figures.new_figure(_WIDTH, 1.5 + 0.46 * len(shares)) as figure:
        axes = figure.subplots()
        for position, (name, *pair) in enumerate(shares):
            color = plots.group_style(name).color
            for offset, share, alpha in zip((-0.19, 0.19), pair, (1.0, 0.45), strict=True):
                axes.barh(position + offset, 100 * share, height=0.36, color=color, alpha=alpha)
                if share or alpha == 1.0:
                    text = f" {format_percent(share)}"
                    axes.text(100 * max(share, 0), position + offset, text, va="center", fontsize=8.5)
        axes.set_yticks(range(len(shares)), [printable(name, _MAX_BAR_NAME) for name, *_ in shares])
        axes.tick_params(axis="y", length=0)
        axes.set(ylim=(len(shares) - 0.4, -0.6), xlabel=label)
        axes.margins(x=0.15)
        axes.xaxis.grid(True)
        _add_heading(figure, title, foot)
    return figure


def plot_roofline(profile: "Profile", efficiencies: "Sequence[LayerEfficiency]") -> "Figure":
    """Return a figure of the layers below the roofs of their machine, 1x1 layers marked by role; both axes logarithmic.

    The area of a marker grows with the layer's time; the slowest layers are numbered. `efficiencies`, at least one, are
    those that `keras_nin.benchmark.roofline.compute_efficiency` returns.
    """
    from matplotlib.lines import Line2D

    markers = [
        Line2D([], [], ls="none", marker=style.marker, ms=8, color=style.color, label=style.label)
        for style in plots.used_styles(efficiency.layer for efficiency in efficiencies)
    ]
    with figures.new_figure(_WIDTH, 5.4) as figure:
        axes = figure.subplots()
        draw_roofline(axes, profile, efficiencies)
        names = ", ".join(
            f"{number} {printable(efficiency.layer.name, _MAX_LEGEND_NAME)} {format_percent(efficiency.layer.share)}"
            for number, efficiency in enumerate(slowest_layers(efficiencies), 1)
        )
        _add_heading(figure, "Layers on the roofline", f"Slowest: {names}. {_describe_run(profile)}")
        _add_legend(axes, markers, 3)
    return figure


def draw_roofline(axes: "Axes", profile: "Profile", efficiencies: "Sequence[LayerEfficiency]") -> None:
    """Draw a roofline on empty axes, as in `plot_roofline`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    dtypes = {efficiency.layer.dtype for efficiency in efficiencies}
    axes.set(xscale="log", yscale="log", xlabel="MACs per byte moved", ylabel="GMAC/s")
    for efficiency in efficiencies:
        layer = efficiency.layer
        style = plots.layer_style(layer.kind, layer.role)
        look = {"marker": style.marker, "color": style.color, "edgecolors": "white", "linewidths": 0.6, "zorder": 3}
        size = 25 + 500 * (layer.share or 0.0)
        axes.scatter(efficiency.intensity, efficiency.gmacs_per_s, s=size, **look)
    _draw_roofs(axes, [peak for peak in profile.peaks if peak.dtype in dtypes])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_formatter(NullFormatter())
    _draw_numbers(axes, slowest_layers(efficiencies))
    axes.grid(True)


def slowest_layers(efficiencies: "Sequence[LayerEfficiency]") -> "list[LayerEfficiency]":
    """Return the layers that a roofline numbers, the slowest first."""
    return sorted(efficiencies, key=lambda efficiency: -(efficiency.layer.share or 0.0))[:_NUMBERED_LAYERS]


def _draw_numbers(axes: "Axes", slowest: "Sequence[LayerEfficiency]") -> None:
    """Number the slowest layers, one number above another where their markers are close."""
    width, height = (math.log(high / low) for low, high in (axes.get_xlim(), axes.get_ylim()))
    drawn: list[tuple[float, float]] = []
    for number, efficiency in enumerate(slowest, 1):
        point = (efficiency.intensity, efficiency.gmacs_per_s)
        x, y = math.log(point[0]) / width, math.log(point[1]) / height
        level = sum(abs(x - other[0]) < 0.04 and abs(y - other[1]) < 0.12 for other in drawn)
        drawn.append((x, y))
        look = {"ha": "center", "fontsize": 9, "weight": "bold", "zorder": 4}
        axes.annotate(str(number), point, (0, 8 + 11 * level), textcoords="offset points", **look)


def _draw_roofs(axes: "Axes", peaks: "Sequence[MachinePeak]") -> None:
    """Draw the roof of each peak from edge to edge, its ridge in view, with room above the highest."""
    ridges = [peak.gmacs_per_s / peak.gbytes_per_s for peak in peaks]
    left, right = min(axes.get_xlim()[0], *(ridge / 3 for ridge in ridges)), max(axes.get_xlim()[1], 2 * max(ridges))
    low, high = axes.get_ylim()
    for peak, ridge, dash in zip(peaks, ridges, itertools.cycle(("-", "--", ":"))):
        roof = (left * peak.gbytes_per_s, peak.gmacs_per_s, peak.gmacs_per_s)
        axes.plot((left, ridge, right), roof, dash, color=figures.TEXT, lw=1.4)
        label = f"{printable(peak.dtype, 20)}: {peak.gmacs_per_s:,.3g} GMAC/s, {peak.gbytes_per_s:,.3g} GB/s"
        axes.annotate(label, (right, peak.gmacs_per_s), (0, 3), textcoords="offset points", ha="right", fontsize=8.5)
    axes.set_xlim(left, right)
    axes.set_ylim(low, 1.6 * max(high / 1.2, *(peak.gmacs_per_s for peak in peaks)))


def _add_legend(axes: "Axes", handles: "Sequence[Artist]", columns: int) -> None:
    """Add a legend above the axes, from the left edge of the figure on: names of layers can take much of its width."""
    from matplotlib.transforms import blended_transform_factory

    transform = blended_transform_factory(axes.figure.transFigure, axes.transAxes)
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.01, 1), bbox_transform=transform, ncols=columns,
        handlelength=1, borderaxespad=0.2,
    )  # fmt: skip


def _add_heading(figure: "Figure", title: str, foot: str) -> None:
    """Add a title above a figure, and a line below it, which is folded."""
    width = int(figure.get_figwidth() * 15)
    figure.suptitle(printable(title, int(figure.get_figwidth() * 9)), x=0.01, ha="left", fontsize=12, weight="bold")
    foot = textwrap.fill(printable(foot, _MAX_HEADING), width)
    figure.supxlabel(foot, x=0.01, ha="left", fontsize=8, color=figures.MUTED)


def _describe_run(profile: "Profile") -> str:
    conditions = format_conditions(profile.host, profile.threads, profile.runs, profile.batch)
    return f"Whole run: {format_us(profile.total.median)}. {conditions}"
