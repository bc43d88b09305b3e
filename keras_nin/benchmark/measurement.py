"""From .tflite files to a `BenchmarkResult`: run them, here or on a device, and join what ran to the layers."""

import contextlib
import os
import pathlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keras_nin import files
from keras_nin.benchmark import layer_times, single_operators
from keras_nin.benchmark.job import (
    DelegateNotLoadedError,
    FileRefusedError,
    Job,
    JobResult,
    ModelEntry,
    ModelResult,
    NoAnswerError,
    Progress,
    RunJob,
)
from keras_nin.benchmark.kernel_assignment import NOTE_CONSTANT
from keras_nin.benchmark.records import (
    BUSY_SHARE,
    PROFILER,
    SINGLE_OPERATORS,
    BenchmarkResult,
    KernelTime,
    LatencyStatistics,
    Profile,
)
from keras_nin.child_process import JsonProcess, describe_status, python_command
from keras_nin.errors import InputError, check_choice, check_whole_number
from keras_nin.formatting import format_count, format_names, format_percent
from keras_nin.tflite.reader import read_checked_model
from keras_nin.tflite.records import TFLiteModel
from keras_nin.tflite.runtime_support import check_not_compiled, check_scales

RUNNER_MODULE = "keras_nin.benchmark.runner.main"
SILENCE_SECONDS = 60.0
MEASUREMENT_SECONDS = 5.0
LAYER_METHODS = ("profiler", "single")
_MAX_CHARACTERS = 300
_OUT_OF_MEMORY = ("std::bad_alloc", "std::length_error", "MemoryError", "Unable to allocate")
_LOGGED_ERRORS = ("ERROR:", "FATAL:", "Fatal:", "F0000")
_EMPTY = -1  # in place of an operator's index: the file that does nothing
_PROFILE_FIELDS = (
    "threads",
    "runs",
    "converged",
    "load_us",
    "first_us",
    "peak_bytes",
    "added_bytes",
    "api",
    "others_share",
)


def run_job(
    job: Job,
    *,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    silence: float = SILENCE_SECONDS,
    progress: Progress | None = None,
) -> JobResult:
    """Run a job in a process of its own, so that a file that crashes the runtime takes nothing else along.

    `command` may start the runner elsewhere; it is killed after `silence` seconds without output. The errors are
    ProcessStartError, NoAnswerError before the first answer, FileRefusedError where the runtime does not run a file or
    crashed, and DelegateNotLoadedError.
    """
    if command is None:
        command, environment = python_command(RUNNER_MODULE)
    host: dict[str, Any] | None = None
    results: list[ModelResult] = []
    with JsonProcess(command, job=job, env=environment) as process:
        for document in process.documents(silence):
            host = document.get("host", host)
            if "error" in document:
                raise _reported_error(job, document["error"], process.stderr)
            if "progress" in document and progress:
                progress(document["progress"])
            if "result" in document:
                results.append(document["result"])
            if host is not None and len(results) == len(job["models"]):
                return JobResult(host, tuple(results))
        raise _ended_error(job, process, silence, answered=host is not None)


def _reported_error(job: Job, error: dict[str, Any], log: str) -> InputError:
    reason = error["message"] + _logged_reason(log)
    if error.get("kind") != "delegate":
        return _refused_error(job, error["model"], reason)
    return DelegateNotLoadedError(
        f"Expected `delegate` to be a library that loads where the files run. Received: {reason}",
        argument="delegate",
        received=job.get("delegate"),
    )


def _ended_error(job: Job, process: JsonProcess, silence: float, answered: bool) -> InputError:
    """Return the error of a process that ended, or was silent, without all results."""
    status, log = process.status, process.stderr
    problem = f"no output for {silence:g} s" if status is None else describe_status(status)
    reason = _logged_reason(log)
    if answered:
        # The models run together: it is not known which of several it was.
        return _refused_error(job, 0 if len(job["models"]) == 1 else None, problem + reason, status)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if lines and not reason:
        reason = f" ({lines[-1][:_MAX_CHARACTERS]})"
    command = repr(shlex.join(process.command)[:200])
    message = f"Expected an answer from the benchmark process {command}. Received: {problem}{reason}"
    return NoAnswerError(message, status=status, log=log)


def _refused_error(job: Job, model: int | None, problem: str, status: int | None = None) -> FileRefusedError:
    names = [repr(entry.get("name", entry["file"])) for entry in job["models"]]
    which = f"one of {', '.join(dict.fromkeys(names))}" if model is None else names[model]
    path = None if model is None else job["models"][model]["file"]
    message = f"Expected a file that the LiteRT runtime runs. Received: {which}: {problem}"
    return FileRefusedError(message, model=model, path=path, status=status)


def _logged_reason(log: str) -> str:
    """Return the first error that the runtime logged, which the others follow from, in brackets; else nothing."""
    if any(sign in log for sign in _OUT_OF_MEMORY):
        return " (it asks for more memory than is free)"
    lines = (line.strip() for line in log.splitlines())
    error = next((line.partition(" ")[2] for line in lines if line.startswith(_LOGGED_ERRORS)), None)
    return "" if error is None else f" ({error[:_MAX_CHARACTERS]})"


@dataclass(frozen=True)
class BenchmarkFile:
    """A file to measure: its path, content or record; what the result calls it; what a reader must know of it."""

    source: str | os.PathLike[str] | bytes | TFLiteModel
    name: str | None = None
    notes: tuple[str, ...] = ()


FileSource = str | os.PathLike[str] | bytes | TFLiteModel | BenchmarkFile


@dataclass(frozen=True)
class _OpenFile:
    """A valid file: its record, where it lies for the runtime, and what the result calls it.

    `loops` are the paths of its loops as files of their own, by the operator's index, and of a file that does nothing.
    """

    model: TFLiteModel
    path: str
    name: str
    notes: tuple[str, ...]
    loops: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Options:
    """What all files of a call are measured with: a job without models, and arguments of `measure_files`."""

    job: Job
    threads: Sequence[int]
    layers: bool
    interleave: bool
    processes: int
    run: RunJob
    progress: Callable[[str], object] | None


def measure_file(file: FileSource, threads: int = 1, **options: Any) -> Profile:
    """Return the `Profile` of one .tflite file; arguments and errors as in `measure_files`."""
    return measure_files([file], threads=(threads,), **options).profiles[0]


def measure_files(
    sources: Sequence[FileSource],
    *,
    threads: Sequence[int] = (1,),
    runs: int | None = None,
    seconds: float = MEASUREMENT_SECONDS,
    layers: bool = True,
    method: str = LAYER_METHODS[0],
    interleave: bool = False,
    processes: int = 1,
    delegate: str | None = None,
    run: RunJob = run_job,
    progress: Callable[[str], object] | None = None,
    failures: list[InputError] | None = None,
) -> BenchmarkResult:
    """Measure the latency of .tflite files with each number of threads, file by file, and of each of their layers.

    Every file runs in a process of its own: loaded, warmed up, then run until its median is known. Layers are timed
    beside that, so that the latency of the whole is that without a profiler.

    Args:
        sources, threads: the files, and the numbers of threads.
        runs: exactly so many runs of each; None runs until the 95% confidence interval of the median is within 1%.
        seconds: the longest that one measurement, or with `interleave` all together, may take then.
        layers: whether to time every layer too; not with a `delegate`.
        method: "profiler", or "single" for each operator alone, which also serves where there is no profiler.
        interleave: whether all files take turns, so that changes of the machine affect all of them alike.
        processes: how often to repeat each measurement, in a process of its own that gets its share of `seconds`.
        delegate: path of an external delegate's library.
        run, progress: runs a job, by `open_device` on another machine; called with a line of text meanwhile.
        failures: gets the errors of files that are invalid or do not run, which the result then lacks; None raises
            the first error.

    Raises:
        InputError: no file or number of threads, or without `failures` a file is invalid or does not run.
    """
    check_choice("method", method, LAYER_METHODS)
    for name, values in (("sources", sources), ("threads", threads)):
        if not values:
            raise InputError(f"Expected `{name}` to have at least one entry. Received: none", argument=name)
    layers = layers and delegate is None
    profile = layers and method == "profiler"
    share = seconds / check_whole_number("processes", processes)
    job: Job = {"models": [], "runs": runs, "seconds": share, "profile": profile, "delegate": delegate}
    options = _Options(job, threads, layers, interleave, processes, run, progress)
    measured: list[Profile] = []
    with contextlib.ExitStack() as stack:
        opened: list[_OpenFile] = []
        for source in sources:
            with _collecting(failures):
                opened.append(_open_file(source, stack, with_loops=profile, delegate=delegate))
        for group in [opened] if interleave and opened else [[file] for file in opened]:
            with _collecting(failures):
                measured += _measure_group(group, options, failures)
    if not measured:
        return BenchmarkResult({}, ())
    host = measured[0].host
    profiles = tuple(replace(profile, host=host) for profile in measured)
    return BenchmarkResult(host, profiles, tuple(_machine_warnings(profiles)))


@contextlib.contextmanager
def _collecting(failures: list[InputError] | None) -> Iterator[None]:
    """Append an `InputError` of the block to `failures`, or raise it where that is None."""
    try:
        yield
    except InputError as error:
        if failures is None:
            raise
        failures.append(error)


def _open_file(source: FileSource, stack: contextlib.ExitStack, with_loops: bool, delegate: str | None) -> _OpenFile:
    file = source if isinstance(source, BenchmarkFile) else BenchmarkFile(source)
    model = read_checked_model(file.source)
    if delegate is None:
        check_not_compiled(model, "Use the file from before the compilation, or pass the chip's `delegate`")
    check_scales(model)
    for index in model.main.inputs:
        tensor = model.main.tensors[index]
        if -1 in (tensor.shape_signature or ())[1:]:
            raise InputError(
                f"Expected inputs whose shape is open in the batch alone. Received: {str(model.path)!r}, whose input "
                f"{tensor.name!r} has the shape {tensor.shape_signature}. Export it with a fixed input shape",
                path=model.path,
            )
    with_loops = with_loops and any(operator.called_subgraphs for operator in model.main.operators)
    path, loops = model.path, single_operators.cut_loops(model) if with_loops else {}
    if loops:
        loops[_EMPTY] = single_operators.build_empty_file()
    folder = stack.enter_context(files.temporary_folder()) if loops or path is None else pathlib.Path()
    if path is None:
        path = folder / "model.tflite"
        path.write_bytes(model.content)
    loop_paths = {}
    for index, content in loops.items():
        (folder / f"operator_{index}.tflite").write_bytes(content)
        loop_paths[index] = str(folder / f"operator_{index}.tflite")
    return _OpenFile(model, str(path), file.name or path.name, file.notes, loop_paths)


def _measure_group(group: Sequence[_OpenFile], options: _Options, failures: list[InputError] | None) -> list[Profile]:
    """Return the measurements of files that take turns, file by file; one that does not run is left out."""
    try:
        return _measure_together(group, options)
    except InputError:
        if failures is None or len(group) == 1:
            raise
    # The files run in one process: each alone shows which of them do not run.
    job: Job = {**options.job, "runs": 1, "profile": False}
    once = replace(options, job=job, threads=options.threads[:1], layers=False, processes=1, progress=None)
    good = []
    for file in group:
        with _collecting(failures):
            _measure_together([file], once)
            good.append(file)
    return _measure_together(good, options) if good else []


def _measure_together(group: Sequence[_OpenFile], options: _Options) -> list[Profile]:
    pairs = [(file, threads) for file in group for threads in options.threads]
    measured = []
    for part in [pairs] if options.interleave else [[pair] for pair in pairs]:
        repeats = [_measure_once(part, options) for _ in range(options.processes)]
        measured += [_merge_processes(profiles) for profiles in zip(*repeats, strict=True)]
    return measured


def _measure_once(pairs: Sequence[tuple[_OpenFile, int]], options: _Options) -> list[Profile]:
    """Return the measurement of each file on a number of threads, all in one process."""
    try:
        answer = _run_with_progress(pairs, options)
    except FileRefusedError:
        if not any(file.loops for file, _ in pairs):
            raise
        pairs = [(replace(file, loops={}), threads) for file, threads in pairs]
        answer = _run_with_progress(pairs, options)
    loops = iter(answer.results[len(pairs) :])
    measured = []
    for (file, _), result in zip(pairs, answer.results, strict=False):
        times = _loop_times(dict(zip(file.loops, loops, strict=False)), result)
        measured.append(_build_profile(file, result, answer.host, options, times))
    return measured


def _merge_processes(repeats: Sequence[Profile]) -> Profile:
    """Return the profile of the process with the middle median, with what the others tell beside it."""
    if len(repeats) == 1:
        return repeats[0]
    ordered = sorted(repeats, key=lambda profile: profile.total.median)
    return replace(
        ordered[(len(ordered) - 1) // 2],
        processes_us=tuple(profile.total.median for profile in repeats),
        rounds_us=tuple(us for profile in repeats for us in profile.rounds_us),
        others_share=max(profile.others_share or 0.0 for profile in repeats),
    )


def _loop_times(loops: Mapping[int, ModelResult], whole: ModelResult) -> dict[int, KernelTime]:
    """Return the times of loops that took turns with their file, so that changes of the machine affect both alike."""
    if not loops:
        return {}
    from keras_nin.benchmark.runner import timing

    times = {}
    for index, loop in loops.items():
        rounds_us = [us - empty for us, empty in zip(loop["rounds_us"], loops[_EMPTY]["rounds_us"], strict=False)]
        ratio, _, _ = timing.paired_ratio(rounds_us, whole["rounds_us"])
        us = [max(0.0, loop["us"][name] - loops[_EMPTY]["us"]["median"]) for name in ("median", "mean", "p90")]
        times[index] = KernelTime(*us, typical=max(0.0, ratio * whole["us"]["median"]))
    return times


def _run_with_progress(pairs: Sequence[tuple[_OpenFile, int]], options: _Options) -> JobResult:
    """Run a job of files on numbers of threads, and of their loops behind them."""
    models: list[ModelEntry] = [
        {"file": file.path, "threads": threads, "name": str(file.model.path or file.name)} for file, threads in pairs
    ]
    loops: list[ModelEntry] = [
        {"file": path, "threads": threads, "name": f"operator {index} of {file.name}", "inside": position}
        for position, (file, threads) in enumerate(pairs)
        for index, path in file.loops.items()
    ]
    job, report = options.job | {"models": models + loops}, options.progress
    if report is None:
        return options.run(job)
    names = [f"{file.name} on {format_count(threads, 'thread')}" for file, threads in pairs]
    report(", ".join(names))

    def show(states: list[dict[str, Any]]) -> None:
        lines = []
        for name, state in zip(names, states, strict=False):  # loops come last
            within = "" if state["within"] is None else f" ± {format_percent(state['within'])}"
            lines.append(f"{name}: {state['us']:,.1f} us{within} after {format_count(state['runs'], 'run')}")
        report("; ".join(lines))

    return options.run(job, progress=show)


def _build_profile(
    file: _OpenFile, result: ModelResult, host: dict[str, Any], options: _Options, loops: Mapping[int, KernelTime]
) -> Profile:
    shared: dict[str, Any] = {name: value for name, value in result.items() if name in _PROFILE_FIELDS}
    profile = Profile(
        file=file.name,
        sha256=file.model.sha256,
        file_bytes=file.model.size_bytes,
        host=host,
        batch=file.model.batch,
        total=LatencyStatistics(**result["us"]),
        rounds_us=tuple(result["rounds_us"]),
        notes=(*file.notes, *_profile_notes(file.model, result, options.job.get("delegate"))),
        **shared,
    )
    kernels, median_us = result["profile"], profile.total.median
    calls = any(operator.called_subgraphs for operator in file.model.main.operators)
    if kernels is not None and calls and profile.api == "benchmark_model":
        return replace(profile, notes=(*profile.notes, "its layers are not timed: it has loops or branches"))
    if kernels is not None:
        method, runs = PROFILER, kernels["runs"]
        layers, overhead_us = layer_times.join_layers(file.model, kernels["kernels"], median_us, loops)
    elif options.layers:
        method, seconds = SINGLE_OPERATORS, options.job.get("seconds", 0.0)
        layers, runs = single_operators.time_operators(file.model, profile.threads, seconds, options.run, median_us)
        overhead_us = median_us - sum(layer.us.typical for layer in layers if layer.us)
        untimed = [layer.name for layer in layers if layer.us is None and layer.note != NOTE_CONSTANT]
        if untimed:
            notes = (*profile.notes, f"runtime overhead includes rows that do not run alone: {format_names(untimed)}")
            profile = replace(profile, notes=notes)
    else:
        return profile
    return replace(profile, method=method, profiled_runs=runs, layers=layers, overhead_us=overhead_us)


def _profile_notes(model: TFLiteModel, result: ModelResult, delegate: str | None) -> Iterator[str]:
    if delegate:
        yield f"delegate {delegate}: only whole runs are timed"
    if model.variables:
        yield f"it keeps values from run to run, in {format_count(model.variables, 'variable tensor')}"
    if result["unavailable"]:
        yield result["unavailable"]
    if len(model.signatures) > 1 and result["api"] == "compiled_model":
        first, *others = (repr(signature.key) for signature in model.signatures)
        yield f"only the file's first signature ran, {first}; not {', '.join(others)}"


def _machine_warnings(profiles: Sequence[Profile]) -> Iterator[str]:
    host, others_share = profiles[0].host, max(profile.others_share or 0.0 for profile in profiles)
    load, governor = host["state"]["load_average"], host["state"]["governor"]
    if others_share > BUSY_SHARE:
        yield f"the machine is busy: other processes took {format_percent(others_share, 0)} of its processor time"
    elif load is not None and host["cores"] and load > host["cores"] / 2:
        yield f"the machine is busy: load average {load:.1f} on {format_count(host['cores'], 'core')} at the start"
    if governor not in (None, "performance"):
        yield f"the processor's frequency governor is {governor!r}: times may change with its clock"
    for profile in profiles:
        if not profile.converged:
            threads, runs = format_count(profile.threads, "thread"), format_count(profile.runs, "run")
            yield f"{profile.file} on {threads}: the median is not known to 1% after {runs}"
