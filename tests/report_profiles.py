"""Profiles for tests of reports: the layers of an audit with made-up times, the same at every call."""

import dataclasses

from keras_nin.audit.api import Audit
from keras_nin.audit.records import AuditRow, AuditTotal
from keras_nin.benchmark.records import (
    PROFILER,
    BenchmarkResult,
    KernelTime,
    LatencyStatistics,
    LayerTime,
    MachinePeak,
    Profile,
)

HOST = {
    "cpu": "Test CPU", "cores": 2, "system": "Linux x86_64", "python": "3.11", "litert": "2.3.0",
    "state": {"load_average": 0.1, "governor": None},
}  # fmt: skip
PEAKS = (MachinePeak("int8", 1, 200.0, 12.0), MachinePeak("float32", 1, 60.0, 12.0))
_COLUMNS = (
    # name, kind, role, block, MACs
    ("conv1", "spatial", None, None, 4_000_000),
    ("pool1", "pool", None, None, 0),
    ("fire2_squeeze1x1", "pointwise", "reduce", "fire2", 1_000_000),
    ("fire2_expand1x1", "pointwise", "expand", "fire2", 2_000_000),
    ("fire2_expand3x3", "spatial", None, "fire2", 18_000_000),
    ("conv10", "pointwise", "head", None, 9_000_000),
)


def audit(model="small", names=()):
    """Return an `Audit` of six layers; `names` replaces the first names."""
    named = [*names, *(column[0] for column in _COLUMNS[len(names) :])]
    columns = [(name, *column[1:]) for name, column in zip(named, _COLUMNS, strict=True)]
    rows = tuple(
        AuditRow(name, "CONV_2D", kind, role, (1, 1), (1, 8, 8, 16), (1, 8, 8, 16), 272, 0, macs, 300, 1024, 1024,
        0, (3, 3),
            block)
        for name, kind, role, block, macs in columns
    )  # fmt: skip
    pointwise = [row for row in rows if row.kind == "pointwise"]
    total = AuditTotal(
        sum(row.params for row in rows), 0, 0, sum(row.macs for row in rows), sum(row.params for row in pointwise),
        sum(row.macs for row in pointwise), 6144, 2048,
    )  # fmt: skip
    return Audit(model, rows, total)


def profile(file="small_int8.tflite", sha256="ab" * 32, rows=None, threads=1, **changes):
    """Return a `Profile` of `rows` (of an audit) whose times follow from their MACs; by default of the six layers."""
    rows = audit().rows if rows is None else rows
    times = [15.0 + (row.macs or 0) / (90_000 if row.kind == "pointwise" else 70_000) for row in rows]
    median = sum(times) + 12.0
    layers = tuple(
        LayerTime(
            row.name, row.type, (index,), f"Kernel of {row.type}", row.kind, row.role, row.block,
            KernelTime(us, us, 1.2 * us, us), us / median, row.macs, row.macs / us / 1000 if row.macs else None,
            row.weight_bytes + 2 * row.activation_bytes, "int8",
        )
        for index, (row, us) in enumerate(zip(rows, times, strict=True))
    )  # fmt: skip
    total = LatencyStatistics(
        median, median + 3, median - 2, median + 9, median + 30, median - 4, median - 1, median + 1
    )
    made = Profile(
        file, sha256, 1000, HOST, threads, 500, True, total, 900.0, 700.0, 2**24, 2**20, "compiled_model", PROFILER,
        400, layers, 12.0,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def benchmark(*profiles, warnings=()):
    """Return a `BenchmarkResult` of profiles."""
    return BenchmarkResult(HOST, profiles or (profile(),), warnings)
