"""Benchmarks of .tflite files and models: measured, compared, and written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import platform
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import files, schemas
from keras_nin.benchmark import comparison
from keras_nin.benchmark.comparison import LatencyRatio, RunComparison
from keras_nin.benchmark.records import BenchmarkResult
from keras_nin.errors import InputError, check_choice
from keras_nin.files import AnyPath
from keras_nin.results import Result
from keras_nin.workflows import SILENT, Progress

if TYPE_CHECKING:
    from keras_nin.benchmark.measurement import BenchmarkFile
    from keras_nin.workflows.conversion import ExportOptions
    from keras_nin.workflows.inputs import FileOrModel

DEFAULT_SCHEMES = "float32,int8"
METHODS = ("profiler", "single")


@dataclasses.dataclass(frozen=True, repr=False)
class BenchmarkRun(Result):
    """A benchmark of several files: of those that ran, with the errors of others and the results that were written.

    Attributes:
        ratios: latency of each file relative to the first, where the files took turns.
    """

    benchmark: BenchmarkResult
    ratios: tuple[LatencyRatio, ...] = ()
    failures: tuple[InputError, ...] = ()
    written: tuple[pathlib.Path, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the benchmark as a JSON-ready dictionary, with the ratios where files took turns, and failures."""
        ratios = {"ratios": [dataclasses.asdict(ratio) for ratio in self.ratios]} if self.ratios else {}
        failures = [{"message": str(failure), **failure.to_json()} for failure in self.failures]
        return self.benchmark.to_json() | ratios | ({"failures": failures} if failures else {})

    def _summary(self) -> str:
        return self.benchmark._summary()

    def _rows(self) -> Sequence[dict[str, Any]]:
        return self.benchmark._rows()


def benchmark_model(model: FileOrModel, **options: Any) -> BenchmarkResult:
    """Measure the latency of a .tflite file, or of a model exported to one, and that of each of its layers.

    Args:
        model: path of a .tflite file, or a model as in `export_model`.
        **options: those of `benchmark_models`.

    Raises:
        InputError: as `benchmark_models`, or the file does not run.
    """
    run = benchmark_models([model], **options)
    if run.failures:
        raise run.failures[0]
    return run.benchmark


def benchmark_models(
    models: Sequence[FileOrModel],
    *,
    scheme: str | None = None,
    export: ExportOptions | None = None,
    threads: Sequence[int] = (1,),
    runs: int | None = None,
    seconds: float = 5.0,
    layers: bool = True,
    method: str = METHODS[0],
    compare: bool = False,
    processes: int = 1,
    roofline: bool = False,
    device: str | None = None,
    python: str | None = None,
    benchmark_model: str | None = None,
    delegate: str | None = None,
    out: AnyPath | None = None,
    model_explorer: AnyPath | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> BenchmarkRun:
    """Measure the latency of .tflite files and models, and inside the runtime that of each of their layers.

    Args:
        models: paths of .tflite files, or models, which are exported to a temporary folder.
        scheme, export: what models are exported to, comma-separated, None takes float32,int8; options of that export.
        threads: numbers of threads of the runtime.
        runs: exactly so many runs; None runs until the 95% confidence interval of the median is within 1%.
        seconds: the longest that a measurement may take then; with `compare` for all files together.
        layers, method: whether to time every layer too, with the ``"profiler"`` or each operator alone: ``"single"``.
        compare: whether all files take turns, to give the ratios to the first.
        processes: how often to repeat each measurement in a new process, which shows how much runs differ; all of them
            share `seconds`.
        roofline: whether to measure the limits of the machine too.
        device: ``ssh://[user@]host[:port]``, ``adb://SERIAL``, or a name in the user's devices.toml; None is this
            machine.
        python, benchmark_model: the interpreter on an ssh device, None takes python3; path of LiteRT's
            benchmark_model for an adb device, there or here.
        delegate: path of an external delegate's library; whole files alone are timed.
        out: folder for a JSON file for each .tflite file.
        model_explorer: path for node data of Model Explorer; of one file on one number of threads.
        force: replace files with different content.
        progress: what reports the progress.

    Returns:
        `BenchmarkRun`; files that do not run are among its failures.

    Raises:
        InputError: arguments that do not go together, an unknown model, or a path that cannot be written to.
    """
    from keras_nin.benchmark.measurement import measure_files, run_job

    check_choice("method", method, METHODS)
    url = _device_url(device)
    _check_combinations(layers, roofline, model_explorer, delegate, method, url, python, benchmark_model)
    _check_files(models, scheme, export)
    scheme = scheme or DEFAULT_SCHEMES
    stems = [stem for model in models for stem in _stems(model, scheme)]
    if compare and len(stems) < 2:
        raise InputError("`compare` needs two files or more", argument="compare")
    if model_explorer and (len(stems) > 1 or len(threads) > 1):
        raise InputError("`model_explorer` takes one file and one number of threads", argument="model_explorer")
    targets = _output_paths(stems, device, out, force)
    if model_explorer is not None:
        _check_target(pathlib.Path(model_explorer), force)
    run = run_job
    if device is not None:
        from keras_nin.benchmark.devices import open_device

        run = open_device(device, python, benchmark_model)
    failures: list[InputError] = []
    with _opened(models, scheme, export, failures, progress) as sources, progress.task("Measuring") as update:
        benchmark = measure_files(
            sources,
            threads=threads,
            runs=runs,
            seconds=seconds,
            layers=layers,
            method=method,
            interleave=compare,
            processes=processes,
            delegate=delegate,
            run=run,
            progress=update,
            failures=failures,
        ) if sources else BenchmarkResult({}, ())  # fmt: skip
        if roofline and benchmark.profiles:
            from keras_nin.benchmark.roofline import add_peaks

            with _collect(failures), progress.task("Measuring the limits of this machine"):
                benchmark = add_peaks(benchmark, run)
        contents = _result_files(benchmark, targets)
        if model_explorer is not None and benchmark.profiles:
            from keras_nin.report.latency import model_explorer_data

            with _collect(failures):
                data = model_explorer_data(benchmark.profiles[0], str(sources[0].source))
                contents[pathlib.Path(model_explorer)] = files.dump_json(data).encode()
    written = []
    for path, data in contents.items():
        with _collect(failures):
            files.write_files({path: data}, force)
            written.append(path)
    ratios = tuple(comparison.compute_ratios(benchmark.profiles)) if compare and len(benchmark.profiles) > 1 else ()
    return BenchmarkRun(benchmark, ratios, tuple(failures), tuple(written))


@dataclasses.dataclass(frozen=True, repr=False)
class DeviceBenchmarks(Result):
    """The same files on several devices: the benchmark on each by its name, and why others gave none."""

    runs: dict[str, BenchmarkRun]
    failures: dict[str, InputError]

    def to_json(self) -> dict[str, Any]:
        """Return the benchmarks as a JSON-ready dictionary (schema ``keras_nin.benchmark_devices/1``)."""
        failures = {name: {"message": str(error), **error.to_json()} for name, error in self.failures.items()}
        devices = {name: run.to_json() for name, run in self.runs.items()}
        return {"schema": schemas.BENCHMARK_DEVICES, "devices": devices, "failures": failures}

    def _summary(self) -> str:
        return "; ".join(f"{name}: {run._summary()}" for name, run in self.runs.items())

    def _rows(self) -> list[dict[str, Any]]:
        return [{"device": name, **row} for name, run in self.runs.items() for row in run._rows()]


def benchmark_on_devices(
    models: Sequence[FileOrModel],
    devices: Sequence[str],
    *,
    scheme: str | None = None,
    export: ExportOptions | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> DeviceBenchmarks:
    """Measure the same files on several devices, one after the other; models are exported once.

    Args:
        models, scheme, export, progress: as in `benchmark_models`.
        devices: two or more, as its `device`.
        **options: its others, but for `model_explorer`. `python` and `benchmark_model` are for the devices that take
            them.

    Raises:
        InputError: as `benchmark_models`. A device that cannot be used is among the failures of the result.
    """
    if options.get("model_explorer") is not None:
        raise InputError("`model_explorer` takes one device", argument="model_explorer")
    _check_files(models, scheme, export)
    own = {name: options.pop(name, None) for name in ("python", "benchmark_model")}
    kinds = {device: _device_url(device).partition("://")[0] for device in devices}
    for name, kind in (("python", "ssh"), ("benchmark_model", "adb")):
        if own[name] is not None and kind not in kinds.values():
            raise InputError(f"`{name}` is for a `device` {kind}://", argument=name)
    runs, errors, failures = {}, {}, []
    with _opened(models, scheme or DEFAULT_SCHEMES, export, failures, progress) as sources:
        notes = {pathlib.Path(str(source.source)).name: source.notes for source in sources}
        for device, kind in kinds.items():
            arguments = {"python": own["python"] if kind == "ssh" else None}
            arguments |= {"benchmark_model": own["benchmark_model"] if kind == "adb" else None}
            try:
                run = benchmark_models(
                    [str(source.source) for source in sources], device=device, progress=progress, **arguments, **options
                )
            except InputError as error:
                errors[device] = error
                continue
            profiles = tuple(
                dataclasses.replace(profile, notes=(*notes.get(profile.file, ()), *profile.notes))
                for profile in run.benchmark.profiles
            )
            benchmark = dataclasses.replace(run.benchmark, profiles=profiles)
            runs[device] = dataclasses.replace(run, benchmark=benchmark, failures=(*failures, *run.failures))
    return DeviceBenchmarks(runs, errors)


def _device_url(device: str | None) -> str:
    """Return the URL of a device, also of one by name; empty for this machine."""
    if device is None:
        return ""
    from keras_nin.benchmark.devices import find_named_device

    return find_named_device(device).url


def compare_runs(
    before: AnyPath | BenchmarkResult,
    after: AnyPath | BenchmarkResult,
    min_effect: float = comparison.MIN_EFFECT,
) -> RunComparison:
    """Compare two benchmarks: which files and layers became slower or faster, and by how much.

    Args:
        before, after: paths of JSON documents of benchmarks, or `BenchmarkResult`s.
        min_effect: smallest change that counts, such as 0.02 for 2%; smaller ones are never "slower" or "faster".

    Raises:
        InputError: not such a document, or no file in both.
    """
    sides = (
        side if isinstance(side, BenchmarkResult) else comparison.read_benchmark(os.fspath(side))
        for side in (before, after)
    )
    return comparison.compare_runs(*sides, min_effect=min_effect)


def _check_combinations(
    layers: bool,
    roofline: bool,
    model_explorer: object,
    delegate: str | None,
    method: str,
    device: str,
    python: str | None,
    benchmark_model: str | None,
) -> None:
    """Raise `InputError` for arguments that do not go together; `device` is a URL, empty for this machine."""
    kind = device.partition("://")[0]
    for name, value in (("roofline", roofline), ("model_explorer", model_explorer)):
        if value and not layers:
            raise InputError(f"`{name}` needs the times of the layers; leave `layers` on", argument=name)
    if delegate and (roofline or model_explorer or method == "single"):
        raise InputError(
            "A `delegate` times whole files alone; drop `roofline`, `model_explorer` and `method`", argument="delegate"
        )
    if kind == "adb" and (method == "single" or roofline):
        raise InputError("`method` single and `roofline` do not run on an adb:// device", argument="device")
    for name, value, needed in (("python", python, "ssh"), ("benchmark_model", benchmark_model, "adb")):
        if value is not None and kind != needed:
            raise InputError(f"`{name}` is for a `device` {needed}://", argument=name)


def _check_files(models: Sequence[FileOrModel], scheme: str | None, export: ExportOptions | None) -> None:
    """Raise `InputError` for options of an export beside nothing but files."""
    if not all(map(_is_file, models)):
        return
    if scheme is not None:
        raise InputError(f"{models[0]!r} is exported already; `scheme` is for a model", argument="scheme")
    if export is not None:
        from keras_nin.workflows.conversion import check_no_export_options

        check_no_export_options(models[0], export)


def _is_file(model: FileOrModel) -> bool:
    """Whether `model` is the path of a .tflite file."""
    if isinstance(model, str | os.PathLike) and os.fspath(model).endswith(".tflite") and os.path.isfile(model):
        return True
    from keras_nin.workflows.inputs import is_model

    return not is_model(model)


def _stems(model: FileOrModel, scheme: str) -> list[str]:
    """Return the names of the files of a model, without suffix."""
    if _is_file(model):
        return [pathlib.Path(model).stem]  # type: ignore[arg-type]
    from keras_nin.export.schemes import parse_schemes
    from keras_nin.workflows.inputs import model_stem

    return [f"{model_stem(model)}_{entry.name}" for entry in parse_schemes(scheme)]


@contextlib.contextmanager
def _collect(failures: list[InputError]) -> Iterator[None]:
    """Add an `InputError` to `failures`, so that the other files are measured nevertheless."""
    try:
        yield
    except InputError as error:
        failures.append(error)


@contextlib.contextmanager
def _opened(
    models: Sequence[FileOrModel],
    scheme: str,
    export: ExportOptions | None,
    failures: list[InputError],
    progress: Progress,
) -> Iterator[list[BenchmarkFile]]:
    """Yield what `measure_files` takes: models are exported to temporary folders."""
    from keras_nin.benchmark.measurement import BenchmarkFile

    with contextlib.ExitStack() as stack:
        sources = []
        for model in models:
            if _is_file(model):
                sources.append(BenchmarkFile(os.fspath(model)))  # type: ignore[arg-type]
                continue
            from keras_nin.workflows.conversion import export_temporarily

            with _collect(failures):
                folder = stack.enter_context(files.temporary_folder())
                for source in export_temporarily(model, folder, export, schemes=scheme, progress=progress):
                    notes = tuple(f"{note}, latency only" for note in source.notes)
                    sources.append(BenchmarkFile(source.path, notes=notes))
        yield sources


def _output_paths(stems: list[str], device: str | None, out: AnyPath | None, force: bool) -> dict[str, pathlib.Path]:
    """Return the path of each file's results by its stem, checked before the work starts."""
    if out is None:
        return {}
    repeated = sorted({stem for stem in stems if stems.count(stem) > 1})
    if repeated:
        raise InputError(f"`out` needs files of different names. Received: {', '.join(repeated)} twice", argument="out")
    targets = {stem: pathlib.Path(out) / f"{stem}_{machine_name(device)}.json" for stem in stems}
    for path in targets.values():
        _check_target(path, force)
    return targets


def _check_target(path: pathlib.Path, force: bool) -> None:
    files.check_output_folder(path.parent)
    if path.is_dir() or (path.exists() and not force):
        files.needs_writing(path, b"")


def machine_name(device: str | None) -> str:
    """Return the name of a machine for file names: a device without user and port, or this machine."""
    name = platform.node() if device is None else device.split("://", 1)[-1].split("@")[-1].strip("/")
    if device and device.startswith("ssh://"):
        name = re.sub(r":\d+$", "", name)
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-") or "device"


def _result_files(benchmark: BenchmarkResult, targets: dict[str, pathlib.Path]) -> dict[pathlib.Path, bytes]:
    contents = {}
    for stem, path in targets.items():
        profiles = tuple(profile for profile in benchmark.profiles if pathlib.Path(profile.file).stem == stem)
        if profiles:
            document = BenchmarkResult(profiles[0].host, profiles, benchmark.warnings).to_json()
            contents[path] = files.dump_json(document).encode()
    return contents
