"""The accuracy of exported files as text: parity with the model, the noise of each layer, weights, scores on images."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.formatting import format_count, format_percent, format_table
from keras_nin.metrics import confusion_matrix, predicted_classes, top_k_accuracy
from keras_nin.report.rendering import Table, make_table, render_text

if TYPE_CHECKING:
    from keras_nin.audit.comparison import OutputDifference
    from keras_nin.export.compression import Compression
    from keras_nin.export.layer_noise import LayerNoiseTable
    from keras_nin.export.parity import Parity

_SCORE_NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auc": "AUC",
    "exact_match": "exact match",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
}
_NUMBERS = ("mae", "rmse", "r2", "auc")  # the other scores are shares
_CHECK_NAMES = {
    "decision_match": "match of decisions",
    "pixel_match": "match of pixels",
    "argmax_match": "match of the argmax with the file's scores",
    "accuracy_drop_pp": "accuracy drop (pp)",
    "f1_drop_pp": "F1 drop (pp)",
    "mean_iou_drop_pp": "mean IoU drop (pp)",
    "rmse_rise_pp": "RMSE rise (% of the labels' standard deviation)",
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
    records: list[dict[str, Any]] = []
    for output in outputs_of(rows[0][2]):
        top1 = output.model_top1 if original_top1 is None else original_top1
        records.append({**no_file, **_output_cells(output, "model"), "name": "(Keras model)", "top1": top1})
    for name, size, parity, latency in rows:
        if name in trained:
            name_of_trained = f"(trained: {trained[name]})"
            records.append({**no_file, **_output_cells(parity, "model"), "name": name_of_trained})
        for position, output in enumerate(outputs_of(parity)):
            whole = {"size": size, "latency": latency} if position == 0 else {"size": None, "latency": None}
            shown = {"name": name, "parity": output, "verdict": parity_verdict(output)}
            records.append({**_output_cells(output, "file"), **whole, **shown})
    return make_table("parity", records).without_empty_columns().format()


def outputs_of(parity: "Parity") -> "tuple[Parity, ...]":
    """Return the `Parity` of each output."""
    return parity.outputs or (parity,)


def _output_cells(parity: "Parity", side: str) -> dict[str, Any]:
    """Return the name of an output and its scores, of the model or the file, for the table."""
    classifies = parity.task in (None, "classification")
    scores = parity.scores[side] if parity.scores and not classifies else {}
    top1 = parity.model_top1 if side == "model" else parity.file_top1
    return {"output": parity.output, "scores": format_score_values(scores, 2), "top1": top1}


def format_score_values(scores: Mapping[str, float | None], count: int | None = None) -> str:
    """Return scores such as ``"MAE 0.12, RMSE 0.2, R2 0.95"``, at most `count`, without what is not defined."""
    known = [
        f"{_SCORE_NAMES.get(name, name)} {f'{value:.4g}' if name in _NUMBERS else format_percent(value)}"
        for name, value in scores.items()
        if value is not None
    ]
    return ", ".join(known[:count])


def format_output_scores(output: "OutputScores") -> str:
    """Return the scores of an output with its name and task where these are not plain."""
    if output.no_information:
        values = f"no verdict, the output carries no information: {output.no_information}"
    else:
        values = format_score_values(output.scores)
    if output.output is not None:
        return f"output {output.output!r} ({output.task}): {values}"
    return values if output.task == "classification" else f"{values} ({output.task})"


def format_output_differences(outputs: "Sequence[OutputDifference]", names: tuple[str, str]) -> str:
    """Return the table of the outputs of two files, a and b, on the same images; `names` are those of the files."""
    records = [
        {"row": output, "a": format_score_values(scores["a"], 2), "b": format_score_values(scores["b"], 2)}
        for output, scores in ((output, output.scores or {"a": {}, "b": {}}) for output in outputs)
    ]
    title = f"Outputs of {names[0]} (a) and {names[1]} (b) on {format_count(outputs[0].images, 'image')}"
    lines = [f"{title}\n{make_table('output_differences', records).without_empty_columns().format()}"]
    lines += [
        f"No verdict on {'the output' if output.output is None else f'output {output.output!r}'}, which carries no "
        f"information in {output.no_information}"
        for output in outputs
        if output.no_information
    ]
    return "\n".join(
        [*lines, "Differences are in the units of the output; SNR: energy of a over that of the difference."]
    )


def parity_verdict(parity: "Parity") -> str:
    """Return "pass" or "FAIL"; "no verdict" where the outputs carry no information, "latency only" after noise."""
    if parity.no_verdict and all(check.passed for check in parity.checks):
        return "no verdict"
    if not parity.checks:
        return "latency only"
    return "pass" if parity.passed else "FAIL"


def parity_lines(parity: "Parity") -> list[str]:
    """Return one file's comparison with the model in full, its checks last."""
    lines = []
    for output in outputs_of(parity):
        lines += [f"output {output.output!r} ({output.task})"] if output.output else []
        lines += [*render_text("accuracy.j2", "parity", output).splitlines(), *_score_lines(output)]
    return [*lines, *_check_lines(parity)]


def _score_lines(parity: "Parity") -> list[str]:
    """Return the scores of the model and of the file, and the match, of an output that holds no classes."""
    lines = []
    if parity.task != "classification" and parity.match is not None:
        lines.append(
            f"match of {'pixels' if parity.task == 'segmentation' else 'decisions'} {format_percent(parity.match)}"
        )
    if parity.task != "classification" and parity.scores:
        lines += [f"{side}: {format_score_values(scores)}" for side, scores in parity.scores.items()]
    return lines


def check_table(parity: "Parity") -> Table:
    """Return the checks of a parity with their values and limits."""
    records = [
        {
            "row": check,
            "name": ("" if check.output is None else f"output {check.output!r}: ")
            + _CHECK_NAMES.get(check.name, check.name),  # a record may have others
        }
        for check in parity.checks
    ]
    return make_table("parity_checks", records)


def _check_lines(parity: "Parity") -> list[str]:
    return [f"{name}: {value} (limit {limit}) {result}" for name, value, limit, result in check_table(parity).rows]


def failed_checks(name: str, parity: "Parity") -> list[str]:
    """Return a line such as ``"a.tflite: top-1 drop (pp): 3.1 (limit 2.5) FAIL"`` for each failed check of a file."""
    lines = zip(parity.checks, _check_lines(parity), strict=True)
    return [f"{name}: {line}" for check, line in lines if not check.passed]


def missing_verdict(name: str, parity: "Parity") -> str | None:
    """Return why nothing can be said of a file, or None."""
    if parity.no_verdict is None:
        return None
    return f"{name}: the model's output carries no information, so nothing can be said of the file: {parity.no_verdict}"


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
class OutputScores:
    """The scores of one output on labeled images.

    Attributes:
        output: its name; None where the network has only one.
        task, scores: what it means, and its scores by name, as `keras_nin.heads.Head` has them.
        no_information: why there are no scores, or None.
        classification: the scores of classes, with the confusion matrix; None for another task.
        guessing: the score, where the weights are trained and it is no better than guessing; else None.
    """

    output: str | None
    task: str
    images: int
    scores: dict[str, float | None]
    no_information: str | None = None
    classification: "ClassificationScores | None" = None
    guessing: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the scores as a JSON-ready dictionary, without those of single classes."""
        document = dataclasses.asdict(dataclasses.replace(self, classification=None))
        del document["classification"]
        return document


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
    top1: float | None
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
    top1, top5 = (top_k_accuracy(outputs, labels, k) for k in (1, 5))
    return score_predictions(predicted_classes(outputs), labels, outputs.shape[1], top1, top5, class_names)


def score_predictions(
    predicted: np.ndarray,
    labels: np.ndarray,
    number: int,
    top1: float | None,
    top5: float | None,
    class_names: Sequence[str] = (),
) -> ClassificationScores:
    """Return the scores of predictions.

    Args:
        predicted, labels: predicted and true classes, int64 (N,); -1 predicts nothing.
        number: of all classes.
        top1, top5: accuracies; None where they have no meaning.
        class_names: as in `score_outputs`.
    """
    matrix = confusion_matrix(labels, predicted, number)
    counts = np.bincount(labels, minlength=number)
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
    confusion = ConfusionMatrix(tuple(classes), tuple(map(tuple, matrix.tolist())))
    return ClassificationScores(len(labels), top1 or 0.0, top5, per_class, confusion)


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
