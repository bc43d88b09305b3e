"""What a machine can do at most, and how close each layer comes to it: the roofline, doi:10.1145/1498765.1498785."""

import dataclasses
from collections.abc import Iterable, Sequence

from keras_nin import files
from keras_nin.benchmark.job import ModelEntry, RunJob
from keras_nin.benchmark.measurement import run_job
from keras_nin.benchmark.records import BenchmarkResult, LayerTime, MachinePeak, Profile
from keras_nin.benchmark.single_operators import MATMUL_DTYPES, build_matmul
from keras_nin.errors import InputError, check_choice

COMPUTE, MEMORY, CACHE = "compute", "memory", "cache"
# Rows, inner size, columns: a matrix product is fastest somewhere between too small to fill the vector units and too
# large for the caches, and each processor and data type has its own optimum.
_SHAPES = ((196, 256, 256), (784, 256, 256), (256, 512, 512), (256, 1024, 1024))
_SECONDS_PER_MATMUL = 0.25


@dataclasses.dataclass(frozen=True)
class LayerEfficiency:
    """How close a layer with MACs and a time comes to what its machine can do.

    Attributes:
        intensity: MACs per byte of inputs, outputs and weights.
        attainable_gmacs_per_s: the roof: the lower of the compute peak, and the intensity times the bandwidth.
        efficiency, peak_share: the layer's rate over the roof (above 1 by the caches), and over the compute peak.
        macs: of a run.
        bound: `COMPUTE` or `MEMORY`, whichever roof is lower; `CACHE` for a layer that is faster than memory's roof.
    """

    layer: LayerTime
    intensity: float
    attainable_gmacs_per_s: float
    gmacs_per_s: float
    efficiency: float
    peak_share: float
    bound: str
    macs: int
    us: float


@dataclasses.dataclass(frozen=True)
class KindEfficiency:
    """How close the layers of a kind come together: `attainable_us`, the time at their roofs, over `us`."""

    name: str
    layers: int
    us: float
    attainable_us: float
    macs: int
    efficiency: float
    peak_share: float


def measure_peaks(dtypes: Iterable[str], threads: int, run: RunJob = run_job) -> tuple[MachinePeak, ...]:
    """Measure the `MachinePeak` of each data type ("float32", "int8") on so many threads; it takes a few seconds.

    The compute peak is the best rate of the runtime's own matrix product, FULLY_CONNECTED of several sizes, in the
    fastest tenth of its runs. The bandwidth is that of copying or adding float32 arrays larger than any cache.

    Raises:
        InputError: another data type, or the machine does not run the products.
    """
    dtypes = tuple(dict.fromkeys(check_choice("dtypes", dtype, MATMUL_DTYPES) for dtype in dtypes))
    if not dtypes:
        return ()
    products = [(dtype, shape) for dtype in dtypes for shape in _SHAPES]
    with files.temporary_folder() as folder:
        models: list[ModelEntry] = []
        for index, (dtype, shape) in enumerate(products):
            path = folder / f"matmul_{index}.tflite"
            path.write_bytes(build_matmul(*shape, dtype))
            models.append({"file": str(path), "threads": threads})
        seconds = _SECONDS_PER_MATMUL * len(models)
        results = run({"models": models, "seconds": seconds, "profile": False, "bandwidth": True}).results
    rates = dict.fromkeys(dtypes, 0.0)
    for (dtype, (rows, inner, columns)), result in zip(products, results, strict=True):
        rates[dtype] = max(rates[dtype], rows * inner * columns / result["us"]["p10"] / 1000)
    bandwidth = results[0].get("bandwidth")
    if not bandwidth:
        raise InputError("the device does not measure the bandwidth of memory, which the roofline needs")
    return tuple(MachinePeak(dtype, threads, rate, bandwidth["gbytes_per_s"]) for dtype, rate in rates.items())


def add_peaks(result: BenchmarkResult, run: RunJob = run_job) -> BenchmarkResult:
    """Return a result with `Profile.peaks` of the data types of its layers; arguments and errors of `measure_peaks`."""
    dtypes = [{layer.dtype for layer in profile.layers if layer.macs} for profile in result.profiles]
    needed: dict[int, set[str | None]] = {}
    for profile, own in zip(result.profiles, dtypes, strict=True):
        needed.setdefault(profile.threads, set()).update(own)
    peaks = {
        threads: measure_peaks([dtype for dtype in MATMUL_DTYPES if dtype in wanted], threads, run)
        for threads, wanted in needed.items()
    }
    profiles = (
        dataclasses.replace(profile, peaks=tuple(peak for peak in peaks[profile.threads] if peak.dtype in own))
        for profile, own in zip(result.profiles, dtypes, strict=True)
    )
    return dataclasses.replace(result, profiles=tuple(profiles))


def compute_efficiency(profile: Profile) -> tuple[LayerEfficiency, ...]:
    """Return the `LayerEfficiency` of each layer of a profile that has MACs, a time and a peak of its data type."""
    peaks = {peak.dtype: peak for peak in profile.peaks}
    efficiencies = []
    for layer in profile.layers:
        peak = peaks.get(layer.dtype or "")
        if peak and layer.macs and layer.bytes and layer.us and layer.us.typical > 0:
            macs, us = layer.macs * profile.batch, layer.us.typical
            intensity, rate = macs / layer.bytes, macs / us / 1000
            memory_roof = intensity * peak.gbytes_per_s
            roof, peak_share = min(peak.gmacs_per_s, memory_roof), rate / peak.gmacs_per_s
            bound = COMPUTE if memory_roof >= peak.gmacs_per_s else MEMORY if rate <= memory_roof else CACHE
            efficiencies.append(LayerEfficiency(layer, intensity, roof, rate, rate / roof, peak_share, bound, macs, us))
    return tuple(efficiencies)


def summarize_efficiency(efficiencies: Sequence[LayerEfficiency]) -> tuple[KindEfficiency, ...]:
    """Return the `KindEfficiency` of each kind of layer, 1x1 first, then by falling time, and last the "total"."""
    kinds: dict[str, list[LayerEfficiency]] = {}
    for efficiency in efficiencies:
        kinds.setdefault(efficiency.layer.kind, []).append(efficiency)
    summaries = [_kind_efficiency(kind, members) for kind, members in kinds.items()]
    summaries.sort(key=lambda summary: (summary.name != "pointwise", -summary.us))
    return (*summaries, _kind_efficiency("total", efficiencies)) if efficiencies else ()


def _kind_efficiency(name: str, members: Sequence[LayerEfficiency]) -> KindEfficiency:
    us = sum(member.us for member in members)
    attainable_us = sum(member.macs / member.attainable_gmacs_per_s / 1000 for member in members)
    us_at_peak = sum(member.peak_share * member.us for member in members)
    macs = sum(member.macs for member in members)
    return KindEfficiency(name, len(members), us, attainable_us, macs, attainable_us / us, us_at_peak / us)
