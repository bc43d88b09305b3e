"""How the outputs of an exported file compare with those of its model, and whether that is good enough."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.errors import InputError
from keras_nin.export.schemes import ROUNDING_REACH
from keras_nin.export.tolerance import ComparedTensor, closing_error, invert_closing, nominal_scale, worst_channel_rms
from keras_nin.metrics import count_top_ties, snr_db, top_k_accuracy

if TYPE_CHECKING:
    from keras_nin.export.verification import WeightDifference

# The same float32 sums in another order: an error of about sqrt(terms) * 2**-24 of the value in each layer. With 5,000
# terms a sum and 26 layers that is 1e-4 of the range, which is 255 steps: 0.03. Twice that fails.
FLOAT_LIMIT = 0.06
# In steps of 8 bits over the range of a channel. Rounding to the nearest step is half a step away, adaptive rounding
# less than `ROUNDING_REACH` and one; the scale in the file is that of the same range. A weight further off is another
# one: no image is needed to see it, and on few of them it shows, since one weight of a thousand is lost in the rounding
# of all.
WEIGHT_LIMIT = ROUNDING_REACH + 1.0


@dataclasses.dataclass(frozen=True)
class ParityLimits:
    """What a file has to reach to pass. One LSB is one quantization step.

    Attributes:
        min_top1_match: smallest share of images on which file and model predict the same class.
        max_drop: largest drop of top-1 accuracy against the model, in percentage points.
        max_rms: largest root mean square difference of a class or channel of a file with rounded weights or values, in
            LSB of the compared tensor; None takes what rounding explains (`keras_nin.export.tolerance`).
        max_error: largest difference of an output, in its LSB; None takes what rounding explains in a float32 file, and
            checks no other file.
        max_closing: largest error of a closing softmax or sigmoid, in LSB of the output; None takes what its table
            explains.
        min_snr: smallest signal-to-noise ratio of the outputs in dB; None checks none.
        max_weight: largest difference of a weight in the file from the model's, in LSB of 8 bits over its channel; None
            checks none, for files whose weights were changed on purpose.

    Top-1 match and drop are checked only where the weights are trained: the outputs of random weights lie closer
    together than one LSB. None checks neither.
    """

    min_top1_match: float | None = 0.90
    max_drop: float | None = 2.5
    max_rms: float | None = None
    max_error: float | None = None
    max_closing: float | None = None
    min_snr: float | None = None
    max_weight: float | None = WEIGHT_LIMIT

    def untrained(self) -> "ParityLimits":
        """Return the limits for random weights."""
        return dataclasses.replace(self, min_top1_match=None, max_drop=None)


@dataclasses.dataclass(frozen=True)
class ParityCheck:
    """A measured value against its limit; None stands for a value that is not finite, in a record read back."""

    name: str
    value: float | None
    limit: float
    passed: bool


@dataclasses.dataclass(frozen=True)
class Parity:
    """How an exported file compares with its model on the same images.

    Attributes:
        source: where the images come from.
        images: how many.
        lsb: one quantization step of the output: the file's output scale, or for a float file the scale that an 8-bit
            output over the model's range would have.
        max_abs_diff_lsb, mean_abs_diff_lsb, rms_diff_lsb: largest, mean and root mean square difference of the outputs,
            in LSB.
        cosine: cosine of the angle between all outputs of the file and all of the model, each as one vector and not
            centered.
        snr_db: signal-to-noise ratio of the outputs in dB: 10 log10 of the model's energy over that of the difference.
            None where nothing differs.
        logits_snr_db: the same of what goes into a closing softmax (less each image's mean, which a softmax forgets) or
            sigmoid, where that is compared.
        top1_match: share of images on which file and model predict the same class; None where the output is no vector
            of classes.
        top1_in_top5: share of images whose class in the model is among the file's five largest outputs.
        ties: images with several equal outputs at the top of the file's; the lowest class counts as its prediction.
        model_top1, file_top1, model_top5, file_top5: accuracies; None without labels (top 5: with 5 classes or fewer).
        output: name of the output, where the model has several.
        checks: values against their limits. For a float32 file "max_abs_diff_lsb". For other files "channel_rms_lsb",
            the worst channel of the output or of what goes into a closing softmax or sigmoid, in LSB of that tensor,
            and "closing_error_lsb", the error of the closing function itself. With trained weights also "top1_match"
            and "top1_drop_pp". "max_abs_diff_lsb" and "snr_db" where a limit was given. "weight_diff_lsb", the weight
            of the file that is furthest from the model's.
    """

    source: str
    images: int
    lsb: float | None
    max_abs_diff_lsb: float | None
    rms_diff_lsb: float | None
    top1_match: float | None
    model_top1: float | None
    file_top1: float | None
    model_top5: float | None
    file_top5: float | None
    checks: tuple[ParityCheck, ...]
    mean_abs_diff_lsb: float | None = None
    cosine: float | None = None
    snr_db: float | None = None
    logits_snr_db: float | None = None
    top1_in_top5: float | None = None
    ties: int | None = None
    output: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every check passes."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the record as a dictionary; rounded, so that the same command writes the same bytes again."""
        return round_floats({**dataclasses.asdict(self), "passed": self.passed})


def compare_outputs(
    reference: np.ndarray,
    output: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    compared: ComparedTensor | None = None,
    values: np.ndarray | None = None,
    source: str = "",
    limits: ParityLimits | None = None,
) -> Parity:
    """Compare the outputs of a file with those of the model.

    Args:
        reference: the model's outputs (N, ...), float.
        output: the file's outputs, same shape, dequantized.
        labels: (N,) true classes, or None.
        compared: the tensor of the file that is compared; None for a float32 file.
        values: the file's values of that tensor, same shape; None where it is the output.
        source: name of the images' source.
        limits: `ParityLimits`; None takes the defaults for random weights.

    Raises:
        InputError: the shapes differ, or a label is beyond the classes.
    """
    if reference.shape != output.shape:
        raise InputError(f"Expected outputs of shape {reference.shape[1:]}. Received: a file with {output.shape[1:]}")
    classifies = reference.ndim == 2 and reference.shape[1] > 1
    if labels is not None and classifies:
        check_labels(labels, reference.shape[1], source)
    values = output if values is None else values
    limits = limits or ParityLimits().untrained()
    with np.errstate(all="ignore"):  # NaN and infinity are found by the checks
        parity = Parity(
            source=source,
            images=len(reference),
            **_differences(reference, output, compared),
            logits_snr_db=_logits_snr(reference, values, compared),
            **(_class_matches(reference, output) if classifies else {"top1_match": None}),
            **_accuracies(reference, output, labels if classifies else None),
            checks=(),
        )
        checks = [
            *_rounding_checks(parity, reference, output, compared, values, limits),
            *_class_checks(parity, limits),
            *_requested_checks(parity, reference, output, compared, limits),
        ]
    return dataclasses.replace(parity, checks=tuple(checks))


def with_weight_check(parity: Parity, worst: "WeightDifference | None", limits: ParityLimits) -> Parity:
    """Return a `Parity` that also checks the weight furthest from the model's; None adds no check."""
    if worst is None or limits.max_weight is None:
        return parity
    check = _at_most("weight_diff_lsb", worst.lsb, limits.max_weight)
    return dataclasses.replace(parity, checks=(*parity.checks, check))


def worst_parity(parities: Sequence[Parity]) -> Parity:
    """Return the `Parity` of the worst of several outputs (one that fails, else the noisiest), with all checks."""
    worst = min(parities, key=lambda parity: (parity.passed, math.inf if parity.snr_db is None else parity.snr_db))
    return dataclasses.replace(worst, checks=tuple(check for parity in parities for check in parity.checks))


def check_labels(labels: np.ndarray, classes: int, source: str) -> None:
    """Raise `InputError` where a label is not below `classes`, the number of classes of a network."""
    largest = int(np.max(labels))
    if largest >= classes:
        raise InputError(
            f"Expected labels from 0 to {classes - 1}, one for each output of the network. "
            f"Received: {largest} in {source!r}"
        )


def _differences(reference: np.ndarray, output: np.ndarray, compared: ComparedTensor | None) -> dict[str, Any]:
    """Return the fields of `Parity` that say how far the outputs lie apart."""
    lsb = compared.lsb if compared and compared.lsb else nominal_scale(reference)
    expected, received = reference.astype(np.float64), output.astype(np.float64)
    difference = (received - expected) / lsb
    lengths = np.sqrt(np.sum(expected**2) * np.sum(received**2))
    return {
        "lsb": float(lsb),
        "max_abs_diff_lsb": float(np.abs(difference).max()),
        "mean_abs_diff_lsb": float(np.abs(difference).mean()),
        "rms_diff_lsb": float(np.sqrt(np.mean(difference**2))),
        "cosine": float(np.sum(expected * received) / lengths) if lengths else None,
        "snr_db": snr_db(expected, received),
    }


def _logits_snr(reference: np.ndarray, values: np.ndarray, compared: ComparedTensor | None) -> float | None:
    """Return the signal-to-noise ratio in dB before the closing function, None where that is not compared."""
    if compared is None or compared.closing is None:
        return None
    expected, values = invert_closing(reference, values, compared.closing), values.astype(np.float64)
    if compared.closing == "SOFTMAX":
        expected = expected - expected.mean(axis=-1, keepdims=True)
        values = values - values.mean(axis=-1, keepdims=True)
    return snr_db(expected, values)


def _class_matches(reference: np.ndarray, output: np.ndarray) -> dict[str, Any]:
    """Return the fields of `Parity` about the predicted classes; a row with NaN matches nothing."""
    finite = np.isfinite(reference).all(1) & np.isfinite(output).all(1)
    predicted = np.where(finite, reference.argmax(1), -1)
    return {
        "top1_match": float(np.mean(finite & (predicted == output.argmax(1)))),
        "top1_in_top5": top_k_accuracy(output, predicted, 5),
        "ties": count_top_ties(output),
    }


def _accuracies(reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None) -> dict[str, Any]:
    """Return the fields of `Parity` with the accuracies of the model and of the file; None without labels."""
    return {
        f"{name}_top{k}": None if labels is None else top_k_accuracy(scores, labels, k)
        for k in (1, 5)
        for name, scores in (("model", reference), ("file", output))
    }


def _rounding_checks(
    parity: Parity,
    reference: np.ndarray,
    output: np.ndarray,
    compared: ComparedTensor | None,
    values: np.ndarray,
    limits: ParityLimits,
) -> Iterator[ParityCheck]:
    """Yield the checks whose limits are derived, unless others are given."""
    if compared is None:
        limit = FLOAT_LIMIT if limits.max_error is None else limits.max_error
        yield _at_most("max_abs_diff_lsb", parity.max_abs_diff_lsb, limit)
        return
    limit = compared.limit if limits.max_rms is None else limits.max_rms
    yield _at_most("channel_rms_lsb", worst_channel_rms(reference, values, compared), limit)
    if compared.closing:
        limit = compared.closing_limit if limits.max_closing is None else limits.max_closing
        yield _at_most("closing_error_lsb", closing_error(output, values, compared), limit)


def _class_checks(parity: Parity, limits: ParityLimits) -> Iterator[ParityCheck]:
    if parity.top1_match is not None and limits.min_top1_match is not None:
        yield _at_least("top1_match", parity.top1_match, limits.min_top1_match)
    if parity.model_top1 is not None and parity.file_top1 is not None and limits.max_drop is not None:
        yield _at_most("top1_drop_pp", round(100 * (parity.model_top1 - parity.file_top1), 6), limits.max_drop)


def _requested_checks(
    parity: Parity, reference: np.ndarray, output: np.ndarray, compared: ComparedTensor | None, limits: ParityLimits
) -> Iterator[ParityCheck]:
    """Yield the checks that are made only where their limit is given."""
    if compared is not None and limits.max_error is not None:
        yield _at_most("max_abs_diff_lsb", parity.max_abs_diff_lsb, limits.max_error)
    if limits.min_snr is not None:
        exact = np.array_equal(reference, output)
        value = parity.snr_db if parity.snr_db is not None else math.inf if exact else math.nan
        yield _at_least("snr_db", value, limits.min_snr)


def _at_most(name: str, value: float | None, limit: float) -> ParityCheck:
    value = math.nan if value is None else float(value)
    return ParityCheck(name, value, float(limit), bool(value <= limit))


def _at_least(name: str, value: float, limit: float) -> ParityCheck:
    return ParityCheck(name, float(value), float(limit), bool(value >= limit))


def round_floats(value: Any) -> Any:
    """Return `value` with every float cut to five significant digits; JSON has no NaN or infinity, they become None."""
    if isinstance(value, dict):
        return {key: round_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [round_floats(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
