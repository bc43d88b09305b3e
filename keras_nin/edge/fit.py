"""What a file costs on each target, in as many figures as a table has room for."""

import dataclasses
import os
from dataclasses import dataclass, field

from keras_nin import files
from keras_nin.audit import api, tflite_reader
from keras_nin.audit.tables import format_size
from keras_nin.errors import InputError, check_choice, unknown_name_error
from keras_nin.tflite import reader as tflite_graph

FIT_SCHEMA = "keras_nin.fit/1"
CPU, EDGETPU, ETHOSU, MICRO = "cpu", "edgetpu", "ethosu", "micro"
TARGETS = (CPU, EDGETPU, ETHOSU, MICRO)


@dataclass(frozen=True)
class FitSettings:
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
class CPUFigures:
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
class EdgeTPUFigures:
    """Predicted from the file, as `keras_nin.edge.edgetpu.EdgeTPUResult` has it.

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
class EthosUFigures:
    """Estimated by Vela, as `keras_nin.edge.ethosu.EthosUEstimate` has it; `us` is without what is left to the CPU.

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
class MicroFigures:
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
class MissingFigures:
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
    cpu: CPUFigures | None = None
    edgetpu: EdgeTPUFigures | None = None
    ethosu: EthosUFigures | None = None
    micro: MicroFigures | None = None
    missing: tuple[MissingFigures, ...] = ()

    def why_not(self, target):
        """Return the `NoFigure` of a target, None where there are figures or it was not asked."""
        return next((each for each in self.missing if each.target == target), None)


@dataclass(frozen=True)
class FitResult:
    """Files by targets.

    Attributes:
        targets: those that were asked.
        settings: `Settings`.
        host: of the measurement, as in a benchmark; None where nothing was measured.
        results: `FileFit` of each file.
        warnings: about the measurement.
    """

    targets: tuple[str, ...]
    settings: FitSettings
    host: dict | None
    results: tuple[FileFit, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self):
        """Return the record as a JSON-ready dictionary (schema ``keras_nin.fit/1``)."""
        return {"schema": FIT_SCHEMA, **dataclasses.asdict(self)}


# MERGED From .tflite files to a `Fit`: read them all, and only then ask the targets one after another.

_TITLES = {CPU: "this CPU", EDGETPU: "Edge TPU", ETHOSU: "Ethos-U", MICRO: "TFLite Micro"}


def check_fit(paths, targets=TARGETS, settings=None, progress=None):
    """Return the `Fit` of .tflite files: what each costs, and what each target makes of it.

    Args:
        paths: of the files.
        targets: of `TARGETS`; whatever their order, the CPU is measured first.
        settings: `Settings`; None takes its defaults.
        progress: function of a line of text that says what is being done, or None.

    Raises:
        InputError: no files, an unknown target or accelerator, an arena out of range, or a file that is not valid;
            before anything is measured. What fails on a target is in the result.
    """
    settings = settings or FitSettings()
    _check_arguments(paths, targets, settings)
    paths = [os.fspath(path) for path in paths]
    results = [_read_file(path) for path in paths]
    asking = _TargetRunner(settings, EthosUEstimator() if ETHOSU in targets else None)
    chosen = tuple(target for target in TARGETS if target in targets)
    for target in chosen:
        for place, path in enumerate(paths):
            if progress is not None:
                progress(f"{os.path.basename(path)}: {_TITLES[target]}")
            results[place] = _add_figures(results[place], target, asking.ask(target, path))
    return FitResult(chosen, settings, asking.host, tuple(results), tuple(_unique_warnings(asking.warnings)))


def _check_arguments(paths, targets, settings):
    """Refuse what cannot be asked."""
    if not paths:
        raise InputError("Expected `paths` to name at least one file. Received: none")
    for target in targets:
        check_choice("target", target, TARGETS)
    if ETHOSU in targets:
        from keras_nin.edge.ethosu import records

        if settings.accelerator not in records.ACCELERATORS:
            raise unknown_name_error("accelerator", settings.accelerator, records.ACCELERATORS)
    if MICRO in targets:
        from keras_nin.edge.micro import measurement

        measurement.check_arena(settings.max_arena)


def _read_file(path):
    """Return the `FileFit` of a file that no target was asked about yet."""
    graph = tflite_graph.read_model(path)
    about = {"sha256": files.sha256(graph.content), "file_bytes": graph.size_bytes}
    try:
        made = api.audit_graph(tflite_reader.read_tflite_graph(path))
    except InputError:  # valid, but with an open axis: it has no MACs
        return FileFit(os.path.basename(path), params=None, macs=None, pointwise_macs=None, macs_known=False, **about)
    total = made.total
    return FileFit(
        os.path.basename(path),
        params=total.params,
        macs=total.macs,
        pointwise_macs=total.pointwise_macs,
        macs_known=not made.unknown,
        **about,
    )


def _add_figures(result, target, answer):
    if isinstance(answer, MissingFigures):
        return dataclasses.replace(result, missing=(*result.missing, answer))
    return dataclasses.replace(result, **{target: answer})


@dataclass
class _TargetRunner:
    """How the targets are asked, and what they say beside their figures."""

    settings: FitSettings
    vela: "EthosUEstimator | None"
    host: dict | None = None
    warnings: list[str] = field(default_factory=list)

    def ask(self, target, path):
        """Return the figures of a target, or `NoFigure`."""
        if target == CPU:
            answer, host = measure_cpu(path, self.settings, self.warnings)
            self.host = self.host or host
            return answer
        if target == EDGETPU:
            return predict_edgetpu(path)
        return self.vela(path, self.settings) if target == ETHOSU else measure_arena(path, self.settings)


def _unique_warnings(warnings):
    """Return warnings of several measurements, the last alone of those that are about the machine in the same way."""
    return {each.split(":")[0] if each.startswith("the machine") else each: each for each in warnings}.values()


# MERGED One file on one target: its figures, or why there are none. What fails on a target ends nothing else.


def measure_cpu(path, settings, warnings):
    """Return (`Cpu`, host) of a file that is run here, or (`NoFigure`, None); adds to the list of `warnings`."""
    from keras_nin.benchmark import layer_times, measure_files

    try:
        made = measure_files([path], threads=(settings.threads,), seconds=settings.seconds)
    except InputError as error:
        return MissingFigures(CPU, "does not run", str(error)), None
    warnings += made.warnings
    (profile,) = made.profiles
    total = profile.total
    share = layer_times.sum_pointwise(profile).share if profile.layers else None
    figures = CPUFigures(total.median, total.low, total.high, profile.threads, profile.runs, profile.converged, share)
    return figures, made.host


def predict_edgetpu(path):
    """Return the `EdgeTpu` of a file, or `NoFigure` where there is nothing to judge."""
    from keras_nin.edge.edgetpu import check_edgetpu

    try:
        verdict = check_edgetpu(path)
    except InputError as error:
        return MissingFigures(EDGETPU, "not judged", str(error))
    failure = verdict.failure
    return EdgeTPUFigures(
        compiles=verdict.compiles,
        failure=failure.message if failure else None,
        why=(failure.why if failure else "; ".join(verdict.obstacles)) or None,
        fix=failure.fix if failure else None,
        mapped=verdict.mapped,
        operators=verdict.kept,
        parameter_bytes=verdict.memory.parameter_bytes,
        parameters=verdict.memory.state,
    )


class EthosUEstimator:
    """Vela, looked for once for all files."""

    def __init__(self):
        from keras_nin.edge.ethosu import vela

        self.tool, self.missing = None, None
        try:
            self.tool = vela.find_vela()
        except InputError as error:
            self.missing = MissingFigures(ETHOSU, "needs the extra ethosu", str(error))

    def __call__(self, path, settings):
        """Return the `EthosU` of a file, or `NoFigure` without Vela or where that refuses the file."""
        from keras_nin.edge.ethosu import estimate_accelerator

        if self.missing:
            return self.missing
        try:
            made = estimate_accelerator(path, settings.accelerator, limit=settings.time_limit, tool=self.tool)
        except InputError as error:
            return MissingFigures(ETHOSU, "refused by Vela", str(error))
        operators = sum(layer.index is not None for layer in made.layers)
        left = sum(layer.index is not None for layer in made.left_to_cpu)
        return EthosUFigures(
            accelerator=made.accelerator,
            system_config=made.system_config,
            memory_mode=made.memory_mode,
            vela=made.vela,
            clock_hz=made.clock_hz,
            us=made.us,
            sram_bytes=made.used("SRAM"),
            on_npu=operators - left,
            operators=operators,
        )


def measure_arena(path, settings):
    """Return the `Micro` of a file, or `NoFigure` without the package or where no arena works."""
    from keras_nin.edge.micro import measurement, records

    try:
        measurement.require_tflite_micro()
    except InputError as error:
        return MissingFigures(MICRO, "needs the extra micro", str(error))
    try:  # one sample is compared: the reference kernels are slow
        found = measurement.measure_micro(path, max_arena=settings.max_arena, seconds=0, limit=settings.time_limit)
    except InputError as error:
        return MissingFigures(MICRO, "not tried", str(error))
    if found.arena is None:
        kind = found.finding.kind
        word = f"over {format_size(settings.max_arena)}" if kind == records.TOO_SMALL else kind
        return MissingFigures(MICRO, word, found.finding.message)
    arena = found.arena
    return MicroFigures(
        arena_bytes=arena.bytes,
        tensor_bytes=arena.tensor_bytes,
        persistent_bytes=arena.persistent_bytes,
        host_bits=arena.host_bits,
        package=found.package,
        same=None if found.comparison is None else found.comparison.differing == 0,
    )
