"""The search for what the scheme mixed leaves in float: files are built, run and timed, and one is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.errors import input_error
from keras_nin.export import mixed_precision
from keras_nin.export.mixed_precision import (
    DROP,
    SNR,
    MixedNetwork,
    MixedPoint,
    MixedSearch,
    OperatorSensitivity,
)
from keras_nin.export.mixed_stretches import Stretches, find_cuts, merge_cuts
from keras_nin.export.parity import CAST_OPERATORS, find_compared_tensor
from keras_nin.formatting import format_count
from keras_nin.limits import Limit
from keras_nin.metrics import energy_ratio_db
from keras_nin.tflite.reader import read_model
from keras_nin.workflows import SILENT, Progress

if TYPE_CHECKING:
    from keras_nin.benchmark.records import Profile
    from keras_nin.heads import Head
    from keras_nin.tflite.records import TFLiteModel
    from keras_nin.workflows.conversion import ConversionInputs

_SENSITIVITY_IMAGES, _CURVE_IMAGES = 8, 24
_MAX_PROPOSALS, _MAX_SMALLER = 12, 4
_PROFILE_SECONDS, _POINT_SECONDS = 3.0, 1.5
_CAST_US = 5e-4  # of an element, where no cast is measured


class TargetSearch:
    """Chooses the operators of a network that stay in float: called with a `MixedNetwork`, returns their names.

    Afterwards `result` has the `MixedSearch`. The images are those that calibrated the network.

    Args:
        target: as `keras_nin.export.mixed_precision.parse_target` takes it.
        source: the model with the images that calibrate it, and their labels.
        float_io: whether input and output of the files are in float32.
        task: what the output means; None infers it.
        threads: of the runtime.

    Raises:
        InputError: a target that cannot be measured: random weights, noise as images, an output without classes, no
            labels.
    """

    def __init__(
        self,
        target: str,
        source: ConversionInputs,
        *,
        float_io: bool = True,
        task: str | None = None,
        threads: int = 1,
        progress: Progress = SILENT,
    ) -> None:
        calibration = source.calibration
        assert calibration is not None
        self.target, self.limits = target, mixed_precision.parse_target(target)
        self.float_io, self.threads, self.progress = float_io, threads, progress
        self.images = calibration.images
        self.head = _check_measurable(source, self.limits, task)
        self.labels = _labels_of(source, self.head) if any(limit.item == DROP for limit in self.limits) else None
        self.result: MixedSearch | None = None
        self._reference = np.empty(0)

    def __call__(self, network: MixedNetwork) -> tuple[str, ...]:
        """Return the names of the operators that stay in float, in the fastest file that reaches the target.

        Raises:
            UnreachableTargetError: no file of the search reaches it.
        """
        everything = frozenset(range(len(network.names)))
        self._reference = self._scores(network, everything, len(_first(self.images)))[0]
        files = [read_model(network.build(choice)) for choice in (frozenset(), everything)]
        int8, _ = profiles = self._profiles(files, layers=True)
        times = [_operator_times(network, profile, file) for profile, file in zip(profiles, files, strict=True)]
        sensitivities = self._sensitivities(network, times)
        stretches = self._stretches(network, times, _cast_us_per_element(int8, files[0]))
        points = self._try_choices(network, stretches, int8.total.median)
        chosen = mixed_precision.choose_point(points, self.limits, self.target)
        host, ordered = int8.host, mixed_precision.mark_front(points)
        count = len(_first(self.images))
        self.result = MixedSearch(
            self.target, network.names, count, tuple(ordered), chosen, tuple(sensitivities), host, self.threads
        )
        return self.result.choice.float_operators

    # What the network loses where

    def _scores(
        self, network: MixedNetwork, float_operators: Collection[int], count: int
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Return (scores (count, values), what the file decides from where that is not the same, bytes) of a file."""
        from keras_nin.export.verification import with_first_output
        from keras_nin.tflite.runner import TFLiteRunner

        model = read_model(network.build(float_operators))
        tensor = mixed_precision.find_scores(model.main)
        images = _first(self.images, count)
        scores = TFLiteRunner(with_first_output(model, tensor), self.threads).predict(images).astype(np.float64)
        outputs = None
        if tensor.index != model.main.outputs[0] and _is_rounded(model):
            outputs = TFLiteRunner(model, self.threads).predict(images).reshape(count, -1)
        scores = scores.reshape(count, -1)
        if network.closing and self.head.task == "classification":  # a softmax forgets a constant of each image
            scores -= scores.mean(axis=1, keepdims=True)
        return scores, outputs, len(model.content)

    def _noise(
        self,
        network: MixedNetwork,
        float_operators: Collection[int],
        count: int,
        measure: Callable[[np.ndarray, np.ndarray], float] = mixed_precision.noise_share,
    ) -> float:
        scores, *_ = self._scores(network, float_operators, count)
        return measure(self._reference[: len(scores)], scores)

    def _sensitivities(self, network: MixedNetwork, times: Sequence[Sequence[float]]) -> list[OperatorSensitivity]:
        """Return how much each operator alone costs and saves, on a few images."""
        count = min(_SENSITIVITY_IMAGES, len(self._reference))
        everything = frozenset(range(len(network.names)))
        rows = []
        for index in self.progress.track(
            network.own_noise, "Measuring the sensitivity of each operator", len(network.own_noise)
        ):
            only_int8 = self._noise(network, everything - {index}, count)
            only_float = self._noise(network, {index, *network.closing}, count)
            rows.append(
                OperatorSensitivity(
                    network.names[index],
                    network.main.operators[index].op,
                    only_int8_db=energy_ratio_db(1, only_int8),
                    only_float_db=energy_ratio_db(1, only_float),
                    int8_us=times[0][index],
                    float_us=times[1][index],
                )
            )
        return rows

    def _stretches(
        self, network: MixedNetwork, times: Sequence[Sequence[float]], cast_us_per_element: float
    ) -> Stretches:
        """Return the stretches of the network, with the noise that is measured for them."""
        everything = frozenset(range(len(network.names)))
        end = min(network.closing, default=len(network.names))
        cuts = merge_cuts(find_cuts(network.main, end), times[0])
        count = min(_CURVE_IMAGES, len(self._reference))
        up_to, behind = [], []
        decides = any(limit.item in (mixed_precision.MATCH, DROP) for limit in self.limits)
        measure = mixed_precision.decision_noise if decides else mixed_precision.noise_share
        for cut in self.progress.track(cuts, "Measuring the noise of stretches of operators", len(cuts)):
            before = frozenset(range(cut.position))
            up_to.append(self._noise(network, everything - before, count, measure))
            behind.append(self._noise(network, before | network.closing, count, measure))
        added = [float32 - int8 for int8, float32 in zip(*times, strict=True)]
        ends_float = self.float_io or bool(network.closing)
        return Stretches.from_curves(cuts, up_to, behind, added, cast_us_per_element, self.float_io, ends_float)

    # Files

    def _try_choices(self, network: MixedNetwork, stretches: Stretches, total_us: float) -> list[MixedPoint]:
        """Return the points of the search with their latencies, the file in int8 first."""
        proposals = _thin(stretches.proposals(total_us), _MAX_PROPOSALS)
        sets: dict[frozenset[int], MixedPoint] = {}

        def measure(choices: Iterable[frozenset[int]]) -> None:
            for operators in choices:
                if operators not in sets:
                    sets[operators] = self._measure(network, operators)

        lifted = {stretches.operators(choice) | network.closing: choice for choice in proposals}
        with self.progress.task("Running files of mixed precision"):
            measure([frozenset(), *lifted])
            reaching = [operators for operators in lifted if mixed_precision.reaches(sets[operators], self.limits)]
            if reaching:  # between the choices there may be one with fewer operators in float
                smaller = stretches.smaller_choices(lifted[reaching[0]])[:_MAX_SMALLER]
                measure(stretches.operators(choice) | network.closing for choice in smaller)
        ordered = sorted(sets, key=len)
        profiles = self._profiles([read_model(network.build(operators)) for operators in ordered])
        return self._with_latencies([sets[operators] for operators in ordered], profiles)

    def _measure(self, network: MixedNetwork, operators: frozenset[int]) -> MixedPoint:
        """Return the point of a file, without its latency."""
        scores, outputs, size = self._scores(network, operators, len(self._reference))
        noise = mixed_precision.noise_share(self._reference, scores)
        names = tuple(network.names[index] for index in sorted(operators))
        point = MixedPoint(names, size, energy_ratio_db(1, noise))
        if self.head.task != "classification":
            return point
        decisions, classes = (scores if outputs is None else outputs).argmax(axis=1), self._reference.argmax(axis=1)
        match, gain = mixed_precision.expected_accuracy(self._reference, scores, self.labels)
        point = dataclasses.replace(point, match=float(np.mean(decisions == classes)), expected_match=match)
        if self.labels is None or gain is None:
            return point
        drop = float(np.mean(classes == self.labels) - np.mean(decisions == self.labels))
        return dataclasses.replace(point, top1_drop_pp=100 * drop, expected_drop_pp=-100 * gain)

    def _profiles(self, files: Sequence[TFLiteModel], layers: bool = False) -> Sequence[Profile]:
        """Return the latencies of files that take turns, or with `layers` those of each file and its operators."""
        from keras_nin.benchmark.measurement import BenchmarkFile, measure_files

        with self.progress.task(f"Measuring the latency of {format_count(len(files), 'file')}") as update:
            return measure_files(
                [BenchmarkFile(model, name=f"file {number}") for number, model in enumerate(files)],
                threads=(self.threads,),
                seconds=_PROFILE_SECONDS if layers else _POINT_SECONDS * len(files),
                layers=layers,
                interleave=not layers,
                progress=update,
            ).profiles

    def _with_latencies(self, points: Sequence[MixedPoint], profiles: Sequence[Profile]) -> list[MixedPoint]:
        from keras_nin.benchmark.comparison import compute_ratios

        ratios = compute_ratios(profiles)
        first = dataclasses.replace(points[0], latency_us=profiles[0].total.median, slowdown=1.0)
        return [first] + [
            dataclasses.replace(
                point,
                latency_us=profile.total.median,
                slowdown=ratio.ratio,
                slowdown_low=ratio.low,
                slowdown_high=ratio.high,
            )
            for point, profile, ratio in zip(points[1:], profiles[1:], ratios, strict=True)
        ]


def _check_measurable(source: ConversionInputs, limits: Sequence[Limit], task: str | None) -> Head:
    """Return what the only output means; `InputError` where the target says nothing about such a network."""
    from keras_nin.export.verification import model_heads

    loaded, calibration = source.loaded, source.calibration
    if loaded.random:
        raise input_error("trained weights for a `target`", f"random weights of {loaded.name!r}", argument="target")
    if calibration is not None and calibration.noise:
        raise input_error("calibration images for a `target`", "noise", argument="calibration")
    heads = model_heads(loaded.model, task, source.calibration_answers)
    if len(heads) != 1:
        raise input_error("a network with one output for a `target`", f"{len(heads)} outputs", argument="target")
    (head,) = heads
    if head.is_index or head.task != "classification":
        others = [limit.name for limit in limits if mixed_precision.limits_accuracy(limit) and limit.item != SNR]
        what = "class indices without scores" if head.is_index else f"an output of task {head.task}"
        if others or head.is_index:
            raise input_error(
                f"scores of classes for the `target` {', '.join(others) or SNR.name}",
                f"{what}" + ("" if head.is_index else "; snr applies to any output"),
                argument="target",
            )
    return head


def _labels_of(source: ConversionInputs, head: Head) -> np.ndarray:
    """Return the labels of the calibration images, int64 (N,); `InputError` where there are none."""
    from keras_nin.heads import targets_of
    from keras_nin.keras_graph import output_specs

    names = [spec.name for spec in output_specs(source.loaded.model)]
    labels = targets_of(source.calibration_answers, names[0], names)
    calibration = source.calibration
    assert calibration is not None
    if labels is None:
        raise input_error(
            "labels of the calibration images for the `target` top1_drop (match needs none)",
            f"{calibration.source!r} without labels",
            argument="target",
        )
    return np.asarray(head.check_targets(labels, calibration.source)).reshape(-1)


def _first(images: Any, count: int | None = None) -> Any:
    """Return the first images; without a count any array of all of them."""
    if count is None:
        return next(iter(images.values())) if isinstance(images, dict) else images
    return {name: array[:count] for name, array in images.items()} if isinstance(images, dict) else images[:count]


def _is_rounded(model: TFLiteModel) -> bool:
    """Whether what a file decides may differ from the order of its scores: the output or what closes it is rounded."""
    compared = find_compared_tensor(model)
    return compared is not None and compared.lsb is not None


def _operator_times(network: MixedNetwork, profile: Profile, model: TFLiteModel) -> list[float]:
    """Return the us of each operator of the network in a file, found by the name of its output; 0 where it has none."""
    tensors = network.main.tensors
    indexes = {tensors[index].name: operator.index for operator in network.main.operators for index in operator.outputs}
    times = [0.0] * len(network.names)
    for layer in profile.layers:
        outputs = (model.main.operators[number].outputs[0] for number in layer.operators)
        known = [indexes[name] for name in (model.main.tensors[index].name for index in outputs) if name in indexes]
        for index in known:
            times[index] += (layer.us.typical if layer.us else 0.0) / len(known)
    return times


def _cast_us_per_element(profile: Profile, model: TFLiteModel) -> float:
    """Return the time that the casts of a file take for an element."""
    us = elements = 0.0
    for layer in profile.layers:
        if layer.op in CAST_OPERATORS and layer.us:
            us += layer.us.typical
            elements += sum(
                model.main.tensors[model.main.operators[number].outputs[0]].elements for number in layer.operators
            )
    return us / elements if us and elements else _CAST_US


def _thin(choices: Sequence[tuple[bool, ...]], count: int) -> list[tuple[bool, ...]]:
    """Return at most so many choices, evenly, with the first and the last."""
    if len(choices) <= count:
        return list(choices)
    return [choices[round(place)] for place in np.linspace(0, len(choices) - 1, count)]
