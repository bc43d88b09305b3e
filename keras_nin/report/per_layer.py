"""The table of the noise of every layer of an exported file."""

import math

from keras_nin.report.parity import decibels, steps
from keras_nin.tables import text_table

COLUMNS = ("", "layer", "operator", "shape", "SNR", "lost", "noise added", "largest")
RIGHT = COLUMNS[4:]
_LONGEST = 42


def layer_table(noise):
    """Return the table as text; ``>`` marks the layer that adds most noise.

    Args:
        noise: `keras_nin.export.per_layer.PerLayer`.
    """
    return text_table(COLUMNS, [_cells(row, row is noise.worst) for row in noise.rows], right=RIGHT)


def _cells(row, is_worst):
    place = [
        ">" if is_worst else "",
        _short(f"({row.why})" if row.why else row.layer),
        row.op,
        "x".join(map(str, row.shape)),
    ]
    if row.why:
        return [*place, "", "", "", ""]
    exact = row.max_steps == 0
    lost = "" if row.lost_db is None or not math.isfinite(row.lost_db) else f"{row.lost_db:.1f} dB"
    added = "" if row.added is None or exact else f"{100 * row.added:.2g} %"
    return [*place, decibels(row.snr_db, exact), lost, added, steps(row.max_steps)]


def _short(text):
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2 - 2]}...{text[-_LONGEST // 2 + 1 :]}"


def conclusion(noise):
    """Return the sentence that names the layer that hurts, and what the table means."""
    return "\n".join([_verdict(noise), _legend(noise)])


def _verdict(noise):
    worst = noise.worst
    if worst is None:
        return "No operator could be compared with a layer."
    if not math.isfinite(worst.max_steps):
        return f"The first layer that is not finite is {worst.layer} ({worst.op})."
    if not worst.added > 0:
        return "No layer adds noise."
    return (
        f"{worst.layer} ({worst.op}) hurts most: it adds noise of {100 * worst.added:.2g} % of its signal, "
        f"{decibels(worst.snr_db)} at its output."
    )


def _legend(noise):
    lines = (
        f"On {noise.images:,} images. SNR: of an operator's output against that of its layer, the last of those fused.",
        "Lost and noise added: against its noisiest input, in dB and as a share of the signal. Largest: in steps.",
        "Operators run without the delegate that otherwise computes them; the outputs of both differ by at most "
        f"{steps(noise.runtime_steps)} steps.",
    )
    return "\n".join(lines)
