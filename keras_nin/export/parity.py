"""How the outputs of an exported file compare with those of its model, and how far apart rounding alone brings them."""

import dataclasses
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_nin.errors import input_error
from keras_nin.export.schemes import ROUNDING_REACH
from keras_nin.heads import MATCHES, Head, drop_check, score_drop
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, check_result, single_end
from keras_nin.metrics import count_top_ties, snr_db, top_k_accuracy
from keras_nin.tflite.records import FLOAT_DTYPES, TFLiteModel, TFLiteOperator, TFLiteSubgraph, TFLiteTensor

DROP_ENDINGS = ("_drop_pp", "_rise_pp")  # of checks that compare a score with that of the model
CAST_OPERATORS = ("QUANTIZE", "DEQUANTIZE")
CLOSING = ("SOFTMAX", "LOGISTIC")
# The same float32 sums in another order: an error of about sqrt(terms) * 2**-24 of the value in each layer. With 5,000
# terms a sum and 26 layers that is 1e-4 of the range, which is 255 steps: 0.03. Twice that fails.
FLOAT_LIMIT = 0.06
# In steps of 8 bits over the range of a channel. Rounding to the nearest step is half a step away, adaptive rounding
# less than `ROUNDING_REACH` and one; the scale in the file is that of the same range. A weight further off is another
# one: no image is needed to see it, and on few of them it shows, since one weight of a thousand is lost in the rounding
# of all.
WEIGHT_LIMIT = ROUNDING_REACH + 1.0
# The largest error of a closing softmax or sigmoid in steps of the output: its table and the rounding give up to one,
# and 1 itself is stored as 255/256, one step less.
CLOSING_LIMIT = 2.0
# What an operator adds to the variance of the error, in squared steps of 8 bits over the range of its output. Rounding
# a value to a whole step adds 1/12; weights of 8 bits add about as much again.
_ROUNDING = 1 / 6
_WEIGHT_ROUNDING = 1 / 12
# Weights of 4 bits have 7 levels on a side where 8 bits have 127.
_INT4_WEIGHT_ROUNDING = (127 / 7) ** 2 / 12
# Half precision keeps 11 bits of a weight: a relative error of at most 2**-11, 2**-11 / sqrt(3) * 0.74 = 2.1e-4 root
# mean square, which the sum of products keeps. Six standard deviations being the range, one is 42 steps.
_FLOAT16_ROUNDING = (255 / 6 * 2.1e-4) ** 2
# Of class indices, whose differences mean nothing.
_NO_DIFFERENCES = dict.fromkeys(("lsb", "max_abs_diff_lsb", "rms_diff_lsb"))
_CHANCE = "it holds class indices without scores that can be compared, and those of random weights are left to chance"
_INT16_STEPS = 65535 / 255  # steps of 16 bits in one step of 8 bits over the same range
# Beyond these a float32 probability no longer says what went into the softmax or the sigmoid.
_MIN_PROBABILITY = 1e-30
_MAX_PROBABILITY = 1 - 1e-4
# The error is one of the values and not of what differs between them: below this share of their size no range counts.
_MIN_RANGE = 0.1


@dataclasses.dataclass(frozen=True)
class ParityLimits:
    """What a file has to reach to pass. One LSB is one quantization step.

    Match and drop are checked only where the weights are trained: the outputs of random weights lie closer together
    than one LSB. None checks neither.

    Attributes:
        min_top1_match: smallest share of images, labels or pixels on which file and model predict the same.
        max_drop: largest drop of the score against the model, in percentage points: of top-1 accuracy, of the accuracy
            of a binary output, of the F1 of a multi-label one, of the mean IoU of a mask; of a regression the largest
            rise of the root mean square error, in % of the standard deviation of the labels.
        max_rms: largest root mean square difference of a class or channel of a file with rounded weights or values, in
            LSB of the compared tensor; None takes what rounding explains.
        max_error: largest difference of an output, in its LSB; None takes what rounding explains in a float32 file, and
            checks no other file.
        max_closing: largest error of a closing softmax or sigmoid, in LSB of the output; None takes what its table
            explains.
        min_snr: smallest signal-to-noise ratio of the outputs in dB; None checks none.
        max_weight: largest difference of a weight in the file from the model's, in LSB of 8 bits over its channel; None
            checks none, for files whose weights were changed on purpose.
    """

    min_top1_match: float | None = 0.90
    max_drop: float | None = 2.5
    max_rms: float | None = None
    max_error: float | None = None
    max_closing: float | None = None
    min_snr: float | None = None
    max_weight: float | None = WEIGHT_LIMIT

    def with_required(self, limits: Iterable[Limit]) -> "ParityLimits":
        """Return the limits with those of `PARITY_LIMITS` that are required in place of the defaults."""
        ends = {
            limit.item: float(single_end(limit, argument="require")) for limit in limits if limit.item in PARITY_LIMITS
        }
        return dataclasses.replace(self, **{PARITY_LIMITS[item][0]: end for item, end in ends.items()})

    def untrained(self) -> "ParityLimits":
        """Return the limits for random weights."""
        return dataclasses.replace(self, min_top1_match=None, max_drop=None)


# What `--require` calls the limits: the field, and the name of its check.
PARITY_LIMITS: dict[LimitItem, tuple[str, str]] = {
    LimitItem("top1_match", Unit.SHARE, at_least=True): ("min_top1_match", "top1_match"),
    LimitItem("top1_drop", Unit.POINTS): ("max_drop", "top1_drop_pp"),
    LimitItem("rms", Unit.STEPS): ("max_rms", "channel_rms_lsb"),
    LimitItem("max_error", Unit.STEPS): ("max_error", "max_abs_diff_lsb"),
    LimitItem("closing", Unit.STEPS): ("max_closing", "closing_error_lsb"),
    LimitItem("weight", Unit.STEPS): ("max_weight", "weight_diff_lsb"),
    LimitItem("snr", Unit.DECIBELS, at_least=True): ("min_snr", "snr_db"),
}


@dataclasses.dataclass(frozen=True)
class ParityCheck:
    """A measured value against its limit; None stands for a value that is not finite, in a record read back.

    `output` is the name of the output that was checked, where the model has several.
    """

    name: str
    value: float | None
    limit: float
    passed: bool
    output: str | None = None


@dataclasses.dataclass(frozen=True)
class Parity:
    """How an exported file compares with its model on the same images.

    Attributes:
        lsb: one quantization step of the output: the file's output scale, or for a float file the scale that an 8-bit
            output over the model's range would have.
        max_abs_diff_lsb, mean_abs_diff_lsb, rms_diff_lsb: largest, mean and root mean square difference of the outputs.
        cosine: of the angle between all outputs of the file and all of the model, each as one vector and not centered.
        snr_db: signal-to-noise ratio of the outputs, the model's energy over that of the difference; None where nothing
            differs.
        logits_snr_db: the same of what goes into a closing softmax (less each image's mean, which a softmax forgets) or
            sigmoid, where that is compared.
        top1_match: share of images on which file and model predict the same class; None where the output is no vector
            of classes.
        top1_in_top5: share of images whose class in the model is among the file's five largest outputs.
        ties: images with several equal outputs at the top of the file's; the lowest class counts as its prediction.
        model_top1, file_top1, model_top5, file_top5: accuracies; None without labels (top 5: with 5 classes or fewer).
        output: name of the output, where the model has several.
        task: what the output means, as `keras_nin.heads.Head` has it.
        match: share of images, labels or pixels on which file and model decide the same; None of a regression.
        scores: the scores of the model and of the file by name, as `Head.scores` returns them; None without labels.
        no_verdict: why nothing can be said of the file: the model's outputs carry no information; else None.
        guessing: the model's own score, where its weights are trained and it is no better than guessing; else None.
        outputs: the `Parity` of each output, where the model has several; this one is then that of the worst.
        checks: values against their limits. For a float32 file "max_abs_diff_lsb". For other files "channel_rms_lsb",
            the worst channel of the output or of what goes into a closing softmax or sigmoid, in LSB of that tensor,
            and "closing_error_lsb", the error of the closing function itself. With trained weights also "top1_match"
            ("decision_match", "pixel_match") and "top1_drop_pp" ("accuracy_drop_pp", "f1_drop_pp", "mean_iou_drop_pp",
            "rmse_rise_pp"). Behind an argmax whose scores are compared "argmax_match", the share of the file's classes
            that are those of its own largest scores. "max_abs_diff_lsb" and "snr_db" where a limit was given.
            "weight_diff_lsb", the weight of the file that is furthest from the model's.
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
    task: str | None = None
    match: float | None = None
    scores: dict[str, dict[str, float | None]] | None = None
    no_verdict: str | None = None
    guessing: str | None = None
    outputs: tuple["Parity", ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passes, on outputs that carry information."""
        return self.no_verdict is None and all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the record as a dictionary; rounded, so that the same command writes the same bytes again."""
        return round_floats({**dataclasses.asdict(self), "passed": self.passed})


def round_floats(value: Any) -> Any:
    """Return `value` with every float cut to five significant digits; JSON has no NaN or infinity, they become None."""
    if isinstance(value, dict):
        return {key: round_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [round_floats(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


@dataclasses.dataclass(frozen=True)
class ComparedTensor:
    """The tensor of a file with rounded weights or values that is compared with the model.

    It is the output, except where a softmax or sigmoid closes the network: then it is what goes into that. Behind it,
    steps of 1/256 hide most of a network with many classes or small outputs, and the errors of a few classes grow with
    the probabilities.

    Attributes:
        closing: "SOFTMAX", "LOGISTIC", or None where the tensor is the output.
        lsb: scale of the file's output; None where that is in floating point.
        limit: largest root mean square difference of a channel, in steps of the tensor; for a tensor in floating point
            in the steps that 8 bits over its range would have.
        closing_limit: largest error of the closing function, in steps of the output.
    """

    tensor: TFLiteTensor
    closing: str | None
    lsb: float | None
    limit: float
    closing_limit: float


def compare_outputs(
    reference: np.ndarray,
    output: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    compared: ComparedTensor | None = None,
    values: np.ndarray | None = None,
    source: str = "",
    limits: ParityLimits | None = None,
    head: Head | None = None,
) -> Parity:
    """Compare the outputs of a file with those of the model.

    Args:
        reference, output: outputs (N, ...) of the model and of the file, dequantized.
        labels: labels (N, ...) of the output, or None.
        compared: the tensor of the file that is compared; None for a float32 file.
        values: the file's values of that tensor, same shape; None where it is the output.
        source: name of the images' source.
        limits: None takes the defaults for random weights.
        head: what the output means; None takes several values for classes, and others for a regression.

    Raises:
        InputError: the shapes differ, or the labels do not fit the output.
    """
    if reference.shape != output.shape:
        raise input_error(f"outputs of shape {reference.shape[1:]}", f"a file with {output.shape[1:]}")
    if head is None:
        is_vector = reference.ndim == 2 and reference.shape[1] > 1
        head = Head(None, "classification" if is_vector else "regression", reference.shape[1:])
    targets = None if labels is None else head.check_targets(labels, source)
    values = output if values is None else values
    limits = limits or ParityLimits().untrained()
    is_chance = head.is_index and limits.min_top1_match is None
    with np.errstate(all="ignore"):  # NaN and infinity are found by the checks
        scores = targets is not None and {
            name: head.scores(outputs, targets) for name, outputs in (("model", reference), ("file", output))
        }
        accuracies: dict[str, Any] = {
            f"{name}_{top}": scores[name].get(top) if scores else None
            for top in ("top1", "top5")
            for name in ("model", "file")
        }
        parity = Parity(
            source=source,
            images=len(reference),
            **(_NO_DIFFERENCES if head.is_index else _differences(reference, output, compared)),
            logits_snr_db=None if head.is_index else _logits_snr(reference, values, compared),
            **_decision_matches(reference, output, head),
            **accuracies,
            checks=(),
            output=head.name,
            task=head.task,
            scores=scores or None,
            no_verdict=_CHANCE if is_chance else head.describe_missing_information(reference),
        )  # fmt: skip
        spread = 0.0 if targets is None else float(np.std(targets))
        checks = _checks(parity, reference, output, compared, values, limits, head, spread)
        named = (dataclasses.replace(check, output=head.name) for check in checks)
        return dataclasses.replace(parity, checks=() if parity.no_verdict else tuple(named))


def worst_parity(parities: Sequence[Parity]) -> Parity:
    """Return the `Parity` of the worst of several outputs (one that fails, else the noisiest), with all checks."""
    if len(parities) == 1:
        return parities[0]
    worst = min(parities, key=lambda parity: (parity.passed, math.inf if parity.snr_db is None else parity.snr_db))
    silent = [f"output {parity.output!r}: {parity.no_verdict}" for parity in parities if parity.no_verdict]
    checks = tuple(check for parity in parities for check in parity.checks)
    return dataclasses.replace(worst, checks=checks, no_verdict="; ".join(silent) or None, outputs=tuple(parities))


def _differences(reference: np.ndarray, output: np.ndarray, compared: ComparedTensor | None) -> dict[str, Any]:
    """Return the fields of `Parity` that say how far the outputs lie apart."""
    lsb = compared.lsb if compared and compared.lsb else _nominal_scale(reference)
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
    pair = _invert_closing(reference, values, compared.closing), values.astype(np.float64)
    if compared.closing == "SOFTMAX":
        pair = tuple(logits - logits.mean(axis=-1, keepdims=True) for logits in pair)
    return snr_db(*pair)


def _decision_matches(reference: np.ndarray, output: np.ndarray, head: Head) -> dict[str, Any]:
    """Return the fields of `Parity` about what the outputs decide; what is not finite matches nothing."""
    if head.is_index:
        expected, received = head.decisions(reference), head.decisions(output)
    else:
        expected = head.decisions(np.where(np.isfinite(reference), reference, np.nan))
        received = head.decisions(np.where(np.isfinite(output), output, np.nan))
    if expected is None or received is None:
        return {"top1_match": None}
    match = float(np.mean((expected == received) & (expected >= 0)))
    if head.task != "classification":
        return {"top1_match": None, "match": match}
    if head.is_index:
        return {"top1_match": match, "match": match, "ties": 0}
    flat = output.reshape(len(output), -1)
    return {
        "top1_match": match,
        "match": match,
        "top1_in_top5": top_k_accuracy(flat, expected, 5),
        "ties": count_top_ties(flat),
    }


def _checks(
    parity: Parity,
    reference: np.ndarray,
    output: np.ndarray,
    compared: ComparedTensor | None,
    values: np.ndarray,
    limits: ParityLimits,
    head: Head,
    spread: float,
) -> Iterator[ParityCheck]:
    """Yield first the checks whose limits are derived, unless others are given, last those that need a given limit."""

    def derived(limit: float, given: float | None) -> float:
        return limit if given is None else given

    if head.is_index:
        compared = None
    elif compared is None:
        yield check_value("max_abs_diff_lsb", parity.max_abs_diff_lsb, derived(FLOAT_LIMIT, limits.max_error))
    else:
        rms = worst_channel_rms(reference, values, compared)
        yield check_value("channel_rms_lsb", rms, derived(compared.limit, limits.max_rms))
        if compared.closing:
            limit = derived(compared.closing_limit, limits.max_closing)
            yield check_value("closing_error_lsb", closing_error(output, values, compared), limit)
    if parity.match is not None and limits.min_top1_match is not None:
        yield check_value(MATCHES[head.task], parity.match, limits.min_top1_match, at_least=True)
    if parity.scores is not None and limits.max_drop is not None:
        drop = score_drop(head, parity.scores["model"], parity.scores["file"], spread)
        if drop is not None:
            yield check_value(drop_check(head), drop, limits.max_drop)
    if compared is not None and limits.max_error is not None:
        yield check_value("max_abs_diff_lsb", parity.max_abs_diff_lsb, limits.max_error)
    if limits.min_snr is not None and not head.is_index:
        exact = np.array_equal(reference, output)
        value = parity.snr_db if parity.snr_db is not None else math.inf if exact else math.nan
        yield check_value("snr_db", value, limits.min_snr, at_least=True)


def check_value(name: str, value: float | None, limit: float, *, at_least: bool = False) -> ParityCheck:
    """Return the check of a value against its largest, or its least; None is a value that is not finite."""
    value = math.nan if value is None else float(value)
    return ParityCheck(name, value, float(limit), bool(value >= limit if at_least else value <= limit))


# What is compared, and what rounding explains


def find_compared_tensor(tflite: TFLiteModel, output: int = 0) -> ComparedTensor | None:
    """Return the `ComparedTensor` of an output of a file, by its index; None where nothing in the file is rounded.

    The limit of a softmax of 16 bits is wide: it cuts its table of exponentials off at exp(-10), which is stored as two
    steps, so that every class further below the largest counts two steps into the sum, whatever it is (measured: 19
    steps with 10 classes, 196 with 100, 1,884 with 1,000). Interpolation and rounding give up to 2.5 more with two.
    """
    main = tflite.main
    tensor = _behind_casts(main, main.tensors[main.outputs[output]])
    variance = sum(map(_rounding_variance, tflite.subgraphs))
    if tensor.scale is None and not variance:
        return None
    producer = main.producers.get(tensor.index)
    closing, compared = None, tensor
    if producer is not None and producer.op in CLOSING:
        closing, compared = producer.op, _behind_casts(main, main.tensors[producer.inputs[0]])
    has_wide_table = closing == "SOFTMAX" and tensor.dtype == "int16"
    return ComparedTensor(
        tensor=compared,
        closing=closing,
        lsb=tensor.scale,
        limit=8 * math.sqrt(variance or _ROUNDING) * (_INT16_STEPS if compared.dtype == "int16" else 1),
        closing_limit=2.0 * tensor.shape[-1] + 2 if has_wide_table else CLOSING_LIMIT,
    )


def _behind_casts(main: TFLiteSubgraph, tensor: TFLiteTensor) -> TFLiteTensor:
    """Return the integer tensor that casts at the end of the file pass on, or `tensor` itself."""
    producer = main.producers.get(tensor.index)
    while producer is not None and producer.op in CAST_OPERATORS:
        source = main.tensors[producer.inputs[0]]
        if source.scale is None or source.is_constant:
            break
        tensor, producer = source, main.producers.get(source.index)
    return tensor


def _rounding_variance(main: TFLiteSubgraph) -> float:
    """Return the variance that rounding adds up to over a subgraph, in squared steps of 8 bits; 0 for a float32 one.

    Later layers carry an error on at the scale of their own range: n operators give n / 6. The limit is eight times the
    root of that; docs/concepts/parity.md has the measurements behind it.
    """
    constants = _constant_dtypes(main)
    return sum(
        _added_variance(main, operator, set().union(*(constants.get(index, ()) for index in operator.inputs)))
        for operator in main.operators
        if operator.outputs and not all(index in constants for index in operator.outputs)
    )


def _added_variance(main: TFLiteSubgraph, operator: TFLiteOperator, stored: set[str]) -> float:
    """Return what one operator adds, whose constants have the data types `stored`.

    Values of 16 bits are exact beside weights of 8 bits. Weights of 8 bits with values in floating point are multiplied
    with an input that is rounded to 8 bits as it arrives.
    """
    output = main.tensors[operator.outputs[0]]
    coarse = _INT4_WEIGHT_ROUNDING if "int4" in stored else 0.0
    if output.scale is not None and output.dtype != "int16":
        return _ROUNDING + coarse
    if operator.op in CAST_OPERATORS or not stored & {"int4", "int8", "uint8", "float16"}:
        return 0
    if output.scale is not None:
        return _WEIGHT_ROUNDING + coarse
    return _ROUNDING + coarse if stored & {"int4", "int8", "uint8"} else _FLOAT16_ROUNDING


def _constant_dtypes(main: TFLiteSubgraph) -> dict[int, set[str]]:
    """Return the data types in which a file stores the constant that arrives at a tensor, through any operators.

    Of integers only those that stand for real numbers count. A tensor that depends on the input is not in the result.
    """
    dtypes = {
        tensor.index: {tensor.dtype} if tensor.dtype in FLOAT_DTYPES or tensor.scale is not None else set()
        for tensor in main.tensors
        if tensor.is_constant
    }
    for operator in main.operators:
        sources = [index for index in operator.inputs if index >= 0]
        if sources and all(index in dtypes for index in sources):
            dtypes |= dict.fromkeys(operator.outputs, set().union(*(dtypes[index] for index in sources)))
    return dtypes


# Differences of a tensor; `reference` are the model's outputs (N, ..., channels), `values` the file's at the tensor


def worst_channel_rms(reference: np.ndarray, values: np.ndarray, compared: ComparedTensor) -> float:
    """Return the largest root mean square difference of a channel (last axis) at a tensor, in its steps.

    It is NaN where the reference or the values are not all finite.
    """
    expected = _invert_closing(reference, values, compared.closing)
    scale = compared.tensor.scale
    if scale is None:
        scale = _nominal_scale(expected[_invertible(reference, compared.closing)])
    squares = ((values - expected) / scale) ** 2
    return float(np.sqrt(squares.mean(axis=tuple(range(squares.ndim - 1))).max()))


def closing_error(output: np.ndarray, values: np.ndarray, compared: ComparedTensor) -> float:
    """Return the largest difference of the file's closing softmax or sigmoid from the exact one, in output steps.

    `output` has the file's outputs; those in floating point are measured in steps of 1/256.
    """
    exact = apply_closing(values, compared.closing)
    return float(np.abs(output - exact).max() / (compared.lsb or 1 / 256))


def apply_closing(values: np.ndarray, closing: str | None) -> np.ndarray:
    """Return the exact softmax over the last axis, or the sigmoid, of values, float64."""
    values = values.astype(np.float64)
    if closing != "SOFTMAX":
        return 1 / (1 + np.exp(-values))
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _nominal_scale(values: np.ndarray) -> float:
    """Return the scale that 8 bits over the range of `values` would have."""
    spread = float(values.max()) - float(values.min())
    size = float(np.abs(values).max())
    return float(np.maximum(np.maximum(spread, _MIN_RANGE * size), np.finfo(np.float32).tiny)) / 255


def _invertible(outputs: np.ndarray, closing: str | None) -> np.ndarray:
    """Return where outputs say what went into the closing function; everywhere if they do so nowhere."""
    known = np.full(outputs.shape, True)
    if closing:
        known = (outputs >= _MIN_PROBABILITY) & ((outputs <= _MAX_PROBABILITY) | (closing == "SOFTMAX"))
    return known if known.any() else ~known


def _invert_closing(reference: np.ndarray, values: np.ndarray, closing: str | None) -> np.ndarray:
    """Return what went into the closing function, float64; where the outputs do not say it, `values` if they may be."""
    reference, values = reference.astype(np.float64), values.astype(np.float64)
    if closing is None:
        return reference
    if closing == "LOGISTIC":
        inside = np.clip(reference, _MIN_PROBABILITY, _MAX_PROBABILITY)
        logits = np.log(inside) - np.log1p(-inside)
        logits = np.where(reference < _MIN_PROBABILITY, np.minimum(logits, values), logits)
        return np.where(reference > _MAX_PROBABILITY, np.maximum(logits, values), logits)
    known = reference >= _MIN_PROBABILITY
    logits = np.where(np.isnan(reference), np.nan, np.log(np.maximum(reference, _MIN_PROBABILITY)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row of NaN gives NaN, and a warning
        # A softmax forgets a constant of each row: the one that brings most of the row to `values`.
        logits += np.nanmedian(np.where(known, values - logits, np.nan), axis=-1, keepdims=True)
    return np.where(known | np.isnan(logits), logits, np.minimum(logits, values))


def check_parity_limit(parity: Parity, limit: Limit, *, subject: str) -> LimitCheck:
    """Return the check of a limit on one of `PARITY_LIMITS`, of several outputs one that fails.

    What was not measured does not pass. The limits on top-1 match and drop are those of other tasks too.
    """
    name = PARITY_LIMITS[limit.item][1]
    names = MATCHES.values() if name == "top1_match" else (name,)
    is_drop = name.endswith(DROP_ENDINGS)
    checks = [
        check for check in parity.checks if check.name in names or (is_drop and check.name.endswith(DROP_ENDINGS))
    ]
    check = min(checks, key=lambda check: check.passed, default=None)
    if check is None:
        reason = "not checked: it needs trained weights and labels, or another kind of file"
        return check_limit(limit, None, reason=reason, subject=subject)
    return check_result(limit, check.value, check.passed, subject=subject)
