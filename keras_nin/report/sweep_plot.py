"""A sweep as a picture: time against MACs for larger kernels, and the cost of channel counts beside a multiple of 8."""

import io

from keras_nin.benchmark import sweep_findings

# Told apart without colours too: colour and marker for the scheme, filled for one thread.
_STYLES = {"float32": ("#1f77b4", "o"), "int8": ("#d95f02", "s")}
_LINE = {"color": "#777777", "linewidth": 1, "linestyle": "--"}


def png(rows, host):
    """Return a PNG file, as bytes, of `Row`s by point.

    On the left each layer with a kernel of 3x3 or larger against the same layer with 1x1: the ratio of their times over
    the MACs of the 1x1 layer, and dashed the ratio of their MACs. On the right the time for each channel of a layer
    whose number of channels is no multiple of 8, over that of the layer with the multiple beside it.

    Args:
        rows: `keras_nin.benchmark.sweep_rows.Row`s by their points.
        host: the machine's dictionary, for the title.
    """
    # Not pyplot, which would choose a window system and keep the figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _ratios(left, sweep_findings.kernel_ratios(rows))
    _costs(right, sweep_findings.unaligned(rows))
    figure.suptitle(f"{host['cpu']}, {host['cores']} cores, LiteRT {host['litert']}", fontsize=10)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def _ratios(axes, found):
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_title("Larger kernels against 1x1")
    axes.set_xlabel("MACs of the 1x1 layer")
    axes.set_ylabel("time over the time of 1x1 (inside the kernels)")
    if not found:
        _empty(axes, "no layer with 1x1 beside a larger kernel")
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    for macs in sorted({each.macs for each in found}):
        axes.axhline(macs, **_LINE)
        axes.annotate(f"MACs: {macs} times", (1, macs), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    for series, members in _series(found):
        xs = [each.point.layer.macs / each.macs for each in members]
        axes.plot(xs, [each.time or each.whole for each in members], **_marks(*series))
    low, high = (end(each.point.layer.macs / each.macs for each in found) for end in (min, max))
    axes.set_xlim(low / 3, high * 3)
    ratios = [each.time or each.whole for each in found]
    axes.set_ylim(min(1, *ratios) / 1.2, max([*ratios, *(each.macs for each in found)]) * 2.5)
    axes.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 3, 5, 9, 15, 25, 49, 100]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend()


def _costs(axes, found):
    axes.set_title("Channel counts that are no multiple of 8")
    axes.set_ylabel("time for each channel, over that of the multiple of 8")
    if not found:
        _empty(axes, "no layer with such a count beside its multiple of 8")
        return
    axes.axhline(1, **_LINE)
    places = sorted({(each.axis, each.aligned, each.channels, each.point.layer.kernel) for each in found})
    for number, (series, members) in enumerate(_series(found)):
        xs = [places.index((each.axis, each.aligned, each.channels, each.point.layer.kernel)) for each in members]
        xs = [x + 0.12 * (number - 1) for x in xs]  # side by side
        axes.plot(xs, [each.cost for each in members], **_marks(*series))
    labels = [
        f"{channels} {'in' if axis == 'cin' else 'out'}\n{kernel}x{kernel}" for axis, _, channels, kernel in places
    ]
    axes.set_xticks(range(len(places)), labels)
    axes.set_ylim(0, 1.1 * max(1.2, *(each.cost for each in found)))
    axes.legend()


def _series(found):
    """Return [((scheme, threads), records)], sorted."""
    groups = {}
    for each in found:
        groups.setdefault((each.point.scheme, each.point.threads), []).append(each)
    return sorted(groups.items())


def _marks(scheme, threads):
    color, marker = _STYLES[scheme]
    return {
        "linestyle": "",
        "marker": marker,
        "color": color,
        "markerfacecolor": color if threads == 1 else "none",
        "alpha": 0.8,
        "label": f"{scheme}, {threads} thread{'s' if threads > 1 else ''}",
    }


def _empty(axes, why):
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
    axes.set_axis_off()
