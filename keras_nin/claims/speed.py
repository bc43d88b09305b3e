"""The claim about time: a 1x1 layer compared with a 3x3 layer, measured in the deployed runtime, warm and cold."""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from keras_nin import files, models
from keras_nin.audit.api import audit_model
from keras_nin.benchmark.layer_times import total_kernel_us
from keras_nin.benchmark.measurement import measure_files
from keras_nin.benchmark.records import Profile
from keras_nin.claims.claim import Figures, Interval, MeasuredFigures
from keras_nin.claims.networks import audit_zoo_model, build_network
from keras_nin.data.named_datasets import open_noise
from keras_nin.formatting import format_count
from keras_nin.tflite import host

LAYER_1X1, LAYER_3X3 = "conv1x1_512to32", "conv3x3_512to32"
SCHEMES, THREADS = ("float32", "int8"), (1, 2)
WHOLE_CALL, INSIDE_KERNEL = "whole call", "inside the kernel"
# Each process is one sample, with its own memory layout and its own cold runs: the interval is over processes. Of ten
# values, the second smallest to the second largest contain the median with 97.9%, and one bad value on either side has
# no effect.
PROCESSES, RUNS = 10, 100
_CALIBRATION_COUNT = 4

Configuration: TypeAlias = tuple[str, str, int]  # layer, scheme, threads


@dataclasses.dataclass(frozen=True)
class ProcessSample:
    """What one process measured: the layer that was loaded first, and the profile of each configuration."""

    first: str
    profiles: Mapping[Configuration, Profile]


_WARM_TIMES: dict[str, Callable[[Profile], float | None]] = {
    INSIDE_KERNEL: total_kernel_us,
    WHOLE_CALL: lambda profile: profile.total.median,
}
_COLD_TIMES: dict[str, Callable[[Profile], float]] = {
    "first run": lambda profile: profile.first_us,
    "loading and first run": lambda profile: profile.load_us + profile.first_us,
}


def _measure_speed() -> MeasuredFigures:
    threads = [count for count in THREADS if count <= host.describe_host()["cores"]]
    with files.temporary_folder() as folder:
        paths = {layer: _export_layer(layer, folder) for layer in (LAYER_1X1, LAYER_3X3)}
        samples = [_measure_in_process(paths, threads, turn) for turn in range(PROCESSES)]
    return MeasuredFigures({**_mac_ratios(), **speed_figures(samples)}, _timing_conditions(samples, threads))


def _export_layer(layer: str, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Write the files of a layer with random weights and return their paths by scheme."""
    from keras_nin.export.conversion import convert_schemes, load_calibration
    from keras_nin.export.schemes import Tuning

    model = models.build_model(layer)
    shape = tuple(model.input_shape[1:])
    calibration = load_calibration(open_noise(shape), shape, count=_CALIBRATION_COUNT)
    paths = {}
    # The values of the weights do not change the time.
    made = convert_schemes(model, SCHEMES, calibration, tuning=Tuning.plain())
    for scheme, converted in zip(SCHEMES, made, strict=True):
        paths[scheme] = folder / f"{layer}_{scheme}.tflite"
        paths[scheme].write_bytes(converted.data)
    return paths


def _measure_in_process(
    paths: Mapping[str, Mapping[str, pathlib.Path]], threads: Sequence[int], turn: int
) -> ProcessSample:
    """Measure all files interleaved in one process; which layer is loaded and run first alternates."""
    layers = (LAYER_1X1, LAYER_3X3) if turn % 2 == 0 else (LAYER_3X3, LAYER_1X1)
    order = [(layer, scheme) for scheme in SCHEMES for layer in layers]
    benchmark = measure_files(
        [paths[layer][scheme] for layer, scheme in order], threads=threads, runs=RUNS, interleave=True
    )
    configurations = [(layer, scheme, count) for layer, scheme in order for count in threads]
    return ProcessSample(layers[0], dict(zip(configurations, benchmark.profiles, strict=True)))


def _mac_ratios() -> dict[str, float]:
    import keras

    small, large = audit_zoo_model(LAYER_1X1).total.macs, audit_zoo_model(LAYER_3X3).total.macs
    unpadded = build_network(lambda x: keras.layers.Conv2D(32, 3, name="conv1")(x), (12, 12, 512), "unpadded")
    return {
        "MACs of 3x3 over 1x1": large / small,
        "MACs of 3x3 over 1x1, without padding": audit_model(unpadded).total.macs / small,
    }


def speed_figures(samples: Sequence[ProcessSample]) -> Figures:
    """Return the claim's ratios of times by name; without a profiler there are none inside the kernel."""
    figures = {}
    for scheme, threads in dict.fromkeys(configuration[1:] for configuration in samples[0].profiles):
        for what, time in _WARM_TIMES.items():
            small = [time(sample.profiles[LAYER_1X1, scheme, threads]) for sample in samples]
            large = [time(sample.profiles[LAYER_3X3, scheme, threads]) for sample in samples]
            ratios = [b / a for a, b in zip(small, large, strict=True) if a is not None and b is not None]
            if len(ratios) == len(samples):
                name = f"time of 3x3 over 1x1, {scheme}, {format_count(threads, 'thread')}, {what}"
                figures[name] = _median_interval(ratios)
    for first in (LAYER_1X1, LAYER_3X3):
        pairs = [
            (sample.profiles[LAYER_1X1, "float32", 1], sample.profiles[LAYER_3X3, "float32", 1])
            for sample in samples
            if sample.first == first
        ]
        for what, cold_time in _COLD_TIMES.items():
            ratios = [cold_time(large) / cold_time(small) for small, large in pairs]
            name = f"{what} of 3x3 over 1x1, float32, {'1x1' if first == LAYER_1X1 else '3x3'} loaded first"
            figures[name] = Interval(statistics.median(ratios), min(ratios), max(ratios))
    return figures


def _median_interval(values: Sequence[float]) -> Interval:
    """Return the median of at least six independent values and its 95% confidence interval, for any distribution.

    The median is above any one value with probability 1/2: how many values are below it is binomial.
    """
    count, k, outside = len(values), 0, 1
    while outside <= 0.025 * 2**count:  # the k smallest hold the median with less than that
        k += 1
        outside += math.comb(count, k)
    ordered = sorted(values)
    return Interval(statistics.median(values), ordered[k - 1], ordered[count - k])


def _timing_conditions(samples: Sequence[ProcessSample], threads: Sequence[int]) -> dict[str, Any]:
    times = []
    for layer, scheme, count in sorted(samples[0].profiles):
        values: dict[str, list[Any]] = {
            what: [time(sample.profiles[layer, scheme, count]) for sample in samples]
            for what, time in _WARM_TIMES.items()
        }
        medians = {what: statistics.median(us) for what, us in values.items() if None not in us}
        times.append({"layer": layer, "scheme": scheme, "threads": count, "median_us": medians})
    return {
        "host": samples[0].profiles[LAYER_1X1, SCHEMES[0], threads[0]].host,
        **{"threads": list(threads), "processes": len(samples), "runs": RUNS, "interleaved": True, "times": times},
    }


MEASURES = {"paperspace-speed": _measure_speed}
