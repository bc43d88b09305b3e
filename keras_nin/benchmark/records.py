"""The result of a benchmark: a machine, and for each file its latency and the time of its layers."""

import dataclasses
from dataclasses import dataclass

SCHEMA = "keras_nin.benchmark/1"
PROFILER = "profiler"
SINGLE_OPERATORS = "single operators"


@dataclass(frozen=True)
class LatencyStatistics:
    """Times of a run in microseconds; `low` to `high` is the 95 % confidence interval of the median, if known.

    From adb, whose tool does not tell them, the percentiles `p10`, `p90` and `p99` are None.
    """

    median: float
    mean: float
    p10: float
    p90: float
    p99: float
    min: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class KernelTime:
    """Time of a kernel in a run in microseconds; `typical` is the mean over the half of the runs nearest the median.

    The kernel's own outliers are not in it. The profiler's clock has a resolution of 1 us: of small kernels only
    `typical` says something. Rows add up in it. From adb, `median` and `p90` are None.
    """

    median: float
    mean: float
    p90: float
    typical: float


@dataclass(frozen=True)
class LayerTime:
    """A kernel that the runtime executed, and the layer that it computes.

    Attributes:
        name: the layer's, unique in the file; of what belongs to no layer the kernel's.
        op: the main operator's type in the file ("CONV_2D"); None for a kernel that the runtime inserted.
        operators: indexes of the file's operators that the kernel computes: more than one where some are fused into it,
            none where the runtime inserted it or the kernel could not be joined.
        kernel: what the runtime calls it, such as "Fully Connected (NC, QS8, QC8W) GEMM"; None for an operator that no
            kernel was found for, which then has no `us`.
        kind, role, block: of the layer, as the audit has them; kind "other" for inserted kernels.
        us: `KernelTime` or None.
        share: of the whole median, 0 to 1; None without `us`.
        macs: of the layer; None where not known.
        gmacs_per_s: 10^9 MACs a second; None without MACs or `us`.
        bytes: inputs, outputs and weights of the operators, each once.
        dtype: in which it computes: that of the main operator's output, "int8" or "float32".
        joined: whether it is known what it computes, an operator or an insertion of the runtime.
        note: why there is no kernel or no time, in words.
    """

    name: str
    op: str | None
    operators: tuple[int, ...]
    kernel: str | None
    kind: str
    role: str | None
    block: str | None
    us: KernelTime | None
    share: float | None
    macs: int | None
    gmacs_per_s: float | None
    bytes: int
    dtype: str | None = None
    joined: bool = True
    note: str | None = None


@dataclass(frozen=True)
class MachinePeak:
    """What a machine can do at most in one data type on so many threads, measured.

    `gmacs_per_s` is that of the runtime's own matrix product where it is fastest, `gbytes_per_s` memory's bandwidth.
    """

    dtype: str
    threads: int
    gmacs_per_s: float
    gbytes_per_s: float


@dataclass(frozen=True)
class Profile:
    """Latency of one file on one machine with one number of threads, batch 1.

    Attributes:
        file: its name.
        sha256: of its content.
        file_bytes: its size.
        host: what `keras_nin.tflite.host.describe_host` says of the machine, with its `state` when the measurement began.
        threads: of the runtime.
        runs: how many runs `total` is over.
        converged: whether the interval of the median is within 1 % on either side.
        total: `Statistics` of a whole run, without the profiler.
        load_us, first_us: from the file to a model ready to run, and its first run.
        peak_bytes: largest resident memory of the process that ran it; added_bytes: by how much the model enlarged it;
            both None where the device does not tell.
        api: "compiled_model" (LiteRT's) or "interpreter" (TensorFlow Lite's).
        method: how the layers' times were taken, `PROFILER` or `SINGLE_OPERATORS`; None without layers.
        profiled_runs: how many runs the layers' times are over.
        layers: `LayerTime` records in order of execution.
        overhead_us: what is left of the median when the layers' typical times are taken away: the "runtime overhead".
        rounds_us: medians of the rounds, which take turns with those of the files measured beside it.
        notes: what a reader must know: random calibration, why there is no profiler.
        peaks: `Peak` of every data type of the layers, where they were measured.
    """

    file: str
    sha256: str
    file_bytes: int
    host: dict
    threads: int
    runs: int
    converged: bool
    total: LatencyStatistics
    load_us: float
    first_us: float
    peak_bytes: int
    added_bytes: int
    api: str
    method: str | None = None
    profiled_runs: int = 0
    layers: tuple[LayerTime, ...] = ()
    overhead_us: float | None = None
    rounds_us: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    peaks: tuple[MachinePeak, ...] = ()

    def to_json(self):
        """Return the profile as a JSON-ready dictionary, without the host."""
        document = dataclasses.asdict(self)
        del document["host"]
        document["total"] = {"us": document["total"]}
        return document

    @classmethod
    def from_json(cls, document, host):
        """Return the profile of a dictionary that `to_json` gave."""
        fields = dict(document)
        fields["total"] = LatencyStatistics(**document["total"]["us"])
        fields["layers"] = tuple(_read_layer(each) for each in document["layers"])
        fields["peaks"] = tuple(MachinePeak(**each) for each in document["peaks"])
        for name in ("rounds_us", "notes"):
            fields[name] = tuple(document[name])
        return cls(host=host, **fields)


def _read_layer(document):
    us = document["us"]
    return LayerTime(
        **document | {"operators": tuple(document["operators"]), "us": None if us is None else KernelTime(**us)}
    )


@dataclass(frozen=True)
class BenchmarkResult:
    """Profiles of files measured together on one machine, and warnings about it."""

    host: dict
    profiles: tuple[Profile, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self):
        """Return the benchmark as a JSON-ready dictionary (schema ``keras_nin.benchmark/1``)."""
        return {
            "schema": SCHEMA,
            "host": self.host,
            "results": [profile.to_json() for profile in self.profiles],
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, document):
        """Return the benchmark of a dictionary that `to_json` gave."""
        host = document["host"]
        profiles = tuple(Profile.from_json(each, host) for each in document["results"])
        return cls(host, profiles, tuple(document["warnings"]))
