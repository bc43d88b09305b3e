"""Measure .tflite files as a job says that comes as JSON on stdin; results leave as lines of JSON on stdout.

The job::

    {"models": [{"file": PATH, "threads": N}, ...], "runs": N or null, "seconds": S, "profile": true,
     "api": "auto" or "interpreter", "kernel_mode": "delegate", "delegate": PATH or null, "bandwidth": false}

The models of one job are all loaded, and take turns. Lines: ``{"host": {...}}`` first, ``{"result": {...}}`` for each
model, and ``{"error": {"model": index, "message": TEXT}}`` in place of the results where one does not run. What the
runtime itself prints goes to stderr.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time

from keras_nin.benchmark.runner import bandwidth, events, litert, timing
from keras_nin.benchmark.runner.interpreter import InterpretedModel
from keras_nin.tflite.host import host, state

_LEAST_PROFILED_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1


def main():
    """Do the job on stdin; the exit status is 1 where a model does not run."""
    out = _own_stdout()
    _die_with_parent()
    job = json.loads(sys.stdin.readline())
    out({"host": host() | {"state": state()}})
    with contextlib.ExitStack() as stack:
        subjects = []
        for index, model in enumerate(job["models"]):
            try:
                subjects.append(Subject(stack, model, job))
            except (litert.LiteRtError, RuntimeError, ValueError, OSError) as error:
                out({"error": {"model": index, "message": _line(error)}})
                return 1
        budget = timing.Budget(job.get("runs"), job.get("seconds", timing.Budget.seconds))
        timing.measure([(subject.series, subject.profile) for subject in subjects], budget)
        memory = bandwidth.of(job)
        for subject in subjects:
            out({"result": subject.result() | {"bandwidth": memory.get(subject.entry["threads"])}})
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
        self._profiled, self._runs = None, []
        before = memory()["VmRSS"]
        start = time.perf_counter_ns()
        opened = stack.enter_context(self._open(job))
        loaded = time.perf_counter_ns()
        opened.run()
        self._first = {"load_us": (loaded - start) / 1000, "first_us": (time.perf_counter_ns() - loaded) / 1000}
        self._first |= {"peak_bytes": memory()["VmHWM"], "added_bytes": memory()["VmRSS"] - before}
        self.series = timing.Series(opened.run)
        self.api = "interpreter" if isinstance(opened, InterpretedModel) else "compiled_model"
        if job.get("profile") and self.api == "compiled_model":
            self._profiled = stack.enter_context(self._compiled(job, profiling=True))
            self._profiled.run()

    def _open(self, job):
        if job.get("delegate") or job.get("api") == "interpreter":
            return self._interpreted(job)
        try:
            return self._compiled(job)
        except litert.Unavailable as error:
            self.unavailable = str(error)
            return self._interpreted(job)

    def _compiled(self, job, profiling=False):
        kernel_mode = job.get("kernel_mode", "delegate")
        return litert.CompiledModel(self.entry["file"], self.entry["threads"], profiling, kernel_mode)

    def _interpreted(self, job):
        return InterpretedModel(self.entry["file"], self.entry["threads"], job.get("delegate"))

    @property
    def profile(self):
        """A function that profiles as many runs as it is told; None where there is no profiler."""
        return None if self._profiled is None else self._profile

    def _profile(self, runs):
        self._runs += events.runs_of(*self._profiled.profile(runs))

    def result(self):
        """Return what was measured as a JSON-ready dictionary."""
        return {
            "file": self.entry["file"],
            "threads": self.entry["threads"],
            "api": self.api,
            "unavailable": self.unavailable,
            **self._first,
            **self.series.summary(),
            "profile": events.summary(self._runs),
        }


def memory():
    """Return the resident and the peak resident bytes of this process, by their names in /proc; zeros without it."""
    found = {"VmRSS": 0, "VmHWM": 0}
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) * 1024
    return found


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
