"""The picture of a roofline: what the machine can do, and how near each layer comes."""

import itertools
import math

from keras_nin import figures
from keras_nin.benchmark.roofline import place
from keras_nin.report import palette, plots
from keras_nin.report.parity import percent

_LABELLED = 5
_NAME_LENGTH = 24


def roofline(profile):
    """Return a `Figure` of the layers below the roofs of their machine, 1x1 marked by role; None without such layers.

    Both axes are logarithmic. The area of a mark grows with the layer's time; those that take longest are numbered.

    Args:
        profile: `keras_nin.benchmark.Profile` with peaks.
    """
    points = place(profile)
    if not points:
        return None
    with figures.styled():
        made = figures.figure(figures.NARROW, 5.9)
        axes = made.subplots()
        axes.set(xscale="log", yscale="log", xlabel="MACs per byte moved", ylabel="GMAC/s")
        _draw_points(axes, points)
        _draw_roofs(axes, [peak for peak in profile.peaks if peak.dtype in {point.layer.dtype for point in points}])
        _plain_numbers(axes)
        _draw_numbers(axes, points)
        axes.grid(True)
        plots.heading(made, "Layers on the roofline", profile)
        _draw_legends(axes, points)
    return made


def _draw_points(axes, points):
    for point in points:
        layer = point.layer
        look = palette.look(layer.kind, layer.role)
        axes.scatter(
            point.intensity, _speed(point), s=25 + 500 * layer.share, marker=look.marker, color=look.colour,
            edgecolors="white", linewidths=0.6, zorder=3,
        )  # fmt: skip


def _draw_numbers(axes, points):
    """Number the layers that take longest, a number above another where their marks are close."""
    width, height = (math.log(high / low) for low, high in (axes.get_xlim(), axes.get_ylim()))
    drawn = []
    for number, point in enumerate(_largest(points), 1):
        x, y = math.log(point.intensity) / width, math.log(_speed(point)) / height
        level = sum(abs(x - other[0]) < 0.04 and abs(y - other[1]) < 0.12 for other in drawn)
        drawn.append((x, y))
        axes.annotate(
            str(number), (point.intensity, _speed(point)), (0, 8 + 11 * level), textcoords="offset points",
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


def _plain_numbers(axes):
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_formatter(NullFormatter())


def _speed(point):
    return point.layer.macs / point.layer.us.typical / 1000


def _largest(points):
    return sorted(points, key=lambda point: -point.layer.us.typical)[:_LABELLED]


def _draw_legends(axes, points):
    """Draw below the axes what the marks mean, and beside it the names of the numbered layers."""
    from matplotlib.lines import Line2D

    looks = palette.legend(point.layer for point in points)
    marks = [Line2D([], [], ls="none", marker=each.marker, ms=8, color=each.colour, label=each.label) for each in looks]
    names = [
        f"{number}  {figures.shortened(point.layer.name, _NAME_LENGTH)}, {percent(point.layer.share)}"
        for number, point in enumerate(_largest(points), 1)
    ]
    key = [Line2D([], [], ls="none", label=name) for name in names]
    common = {"loc": "upper left", "borderaxespad": 0, "handletextpad": 0.4}
    axes.add_artist(axes.legend(handles=marks, bbox_to_anchor=(-0.12, -0.14), **common))
    axes.legend(handles=key, bbox_to_anchor=(0.25, -0.14), handlelength=0, **common)
