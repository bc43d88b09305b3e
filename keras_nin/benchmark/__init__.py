"""Latency where it runs: of whole .tflite files and, inside the runtime, of each of their layers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "measurement": ["measure_file", "measure_files"],
        "records": ["BenchmarkResult", "LatencyStatistics", "LayerTime", "Profile"],
    },
)
