"""Files by targets: what a .tflite file costs on this CPU, the Edge TPU, an Ethos-U and TFLite Micro."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from keras_nin.errors import InputError, check_choice, unknown_name_error
from keras_nin.formatting import format_bytes, format_count, format_names
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, fail_idle, parse_limits
from keras_nin.results import CheckedResult
from keras_nin.schemas import FIT
from keras_nin.tflite.runtime_support import describe_compilation, misfit_notes

if TYPE_CHECKING:
    from keras_nin.benchmark.job import RunJob
    from keras_nin.benchmark.records import Profile
    from keras_nin.edge.edgetpu.records import EdgeTPUResult
    from keras_nin.edge.ethosu.records import EthosUEstimate
    from keras_nin.edge.ethosu.vela import VelaTool
    from keras_nin.edge.micro.measurement import MicroInputs
    from keras_nin.edge.micro.records import MicroResult
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
    """Settings of the targets, as `keras_nin.check_fit` takes them: `max_arena` in bytes, `device` for the CPU."""

    threads: int = 1
    seconds: float = 2.0
    accelerator: str = "ethos-u55-128"
    max_arena: int = 2 * 2**20
    timeout: float = 300.0
    device: str | None = None

    def title(self, target: str) -> str:
        """Return what a target is called."""
        return f"CPU of {self.device}" if target == CPU and self.device else TARGET_TITLES[target]


@dataclass(frozen=True)
class CPUFigures:
    """Latency measured on this machine, with its 95% interval; see `keras_nin.benchmark.Profile`.

    The interval is None with too few runs or drifting times, the share in 1x1 layers where no layers could be timed.
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
        failure, fix: the compiler's message where it rejects the file, and how to get it compiled.
        why: the reason for the failure, or the blocking operators; None where all operators are mapped.
        parameters: where those of the mapped operators are kept.
        uncertain: number of operators whose verdict no compiler's result shows.
    """

    compiles: bool
    failure: str | None
    why: str | None
    fix: str | None
    mapped: int
    operators: int
    parameter_bytes: int
    parameters: str
    uncertain: int = 0


@dataclass(frozen=True)
class EthosUFigures:
    """Vela's estimate, without the time of operators on the CPU; see `keras_nin.edge.ethosu.EthosUEstimate`.

    `vela` is its version, `on_npu` the number of `operators` without a part on the CPU.
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
    """The smallest arena of TFLite Micro on this host; see `keras_nin.edge.micro.Arena` and `MicroComparison`.

    Attributes:
        package: version of tflite-micro.
        bit_exact: whether all outputs are those of LiteRT's reference kernels; None where they were not compared.
        setup_bytes: the part of the arena that is needed while the runtime sets up alone.
        outputs, differing, compared_on: number of outputs compared, and of those that differ; on which inputs.
    """

    arena_bytes: int
    tensor_bytes: int
    persistent_bytes: int
    host_bits: int
    package: str
    bit_exact: bool | None
    setup_bytes: int = 0
    outputs: int | None = None
    differing: int | None = None
    compared_on: str | None = None


_Figures = TypeVar("_Figures", CPUFigures, EdgeTPUFigures, EthosUFigures, MicroFigures)


@dataclass(frozen=True)
class MissingFigures:
    """Why a target has no figures for a file: the target, a label for the table, and the whole reason."""

    target: str
    label: str
    reason: str


@dataclass(frozen=True)
class FileFit:
    """One file on the chosen targets; a target without figures is None, and in `missing` if it was chosen.

    The counts are those of the audit, None for a file that it does not read; `macs` are those of one sample and leave
    unknown MACs out. Latencies and memory are those of a run, which takes `batch` samples.
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
    batch: int = 1

    def find_missing(self, target: str | None) -> MissingFigures | None:
        """Return why a target has no figures; None where it has some or was not chosen."""
        return next((missing for missing in self.missing if missing.target == target), None)


@dataclass(frozen=True, repr=False)
class FitResult(CheckedResult):
    """Files by targets; `host` and `warnings` are those of the measurement on this CPU."""

    targets: tuple[str, ...]
    settings: FitSettings
    host: dict[str, Any] | None
    results: tuple[FileFit, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ``keras_nin.fit/1``."""
        return {"schema": FIT, **self._fields_to_json(), **self._checks_to_json()}

    def _summary(self) -> str:
        titles = ", ".join(self.settings.title(target) for target in self.targets)
        return f"{format_count(len(self.results), 'file')} on {titles}"

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                **{name: getattr(result, name) for name in ("file", "file_bytes", "params", "macs")},
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
    paths: "Sequence[str | os.PathLike[str] | TFLiteModel]",
    targets: Sequence[str] = TARGETS,
    settings: FitSettings | None = None,
    progress: Callable[[str], object] | None = None,
    micro_inputs: "Callable[[TFLiteModel], MicroInputs | None]" = lambda model: None,
    run: "RunJob | None" = None,
) -> FitResult:
    """Show what .tflite files cost on several targets; all files are read before anything is measured.

    Args:
        paths: the .tflite files, or records of them.
        targets: names from `TARGETS`; whatever their order, the CPU is measured first.
        settings: settings of the targets.
        progress: is called with a line of text before each step.
        micro_inputs: returns what to run a file on with TFLite Micro; None is noise.
        run: what runs the files on the device of the settings; None for this machine.

    Raises:
        InputError: no files, a device that cannot be used, an unknown target or accelerator, an arena out of range, or
            a file that is not valid.
    """
    from keras_nin.tflite.reader import read_model

    settings = settings or FitSettings()
    _check_arguments(paths, targets, settings)
    models = [read_model(path) for path in paths]
    results = [_read_file(model) for model in models]
    runner = _TargetRunner(settings, micro_inputs, run)
    chosen = tuple(target for target in TARGETS if target in targets)
    for target in chosen:
        for index, (model, result) in enumerate(zip(models, results, strict=True)):
            if progress is not None:
                progress(f"{result.file}: {settings.title(target)}")
            figures = runner.run(target, model)
            is_missing = isinstance(figures, MissingFigures)
            changed = {"missing": (*result.missing, figures)} if is_missing else {target: figures}
            results[index] = dataclasses.replace(result, **changed)
    notes = tuple(
        f"{result.file}: {note}" for model, result in zip(models, results, strict=True) for note in misfit_notes(model)
    )
    return FitResult(chosen, settings, runner.host, tuple(results), tuple(runner.warnings.values()), notes=notes)


def _check_arguments(paths: Sequence[object], targets: Sequence[str], settings: FitSettings) -> None:
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
        return FileFit(name, model.sha256, model.size_bytes, None, None, None, macs_known=False, batch=model.batch)
    counts = (audit.total.params, audit.total.macs, audit.total.pointwise_macs)
    is_known = not audit.unknown
    return FileFit(name, model.sha256, model.size_bytes, *counts, macs_known=is_known, batch=model.batch)


def _pick_figures(figures: type[_Figures], result: object, **others: Any) -> _Figures:
    """Return a record of figures: `others`, and the other fields from the attributes of those names of `result`."""
    names = [field.name for field in dataclasses.fields(figures) if field.name not in others]  # type: ignore[arg-type]
    return figures(**{name: getattr(result, name) for name in names}, **others)


def cpu_figures(profile: "Profile") -> CPUFigures:
    """Return the figures of a measured profile."""
    from keras_nin.benchmark import layer_times

    times = {"median_us": profile.total.median, "low_us": profile.total.low, "high_us": profile.total.high}
    share = layer_times.sum_pointwise(profile).share if profile.layers else None
    return _pick_figures(CPUFigures, profile, **times, pointwise_share=share)


def edgetpu_figures(result: "EdgeTPUResult") -> EdgeTPUFigures:
    """Return the figures of a verdict."""
    if result.failure:
        reasons = {"failure": result.failure.message, "why": result.failure.why, "fix": result.failure.fix}
    else:
        reasons = {"failure": None, "why": format_names(result.blocking_operators, separator="; ") or None, "fix": None}
    memory = {"parameter_bytes": result.memory.parameter_bytes, "parameters": result.memory.state}
    return _pick_figures(EdgeTPUFigures, result, **reasons, **memory, operators=result.kept)


def ethosu_figures(estimate: "EthosUEstimate") -> EthosUFigures:
    """Return the figures of an estimate."""
    operators, on_cpu = estimate.operator_count, sum(layer.index is not None for layer in estimate.cpu_layers)
    counts = {"on_npu": operators - on_cpu if estimate.uses_npu else 0, "operators": operators}
    return _pick_figures(EthosUFigures, estimate, sram_bytes=estimate.used_bytes("SRAM"), **counts)


def micro_figures(result: "MicroResult") -> MicroFigures | MissingFigures:
    """Return the figures of a file on TFLite Micro, or why no arena works."""
    from keras_nin.edge.micro import records

    if result.arena is None:
        kind, reason = (result.finding.kind, result.finding.message) if result.finding else ("no arena", "")
        label = f"over {format_bytes(result.max_arena)}" if kind == records.TOO_SMALL else kind
        return MissingFigures(MICRO, label, reason)
    compared, names = result.comparison, ("bit_exact", "outputs", "differing")
    others = {name: getattr(compared, name, None) for name in names}
    others |= {"compared_on": compared and compared.inputs, "package": result.package}
    return _pick_figures(MicroFigures, result.arena, arena_bytes=result.arena.bytes, **others)


class _TargetRunner:
    """Runs files on targets; what fails on one does not end the others. Keeps the host and warnings of measurements."""

    def __init__(
        self,
        settings: FitSettings,
        micro_inputs: "Callable[[TFLiteModel], MicroInputs | None]",
        run: "RunJob | None",
    ) -> None:
        self.settings, self.micro_inputs, self._run = settings, micro_inputs, run
        self.host: dict[str, Any] | None = None
        self.warnings: dict[str, str] = {}  # of several about the machine that differ in a number only the last one
        self._vela: VelaTool | None = None

    def run(self, target: str, model: "TFLiteModel") -> object:
        """Return the figures of a file on a target, or why there are none."""
        if (compilation := describe_compilation(model)) is not None:
            return MissingFigures(target, "compiled file", f"it is {compilation}. Use the file from before that")
        method, label = {
            CPU: (self._measure_cpu, "does not run"),
            EDGETPU: (self._predict_edgetpu, "no verdict"),
            ETHOSU: (self._estimate_ethosu, "refused by Vela"),
            MICRO: (self._measure_micro, "not tried"),
        }[target]
        try:
            return method(model)
        except InputError as error:
            if error.argument == "device":
                raise
            return MissingFigures(target, label, str(error))

    def _measure_cpu(self, model: "TFLiteModel") -> CPUFigures:
        from keras_nin.benchmark import measure_files
        from keras_nin.benchmark.measurement import run_job

        settings, run = self.settings, self._run or run_job
        result = measure_files([model], threads=(settings.threads,), seconds=settings.seconds, run=run)
        for warning in result.warnings:
            self.warnings[warning.split(":")[0] if warning.startswith("the machine") else warning] = warning
        self.host = self.host or result.host
        (profile,) = result.profiles
        return cpu_figures(profile)

    def _predict_edgetpu(self, model: "TFLiteModel") -> EdgeTPUFigures:
        from keras_nin.edge.edgetpu.verdict import check_edgetpu

        return edgetpu_figures(check_edgetpu(model))

    def _estimate_ethosu(self, model: "TFLiteModel") -> EthosUFigures | MissingFigures:
        from keras_nin.edge.ethosu import estimate, vela

        try:
            self._vela = self._vela or vela.find_vela()
        except InputError as error:
            return MissingFigures(ETHOSU, "needs the extra ethosu", str(error))
        accelerators, timeout = (self.settings.accelerator,), self.settings.timeout
        (found,) = estimate.estimate_ethosu(model, accelerators, timeout=timeout, tool=self._vela).estimates
        return ethosu_figures(found)

    def _measure_micro(self, model: "TFLiteModel") -> MicroFigures | MissingFigures:
        from keras_nin.edge.micro import measurement

        try:
            measurement.require_tflite_micro()
        except InputError as error:
            return MissingFigures(MICRO, "needs the extra micro", str(error))
        settings = self.settings
        inputs = self.micro_inputs(model)
        return micro_figures(
            measurement.measure_micro(model, max_arena=settings.max_arena, inputs=inputs, timeout=settings.timeout)
        )


def parse_fit_limits(text: str, targets: Sequence[str] = TARGETS, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return limits on chosen targets, such as ``"cpu=5ms,edgetpu=full,ethosu=2ms,arena=256KiB"``; see `limits`."""
    limits = parse_limits(text, FIT_LIMITS, argument=argument)
    for limit in limits:
        if (target := FIT_LIMITS[limit.item]) not in (None, *targets):
            message = f"`{argument}` limits {limit.name}, which needs {target} among `targets`"
            raise InputError(message, argument=argument, received=text)
    return limits


def check_fit_limits(result: FitResult, limits: Iterable[Limit]) -> tuple[LimitCheck, ...]:
    """Compare every file with limits on `FIT_LIMITS`."""
    limits = tuple(limits)
    return tuple(check_file(file, limit) for file in result.results for limit in limits)


def check_file(file: FileFit, limit: Limit) -> LimitCheck:
    """Compare one file with a limit on one of `FIT_LIMITS`."""
    if missing := file.find_missing(FIT_LIMITS[limit.item]):
        return check_limit(limit, None, reason=f"{missing.label}: {missing.reason}", subject=file.file)
    cpu, edgetpu, ethosu, micro = file.cpu, file.edgetpu, file.ethosu, file.micro
    if (idle := _idle_reason(file, FIT_LIMITS[limit.item])) is not None:
        return fail_idle(limit, idle, subject=file.file)
    mapped = edgetpu.mapped / edgetpu.operators if edgetpu and edgetpu.compiles and edgetpu.operators else 0.0
    value = {
        "cpu": cpu and cpu.median_us,
        "edgetpu": edgetpu and mapped,
        "ethosu": ethosu and ethosu.us,
        "sram": ethosu and ethosu.sram_bytes,
        "arena": micro and micro.arena_bytes,
        "flash": file.file_bytes,
    }[limit.name]
    bounds, reason = (value, value), None
    if limit.name == "ethosu" and ethosu and ethosu.on_cpu:
        operators = format_count(ethosu.operators, "operator")
        bounds, reason = (value, None), f"{ethosu.on_cpu:,} of {operators} on the CPU, whose time is unknown"
    return check_limit(limit, value, bounds=bounds, reason=reason, subject=file.file)


def _idle_reason(file: FileFit, target: str | None) -> str | None:
    """Return why nothing of a file runs on a target that has figures for it; None where something does."""
    edgetpu, ethosu = file.edgetpu, file.ethosu
    if target == EDGETPU and edgetpu and not (edgetpu.compiles and edgetpu.mapped):
        return "no operator runs on the Edge TPU"
    if target == ETHOSU and ethosu and not ethosu.on_npu:
        return "no operator runs on the NPU"
    return None
