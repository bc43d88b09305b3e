"""How the outputs of an exported file compare with those of its model, and whether that is good enough."""

import dataclasses
import math

import numpy as np

from keras_nin.errors import InputError
from keras_nin.export import tolerance
from keras_nin.export.schemes import ROUNDING_REACH
from keras_nin.metrics import count_top_ties, snr_db, top_k_accuracy

WEIGHT_LIMIT = ROUNDING_REACH + 1.0

# The same float32 sums in another order: an error of about sqrt(terms) * 2**-24 of the value in each layer. With 5,000
# terms a sum and 26 layers that is 1e-4 of the range, which is 255 steps: 0.03. Twice that fails.
FLOAT_LIMIT = 0.06


@dataclasses.dataclass(frozen=True)
class ParityLimits:
    """What a file has to hold to pass.

    Attributes:
        min_top1_match: smallest share of images on which the largest output is the same as the model's.
        max_drop: largest loss of top-1 accuracy against the model, in points.
        max_rms: largest root mean square difference of a class or channel of a file with rounded weights or values, in
            steps of the tensor that is judged; None takes what rounding explains (`keras_nin.export.tolerance`).
        max_error: largest difference of an output, in its steps; None takes what rounding explains in a float32 file,
            and judges no other.
        max_closing: largest error of a closing softmax or sigmoid, in steps of the output; None takes what its table
            explains.
        min_snr: smallest signal to noise of the outputs in dB; None judges none.
        max_weight: largest difference of a weight in the file from the model's, in steps of 8 bits over its channel;
            None judges none, for files whose weights were changed on purpose.

    Agreement and drop are judged only where the weights are trained: the outputs of random weights lie closer together
    than one step. None judges neither.
    """

    min_top1_match: float | None = 0.90
    max_drop: float | None = 2.5
    max_rms: float | None = None
    max_error: float | None = None
    max_closing: float | None = None
    min_snr: float | None = None
    max_weight: float | None = WEIGHT_LIMIT

    def untrained(self):
        """Return the limits for random weights."""
        return dataclasses.replace(self, min_top1_match=None, max_drop=None)


@dataclasses.dataclass(frozen=True)
class ParityCheck:
    """One comparison of a measured value with its limit; `holds` says whether it is on the right side."""

    name: str
    value: float
    limit: float
    passed: bool


@dataclasses.dataclass(frozen=True)
class Parity:
    """How an exported file compares with its model on the same images.

    Attributes:
        source: where the images come from.
        images: how many.
        step: one quantisation step of the output: the file's output scale, or for a float file what the scale of an
            8-bit output over the model's range would be.
        max_abs_diff_lsb, mean_abs_diff_lsb, rms_diff_lsb: largest, mean and root mean square difference of the outputs, in steps.
        cosine: cosine of the angle between all outputs of the file and all of the model, each as one vector and not
            centred.
        snr_db: signal to noise of the outputs in dB: 10 log10 of the model's energy over that of the difference. None
            where nothing differs.
        logits_snr_db: the same of what goes into a closing softmax (less each image's mean, which a softmax forgets) or
            sigmoid, where that is judged.
        agreement: share of images with the same largest output; None where the output is no vector of classes.
        top1_in_top5: share of images whose largest output in the model is among the file's five largest.
        ties: images with several equal outputs at the top of the file's; the lowest class counts as its answer.
        model_top1, file_top1, model_top5, file_top5: accuracies; None without labels (top 5: with 5 classes or fewer).
        output: name of the output, where the model has several.
        checks: what was judged, with its limits. Of a float32 file "max_abs_diff_lsb". Of other files "channel_rms_lsb", the
            worst channel of the output or of what goes into a closing softmax or sigmoid, in steps of that tensor, and
            "closing_error_lsb", the error of the closing function itself. With trained weights also "top1_match" and
            "top1_drop_pp". "max_abs_diff_lsb" and "snr_db" where a limit was given. "weight_diff_lsb", the weight of the
            file that is furthest from the model's.
    """

    source: str
    images: int
    step: float
    max_abs_diff_lsb: float
    rms_diff_lsb: float
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
    def passed(self):
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    def to_json(self):
        """Return the record as a dictionary; rounded, so that the same command writes the same bytes again."""
        return round_floats({**dataclasses.asdict(self), "passed": self.passed})


def compare_outputs(reference, output, labels=None, *, place=None, values=None, source="", limits=None):
    """Compare the outputs of a file with those of the model.

    Args:
        reference: the model's outputs (N, ...), float.
        output: the file's outputs, same shape, dequantised.
        labels: (N,) true classes, or None.
        place: the `keras_nin.export.tolerance.ComparedTensor` tensor of the file; None for a float32 file.
        values: the file's values there, same shape; None where `place` is the output.
        source: name of the images' source.
        limits: `Limits`; None takes the defaults for random weights.

    Returns:
        `Parity`.

    Raises:
        InputError: the shapes differ, or a label is beyond the classes.
    """
    if reference.shape != output.shape:
        raise InputError(f"Expected outputs of shape {reference.shape[1:]}. Received: a file with {output.shape[1:]}")
    classes = reference.ndim == 2 and reference.shape[1] > 1
    scored = labels is not None and classes
    if scored:
        check_labels(labels, reference.shape[1], source)
    values = output if values is None else values
    limits = limits or ParityLimits().untrained()
    with np.errstate(all="ignore"):  # NaN and infinity are found by the checks
        parity = Parity(
            source=source,
            images=len(reference),
            **_differences(reference, output, place),
            logits_snr_db=_inner_snr(reference, values, place),
            **(_class_matches(reference, output) if classes else {"top1_match": None}),
            model_top1=top_k_accuracy(reference, labels, 1) if scored else None,
            file_top1=top_k_accuracy(output, labels, 1) if scored else None,
            model_top5=top_k_accuracy(reference, labels, 5) if scored else None,
            file_top5=top_k_accuracy(output, labels, 5) if scored else None,
            checks=(),
        )
        checks = [
            *_rounding_checks(parity, reference, output, place, values, limits),
            *_class_checks(parity, limits),
            *_requested_checks(parity, reference, output, place, limits),
        ]
    return dataclasses.replace(parity, checks=tuple(checks))


def with_weight_check(parity, worst, limits):
    """Return a `Parity` that also says how far a weight is from the model's.

    Args:
        parity: `Parity`.
        worst: `keras_nin.export.verification.WeightDifference`; None changes nothing.
        limits: `Limits`.
    """
    if worst is None or limits.max_weight is None:
        return parity
    check = _at_most("weight_diff_lsb", worst.steps, limits.max_weight)
    return dataclasses.replace(parity, checks=(*parity.checks, check))


def worst_parity(parities):
    """Return the `Parity` of the worst of several outputs (one that fails, else the noisiest), with all checks."""
    worst = min(parities, key=lambda each: (each.passed, math.inf if each.snr_db is None else each.snr_db))
    return dataclasses.replace(worst, checks=tuple(check for each in parities for check in each.checks))


def check_labels(labels, classes, source):
    """Raise `InputError` where one of `labels` is none of the `classes` (a number) of a network."""
    largest = int(np.max(labels))
    if largest >= classes:
        raise InputError(
            f"Expected labels from 0 to {classes - 1}, one for each output of the network. "
            f"Received: {largest} in {source!r}"
        )


def _differences(reference, output, place):
    """Return the fields of `Parity` that say how far the outputs lie apart."""
    step = place.step if place and place.step else tolerance.nominal_step(reference)
    expected, received = reference.astype(np.float64), output.astype(np.float64)
    difference = (received - expected) / step
    lengths = np.sqrt(np.sum(expected**2) * np.sum(received**2))
    return {
        "step": float(step),
        "max_abs_diff_lsb": float(np.abs(difference).max()),
        "mean_abs_diff_lsb": float(np.abs(difference).mean()),
        "rms_diff_lsb": float(np.sqrt(np.mean(difference**2))),
        "cosine": float(np.sum(expected * received) / lengths) if lengths else None,
        "snr_db": snr_db(expected, received),
    }


def _inner_snr(reference, values, place):
    """Return the signal to noise in dB before the closing function, None where none is judged."""
    if place is None or place.closing is None:
        return None
    expected, values = tolerance.invert_closing(reference, values, place.closing), values.astype(np.float64)
    if place.closing == "SOFTMAX":
        expected = expected - expected.mean(axis=-1, keepdims=True)
        values = values - values.mean(axis=-1, keepdims=True)
    return snr_db(expected, values)


def _class_matches(reference, output):
    """Return the fields of `Parity` about the largest outputs; a row with NaN agrees with nothing."""
    finite = np.isfinite(reference).all(1) & np.isfinite(output).all(1)
    best = np.where(finite, reference.argmax(1), -1)
    return {
        "top1_match": float(np.mean(finite & (best == output.argmax(1)))),
        "top1_in_top5": top_k_accuracy(output, best, 5),
        "ties": count_top_ties(output),
    }


def _rounding_checks(parity, reference, output, place, values, limits):
    """Yield the checks whose limits are derived, unless others are given."""
    if place is None:
        yield _at_most(
            "max_abs_diff_lsb", parity.max_abs_diff_lsb, FLOAT_LIMIT if limits.max_error is None else limits.max_error
        )
        return
    limit = place.limit if limits.max_rms is None else limits.max_rms
    yield _at_most("channel_rms_lsb", tolerance.worst_channel_rms(reference, values, place), limit)
    if place.closing:
        limit = place.closing_limit if limits.max_closing is None else limits.max_closing
        yield _at_most("closing_error_lsb", tolerance.closing_error(output, values, place), limit)


def _class_checks(parity, limits):
    if parity.top1_match is not None and limits.min_top1_match is not None:
        yield _at_least("top1_match", parity.top1_match, limits.min_top1_match)
    if parity.file_top1 is not None and limits.max_drop is not None:
        drop = round(100 * (parity.model_top1 - parity.file_top1), 6)
        yield _at_most("top1_drop_pp", drop, limits.max_drop)


def _requested_checks(parity, reference, output, place, limits):
    """Yield the checks that are made only where their limit is given."""
    if place is not None and limits.max_error is not None:
        yield _at_most("max_abs_diff_lsb", parity.max_abs_diff_lsb, limits.max_error)
    if limits.min_snr is not None:
        exact = np.array_equal(reference, output)
        value = parity.snr_db if parity.snr_db is not None else math.inf if exact else math.nan
        yield _at_least("snr_db", value, limits.min_snr)


def _at_most(name, value, limit):
    return ParityCheck(name, float(value), float(limit), bool(value <= limit))


def _at_least(name, value, limit):
    return ParityCheck(name, float(value), float(limit), bool(value >= limit))


def round_floats(value):
    """Return `value` with every float cut to five significant digits; JSON has no NaN or infinity, they become None."""
    if isinstance(value, dict):
        return {key: round_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [round_floats(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
