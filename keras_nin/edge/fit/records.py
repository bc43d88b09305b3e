"""What a file costs on each target, in as many figures as a table has room for."""

import dataclasses
from dataclasses import dataclass

SCHEMA = "keras_nin.fit/1"
CPU, EDGETPU, ETHOSU, MICRO = "cpu", "edgetpu", "ethosu", "micro"
TARGETS = (CPU, EDGETPU, ETHOSU, MICRO)


@dataclass(frozen=True)
class Settings:
    """How the targets are asked.

    Attributes:
        threads, seconds: of the measurement on this CPU; the longest that it takes for a file.
        accelerator: the Ethos-U, one of `keras_nin.edge.ethosu.ACCELERATORS`.
        max_arena: largest arena of TFLite Micro to try, in bytes.
        time_limit: seconds after which Vela, or a runtime of TFLite Micro, is ended.
    """

    threads: int = 1
    seconds: float = 2.0
    accelerator: str = "ethos-u55-128"
    max_arena: int = 2 * 2**20
    time_limit: float = 300.0


@dataclass(frozen=True)
class Cpu:
    """Measured on this machine at batch 1, as `keras_nin.benchmark.Profile` has it.

    `low_us` to `high_us` is the 95 % interval of the median, None where there were too few runs; `pointwise_share` the
    part of the median in 1x1 layers, None where the layers could not be timed.
    """

    median_us: float
    low_us: float | None
    high_us: float | None
    threads: int
    runs: int
    converged: bool
    pointwise_share: float | None


@dataclass(frozen=True)
class EdgeTpu:
    """Predicted from the file, as `keras_nin.edge.edgetpu.Verdict` has it.

    Attributes:
        compiles: whether the compiler takes the file.
        failure: its words where it does not, else None.
        why: the reason of that, or what keeps operators off the Edge TPU; None where all are mapped.
        fix: what would make it compile; None where it does.
        mapped, operators: how many are mapped, of how many.
        parameter_bytes, parameters: of the mapped operators, and where they lie: "on-chip", "usually on-chip", "usually
            streamed", "streamed".
    """

    compiles: bool
    failure: str | None
    why: str | None
    fix: str | None
    mapped: int
    operators: int
    parameter_bytes: int
    parameters: str


@dataclass(frozen=True)
class EthosU:
    """Estimated by Vela, as `keras_nin.edge.ethosu.Estimate` has it; `us` is without what is left to the CPU.

    `on_npu` counts the operators that the CPU has no part in, of `operators`.
    """

    accelerator: str
    system_config: str
    memory_mode: str
    vela: str
    clock_hz: float
    us: float
    sram_bytes: int
    on_npu: int
    operators: int

    @property
    def left_to_cpu(self):
        """Number of operators that the CPU computes at least in part."""
        return self.operators - self.on_npu


@dataclass(frozen=True)
class Micro:
    """The smallest arena that TFLite Micro needs on this host, as `keras_nin.edge.micro.Arena` has it.

    `same` says whether the outputs on noise are bit for bit those of LiteRT's reference kernels; None: not compared.
    """

    arena_bytes: int
    tensor_bytes: int
    persistent_bytes: int
    host_bits: int
    package: str
    same: bool | None


@dataclass(frozen=True)
class NoFigure:
    """Why a target has no figures of a file: the target, a few words for the table, and the whole reason."""

    target: str
    word: str
    reason: str


@dataclass(frozen=True)
class FileFit:
    """One file on the targets that were asked; a target without figures is None, and one of `missing` if it was asked.

    Attributes:
        file, sha256, file_bytes: its name, hash and size.
        params, macs, pointwise_macs: as the audit counts them; None for a file that it does not read. Layers whose MACs
            are not known are left out of `macs`, which are then `macs_known` in part alone.
    """

    file: str
    sha256: str
    file_bytes: int
    params: int | None
    macs: int | None
    pointwise_macs: int | None
    macs_known: bool
    cpu: Cpu | None = None
    edgetpu: EdgeTpu | None = None
    ethosu: EthosU | None = None
    micro: Micro | None = None
    missing: tuple[NoFigure, ...] = ()

    def why_not(self, target):
        """Return the `NoFigure` of a target, None where there are figures or it was not asked."""
        return next((each for each in self.missing if each.target == target), None)


@dataclass(frozen=True)
class Fit:
    """Files by targets.

    Attributes:
        targets: those that were asked.
        settings: `Settings`.
        host: of the measurement, as in a benchmark; None where nothing was measured.
        results: `FileFit` of each file.
        warnings: about the measurement.
    """

    targets: tuple[str, ...]
    settings: Settings
    host: dict | None
    results: tuple[FileFit, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self):
        """Return the record as a JSON-ready dictionary (schema ``keras_nin.fit/1``)."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}
