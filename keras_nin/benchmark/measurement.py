"""Run a job of the runner in a process of its own, so that a file that crashes the runtime takes nothing else along."""

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import sys
import threading

from keras_nin import files
from keras_nin.benchmark import layer_times
from keras_nin.benchmark.records import PROFILER, BenchmarkResult, LatencyStatistics, Profile
from keras_nin.errors import InputError, check_choice
from keras_nin.tflite import reader

SILENCE_SECONDS = 60
_ROOT = pathlib.Path(__file__).parents[2]
_LOG_BYTES = 1 << 15
_GRACE_SECONDS = 5
_LOG_SECONDS = 0.2
_MOST_CHARACTERS = 300
_MEMORY = ("std::bad_alloc", "std::length_error", "MemoryError", "Unable to allocate")
_ERRORS = ("ERROR:", "FATAL:", "Fatal:", "F0000")


class RunnerNotStarted(InputError):
    """The command of the runner cannot be started."""


class RunnerNoAnswer(InputError):
    """The runner ended, or was silent, before it said a word; with its exit `status` (None: silent) and its `log`."""

    def __init__(self, message, status, log):
        super().__init__(message)
        self.status, self.log = status, log


class FileRefused(InputError):
    """The runtime does not run a file."""


@dataclasses.dataclass(frozen=True)
class JobResult:
    """What a runner said: its machine, and a dictionary for each model in their order (see `runner.main`)."""

    host: dict
    results: tuple[dict, ...]


def local_runner_command():
    """Return the command that starts the runner on this machine, and its environment."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return [sys.executable, "-m", "keras_nin.benchmark.runner"], os.environ | {"PYTHONPATH": path}


def run_job(job, command=None, environment=None, limit=None, progress=None):
    """Return the `Answer` to a job.

    Args:
        job: see `runner.main`. An entry of its models may have a "name" that messages use instead of its "file".
        command, environment: of the process, which may start the runner elsewhere; None takes those of `local_command`.
        limit: seconds of silence after which the process is killed; None is a minute.
        progress: function of what each model's "progress" says, called while the job runs, or None.

    Raises:
        NotStarted, NoAnswer, Refused: kinds of `InputError`.
    """
    if command is None:
        command, environment = local_runner_command()
    limit = SILENCE_SECONDS if limit is None else limit
    host, results = None, []
    with _RunnerProcess(command, environment) as process:
        process.send(job)
        late = False
        try:
            for document in process.documents(limit):
                host = document.get("host", host)
                if "error" in document:
                    problem = document["error"]
                    raise _file_refused(job, problem["model"], problem["message"] + process.reason())
                if "progress" in document and progress:
                    progress(document["progress"])
                if "result" in document:
                    results.append(document["result"])
                if host is not None and len(results) == len(job["models"]):
                    return JobResult(host, tuple(results))
        except queue.Empty:
            late = True
        raise _job_failure(job, host, None if late else process.status(), limit, process)


def _job_failure(job, host, status, limit, process):
    """Return the error of a runner that ended, or was silent (`status` None), without all results."""
    reason = process.reason()
    if status is None:
        problem = f"nothing came for {limit:g} s"
    elif status < 0:
        problem = f"the runtime was killed by {_signal_name(-status)}"
    else:
        problem = f"its process ended with status {status}"
    if host is None:
        last = reason or process.last_line()
        message = f"Expected an answer of the runner. Received: none from {shlex.join(process.command)[:200]!r}: "
        return RunnerNoAnswer(message + problem + last, status, process.log)
    # The models run together: of several it is not known which one it was.
    return _file_refused(job, 0 if len(job["models"]) == 1 else None, problem + reason)


def _signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _file_refused(job, model, problem):
    names = [each.get("name", each["file"]) for each in job["models"]]
    which = repr(names[model]) if model is not None else f"one of {', '.join(dict.fromkeys(map(repr, names)))}"
    return FileRefused(f"Expected a file that the LiteRT runtime runs. Received: {which}: {problem}")


class _RunnerProcess:
    """A process in a group of its own, which ends with the block; its stdout as documents, the end of its stderr."""

    def __init__(self, command, environment):
        self.command, self._environment = command, environment
        self._lines = queue.SimpleQueue()
        self._head, self._tail = b"", b""

    def __enter__(self):
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment, start_new_session=True
            )
        except OSError as error:
            raise RunnerNotStarted(
                f"Expected a command that starts the runner. Received: {self.command[0]!r} ({error.strerror})"
            ) from None
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_lines, self._read_log)]
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, *error):
        # Before the process is waited for: until then nothing else can have its number.
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            reader.join(_GRACE_SECONDS)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                stream.close()

    def _read_lines(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_log(self):
        while chunk := self._process.stderr.read1(_LOG_BYTES):
            room = _LOG_BYTES - len(self._head)
            self._head, self._tail = self._head + chunk[:room], (self._tail + chunk[room:])[-_LOG_BYTES:]

    def send(self, job):
        """Write the job to stdin, and close it; a process that ended already is told of by its answer."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.close()

    def documents(self, limit):
        """Yield the dictionaries on stdout; `queue.Empty` after `limit` seconds without a line."""
        while (line := self._lines.get(timeout=limit)) is not None:
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict):
                    yield document

    def status(self):
        """Return the exit status of the process, which has closed its stdout."""
        try:
            return self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    @property
    def log(self):
        """What the process wrote to stderr so far: the beginning and the end of it."""
        return "\n".join(part.decode(errors="replace") for part in (self._head, self._tail) if part)

    def reason(self):
        """Return the first error that the runtime printed, which the others follow from, in brackets; else nothing."""
        self._readers[1].join(_LOG_SECONDS)
        lines = [line.strip() for line in self.log.splitlines()]
        if any(sign in line for sign in _MEMORY for line in lines):
            return " (it asks for more memory than is free)"
        errors = [line.partition(" ")[2] for line in lines if line.startswith(_ERRORS)]
        return f" ({errors[0][:_MOST_CHARACTERS]})" if errors else ""

    def last_line(self):
        """Return the last line on stderr, in brackets; nothing where there is none."""
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        return f" ({lines[-1][:_MOST_CHARACTERS]})" if lines else ""


# MERGED From .tflite files to a `Benchmark`: run them where asked, and join what ran to the layers.

MEASUREMENT_SECONDS = 5.0
LAYER_METHODS = ("profiler", "single")
_BUSY_SHARE = 0.1


def measure_file(path, threads=1, **options):
    """Return the `Profile` of one .tflite file; arguments and errors as in `measure`."""
    return measure_files([path], threads=(threads,), **options).profiles[0]


def measure_files(
    paths,
    *,
    threads=(1,),
    runs=None,
    seconds=MEASUREMENT_SECONDS,
    layers=True,
    method=LAYER_METHODS[0],
    interleave=False,
    delegate=None,
    run=run_job,
    progress=None,
):
    """Return the `Benchmark` of .tflite files with each number of threads, file by file.

    Args:
        paths: of the files.
        threads: numbers of threads.
        runs: exactly so many runs of each; None runs until the 95 % confidence interval of the median is within 1 %.
        seconds: the longest that one measurement (all of them together with `interleave`) may take then.
        layers: whether to take the time of every layer too.
        method: how: "profiler", or "single" for each operator alone, which is also the way where there is no profiler.
        interleave: let all files take turns, so that what changes on the machine meets all of them alike.
        delegate: path of an external delegate's library.
        run: what carries a job out: `child.run` here, or on a device.
        progress: function of a line of text that says how far it is, called while it runs, or None.

    Raises:
        InputError: no file or number of threads, or a file is not valid or does not run.
    """
    check_choice("method", method, LAYER_METHODS)
    paths = [os.fspath(path) for path in paths]
    for name, values in (("paths", paths), ("threads", threads)):
        if not values:
            raise InputError(f"Expected `{name}` to name at least one. Received: none")
    graphs = {path: _read_runnable(path) for path in dict.fromkeys(paths)}
    models = [{"file": path, "threads": count} for path in paths for count in threads]
    common = {"runs": runs, "seconds": seconds, "profile": layers and method == "profiler", "delegate": delegate}
    jobs = [models] if interleave else [[model] for model in models]
    answers = [_run_with_progress(run, {"models": job, **common}, progress) for job in jobs]
    host = answers[0].host
    profiles = [
        _build_profile(graphs[model["file"]], model["file"], result, host)
        for job, answer in zip(jobs, answers, strict=True)
        for model, result in zip(job, answer.results, strict=True)
    ]
    if layers and not delegate:
        from keras_nin.benchmark.single_operators import add_layers

        profiles = [
            add_layers(each, model["file"], seconds, run) if each.method is None else each
            for each, model in zip(profiles, models, strict=True)
        ]
    return BenchmarkResult(host, tuple(profiles), tuple(_machine_warnings(answers, profiles)))


def _read_runnable(path):
    """Return the graph of a file; `InputError` where it is not valid, or where it is not said at what size it runs."""
    found = reader.read_model(path)
    for index in found.main.inputs:
        tensor = found.main.tensors[index]
        if -1 in (tensor.shape_signature or ())[1:]:
            raise InputError(
                f"Expected inputs whose shape is open in the batch alone. Received: {path!r}, whose input "
                f"{tensor.name!r} has the shape {tensor.shape_signature}. Export it with a fixed input shape"
            )
    return found


def _run_with_progress(run, job, progress):
    if progress is None:
        return run(job)
    names = [_format_measurement(os.path.basename(model["file"]), model["threads"]) for model in job["models"]]

    def show(states):
        progress("; ".join(map(_format_progress, names, states)))

    progress(", ".join(names))
    return run(job, progress=show)


def _format_measurement(file, threads):
    return f"{file} on {threads} {'thread' if threads == 1 else 'threads'}"


def _format_progress(name, state):
    within = "" if state["within"] is None else f" ± {state['within']:.1%}"
    return f"{name}: {state['us']:,.1f} us{within} after {state['runs']:,} runs"


def _build_profile(network, path, result, host):
    measured = Profile(
        file=os.path.basename(path),
        sha256=files.sha256(network.content),
        file_bytes=network.size_bytes,
        host=host,
        total=LatencyStatistics(**result["us"]),
        rounds_us=tuple(result["rounds_us"]),
        notes=tuple(_profile_notes(network, result)),
        **{
            name: result[name]
            for name in ("threads", "runs", "converged", "load_us", "first_us", "peak_bytes", "added_bytes", "api")
        },
    )
    if result["profile"] is None:
        return measured
    layers, overhead_us = layer_times.join_layers(path, result["profile"]["kernels"], measured.total.median)
    return dataclasses.replace(
        measured,
        method=PROFILER,
        profiled_runs=result["profile"]["runs"],
        layers=layers,
        overhead_us=overhead_us,
    )


def _profile_notes(network, result):
    if result.get("unavailable"):
        yield result["unavailable"]
    if len(network.signatures) > 1 and result["api"] == "compiled_model":
        first, *others = (repr(signature.key) for signature in network.signatures)
        yield f"the file's first signature ran, {first}; not {', '.join(others)}"


def _machine_warnings(answers, profiles):
    host = answers[0].host
    load, governor = host["state"]["load_average"], host["state"]["governor"]
    others = max(result.get("others_share") or 0 for answer in answers for result in answer.results)
    if others > _BUSY_SHARE:
        yield f"the machine is busy: others took {others:.0%} of its processors' time while this was measured"
    elif load is not None and load > host["cores"] / 2:
        yield f"the machine is busy: load average {load:.1f} on {host['cores']} cores when this began"
    if governor not in (None, "performance"):
        yield f"the processor's frequency governor is {governor!r}: times may change with its clock"
    for each in profiles:
        if not each.converged:
            name = _format_measurement(each.file, each.threads)
            yield f"{name}: the median is not known to 1 % after {each.runs:,} runs"
