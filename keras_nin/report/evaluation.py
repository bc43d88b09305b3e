"""What an evaluation found: scores, per class and as a confusion matrix, as a record and as text."""

import dataclasses

import numpy as np

from keras_nin.metrics import answers, confusion_matrix, top_k
from keras_nin.report.parity import percent
from keras_nin.tables import text_table

MOST_IN_A_MATRIX = 20
_MOST_CONFUSIONS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
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
                    "recall": _share(correct, count),
                    "precision": _share(correct, predicted),
                }
                for number, name, count, correct, predicted in per_class
            ],
            "confusion": {"classes": list(self.classes), "matrix": self.matrix.tolist()},
        }


def _share(part, whole):
    return part / whole if whole else None


def evaluation(outputs, labels, class_names=()):
    """Return the `Evaluation` of outputs (N, classes) with their labels, int64 (N,).

    Args:
        outputs: one row an image; a row that holds NaN answers nothing and is wrong.
        labels: the true classes.
        class_names: names by class; may be empty or short.
    """
    predicted = answers(outputs)
    matrix = confusion_matrix(labels, predicted, outputs.shape[1])
    counts = np.bincount(labels, minlength=outputs.shape[1])
    classes = np.flatnonzero(counts + matrix.sum(axis=0))
    matrix = matrix[np.ix_(classes, classes)]
    return Evaluation(
        images=len(labels),
        top1=top_k(outputs, labels, 1),
        top5=top_k(outputs, labels, 5),
        classes=tuple(classes.tolist()),
        names=tuple(class_names[each] if each < len(class_names) else str(each) for each in classes.tolist()),
        counts=tuple(counts[classes].tolist()),
        correct=tuple(matrix.diagonal().tolist()),
        predicted=tuple(matrix.sum(axis=0).tolist()),
        matrix=matrix,
    )


def describe(found):
    """Return an `Evaluation` as text: the whole matrix, or of many classes the worst and the commonest confusions."""
    return _matrix(found) if len(found.classes) <= MOST_IN_A_MATRIX else _confusions(found)


def _matrix(found):
    columns = ["class", *map(str, found.classes), "recall", "precision"]
    rows = [
        [
            f"{number}" if name == str(number) else f"{number} {name}",
            *(str(count) if count else "." for count in line),
            percent(_share(correct, count_of)),
            percent(_share(correct, predicted)),
        ]
        for number, name, line, count_of, correct, predicted in zip(
            found.classes, found.names, found.matrix, found.counts, found.correct, found.predicted, strict=True
        )
    ]
    return text_table(columns, rows, right=columns[1:], title="Images of a class (row) by the answer (column):")


def _confusions(found):
    wrong = found.matrix * ~np.eye(len(found.classes), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    places = [np.unravel_index(place, wrong.shape) for place in order if wrong.flat[place]]
    rows = [[found.names[i], found.names[j], str(wrong[i, j]), str(found.counts[i])] for i, j in places]
    recalls = [correct / count for correct, count in zip(found.correct, found.counts, strict=True) if count]
    missed = sum(recall == 0 for recall in recalls)
    perfect = sum(recall == 1 for recall in recalls)
    classes = f"Of {len(recalls):,} classes {perfect:,} are recognised every time and {missed:,} never."
    if not rows:
        return classes
    columns = ["class", "taken for", "images", "of"]
    return f"{classes}\n{text_table(columns, rows, right=columns[2:], title='Commonest confusions:')}"


def speed_line(speed):
    """Return the line of images per second, with host, threads and runs; `speed` as an evaluation records it."""
    host, threads = speed["host"], speed["threads"]
    return (
        f"{speed['images_per_second']:,} images per second, inference alone: {speed['runs']:,} runs on {threads} "
        f"thread{'s' if threads > 1 else ''}, batch 1; {host['cpu']}, {host['cores']} cores, {host['system']}, "
        f"LiteRT {host['litert']}"
    )
