"""From the kernels that the runtime executed to the operators of the file and the layers of the network."""

from keras_nin.benchmark.records import KernelTime, LayerTime


def layers(path, kernels, median_us):
    """Return the `LayerTime` records of a profiled file, in order of execution, and the runtime's overhead in us.

    Args:
        path: the .tflite file.
        kernels: what the runner's `events.summary` says of each: ``{"kind", "name", "index", "us"}``.
        median_us: of a whole run without the profiler.
    """
    rows = tuple(
        LayerTime(
            name=kernel["name"],
            op=None,
            operators=(),
            kernel=kernel["name"],
            kind="other",
            role=None,
            block=None,
            us=KernelTime(**kernel["us"]),
            share=kernel["us"]["typical"] / median_us,
            macs=None,
            gmacs_per_s=None,
            bytes=0,
            joined=False,
        )
        for kernel in kernels
    )
    return rows, median_us - sum(row.us.typical for row in rows)
