"""What an output of a network means (its task), and how well it matches labels or another network's output."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_nin.errors import InputError, check_choice, input_error
from keras_nin.formatting import format_percent
from keras_nin.metrics import predicted_classes, top_k_hits

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

    def describe_missing_information(
        self, outputs: "np.ndarray | Sequence[Information]", targets: np.ndarray | None = None
    ) -> str | None:
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
        return self.scores_of_parts([self.summarize(outputs, targets)], targets)

    def summarize(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the scores need of the outputs of some images, which is small where the outputs are many.

        ``classification``: `predicted` (N,), and `top1` and `top5` (N,), whether the label is among the best; without
        those that have no meaning. ``segmentation``: `pixels` (3, classes), those of each class that are right, in the
        outputs and in the labels, where the class is known. ``multilabel``: `labels` (3, K), the images in which each
        label is right, said to be there, and both; `unknown` (K,), those with a NaN; `exact` (1,), those all of whose
        labels are right. ``regression``: `absolute` and `square` (N,), the mean errors of each image. ``binary``:
        `outputs`, one number for each image.
        """
        decisions = self.decisions(outputs)
        if decisions is None:
            errors = (outputs.astype(np.float64).reshape(targets.shape) - targets).reshape(len(outputs), -1)
            return {"absolute": np.abs(errors).mean(axis=1), "square": (errors**2).mean(axis=1)}
        if self.task == "binary":
            return {"outputs": outputs}
        if self.task == "multilabel":
            return _count_labels(decisions, targets)
        if self.task == "segmentation":
            return {"pixels": _count_pixels(decisions, targets, self.count_classes(decisions, targets))}
        if self.is_index:  # nothing is known of the second best
            return {"predicted": decisions, "top1": decisions == targets}
        flat = outputs.reshape(len(outputs), -1)
        hits = {f"top{k}": top_k_hits(flat, targets, k) for k in (1, 5) if k < flat.shape[1]}
        return {"predicted": predicted_classes(flat), **hits}

    def scores_of_parts(
        self, parts: Sequence[Mapping[str, np.ndarray]], targets: np.ndarray
    ) -> dict[str, float | None]:
        """Return `scores` from what `summarize` returned for the images, in their order; the same to the last bit."""
        if self.task == "classification":
            hits = {f"top{k}": [part[f"top{k}"] for part in parts if f"top{k}" in part] for k in (1, 5)}
            return {name: float(np.mean(np.concatenate(values))) if values else None for name, values in hits.items()}
        if self.task == "segmentation":
            return _segmentation_scores(_sum_pixels(parts))
        if self.task == "multilabel":
            return _multilabel_scores(_sum_labels(parts), targets)
        if self.task == "regression":
            absolute, square = (np.concatenate([part[name] for part in parts]) for name in ("absolute", "square"))
            return _regression_scores(float(np.mean(absolute)), float(np.mean(square)), targets)
        outputs = np.concatenate([part["outputs"] for part in parts])
        decisions = self.decisions(outputs)
        assert decisions is not None
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


@dataclasses.dataclass(frozen=True)
class Information:
    """What tells whether the outputs of some images carry information.

    Attributes:
        images: number of images.
        any_finite, all_finite, all_nan: whether an image has numbers alone; whether all have; whether each has a NaN.
        magnitude: the largest absolute value; 0 unless all are finite.
        constant: the output of the first image (K,), where the others have the same; None where they vary.
    """

    images: int
    any_finite: bool
    all_finite: bool
    all_nan: bool
    magnitude: float
    constant: np.ndarray | None

    @classmethod
    def of(cls, outputs: np.ndarray) -> "Information":
        """Return the information of outputs (N, ...)."""
        flat = outputs.reshape(len(outputs), -1).astype(np.float64)
        known = np.isfinite(flat)
        rows, all_nan = known.all(axis=1), bool(np.isnan(flat).any(axis=1).all())
        if not rows.all():
            return cls(len(outputs), bool(rows.any()), False, all_nan, 0.0, None)
        magnitude = float(np.abs(flat).max())
        varies = float(np.ptp(flat, axis=0).max()) > _CONSTANT * magnitude
        return cls(len(outputs), True, True, False, magnitude, None if varies else flat[0])


def describe_missing_information(outputs: np.ndarray | Sequence[Information]) -> str | None:
    """Say why outputs carry no information: none is a number, or all images have the same; else None.

    One image alone may have any output.

    Args:
        outputs: array (N, ...), or the `Information` of its parts.
    """
    parts = [Information.of(outputs)] if isinstance(outputs, np.ndarray) else outputs
    count = sum(part.images for part in parts)
    images = f"{count:,} images"
    if not any(part.any_finite for part in parts):
        what = "NaN" if all(part.all_nan for part in parts) else "NaN or infinite"
        return f"it is {what} for all {images}" if count > 1 else f"it is {what}"
    constants = [part.constant for part in parts if part.constant is not None]
    if count == 1 or len(constants) < len(parts):
        return None
    spread, magnitude = float(np.ptp(constants, axis=0).max()), max(part.magnitude for part in parts)
    return f"it is the same for all {images}" if spread <= _CONSTANT * magnitude else None


def describe_guessing(head: Head, outputs: np.ndarray, targets: np.ndarray) -> str | None:
    """Say that what outputs (N, ...) decide matches labels no better than guesses do; else None.

    Guesses are decisions as often as the network makes each, but without regard to the image. The test is binomial, of
    one side; None too where the decisions are too few: where not even half-way between guesses and all right counts;
    and where the outputs carry no information.

    Args:
        targets: as `Head.check_targets` returns them.
    """
    return describe_guessing_of_parts(head, [head.summarize(outputs, targets)], [Information.of(outputs)], targets)


def describe_guessing_of_parts(
    head: Head, parts: Sequence[Mapping[str, np.ndarray]], information: Sequence[Information], targets: np.ndarray
) -> str | None:
    """Return `describe_guessing` from what `Head.summarize` and `Information.of` returned for the images."""
    from scipy.special import bdtrc

    if head.task == "regression" or describe_missing_information(information):
        return None
    if head.task == "segmentation":
        right, decided, true = _sum_pixels(parts)
        hits, count, pairs = int(right.sum()), int(true.sum()), [(decided, true)]
    elif head.task == "multilabel":
        (right, said, _), unknown, _ = _sum_labels(parts)
        hits, count, true = int(right.sum()), targets.size, targets.reshape(-1, targets.shape[-1]).sum(axis=0)
        images = targets.size // targets.shape[-1]
        decided = np.stack([images - unknown - said, said], axis=1)
        pairs = list(zip(decided, np.stack([images - true, true], axis=1), strict=True))
    else:
        known = np.concatenate([part["predicted" if head.task == "classification" else "outputs"] for part in parts])
        decisions = known if head.task == "classification" else head.decisions(known)
        assert decisions is not None
        hits, count = int((decisions == targets).sum()), targets.size
        classes = 1 + int(max(decisions.max(), targets.max()))
        pairs = [tuple(np.bincount(values[values >= 0], minlength=classes) for values in (decisions, targets))]
    if not count:
        return None
    images = count / len(pairs)
    chance = float(np.mean([(decided / images) @ (true / images) for decided, true in pairs]))
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


def _count_labels(decisions: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Return what `Head.summarize` does of several labels for each image; -1 is wrong."""
    right = decisions == targets
    counted = np.stack([right, decisions == 1, (decisions == 1) & right, decisions < 0])
    counts = counted.reshape(4, -1, targets.shape[-1]).sum(axis=1)
    exact = right.reshape(len(right), -1).all(axis=1).sum()
    return {"labels": counts[:3], "unknown": counts[3], "exact": np.array([exact])}


def _sum_labels(parts: Sequence[Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the sums of what `_count_labels` returned."""
    labels, unknown, exact = (np.sum([part[name] for part in parts], axis=0) for name in ("labels", "unknown", "exact"))
    return labels, unknown, int(exact[0])


def _multilabel_scores(sums: tuple[np.ndarray, np.ndarray, int], targets: np.ndarray) -> dict[str, float | None]:
    """Return the accuracy of single labels, the share of images that are right, and the mean F1 over the labels."""
    (right, said, hits), _, exact = sums
    either = said + targets.reshape(-1, targets.shape[-1]).sum(axis=0)
    f1 = 2 * hits[either > 0] / either[either > 0]
    return {
        "accuracy": float(right.sum() / targets.size),
        "exact_match": exact / len(targets),
        "f1": float(np.mean(f1)) if len(f1) else None,
    }


def _area_under_roc(values: np.ndarray, targets: np.ndarray) -> float | None:
    """Return the probability that a yes has a larger value than a no, ties counting half; None without both."""
    positive, negative = values[targets == 1], values[targets == 0]
    if not len(positive) or not len(negative) or np.isnan(values).any():
        return None
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / 2 / len(negative))


def _regression_scores(absolute: float, square: float, targets: np.ndarray) -> dict[str, float | None]:
    """Return the mean absolute error, the root mean square error and the share of variance explained.

    Args:
        absolute, square: means of the absolute and of the squared errors.
        targets: labels.
    """
    variance = float(np.mean((targets - targets.mean(axis=0)) ** 2))
    scores = {"mae": absolute, "rmse": math.sqrt(square) if square >= 0 else math.nan}
    r2 = 1 - square / variance if variance else math.nan
    return {name: value if math.isfinite(value) else None for name, value in (scores | {"r2": r2}).items()}


def _count_pixels(decisions: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """Return the pixels of each class (3, classes) that are right, decided and true, where the class is known."""
    known = targets != IGNORED_LABEL
    decided, true = decisions[known], targets[known]
    found = true[decided == true], decided[decided >= 0], true
    return np.stack([np.bincount(values, minlength=classes) for values in found])


def _sum_pixels(parts: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Return the sum of the parts' `pixels` (3, classes), of which some may know of fewer classes."""
    total = np.zeros((3, max(part["pixels"].shape[1] for part in parts)), np.int64)
    for part in parts:
        total[:, : part["pixels"].shape[1]] += part["pixels"]
    return total


def _segmentation_scores(pixels: np.ndarray) -> dict[str, float | None]:
    """Return mean intersection over union and pixel accuracy from what `_count_pixels` returns."""
    right, decided, true = pixels
    either = decided + true - right
    shares = right[either > 0] / either[either > 0]
    accuracy = float(right.sum() / true.sum()) if true.sum() else None
    return {"mean_iou": float(np.mean(shares)) if len(shares) else None, "pixel_accuracy": accuracy}


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
