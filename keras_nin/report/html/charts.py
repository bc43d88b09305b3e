"""Charts of the page, in the colors of its theme: bars of HTML, and figures of matplotlib as SVG elements."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_nin import figures, plots
from keras_nin.benchmark import layer_times
from keras_nin.benchmark.records import Profile
from keras_nin.benchmark.roofline import LayerEfficiency
from keras_nin.edge.ethosu.records import EthosUResult
from keras_nin.formatting import format_count, format_percent, format_us
from keras_nin.plots import LayerStyle, latency

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST_LABELED = 0.08  # of the width of the chart: room for a percentage on a phone
_MOST_DIFFERENT = 12  # times as slow: beyond it, bars of one scale would be too short to have parts
_THEME = {
    **{figures.TEXT: "currentColor", figures.MUTED: "var(--muted)", figures.GRID: "var(--line)"},
    **{"#ffffff": "var(--ground)", "white": "var(--ground)"},
    **{style.color: f"var(--{style.key})" for style in plots.LAYER_STYLES},
}


@dataclass(frozen=True)
class Segment:
    """A part of a bar: its width as a share of the chart's, what it is, and its percentage where there is room."""

    style: LayerStyle
    width: float
    text: str
    label: str


@dataclass(frozen=True)
class StackedBar:
    """A bar of segments, with its name, a detail of the name, and the value that its length stands for."""

    name: str
    detail: str
    value: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class BarChart:
    """Bars with the styles that occur in them; with `is_relative`, each bar has the full width."""

    bars: tuple[StackedBar, ...]
    styles: tuple[LayerStyle, ...]
    is_relative: bool


def chart_times(named_profiles: Iterable[tuple[str, Profile]]) -> BarChart:
    """Return the time of each profile with layers, by 1x1 role and kind; with threads and machine where they differ."""
    chosen = [(name, profile) for name, profile in named_profiles if profile.layers]
    conditions = [f"{format_count(profile.threads, 'thread')}, {profile.host.get('cpu')}" for _, profile in chosen]
    rows = []
    for (name, profile), condition in zip(chosen, conditions, strict=True):
        parts = [(part.name, part.us, format_us(part.us)) for part in layer_times.sum_by_role(profile)]
        detail = condition if len(set(conditions)) > 1 else ""
        rows.append((name, detail, format_us(profile.total.median), parts))
    return _chart(rows)


def chart_shares(profile: Profile) -> BarChart:
    """Return where the time of a run goes, and below it where the MACs are."""
    subtotals = layer_times.sum_by_role(profile)
    times = [(part.name, part.us, format_us(part.us)) for part in subtotals]
    macs = [(part.name, float(part.macs), f"{part.macs:,} MACs") for part in subtotals]
    total = sum(part.macs for part in subtotals)
    rows = [("Time", "", format_us(profile.total.median), times), ("MACs", "", f"{total:,}", macs)]
    return _chart(rows if total else rows[:1], is_relative=True)


def chart_accelerators(result: EthosUResult) -> BarChart:
    """Return the time on each Ethos-U accelerator, by 1x1 role and kind."""
    rows = []
    for estimate in result.estimates:
        parts = [
            (part.group, 1e6 * part.cycles / estimate.clock_hz, f"{part.cycles:,} cycles")
            for part in estimate.subtotals
        ]
        on_cpu = f" + {format_count(len(estimate.cpu_layers), 'layer')} on the CPU" if estimate.cpu_layers else ""
        utilization = "" if estimate.utilization is None else f"{format_percent(estimate.utilization, 0)} utilization"
        rows.append((estimate.accelerator, utilization, f"{format_us(estimate.us)}{on_cpu}", parts))
    return _chart(rows)


def _chart(
    rows: Sequence[tuple[str, str, str, Sequence[tuple[str, float, str]]]], is_relative: bool | None = None
) -> BarChart:
    """Return a chart of rows (name, detail, value, parts), of parts (group, size, size as text).

    The overhead, which can be below zero, has no part then. `is_relative` is decided by the sizes where it is None.
    """
    totals = [sum(max(size, 0.0) for _, size, _ in parts) for *_, parts in rows]
    longest = max(totals, default=0.0)
    if is_relative is None:
        is_relative = bool(totals) and longest > _MOST_DIFFERENT * min(totals)
    bars = []
    for (name, detail, value, parts), total in zip(rows, totals, strict=True):
        scale = total if is_relative else longest
        segments = [
            _segment(group, size / scale, size / total, text) for group, size, text in parts if size > 0 and scale
        ]
        bars.append(StackedBar(name, detail, value, tuple(segments)))
    used = {segment.style for bar in bars for segment in bar.segments}
    return BarChart(tuple(bars), tuple(style for style in plots.LAYER_STYLES if style in used), is_relative)


def _segment(group: str, width: float, share: float, text: str) -> Segment:
    label = format_percent(share, 0) if width >= _LEAST_LABELED else ""
    return Segment(plots.group_style(group), width, f"{group}: {text}, {format_percent(share)}", label)


def ink(color: str) -> str:
    """Return black or white, whichever is easier to read on a color such as ``"#2171b5"``."""
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    luminance = sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


def plot_bare_roofline(profile: Profile, efficiencies: Sequence[LayerEfficiency]) -> "Figure":
    """Return the roofline without title, legends and conditions, which the page has as text."""
    with figures.new_figure(6.2, 4.2) as figure:
        latency.draw_roofline(figure.subplots(), profile, efficiencies)
    return figure


def themed_svg(figure: "Figure", id: str) -> str:
    """Return a figure as an SVG element in the colors of the page's theme, without a background.

    `id` is the prefix of the ids inside, which have to be unique in the page.
    """
    svg = figures.render_svg(figure)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<clipPath.*?</clipPath>", "", svg, flags=re.S)
    svg = re.sub(r' clip-path="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|href="#)', rf"\1{id}-", svg)
    svg = re.sub('#[0-9a-f]{6}(?=[;"])', lambda found: _THEME.get(found[0], found[0]), svg)
    head, _, content = svg.partition(">")
    size = head[head.index("viewBox=") :].split('"')[1]
    return f'<svg class="plot" viewBox="{size}" aria-hidden="true">{content}'
