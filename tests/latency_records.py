"""Profiles written by hand, for tests of what is made of them."""

from keras_nin.benchmark.records import PROFILER, KernelTime, LatencyStatistics, LayerTime, Profile

HOST = {
    "cpu": "Some CPU", "cores": 4, "system": "Linux 6 x86_64", "python": "3.11", "litert": "2.3.0",
    "state": {"load_average": 0.1, "governor": None},
}  # fmt: skip


def layer(name, us, kind="pointwise", role=None, block=None, macs=0, **fields):
    """Return a row of so many microseconds; None for an operator without a kernel."""
    time = None if us is None else KernelTime(median=us, mean=us + 0.5, p90=us + 1, typical=us)
    defaults = {"op": "CONV_2D", "operators": (0,), "kernel": us and f"Kernel of {name}", "share": us and us / 100}
    rate = macs / us / 1000 if macs and us else None
    known = {"kind": kind, "role": role, "block": block, "macs": macs, "gmacs_per_s": rate, "bytes": 64}
    return LayerTime(**{"name": name, "us": time, **defaults, **known, **fields})


def profile(*layers, overhead=4.0, median=None, within=None, **fields):
    """Return a profile; its median is the sum of layers and overhead, known to half a us or a share `within`."""
    if median is None:
        median = sum(layer.us.typical for layer in layers if layer.us) + (overhead or 0) or 10.0
    reach = 0.5 if within is None else within * median
    total = LatencyStatistics(
        median, median + 1, median - 1, median + 2, median + 3, median - 2, median - reach, median + reach
    )
    defaults = {
        "file": "net_int8.tflite", "sha256": "00", "file_bytes": 1000, "host": HOST, "threads": 1, "runs": 2500,
        "converged": True, "load_us": 1500.0, "first_us": 99.0, "peak_bytes": 50 << 20, "added_bytes": 1 << 20,
        "api": "compiled_model", "method": PROFILER if layers else None, "profiled_runs": 500,
    }  # fmt: skip
    return Profile(**{**defaults, "total": total, "layers": layers, "overhead_us": overhead, **fields})
