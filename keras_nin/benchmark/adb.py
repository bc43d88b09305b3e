"""An Android device: LiteRT's own `benchmark_model` runs the files there, and its figures become an `Answer`.

Not run on hardware: see docs/devices.md.
"""

import contextlib
import dataclasses
import os
import re
import secrets
import shlex
import statistics

from keras_nin.benchmark import adb_csv, tools
from keras_nin.benchmark.child import Answer
from keras_nin.errors import InputError

BENCHMARK_MODEL = "/data/local/tmp/benchmark_model"
_URL = re.compile(r"adb://(?P<serial>[A-Za-z0-9._:-]*)/?")
_FOLDER = "/data/local/tmp"
# Processes for each file: six medians are the least that have an interval of 95 %.
_ROUNDS = 6
_LEAST_SECONDS, _PROFILED_SECONDS, _PROFILED_RUNS = 0.2, 1.0, 50
_STARTING_SECONDS = 60
_FACTS = (
    "getprop ro.product.manufacturer", "getprop ro.product.model", "getprop ro.soc.model",
    "getprop ro.build.version.release", "uname -srm", "nproc", "cat /proc/loadavg",
    "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
)  # fmt: skip
_PROBLEMS = (
    ("unauthorized", "it does not trust this computer. Unlock it and allow USB debugging"),
    ("device offline", "it is offline. Plug it in again, or restart it"),
    ("more than one device", "there are several devices. Give one's serial number: adb://SERIAL, from `adb devices`"),
    ("no devices", "no device is attached. See `adb devices`"),
    ("not found", "no such device is attached. See `adb devices`"),
)


@dataclasses.dataclass(frozen=True)
class Phone:
    """An Android device that adb reaches.

    Attributes:
        url: ``adb://SERIAL``; without a serial number the only device there is.
        benchmark_model: the tool's path on the device, or of a file here that is sent along.

    Raises:
        InputError: the URL is no such.
    """

    url: str
    benchmark_model: str = BENCHMARK_MODEL

    def __post_init__(self):
        if not _URL.fullmatch(self.url):
            raise InputError(f"Expected `--on` as adb://SERIAL. Received: {self.url!r}")

    def run(self, job, limit=None, progress=None):
        """Return the `Answer` to a job, as `child.run` does for a runner's.

        The files take turns. The tool prints no percentiles but the median: those fields are None, and so is the
        memory of the process as a whole. Of the progress nothing is said.

        Raises:
            InputError: the device or the tool is missing, or a file does not run.
        """
        host = self._host()
        with self._folder() as folder:
            tool = self._tool(folder)
            there = self._push(job, folder)
            runs = [_Runs(self, tool, there[model["file"]], model, job, limit) for model in job["models"]]
            for _ in range(_ROUNDS):
                for each in runs:
                    each.round()
            return Answer(host, tuple(each.result(folder) for each in runs))

    def _host(self):
        """Return what a latency is printed beside, as `keras_nin.tflite.host.host` has it."""
        lines = self.shell("; ".join(f"{fact} 2>/dev/null || echo" for fact in _FACTS)).splitlines()
        maker, model, chip, release, system, cores, load, governor, *_ = [*lines, *[""] * len(_FACTS)]
        return {
            "cpu": " ".join(filter(None, (maker, model, f"({chip})" if chip else ""))),
            "cores": int(cores) if cores.isdigit() else None,
            "system": f"Android {release}, {system}",
            "python": None,
            "litert": "benchmark_model",
            "state": {"load_average": float(load.split()[0]) if load else None, "governor": governor or None},
        }

    @contextlib.contextmanager
    def _folder(self):
        folder = f"{_FOLDER}/keras-nin-{secrets.token_hex(4)}"
        self.shell(f"mkdir {folder}")
        try:
            yield folder
        finally:
            with contextlib.suppress(InputError):
                self.shell(f"rm -rf {folder}")

    def _tool(self, folder):
        """Return the tool's path there."""
        if os.path.isfile(self.benchmark_model):
            self.adb("push", self.benchmark_model, f"{folder}/benchmark_model")
            self.shell(f"chmod 755 {folder}/benchmark_model")
            return f"{folder}/benchmark_model"
        path = shlex.quote(self.benchmark_model)
        if self.shell(f"[ -x {path} ] && echo there || echo").strip() != "there":
            raise self.error(
                f"it has no program {self.benchmark_model!r}. Push LiteRT's benchmark_model (adb push, chmod 755) or "
                "give --benchmark-model PATH"
            )
        return self.benchmark_model

    def _push(self, job, folder):
        paths = dict.fromkeys(model["file"] for model in job["models"])
        there = {path: f"{folder}/{number}.tflite" for number, path in enumerate(paths)}
        for path, name in there.items():
            self.adb("push", path, name)
        return there

    def shell(self, script, check=True, limit=_STARTING_SECONDS):
        """Run a shell script there and return what it printed."""
        return self.adb("shell", script, check=check, limit=limit)

    def adb(self, *words, check=True, limit=_STARTING_SECONDS):
        """Run adb and return what it printed, or with `check=False` (exit status, text)."""
        serial = _URL.fullmatch(self.url)["serial"]
        ran = tools.call("adb", [*(["-s", serial] if serial else []), *words], seconds=limit)
        text, errors = (each.decode(errors="replace") for each in (ran.stdout, ran.stderr))
        if ran.returncode:
            self._raise_problem(errors)
        if not check:
            return ran.returncode, text
        if ran.returncode:
            raise self.error(f"adb {words[0]} failed: {_line(errors or text)}")
        return text

    def _raise_problem(self, errors):
        for words, meaning in _PROBLEMS:
            if errors.startswith(("adb: ", "error: ")) and words in errors:
                raise self.error(meaning)

    def error(self, problem):
        """Return the `InputError` for a problem with this device."""
        return InputError(f"Expected an Android device that runs .tflite files. Received: {self.url}: {problem}")


class _Runs:
    """The runs of one model of a job."""

    def __init__(self, phone, tool, path, model, job, limit):
        self._phone, self._model, self._job, self._limit = phone, model, job, limit
        self._command = [tool, f"--graph={path}", f"--num_threads={model['threads']}"]
        if job.get("delegate"):
            self._command.append(f"--external_delegate_path={job['delegate']}")
        self._seconds = max(_LEAST_SECONDS, (job.get("seconds") or 0) / _ROUNDS)
        self._logs = []

    def round(self):
        """Run the tool once."""
        runs, seconds = self._job.get("runs"), self._seconds
        if runs is None:
            how_long = ["--num_runs=1", f"--min_secs={seconds:g}", f"--max_secs={seconds:g}"]
        else:
            done = sum(log["runs"] for log in self._logs)
            left = -(-(runs - done) // (_ROUNDS - len(self._logs)))
            if left <= 0:
                return
            how_long = [f"--num_runs={left}", "--min_secs=0", "--max_secs=1000000"]
        self._logs.append(adb_csv.log(self._call(*how_long)))

    def _call(self, *options):
        script = " ".join(shlex.quote(word) for word in (*self._command, *options))
        limit = self._limit or (_STARTING_SECONDS + 4 * self._seconds if self._job.get("runs") is None else None)
        status, text = self._phone.shell(f"{script} 2>&1", check=False, limit=limit)
        if status:
            why = f"killed by signal {status - 128}; is its memory full?" if status > 128 else f"exit status {status}"
            raise InputError(
                f"Expected a file that benchmark_model runs on {self._phone.url}. Received: {self._model['file']!r}: "
                f"{why}: {_line(text)}"
            )
        return text

    def result(self, folder):
        """Return what was measured, as the runner has it."""
        logs = self._logs
        medians = [log["median_us"] for log in logs]
        low, high = (min(medians), max(medians)) if len(medians) == _ROUNDS else (None, None)
        median, runs = statistics.median(medians), sum(log["runs"] for log in logs)
        us = {"median": median, "mean": sum(log["mean_us"] * log["runs"] for log in logs) / runs}
        us |= {
            "p10": None,
            "p90": None,
            "p99": None,
            "min": min(log["min_us"] for log in logs),
            "low": low,
            "high": high,
        }
        return {
            **self._model,
            "api": "benchmark_model",
            "unavailable": None,
            "load_us": logs[0]["load_us"],
            "first_us": logs[0]["first_us"],
            "peak_bytes": None,
            "added_bytes": logs[0]["bytes"],
            "us": us,
            "runs": runs,
            "converged": low is not None and max(high - median, median - low) <= 0.01 * median,
            "rounds_us": medians,
            "profile": self._profile(folder) if self._job.get("profile") and not self._job.get("delegate") else None,
        }

    def _profile(self, folder):
        """Run the tool once more with its profiler: that makes a run slower, so its total does not count."""
        path = f"{folder}/profile.csv"
        options = ["--enable_op_profiling=true", f"--profiling_output_csv_file={path}"]
        text = self._call(*options, f"--num_runs={_PROFILED_RUNS}", "--min_secs=0", f"--max_secs={_PROFILED_SECONDS:g}")
        found = adb_csv.kernels(self._phone.shell(f"cat {path}"))
        whole = sum(kernel["us"]["typical"] for kernel in found)
        invoke = {"median": None, "mean": whole, "p90": None, "typical": whole}
        return {"runs": adb_csv.log(text)["runs"], "other_runs": 0, "invoke_us": invoke, "kernels": found}


def _line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line]
    return ([*errors, *lines[-1:]] or ["nothing was printed"])[0][:300]
