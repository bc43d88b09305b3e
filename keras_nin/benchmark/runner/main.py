"""Time files of one operator each as in their network: inputs just written, weights not, the processor at work."""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time

import numpy as np

from keras_nin.benchmark.runner import bandwidth, litert, timing
from keras_nin.benchmark.runner.litert import InterpretedModel, generate_input
from keras_nin.tflite.host import cpu_busy_seconds, describe_host, describe_load

_SINGLE_WARM_UP_RUNS = 2
# Processors put wide vector units to sleep within a millisecond, and take tens of microseconds to wake them.
_AWAKE_SECONDS = 1e-4
_MIN_TURNS, _MAX_TURNS = 10, 2000


class SingleOperator:
    """A file of one operator in TensorFlow Lite's interpreter.

    In a network an operator reads what was written just before, writes to memory that was used just before, and finds
    the vector units awake, while its weights were last read in the run before. So `turn` first writes the inputs and
    the outputs, and lets a `primer` run; whoever lets many operators take turns gets the weights' part.

    Args:
        path: the file.
        threads: number of threads.

    Raises:
        RuntimeError, ValueError: the runtime does not take the file.
    """

    def __init__(self, path, threads):
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._inputs = [(entry["index"], _input_values(entry)) for entry in self._interpreter.get_input_details()]
        self.times = []
        for _ in range(_SINGLE_WARM_UP_RUNS):
            self._refresh()
            self._interpreter.invoke()
        # Outputs whose size depends on the values exist only now.
        self._outputs = [entry["index"] for entry in self._interpreter.get_output_details()]

    _outputs = ()

    def _refresh(self):
        for index, values in self._inputs:
            self._interpreter.set_tensor(index, values)
        for index in self._outputs:
            self._interpreter.tensor(index)().fill(0)

    def run(self):
        """Run once."""
        self._interpreter.invoke()

    def turn(self, primer):
        """Run once and keep the nanoseconds; `primer` is an `Operator` that runs before."""
        self._refresh()
        awake = time.perf_counter() + _AWAKE_SECONDS
        while time.perf_counter() < awake:
            primer.run()
        start = time.perf_counter_ns()
        self._interpreter.invoke()
        self.times.append(time.perf_counter_ns() - start)

    def summary(self):
        """Return the statistics in us as a JSON-ready dictionary."""
        us = np.array(self.times) / 1000
        return {"median": float(np.median(us)), "mean": float(us.mean()), "p90": float(np.percentile(us, 90))}


def measure_single_operators(job, out):
    """Do a job with ``"alone": true``: its models take turns for its seconds, the first as primer of all others.

    Return the exit status.

    Args:
        job: see `runner.main`; of its other entries `models` and `seconds` count.
        out: function that writes a line.
    """
    operators = []
    for index, model in enumerate(job["models"]):
        try:
            operators.append(SingleOperator(model["file"], model["threads"]))
        except (RuntimeError, ValueError, OSError) as error:
            out({"error": {"model": index, "message": " ".join(str(error).split()) or type(error).__name__}})
            return 1
    end = time.perf_counter() + job["seconds"]
    turns = 0
    while turns < _MIN_TURNS or (turns < _MAX_TURNS and time.perf_counter() < end):
        for operator in operators:
            operator.turn(operators[0])
        turns += 1
    for model, operator in zip(job["models"], operators, strict=True):
        out({"result": {**model, "us": operator.summary(), "runs": turns}})
    return 0


def _input_values(entry):
    dtype = entry["dtype"].__name__.rstrip("_")  # NumPy's "bool_" is a bool
    return generate_input(tuple(entry["shape"]), dtype, bool(entry["quantization"][0]))


# MERGED Measure .tflite files as a job says that comes as a line of JSON on stdin; results leave as lines of JSON on stdout.
# MERGED
# MERGED The job::
# MERGED
# MERGED     {"models": [{"file": PATH, "threads": N}, ...], "runs": N or null, "seconds": S, "profile": true,
# MERGED      "api": "auto" or "interpreter", "kernel_mode": "delegate", "delegate": PATH or null, "bandwidth": false}
# MERGED
# MERGED The models of one job are all loaded, and take turns. Lines: ``{"host": {...}}`` first; ``{"progress": [{"runs", "us",
# MERGED "within"}, ...]}`` after the first turn and then twice a second, with what is known of each model so far;
# MERGED ``{"result": {...}}`` for each model in their order; ``{"error": {"model": index or null, "message": TEXT}}`` in place
# MERGED of the results where one does not run. What the runtime itself prints goes to stderr.

_MIN_PROFILED_RUNS = 20
_MAX_EVENTS = 4_000_000
_PROFILED_SECONDS = timing.ROUND_SECONDS / 2
_PROGRESS_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
_RUNTIME_ERRORS = (litert.LiteRtError, RuntimeError, ValueError, OSError, MemoryError)


def main():
    """Do the job on stdin; the exit status is 1 where a model does not run."""
    out = _own_stdout()
    _die_with_parent()
    job = json.loads(sys.stdin.readline())
    out({"host": describe_host() | {"state": describe_load()}})
    with contextlib.suppress(litert.CApiUnavailable):
        litert.load_library()  # now, so that no model's time and memory has it in
    _limit_resources()
    if job.get("alone"):
        return measure_single_operators(job, out)
    with contextlib.ExitStack() as stack:
        subjects = []
        try:
            for model in job["models"]:
                subjects.append(MeasuredModel(stack, model, job))
            at, others = None, OtherProcesses()
            budget = timing.TimeBudget(job.get("runs"), job.get("seconds", timing.TimeBudget.seconds))
            timing.time_in_turns(
                [(subject.series, subject.profile) for subject in subjects], budget, ProgressReporter(out, subjects)
            )
            for subject in subjects:
                subject.complete(budget.seconds)
            share, rates = others.share(), bandwidth.measure_job_bandwidth(job)
        except _RUNTIME_ERRORS as error:
            at = len(subjects) if len(subjects) < len(job["models"]) else None
            out({"error": {"model": at, "message": _one_line(error)}})
            return 1
        for subject in subjects:
            found = {"others_share": share, "bandwidth": rates.get(subject.entry["threads"])}
            out({"result": subject.result() | found})
    return 0


class MeasuredModel:
    """A model of the job: run as it is for its latency, and beside it with the profiler for that of its operators.

    Args:
        stack: `contextlib.ExitStack` that closes what this opens.
        model: its entry in the job.
        job: the job.
    """

    def __init__(self, stack, model, job):
        self.entry = model
        self.unavailable = None
        self._profiled, self._runs, self._events = None, [], 0
        _reset_peak()
        before = read_memory()["VmRSS"]
        start = time.perf_counter_ns()
        self._model = stack.enter_context(self._open(job))
        loaded = time.perf_counter_ns()
        self._model.run()
        self._first = {"load_us": (loaded - start) / 1000, "first_us": (time.perf_counter_ns() - loaded) / 1000}
        peak = read_memory()["VmHWM"]
        self._first |= {"peak_bytes": peak, "added_bytes": max(0, peak - before)}
        self.series = timing.TimedRuns(self._model.run)
        self.api = "interpreter" if isinstance(self._model, InterpretedModel) else "compiled_model"
        if job.get("profile") and self.api == "compiled_model":
            self._profiled = stack.enter_context(self._compiled(job, profiling=True))
            self._add(1)

    def _open(self, job):
        if job.get("delegate") or job.get("api") == "interpreter":
            return self._interpreted(job)
        try:
            return self._compiled(job)
        except litert.CApiUnavailable as error:
            self.unavailable = str(error)
            return self._interpreted(job)

    def _compiled(self, job, profiling=False):
        kernel_mode = job.get("kernel_mode", "delegate")
        return litert.CompiledModel(self.entry["file"], self.entry["threads"], profiling, kernel_mode)

    def _interpreted(self, job):
        return InterpretedModel(self.entry["file"], self.entry["threads"], job.get("delegate"))

    @property
    def profile(self):
        """A function that profiles some runs beside a round of as many as it is told; None without a profiler."""
        return None if self._profiled is None else self._profile

    def _profile(self, runs):
        if self._events < _MAX_EVENTS:
            self._add(min(runs, timing.count_runs(self._profiled_ns, _PROFILED_SECONDS)))

    def _add(self, runs):
        start = time.perf_counter_ns()
        recorded, names = self._profiled.profile(runs)
        self._profiled_ns = (time.perf_counter_ns() - start) / runs
        self._runs += timing.split_runs(recorded, names)
        self._events += len(recorded)

    def complete(self, seconds):
        """Profile until there are runs enough for a statistic, `seconds` at most."""
        end = time.perf_counter() + seconds
        while self._profiled and self._profiled_runs < _MIN_PROFILED_RUNS and time.perf_counter() < end:
            self._add(1)

    @property
    def _profiled_runs(self):
        return sum(len(runs.whole) for runs in self._runs)

    def progress(self):
        """Return what is known so far as a JSON-ready dictionary."""
        within = self.series.precision
        return {
            "runs": self.series.runs,
            "us": float(np.median(self.series.medians)) / 1000,
            "within": within if np.isfinite(within) else None,
        }

    def result(self):
        """Return what was measured as a JSON-ready dictionary."""
        return {
            "file": self.entry["file"],
            "threads": self.entry["threads"],
            "api": self.api,
            "unavailable": self.unavailable,
            "signatures": self._model.signatures,
            **self._first,
            **self.series.summary(),
            "profile": timing.summarize_profile(self._runs),
        }


class ProgressReporter:
    """A function that sends what is known of the subjects each time it is called, twice a second at most."""

    def __init__(self, out, subjects):
        self._out, self._subjects = out, subjects
        self._next = 0.0

    def __call__(self):
        """Send it, unless it was sent just now."""
        if time.perf_counter() >= self._next:
            self._out({"progress": [subject.progress() for subject in self._subjects]})
            self._next = time.perf_counter() + _PROGRESS_SECONDS


class OtherProcesses:
    """How much of the machine's processor time others took since this was made."""

    def __init__(self):
        self._start = self._now()

    @staticmethod
    def _now():
        return time.perf_counter(), cpu_busy_seconds(), sum(os.times()[:2])

    def share(self):
        """Return their share, 0 to 1, other guests of the hardware among them; None where the system does not tell."""
        (start, busy_then, own_then), (now, busy_now, own_now) = self._start, self._now()
        if busy_then is None or busy_now is None:
            return None
        others = busy_now - busy_then - (own_now - own_then)
        return min(1.0, max(0.0, others / max((now - start) * os.cpu_count(), 1e-9)))


def read_memory():
    """Return the resident and peak resident bytes and the writable ones of this process; zeros without /proc."""
    return _read_sizes("/proc/self/status", ("VmRSS", "VmHWM", "VmData"))


def _read_sizes(path, names):
    found = dict.fromkeys(names, 0)
    with contextlib.suppress(OSError), open(path) as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) * 1024
    return found


def _reset_peak():
    """Let the peak of the resident memory start at what is resident now (Linux)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _limit_resources():
    """Let no model take more memory than is free now, so that nothing swaps, nor a crash leave a core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    free = _read_sizes("/proc/meminfo", ("MemAvailable",))["MemAvailable"]
    if free:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = read_memory()["VmData"] + free
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def _own_stdout():
    """Return a function that writes a line of JSON to stdout, and let everything else there go to stderr."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def write(document):
        stream.write(json.dumps(document) + "\n")
        stream.flush()

    return write


def _die_with_parent():
    """Ask the system to kill this process when its parent is gone (Linux)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _one_line(error):
    return " ".join(str(error).split()) or type(error).__name__
