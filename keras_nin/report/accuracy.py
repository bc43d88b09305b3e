"""The table that says how exported files compare with their model, and the lines that say it of one file."""

import dataclasses
import math

import numpy as np

from keras_nin.formatting import format_table
from keras_nin.metrics import confusion_matrix, predicted_classes, top_k_accuracy

PARITY_COLUMNS = ("file", "bytes", "top-1", "agrees", "max steps", "SNR", "latency", "parity")
_PARITY_RIGHT = PARITY_COLUMNS[1:-1]

_DIFFERENCE_NAMES = (("largest", "max"), ("mean", "mean"), ("rms", "rms"))
CHECK_NAMES = {
    "max_abs_diff_lsb": "largest difference in steps",
    "channel_rms_lsb": "rms difference of the worst class or channel in steps",
    "closing_error_lsb": "error of the closing softmax or sigmoid in steps",
    "top1_match": "top1_match",
    "top1_drop_pp": "loss of top-1 in points",
    "weight_diff_lsb": "difference of a weight from the model's in steps",
    "snr_db": "signal to noise of the outputs in dB",
}


def format_parity_table(rows, original_top1=None, trained=None):
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
                format_percent(parity.file_top1),
                format_percent(parity.top1_match),
                format_lsb(parity.max_abs_diff_lsb),
                format_db(parity.snr_db, parity.max_abs_diff_lsb == 0),
                format_time(latency) if latency is not None else "",
                _parity_verdict(parity),
            ]
        )
    shown = [column for column in PARITY_COLUMNS if column != "latency" or any(row[3] is not None for row in rows)]
    cells = [[cell for column, cell in zip(PARITY_COLUMNS, line, strict=True) if column in shown] for line in cells]
    return format_table(shown, cells, right=_PARITY_RIGHT)


def _model_cells(name, top1):
    return [name, "", format_percent(top1), *[""] * (len(PARITY_COLUMNS) - 3)]


def parity_lines(parity):
    """Return the lines that say everything of one `Parity`."""
    three = ((word, getattr(parity, f"{short}_steps")) for word, short in _DIFFERENCE_NAMES)
    differences = ", ".join(f"{word} {format_lsb(value)}" for word, value in three)
    inner = "" if parity.logits_snr_db is None else f", {format_db(parity.logits_snr_db)} before the softmax or sigmoid"
    cosine = "-" if parity.cosine is None else f"{parity.cosine:.6f}"
    lines = [
        f"Difference of the outputs in steps of {parity.lsb:.4g}: {differences}",
        f"Signal to noise: {format_db(parity.snr_db, parity.max_abs_diff_lsb == 0)}{inner}; cosine {cosine}, not centred",
    ]
    if parity.top1_match is not None:
        top5 = (
            ""
            if parity.top1_in_top5 is None
            else f", among the file's five largest {format_percent(parity.top1_in_top5)}"
        )
        lines.append(
            f"The model's class is the file's: {format_percent(parity.top1_match)}{top5}; ties at the top: {parity.ties}"
        )
    if parity.model_top5 is not None:
        lines.append(f"Top-5: Keras {format_percent(parity.model_top5)}, file {format_percent(parity.file_top5)}")
    limits = (
        f"{CHECK_NAMES[check.name]} {_format_check_value(check.value)} (limit {_format_check_value(check.limit)})"
        for check in parity.checks
    )
    return [*lines, *(f"Judged: {text}" for text in limits)]


def _parity_verdict(parity):
    if not parity.checks:  # calibrated on noise
        return "latency only"
    return "holds" if parity.passed else "FAILS"


def failed_checks(name, parity):
    """Return one line for each check of `parity` that does not hold."""
    return [
        f"{name}: {CHECK_NAMES[check.name]} {_format_check_value(check.value)}, limit {_format_check_value(check.limit)}"
        for check in parity.checks
        if not check.passed
    ]


def _format_check_value(value):
    return f"{value:.4g}" if math.isfinite(value) else "not a finite number"


def format_lsb(value):
    """Return a number of quantisation steps as text."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4f}" if value < 0.1 else f"{value:,.1f}"


def format_db(value, is_exact=False):
    """Return a signal to noise as "32.3 dB"; "exact" where there is no noise, "-" where there is no number."""
    if value is None or not math.isfinite(value):
        return "exact" if is_exact else "-"
    return f"{value:.1f} dB"


def format_percent(share):
    """Return a share as "98.6 %", or "-" where there is none."""
    return "-" if share is None else f"{100 * share:.1f} %"


def format_time(value):
    """Return a time given in microseconds as "23.1 us" or "3.66 ms"."""
    return f"{value / 1000:.2f} ms" if value >= 1000 else f"{value:.1f} us"


def latency_line(host, latencies):
    """Return the line without which no latency is printed: host, threads and runs.

    Args:
        host: `keras_nin.tflite.runner.describe_host()`.
        latencies: `Latency` of each file.
    """
    runs = ", ".join(f"{latency.runs:,}" for latency in latencies)
    threads = latencies[0].threads
    return (
        f"Latency: median of {runs} runs on {threads} thread{'s' if threads > 1 else ''}, batch {latencies[0].batch}; "
        f"{host['cpu']}, "
        f"{host['cores']} cores, {host['system']}, LiteRT {host['litert']}"
    )


# MERGED The table of the noise of every layer of an exported file.

NOISE_COLUMNS = ("", "layer", "operator", "shape", "SNR", "SNR change", "added noise", "max abs diff")
_NOISE_RIGHT = NOISE_COLUMNS[4:]
_MAX_LAYER_NAME = 42


def format_noise_table(noise):
    """Return the table as text; ``>`` marks the layer that adds most noise.

    Args:
        noise: `keras_nin.export.layer_noise.LayerNoiseTable`.
    """
    return format_table(
        NOISE_COLUMNS, [_noise_cells(row, row is noise.worst) for row in noise.rows], right=_NOISE_RIGHT
    )


def _noise_cells(row, is_worst):
    place = [
        ">" if is_worst else "",
        _shorten_layer(f"({row.reason})" if row.reason else row.layer),
        row.op,
        "x".join(map(str, row.shape)),
    ]
    if row.reason:
        return [*place, "", "", "", ""]
    exact = row.max_abs_diff_lsb == 0
    change = "" if row.snr_change_db is None or not math.isfinite(row.snr_change_db) else f"{row.snr_change_db:+.1f} dB"
    added = "" if row.added_noise is None or exact else f"{100 * row.added_noise:.2g} %"
    return [*place, format_db(row.snr_db, exact), change, added, format_lsb(row.max_abs_diff_lsb)]


def _shorten_layer(text):
    return (
        text
        if len(text) <= _MAX_LAYER_NAME
        else f"{text[: _MAX_LAYER_NAME // 2 - 2]}...{text[-_MAX_LAYER_NAME // 2 + 1 :]}"
    )


def noise_conclusion(noise):
    """Return the sentence that names the layer that hurts, and what the table means."""
    return "\n".join([_noisiest_layer_line(noise), _noise_legend(noise)])


def _noisiest_layer_line(noise):
    worst = noise.worst
    if worst is None:
        return "No operator could be compared with a layer."
    if not math.isfinite(worst.max_abs_diff_lsb):
        return f"The first layer that is not finite is {worst.layer} ({worst.op})."
    if not worst.added_noise > 0:
        return "No layer adds noise."
    return (
        f"{worst.layer} ({worst.op}) hurts most: it adds noise of {100 * worst.added_noise:.2g} % of its signal, "
        f"{format_db(worst.snr_db)} at its output."
    )


def _noise_legend(noise):
    lines = (
        f"On {noise.images:,} images. SNR: of an operator's output against that of its layer, the last of those fused.",
        "SNR change and added noise: against its noisiest input, in dB and in % of the signal. Max abs diff: in LSB.",
        "Operators run without the delegate that otherwise computes them; the outputs of both differ by at most "
        f"{format_lsb(noise.delegate_diff_lsb)} steps.",
    )
    return "\n".join(lines)


# MERGED The table of a file's weights: zeros, distinct values, and what gzip makes of the file.

COMPRESSION_COLUMNS = ("layer", "operator", "weights", "zeros", "distinct values")
_COMPRESSION_RIGHT = COMPRESSION_COLUMNS[2:]


def format_compression_table(compression, name="the file"):
    """Return the table of a `keras_nin.export.compression.Compression` as text, with the sizes below."""
    rows = [
        [kernel.layer, kernel.op, f"{kernel.weights:,}", format_percent(kernel.sparsity), f"{kernel.distinct:,}"]
        for kernel in compression.kernels
    ]
    share = compression.gzip_bytes / compression.bytes
    sizes = f"{name}: {compression.bytes:,} bytes, {compression.gzip_bytes:,} after gzip -9 ({format_percent(share)})"
    return "\n".join([format_table(COMPRESSION_COLUMNS, rows, right=_COMPRESSION_RIGHT), sizes]) if rows else sizes


# MERGED What an evaluation found: scores, per class and as a confusion matrix, as a record and as text.

MAX_MATRIX_CLASSES = 20
_MAX_CONFUSIONS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class ClassificationScores:
    """The scores of a classifier on labelled images.

    Attributes:
        images: how many.
        top1, top5: accuracies; top 5 is None with 5 classes or fewer.
        classes: the classes that occur, as a label or as an answer.
        names: the name of each of those, its number where it has none.
        counts: images of each of those.
        correct: how many of them were recognised.
        predicted: how often each was the answer.
        matrix: int64, how many images of one (row) were taken for another (column), over `classes`.
    """

    images: int
    top1: float
    top5: float | None
    classes: tuple[int, ...]
    names: tuple[str, ...]
    counts: tuple[int, ...]
    correct: tuple[int, ...]
    predicted: tuple[int, ...]
    matrix: np.ndarray

    def to_json(self):
        """Return the record as a dictionary; the matrix is whole but for classes that never occur."""
        per_class = zip(self.classes, self.names, self.counts, self.correct, self.predicted, strict=True)
        return {
            "images": self.images,
            "top1": self.top1,
            "top5": self.top5,
            "per_class": [
                {
                    "class": number,
                    "name": name,
                    "images": count,
                    "recall": _ratio_or_none(correct, count),
                    "precision": _ratio_or_none(correct, predicted),
                }
                for number, name, count, correct, predicted in per_class
            ],
            "confusion": {"classes": list(self.classes), "matrix": self.matrix.tolist()},
        }


def _ratio_or_none(part, whole):
    return part / whole if whole else None


def score_outputs(outputs, labels, class_names=()):
    """Return the `Evaluation` of outputs (N, classes) with their labels, int64 (N,).

    Args:
        outputs: one row an image; a row that holds NaN answers nothing and is wrong.
        labels: the true classes.
        class_names: names by class; may be empty or short.
    """
    predicted = predicted_classes(outputs)
    matrix = confusion_matrix(labels, predicted, outputs.shape[1])
    counts = np.bincount(labels, minlength=outputs.shape[1])
    classes = np.flatnonzero(counts + matrix.sum(axis=0))
    matrix = matrix[np.ix_(classes, classes)]
    return ClassificationScores(
        images=len(labels),
        top1=top_k_accuracy(outputs, labels, 1),
        top5=top_k_accuracy(outputs, labels, 5),
        classes=tuple(classes.tolist()),
        names=tuple(class_names[each] if each < len(class_names) else str(each) for each in classes.tolist()),
        counts=tuple(counts[classes].tolist()),
        correct=tuple(matrix.diagonal().tolist()),
        predicted=tuple(matrix.sum(axis=0).tolist()),
        matrix=matrix,
    )


def format_scores(found):
    """Return an `Evaluation` as text: the whole matrix, or of many classes the worst and the commonest confusions."""
    return (
        _format_confusion_matrix(found) if len(found.classes) <= MAX_MATRIX_CLASSES else _format_top_confusions(found)
    )


def _format_confusion_matrix(found):
    columns = ["class", *map(str, found.classes), "recall", "precision"]
    rows = [
        [
            f"{number}" if name == str(number) else f"{number} {name}",
            *(str(count) if count else "." for count in line),
            format_percent(_ratio_or_none(correct, count_of)),
            format_percent(_ratio_or_none(correct, predicted)),
        ]
        for number, name, line, count_of, correct, predicted in zip(
            found.classes, found.names, found.matrix, found.counts, found.correct, found.predicted, strict=True
        )
    ]
    return format_table(columns, rows, right=columns[1:], title="Images of a class (row) by the answer (column):")


def _format_top_confusions(found):
    wrong = found.matrix * ~np.eye(len(found.classes), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_CONFUSIONS]
    places = [np.unravel_index(place, wrong.shape) for place in order if wrong.flat[place]]
    rows = [[found.names[i], found.names[j], str(wrong[i, j]), str(found.counts[i])] for i, j in places]
    recalls = [correct / count for correct, count in zip(found.correct, found.counts, strict=True) if count]
    missed = sum(recall == 0 for recall in recalls)
    perfect = sum(recall == 1 for recall in recalls)
    classes = f"Of {len(recalls):,} classes {perfect:,} are recognised every time and {missed:,} never."
    if not rows:
        return classes
    columns = ["class", "taken for", "images", "of"]
    return f"{classes}\n{format_table(columns, rows, right=columns[2:], title='Commonest confusions:')}"


def inference_speed_line(speed):
    """Return the line of images per second, with host, threads and runs; `speed` as an evaluation records it."""
    host, threads = speed["host"], speed["threads"]
    return (
        f"{speed['images_per_second']:,} images per second, inference alone: {speed['runs']:,} runs on {threads} "
        f"thread{'s' if threads > 1 else ''}, batch 1; {host['cpu']}, {host['cores']} cores, {host['system']}, "
        f"LiteRT {host['litert']}"
    )
