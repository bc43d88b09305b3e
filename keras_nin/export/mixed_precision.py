"""Mixed precision: files whose operators are 8-bit or float32, how good they are, and which of them a target takes."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from keras_nin.errors import InputError, expected_error, input_error, suggest_names
from keras_nin.export.parity import CAST_OPERATORS, CLOSING
from keras_nin.export.tuning import SAME_SCALE_OPERATORS
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, parse_limits, single_end
from keras_nin.output_capture import capture_output
from keras_nin.tflite.float_file import FloatFile
from keras_nin.tflite.reader import read_model
from keras_nin.tflite.records import TFLiteSubgraph, TFLiteTensor

MATCH, DROP = LimitItem("match", Unit.SHARE, at_least=True), LimitItem("top1_drop", Unit.POINTS)
SNR = LimitItem("snr", Unit.DECIBELS, at_least=True)
SLOWDOWN, FLASH = LimitItem("slowdown", Unit.FACTOR), LimitItem("flash", Unit.BYTES)
TARGET_ITEMS = (MATCH, DROP, SNR, SLOWDOWN, FLASH)
_ACCURACY_ITEMS = (MATCH, DROP, SNR)
# Classes whose order an error may change; those further down do not become the largest.
_RANKS, _RIVALS = 20, 4
_NEAR_SHARE = 0.15  # of the images, those that tell how many others are near another class
_NORMAL_95 = 1.645
_SAME_LATENCY = 1.02  # of two files as fast as each other the smaller one is chosen


class UnreachableTargetError(InputError):
    """No file of the search reaches the target: a check that was asked for fails, exit status 1."""

    exit_status = 1


def parse_target(text: str) -> tuple[Limit, ...]:
    """Return the limits of a target such as ``"match=98%"`` or ``"top1_drop=0.5pp,slowdown=1.25x"``.

    Raises:
        InputError: not such limits, none on accuracy, or one that any file or none reaches.
    """
    if not isinstance(text, str):
        raise expected_error("target", "to be limits such as match=98% or top1_drop=0.5pp", text)
    limits = parse_limits(text, TARGET_ITEMS, argument="target")
    ends = {limit.item: single_end(limit, argument="target") for limit in limits}
    if len(ends) < len(limits):
        raise expected_error("target", "to give each item once", text)
    if not any(item in _ACCURACY_ITEMS for item in ends):
        raise expected_error("target", f"to limit one of {', '.join(item.name for item in _ACCURACY_ITEMS)}", text)
    if ends.get(MATCH, 1) == 0 or ends.get(DROP, 0) >= 100:
        raise expected_error("target", "to be one that not every file reaches", text)
    if 0 in (ends.get(SLOWDOWN), ends.get(FLASH)):
        raise expected_error("target", "to leave the file some time and size", text)
    return limits


# The file


@dataclasses.dataclass(frozen=True, eq=False)
class MixedNetwork:
    """A calibrated float file, before and after its tuning to 8 bits, of which any operators can stay in float32.

    Attributes:
        names: of the operators, distinct.
        quantize: from a tuned file, and the names of the tensors whose operators stay in float, to the finished file.
    """

    calibrated: bytes
    tuned: bytes
    names: tuple[str, ...]
    quantize: Callable[[bytes, set[str]], bytes]

    @functools.cached_property
    def main(self) -> TFLiteSubgraph:
        """Tensors and operators of the float file."""
        return read_model(self.tuned).main

    def indexes(self, names: Collection[str]) -> frozenset[int]:
        """Return the indexes of operators by their names; `InputError` for a name that no operator has."""
        known = {name: index for index, name in enumerate(self.names)}
        for name in names:
            if name not in known:
                raise InputError(
                    f"Expected `float_operators` to be operators of the network. Received: {name!r}. "
                    f"{suggest_names(name, known)}",
                    argument="float_operators",
                    received=name,
                )
        return frozenset(known[name] for name in names)

    def build(self, float_operators: Collection[int]) -> bytes:
        """Return the file in which the operators with these indexes are in float32, with the model's own weights."""
        content = self.tuned
        if float_operators:
            file, original = FloatFile(self.tuned), FloatFile(self.calibrated)
            for weighted in file.weighted_operators:
                if weighted.operator.index in float_operators:
                    for tensor in filter(None, (weighted.weights, weighted.bias)):
                        file.set_values(tensor, original.values(tensor))
            content = file.content()
        outputs = {index for number in float_operators for index in self.main.operators[number].outputs}
        with capture_output():
            return self.quantize(content, {self.main.tensors[index].name for index in outputs})

    @functools.cached_property
    def closing(self) -> frozenset[int]:
        """The softmax or sigmoid that closes the network, which always stays in float: it costs nothing."""
        last = self.main.producers.get(self.main.outputs[0])
        return frozenset([last.index] if last is not None and last.op in CLOSING else [])

    @property
    def own_noise(self) -> tuple[int, ...]:
        """Indexes of the operators that add noise of their own: not of those that copy or compare integers."""
        return tuple(
            operator.index
            for operator in self.main.operators
            if operator.op not in SAME_SCALE_OPERATORS and operator.index not in self.closing
        )


def find_scores(main: TFLiteSubgraph) -> TFLiteTensor:
    """Return the tensor that goes into the softmax or sigmoid that closes a file, else the output; before casts."""

    def behind_casts(index: int) -> int:
        producer = main.producers.get(index)
        while producer is not None and producer.op in CAST_OPERATORS:
            index = producer.inputs[0]
            producer = main.producers.get(index)
        return index

    index = behind_casts(main.outputs[0])
    producer = main.producers.get(index)
    if producer is not None and producer.op in CLOSING:
        index = behind_casts(producer.inputs[0])
    return main.tensors[index]


# How good a file is


def noise_share(reference: np.ndarray, values: np.ndarray) -> float:
    """Return the energy of the difference of two outputs as a share of that of the reference."""
    return float(((values - reference) ** 2).sum() / max(float((reference**2).sum()), np.finfo(np.float64).tiny))


def decision_noise(reference: np.ndarray, values: np.ndarray) -> float:
    """Return `noise_share` of how far the model's largest score (N, classes) is ahead of the next ones.

    That is what decides the class: noise on all the other classes, or the same on all, changes nothing.
    """
    order = np.argsort(-reference, axis=1, kind="stable")[:, : _RIVALS + 1]
    leads = (scores[:, :1] - scores[:, 1:] for scores in (np.take_along_axis(a, order, 1) for a in (reference, values)))
    return noise_share(*leads)


def expected_accuracy(
    reference: np.ndarray, values: np.ndarray, labels: np.ndarray | None = None
) -> tuple[float, float | None]:
    """Return the share of images whose class is expected to stay, and by how much the share of right ones grows.

    Both are 95% lower bounds for other images. On few images the class of one more or less changes by chance. So the
    errors of every image, class by class in the order of the model's scores, are added to the scores of every other,
    and the leads of the largest scores are those of `careful_leads`.

    Args:
        reference, values: scores (N, classes) of the model and of the file.
        labels: classes (N,), or None.
    """
    order = np.argsort(-reference, axis=1, kind="stable")[:, :_RANKS]
    scores = np.take_along_axis(reference, order, axis=1)
    errors = np.take_along_axis(values, order, axis=1) - scores
    if scores.shape[1] > 1:
        scores[:, 0] = scores[:, 1] + careful_leads(scores[:, 0] - scores[:, 1])
    chosen = np.stack([(row + errors).argmax(axis=1) for row in scores])
    match = float(np.mean(chosen == 0))
    if labels is None:
        return match, None
    is_label = order == np.asarray(labels)[:, None]
    gains = np.mean(np.take_along_axis(is_label, chosen, axis=1), axis=1) - is_label[:, 0]
    error = np.std(gains, ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
    # No more right classes are lost than classes change.
    return match, float(max(np.mean(gains) - _NORMAL_95 * error, match - 1))


def careful_leads(leads: np.ndarray) -> np.ndarray:
    """Return leads (N,) of the largest score over the next one that are as small as those of other images may be.

    Only images with small leads change their class. Of 100 images there are a few, and without them every file looks
    good: neither the mean nor its standard error knows of images that were not drawn. Near 0 the density of leads
    changes little, so the smallest `_NEAR_SHARE` tell its height: they are replaced with the quantiles of an
    exponential distribution that is fitted to them, the others being larger. All are then divided by the 95% bound of
    that fit.
    """
    from scipy.special import gammaincinv

    order, count = np.argsort(leads, kind="stable"), len(leads)
    near = max(1, round(_NEAR_SHARE * count))
    careful = leads[order].astype(np.float64)
    mean = (careful[:near].sum() + (count - near) * careful[near - 1]) / near
    careful[:near] = -np.log1p(-(np.arange(near) + 0.5) / count) * mean
    result = np.empty(count)
    # The density that is fitted to `near` values, relative to the true one, has a gamma distribution.
    result[order] = careful * near / gammaincinv(near, 0.95)
    return result


@dataclasses.dataclass(frozen=True)
class OperatorSensitivity:
    """SNR of the scores in dB with one operator in int8 and all others in float, and the other way round; its times."""

    name: str
    op: str
    only_int8_db: float | None
    only_float_db: float | None
    int8_us: float | None
    float_us: float | None


@dataclasses.dataclass(frozen=True)
class MixedPoint:
    """A file of the search, run on the calibration images and timed in turns with the others.

    Attributes:
        float_operators: names of those that stay in float.
        match, expected_match: share of the images with the model's top-1 class, and the bound of `expected_accuracy`;
            None where the output holds no classes.
        top1_drop_pp, expected_drop_pp: the same of the top-1 drop; None without labels.
        snr_db: of the output, before a closing softmax or sigmoid; None where nothing differs.
        slowdown: time relative to the file in int8 with the same input and output, with its 95% interval.
        on_front: whether no other point is at least as accurate, fast and small.
    """

    float_operators: tuple[str, ...]
    bytes: int
    snr_db: float | None
    match: float | None = None
    expected_match: float | None = None
    top1_drop_pp: float | None = None
    expected_drop_pp: float | None = None
    latency_us: float | None = None
    slowdown: float | None = None
    slowdown_low: float | None = None
    slowdown_high: float | None = None
    on_front: bool = False

    @property
    def accuracy(self) -> float:
        """What the front compares: the lower of the two matches; the SNR where the output holds no classes."""
        if self.match is None or self.expected_match is None:
            return np.inf if self.snr_db is None else self.snr_db
        return min(self.match, self.expected_match)

    def check(self, limit: Limit) -> LimitCheck:
        """Return the check of a limit of the target, the less favorable of what is measured and what is expected."""
        drops = [drop for drop in (self.top1_drop_pp, self.expected_drop_pp) if drop is not None]
        value: dict[LimitItem, float | None] = {
            MATCH: self.accuracy if self.match is not None else None,
            DROP: max(drops, default=None),
            SNR: np.inf if self.snr_db is None else self.snr_db,
            SLOWDOWN: self.slowdown,
            FLASH: self.bytes,
        }
        return check_limit(limit, value[limit.item])


@dataclasses.dataclass(frozen=True)
class MixedSearch:
    """What a search tried, in the order in which operators were lifted, and which point it chose.

    Attributes:
        operators: names of all operators of the network, in order.
        images: number of calibration images that every point ran on.
        chosen: index of the chosen point.
        host, threads: the machine and the threads of the latencies.
    """

    target: str
    operators: tuple[str, ...]
    images: int
    points: tuple[MixedPoint, ...]
    chosen: int
    sensitivities: tuple[OperatorSensitivity, ...]
    host: dict[str, Any]
    threads: int

    def __post_init__(self) -> None:
        if not 0 <= self.chosen < len(self.points):  # of a record that anyone may have written
            raise input_error("the index of a point as `chosen`", self.chosen)

    @property
    def choice(self) -> MixedPoint:
        """The chosen point."""
        return self.points[self.chosen]


def mark_front(points: Sequence[MixedPoint]) -> list[MixedPoint]:
    """Return the points with `on_front` set."""

    def dominates(other: MixedPoint, point: MixedPoint) -> bool:
        pairs = [
            (other.accuracy, point.accuracy),
            (-(other.latency_us or 0), -(point.latency_us or 0)),
            (-other.bytes, -point.bytes),
        ]
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    return [
        dataclasses.replace(point, on_front=not any(dominates(other, point) for other in points)) for point in points
    ]


# The choice


def choose_point(points: Sequence[MixedPoint], limits: Sequence[Limit], target: str) -> int:
    """Return the index of the fastest point that reaches a target and is no less accurate than the first, in int8.

    Of those that are not measurably slower it is the smallest.

    Raises:
        UnreachableTargetError: none reaches it.
    """
    reaching = [
        index for index, point in enumerate(points) if reaches(point, limits) and point.accuracy >= points[0].accuracy
    ]
    if not reaching:
        raise _unreachable(points, limits, target)
    fastest = min((points[index] for index in reaching), key=_slowdown)
    as_fast = [index for index in reaching if _is_as_fast(points[index], fastest)]
    return min(as_fast, key=lambda index: (points[index].bytes, _slowdown(points[index])))


def reaches(point: MixedPoint, limits: Sequence[Limit]) -> bool:
    """Whether a point reaches a target, but for a latency that is not measured yet."""
    known = (limit for limit in limits if limit.item != SLOWDOWN or point.slowdown is not None)
    return all(point.check(limit).passed for limit in known)


def limits_accuracy(limit: Limit) -> bool:
    """Whether a limit is not one on time or size."""
    return limit.item in _ACCURACY_ITEMS


def _slowdown(point: MixedPoint) -> float:
    return 1.0 if point.slowdown is None else point.slowdown


def _is_as_fast(point: MixedPoint, fastest: MixedPoint) -> bool:
    """Whether a point is not measurably slower than the fastest."""
    if _slowdown(point) <= _SAME_LATENCY * _slowdown(fastest):
        return True
    least = _slowdown(point) if point.slowdown_low is None else point.slowdown_low
    most = _slowdown(fastest) if fastest.slowdown_high is None else fastest.slowdown_high
    return least <= _slowdown(fastest) or _slowdown(point) <= most


def _unreachable(points: Sequence[MixedPoint], limits: Sequence[Limit], target: str) -> UnreachableTargetError:
    """Return the error that names the most accurate point that keeps to the limits on time and size."""
    costs = [limit for limit in limits if not limits_accuracy(limit)]
    kept = [point for point in points if all(point.check(limit).passed for limit in costs)]
    if kept:
        best = max(kept, key=lambda point: point.accuracy)
        values = "; ".join(str(best.check(limit)) for limit in limits)
        received = f"{values}, with {len(best.float_operators)} operators in float"
    else:
        least = {SLOWDOWN: min(points, key=_slowdown), FLASH: min(points, key=lambda point: point.bytes)}
        values = "; ".join(str(least[limit.item].check(limit)) for limit in costs)
        received = f"no file keeps to the limits on time and size; {values}"
    return UnreachableTargetError(
        f"Expected a `target` that a file of the search reaches. Received: {target!r}; best achieved on the "
        f"calibration images: {received}",
        argument="target",
        received=target,
    )
