"""Pictures of a profile: the time of its layers, and of the 1x1 layers by role. Functions from records to figures."""

import textwrap

from keras_nin import figures
from keras_nin.benchmark import subtotals
from keras_nin.report import palette
from keras_nin.report.conditions import conditions
from keras_nin.report.parity import microseconds, percent

_NAME_LENGTH = 34
_BAR_INCHES = 0.19


def layer_bars(profile):
    """Return a `Figure` with a bar for the time of each layer, in order of execution, coloured by kind and 1x1 role.

    It grows with the layers, 0.19 inches each.

    Args:
        profile: `keras_nin.benchmark.Profile`; a layer without a time has no bar.
    """
    bars = [(layer.name, palette.look(layer.kind, layer.role), layer.us) for layer in profile.layers]
    bars = [(name, look, 0.0 if us is None else us.typical, us is not None) for name, look, us in bars]
    if profile.overhead_us is not None:
        bars.append((palette.OVERHEAD.label, palette.OVERHEAD, profile.overhead_us, True))
    with figures.styled():
        made = figures.figure(7, 1.7 + _BAR_INCHES * len(bars))
        axes = made.subplots()
        _draw_bars(axes, bars)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlabel("us (typical)")
        axes.margins(x=0.12)
        heading(made, f"{profile.file}: time of each layer", profile)
        looks = palette.legend(profile.layers)
        if profile.overhead_us is not None:
            looks.append(palette.OVERHEAD)
        axes.legend(
            handles=[_swatch(look) for look in looks], loc="lower left", bbox_to_anchor=(0, 1), ncols=4, handlelength=1,
            borderaxespad=0.2,
        )  # fmt: skip
    return made


def _draw_bars(axes, bars):
    places = range(len(bars))
    axes.barh(places, [us for _, _, us, _ in bars], color=[look.colour for _, look, _, _ in bars], height=0.72)
    axes.set_yticks(places, [figures.shortened(name, _NAME_LENGTH) for name, *_ in bars], fontsize=8)
    axes.tick_params(axis="y", length=0)
    for place, (_, _, us, known) in enumerate(bars):
        text = f" {us:,.1f}" if known else " no time"
        axes.text(max(us, 0), place, text, va="center", fontsize=7.5, color=figures.MUTED)
    axes.xaxis.grid(True)


def shares(profile):
    """Return a `Figure` of what each kind, 1x1 by role, takes of the time and of the MACs.

    Args:
        profile: `keras_nin.benchmark.Profile` with layers.
    """
    groups = subtotals.subtotals(profile)
    macs = sum(group.macs for group in groups)
    with figures.styled():
        made = figures.figure(figures.NARROW, 1.5 + 0.46 * len(groups))
        axes = made.subplots()
        for place, group in enumerate(groups):
            of_macs = group.macs / macs if macs else 0.0
            for offset, share, alpha in ((-0.19, group.share, 1.0), (0.19, of_macs, 0.45)):
                colour = palette.named(group.name).colour
                axes.barh(place + offset, 100 * share, height=0.36, color=colour, alpha=alpha)
                if share or alpha == 1.0:
                    axes.text(100 * max(share, 0), place + offset, f" {percent(share)}", va="center", fontsize=8.5)
        axes.set_yticks(range(len(groups)), [group.name for group in groups])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_xlabel("% of the run (solid), % of the MACs (pale)")
        axes.margins(x=0.15)
        axes.xaxis.grid(True)
        heading(made, "Time and MACs by kind", profile)
    return made


def heading(made, title, profile):
    """Put a title above a figure, and below it the line without which no latency is shown."""
    width = int(made.get_figwidth() * 15)
    made.suptitle(figures.shortened(title, int(made.get_figwidth() * 9)), x=0.01, ha="left", fontsize=12, weight="bold")
    total = profile.total
    line = f"Whole run: {microseconds(total.median)}. {conditions(profile)}"
    made.supxlabel(
        textwrap.fill(figures.shortened(line, 400), width), x=0.01, ha="left", fontsize=8, color=figures.MUTED
    )


def _swatch(look):
    from matplotlib.patches import Patch

    return Patch(color=look.colour, label=look.label)
