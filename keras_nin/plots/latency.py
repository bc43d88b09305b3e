"""Pictures of a profile: the time of its layers, and of the 1x1 layers by role. Functions from records to figures."""

import itertools
import math
import textwrap

from keras_nin import figures, plots
from keras_nin import plots as plots_module
from keras_nin.benchmark import layer_times
from keras_nin.benchmark.roofline import compute_efficiency
from keras_nin.report.accuracy import format_percent, format_time
from keras_nin.report.latency import conditions_line

_MAX_BAR_NAME = 34
_BAR_INCHES = 0.19


def plot_layer_times(profile):
    """Return a `Figure` with a bar for the time of each layer, in order of execution, coloured by kind and 1x1 role.

    It grows with the layers, 0.19 inches each.

    Args:
        profile: `keras_nin.benchmark.Profile`; a layer without a time has no bar.
    """
    bars = [(layer.name, plots.layer_style(layer.kind, layer.role), layer.us) for layer in profile.layers]
    bars = [(name, look, 0.0 if us is None else us.typical, us is not None) for name, look, us in bars]
    if profile.overhead_us is not None:
        bars.append((plots.OVERHEAD_STYLE.label, plots.OVERHEAD_STYLE, profile.overhead_us, True))
    with figures.figure_style():
        made = figures.new_figure(7, 1.7 + _BAR_INCHES * len(bars))
        axes = made.subplots()
        _draw_bars(axes, bars)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlabel("us (typical)")
        axes.margins(x=0.12)
        _add_heading(made, f"{profile.file}: time of each layer", profile)
        looks = plots.used_styles(profile.layers)
        if profile.overhead_us is not None:
            looks.append(plots.OVERHEAD_STYLE)
        axes.legend(
            handles=[_legend_patch(look) for look in looks], loc="lower left", bbox_to_anchor=(0, 1), ncols=4, handlelength=1,
            borderaxespad=0.2,
        )  # fmt: skip
    return made


def _draw_bars(axes, bars):
    places = range(len(bars))
    axes.barh(places, [us for _, _, us, _ in bars], color=[look.colour for _, look, _, _ in bars], height=0.72)
    axes.set_yticks(places, [figures.shorten(name, _MAX_BAR_NAME) for name, *_ in bars], fontsize=8)
    axes.tick_params(axis="y", length=0)
    for place, (_, _, us, known) in enumerate(bars):
        text = f" {us:,.1f}" if known else " no time"
        axes.text(max(us, 0), place, text, va="center", fontsize=7.5, color=figures.MUTED)
    axes.xaxis.grid(True)


def plot_kind_shares(profile):
    """Return a `Figure` of what each kind, 1x1 by role, takes of the time and of the MACs.

    Args:
        profile: `keras_nin.benchmark.Profile` with layers.
    """
    groups = layer_times.sum_by_role(profile)
    macs = sum(group.macs for group in groups)
    with figures.figure_style():
        made = figures.new_figure(figures.NARROW, 1.5 + 0.46 * len(groups))
        axes = made.subplots()
        for place, group in enumerate(groups):
            of_macs = group.macs / macs if macs else 0.0
            for offset, share, alpha in ((-0.19, group.share, 1.0), (0.19, of_macs, 0.45)):
                colour = plots.group_style(group.name).colour
                axes.barh(place + offset, 100 * share, height=0.36, color=colour, alpha=alpha)
                if share or alpha == 1.0:
                    axes.text(
                        100 * max(share, 0), place + offset, f" {format_percent(share)}", va="center", fontsize=8.5
                    )
        axes.set_yticks(range(len(groups)), [group.name for group in groups])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_xlabel("% of the run (solid), % of the MACs (pale)")
        axes.margins(x=0.15)
        axes.xaxis.grid(True)
        _add_heading(made, "Time and MACs by kind", profile)
    return made


def _add_heading(made, title, profile):
    """Put a title above a figure, and below it the line without which no latency is shown."""
    width = int(made.get_figwidth() * 15)
    made.suptitle(figures.shorten(title, int(made.get_figwidth() * 9)), x=0.01, ha="left", fontsize=12, weight="bold")
    total = profile.total
    line = f"Whole run: {format_time(total.median)}. {conditions_line(profile)}"
    made.supxlabel(textwrap.fill(figures.shorten(line, 400), width), x=0.01, ha="left", fontsize=8, color=figures.MUTED)


def _legend_patch(look):
    from matplotlib.patches import Patch

    return Patch(color=look.colour, label=look.label)


# MERGED The picture of a roofline: what the machine can do, and how near each layer comes.

_NUMBERED_LAYERS = 5
_MAX_LEGEND_NAME = 24


def plot_roofline(profile):
    """Return a `Figure` of the layers below the roofs of their machine, 1x1 marked by role; None without such layers.

    Both axes are logarithmic. The area of a mark grows with the layer's time; those that take longest are numbered.

    Args:
        profile: `keras_nin.benchmark.Profile` with peaks.
    """
    points = compute_efficiency(profile)
    if not points:
        return None
    with figures.figure_style():
        made = figures.new_figure(figures.NARROW, 5.9)
        axes = made.subplots()
        axes.set(xscale="log", yscale="log", xlabel="MACs per byte moved", ylabel="GMAC/s")
        _draw_points(axes, points)
        _draw_roofs(axes, [peak for peak in profile.peaks if peak.dtype in {point.layer.dtype for point in points}])
        _format_log_ticks(axes)
        _draw_numbers(axes, points)
        axes.grid(True)
        _add_heading(made, "Layers on the roofline", profile)
        _draw_legends(axes, points)
    return made


def _draw_points(axes, points):
    for point in points:
        layer = point.layer
        look = plots_module.layer_style(layer.kind, layer.role)
        axes.scatter(
            point.intensity, _gmacs_per_s(point), s=25 + 500 * layer.share, marker=look.marker, color=look.colour,
            edgecolors="white", linewidths=0.6, zorder=3,
        )  # fmt: skip


def _draw_numbers(axes, points):
    """Number the layers that take longest, a number above another where their marks are close."""
    width, height = (math.log(high / low) for low, high in (axes.get_xlim(), axes.get_ylim()))
    drawn = []
    for number, point in enumerate(_slowest_layers(points), 1):
        x, y = math.log(point.intensity) / width, math.log(_gmacs_per_s(point)) / height
        level = sum(abs(x - other[0]) < 0.04 and abs(y - other[1]) < 0.12 for other in drawn)
        drawn.append((x, y))
        axes.annotate(
            str(number), (point.intensity, _gmacs_per_s(point)), (0, 8 + 11 * level), textcoords="offset points",
            ha="center", fontsize=9, weight="bold", zorder=4,
        )  # fmt: skip


def _draw_roofs(axes, peaks):
    """Draw the roof of each peak from edge to edge, its ridge in view, with room above the highest."""
    ridges = [peak.gmacs_per_s / peak.gbytes_per_s for peak in peaks]
    left, right = min(axes.get_xlim()[0], *(ridge / 3 for ridge in ridges)), max(axes.get_xlim()[1], 2 * max(ridges))
    low, high = axes.get_ylim()
    for peak, ridge, dash in zip(peaks, ridges, itertools.cycle(("-", "--", ":"))):
        ys = (left * peak.gbytes_per_s, peak.gmacs_per_s, peak.gmacs_per_s)
        axes.plot((left, ridge, right), ys, dash, color=figures.TEXT, lw=1.4)
        label = f"{peak.dtype}: {peak.gmacs_per_s:,.3g} GMAC/s, {peak.gbytes_per_s:,.3g} GB/s"
        axes.annotate(label, (right, peak.gmacs_per_s), (0, 3), textcoords="offset points", ha="right", fontsize=8.5)
    axes.set_xlim(left, right)
    axes.set_ylim(low, 1.6 * max(high / 1.2, *(peak.gmacs_per_s for peak in peaks)))


def _format_log_ticks(axes):
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_formatter(NullFormatter())


def _gmacs_per_s(point):
    return point.layer.macs / point.layer.us.typical / 1000


def _slowest_layers(points):
    return sorted(points, key=lambda point: -point.layer.us.typical)[:_NUMBERED_LAYERS]


def _draw_legends(axes, points):
    """Draw below the axes what the marks mean, and beside it the names of the numbered layers."""
    from matplotlib.lines import Line2D

    looks = plots_module.used_styles(point.layer for point in points)
    marks = [Line2D([], [], ls="none", marker=each.marker, ms=8, color=each.colour, label=each.label) for each in looks]
    names = [
        f"{number}  {figures.shorten(point.layer.name, _MAX_LEGEND_NAME)}, {format_percent(point.layer.share)}"
        for number, point in enumerate(_slowest_layers(points), 1)
    ]
    key = [Line2D([], [], ls="none", label=name) for name in names]
    common = {"loc": "upper left", "borderaxespad": 0, "handletextpad": 0.4}
    axes.add_artist(axes.legend(handles=marks, bbox_to_anchor=(-0.12, -0.14), **common))
    axes.legend(handles=key, bbox_to_anchor=(0.25, -0.14), handlelength=0, **common)
