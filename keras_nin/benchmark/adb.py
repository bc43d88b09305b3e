"""Other programs that devices are reached with: ssh and adb, as the user has them."""

import contextlib
import dataclasses
import os
import re
import secrets
import shlex
import statistics
import subprocess

from keras_nin.benchmark.measurement import JobResult
from keras_nin.errors import InputError

_TOOL_PACKAGES = {"ssh": "OpenSSH", "adb": "Android's platform tools"}


def tool_variable(name):
    """Return the name of the environment variable that may hold another command for a program."""
    return f"KERAS_NIN_{name.upper()}"


def tool_command(name):
    """Return the words that start a program: its name, or what the user's `variable` holds.

    Raises:
        InputError: the variable has a quote that does not close.
    """
    text = os.environ.get(tool_variable(name), "")
    try:
        return shlex.split(text) or [name]
    except ValueError as error:
        raise InputError(f"Expected a command in {tool_variable(name)}. Received: {text!r} ({error})") from None


def run_tool(name, words, data=b"", seconds=None):
    """Run a program to its end, and return its `subprocess.CompletedProcess` with bytes in stdout and stderr.

    Args:
        name: "ssh" or "adb".
        words: its arguments, after those of `command`.
        data: for its stdin.
        seconds: after which it is killed.

    Raises:
        InputError: there is no such program, it cannot be started, or takes longer.
    """
    whole = [*tool_command(name), *words]
    try:
        return subprocess.run(whole, input=data, capture_output=True, timeout=seconds, start_new_session=True)
    except FileNotFoundError:
        raise InputError(
            f"Expected the program {whole[0]!r} of {_TOOL_PACKAGES[name]}. Received: no such program"
        ) from None
    except OSError as error:
        raise InputError(f"Expected the program {whole[0]!r} to start. Received: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"Expected {name} to end within {seconds:.0f} s. Received: no end, and no answer") from None


# MERGED What LiteRT's `benchmark_model` writes: its log, and the profile of the operators as CSV.

_REGULAR = "Operator-wise Profiling Info for Regular Benchmark Runs"
_INITIAL = "Profiling Info for Benchmark Initialization"
_RUN_ORDER = "Run Order"
_DELEGATE = "Delegate/"
# The columns in the middle; the first and the last are text, in which commas may be. Older versions have no `start`.
_NUMBERS = ("start", "first", "avg_ms", "%", "cdf%", "mem KB", "times called")
_HEADERS = (_NUMBERS, _NUMBERS[1:])
_NUMBER = r"-?(?:[0-9.]+(?:e[+-]?[0-9]+)?|nan|inf)%?"
_STATISTICS = re.compile(r"\bcount=(?P<count>\d+)\s+(?P<rest>\S.*)")
_TIMES = re.compile(
    r"Inference timings in us: Init: (?P<init>[\d.e+]+), First inference: (?P<first>[\d.e+]+), "
    r"Warmup \(avg\): (?P<warm_up>[\d.e+]+), Inference \(avg\): (?P<average>[\d.e+]+)"
)
_MEMORY = re.compile(
    r"Memory footprint delta from the start of the tool \(MB\): init=(?P<init>\S+) overall=(?P<all>\S+)"
)


def parse_kernels(text):
    """Return what the runtime executed in a run, in order, from the text of ``--profiling_output_csv_file``.

    Returns:
        List of ``{"kind", "name", "index", "us": {"median", "mean", "p90", "typical"}}`` as `join.layers` takes them.
        The tool gives means alone: the median and the 90th percentile are None.

    Raises:
        InputError: there is no profile of regular runs in the text, or a line of it is no row of the table.
    """
    rows = _profile_rows(text)
    found = [_parse_kernel(row) for row in rows]
    if not found:
        raise InputError("Expected a profile of benchmark_model as CSV. Received: one without operators")
    # The operator that stands for a delegate holds the time of all its kernels: with both, the kernels say more.
    delegated = any(kernel["kind"] == "delegate" for kernel in found)
    return [each for each, row in zip(found, rows, strict=True) if not (delegated and _is_delegate_operator(row))]


def _profile_rows(text):
    """Return the rows of the tables in order of execution, each as a dictionary by its columns."""
    if _REGULAR not in text:
        raise InputError(f"Expected a profile of benchmark_model as CSV. Received: one without {_REGULAR!r}")
    rows, pattern, inside = [], None, False
    for line in text.split(_REGULAR, 1)[1].split(_INITIAL, 1)[0].splitlines():
        line = line.strip()
        if line.startswith("="):
            inside = _RUN_ORDER in line
        elif not line:
            inside = False
        elif inside and line.startswith("node type"):
            pattern = _row_pattern([word.strip() for word in line.split(",")])
        elif inside:
            match = pattern and pattern.fullmatch(line)
            if not match:
                raise InputError(f"Expected rows of benchmark_model's profile. Received: {line[:200]!r}")
            rows.append(match.groupdict())
    return rows


def _row_pattern(columns):
    """Return the regular expression of a row under the header with these columns."""
    numbers = tuple(columns[1:-1])
    if numbers not in _HEADERS or columns[-1] != "name":
        raise InputError(f"Expected the columns of benchmark_model's profile. Received: {', '.join(columns)[:200]!r}")
    names = {"avg_ms": "average", "times called": "called"}
    middle = "".join(f",\\s*(?P<{names[each]}>{_NUMBER})" if each in names else f",\\s*{_NUMBER}" for each in numbers)
    return re.compile(f"(?P<type>.*?){middle},\\s*(?P<name>.*)")


def _parse_kernel(row):
    us = float(row["average"]) * 1000 * max(1, int(float(row["called"])))
    delegated = row["name"].startswith(_DELEGATE)
    # Commas in names may be tabs; the kernel's own name ends before the index.
    name, _, index = row["name"].removeprefix(_DELEGATE).replace("\t", ",").rpartition(":")
    return {
        "kind": "delegate" if delegated else "operator",
        "name": name if delegated and name else row["type"],
        "index": int(index) if index.isdigit() else -1,
        "us": {"median": None, "mean": us, "p90": None, "typical": us},
    }


def _is_delegate_operator(row):
    return not row["name"].startswith(_DELEGATE) and ("Delegate" in row["type"] or row["type"] == "DELEGATE")


def parse_log(text):
    """Return the statistics of a run of `benchmark_model` from what it printed.

    Returns:
        Dictionary: "runs"; "median_us", "mean_us", "min_us"; "load_us" and "first_us"; "bytes", by how much the tool's
        memory grew, None where it does not say.

    Raises:
        InputError: it printed no statistics, or none with a median (those of versions before that had it).
    """
    statistics = [match for match in map(_STATISTICS.search, text.splitlines()) if match]
    times = _TIMES.search(text)
    if not statistics or not times:
        raise InputError(f"Expected the log of benchmark_model. Received: {_last_line(text)!r}")
    values = {**_parse_values(statistics[-1]["rest"]), "count": int(statistics[-1]["count"])}
    if "median" not in values and values["count"] > 1:
        raise InputError(
            "Expected a benchmark_model that prints the median. Received: a version that prints "
            f"{', '.join(values)}. Use a newer one"
        )
    only = values.get("curr", float(times["average"]))  # all that is printed of one run
    memory = _MEMORY.search(text)
    return {
        "runs": values["count"],
        "median_us": values.get("median", only),
        "mean_us": values.get("avg", only),
        "min_us": values.get("min", only),
        "load_us": float(times["init"]),
        "first_us": float(times["first"]),
        "bytes": round(float(memory["all"]) * 2**20) if memory else None,
    }


def _parse_values(text):
    pairs = (word.partition("=") for word in text.split())
    return {name: float(value) for name, separator, value in pairs if separator and re.fullmatch(_NUMBER, value)}


def _last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing"


# MERGED An Android device: LiteRT's own `benchmark_model` runs the files there, and its figures become an `Answer`.
# MERGED
# MERGED Not run on hardware: see docs/guides/devices.md.

BENCHMARK_TOOL_PATH = "/data/local/tmp/benchmark_model"
_URL = re.compile(r"adb://(?P<serial>[A-Za-z0-9._:-]*)/?")
_DEVICE_FOLDER = "/data/local/tmp"
# Processes for each file: six medians are the least that have an interval of 95 %.
_ROUNDS = 6
_MIN_SECONDS, _PROFILED_SECONDS, _PROFILED_RUNS = 0.2, 1.0, 50
_STARTING_SECONDS = 60
_HOST_COMMANDS = (
    "getprop ro.product.manufacturer", "getprop ro.product.model", "getprop ro.soc.model",
    "getprop ro.build.version.release", "uname -srm", "nproc", "cat /proc/loadavg",
    "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
)  # fmt: skip
_ADB_PROBLEMS = (
    ("unauthorized", "it does not trust this computer. Unlock it and allow USB debugging"),
    ("device offline", "it is offline. Plug it in again, or restart it"),
    ("more than one device", "there are several devices. Give one's serial number: adb://SERIAL, from `adb devices`"),
    ("no devices", "no device is attached. See `adb devices`"),
    ("not found", "no such device is attached. See `adb devices`"),
)


@dataclasses.dataclass(frozen=True)
class AndroidDevice:
    """An Android device that adb reaches.

    Attributes:
        url: ``adb://SERIAL``; without a serial number the only device there is.
        benchmark_model: the tool's path on the device, or of a file here that is sent along.

    Raises:
        InputError: the URL is no such.
    """

    url: str
    benchmark_model: str = BENCHMARK_TOOL_PATH

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
            runs = [_ToolRuns(self, tool, there[model["file"]], model, job, limit) for model in job["models"]]
            for _ in range(_ROUNDS):
                for each in runs:
                    each.round()
            return JobResult(host, tuple(each.result(folder) for each in runs))

    def _host(self):
        """Return what a latency is printed beside, as `keras_nin.tflite.host.describe_host` has it."""
        lines = self.shell("; ".join(f"{fact} 2>/dev/null || echo" for fact in _HOST_COMMANDS)).splitlines()
        maker, model, chip, release, system, cores, load, governor, *_ = [*lines, *[""] * len(_HOST_COMMANDS)]
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
        folder = f"{_DEVICE_FOLDER}/keras-nin-{secrets.token_hex(4)}"
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
        ran = run_tool("adb", [*(["-s", serial] if serial else []), *words], seconds=limit)
        text, errors = (each.decode(errors="replace") for each in (ran.stdout, ran.stderr))
        if ran.returncode:
            self._raise_problem(errors)
        if not check:
            return ran.returncode, text
        if ran.returncode:
            raise self.error(f"adb {words[0]} failed: {_error_line(errors or text)}")
        return text

    def _raise_problem(self, errors):
        for words, meaning in _ADB_PROBLEMS:
            if errors.startswith(("adb: ", "error: ")) and words in errors:
                raise self.error(meaning)

    def error(self, problem):
        """Return the `InputError` for a problem with this device."""
        return InputError(f"Expected an Android device that runs .tflite files. Received: {self.url}: {problem}")


class _ToolRuns:
    """The runs of one model of a job."""

    def __init__(self, phone, tool, path, model, job, limit):
        self._phone, self._model, self._job, self._limit = phone, model, job, limit
        self._command = [tool, f"--graph={path}", f"--num_threads={model['threads']}"]
        if job.get("delegate"):
            self._command.append(f"--external_delegate_path={job['delegate']}")
        self._seconds = max(_MIN_SECONDS, (job.get("seconds") or 0) / _ROUNDS)
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
        self._logs.append(parse_log(self._call(*how_long)))

    def _call(self, *options):
        script = " ".join(shlex.quote(word) for word in (*self._command, *options))
        limit = self._limit or (_STARTING_SECONDS + 4 * self._seconds if self._job.get("runs") is None else None)
        status, text = self._phone.shell(f"{script} 2>&1", check=False, limit=limit)
        if status:
            why = f"killed by signal {status - 128}; is its memory full?" if status > 128 else f"exit status {status}"
            raise InputError(
                f"Expected a file that benchmark_model runs on {self._phone.url}. Received: {self._model['file']!r}: "
                f"{why}: {_error_line(text)}"
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
        found = parse_kernels(self._phone.shell(f"cat {path}"))
        whole = sum(kernel["us"]["typical"] for kernel in found)
        invoke = {"median": None, "mean": whole, "p90": None, "typical": whole}
        return {"runs": parse_log(text)["runs"], "other_runs": 0, "invoke_us": invoke, "kernels": found}


def _error_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line]
    return ([*errors, *lines[-1:]] or ["nothing was printed"])[0][:300]
