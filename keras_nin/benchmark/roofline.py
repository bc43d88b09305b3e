"""What a machine can do at most, and how near to it each layer comes: the roofline, doi:10.1145/1498765.1498785."""

import dataclasses

from keras_nin import files
from keras_nin.benchmark import measurement, single_operators
from keras_nin.benchmark.records import MachinePeak
from keras_nin.errors import InputError, check_choice

COMPUTE, MEMORY, CACHE = "compute", "memory", "cache"
_MATMUL = "matmul_{}x{}x{}_{}.tflite"
# Rows, inner size, columns: a matrix product is fastest somewhere between too small to fill the vectors and too large
# for the caches, and each processor and data type has its own place.
_SHAPES = ((196, 256, 256), (784, 256, 256), (256, 512, 512), (256, 1024, 1024))
_SECONDS_PER_MATMUL = 0.25


@dataclasses.dataclass(frozen=True)
class LayerEfficiency:
    """How near a layer comes to what its machine can do.

    Attributes:
        layer: `LayerTime`, with MACs and a time.
        intensity: MACs for each byte of inputs, outputs and weights.
        attainable_gmacs_per_s: the roof over that intensity: the lower of the compute peak, and of the intensity times
            the bandwidth of memory.
        efficiency: the layer's rate over the roof. Above 1 where its data came from the caches.
        of_peak: its rate over the compute peak alone.
        bound: `COMPUTE` or `MEMORY`, whichever roof is the lower one; `CACHE` where memory's is, and the layer is
            faster than that: then only `of_peak` says how far it could still go.
    """

    layer: object
    intensity: float
    attainable_gmacs_per_s: float
    efficiency: float
    peak_share: float
    bound: str


@dataclasses.dataclass(frozen=True)
class KindEfficiency:
    """How near several layers together come: `attainable_us`, in which their roofs would let them run, over `us`."""

    name: str
    layers: int
    us: float
    attainable_us: float
    macs: int
    efficiency: float
    peak_share: float


def measure_peaks(dtypes, threads, run=measurement.run_job):
    """Measure and return the `Peak` of each data type on one number of threads; it takes a few seconds.

    The compute peak is the best rate of the runtime's own matrix product, FULLY_CONNECTED of several sizes, in the
    fastest tenth of its runs. The bandwidth is that of copying or adding float32 arrays that no cache holds (see
    `keras_nin.benchmark.runner.bandwidth`), measured on as many threads in the same process.

    Args:
        dtypes: some of `keras_nin.benchmark.single_operators.MATMUL_DTYPES`.
        threads: of the runtime, and of the copying.
        run: what carries a job out: `child.run` here, or on a device.

    Raises:
        InputError: another data type, or the machine does not run the products.
    """
    dtypes = tuple(dict.fromkeys(check_choice("dtype", dtype, single_operators.MATMUL_DTYPES) for dtype in dtypes))
    if not dtypes:
        return ()
    products = [(dtype, shape) for dtype in dtypes for shape in _SHAPES]
    with files.temporary_folder() as folder:
        paths = [folder / _MATMUL.format(*shape, dtype) for dtype, shape in products]
        for path, (dtype, shape) in zip(paths, products, strict=True):
            single_operators.write_matmul(path, *shape, dtype)
        models = [{"file": str(path), "threads": threads} for path in paths]
        answer = run(
            {"models": models, "seconds": _SECONDS_PER_MATMUL * len(models), "profile": False, "bandwidth": True}
        )
    rates = dict.fromkeys(dtypes, 0.0)
    for (dtype, (rows, inner, columns)), result in zip(products, answer.results, strict=True):
        rates[dtype] = max(rates[dtype], rows * inner * columns / result["us"]["p10"] / 1000)
    bandwidth = _read_bandwidth(answer.results[0])
    return tuple(MachinePeak(dtype, threads, rate, bandwidth) for dtype, rate in rates.items())


def _read_bandwidth(result):
    if not result.get("bandwidth"):
        raise InputError("Expected a runner that measures memory. Received: one that does not. Send it anew")
    return result["bandwidth"]["gbytes_per_s"]


def add_peaks(benchmark, run=measurement.run_job):
    """Return a `Benchmark` with `Profile.peaks` of the data types that its layers compute in; arguments of `peaks`."""
    needed = {}
    for profile in benchmark.profiles:
        needed.setdefault(profile.threads, set()).update(_compute_dtypes(profile))
    measured = {
        count: measure_peaks([dtype for dtype in single_operators.MATMUL_DTYPES if dtype in dtypes], count, run)
        for count, dtypes in needed.items()
    }
    return dataclasses.replace(
        benchmark, profiles=tuple(_with_peaks(profile, measured[profile.threads]) for profile in benchmark.profiles)
    )


def _compute_dtypes(profile):
    """Return the data types that layers with MACs compute in."""
    return {layer.dtype for layer in profile.layers if layer.macs}


def _with_peaks(profile, measured):
    dtypes = _compute_dtypes(profile)
    return dataclasses.replace(profile, peaks=tuple(peak for peak in measured if peak.dtype in dtypes))


def compute_efficiency(profile):
    """Return the `Efficiency` of each layer of a `Profile` that has MACs and a time, in order.

    Layers in a data type that `profile.peaks` does not have are left out, and so are all where it has none.
    """
    known = {peak.dtype: peak for peak in profile.peaks}
    layers = [layer for layer in profile.layers if layer.macs and layer.bytes and layer.us and layer.us.typical > 0]
    return tuple(_layer_efficiency(layer, known[layer.dtype]) for layer in layers if layer.dtype in known)


def _layer_efficiency(layer, peak):
    intensity = layer.macs / layer.bytes
    memory_roof = intensity * peak.gbytes_per_s
    roof = min(peak.gmacs_per_s, memory_roof)
    rate = layer.macs / layer.us.typical / 1000
    bound = COMPUTE if memory_roof >= peak.gmacs_per_s else MEMORY if rate <= memory_roof else CACHE
    return LayerEfficiency(layer, intensity, roof, rate / roof, rate / peak.gmacs_per_s, bound)


def summarize_efficiency(placed):
    """Return the `Share` of each kind of layer among `Efficiency` records, kinds in order of their time, then of all.

    The 1x1 layers ("pointwise") come first: what they are compared with follows.
    """
    kinds = {}
    for each in placed:
        kinds.setdefault(each.layer.kind, []).append(each)
    found = [_kind_efficiency(kind, members) for kind, members in kinds.items()]
    found.sort(key=lambda share: (share.name != "pointwise", -share.us))
    return (*found, _kind_efficiency("total", placed)) if placed else ()


def _kind_efficiency(name, placed):
    us = sum(each.layer.us.typical for each in placed)
    attainable = sum(each.layer.macs / each.attainable_gmacs_per_s / 1000 for each in placed)
    at_peak = sum(each.peak_share * each.layer.us.typical for each in placed)
    macs = sum(each.layer.macs for each in placed)
    return KindEfficiency(name, len(placed), us, attainable, macs, attainable / us, at_peak / us)
