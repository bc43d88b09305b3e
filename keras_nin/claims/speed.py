"""The claim about time: a 1x1 layer against a 3x3 layer, measured in the deployed runtime, warm and cold."""

import dataclasses
import math
import statistics

from keras_nin.claims.claim import Claim, DeclaredFigure, Interval, MeasuredFigures
from keras_nin.claims.networks import audit_zoo_model, build_network
from keras_nin.models.articles import CONVNET

ARTICLE_RATIO = 0.01297 / 0.00056
LAYER_1X1, LAYER_3X3 = "conv1x1_512to32", "conv3x3_512to32"
SCHEMES, THREADS = ("float32", "int8"), (1, 2)
WHOLE_CALL, INSIDE_KERNEL = "whole call", "inside the kernel"
# Each process is a sample of its own, with its own place in memory and its own cold runs: the interval is over them. Of
# ten values the second smallest to the second largest hold the median with 97.9 %, and a bad one on either side is let
# go.
PROCESSES, RUNS = 10, 100
_CALIBRATION_COUNT = 4
_MACS_RATIO, _UNPADDED_RATIO = "MACs of 3x3 over 1x1", "MACs of 3x3 over 1x1, if it had no padding"


def _warm_name(scheme, threads, what):
    return f"time of 3x3 over 1x1, {scheme}, {threads} thread{'s' if threads > 1 else ''}, {what}"


def _cold_name(first, what):
    return f"{what} of 3x3 over 1x1, float32, {'1x1' if first == LAYER_1X1 else '3x3'} loaded first"


_COLD_TIMES = {
    "first run": lambda each: each.first_us,
    "loading and first run": lambda each: each.load_us + each.first_us,
}


@dataclasses.dataclass(frozen=True)
class ProcessSample:
    """What one process measured: which layer was first in it, and the `Profile` of each (layer, scheme, threads)."""

    first: str
    profiles: dict


def measure_speed():
    """Return what the claim's figures are, `Measured`: ratios of times with intervals, and how they were taken."""
    from keras_nin import files
    from keras_nin.tflite.host import describe_host

    threads = [count for count in THREADS if count <= describe_host()["cores"]]
    with files.temporary_folder() as folder:
        paths = {layer: _export_layer(layer, folder) for layer in (LAYER_1X1, LAYER_3X3)}
        samples = [_measure_in_process(paths, threads, turn) for turn in range(PROCESSES)]
    return MeasuredFigures(_mac_ratios() | speed_figures(samples), _timing_conditions(samples, threads))


def _export_layer(layer, folder):
    """Write a layer's files, with random weights, and return their paths by scheme."""
    from keras_nin import models
    from keras_nin.data.named_datasets import open_noise
    from keras_nin.export import convert_schemes, load_calibration

    model = models.build_model(layer)
    shape = tuple(model.input_shape[1:])
    calibration = load_calibration(open_noise(shape), shape, count=_CALIBRATION_COUNT)
    paths = {}
    for scheme, export in zip(SCHEMES, convert_schemes(model, SCHEMES, calibration), strict=True):
        paths[scheme] = folder / f"{layer}_{scheme}.tflite"
        paths[scheme].write_bytes(export.data)
    return paths


def _measure_in_process(paths, threads, turn):
    """Measure all files in turns in a process of its own; which layer is loaded and run first changes with each."""
    from keras_nin.benchmark import measure_files

    layers = (LAYER_1X1, LAYER_3X3) if turn % 2 == 0 else (LAYER_3X3, LAYER_1X1)
    order = [(layer, scheme) for scheme in SCHEMES for layer in layers]
    made = measure_files([paths[layer][scheme] for layer, scheme in order], threads=threads, runs=RUNS, interleave=True)
    keys = [(layer, scheme, count) for layer, scheme in order for count in threads]
    return ProcessSample(layers[0], dict(zip(keys, made.profiles, strict=True)))


def _mac_ratios():
    import keras

    from keras_nin.audit import audit_model

    small, large = audit_zoo_model(LAYER_1X1).total.macs, audit_zoo_model(LAYER_3X3).total.macs
    unpadded = build_network(lambda x: keras.layers.Conv2D(32, 3, name="conv1")(x), (12, 12, 512), "unpadded")
    return {_MACS_RATIO: large / small, _UNPADDED_RATIO: audit_model(unpadded).total.macs / small}


def speed_figures(samples):
    """Return the claim's ratios of times by name, from `Sample`s; without a profiler those inside the kernel lack."""
    found = {}
    for scheme, threads in dict.fromkeys(key[1:] for key in samples[0].profiles):
        for what, time in _WARM_TIMES.items():
            pairs = [
                [time(sample.profiles[layer, scheme, threads]) for layer in (LAYER_1X1, LAYER_3X3)]
                for sample in samples
            ]
            if all(None not in pair for pair in pairs):
                found[_warm_name(scheme, threads, what)] = _median_interval([large / small for small, large in pairs])
    for first in (LAYER_1X1, LAYER_3X3):
        of_order = [sample.profiles for sample in samples if sample.first == first]
        for what, time in _COLD_TIMES.items():
            found[_cold_name(first, what)] = _median_range(
                [time(each[LAYER_3X3, "float32", 1]) / time(each[LAYER_1X1, "float32", 1]) for each in of_order]
            )
    return found


def _kernel_us(profile):
    from keras_nin.benchmark.layer_times import total_kernel_us

    return total_kernel_us(profile)


_WARM_TIMES = {INSIDE_KERNEL: _kernel_us, WHOLE_CALL: lambda profile: profile.total.median}


def _median_interval(values):
    """Return the median of at least six independent values and its 95 % confidence interval, whatever they follow.

    The median is above any one value with probability one half: how many values are below it is binomial.
    """
    count, k, outside = len(values), 0, 1
    while outside <= 0.025 * 2**count:  # the k smallest hold the median with less than that
        k += 1
        outside += math.comb(count, k)
    ordered = sorted(values)
    return Interval(statistics.median(values), ordered[k - 1], ordered[count - k])


def _median_range(values):
    return Interval(statistics.median(values), min(values), max(values))


def _timing_conditions(samples, threads):
    """Return how it was measured, as a JSON-ready dictionary."""
    times = []
    for layer, scheme, count in sorted(samples[0].profiles):
        profiles = [sample.profiles[layer, scheme, count] for sample in samples]
        medians = {what: [time(profile) for profile in profiles] for what, time in _WARM_TIMES.items()}
        known = {what: statistics.median(values) for what, values in medians.items() if None not in values}
        times.append({"layer": layer, "scheme": scheme, "threads": count, "median_us": known})
    return {
        "host": samples[0].profiles[LAYER_1X1, SCHEMES[0], threads[0]].host,
        "threads": list(threads),
        "processes": len(samples),
        "runs": RUNS,
        "interleaved": True,
        "times": times,
    }


def _declared_figures():
    for scheme in SCHEMES:
        for threads in THREADS:
            for what in _WARM_TIMES:
                # The article timed a call of a float32 layer; it does not say on how many threads.
                article = ARTICLE_RATIO if (scheme, what) == ("float32", WHOLE_CALL) else None
                yield DeclaredFigure(_warm_name(scheme, threads, what), article, None)
    for first in (LAYER_1X1, LAYER_3X3):
        for what in _COLD_TIMES:
            yield DeclaredFigure(_cold_name(first, what), None, None)
    yield DeclaredFigure(_MACS_RATIO, None, 9.0)
    yield DeclaredFigure(_UNPADDED_RATIO, None, 9 * 10 * 10 / (12 * 12))


SPEED_CLAIMS = (
    Claim(
        id="paperspace-speed",
        source=CONVNET,
        text="The 1x1 layer of that pair (512 to 32 channels at 12x12) runs about 23 times faster than the 3x3 layer: "
        "0.00056 s against 0.01297 s, one cold run each.",
        figures=tuple(_declared_figures()),
        measure=measure_speed,
        why="Warm, and in turns on one machine, the times differ about as the MACs do, 9 to 1. Inside the kernel the "
        "ratio depends on the code that each runs (a plain matrix product against a convolution that gathers its "
        "pixels) and on the data type; a whole call has a fixed cost that both layers pay, which lowers the ratio. "
        "Padding 1 makes the MACs 9 to 1: it keeps the 3x3 output at 12x12, and zeros are multiplied like pixels. The "
        "article timed one call of each. A first call also pays for memory that is touched, code that is loaded and "
        "threads that are started for the first time; which layer pays depends on the order, and single first calls "
        "here differ severalfold from process to process: one pair of them says little of the layers. The verdict "
        "holds the article's number against the intervals of whole warm float32 calls.",
    ),
)
