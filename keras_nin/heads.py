"""What an output of a network means (its task), and how well it matches labels or another network's output."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_nin.errors import InputError, check_choice, input_error
from keras_nin.formatting import format_percent
from keras_nin.metrics import top_k_accuracy

TASKS = ("classification", "binary", "multilabel", "regression", "segmentation")
IGNORED_LABEL = 255  # of a mask: no class is known there
# The score that may drop, by task: the other scores are reported.
MAIN_SCORES = {
    "classification": "top1",
    "binary": "accuracy",
    "multilabel": "f1",
    "regression": "rmse",
    "segmentation": "mean_iou",
}
MATCHES = {
    "classification": "top1_match",
    "binary": "decision_match",
    "multilabel": "decision_match",
    "segmentation": "pixel_match",
}
# Below this share of its size a value does not vary: float32 keeps 2**-24 of it, and a few operations lose some.
_CONSTANT = 2e-6
_GUESSING = 0.01  # level of the test whether decisions match labels better than guesses do


@dataclasses.dataclass(frozen=True)
class Head:
    """One output of a network.

    Attributes:
        name: in the signature; None where the network has only one output.
        task: one of `TASKS`.
        shape: without the batch.
        threshold: above which a value of a binary or multi-label output says yes: 0.5 behind a sigmoid, 0 without.
        is_index: whether the output holds the numbers of classes, as behind an argmax, and not their scores; `shape` is
            then that of the scores, (..., classes), with None for an unknown number of classes.
    """

    name: str | None
    task: str
    shape: tuple[int | None, ...]
    threshold: float = 0.5
    is_index: bool = False

    @property
    def label(self) -> str:
        """What errors and tables call the output."""
        return "the output" if self.name is None else f"output {self.name!r}"

    def decisions(self, outputs: np.ndarray) -> np.ndarray | None:
        """Return what outputs (N, ...) decide, int64, -1 for NaN: classes (N,), labels (N, K) or a mask (N, ...).

        None for a regression, which decides nothing.
        """
        if self.task == "regression":
            return None
        if self.is_index:
            shape = (-1,) if self.task == "classification" else outputs.shape[: len(self.shape)]
            return outputs.astype(np.int64).reshape(shape)
        values = outputs.reshape(len(outputs), -1) if self.task in ("classification", "binary") else outputs
        unknown = np.isnan(values)
        if self.task in ("classification", "segmentation") and values.shape[-1] > 1:
            return np.where(unknown.any(axis=-1), -1, values.argmax(axis=-1))
        decided = np.where(unknown, -1, values > self.threshold)
        return decided if self.task == "multilabel" else decided[..., 0]

    def count_classes(self, decisions: np.ndarray, targets: np.ndarray) -> int:
        """Return the number of classes; where it is not known, as many as occur."""
        if not self.is_index:
            return max(self.shape[-1] or 2, 2)
        known = targets[targets != IGNORED_LABEL] if self.task == "segmentation" else targets
        return max(self.shape[-1] or 2, 1 + int(decisions.max(initial=0)), 1 + int(known.max(initial=0)))

    def class_scores(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return outputs of classes as scores (N, classes), class indices as rows of 0 with a 1."""
        if not self.is_index:
            return outputs.reshape(len(outputs), -1)
        chosen = outputs.astype(np.int64).reshape(-1)
        return np.eye(self.count_classes(chosen, targets))[chosen]

    def describe_missing_information(self, outputs: np.ndarray, targets: np.ndarray | None = None) -> str | None:
        """Return the same as the function; class indices may be the same for all images whose labels are the same."""
        is_known = not self.is_index or (targets is not None and (targets != targets[:1]).any())
        return describe_missing_information(outputs) if is_known else None

    def check_targets(self, targets: np.ndarray, source: str) -> np.ndarray:
        """Return labels (N, ...) in the form that the scores take; `InputError` where they do not fit the output."""
        targets = np.asarray(targets)
        count, sizes = len(targets), [size or 1 for size in self.shape]
        if self.task != "regression" and targets.dtype.kind == "f" and (targets == np.round(targets)).all():
            targets = targets.astype(np.int64)  # 0.0 and 1.0 are decisions too
        is_whole = targets.dtype.kind in "iub"
        received = f"{targets.dtype} {targets.shape} in {source!r}"
        if self.task == "regression":
            if targets.size != count * math.prod(sizes):
                raise input_error(f"a number for each value of {self.label}, {self.shape}", received, argument="labels")
            return targets.reshape(count, *sizes).astype(np.float64)
        if not is_whole:
            raise input_error(f"whole numbers as labels of {self.label} ({self.task})", received, argument="labels")
        classes = max(sizes[-1], 2) if self.task == "segmentation" else math.prod(sizes)
        shapes = {
            "classification": [(count,), (count, 1)],
            "binary": [(count,), (count, 1)],
            "multilabel": [(count, *sizes), (count,)],
            "segmentation": [(count, *sizes[:-1]), (count, *sizes[:-1], 1)],
        }[self.task]
        if self.task == "classification" and targets.shape == (count, classes) and (targets.sum(axis=1) == 1).all():
            targets = targets.argmax(axis=1)  # one-hot rows
        if targets.shape not in shapes:
            expected = f"labels of shape ({', '.join(map(str, ('N', *shapes[0][1:])))}) for {self.label} ({self.task})"
            raise input_error(expected, received, argument="labels")
        if self.task == "multilabel" and targets.ndim == 1:
            check_labels(targets, classes, source)
            return np.eye(classes, dtype=np.int64)[targets]
        largest = 2 if self.task in ("binary", "multilabel") else classes
        if self.is_index and self.shape[-1] is None:  # any number may be a class
            largest = int(targets.max(initial=0)) + 1
        known = targets[targets != IGNORED_LABEL] if self.task == "segmentation" else targets
        if self.task == "segmentation" and largest == 2 and len(known) < targets.size and not known.any():
            received = f"only 0 and {IGNORED_LABEL} in {source!r}. Write 1 for {IGNORED_LABEL}, which is unknown"
            raise input_error(f"masks with 1 for the class of {self.label}", received, argument="labels")
        check_labels(known, largest, source)
        return targets.reshape(shapes[0]).astype(np.int64)

    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
        """Return the scores of outputs (N, ...) by name, 0 to 1 except for `mae` and `rmse`; None where undefined.

        ``classification``: top1, top5. ``binary``: accuracy, precision, recall, f1, auc. ``multilabel``: accuracy (of
        single labels), exact_match, f1 (mean over the labels). ``regression``: mae, rmse, r2. ``segmentation``:
        mean_iou (over the classes that occur), pixel_accuracy.

        Args:
            outputs: of the network.
            targets: as `check_targets` returns them.
        """
        decisions = self.decisions(outputs)
        if decisions is None:
            return _regression_scores(outputs.astype(np.float64).reshape(targets.shape), targets)
        if self.task == "classification" and self.is_index:
            return {"top1": float(np.mean(decisions == targets)), "top5": None}
        if self.task == "classification":
            flat = outputs.reshape(len(outputs), -1)
            return {f"top{k}": top_k_accuracy(flat, targets, k) for k in (1, 5)}
        if self.task == "segmentation":
            return _segmentation_scores(decisions, targets, self.count_classes(decisions, targets))
        if self.task == "multilabel":
            rates = [_binary_scores(decisions[..., label], targets[..., label]) for label in range(targets.shape[-1])]
            known = [rate["f1"] for rate in rates if rate["f1"] is not None]
            right = decisions == targets
            exact = right.reshape(len(right), -1).all(axis=1)
            f1 = float(np.mean(known)) if known else None
            return {"accuracy": float(right.mean()), "exact_match": float(exact.mean()), "f1": f1}
        return _binary_scores(decisions, targets) | {"auc": _area_under_roc(outputs.reshape(-1), targets)}


def infer_task(shape: Sequence[int | None], activation: str | None, targets: np.ndarray | None = None) -> str:
    """Return the task of an output by its shape without the batch and its activation (None or a name, lower case).

    Behind a softmax a vector holds classes and a map holds a class for each position; behind a sigmoid one value is a
    binary decision, a vector several labels, and a map a mask. Behind an argmax, where `shape` is that of the scores,
    a number is a class and a map is a mask. Without any of them, a vector of several values holds classes
    and anything else is a regression, except that labels decide where they are there: whole numbers are classes of a
    map and a yes or no of one value, fractions are a regression.
    """
    sizes = [size or 1 for size in shape]
    channels, is_map = (sizes or [1])[-1], math.prod(sizes[:-1]) > 1
    if activation == "argmax":
        return "segmentation" if is_map else "classification"
    if activation == "softmax" and channels > 1:
        return "segmentation" if is_map else "classification"
    if activation == "sigmoid":
        return "multilabel" if channels > 1 else "segmentation" if is_map else "binary"
    if activation is not None:
        return "regression"
    is_whole = targets is not None and targets.dtype.kind in "iub"
    if is_map:
        is_mask = is_whole and targets is not None and targets.shape[1:] in (tuple(sizes[:-1]), (*sizes[:-1], 1))
        return "segmentation" if is_mask and channels > 1 else "regression"
    if channels > 1:
        return "classification" if targets is None or is_whole else "regression"
    return "binary" if is_whole and targets is not None and set(np.unique(targets)) <= {0, 1} else "regression"


def make_heads(
    outputs: Sequence[tuple[str, tuple[int | None, ...], str | None]], task: str | None = None, targets: Any = None
) -> tuple[Head, ...]:
    """Return the heads of a network.

    Args:
        outputs: (name, shape without the batch, activation) of each output.
        task: a task for the only output, or for all; or ``OUTPUT=TASK`` for some, with commas; None infers each.
        targets: labels (N, ...), or a dictionary of them by the name of the output; or None.

    Raises:
        InputError: an unknown task or output.
    """
    names = [name for name, _, _ in outputs]
    chosen = _parse_tasks(task, names) if task else {}
    heads = []
    for name, shape, activation in outputs:
        own = targets_of(targets, name, names)
        head_task = chosen.get(name) or infer_task(shape, activation, own)
        threshold = 0.5 if activation == "sigmoid" else 0.0
        is_index = activation == "argmax" and head_task in ("classification", "segmentation")
        sizes = tuple(shape[:-1]) if activation == "argmax" and not is_index else tuple(shape)
        heads.append(Head(name if len(outputs) > 1 else None, head_task, sizes, threshold, is_index))
    return tuple(heads)


def _parse_tasks(text: str, names: Sequence[str]) -> dict[str, str]:
    """Return the task of each output that `text` names: "regression", or "mask=segmentation,age=regression"."""
    tasks = {}
    for part in text.split(","):
        name, separator, task = part.strip().rpartition("=")
        check_choice("task", task, TASKS)
        if separator and name not in names:
            raise input_error(f"`task` to name one of the outputs {', '.join(names)}", repr(name), argument="task")
        tasks |= {name: task} if separator else dict.fromkeys(names, task)
    return tasks


def targets_of(targets: Any, name: str, names: Sequence[str]) -> np.ndarray | None:
    """Return the labels of one output: an array is that of the only output, a dictionary has them by name.

    Raises:
        InputError: labels of an output that the network does not have.
    """
    if targets is None:
        return None
    if not isinstance(targets, Mapping):
        return targets if len(names) == 1 else None
    unknown = [repr(key) for key in targets if key not in names and not (key == "" and len(names) == 1)]
    if unknown:
        listed = ", ".join(map(repr, names))
        raise input_error(f"labels of the outputs {listed}", ", ".join(unknown), argument="labels")
    return targets.get(name, targets.get("") if len(names) == 1 else None)


def fitting_targets(head: Head, targets: np.ndarray | None) -> np.ndarray | None:
    """Return the labels of an output, but None for class indices beside a mask or several numbers, which they miss."""
    is_vector = targets is not None and targets.shape[1:] in ((), (1,))
    values = math.prod(size or 1 for size in head.shape)
    return None if is_vector and head.task in ("segmentation", "regression") and values > 1 else targets


def check_labels(labels: np.ndarray, classes: int, source: str) -> None:
    """Raise `InputError` where a label is not among the numbers below `classes`."""
    if not len(labels):
        return
    largest, least = int(np.max(labels)), int(np.min(labels))
    if largest >= classes or least < 0:
        expected = f"labels from 0 to {classes - 1}, one for each output of the network"
        raise input_error(expected, f"{largest if largest >= classes else least} in {source!r}", argument="labels")


def describe_missing_information(outputs: np.ndarray) -> str | None:
    """Say why outputs (N, ...) carry no information: none is a number, or all images have the same; else None.

    One image alone may have any output.
    """
    images = f"{len(outputs):,} images"
    flat = outputs.reshape(len(outputs), -1).astype(np.float64)
    known = np.isfinite(flat)
    if not known.all(axis=1).any():
        what = "NaN" if np.isnan(flat).any(axis=1).all() else "NaN or infinite"
        return f"it is {what} for all {images}" if len(outputs) > 1 else f"it is {what}"
    if len(outputs) == 1 or not known.all():
        return None
    spread = float(np.ptp(flat, axis=0).max())
    return f"it is the same for all {images}" if spread <= _CONSTANT * float(np.abs(flat).max()) else None


def describe_guessing(head: Head, outputs: np.ndarray, targets: np.ndarray) -> str | None:
    """Say that what outputs (N, ...) decide matches labels no better than guesses do; else None.

    Guesses are decisions as often as the network makes each, but without regard to the image. The test is binomial, of
    one side; None too where the decisions are too few: where not even half-way between guesses and all right counts;
    and where the outputs carry no information.

    Args:
        targets: as `Head.check_targets` returns them.
    """
    from scipy.special import bdtrc

    decisions = head.decisions(outputs)
    if decisions is None or describe_missing_information(outputs):
        return None
    known = np.full(decisions.shape, True) if head.task != "segmentation" else targets != IGNORED_LABEL
    columns = targets.shape[-1] if head.task == "multilabel" else 1
    decided, true = (values[known].reshape(-1, columns).astype(np.int64) for values in (decisions, targets))
    if not len(true):
        return None
    classes = int(max(decided.max(), true.max())) + 1
    shares = [
        [np.bincount(part + 1, minlength=classes + 1) / len(part) for part in values.T] for values in (decided, true)
    ]
    chance = float(np.mean([a @ b for a, b in zip(*shares, strict=True)]))
    hits, count = int((decided == true).sum()), true.size
    half_way = math.ceil(count * (1 + chance) / 2)
    # The probabilities that guesses are right so often or more.
    if bdtrc(half_way - 1, count, chance) > _GUESSING or bdtrc(hits - 1, count, chance) <= _GUESSING:
        return None
    name = {"classification": "top-1", "segmentation": "pixel accuracy"}.get(head.task, "accuracy")
    return f"{name} is {format_percent(hits / count)}, no better than guessing"


# Scores


def _binary_scores(decisions: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
    """Return accuracy, precision, recall and F1 of yes (1) and no (0); -1 is wrong."""
    hits = float(np.sum((decisions == 1) & (targets == 1)))
    said, true = float(np.sum(decisions == 1)), float(np.sum(targets == 1))
    return {
        "accuracy": float(np.mean(decisions == targets)),
        "precision": hits / said if said else None,
        "recall": hits / true if true else None,
        "f1": 2 * hits / (said + true) if said + true else None,
    }


def _area_under_roc(values: np.ndarray, targets: np.ndarray) -> float | None:
    """Return the probability that a yes has a larger value than a no, ties counting half; None without both."""
    positive, negative = values[targets == 1], values[targets == 0]
    if not len(positive) or not len(negative) or np.isnan(values).any():
        return None
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / 2 / len(negative))


def _regression_scores(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
    """Return the mean absolute error, the root mean square error and the share of variance explained."""
    errors = outputs - targets
    variance = float(np.mean((targets - targets.mean(axis=0)) ** 2))
    square = float(np.mean(errors**2))
    scores = {"mae": float(np.mean(np.abs(errors))), "rmse": math.sqrt(square) if square >= 0 else math.nan}
    r2 = 1 - square / variance if variance else math.nan
    return {name: value if math.isfinite(value) else None for name, value in (scores | {"r2": r2}).items()}


def _segmentation_scores(decisions: np.ndarray, targets: np.ndarray, classes: int) -> dict[str, float | None]:
    """Return mean intersection over union and pixel accuracy where the class is known."""
    known = targets != IGNORED_LABEL
    decided, true = decisions[known], targets[known]
    shares = []
    for number in range(classes):
        union = np.sum((decided == number) | (true == number))
        if union:
            shares.append(np.sum((decided == number) & (true == number)) / union)
    accuracy = float(np.mean(decided == true)) if len(true) else None
    return {"mean_iou": float(np.mean(shares)) if shares else None, "pixel_accuracy": accuracy}


def score_drop(
    head: Head, model: Mapping[str, float | None], file: Mapping[str, float | None], spread: float
) -> float | None:
    """Return by how many percentage points the main score of a file is worse than that of its model.

    Of a regression it is the rise of the root mean square error, in % of `spread`, the standard deviation of the
    labels. None where a score is not defined.
    """
    name = MAIN_SCORES[head.task]
    before, after = model[name], file[name]
    if before is None or (head.task == "regression" and not spread):
        return None
    if after is None:
        return math.nan
    difference = (after - before) / spread if head.task == "regression" else before - after
    return round(100 * difference, 6)


def drop_check(head: Head) -> str:
    """Return the name of the check of `score_drop`."""
    return "rmse_rise_pp" if head.task == "regression" else f"{MAIN_SCORES[head.task]}_drop_pp"


def require_labels(targets: Any, head: Head) -> np.ndarray:
    """Return the labels of a head; `InputError` where there are none."""
    if targets is None:
        key = "labels" if head.name is None else f"labels_{head.name}"
        raise InputError(f"Expected labels of {head.label} ({head.task}). Received: none. Put {key} into the .npz")
    return targets
