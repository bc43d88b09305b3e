"""The records of a benchmark: a machine, and for each file its latency and the time of each layer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from keras_nin import schemas
from keras_nin.errors import InputError
from keras_nin.formatting import format_count, format_us
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, parse_limits
from keras_nin.results import Result
from keras_nin.schemas import record_from_json, typed_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROFILER = "profiler"
SINGLE_OPERATORS = "single operators"
BENCHMARK_LIMITS = (LimitItem("latency", Unit.TIME), LimitItem("p90", Unit.TIME))
BUSY_SHARE = 0.1  # of the processor time, from which on other processes disturb a measurement
_LAYER_COLUMNS = ("share", "macs", "gmacs_per_s", "bytes", "kind", "role", "block", "kernel")


@dataclass(frozen=True)
class LatencyStatistics:
    """Times of a whole run in us; `low` to `high` is the 95% interval of the median. Android has no percentiles."""

    median: float
    mean: float
    p10: float | None
    p90: float | None
    p99: float | None
    min: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class KernelTime:
    """Times of one kernel in us; `median` and `p90` are None for Android devices.

    `typical` is the mean over the half of the runs whose total is nearest to the median, without outliers. The clock
    has a resolution of 1 us, so only `typical` is meaningful for small kernels, and only it adds up over the rows.
    """

    median: float | None
    mean: float
    p90: float | None
    typical: float


@dataclass(frozen=True)
class InnerKernel:
    """A kernel of a subgraph that an operator runs, such as the body of a loop: executions in one run of the file.

    `us` is the sum of their times, each a whole number of microseconds, rounded down.
    """

    subgraph: int
    kernel: str
    executions: int
    us: float


@dataclass(frozen=True)
class LayerTime:
    """A kernel that the runtime executed, and the layer that it computes.

    Attributes:
        name: of the layer, unique in the file; the kernel's name where it belongs to no layer.
        op, dtype: type of the main operator ("CONV_2D") and of its output; None for a kernel that the runtime inserted.
        operators: indexes of the file's operators that the kernel computes: several where they are fused, none where
            the runtime inserted the kernel or it was not recognized.
        kernel: its name in the runtime ("Fully Connected (NC, F32) GEMM"); None for an operator without a kernel.
        kind, role, block: of the layer, as in the audit; kind "other" for inserted kernels.
        share: of the median of a whole run, 0 to 1.
        macs, gmacs_per_s: of one sample, and of all samples of a run by their time.
        bytes: inputs, outputs and weights of the operators, each counted once.
        joined, note: whether it is known what the kernel computes; why it has no kernel or no time, or what ran inside.
        iterations, inner: of a loop (WHILE), and the kernels that an operator ran in other subgraphs.
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
    iterations: int | None = None
    inner: tuple[InnerKernel, ...] = ()


@dataclass(frozen=True)
class MachinePeak:
    """Measured limits of a machine: the best rate of the runtime's matrix product, and the bandwidth of memory."""

    dtype: str
    threads: int
    gmacs_per_s: float
    gbytes_per_s: float


@dataclass(frozen=True)
class Profile:
    """Latency of one file on one machine with one number of threads: times of a run, which takes `batch` samples.

    Attributes:
        host: the machine, as `keras_nin.tflite.host.describe_host` returns it, with its `state` at the start.
        runs, converged: of `total`, the times without the profiler; whether its interval is within 1% on either side.
        load_us, first_us: time to load the file, and of its first run.
        peak_bytes, added_bytes: peak resident memory of the process, and what the model added to it; None if unknown.
        api: "compiled_model" (LiteRT), "interpreter" (TensorFlow Lite) or "benchmark_model" (Android).
        method: how the layers were timed, `PROFILER` or `SINGLE_OPERATORS`, in `profiled_runs` runs; None without.
        layers, overhead_us: in order of execution; the median less their typical times ("runtime overhead").
        rounds_us: medians of the rounds, which alternate with those of the files measured together.
        processes_us: medians of the processes, where the measurement was repeated in several; all other fields but
            `rounds_us` are those of the process with the middle one.
        others_share: share of the machine's processor time that other processes took, None if unknown.
        notes: what a reader must know, such as noise as calibration data.
        peaks: limits of the machine in the data types of the layers, where they were measured.
    """

    file: str
    sha256: str
    file_bytes: int
    host: dict[str, Any]
    threads: int
    runs: int
    converged: bool
    total: LatencyStatistics
    load_us: float
    first_us: float
    peak_bytes: int | None
    added_bytes: int | None
    api: str
    method: str | None = None
    profiled_runs: int = 0
    layers: tuple[LayerTime, ...] = ()
    overhead_us: float | None = None
    rounds_us: tuple[float, ...] = ()
    processes_us: tuple[float, ...] = ()
    others_share: float | None = None
    notes: tuple[str, ...] = ()
    peaks: tuple[MachinePeak, ...] = ()
    batch: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the profile as a JSON-ready dictionary, without the host."""
        document = asdict(self)
        del document["host"]
        return document | {"total": {"us": document["total"]}}


@dataclass(frozen=True, repr=False)
class BenchmarkResult(Result):
    """Profiles of files measured on one machine; `warnings` says what made the measurement worse."""

    host: dict[str, Any]
    profiles: tuple[Profile, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON-ready dictionary (schema ``keras_nin.benchmark/1``)."""
        results = [profile.to_json() for profile in self.profiles]
        return {"schema": schemas.BENCHMARK, "host": self.host, "results": results, "warnings": list(self.warnings)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "BenchmarkResult":
        """Return the result of a document that anyone may have written; `InputError` where it is damaged."""
        host = typed_value(dict[str, Any], document.get("host"), "host")
        results = typed_value(tuple[dict[str, Any], ...], document.get("results"), "results")
        warnings = typed_value(tuple[str, ...], document.get("warnings", []), "warnings")
        return cls(host, tuple(_read_profile(result, host) for result in results), warnings)

    def plot(self) -> "Figure":
        """Return the figure of the layer times of the first profile that has them; `InputError` where none has."""
        from keras_nin.plots.latency import plot_layer_times

        for profile in self.profiles:
            if profile.layers:
                return plot_layer_times(profile)
        raise InputError("the benchmark has no layers to plot. Measure with `layers`", argument="layers")

    def _summary(self) -> str:
        return "; ".join(
            f"{profile.file}, {format_count(profile.threads, 'thread')}: {format_us(profile.total.median)}"
            for profile in self.profiles
        )

    def _rows(self) -> list[dict[str, Any]]:
        """Return a row per layer, or per file where no layers were timed."""
        if any(profile.layers for profile in self.profiles):
            return [
                {"file": profile.file, "threads": profile.threads, "layer": layer.name}
                | {"us": layer.us and layer.us.typical, **{name: getattr(layer, name) for name in _LAYER_COLUMNS}}
                for profile in self.profiles
                for layer in profile.layers
            ]
        return [
            {"file": profile.file, "threads": profile.threads, **asdict(profile.total)}
            | {"runs": profile.runs, "load_us": profile.load_us, "peak_bytes": profile.peak_bytes}
            for profile in self.profiles
        ]


def _read_profile(document: dict[str, Any], host: dict[str, Any]) -> Profile:
    total = typed_value(dict[str, Any], document.get("total"), "total").get("us")
    profile = record_from_json(Profile, document | {"total": total, "host": host})
    times = [layer.us for layer in profile.layers if layer.us]
    for record in (profile, profile.total, *profile.layers, *times, *profile.peaks):
        for name, value in vars(record).items():
            if isinstance(value, int | float) and value < 0 and name != "overhead_us":
                raise InputError(f"Expected no negative {name!r}. Received: {value} in {profile.file!r:.80}")
    if not profile.total.median or not all(peak.gmacs_per_s and peak.gbytes_per_s for peak in profile.peaks):
        raise InputError(f"Expected a median and peaks above 0. Received: 0 in {profile.file!r:.80}")
    return profile


def parse_benchmark_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return limits on the median and the 90th percentile: ``"latency=5ms,p90=6ms"``; see `keras_nin.limits`."""
    return parse_limits(text, BENCHMARK_LIMITS, argument=argument)


def check_benchmark_limits(result: BenchmarkResult, limits: Sequence[Limit]) -> tuple[LimitCheck, ...]:
    """Compare every profile with limits on `BENCHMARK_LIMITS`."""
    return tuple(
        check_limit(
            limit,
            profile.total.median if limit.name == "latency" else profile.total.p90,
            subject=f"{profile.file} on {format_count(profile.threads, 'thread')}",
        )
        for profile in result.profiles
        for limit in limits
    )
