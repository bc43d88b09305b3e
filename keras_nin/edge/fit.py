"""Files by targets: what a .tflite file costs on this CPU, the Edge TPU, an Ethos-U and TFLite Micro."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_nin.errors import InputError, check_choice, unknown_name_error
from keras_nin.formatting import format_bytes, format_count
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, parse_limits
from keras_nin.results import CheckedResult
from keras_nin.schemas import FIT

if TYPE_CHECKING:
    from keras_nin.edge.ethosu.vela import VelaTool
    from keras_nin.tflite.records import TFLiteModel

CPU, EDGETPU, ETHOSU, MICRO = "cpu", "edgetpu", "ethosu", "micro"
TARGETS = (CPU, EDGETPU, ETHOSU, MICRO)
TARGET_TITLES = {CPU: "this CPU", EDGETPU: "Edge TPU", ETHOSU: "Ethos-U", MICRO: "TFLite Micro"}
# What can be limited, and the target that it belongs to; None for the file itself.
FIT_LIMITS: dict[LimitItem, str | None] = {
    LimitItem("cpu", Unit.TIME): CPU,
    LimitItem("edgetpu", Unit.SHARE, at_least=True): EDGETPU,
    LimitItem("ethosu", Unit.TIME): ETHOSU,
    LimitItem("sram", Unit.BYTES): ETHOSU,
    LimitItem("arena", Unit.BYTES): MICRO,
    LimitItem("flash", Unit.BYTES): None,
}


@dataclass(frozen=True)
class FitSettings:
    """Settings of the targets.

    Attributes:
        threads, seconds: threads, and longest measurement of a file, on this CPU.
        accelerator: the Ethos-U, one of `keras_nin.edge.ethosu.ACCELERATORS`.
        max_arena: largest arena of TFLite Micro to try, in bytes.
        timeout: seconds after which Vela, or a runtime of TFLite Micro, is ended.
    """

    threads: int = 1
    seconds: float = 2.0
    accelerator: str = "ethos-u55-128"
    max_arena: int = 2 * 2**20
    timeout: float = 300.0


@dataclass(frozen=True)
class CPUFigures:
    """Latency measured on this machine at batch 1; see `keras_nin.benchmark.Profile`.

    Attributes:
        low_us, high_us: ends of the 95% interval of the median; None with too few runs.
        converged: whether the median became stable.
        pointwise_share: share of the median in 1x1 layers; None where the layers could not be timed.
    """

    median_us: float
    low_us: float | None
    high_us: float | None
    threads: int
    runs: int
    converged: bool
    pointwise_share: float | None


@dataclass(frozen=True)
class EdgeTPUFigures:
    """Verdict predicted from the file; see `keras_nin.edge.edgetpu.EdgeTPUResult`.

    Attributes:
        compiles: whether the compiler accepts the file.
        failure: the compiler's message where it does not.
        why: the reason for that, or the blocking operators; None where all operators are mapped.
        fix: how to get the file compiled; None where it compiles.
        mapped, operators: number of mapped operators, and of all.
        parameter_bytes, parameters: size of the mapped operators' parameters, and where they are kept.
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
class EthosUFigures:
    """Vela's estimate; see `keras_nin.edge.ethosu.EthosUEstimate`.

    Attributes:
        us: time of a run in microseconds, without the operators on the CPU.
        sram_bytes: SRAM in use at most.
        on_npu, operators: number of operators without a part on the CPU, and of all.
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
    def on_cpu(self) -> int:
        """Number of operators that the CPU computes at least in part."""
        return self.operators - self.on_npu


@dataclass(frozen=True)
class MicroFigures:
    """The smallest arena of TFLite Micro on this host; see `keras_nin.edge.micro.Arena`.

    Attributes:
        tensor_bytes, persistent_bytes: its non-persistent and its persistent part.
        host_bits: width of a pointer on this host.
        package: version of tflite-micro.
        bit_exact: whether the outputs on noise equal those of LiteRT's reference kernels; None where not compared.
    """

    arena_bytes: int
    tensor_bytes: int
    persistent_bytes: int
    host_bits: int
    package: str
    bit_exact: bool | None


Figures = CPUFigures | EdgeTPUFigures | EthosUFigures | MicroFigures


@dataclass(frozen=True)
class MissingFigures:
    """Why a target has no figures for a file: the target, a label for the table, and the whole reason."""

    target: str
    label: str
    reason: str


@dataclass(frozen=True)
class FileFit:
    """One file on the chosen targets; a target without figures is None, and in `missing` if it was chosen.

    Attributes:
        params, macs, pointwise_macs: as the audit counts them; None for a file that the audit does not read.
        macs_known: whether the MACs of every layer are known; `macs` leaves unknown ones out.
        missing: why a chosen target has no figures.
    """

    file: str
    sha256: str
    file_bytes: int
    params: int | None
    macs: int | None
    pointwise_macs: int | None
    macs_known: bool
    cpu: CPUFigures | None = None
    edgetpu: EdgeTPUFigures | None = None
    ethosu: EthosUFigures | None = None
    micro: MicroFigures | None = None
    missing: tuple[MissingFigures, ...] = ()

    def find_missing(self, target: str | None) -> MissingFigures | None:
        """Return why a target has no figures; None where it has some or was not chosen."""
        return next((missing for missing in self.missing if missing.target == target), None)


@dataclass(frozen=True, repr=False)
class FitResult(CheckedResult):
    """Files by targets.

    Attributes:
        host: the machine, as in a benchmark; None where nothing was measured.
        warnings: warnings about the measurement.
    """

    targets: tuple[str, ...]
    settings: FitSettings
    host: dict[str, Any] | None
    results: tuple[FileFit, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ``keras_nin.fit/1``."""
        return {"schema": FIT, **self._fields_to_json(), **self._checks_to_json()}

    def _summary(self) -> str:
        titles = ", ".join(TARGET_TITLES[target] for target in self.targets)
        return f"{format_count(len(self.results), 'file')} on {titles}"

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "file": result.file,
                "file_bytes": result.file_bytes,
                "params": result.params,
                "macs": result.macs,
                "cpu_us": result.cpu and result.cpu.median_us,
                "edgetpu_mapped": result.edgetpu and result.edgetpu.mapped,
                "ethosu_us": result.ethosu and result.ethosu.us,
                "micro_arena_bytes": result.micro and result.micro.arena_bytes,
            }
            for result in self.results
        ]


def parse_targets(names: Iterable[str]) -> tuple[str, ...]:
    """Return target names, each once and without spaces around it."""
    return tuple(dict.fromkeys(check_choice("targets", name.strip(), TARGETS) for name in names))


def check_fit(
    paths: Sequence[str | os.PathLike[str]],
    targets: Sequence[str] = TARGETS,
    settings: FitSettings | None = None,
    progress: Callable[[str], object] | None = None,
) -> FitResult:
    """Show what .tflite files cost on several targets.

    All files are read before anything is measured. What fails on a target is reported in the result.

    Args:
        paths: the .tflite files.
        targets: names from `TARGETS`; whatever their order, the CPU is measured first.
        settings: settings of the targets.
        progress: is called with a line of text before each step.

    Returns:
        The figures of every file on every target, times in microseconds, sizes in bytes.

    Raises:
        InputError: no files, an unknown target or accelerator, an arena out of range, or a file that is not valid.
    """
    from keras_nin.tflite.reader import read_model

    settings = settings or FitSettings()
    _check_arguments(paths, targets, settings)
    models = [read_model(path) for path in paths]
    results = [_read_file(model) for model in models]
    runner = _TargetRunner(settings)
    chosen = tuple(target for target in TARGETS if target in targets)
    for target in chosen:
        for index, model in enumerate(models):
            if progress is not None:
                progress(f"{results[index].file}: {TARGET_TITLES[target]}")
            figures = runner.run(target, model)
            if isinstance(figures, MissingFigures):
                results[index] = dataclasses.replace(results[index], missing=(*results[index].missing, figures))
            else:
                results[index] = dataclasses.replace(results[index], **{target: figures})
    return FitResult(chosen, settings, runner.host, tuple(results), tuple(runner.warnings.values()))


def _check_arguments(paths: Sequence[str | os.PathLike[str]], targets: Iterable[str], settings: FitSettings) -> None:
    if not paths:
        raise InputError("Expected `paths` to name at least one file. Received: none", argument="paths")
    if ETHOSU in parse_targets(targets):
        from keras_nin.edge.ethosu.records import ACCELERATORS

        if settings.accelerator not in ACCELERATORS:
            raise unknown_name_error("accelerator", settings.accelerator, ACCELERATORS)
    if MICRO in targets:
        from keras_nin.edge.micro.measurement import check_arena

        check_arena(settings.max_arena)


def _read_file(model: "TFLiteModel") -> FileFit:
    """Return what the file itself tells, without figures of a target."""
    from keras_nin.audit.api import audit_graph
    from keras_nin.audit.tflite_reader import read_tflite_graph

    name = model.path.name if model.path else "model"
    try:
        audit = audit_graph(read_tflite_graph(model))
    except InputError:  # a valid file with an open axis has no MACs
        return FileFit(name, model.sha256, model.size_bytes, None, None, None, macs_known=False)
    total = audit.total
    return FileFit(
        file=name,
        sha256=model.sha256,
        file_bytes=model.size_bytes,
        params=total.params,
        macs=total.macs,
        pointwise_macs=total.pointwise_macs,
        macs_known=not audit.unknown,
    )


class _TargetRunner:
    """Runs files on targets; what fails on one does not end the others. Keeps the host and warnings of measurements."""

    def __init__(self, settings: FitSettings) -> None:
        self.settings = settings
        self.host: dict[str, Any] | None = None
        self.warnings: dict[str, str] = {}  # of several about the machine that differ in a number only the last one
        self._vela: VelaTool | MissingFigures | None = None

    def run(self, target: str, model: "TFLiteModel") -> Figures | MissingFigures:
        """Return the figures of a file on a target, or why there are none."""
        method, label = {
            CPU: (self._measure_cpu, "does not run"),
            EDGETPU: (self._predict_edgetpu, "no verdict"),
            ETHOSU: (self._estimate_ethosu, "refused by Vela"),
            MICRO: (self._measure_micro, "not tried"),
        }[target]
        try:
            return method(model)
        except InputError as error:
            return MissingFigures(target, label, str(error))

    def _measure_cpu(self, model: "TFLiteModel") -> CPUFigures:
        from keras_nin.benchmark import layer_times, measure_files

        result = measure_files([model], threads=(self.settings.threads,), seconds=self.settings.seconds)
        for warning in result.warnings:
            self.warnings[warning.split(":")[0] if warning.startswith("the machine") else warning] = warning
        self.host = self.host or result.host
        (profile,) = result.profiles
        return CPUFigures(
            median_us=profile.total.median,
            low_us=profile.total.low,
            high_us=profile.total.high,
            threads=profile.threads,
            runs=profile.runs,
            converged=profile.converged,
            pointwise_share=layer_times.sum_pointwise(profile).share if profile.layers else None,
        )

    def _predict_edgetpu(self, model: "TFLiteModel") -> EdgeTPUFigures:
        from keras_nin.edge.edgetpu.verdict import check_edgetpu

        result = check_edgetpu(model)
        failure = result.failure
        return EdgeTPUFigures(
            compiles=result.compiles,
            failure=failure.message if failure else None,
            why=(failure.why if failure else "; ".join(result.blocking_operators)) or None,
            fix=failure.fix if failure else None,
            mapped=result.mapped,
            operators=result.kept,
            parameter_bytes=result.memory.parameter_bytes,
            parameters=result.memory.state,
        )

    def _estimate_ethosu(self, model: "TFLiteModel") -> EthosUFigures | MissingFigures:
        from keras_nin.edge.ethosu.estimate import estimate_ethosu

        tool = self._find_vela()
        if isinstance(tool, MissingFigures):
            return tool
        accelerators = (self.settings.accelerator,)
        (estimate,) = estimate_ethosu(model, accelerators, timeout=self.settings.timeout, tool=tool).estimates
        operators = estimate.operator_count
        return EthosUFigures(
            accelerator=estimate.accelerator,
            system_config=estimate.system_config,
            memory_mode=estimate.memory_mode,
            vela=estimate.vela,
            clock_hz=estimate.clock_hz,
            us=estimate.us,
            sram_bytes=estimate.used_bytes("SRAM"),
            on_npu=operators - sum(layer.index is not None for layer in estimate.cpu_layers),
            operators=operators,
        )

    def _find_vela(self) -> "VelaTool | MissingFigures":
        """Return Vela, looked for once for all files."""
        if self._vela is None:
            from keras_nin.edge.ethosu.vela import find_vela

            try:
                self._vela = find_vela()
            except InputError as error:
                self._vela = MissingFigures(ETHOSU, "needs the extra ethosu", str(error))
        return self._vela

    def _measure_micro(self, model: "TFLiteModel") -> MicroFigures | MissingFigures:
        from keras_nin.edge.micro import measurement, records

        try:
            measurement.require_tflite_micro()
        except InputError as error:
            return MissingFigures(MICRO, "needs the extra micro", str(error))
        settings = self.settings
        # One sample is compared: the reference kernels are slow.
        result = measurement.measure_micro(model, max_arena=settings.max_arena, seconds=0, timeout=settings.timeout)
        if result.arena is None:
            kind, reason = (result.finding.kind, result.finding.message) if result.finding else ("no arena", "")
            label = f"over {format_bytes(settings.max_arena)}" if kind == records.TOO_SMALL else kind
            return MissingFigures(MICRO, label, reason)
        return MicroFigures(
            arena_bytes=result.arena.bytes,
            tensor_bytes=result.arena.tensor_bytes,
            persistent_bytes=result.arena.persistent_bytes,
            host_bits=result.arena.host_bits,
            package=result.package,
            bit_exact=result.comparison and result.comparison.bit_exact,
        )


def parse_fit_limits(text: str, targets: Iterable[str] = TARGETS, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return the limits of a text such as ``"cpu=5ms,edgetpu=full,ethosu=2ms,arena=256KiB"``; see `keras_nin.limits`.

    Raises:
        InputError: an unknown item, a number or unit that its item does not take, or a target that is not chosen.
    """
    chosen = (None, *targets)
    limits = parse_limits(text, FIT_LIMITS, argument=argument)
    for limit in limits:
        if FIT_LIMITS[limit.item] not in chosen:
            raise InputError(
                f"`{argument}` limits {limit.name}, which needs {FIT_LIMITS[limit.item]} among `targets`",
                argument=argument,
                received=text,
            )
    return limits


def check_fit_limits(result: FitResult, limits: Iterable[Limit]) -> tuple[LimitCheck, ...]:
    """Compare every file with limits on `FIT_LIMITS`."""
    limits = tuple(limits)
    return tuple(_check_file(file, limit) for file in result.results for limit in limits)


def _check_file(file: FileFit, limit: Limit) -> LimitCheck:
    if missing := file.find_missing(FIT_LIMITS[limit.item]):
        return check_limit(limit, None, reason=f"{missing.label}: {missing.reason}", subject=file.file)
    value = _limited_value(file, limit.name)
    bounds, reason = (value, value), None
    if limit.name == "ethosu" and file.ethosu and file.ethosu.on_cpu:
        operators = format_count(file.ethosu.operators, "operator")
        bounds, reason = (value, None), f"{file.ethosu.on_cpu:,} of {operators} on the CPU, whose time is unknown"
    return check_limit(limit, value, bounds=bounds, reason=reason, subject=file.file)


def _limited_value(file: FileFit, item: str) -> float | None:
    """Return the value of an item of `FIT_LIMITS`, None where there are no figures."""
    cpu, edgetpu, ethosu, micro = file.cpu, file.edgetpu, file.ethosu, file.micro
    mapped = edgetpu.mapped / edgetpu.operators if edgetpu and edgetpu.compiles and edgetpu.operators else 0.0
    return {
        "cpu": cpu and cpu.median_us,
        "edgetpu": edgetpu and mapped,
        "ethosu": ethosu and ethosu.us,
        "sram": ethosu and ethosu.sram_bytes,
        "arena": micro and micro.arena_bytes,
        "flash": file.file_bytes,
    }[item]
