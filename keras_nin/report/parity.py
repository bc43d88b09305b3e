"""The table that says how exported files compare with their model."""

import math

from keras_nin.tables import text_table

COLUMNS = ("file", "bytes", "top-1", "agrees with Keras", "largest difference", "rms", "median latency", "parity")
RIGHT = COLUMNS[1:-1]

CHECK_NAMES = {
    "max_steps": "largest difference in steps",
    "channel_rms_steps": "rms difference of the worst class or channel in steps",
    "closing_steps": "error of the closing softmax or sigmoid in steps",
    "agreement": "agreement",
    "accuracy_drop_points": "loss of top-1 in points",
}


def parity_table(rows):
    """Return the table as text.

    Args:
        rows: tuples of (file name, bytes, `Parity`, median latency in microseconds or None).
    """
    model_top1 = rows[0][2].model_top1
    cells = [["(Keras model)", "", percent(model_top1), "", "", "", "", ""]]
    for name, size, parity, latency in rows:
        cells.append(
            [
                name,
                f"{size:,}",
                percent(parity.file_top1),
                percent(parity.agreement),
                steps(parity.max_steps),
                steps(parity.rms_steps),
                microseconds(latency) if latency is not None else "-",
                _verdict(parity),
            ]
        )
    return text_table(COLUMNS, cells, right=RIGHT)


def _verdict(parity):
    if not parity.checks:  # calibrated on noise
        return "latency only"
    return "holds" if parity.holds else "FAILS"


def failures(name, parity):
    """Return one line for each check of `parity` that does not hold."""
    return [
        f"{name}: {CHECK_NAMES[check.name]} {_number(check.value)}, limit {_number(check.limit)}"
        for check in parity.checks
        if not check.holds
    ]


def _number(value):
    return f"{value:.4g}" if math.isfinite(value) else "not a finite number"


def steps(value):
    """Return a difference in quantisation steps as text."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4f} steps" if value < 0.1 else f"{value:.1f} steps"


def percent(share):
    """Return a share as "98.6 %", or "-" where there is none."""
    return "-" if share is None else f"{100 * share:.1f} %"


def microseconds(value):
    """Return a time given in microseconds as "23.1 us" or "3.66 ms"."""
    return f"{value / 1000:.2f} ms" if value >= 1000 else f"{value:.1f} us"


def latency_line(host, latencies):
    """Return the line without which no latency is printed: host, threads and runs.

    Args:
        host: `keras_nin.tflite.run.host()`.
        latencies: `Latency` of each file.
    """
    runs = ", ".join(f"{latency.runs:,}" for latency in latencies)
    threads = latencies[0].threads
    return (
        f"Latency: median of {runs} runs on {threads} thread{'s' if threads > 1 else ''}, batch 1; {host['cpu']}, "
        f"{host['cores']} cores, {host['system']}, LiteRT {host['litert']}"
    )
