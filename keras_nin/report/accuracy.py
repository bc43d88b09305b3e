"""The accuracy of exported files as text: parity with the model, the noise of each layer, weights, scores on images."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from keras_nin.formatting import format_count, format_host, format_percent, format_table, format_us, shorten
from keras_nin.metrics import confusion_matrix, predicted_classes, top_k_accuracy

if TYPE_CHECKING:
    from keras_nin.export.compression import Compression
    from keras_nin.export.layer_noise import LayerNoise, LayerNoiseTable
    from keras_nin.export.parity import Parity

PARITY_COLUMNS = ("file", "bytes", "top-1", "top-1 match", "max abs diff (LSB)", "SNR", "latency", "parity")
_NOISE_COLUMNS = ("", "layer", "operator", "shape", "SNR", "SNR change", "added noise", "max abs diff (LSB)")
_COMPRESSION_COLUMNS = ("layer", "operator", "weights", "zeros", "distinct values")
LSB_NOTE = "LSB = one quantization step of the output"
CHECK_NAMES = {
    "max_abs_diff_lsb": "max abs diff (LSB)",
    "channel_rms_lsb": "RMS diff of the worst class or channel (LSB)",
    "closing_error_lsb": "error of the final softmax or sigmoid (LSB)",
    "top1_match": "top-1 match",
    "top1_drop_pp": "top-1 drop (pp)",
    "weight_diff_lsb": "max abs diff of the weights (LSB)",
    "snr_db": "SNR (dB)",
}
MAX_MATRIX_CLASSES = 20
_MAX_CONFUSIONS = 10
_MAX_LAYER_NAME = 42


class Check(Protocol):
    """A value of a parity compared with its limit; None where the value is not finite."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> float | None: ...
    @property
    def limit(self) -> float: ...
    @property
    def passed(self) -> bool: ...


class CheckedParity(Protocol):
    """A parity with its checks; none where the file was calibrated with noise."""

    @property
    def checks(self) -> Sequence[Check]: ...
    @property
    def passed(self) -> bool: ...


class MeasuredLatency(Protocol):
    """A latency with its number of runs and threads."""

    @property
    def runs(self) -> int: ...
    @property
    def threads(self) -> int: ...


def format_parity_table(
    rows: "Sequence[tuple[str, int, Parity, float | None]]",
    original_top1: float | None = None,
    trained: Mapping[str, str] | None = None,
) -> str:
    """Return the table of files and their parity with the model.

    Args:
        rows: (file name, bytes, parity, median latency in microseconds or None) of each file.
        original_top1: accuracy of the model; None takes that of the first row.
        trained: by the names of files that are compared with a further trained model, what it was trained for.
    """
    model_top1 = rows[0][2].model_top1 if original_top1 is None else original_top1
    cells = [_model_cells("(Keras model)", model_top1)]
    for name, size, parity, latency in rows:
        if name in (trained or {}):
            cells.append(_model_cells(f"(trained: {(trained or {})[name]})", parity.model_top1))
        cells.append(
            [
                name,
                f"{size:,}",
                format_percent(parity.file_top1),
                format_percent(parity.top1_match),
                format_lsb(parity.max_abs_diff_lsb),
                format_db(parity.snr_db, parity.max_abs_diff_lsb == 0),
                "" if latency is None else format_us(latency),
                parity_verdict(parity),
            ]
        )
    has_latency = any(latency is not None for *_, latency in rows)
    shown = [column for column in PARITY_COLUMNS if has_latency or column != "latency"]
    cells = [[cell for column, cell in zip(PARITY_COLUMNS, line, strict=True) if column in shown] for line in cells]
    return format_table(shown, cells, right=PARITY_COLUMNS[1:-1])


def _model_cells(name: str, top1: float | None) -> list[str]:
    return [name, "", format_percent(top1), *[""] * (len(PARITY_COLUMNS) - 3)]


def parity_verdict(parity: CheckedParity) -> str:
    """Return "pass" or "FAIL", or "latency only" for a file that was calibrated with noise."""
    if not parity.checks:
        return "latency only"
    return "pass" if parity.passed else "FAIL"


def parity_lines(parity: "Parity") -> list[str]:
    """Return one file's comparison with the model in full, its checks last."""
    mean = "" if parity.mean_abs_diff_lsb is None else f", mean {format_lsb(parity.mean_abs_diff_lsb)}"
    logits = (
        "" if parity.logits_snr_db is None else f", {format_db(parity.logits_snr_db)} before the softmax or sigmoid"
    )
    cosine = "" if parity.cosine is None else f"; cosine similarity {parity.cosine:.6f}"
    lines = [
        f"max abs diff {format_lsb(parity.max_abs_diff_lsb)} LSB{mean}, RMS {format_lsb(parity.rms_diff_lsb)}; "
        f"{LSB_NOTE} ({_format_value(parity.lsb)})",
        f"SNR {format_db(parity.snr_db, parity.max_abs_diff_lsb == 0)}{logits}{cosine}",
    ]
    if parity.top1_match is not None:
        in_top5 = "" if parity.top1_in_top5 is None else f", in the file's top 5 {format_percent(parity.top1_in_top5)}"
        lines.append(f"top-1 match {format_percent(parity.top1_match)}{in_top5}; ties for the top class: {parity.ties}")
    if parity.model_top5 is not None:
        lines.append(f"top-5: model {format_percent(parity.model_top5)}, file {format_percent(parity.file_top5)}")
    return [*lines, *map(check_line, parity.checks)]


def check_line(check: Check) -> str:
    """Return a check such as ``"top-1 drop (pp): 0.3 (limit 2.5) pass"``."""
    value, limit = format_check_values(check)
    return f"{CHECK_NAMES.get(check.name, check.name)}: {value} (limit {limit}) {'pass' if check.passed else 'FAIL'}"


def failed_checks(name: str, parity: CheckedParity) -> list[str]:
    """Return one line for each failed check of a file's parity."""
    return [f"{name}: {check_line(check)}" for check in parity.checks if not check.passed]


def format_check_values(check: Check) -> tuple[str, str]:
    """Return the value and the limit of a check as text."""
    if check.name == "top1_match":
        return format_percent(check.value), format_percent(check.limit)
    return _format_value(check.value), _format_value(check.limit)


def _format_value(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.4g}"


def format_lsb(value: float | None) -> str:
    """Return a number of quantization steps as text."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:.4f}" if value < 0.1 else f"{value:,.1f}"


def format_db(value: float | None, is_exact: bool = False) -> str:
    """Return a signal-to-noise ratio as "32.3 dB"; "exact" where there is no noise, "-" where there is no number."""
    if value is None or not math.isfinite(value):
        return "exact" if is_exact else "-"
    return f"{value:.1f} dB"


def latency_line(host: Mapping[str, Any], latencies: Sequence[MeasuredLatency]) -> str:
    """Return the conditions of the latencies in a parity table.

    Args:
        host: the machine, as `keras_nin.tflite.host.describe_host` returns it.
        latencies: one per file, on the same number of threads.
    """
    runs = ", ".join(f"{latency.runs:,}" for latency in latencies)
    threads = format_count(latencies[0].threads, "thread")
    return f"Latency: median of {runs} runs on {threads}, batch 1; {format_host(host)}"


def format_noise_table(noise: "LayerNoiseTable") -> str:
    """Return the table of the noise of each layer; ``>`` marks the layer that adds the most."""
    rows = [_noise_cells(row, row is noise.worst) for row in noise.rows]
    return format_table(_NOISE_COLUMNS, rows, right=_NOISE_COLUMNS[4:])


def _noise_cells(row: "LayerNoise", is_worst: bool) -> list[str]:
    layer = shorten(f"({row.reason})" if row.reason else row.layer or "", _MAX_LAYER_NAME)
    cells = [">" if is_worst else "", layer, row.op, "x".join(map(str, row.shape))]
    if row.reason:
        return [*cells, "", "", "", ""]
    is_exact = row.max_abs_diff_lsb == 0
    change = "" if row.snr_change_db is None or not math.isfinite(row.snr_change_db) else f"{row.snr_change_db:+.1f} dB"
    added = "" if row.added_noise is None or is_exact else f"{100 * row.added_noise:.2g}%"
    return [*cells, format_db(row.snr_db, is_exact), change, added, format_lsb(row.max_abs_diff_lsb)]


def noise_conclusion(noise: "LayerNoiseTable") -> str:
    """Return the layer that adds the most quantization noise, and what the columns mean."""
    return "\n".join(
        [
            _noisiest_layer_line(noise),
            f"On {noise.images:,} images. SNR: of an operator's output, compared with the last layer fused into it.",
            "SNR change, added noise: relative to its noisiest input, in dB and in % of the signal. LSB: one "
            "quantization step of the operator's output.",
            "The operators run without the delegate; its outputs differ from theirs by at most "
            f"{format_lsb(noise.delegate_diff_lsb)} LSB.",
        ]
    )


def _noisiest_layer_line(noise: "LayerNoiseTable") -> str:
    worst = noise.worst
    if worst is None:
        return "No operator could be compared with a layer."
    if worst.max_abs_diff_lsb is None or not math.isfinite(worst.max_abs_diff_lsb):
        return f"First layer with outputs that are not finite: {worst.layer} ({worst.op})."
    added = worst.added_noise or 0.0
    if not added > 0:
        return "No layer adds noise."
    return (
        f"Layer that adds the most quantization noise: {worst.layer} ({worst.op}), {100 * added:.2g}% of its signal; "
        f"SNR at its output {format_db(worst.snr_db)}."
    )


def format_compression_table(compression: "Compression", name: str = "the file") -> str:
    """Return the table of a file's weights, zeros and distinct values, with its size after gzip below."""
    rows = [
        [kernel.layer, kernel.op, f"{kernel.weights:,}", format_percent(kernel.sparsity), f"{kernel.distinct:,}"]
        for kernel in compression.kernels
    ]
    share = format_percent(compression.gzip_bytes / compression.bytes)
    sizes = f"{name}: {compression.bytes:,} bytes, {compression.gzip_bytes:,} after gzip -9 ({share})"
    return (
        "\n".join([format_table(_COMPRESSION_COLUMNS, rows, right=_COMPRESSION_COLUMNS[2:]), sizes]) if rows else sizes
    )


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """The score of one class: its images, and its recall and precision (0 to 1; None where they are undefined)."""

    name: str
    images: int
    recall: float | None
    precision: float | None


@dataclasses.dataclass(frozen=True)
class ConfusionMatrix:
    """Numbers of images by true class (rows) and predicted class (columns), over the indexes in `classes`."""

    classes: tuple[int, ...]
    matrix: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class ClassificationScores:
    """The scores of a classifier on labeled images.

    Attributes:
        images: number of images.
        top1, top5: accuracies, 0 to 1; top 5 is None with 5 classes or fewer.
        per_class: scores of the classes that occur, as a label or a prediction.
        confusion: their confusion matrix.
    """

    images: int
    top1: float
    top5: float | None
    per_class: tuple[ClassScore, ...]
    confusion: ConfusionMatrix

    def to_json(self) -> dict[str, Any]:
        """Return the scores as a JSON-ready dictionary."""
        document = dataclasses.asdict(self)
        for index, score in zip(self.confusion.classes, document["per_class"], strict=True):
            score["class"] = index
        return document


def score_outputs(outputs: np.ndarray, labels: np.ndarray, class_names: Sequence[str] = ()) -> ClassificationScores:
    """Return the scores of outputs.

    Args:
        outputs: (N, classes); a row with NaN predicts nothing and counts as wrong.
        labels: true classes, int64 (N,).
        class_names: names by class; may be empty or too few.
    """
    predicted = predicted_classes(outputs)
    matrix = confusion_matrix(labels, predicted, outputs.shape[1])
    counts = np.bincount(labels, minlength=outputs.shape[1])
    classes = np.flatnonzero(counts + matrix.sum(axis=0)).tolist()
    matrix = matrix[np.ix_(classes, classes)]
    predictions, correct = matrix.sum(axis=0).tolist(), matrix.diagonal().tolist()
    per_class = tuple(
        ClassScore(
            class_names[index] if index < len(class_names) else str(index),
            int(counts[index]),
            correct[place] / int(counts[index]) if counts[index] else None,
            correct[place] / predictions[place] if predictions[place] else None,
        )
        for place, index in enumerate(classes)
    )
    top1 = top_k_accuracy(outputs, labels, 1)
    confusion = ConfusionMatrix(tuple(classes), tuple(map(tuple, matrix.tolist())))
    return ClassificationScores(len(labels), top1 or 0.0, top_k_accuracy(outputs, labels, 5), per_class, confusion)


def format_scores(scores: ClassificationScores) -> str:
    """Return the confusion matrix, or with many classes the most frequent confusions."""
    if len(scores.per_class) > MAX_MATRIX_CLASSES:
        return _format_top_confusions(scores)
    columns = ["class", *map(str, scores.confusion.classes), "recall", "precision"]
    rows = [
        [label, *cells, format_percent(score.recall), format_percent(score.precision)]
        for (label, *cells), score in zip(confusion_rows(scores), scores.per_class, strict=True)
    ]
    title = "Confusion matrix (rows: true class, columns: predicted)"
    return format_table(columns, rows, right=columns[1:], title=title)


def confusion_rows(scores: ClassificationScores) -> Iterator[list[str]]:
    """Yield the rows of the confusion matrix: the class, then the images by predicted class."""
    for index, score, counts in zip(scores.confusion.classes, scores.per_class, scores.confusion.matrix, strict=True):
        label = str(index) if score.name == str(index) else f"{index} {score.name}"
        yield [label, *(f"{count:,}" if count else "." for count in counts)]


def _format_top_confusions(scores: ClassificationScores) -> str:
    recalls = [score.recall for score in scores.per_class if score.recall is not None]
    always, never = sum(recall == 1 for recall in recalls), sum(recall == 0 for recall in recalls)
    summary = f"Of {len(recalls):,} classes, {always:,} are always recognized and {never:,} never."
    rows = [
        [true.name, predicted.name, str(count), str(true.images)]
        for count, true, predicted in sorted(_confusions(scores), key=lambda confusion: -confusion[0])[:_MAX_CONFUSIONS]
    ]
    if not rows:
        return summary
    columns = ("true class", "predicted as", "images", "of")
    return f"{summary}\n{format_table(columns, rows, right=columns[2:], title='Most frequent confusions')}"


def _confusions(scores: ClassificationScores) -> Iterable[tuple[int, ClassScore, ClassScore]]:
    """Yield the number of images of one class that were predicted as another, by class."""
    for row, (true, counts) in enumerate(zip(scores.per_class, scores.confusion.matrix, strict=True)):
        for column, (predicted, count) in enumerate(zip(scores.per_class, counts, strict=True)):
            if count and row != column:
                yield count, true, predicted


def inference_speed_line(speed: Mapping[str, Any]) -> str:
    """Return images per second with their conditions.

    Args:
        speed: ``{"images_per_second", "batch", "threads", "runs", "host"}``.
    """
    rate = speed["images_per_second"]
    return (
        f"{f'{rate:,.0f}' if rate >= 100 else f'{rate:.4g}'} images per second, inference only: "
        f"{format_count(speed['runs'], 'run')} on {format_count(speed['threads'], 'thread')}, batch {speed['batch']}; "
        f"{format_host(speed['host'])}"
    )
