"""The rows of a sweep as text and JSON."""

from keras_nin.benchmark import sweep_findings
from keras_nin.tables import text_table

SCHEMA = "keras_nin.sweep/1"
_COLUMNS = ("map", "in", "out", "kernel", "scheme", "threads", "MMACs", "us", "95 %", "kernel us", "GMAC/s", "runs")


def text(rows, host):
    """Return the table of `Row`s (by point) and what they show; `host` is the machine's dictionary."""
    failed = [row for row in rows.values() if row.error]
    unsettled = sum(not row.converged for row in rows.values() if not row.error)
    lines = [
        text_table(_COLUMNS, [_row(rows[point]) for point in sorted(rows)], right=_COLUMNS[1:4] + _COLUMNS[5:]),
        "",
        f"{host['cpu']}, {host['cores']} cores, LiteRT {host['litert']}; medians, 1 MAC = one multiply and one add.",
        "Each layer alone, with random weights; int8 calibrated with noise: files for latency only.",
    ]
    if unsettled:
        lines.append(f"{unsettled} of {len(rows)} medians are not known to 1 %: the machine was busy, or time was up.")
    return "\n".join([*lines, *sweep_findings.sentences(rows), *(_failure(row) for row in failed)])


def to_json(rows, host):
    """Return `Row`s (by point) as a JSON-ready dictionary (schema ``keras_nin.sweep/1``)."""
    return {
        "schema": SCHEMA,
        "host": host,
        "rows": [_document(rows[point]) for point in sorted(rows)],
        "findings": list(sweep_findings.sentences(rows)),
    }


def _document(row):
    layer = row.point.layer
    return {
        "size": layer.size, "cin": layer.cin, "cout": layer.cout, "kernel": layer.kernel,
        "scheme": row.point.scheme, "threads": row.point.threads, "macs": layer.macs, "gmacs_per_s": row.gmacs_per_s,
        "us": {"median": row.us, "low": row.low_us, "high": row.high_us}, "kernel_us": row.kernel_us,
        "kernel_name": row.kernel_name, "runs": row.runs, "converged": row.converged, "load": row.load,
        "turn": row.turn, "error": row.error,
    }  # fmt: skip


def _row(row):
    layer = row.point.layer
    interval = "-" if row.low_us is None else f"{row.low_us:,.1f} to {row.high_us:,.1f}"
    return [
        f"{layer.size}x{layer.size}",
        str(layer.cin),
        str(layer.cout),
        f"{layer.kernel}x{layer.kernel}",
        row.point.scheme,
        str(row.point.threads),
        f"{layer.macs / 1e6:.2f}",
        _number(row.us),
        interval,
        _number(row.kernel_us),
        _number(row.gmacs_per_s),
        str(row.runs),
    ]


def _number(value):
    return "-" if value is None else f"{value:,.1f}"


def _failure(row):
    layer = row.point.layer
    return (
        f"Not measured: {layer.kernel}x{layer.kernel}, {layer.cin} to {layer.cout} at {layer.size}x{layer.size}, "
        f"{row.point.scheme}: {row.error}"
    )
