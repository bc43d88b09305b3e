"""The table that says how exported files compare with their model, and the lines that say it of one file."""

import math

from keras_nin.tables import text_table

COLUMNS = ("file", "bytes", "top-1", "agrees", "max steps", "SNR", "latency", "parity")
RIGHT = COLUMNS[1:-1]

_DIFFERENCES = (("largest", "max"), ("mean", "mean"), ("rms", "rms"))
CHECK_NAMES = {
    "max_steps": "largest difference in steps",
    "channel_rms_steps": "rms difference of the worst class or channel in steps",
    "closing_steps": "error of the closing softmax or sigmoid in steps",
    "agreement": "agreement",
    "accuracy_drop_points": "loss of top-1 in points",
    "weight_steps": "difference of a weight from the model's in steps",
    "snr_db": "signal to noise of the outputs in dB",
}


def parity_table(rows, original_top1=None, trained=None):
    """Return the table as text.

    Args:
        rows: tuples of (file name, bytes, `Parity`, median latency in microseconds or None).
        original_top1: accuracy of the model; None takes that of the first row.
        trained: by the names of files that are compared with a model that was trained further, what for.
    """
    first = rows[0][2].model_top1 if original_top1 is None else original_top1
    cells = [_model_cells("(Keras model)", first)]
    for name, size, parity, latency in rows:
        if name in (trained or {}):
            cells.append(_model_cells(f"(trained: {trained[name]})", parity.model_top1))
        cells.append(
            [
                name,
                f"{size:,}",
                percent(parity.file_top1),
                percent(parity.agreement),
                steps(parity.max_steps),
                decibels(parity.snr_db, parity.max_steps == 0),
                microseconds(latency) if latency is not None else "",
                _verdict(parity),
            ]
        )
    shown = [column for column in COLUMNS if column != "latency" or any(row[3] is not None for row in rows)]
    cells = [[cell for column, cell in zip(COLUMNS, line, strict=True) if column in shown] for line in cells]
    return text_table(shown, cells, right=RIGHT)


def _model_cells(name, top1):
    return [name, "", percent(top1), *[""] * (len(COLUMNS) - 3)]


def details(parity):
    """Return the lines that say everything of one `Parity`."""
    three = ((word, getattr(parity, f"{short}_steps")) for word, short in _DIFFERENCES)
    differences = ", ".join(f"{word} {steps(value)}" for word, value in three)
    inner = "" if parity.inner_snr_db is None else f", {decibels(parity.inner_snr_db)} before the softmax or sigmoid"
    cosine = "-" if parity.cosine is None else f"{parity.cosine:.6f}"
    lines = [
        f"Difference of the outputs in steps of {parity.step:.4g}: {differences}",
        f"Signal to noise: {decibels(parity.snr_db, parity.max_steps == 0)}{inner}; cosine {cosine}, not centred",
    ]
    if parity.agreement is not None:
        top5 = (
            "" if parity.agreement_top5 is None else f", among the file's five largest {percent(parity.agreement_top5)}"
        )
        lines.append(
            f"The model's class is the file's: {percent(parity.agreement)}{top5}; ties at the top: {parity.ties}"
        )
    if parity.model_top5 is not None:
        lines.append(f"Top-5: Keras {percent(parity.model_top5)}, file {percent(parity.file_top5)}")
    limits = (
        f"{CHECK_NAMES[check.name]} {_number(check.value)} (limit {_number(check.limit)})" for check in parity.checks
    )
    return [*lines, *(f"Judged: {text}" for text in limits)]


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
    """Return a number of quantisation steps as text."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4f}" if value < 0.1 else f"{value:,.1f}"


def decibels(value, is_exact=False):
    """Return a signal to noise as "32.3 dB"; "exact" where there is no noise, "-" where there is no number."""
    if value is None or not math.isfinite(value):
        return "exact" if is_exact else "-"
    return f"{value:.1f} dB"


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
        f"Latency: median of {runs} runs on {threads} thread{'s' if threads > 1 else ''}, batch {latencies[0].batch}; "
        f"{host['cpu']}, "
        f"{host['cores']} cores, {host['system']}, LiteRT {host['litert']}"
    )
