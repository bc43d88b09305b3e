"""The section of a sweep: what it shows, its picture, every row."""

from keras_nin.benchmark import sweep_findings
from keras_nin.report import sweep_plot
from keras_nin.report.conditions import machine
from keras_nin.report.html.parts import Items, Line, Section, png_picture, table

_COLUMNS = (
    "map", "in", "out", "kernel", "scheme", "threads", "MACs", "time in us", "95 % interval", "in kernels", "GMAC/s",
    "runs",
)  # fmt: skip
_RIGHT = (*_COLUMNS[1:3], *_COLUMNS[5:])
_ALT = (
    "Left: each layer with a larger kernel against the same with 1x1, the ratio of their times over the MACs of the "
    "1x1 layer. Right: time for each channel where their number is no multiple of 8, over that of the multiple."
)


def sweep(swept, name):
    """Return the `Section` of a `keras_nin.report.documents.Sweep`."""
    rows = [_row(swept.rows[point]) for point in sorted(swept.rows)]
    found = tuple(sweep_findings.sentences(swept.rows))
    failed = tuple((f"{row.point}", f"Not measured: {row.error}") for row in swept.rows.values() if row.error)
    parts = [
        Line(f"Medians at batch 1, each layer alone, weights and calibration random; {machine(swept.who)}"),
        *(Line(sentence, "plain") for sentence in found),
        png_picture(sweep_plot.png(swept.rows, swept.who), _ALT),
        table("Every point", _COLUMNS, rows, right=_RIGHT, folded=f"All {len(rows)} points"),
        *([Items(failed)] if failed else []),
    ]
    return Section(name, f"Sweep: {swept.name}", tuple(parts), labels=("random weights and calibration: latency only",))


def _row(row):
    layer = row.point.layer
    interval = "-" if row.low_us is None or row.high_us is None else f"{row.low_us:,.1f} to {row.high_us:,.1f}"
    return (
        f"{layer.size}x{layer.size}", f"{layer.cin:,}", f"{layer.cout:,}", f"{layer.kernel}x{layer.kernel}",
        row.point.scheme, str(row.point.threads), f"{layer.macs:,}", _number(row.us), interval,
        _number(row.kernel_us), _number(row.gmacs_per_s), f"{row.runs:,}",
    )  # fmt: skip


def _number(value):
    return "-" if value is None else f"{value:,.1f}"
