"""What a machine can do at most, and how close each layer comes to it: the roofline, doi:10.1145/1498765.1498785."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

from keras_nin import files
from keras_nin.benchmark.job import RunJob
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
    """How close a layer comes to what its machine can do.

    Attributes:
        layer: with MACs and a time.
        intensity: MACs per byte of inputs, outputs and weights.
        attainable_gmacs_per_s: the roof at that intensity: the lower of the compute peak, and of the intensity times
            the bandwidth of memory.
        gmacs_per_s: the layer's rate.
        efficiency: the rate over the roof. Above 1 where the data came from the caches.
        peak_share: the rate over the compute peak.
        bound: `COMPUTE` or `MEMORY`, whichever roof is lower; `CACHE` where that is memory's and the layer is faster:
            then only `peak_share` says how far it could still go.
    """

    layer: LayerTime
    intensity: float
    attainable_gmacs_per_s: float
    gmacs_per_s: float
    efficiency: float
    peak_share: float
    bound: str

    @property
    def macs(self) -> int:
        """MACs of the layer."""
        return self.layer.macs or 0

    @property
    def us(self) -> float:
        """Typical time of the layer in microseconds."""
        return self.layer.us.typical if self.layer.us else 0.0


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
    """Measure the `MachinePeak` of each data type on one number of threads; it takes a few seconds.

    The compute peak is the best rate of the runtime's own matrix product, FULLY_CONNECTED of several sizes, in the
    fastest tenth of its runs. The bandwidth is that of copying or adding float32 arrays larger than any cache (see
    `keras_nin.benchmark.runner.bandwidth`), on as many threads in the same process.

    Args:
        dtypes: some of `keras_nin.benchmark.single_operators.MATMUL_DTYPES`.
        threads: of the runtime, and of the copying.
        run: runs a job; `run` of an `open_device` for another machine.

    Raises:
        InputError: another data type, or the machine does not run the products.
    """
    dtypes = tuple(dict.fromkeys(check_choice("dtypes", dtype, MATMUL_DTYPES) for dtype in dtypes))
    if not dtypes:
        return ()
    products = [(dtype, shape) for dtype in dtypes for shape in _SHAPES]
    with files.temporary_folder() as folder:
        paths = [pathlib.Path(folder) / f"matmul_{index}.tflite" for index in range(len(products))]
        for path, (dtype, shape) in zip(paths, products, strict=True):
            path.write_bytes(build_matmul(*shape, dtype))
        results = run(
            {
                "models": [{"file": str(path), "threads": threads} for path in paths],
                "seconds": _SECONDS_PER_MATMUL * len(paths),
                "profile": False,
                "bandwidth": True,
            }
        ).results
    rates = dict.fromkeys(dtypes, 0.0)
    for (dtype, (rows, inner, columns)), result in zip(products, results, strict=True):
        rates[dtype] = max(rates[dtype], rows * inner * columns / result["us"]["p10"] / 1000)
    bandwidth = results[0].get("bandwidth")
    if not bandwidth:
        raise InputError("the device does not measure the bandwidth of memory, which the roofline needs")
    return tuple(MachinePeak(dtype, threads, rate, bandwidth["gbytes_per_s"]) for dtype, rate in rates.items())


def add_peaks(result: BenchmarkResult, run: RunJob = run_job) -> BenchmarkResult:
    """Return a result with `Profile.peaks` of the data types of its layers; arguments and errors of `measure_peaks`."""
    needed: dict[int, set[str]] = {}
    for profile in result.profiles:
        needed.setdefault(profile.threads, set()).update(_compute_dtypes(profile))
    peaks = {
        threads: measure_peaks([dtype for dtype in MATMUL_DTYPES if dtype in dtypes], threads, run)
        for threads, dtypes in needed.items()
    }
    profiles = []
    for profile in result.profiles:
        own = (peak for peak in peaks[profile.threads] if peak.dtype in _compute_dtypes(profile))
        profiles.append(dataclasses.replace(profile, peaks=tuple(own)))
    return dataclasses.replace(result, profiles=tuple(profiles))


def _compute_dtypes(profile: Profile) -> set[str]:
    """Return the compute types of the layers with MACs."""
    return {layer.dtype for layer in profile.layers if layer.macs and layer.dtype}


def compute_efficiency(profile: Profile) -> tuple[LayerEfficiency, ...]:
    """Return the `LayerEfficiency` of each layer of a profile that has MACs and a time, in order.

    Layers in a data type that `profile.peaks` lacks are left out: all of them where it is empty.
    """
    peaks = {peak.dtype: peak for peak in profile.peaks}
    efficiencies = []
    for layer in profile.layers:
        peak = peaks.get(layer.dtype or "")
        if peak and layer.macs and layer.bytes and layer.us and layer.us.typical > 0:
            efficiencies.append(_layer_efficiency(layer, layer.macs, layer.us.typical, peak))
    return tuple(efficiencies)


def _layer_efficiency(layer: LayerTime, macs: int, us: float, peak: MachinePeak) -> LayerEfficiency:
    intensity = macs / layer.bytes
    memory_roof = intensity * peak.gbytes_per_s
    roof = min(peak.gmacs_per_s, memory_roof)
    rate = macs / us / 1000
    bound = COMPUTE if memory_roof >= peak.gmacs_per_s else MEMORY if rate <= memory_roof else CACHE
    return LayerEfficiency(layer, intensity, roof, rate, rate / roof, rate / peak.gmacs_per_s, bound)


def summarize_efficiency(efficiencies: Sequence[LayerEfficiency]) -> tuple[KindEfficiency, ...]:
    """Return the `KindEfficiency` of each kind of layer, by falling time, and last that of all layers, "total".

    The 1x1 layers ("pointwise") come first: the others are what they are compared with.
    """
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
