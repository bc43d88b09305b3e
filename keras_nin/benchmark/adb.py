"""An Android device, where LiteRT's `benchmark_model` runs the files; not verified (docs/guides/devices.md)."""

import contextlib
import dataclasses
import os
import pathlib
import re
import secrets
import shlex
import statistics
import tomllib
from collections.abc import Iterator
from typing import Any

from keras_nin.benchmark.job import FileRefusedError, Job, JobResult, ModelResult, Progress
from keras_nin.child_process import ProcessResult, ProcessStartError, run_process
from keras_nin.errors import InputError, expected_error

DEVICE_TABLE = tomllib.loads((pathlib.Path(__file__).parent / "devices.toml").read_text())
_TOOL_PACKAGES = {"ssh": "OpenSSH", "adb": "Android's platform tools"}


def tool_command(name: str) -> list[str]:
    """Return the words that start "ssh" or "adb": the program, or what KERAS_NIN_SSH or KERAS_NIN_ADB holds."""
    variable = f"KERAS_NIN_{name.upper()}"
    text = os.environ.get(variable, "")
    try:
        return shlex.split(text) or [name]
    except ValueError as error:
        raise InputError(f"Expected a command in {variable}. Received: {text!r} ({error})") from None


def run_tool(name: str, arguments: list[str], *, timeout: float | None, stdin: bytes | None = None) -> ProcessResult:
    """Run "ssh" or "adb" to its end."""
    command = [*tool_command(name), *arguments]
    try:
        result = run_process(command, stdin=stdin, timeout=timeout)
    except ProcessStartError as error:
        what = f"the program {command[0]!r} of {_TOOL_PACKAGES[name]} cannot be started"
        advice = f"Install it, or set KERAS_NIN_{name.upper()} to its command"
        raise InputError(f"{what}. {advice}", path=command[0]) from error
    if result.timed_out:
        raise InputError(f"{name} did not end within {timeout:.0f} s")
    return result


# The output of benchmark_model: its log, and the profile of the operators as CSV.

_TOOL = DEVICE_TABLE["benchmark_model"]
_GROUPS = {"avg_ms": "?P<average>", "times called": "?P<called>"}


def parse_kernels(text: str) -> list[dict[str, Any]]:
    """Return the kernels of `ModelResult.profile` from the text of ``--profiling_output_csv_file``, which has means."""
    rows = _profile_rows(text)
    if not rows:
        raise InputError("Expected a profile of benchmark_model as CSV. Received: one without operators")
    kernels = [_parse_kernel(row) for row in rows]
    # The operator that stands for a delegate has the time of all its kernels: with both, the kernels say more.
    if any(kernel["kind"] == "delegate" for kernel in kernels):
        return [
            kernel for kernel in kernels if kernel["kind"] == "delegate" or "delegate" not in kernel["name"].lower()
        ]
    return kernels


def _profile_rows(text: str) -> list[dict[str, str]]:
    if _TOOL["regular"] not in text:
        raise InputError(f"Expected a profile of benchmark_model as CSV. Received: one without {_TOOL['regular']!r}")
    rows: list[dict[str, str]] = []
    regular_runs = text.split(_TOOL["regular"], 1)[1].split(_TOOL["initial"], 1)[0]
    for header, lines in re.findall(_TOOL["table"], regular_runs, re.MULTILINE):
        columns = [word.strip() for word in header.split(",")][1:]
        if columns not in (_TOOL["columns"], _TOOL["columns"][1:]):
            raise InputError(f"Expected the columns of benchmark_model's profile. Received: {header[:200]!r}")
        numbers = (f",\\s*({_GROUPS.get(column, '?:')}{_TOOL['number']})" for column in columns[:-1])
        pattern = f"(?P<type>.*?){''.join(numbers)},\\s*(?P<name>.*)"
        for line in map(str.strip, lines.splitlines()):
            match = re.fullmatch(pattern, line)
            if not match:
                raise InputError(f"Expected rows of benchmark_model's profile. Received: {line[:200]!r}")
            rows.append(match.groupdict())
    return rows


def _parse_kernel(row: dict[str, str]) -> dict[str, Any]:
    us = float(row["average"]) * 1000 * max(1, int(float(row["called"])))
    is_delegated = row["name"].startswith(_TOOL["delegate"])
    # Commas in names may be tabs; the kernel's own name ends before the index.
    name, _, index = row["name"].removeprefix(_TOOL["delegate"]).replace("\t", ",").rpartition(":")
    return {
        "kind": "delegate" if is_delegated else "operator",
        "name": name if is_delegated and name else row["type"],
        "index": int(index) if index.isdigit() else -1,
        "us": {"median": None, "mean": us, "p90": None, "typical": us},
    }


@dataclasses.dataclass(frozen=True)
class ToolLog:
    """Statistics of a run of `benchmark_model`: `added_bytes`, by how much its memory grew, is None if unknown."""

    runs: int
    median_us: float
    mean_us: float
    min_us: float
    load_us: float
    first_us: float
    added_bytes: int | None


def parse_log(text: str) -> ToolLog:
    """Return the statistics of a run of `benchmark_model` from its log."""
    statistics_lines = list(re.finditer(_TOOL["statistics"], text))
    times = re.search(_TOOL["times"], text)
    if not statistics_lines or not times:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        raise InputError(f"Expected the log of benchmark_model. Received: {lines[-1][:300] if lines else 'nothing'!r}")
    pairs = (word.partition("=") for word in statistics_lines[-1]["rest"].split())
    values = {name: float(value) for name, _, value in pairs if re.fullmatch(_TOOL["number"], value)}
    runs = int(statistics_lines[-1]["count"])
    if "median" not in values and runs > 1:
        raise InputError(f"this benchmark_model does not print the median, only {', '.join(values)}. Use a newer one")
    only = values.get("curr", float(times["average"]))  # all that is printed of one run
    memory = re.search(_TOOL["memory"], text)
    added_bytes = round(float(memory["all"]) * 2**20) if memory else None
    median_us, mean_us, min_us = (values.get(name, only) for name in ("median", "avg", "min"))
    return ToolLog(runs, median_us, mean_us, min_us, float(times["init"]), float(times["first"]), added_bytes)


# The device.

BENCHMARK_TOOL_PATH = "/data/local/tmp/benchmark_model"
_URL = re.compile(r"adb://[A-Za-z0-9._:-]*/?")
_DEVICE_FOLDER = "/data/local/tmp"
_ROUNDS = 6  # processes per file: six medians are the fewest that have a 95% interval
_MIN_SECONDS, _PROFILED_SECONDS, _PROFILED_RUNS = 0.2, 1.0, 50
_STARTING_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class AndroidDevice:
    """The device of ``adb://SERIAL``, or the only one; `benchmark_model` is a path there, or here to be sent."""

    url: str
    benchmark_model: str = BENCHMARK_TOOL_PATH

    def __post_init__(self) -> None:
        if not _URL.fullmatch(self.url):
            raise expected_error("device", "as adb://SERIAL", self.url)

    def run(self, job: Job, *, silence: float | None = None, progress: Progress | None = None) -> JobResult:
        """Return the result of a job like `run_job`: without percentiles, the memory of the process, and progress."""
        host = self._describe_host()
        job = {
            **job,
            "models": [entry for entry in job["models"] if "inside" not in entry],
        }  # the tool runs whole files
        with self._folder() as folder:
            tool = self._find_tool(folder)
            paths = dict.fromkeys(entry["file"] for entry in job["models"])
            remote = {path: f"{folder}/{index}.tflite" for index, path in enumerate(paths)}
            for path, name in remote.items():
                self.adb("push", os.path.abspath(path), name)  # which no option begins like
            runs = [
                _ToolRuns(self, [tool, f"--graph={remote[entry['file']]}"], index, job, silence)
                for index, entry in enumerate(job["models"])
            ]
            for model in [*runs] * _ROUNDS:  # in turns
                model.run_round()
            return JobResult(host, tuple(model.result(folder) for model in runs))

    def _describe_host(self) -> dict[str, Any]:
        script = "; ".join(f"{command} 2>/dev/null || echo" for command in _TOOL["host"])
        lines = [*self.adb("shell", script).splitlines(), *[""] * len(_TOOL["host"])]
        maker, model, chip, release, system, cores, load, governor = lines[: len(_TOOL["host"])]
        return {
            "cpu": " ".join(filter(None, (maker, model, f"({chip})" if chip else ""))),
            "cores": int(cores) if cores.isdigit() else None,
            "system": f"Android {release}, {system}",
            "python": None,
            "litert": "benchmark_model",
            "state": {"load_average": float(load.split()[0]) if load else None, "governor": governor or None},
        }

    @contextlib.contextmanager
    def _folder(self) -> Iterator[str]:
        folder = f"{_DEVICE_FOLDER}/keras-nin-{secrets.token_hex(4)}"
        self.adb("shell", f"mkdir {folder}")
        try:
            yield folder
        finally:
            with contextlib.suppress(InputError):
                self.adb("shell", f"rm -rf {folder}")

    def _find_tool(self, folder: str) -> str:
        if os.path.isfile(self.benchmark_model):
            self.adb("push", os.path.abspath(self.benchmark_model), f"{folder}/benchmark_model")
            self.adb("shell", f"chmod 755 {folder}/benchmark_model")
            return f"{folder}/benchmark_model"
        path = shlex.quote(self.benchmark_model)
        if self.adb("shell", f"[ -x {path} ] && echo there || echo").strip() != "there":
            raise self._error(
                f"it has no program {self.benchmark_model!r}. Push LiteRT's benchmark_model (adb push, chmod 755), or "
                "set `benchmark_model` to its path"
            )
        return self.benchmark_model

    def adb(self, *arguments: str) -> str:
        """Run adb and return what it printed."""
        status, output = self.try_adb(*arguments)
        if status:
            raise self._error(f"adb {arguments[0]} failed: {_error_line(output)}")
        return output

    def try_adb(self, *arguments: str, timeout: float | None = _STARTING_SECONDS) -> tuple[int | None, str]:
        """Run adb and return its exit status and what it printed; `InputError` where it does not reach the device."""
        serial = self.url.removeprefix("adb://").rstrip("/")
        result = run_tool("adb", [*(["-s", serial] if serial else []), *arguments], timeout=timeout)
        if result.status and result.stderr.startswith(("adb: ", "error: ")):
            for words, meaning in DEVICE_TABLE["adb"].items():
                if words in result.stderr:
                    raise self._error(meaning)
        return result.status, result.stdout or (result.stderr if result.status else "")

    def _error(self, problem: str) -> InputError:
        message = f"Expected an Android device that runs .tflite files. Received: {self.url}: {problem}"
        return InputError(message, argument="device")


class _ToolRuns:
    """The runs of one model of a job; `command` is the tool with the file there."""

    def __init__(self, device: AndroidDevice, command: list[str], index: int, job: Job, timeout: float | None) -> None:
        self._device, self._index, self._job, self._timeout = device, index, job, timeout
        self._entry = job["models"][index]
        self._command = [*command, f"--num_threads={self._entry['threads']}"]
        if job.get("delegate"):
            self._command.append(f"--external_delegate_path={job.get('delegate')}")
        self._seconds = max(_MIN_SECONDS, (job.get("seconds") or 0) / _ROUNDS)
        self._logs: list[ToolLog] = []

    def run_round(self) -> None:
        runs, seconds = self._job.get("runs"), self._seconds
        if runs is None:
            options = ["--num_runs=1", f"--min_secs={seconds:g}", f"--max_secs={seconds:g}"]
        else:
            done = sum(log.runs for log in self._logs)
            remaining = -(-(runs - done) // (_ROUNDS - len(self._logs)))
            if remaining <= 0:
                return
            options = [f"--num_runs={remaining}", "--min_secs=0", "--max_secs=1000000"]
        self._logs.append(parse_log(self._run(*options)))

    def _run(self, *options: str) -> str:
        script = shlex.join([*self._command, *options])
        timeout = self._timeout
        if timeout is None and self._job.get("runs") is None:
            timeout = _STARTING_SECONDS + 4 * self._seconds
        status, text = self._device.try_adb("shell", f"{script} 2>&1", timeout=timeout)
        if status:
            why = f"killed by signal {status - 128}; is its memory full?" if status > 128 else f"exit status {status}"
            path = self._entry["file"]
            message = f"Expected a file that benchmark_model runs on {self._device.url}. Received: {path!r}: {why}: "
            raise FileRefusedError(message + _error_line(text), model=self._index, path=path, status=status)
        return text

    def result(self, folder: str) -> ModelResult:
        logs = self._logs
        medians = [log.median_us for log in logs]
        low, high = (min(medians), max(medians)) if len(medians) == _ROUNDS else (None, None)
        median, runs = statistics.median(medians), sum(log.runs for log in logs)
        converged = low is not None and high is not None and max(high - median, median - low) <= 0.01 * median
        has_profile = self._job.get("profile") and not self._job.get("delegate")
        us = {"median": median, "mean": sum(log.mean_us * log.runs for log in logs) / runs, "low": low, "high": high}
        us |= {"min": min(log.min_us for log in logs), **dict.fromkeys(("p10", "p90", "p99"))}
        return {
            "file": self._entry["file"], "threads": self._entry["threads"], "api": "benchmark_model",
            "unavailable": None, "load_us": logs[0].load_us, "first_us": logs[0].first_us, "peak_bytes": None,
            "added_bytes": logs[0].added_bytes, "us": us, "runs": runs, "converged": converged, "rounds_us": medians,
            "profile": self._profile(folder) if has_profile else None,
        }  # fmt: skip

    def _profile(self, folder: str) -> dict[str, Any]:
        """Run the tool once more with its profiler, which makes the run slower: its total does not count."""
        path = f"{folder}/profile.csv"
        options = ["--enable_op_profiling=true", f"--profiling_output_csv_file={path}"]
        text = self._run(*options, f"--num_runs={_PROFILED_RUNS}", "--min_secs=0", f"--max_secs={_PROFILED_SECONDS:g}")
        kernels = parse_kernels(self._device.adb("shell", f"cat {path}"))
        total = sum(kernel["us"]["typical"] for kernel in kernels)
        invoke = {"median": None, "mean": total, "p90": None, "typical": total}
        return {"runs": parse_log(text).runs, "other_runs": 0, "invoke_us": invoke, "kernels": kernels}


def _error_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line]
    return next(iter([*errors, *lines[-1:]]), "nothing was printed")[:300]
