"""Where a benchmark runs: here, on an Android device, or on one that ssh reaches, which gets the runner as one file."""

import contextlib
import dataclasses
import io
import pathlib
import re
import shlex
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping

from keras_nin.benchmark.adb import BENCHMARK_TOOL_PATH, DEVICE_TABLE, AndroidDevice, run_tool, tool_command
from keras_nin.benchmark.job import FileRefusedError, Job, JobResult, ModelEntry, NoAnswerError, Progress, RunJob
from keras_nin.benchmark.measurement import SILENCE_SECONDS, run_job
from keras_nin.errors import InputError, expected_error
from keras_nin.files import read_bytes

DEVICE_URLS = ("ssh://[user@]host[:port]", "adb://SERIAL")


def open_device(url: str | None = None, python: str = "python3", benchmark_model: str | None = None) -> RunJob:
    """Return the function that runs jobs on a device and leaves nothing there, for the `run` of `measure_files`.

    Args:
        url: ``ssh://[user@]host[:port]`` or ``adb://SERIAL``, else `InputError`; None for this machine.
        python: the interpreter on an ssh device.
        benchmark_model: LiteRT's tool for an Android device, its path there or here; None takes `BENCHMARK_TOOL_PATH`.
    """
    if url is None:
        return run_job
    if url.startswith("ssh://"):
        return SshDevice(url, python).run
    if url.startswith("adb://"):
        return AndroidDevice(url, benchmark_model or BENCHMARK_TOOL_PATH).run
    raise expected_error("device", f"as {' or '.join(DEVICE_URLS)}", url)


# The runner as one file.

RUNNER_NAME = "runner.pyz"
MIN_PYTHON = (3, 10)  # for the syntax of the runner, and for ai-edge-litert 2.3
REQUIRED_PACKAGES = {"numpy": "numpy", "ai_edge_litert": "ai-edge-litert"}
_PACKAGE = pathlib.Path(__file__).parents[1]
# The packages are there for the runner's absolute imports; their own modules stay here.
_EMPTY_MODULES = ("keras_nin/__init__.py", "keras_nin/benchmark/__init__.py", "keras_nin/tflite/__init__.py")
_SHIPPED_FILES = ("benchmark/runner/*.py", "benchmark/runner/*.json", "child_runtime.py", "tflite/host.py")
_ARCHIVE_DATE = (1980, 1, 1, 0, 0, 0)


def build_runner_archive() -> bytes:
    """Return a zip file that `python3` runs as `runner.main`; equal sources give equal bytes."""
    contents = {"__main__.py": DEVICE_TABLE["runner"]["main"].encode()} | dict.fromkeys(_EMPTY_MODULES, b"")
    for pattern in _SHIPPED_FILES:
        for path in sorted(_PACKAGE.glob(pattern)):
            contents[f"keras_nin/{path.relative_to(_PACKAGE).as_posix()}"] = path.read_bytes()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in contents.items():
            file.writestr(zipfile.ZipInfo(name, _ARCHIVE_DATE), data, zipfile.ZIP_DEFLATED)
    return archive.getvalue()


# Devices that ssh reaches.

_URL = re.compile(
    r"ssh://(?:(?P<user>[^@/:\s-][^@/:\s]*)@)?(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^@/:\s\[-][^@/:\s]*)(?::(?P<port>\d+))?/?"
)
_CONNECT_SECONDS = 20
_SENDING_SECONDS = 600
_SSH_FAILED = 255  # exit status of ssh itself where there is no connection
_CONNECTION_LOST = "the connection was lost"
_STATUSES = {"no_python": 91, "old_python": 92, "missing": 93, "no_room": 94}
_FOLDER_MARK = "keras-nin-folder:"


@dataclasses.dataclass(frozen=True)
class SshDevice:
    """A machine that the user's own ssh configuration reaches without a question, as ``ssh://[user@]host[:port]``.

    `python` is the interpreter there; a path that is relative, or starts with ~/, starts at the home folder. Every job
    makes a temporary folder there and removes it, also when the connection is lost.
    """

    url: str
    python: str = "python3"

    def __post_init__(self) -> None:
        self._ssh_arguments("", "")

    def run(self, job: Job, *, silence: float = SILENCE_SECONDS, progress: Progress | None = None) -> JobResult:
        """Return the result of a job; arguments as in `keras_nin.benchmark.measurement.run_job`."""
        paths = dict.fromkeys(entry["file"] for entry in job["models"])
        names = {path: f"{index}.tflite" for index, path in enumerate(paths)}
        with tempfile.TemporaryDirectory(prefix="keras-nin-ssh-") as local, self._folder(names, local) as folder:
            entries: list[ModelEntry] = [
                {**entry, "file": f"{folder}/{names[entry['file']]}", "name": entry.get("name", entry["file"])}
                for entry in job["models"]
            ]
            log = f"{local}/run"
            script = self._script("run", folder=shlex.quote(folder), runner=RUNNER_NAME)
            command = [*tool_command("ssh"), *self._ssh_arguments(script, log)]
            try:
                return run_job({**job, "models": entries}, command=command, silence=silence, progress=progress)
            except (NoAnswerError, FileRefusedError) as error:
                if error.status == _SSH_FAILED:
                    raise self._connection_error(log) or self._error(_CONNECTION_LOST) from error
                if isinstance(error, NoAnswerError):
                    raise self._error(f"the runner did not start: {_last_line(error.log)}") from error
                raise

    def _script(self, name: str, **values: object) -> str:
        """Return a shell script of the table of devices; it starts in the home folder there."""
        import jinja2

        python = f"./{self.python[2:]}" if self.python.startswith("~/") else self.python
        return jinja2.Template(DEVICE_TABLE["scripts"][name]).render(python=shlex.quote(python), **values)

    @contextlib.contextmanager
    def _folder(self, names: Mapping[str, str], local: str) -> Iterator[str]:
        """Yield the path of a folder there with the runner and the files; the script of the runner removes it."""
        folder = self._send(names, f"{local}/send")
        try:
            yield folder
        except BaseException:  # the script may not have started
            with contextlib.suppress(InputError):
                arguments = self._ssh_arguments(f"rm -rf {shlex.quote(folder)}", f"{local}/remove")
                run_tool("ssh", arguments, timeout=_CONNECT_SECONDS)
            raise

    def _ssh_arguments(self, script: str, log: str) -> list[str]:
        """Return the arguments of ssh that run a shell script there, and send messages of ssh itself to a log."""
        parts = _URL.fullmatch(self.url)
        if parts is None:
            raise expected_error("device", f"as {DEVICE_URLS[0]}", self.url)
        arguments = ["-T", "-E", log, "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"]
        arguments += ["-p", parts["port"]] if parts["port"] else []
        arguments += ["-l", parts["user"]] if parts["user"] else []
        # The login shell may be another one; all of them pass a word in single quotes on as it is.
        return [*arguments, "--", parts["host"].strip("[]"), f"sh -c {shlex.quote(script)}"]

    def _send(self, names: Mapping[str, str], log: str) -> str:
        """Check the device, make a folder there with the runner and the files, and return its path."""
        check = self._script("check", minimum=MIN_PYTHON, packages=list(REQUIRED_PACKAGES), **_STATUSES)
        script = self._script("send", check=shlex.quote(check), mark=_FOLDER_MARK, **_STATUSES)
        arguments = self._ssh_arguments(script, log)
        result = run_tool("ssh", arguments, stdin=_pack_files(names), timeout=_SENDING_SECONDS)
        if result.status == _SSH_FAILED:
            reason = _last_line(_read_text(log)) or "it printed nothing"
            raise self._connection_error(log) or self._error(f"ssh ended: {reason}")
        lines = [line for line in result.stdout.splitlines() if line.strip()]
        folder = next((line.removeprefix(_FOLDER_MARK) for line in lines if line.startswith(_FOLDER_MARK)), None)
        if result.status == 0 and folder:
            return folder
        last = lines[-1] if lines else "Python"
        problem = next((name for name, status in _STATUSES.items() if status == result.status), "other")
        values = {
            "python": self.python,
            "minimum": ".".join(map(str, MIN_PYTHON)),
            "last": last,
            "missing": ", ".join(last.split()),
            "packages": " ".join(sorted(REQUIRED_PACKAGES.values())),
            "reason": " ".join(result.stderr.split())[-300:] or f"exit status {result.status}",
        }
        raise self._error(DEVICE_TABLE["problems"][problem].format(**values))

    def _connection_error(self, log: str) -> InputError | None:
        """Return the problem of the connection that ssh wrote to its log, or None."""
        text = _read_text(log)
        return next((self._error(meaning) for words, meaning in DEVICE_TABLE["ssh"].items() if words in text), None)

    def _error(self, problem: str) -> InputError:
        message = f"Expected a device that runs .tflite files. Received: {self.url}: {problem}"
        return InputError(message, argument="device")


def _pack_files(names: Mapping[str, str]) -> bytes:
    """Return a tar file with the runner and the files, by their paths here and names there."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        contents = {RUNNER_NAME: build_runner_archive()} | {name: read_bytes(path) for path, name in names.items()}
        for name, data in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def _last_line(text: str) -> str:
    return "".join(text.splitlines()[-1:]).strip()


def _read_text(path: str) -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    return ""
