"""The figure of a search of the scheme mixed: accuracy against latency, and the size of each file."""

from typing import TYPE_CHECKING

from keras_nin import figures
from keras_nin.formatting import format_bytes, format_count, format_host, format_us

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keras_nin.export.mixed_precision import MixedSearch

_POINT, _CHOSEN = "#2171b5", "#d95f02"


def plot_front(search: "MixedSearch") -> "Figure":
    """Return a figure of the points of a search: filled on the Pareto front, the chosen one in another color.

    The horizontal axis has the latency, the vertical one the accuracy that the search compared.
    """
    is_match = search.choice.match is not None
    known = [point for point in search.points if point.latency_us is not None]
    finite = [point.accuracy for point in known if point.accuracy != float("inf")]
    factor = 100 if is_match else 1
    top = factor * max(finite, default=1.0)  # of a file without noise, which has no SNR
    with figures.new_figure(7, 4.6) as figure:
        axes = figure.subplots()
        places = []
        for point in known:
            color = _CHOSEN if point is search.choice else _POINT
            accuracy = min(factor * point.accuracy, top)
            places.append((point.latency_us or 0.0, accuracy, point))
            axes.plot(
                (point.latency_us or 0.0) / 1000,
                accuracy,
                "o",
                color=color,
                markerfacecolor=color if point.on_front else "white",
                zorder=3,
            )
        front = sorted(place[:2] for place in places if place[2].on_front)
        axes.plot([us / 1000 for us, _ in front], [accuracy for _, accuracy in front], color=_POINT, linewidth=1)
        for us, accuracy, point in places:
            if point.on_front:
                axes.annotate(
                    format_bytes(point.bytes),
                    (us / 1000, accuracy),
                    (5, -9),
                    textcoords="offset points",
                    fontsize=7.5,
                    color=figures.MUTED,
                )
        axes.grid(True)
        axes.margins(x=0.15, y=0.12)
        label = "top-1 match, the lower of measured and expected (%)" if is_match else "SNR (dB)"
        axes.set(xlabel="latency (ms)", ylabel=label)
        conditions = f"{format_count(search.images, 'calibration image')}, {format_count(search.threads, 'thread')}"
        axes.set_title(
            f"Target {search.target}: chosen {format_us(search.choice.latency_us or 0.0)}, "
            f"{format_count(len(search.choice.float_operators), 'operator')} in float32\n"
            f"{conditions}; {format_host(search.host)}",
            fontsize=8,
        )
    return figure
