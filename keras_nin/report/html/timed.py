"""The section of a latency: whole runs, kinds and roles, blocks, every layer, the roofline."""

import collections

from keras_nin.audit.render import size
from keras_nin.benchmark import subtotals
from keras_nin.benchmark.roofline import place
from keras_nin.report import palette, plots, roofline_plot
from keras_nin.report.conditions import conditions, method
from keras_nin.report.html.parts import Bar, Bars, Line, Section, picture, table
from keras_nin.report.parity import microseconds, percent

_STATISTICS = ("median", "95 % interval", "mean", "p10", "p90", "p99", "fastest", "load", "first run", "peak memory")
_GROUP = ("rows", "time", "share", "MACs", "GMAC/s")
_LAYER = (
    "layer", "kind", "time", "median", "p90", "share", "MACs", "GMAC/s", "of roof", "of peak", "bound by", "bytes",
    "operator", "kernel", "data type",
)  # fmt: skip
_LAYER_RIGHT = ("time", "median", "p90", "share", "MACs", "GMAC/s", "of roof", "of peak", "bytes")
_UNKNOWN = "-"


def latency(profile, name):
    """Return the `Section` of a `keras_nin.benchmark.Profile`."""
    threads = f"{profile.threads} thread{'' if profile.threads == 1 else 's'}"
    state = [] if profile.converged else [Line("The median is not known to within 1 %: the machine was busy.", "bad")]
    parts = (_statistics(profile), Line(conditions(profile)), *state)
    sections = _layers(profile, name) if profile.layers else ()
    return Section(name, f"Latency on {threads}: {microseconds(profile.total.median)}", parts, sections)


def _statistics(profile):
    total = profile.total
    interval = _UNKNOWN
    if total.low is not None and total.high is not None:
        interval = f"{total.low:,.1f} to {total.high:,.1f} us"
    times = (total.mean, total.p10, total.p90, total.p99, total.min, profile.load_us, profile.first_us)
    row = (microseconds(total.median), interval, *map(microseconds, times), size(profile.peak_bytes))
    return table("Whole runs", _STATISTICS, [row], right=_STATISTICS)


def _layers(profile, name):
    groups = (subtotals.pointwise(profile), *subtotals.subtotals(profile))
    alt = "Share of the run and of the MACs: " + "; ".join(f"{each.name} {percent(each.share)}" for each in groups[1:])
    kinds = Section(
        f"{name}-kinds", "1x1 by role, and the rest",
        (picture(plots.shares(profile), alt), _groups("kind", groups), Line(conditions(profile))),
    )  # fmt: skip
    every = Section(
        f"{name}-layers", "Every layer",
        (_bars(profile), Line(f"{method(profile)} {conditions(profile)}."), _layer_table(profile)),
    )  # fmt: skip
    return (kinds, *_blocks(profile, name), every, *_roofline(profile, name))


def _blocks(profile, name):
    groups = subtotals.by_block(profile)
    if len(groups) <= 2:
        return ()
    return (Section(f"{name}-blocks", "By block", (_groups("block", groups), Line(conditions(profile)))),)


def _groups(what, groups):
    rows = [
        (
            each.name,
            str(each.rows),
            microseconds(each.us),
            percent(each.share),
            f"{each.macs:,}",
            _UNKNOWN if each.gmacs_per_s is None else f"{each.gmacs_per_s:,.3g}",
        )
        for each in groups
    ]
    return table(f"Time by {what}", (what, *_GROUP), rows, right=_GROUP)


def _bars(profile):
    longest = max([layer.us.typical for layer in profile.layers if layer.us is not None] + [profile.overhead_us or 0])
    bars = [_bar(layer, longest) for layer in profile.layers]
    looks = palette.legend(profile.layers)
    if profile.overhead_us is not None:
        share = profile.overhead_us / profile.total.median
        look = palette.OVERHEAD
        length = max(0.0, profile.overhead_us / longest) if longest else 0.0
        value = microseconds(profile.overhead_us)
        bars.append(Bar(look.label, "", look.key, length, value, percent(share)))
        looks.append(look)
    return Bars("Time of each layer, in order of execution", tuple(bars), tuple(looks))


def _bar(layer, longest):
    look = palette.look(layer.kind, layer.role)
    if layer.us is None:
        return Bar(layer.name, look.label, look.key, 0.0, layer.note or "no time")
    length = layer.us.typical / longest if longest else 0.0
    return Bar(layer.name, look.label, look.key, length, microseconds(layer.us.typical), percent(layer.share))


def _layer_table(profile):
    placed = {id(each.layer): each for each in place(profile)}
    rows = [_layer_row(layer, placed.get(id(layer))) for layer in profile.layers]
    return table("Every layer", _LAYER, rows, right=_LAYER_RIGHT, folded=f"All {len(rows)} layers in figures")


def _layer_row(layer, placed):
    us = layer.us
    return (
        layer.name,
        palette.look(layer.kind, layer.role).label,
        *(map(microseconds, (us.typical, us.median, us.p90)) if us else (_UNKNOWN,) * 3),
        percent(layer.share),
        _UNKNOWN if layer.macs is None else f"{layer.macs:,}",
        _UNKNOWN if layer.gmacs_per_s is None else f"{layer.gmacs_per_s:,.3g}",
        *((_UNKNOWN,) * 3 if placed is None else (percent(placed.efficiency), percent(placed.of_peak), placed.bound)),
        f"{layer.bytes:,}",
        layer.op or _UNKNOWN,
        " ".join(filter(None, (layer.kernel or _UNKNOWN, not layer.joined and "(not joined)", layer.note))),
        layer.dtype or _UNKNOWN,
    )


def _roofline(profile, name):
    made = roofline_plot.roofline(profile)
    if made is None:
        return ()
    placed = place(profile)
    bounds = collections.Counter(each.bound for each in placed)
    peaks = "; ".join(
        f"{peak.dtype} {peak.gmacs_per_s:,.3g} GMAC/s, memory {peak.gbytes_per_s:,.3g} GB/s" for peak in profile.peaks
    )
    alt = (
        f"Speed of {len(placed)} layers over their MACs for each byte moved, below the roofs of the machine ({peaks}). "
        f"Bound by {', '.join(f'{bound}: {count}' for bound, count in bounds.items())}."
    )
    lines = (Line(alt, "plain"), Line(conditions(profile)))
    return (Section(f"{name}-roofline", "Against the machine's limit", (picture(made, alt), *lines)),)
