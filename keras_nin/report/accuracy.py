"""The accuracy of exported files as text: parity with the model, the noise of each layer, weights, scores on images."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.formatting import format_percent, format_table
from keras_nin.metrics import confusion_matrix, predicted_classes, top_k_accuracy
from keras_nin.report.rendering import Table, make_table, render_text

if TYPE_CHECKING:
    from keras_nin.export.compression import Compression
    from keras_nin.export.layer_noise import LayerNoiseTable
    from keras_nin.export.parity import Parity

_CHECK_NAMES = {
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
    trained = trained or {}
    no_file = {"size": None, "parity": None, "latency": None, "verdict": ""}
    model_top1 = rows[0][2].model_top1 if original_top1 is None else original_top1
    records: list[dict[str, Any]] = [{**no_file, "name": "(Keras model)", "top1": model_top1}]
    for name, size, parity, latency in rows:
        if name in trained:
            records.append({**no_file, "name": f"(trained: {trained[name]})", "top1": parity.model_top1})
        shown = {"parity": parity, "top1": parity.file_top1, "verdict": parity_verdict(parity)}
        records.append({"name": name, "size": size, "latency": latency, **shown})
    return make_table("parity", records).without_empty_columns().format()


def parity_verdict(parity: "Parity") -> str:
    """Return "pass" or "FAIL", or "latency only" for a file that was calibrated with noise."""
    if not parity.checks:
        return "latency only"
    return "pass" if parity.passed else "FAIL"


def parity_lines(parity: "Parity") -> list[str]:
    """Return one file's comparison with the model in full, its checks last."""
    return [*render_text("accuracy.j2", "parity", parity).splitlines(), *_check_lines(parity)]


def check_table(parity: "Parity") -> Table:
    """Return the checks of a parity with their values and limits."""
    records = [{"row": check, "name": _CHECK_NAMES.get(check.name, check.name)} for check in parity.checks]
    return make_table("parity_checks", records)


def _check_lines(parity: "Parity") -> list[str]:
    return [f"{name}: {value} (limit {limit}) {result}" for name, value, limit, result in check_table(parity).rows]


def failed_checks(name: str, parity: "Parity") -> list[str]:
    """Return a line such as ``"a.tflite: top-1 drop (pp): 3.1 (limit 2.5) FAIL"`` for each failed check of a file."""
    lines = zip(parity.checks, _check_lines(parity), strict=True)
    return [f"{name}: {line}" for check, line in lines if not check.passed]


def format_noise_table(noise: "LayerNoiseTable") -> str:
    """Return the table of the noise of each layer; ``>`` marks the layer that adds the most."""
    return make_table("layer_noise", [{"row": row, "worst": noise.worst} for row in noise.rows]).format()


def noise_conclusion(noise: "LayerNoiseTable") -> str:
    """Return the layer that adds the most quantization noise, and what the columns mean."""
    return render_text("accuracy.j2", "noise", noise)


def format_compression_table(compression: "Compression", name: str = "the file") -> str:
    """Return the table of a file's weights, zeros and distinct values, with its size after gzip below."""
    return render_text("accuracy.j2", "compression", compression, name)


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
        recalls = [score.recall for score in scores.per_class if score.recall is not None]
        confusions = sorted(_confusions(scores), key=lambda confusion: -confusion[0])[:_MAX_CONFUSIONS]
        return render_text("accuracy.j2", "confusions", recalls, confusions)
    matrix = confusion_table(scores)
    columns = (*matrix.columns, "recall", "precision")
    rows = [
        [*row, format_percent(score.recall), format_percent(score.precision)]
        for row, score in zip(matrix.rows, scores.per_class, strict=True)
    ]
    title = "Confusion matrix (rows: true class, columns: predicted)"
    return format_table(columns, rows, right=columns[1:], title=title)


def confusion_table(scores: ClassificationScores) -> Table:
    """Return the images of each class by predicted class."""
    columns, rows = tuple(map(str, scores.confusion.classes)), []
    for index, score, counts in zip(scores.confusion.classes, scores.per_class, scores.confusion.matrix, strict=True):
        label = str(index) if score.name == str(index) else f"{index} {score.name}"
        rows.append((label, *(f"{count:,}" if count else "." for count in counts)))
    return Table(("class", *columns), columns, tuple(rows))


def _confusions(scores: ClassificationScores) -> Iterator[tuple[int, ClassScore, ClassScore]]:
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
    return render_text("accuracy.j2", "speed", speed)
