"""Measure .tflite files: a `Job` comes as a line of JSON on stdin, the results leave as lines of JSON on stdout::

{"host": {...}}                                      first
{"progress": [{"runs", "us", "within"}, ...]}        twice a second, one entry per model
{"result": {...}}                                    for each model in order, a `ModelResult`
{"error": {"model": index or null, "message": text, "kind": "model" or "delegate"}}    in place of the results

A job {"arrays": folder} runs files on arrays instead: see `arrays`.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.benchmark.runner import arrays, bandwidth, litert, timing
from keras_nin.child_runtime import claim_stdout, end_with_parent, limit_memory, one_line, read_sizes
from keras_nin.tflite.host import cpu_busy_seconds, describe_host, describe_load

if TYPE_CHECKING:
    from keras_nin.benchmark.job import Job, ModelEntry

_MIN_PROFILED_RUNS = 20
_MAX_EVENTS = 4_000_000
_PROFILED_SECONDS = timing.ROUND_SECONDS / 2
_PROGRESS_SECONDS = 0.5
# Processors put wide vector units to sleep within a millisecond, and take tens of microseconds to wake them.
_AWAKE_SECONDS = 1e-4
_OPERATOR_WARM_UP_SECONDS = 0.02
_MAX_OPERATOR_ROUND = 20
_Run = Callable[[], object]
_RUNTIME_ERRORS = (litert.LiteRtError, litert.DelegateError, RuntimeError, ValueError, OSError, MemoryError)


def main() -> int:
    """Run the job on stdin; return 1 where a model does not run."""
    write = claim_stdout()
    end_with_parent()
    job: Job = json.loads(sys.stdin.readline())
    write({"host": describe_host() | {"state": describe_load()}})
    folder = job.get("arrays")
    if folder is not None:
        arrays.serve(folder, write)
        return 0
    with contextlib.suppress(litert.CApiUnavailable):
        litert.load_library()  # now, so that it counts in no model's time and memory
    limit_memory()
    with contextlib.ExitStack() as stack:
        subjects: list[MeasuredModel | SingleOperator] = []
        seconds = job.get("seconds", timing.TimeBudget.seconds)
        budget = timing.TimeBudget(job.get("runs"), seconds)
        if job.get("single_operators"):
            # One run per turn: until its turn comes again, an operator's weights leave the caches as in the network.
            budget = timing.TimeBudget(None, seconds, 0, timing.MIN_ROUNDS, _OPERATOR_WARM_UP_SECONDS)
        try:
            for entry in job["models"]:
                inside = 0 if job.get("single_operators") and subjects else entry.get("inside")
                if job.get("single_operators") or inside is not None:
                    prime = None if inside is None else subjects[inside].run
                    subjects.append(SingleOperator(stack, entry, prime))
                else:
                    subjects.append(MeasuredModel(stack, entry, job))
            others = OtherProcesses()
            times = [subject.times for subject in subjects]
            timing.time_in_turns(times, budget, progress_reporter(write, times))
            results = [subject.result() for subject in subjects]
            share = others.share()
            threads = sorted({entry["threads"] for entry in job["models"]} if job.get("bandwidth") else ())
            rates = {count: bandwidth.measure_bandwidth(count) for count in threads}
        except _RUNTIME_ERRORS as error:
            model = len(subjects) if len(subjects) < len(job["models"]) else None
            kind = "delegate" if isinstance(error, litert.DelegateError) else "model"
            write({"error": {"model": model, "message": one_line(error), "kind": kind}})
            return 1
        for result in results:
            write({"result": result | {"others_share": share, "bandwidth": rates.get(result["threads"])}})
    return 0


class MeasuredModel:
    """A model that is run without a profiler for its latency, and beside that with one for its kernels."""

    def __init__(self, stack: contextlib.ExitStack, entry: "ModelEntry", job: "Job") -> None:
        self._entry, self._job = entry, job
        self._unavailable: str | None = None
        self._profiled: list[timing.ProfiledRuns] = []
        self._events, self._profiled_ns = 0, 0.0
        # The peak of the resident memory starts at what is resident now (Linux).
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        memory_before = read_memory()["VmRSS"]
        start = time.perf_counter_ns()
        self._model = stack.enter_context(self._open())
        loaded = time.perf_counter_ns()
        self.run: _Run = self._model.run
        self.run()
        self._first = {"load_us": (loaded - start) / 1000, "first_us": (time.perf_counter_ns() - loaded) / 1000}
        peak = read_memory()["VmHWM"]
        self._first |= {"peak_bytes": peak, "added_bytes": max(0, peak - memory_before)}
        self._profiler: litert.CompiledModel | None = None
        if job.get("profile") and isinstance(self._model, litert.CompiledModel):
            self._profiler = stack.enter_context(litert.CompiledModel(entry["file"], entry["threads"], profiling=True))
            self._profile(1)
        self.times = timing.TimedRuns(self.run, after_round=self._profile_round)

    def _open(self) -> "litert.CompiledModel | litert.InterpretedModel":
        path, threads, delegate = self._entry["file"], self._entry["threads"], self._job.get("delegate")
        if not delegate:
            try:
                return litert.CompiledModel(path, threads)
            except litert.CApiUnavailable as error:
                self._unavailable = str(error)
            except litert.UnsupportedModelError:
                self._unavailable = "LiteRT's compiled model does not take the file: it ran in the interpreter"
        return litert.InterpretedModel(path, threads, delegate)

    def _profile_round(self, runs: int) -> None:
        if self._profiler is not None and self._events < _MAX_EVENTS:
            self._profile(min(runs, timing.count_runs(self._profiled_ns, _PROFILED_SECONDS)))

    def _profile(self, runs: int) -> None:
        assert self._profiler is not None
        start = time.perf_counter_ns()
        events, names = self._profiler.profile(runs)
        self._profiled_ns = (time.perf_counter_ns() - start) / runs
        self._profiled += timing.split_runs(events, names)
        self._events += len(events)

    def result(self) -> dict[str, Any]:
        """Return what was measured as a JSON-ready dictionary, once there are enough profiled runs for statistics."""
        end = time.perf_counter() + self._job.get("seconds", timing.TimeBudget.seconds)
        while self._profiler is not None and time.perf_counter() < end:
            if sum(len(runs.total_us) for runs in self._profiled) >= _MIN_PROFILED_RUNS:
                break
            self._profile(1)
        return {
            **self._entry,
            "api": self._model.api,
            "unavailable": self._unavailable,
            **self._first,
            **self.times.summary(),
            "profile": timing.summarize_profile(self._profiled),
        }


class SingleOperator:
    """A file of one operator, timed as it runs inside its network.

    There it reads and writes memory that was used just before and finds the vector units awake, while its weights were
    last read in the previous run. So before each run inputs and outputs are written and `prime` is called; that many
    operators take turns does the rest.
    """

    def __init__(self, stack: contextlib.ExitStack, entry: "ModelEntry", prime: "_Run | None" = None) -> None:
        self._entry = entry
        self._model = stack.enter_context(litert.InterpretedModel(entry["file"], entry["threads"]))
        self.run: _Run = self._model.run
        self.run()  # outputs whose size depends on the values exist only then
        self._prime = prime or self.run
        self.times = timing.TimedRuns(self.run, before_run=self._prepare, max_round=_MAX_OPERATOR_ROUND)

    def _prepare(self) -> None:
        self._model.write_inputs()
        self._model.clear_outputs()
        awake = time.perf_counter() + _AWAKE_SECONDS
        while time.perf_counter() < awake:
            self._prime()

    def result(self) -> dict[str, Any]:
        """Return what was measured as a JSON-ready dictionary."""
        summary = self.times.summary()
        return {**self._entry, **{name: summary[name] for name in ("us", "runs", "rounds_us")}}


def progress_reporter(write: Callable[[dict[str, Any]], None], subjects: list[timing.TimedRuns]) -> _Run:
    """Return a function that reports the progress of the subjects each time it is called, twice a second at most."""
    next_report = 0.0

    def report() -> None:
        nonlocal next_report
        if time.perf_counter() >= next_report:
            states = []
            for times in subjects:
                us, within = float(np.median(times.medians)) / 1000, times.precision
                states.append({"runs": times.runs, "us": us, "within": within if np.isfinite(within) else None})
            write({"progress": states})
            next_report = time.perf_counter() + _PROGRESS_SECONDS

    return report


class OtherProcesses:
    """The processor time of the machine that other processes took since this object was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), cpu_busy_seconds(), sum(os.times()[:2])

    def share(self) -> "float | None":
        """Return their share, 0 to 1, other guests of the hardware included; None where the system does not tell."""
        (start, busy_then, own_then), busy_now = self._start, cpu_busy_seconds()
        if busy_then is None or busy_now is None:
            return None
        others = busy_now - busy_then - (sum(os.times()[:2]) - own_then)
        return min(1.0, max(0.0, others / max((time.perf_counter() - start) * (os.cpu_count() or 1), 1e-9)))


def read_memory() -> dict[str, int]:
    """Return resident, peak resident and writable bytes of this process (VmRSS, VmHWM, VmData); 0 without /proc."""
    return read_sizes("/proc/self/status", "VmRSS", "VmHWM", "VmData")


if __name__ == "__main__":
    sys.exit(main())
