"""Measure .tflite files as a job says that comes as a line of JSON on stdin; results leave as lines of JSON on stdout.

The job::

    {"models": [{"file": PATH, "threads": N}, ...], "runs": N or null, "seconds": S, "profile": true,
     "api": "auto" or "interpreter", "kernel_mode": "delegate", "delegate": PATH or null, "bandwidth": false}

The models of one job are all loaded, and take turns. Lines: ``{"host": {...}}`` first; ``{"progress": [{"runs", "us",
"within"}, ...]}`` after the first turn and then twice a second, with what is known of each model so far;
``{"result": {...}}`` for each model in their order; ``{"error": {"model": index or null, "message": TEXT}}`` in place
of the results where one does not run. What the runtime itself prints goes to stderr.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time

import numpy as np

from keras_nin.benchmark.runner import alone, bandwidth, capi, events, litert, timing
from keras_nin.benchmark.runner.interpreter import InterpretedModel
from keras_nin.tflite.host import busy_seconds, host, state

_LEAST_PROFILED = 20
_MOST_EVENTS = 4_000_000
_PROFILED_SECONDS = timing.ROUND_SECONDS / 2
_PROGRESS_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
_PROBLEMS = (capi.LiteRtError, RuntimeError, ValueError, OSError, MemoryError)


def main():
    """Do the job on stdin; the exit status is 1 where a model does not run."""
    out = _own_stdout()
    _die_with_parent()
    job = json.loads(sys.stdin.readline())
    out({"host": host() | {"state": state()}})
    with contextlib.suppress(capi.Unavailable):
        capi.functions()  # now, so that no model's time and memory has it in
    _limit_resources()
    if job.get("alone"):
        return alone.measure(job, out)
    with contextlib.ExitStack() as stack:
        subjects = []
        try:
            for model in job["models"]:
                subjects.append(Subject(stack, model, job))
            at, others = None, Others()
            budget = timing.Budget(job.get("runs"), job.get("seconds", timing.Budget.seconds))
            timing.measure([(subject.series, subject.profile) for subject in subjects], budget, Progress(out, subjects))
            for subject in subjects:
                subject.complete(budget.seconds)
            share, rates = others.share(), bandwidth.of(job)
        except _PROBLEMS as error:
            at = len(subjects) if len(subjects) < len(job["models"]) else None
            out({"error": {"model": at, "message": _line(error)}})
            return 1
        for subject in subjects:
            found = {"others_share": share, "bandwidth": rates.get(subject.entry["threads"])}
            out({"result": subject.result() | found})
    return 0


class Subject:
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
        before = memory()["VmRSS"]
        start = time.perf_counter_ns()
        self._model = stack.enter_context(self._open(job))
        loaded = time.perf_counter_ns()
        self._model.run()
        self._first = {"load_us": (loaded - start) / 1000, "first_us": (time.perf_counter_ns() - loaded) / 1000}
        peak = memory()["VmHWM"]
        self._first |= {"peak_bytes": peak, "added_bytes": max(0, peak - before)}
        self.series = timing.Series(self._model.run)
        self.api = "interpreter" if isinstance(self._model, InterpretedModel) else "compiled_model"
        if job.get("profile") and self.api == "compiled_model":
            self._profiled = stack.enter_context(self._compiled(job, profiling=True))
            self._add(1)

    def _open(self, job):
        if job.get("delegate") or job.get("api") == "interpreter":
            return self._interpreted(job)
        try:
            return self._compiled(job)
        except capi.Unavailable as error:
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
        if self._events < _MOST_EVENTS:
            self._add(min(runs, timing.runs_in(self._profiled_ns, _PROFILED_SECONDS)))

    def _add(self, runs):
        start = time.perf_counter_ns()
        recorded, names = self._profiled.profile(runs)
        self._profiled_ns = (time.perf_counter_ns() - start) / runs
        self._runs += events.runs_of(recorded, names)
        self._events += len(recorded)

    def complete(self, seconds):
        """Profile until there are runs enough for a statistic, `seconds` at most."""
        end = time.perf_counter() + seconds
        while self._profiled and self._profiled_runs < _LEAST_PROFILED and time.perf_counter() < end:
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
            "profile": events.summary(self._runs),
        }


class Progress:
    """A function that sends what is known of the subjects each time it is called, twice a second at most."""

    def __init__(self, out, subjects):
        self._out, self._subjects = out, subjects
        self._next = 0.0

    def __call__(self):
        """Send it, unless it was sent just now."""
        if time.perf_counter() >= self._next:
            self._out({"progress": [subject.progress() for subject in self._subjects]})
            self._next = time.perf_counter() + _PROGRESS_SECONDS


class Others:
    """How much of the machine's processor time others took since this was made."""

    def __init__(self):
        self._start = self._now()

    @staticmethod
    def _now():
        return time.perf_counter(), busy_seconds(), sum(os.times()[:2])

    def share(self):
        """Return their share, 0 to 1, other guests of the hardware among them; None where the system does not tell."""
        (start, busy_then, own_then), (now, busy_now, own_now) = self._start, self._now()
        if busy_then is None or busy_now is None:
            return None
        others = busy_now - busy_then - (own_now - own_then)
        return min(1.0, max(0.0, others / max((now - start) * os.cpu_count(), 1e-9)))


def memory():
    """Return the resident and peak resident bytes and the writable ones of this process; zeros without /proc."""
    return _sizes("/proc/self/status", ("VmRSS", "VmHWM", "VmData"))


def _sizes(path, names):
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
    free = _sizes("/proc/meminfo", ("MemAvailable",))["MemAvailable"]
    if free:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = memory()["VmData"] + free
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


def _line(error):
    return " ".join(str(error).split()) or type(error).__name__
