"""Where a benchmark runs: here, on an Android device, or on one that ssh reaches, which gets the runner as one file."""

import base64
import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import re
import shlex
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from keras_nin.benchmark.adb import BENCHMARK_TOOL_PATH, DEVICE_TABLE, AndroidDevice, run_tool, tool_command
from keras_nin.benchmark.job import FileRefusedError, Job, JobResult, ModelEntry, NoAnswerError, Progress, RunJob
from keras_nin.benchmark.measurement import SILENCE_SECONDS, run_job
from keras_nin.child_process import JsonProcess, describe_status
from keras_nin.errors import InputError, expected_error, suggest_names
from keras_nin.files import read_bytes
from keras_nin.formatting import format_value
from keras_nin.tflite.isolated import IsolatedRunner
from keras_nin.tflite.records import TFLiteModel

DEVICE_URLS = ("ssh://[user@]host[:port]", "adb://SERIAL")
_MAX_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class NamedDevice:
    """A device: its URL, the interpreter there, and for Android LiteRT's tool; None takes the defaults."""

    url: str
    python: str | None = None
    benchmark_model: str | None = None


def named_devices_path() -> pathlib.Path:
    """Return the path of the user's devices: KERAS_NIN_DEVICES, else devices.toml in the folder of configurations."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return pathlib.Path(os.environ.get("KERAS_NIN_DEVICES") or f"{config}/keras-nin/devices.toml")


def read_named_devices() -> dict[str, NamedDevice]:
    """Return the user's devices by their names: tables of a TOML file with `url`, `python` and `benchmark_model`.

    Raises:
        InputError: the file is no TOML, or a table has another key, no URL, or a value that is no text.
    """
    path = named_devices_path()
    if not path.exists():
        return {}
    try:
        tables = tomllib.loads(read_bytes(path, _MAX_BYTES).decode())
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"Expected a TOML file. Received: {str(path)!r}: {error}", path=path) from None
    known = {field.name for field in dataclasses.fields(NamedDevice)}
    for name, table in tables.items():
        if (
            not isinstance(table, dict)
            or not table.keys() <= known
            or not all(isinstance(v, str) for v in table.values())
        ):
            received = f"{format_value(table)} as {name!r} in {str(path)!r}"
            raise InputError(f"Expected a table of texts {', '.join(sorted(known))}. Received: {received}", path=path)
        if "://" not in table.get("url", "") or "://" in name:
            raise InputError(f"Expected a `url` of the device {name!r} in {str(path)!r}. Received: none", path=path)
    return {name: NamedDevice(**table) for name, table in tables.items()}


def find_named_device(device: str, python: str | None = None, benchmark_model: str | None = None) -> NamedDevice:
    """Return the device of a URL, or of a name that the user's file has; other arguments replace what that says.

    Raises:
        InputError: an unknown name, or a file that cannot be read.
    """
    if "://" in device:
        return NamedDevice(device, python, benchmark_model)
    devices = read_named_devices()
    if device not in devices:
        expected = f"as {', '.join(DEVICE_URLS)}, qemu://CPU, or a name in {str(named_devices_path())!r}"
        hint = suggest_names(device, devices) if devices else "There are no names"
        message = f"Expected `device` {expected}. Received: {format_value(device)}. {hint}"
        raise InputError(message, argument="device", received=device)
    found = devices[device]
    return NamedDevice(found.url, python or found.python, benchmark_model or found.benchmark_model)


def open_device(url: str | None = None, python: str | None = None, benchmark_model: str | None = None) -> RunJob:
    """Return the function that runs jobs on a device, for the `run` of `measure_files`.

    Args:
        url: ``ssh://[user@]host[:port]``, ``adb://SERIAL`` or a name of the user's file, else `InputError`; None for
            this machine.
        python: the interpreter on an ssh device; None takes python3.
        benchmark_model: LiteRT's tool for an Android device, its path there or here; None takes `BENCHMARK_TOOL_PATH`.
    """
    if url is None:
        return run_job
    device = find_named_device(url, python, benchmark_model)
    if device.url.startswith("ssh://"):
        return SshDevice(device.url, device.python or "python3").run
    if device.url.startswith("adb://"):
        return AndroidDevice(device.url, device.benchmark_model or BENCHMARK_TOOL_PATH).run
    if device.url.startswith("qemu://"):
        message = f"No latency is measured on an emulated CPU, whose time says nothing. Received: {device.url}"
        raise InputError(message, argument="device")
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

# Names without what a shell reads, because the user's configuration of ssh may pass them on to one (ProxyCommand).
_WORD = r"(?![\[-])[^@/:\s\x00-\x1f\x7f'\"`$;&<>|(){}]+"
_URL = re.compile(rf"ssh://(?:(?P<user>{_WORD})@)?(?P<host>\[[0-9A-Fa-f:.%\w]+\]|{_WORD})(?::(?P<port>\d+))?/?")
_CONNECT_SECONDS = 20
_SENDING_SECONDS = 600
_SSH_FAILED = 255  # exit status of ssh itself where there is no connection
_CONNECTION_LOST = "the connection was lost"
_STATUSES = {"no_python": 91, "old_python": 92, "missing": 93, "no_room": 94, "broken": 95}
_FOLDER_MARK, _MISSING_MARK = "keras-nin-folder:", "keras-nin-missing:"
_KEPT_DAYS = 30


@dataclasses.dataclass(frozen=True)
class SshDevice:
    """A machine that the user's own ssh configuration reaches without a question, as ``ssh://[user@]host[:port]``.

    `python` is the interpreter there; a path that is relative, or starts with ~/, starts at the home folder. Files are
    sent once and kept there under their SHA-256, until nothing has used them for 30 days.
    """

    url: str
    python: str = "python3"

    def __post_init__(self) -> None:
        self._ssh_arguments("", "")

    @property
    def silence(self) -> float:
        """The longest that a run takes without a sign, in seconds."""
        return SILENCE_SECONDS

    @property
    def host_facts(self) -> dict[str, Any]:
        """What the machine does not know of itself: nothing."""
        return {}

    def run(self, job: Job, *, silence: float = SILENCE_SECONDS, progress: Progress | None = None) -> JobResult:
        """Return the result of a job; arguments as in `keras_nin.benchmark.measurement.run_job`."""
        contents = {entry["file"]: read_bytes(entry["file"]) for entry in job["models"]}
        with tempfile.TemporaryDirectory(prefix="keras-nin-ssh-") as local:
            paths = self.store(dict.fromkeys(contents.values(), ".tflite"), local)
            entries: list[ModelEntry] = [
                {**entry, "file": paths[contents[entry["file"]]], "name": entry.get("name", entry["file"])}
                for entry in job["models"]
            ]
            command = self.runner_command(paths, local)
            try:
                return run_job({**job, "models": entries}, command=command, silence=silence, progress=progress)
            except (NoAnswerError, FileRefusedError) as error:
                problem = self.connection_error(error.status, getattr(error, "log", None), local)
                if problem is None:
                    raise
                raise problem from error

    def store(self, contents: Mapping[bytes, str], local: str) -> dict[bytes, str]:
        """Send the runner, and what is missing there of some contents; return their paths there.

        Args:
            contents: bytes, and the suffix of their file there.
            local: a folder here for the log of ssh.
        """
        contents = {build_runner_archive(): f".{RUNNER_NAME}", **contents}
        names = {content: f"{hashlib.sha256(content).hexdigest()}{suffix}" for content, suffix in contents.items()}
        check = self._script("check", minimum=MIN_PYTHON, packages=list(REQUIRED_PACKAGES), **_STATUSES)
        marks = {"folder_mark": _FOLDER_MARK, "missing_mark": _MISSING_MARK, "days": _KEPT_DAYS}
        script = self._script("prepare", check=shlex.quote(check), names=list(names.values()), **marks, **_STATUSES)
        lines = self._run_script(script, None, f"{local}/prepare")
        folders = [line.removeprefix(_FOLDER_MARK) for line in lines if line.startswith(_FOLDER_MARK)]
        if not folders:
            raise self.error("it did not answer: does its login shell print or end?")
        sent = {name: content for content, name in names.items() if f"{_MISSING_MARK}{name}" in lines}
        if sent:
            verify, folder = self._script("verify", **_STATUSES), shlex.quote(folders[0])
            values = {"verify": shlex.quote(verify), "folder": folder, "names": list(sent)}
            self._run_script(self._script("receive", **values, **_STATUSES), _pack_files(sent), f"{local}/receive")
        return {content: f"{folders[0]}/{name}" for content, name in names.items()}

    def runner_command(self, paths: Mapping[bytes, str], local: str) -> list[str]:
        """Return the command that runs the runner there, after `store` returned `paths`."""
        folder, _, runner = paths[build_runner_archive()].rpartition("/")
        script = self._script("run", folder=shlex.quote(folder), runner=runner)
        return [*tool_command("ssh"), *self._ssh_arguments(script, f"{local}/run")]

    def connection_error(self, status: int | None, log: str | None, local: str) -> InputError | None:
        """Return why the runner ended, where it is the connection or, before it answered (`log`), its start."""
        if status == _SSH_FAILED:
            return self._connection_error(f"{local}/run") or self.error(_CONNECTION_LOST)
        return None if log is None else self.error(f"the runner did not start: {last_line(log)}")

    def _script(self, name: str, **values: object) -> str:
        """Return a shell script of the table of devices; it starts in the home folder there."""
        import jinja2

        python = f"./{self.python[2:]}" if self.python.startswith("~/") else self.python
        return jinja2.Template(DEVICE_TABLE["scripts"][name]).render(python=shlex.quote(python), **values)

    def _ssh_arguments(self, script: str, log: str) -> list[str]:
        """Return the arguments of ssh that run a shell script there, and send messages of ssh itself to a log."""
        parts = _URL.fullmatch(self.url)
        if parts is None:
            raise expected_error("device", f"as {DEVICE_URLS[0]}", self.url)
        arguments = ["-T", "-E", log, "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"]
        arguments += ["-o", f"ServerAliveInterval={_CONNECT_SECONDS}"]  # or a dead device is waited for
        arguments += ["-p", parts["port"]] if parts["port"] else []
        arguments += ["-l", parts["user"]] if parts["user"] else []
        # The login shell may be another one; all of them pass a word in single quotes on as it is.
        return [*arguments, "--", parts["host"].strip("[]"), f"sh -c {shlex.quote(script)}"]

    def _run_script(self, script: str, stdin: bytes | None, log: str) -> list[str]:
        """Run a script that checks the device or receives files, and return the lines that it printed."""
        result = run_tool("ssh", self._ssh_arguments(script, log), stdin=stdin, timeout=_SENDING_SECONDS)
        if result.status == _SSH_FAILED:
            reason = last_line(_read_text(log)) or "it printed nothing"
            raise self._connection_error(log) or self.error(f"ssh ended: {reason}")
        lines = [line for line in result.stdout.splitlines() if line.strip()]
        if result.status == 0:
            return lines
        last = lines[-1] if lines else "Python"
        problem = next((name for name, status in _STATUSES.items() if status == result.status), "other")
        home = "~/" if self.python.startswith("~/") else ""
        values = {
            "python": home + shlex.quote(self.python.removeprefix(home)),
            "minimum": ".".join(map(str, MIN_PYTHON)),
            "last": last,
            "missing": ", ".join(last.split()),
            "packages": " ".join(sorted(REQUIRED_PACKAGES.values())),
            "reason": " ".join(result.stderr.split())[-300:] or f"exit status {result.status}",
        }
        raise self.error(DEVICE_TABLE["problems"][problem].format(**values))

    def _connection_error(self, log: str) -> InputError | None:
        """Return the problem of the connection that ssh wrote to its log, or None."""
        text = _read_text(log)
        return next((self.error(meaning) for words, meaning in DEVICE_TABLE["ssh"].items() if words in text), None)

    def error(self, problem: str) -> InputError:
        """Return the error of a device that cannot be used."""
        message = f"Expected a device that runs .tflite files. Received: {self.url}: {problem}"
        return InputError(message, argument="device")


class RunnerDevice(Protocol):
    """Where the runner can be started, as on an `SshDevice`."""

    @property
    def url(self) -> str:
        """What messages call it."""
        ...

    @property
    def silence(self) -> float:
        """The longest that a run takes without a sign, in seconds."""
        ...

    @property
    def host_facts(self) -> Mapping[str, Any]:
        """What the machine does not know of itself."""
        ...

    def store(self, contents: Mapping[bytes, str], local: str) -> dict[bytes, str]:
        """Bring the runner and some contents there; return their paths."""
        ...

    def runner_command(self, paths: Mapping[bytes, str], local: str) -> list[str]:
        """Return the command that runs the runner there."""
        ...

    def connection_error(self, status: int | None, log: str | None, local: str) -> InputError | None:
        """Return why the runner ended, where it is not the file."""
        ...

    def error(self, problem: str) -> InputError:
        """Return the error of a device that cannot be used."""
        ...


@dataclasses.dataclass(frozen=True)
class RunValues:
    """What runs of a file gave: of each requested tensor the values, stacked, or the SHA-256 of those of each run."""

    outputs: list[np.ndarray]
    digests: list[list[str]]


class DeviceSession(contextlib.AbstractContextManager["DeviceSession"]):
    """A process on a device that runs files on arrays, which are sent once and kept there like files.

    `host` describes the device, `seconds` is the time that all runs took there so far.
    """

    def __init__(self, device: RunnerDevice) -> None:
        self.device = device
        self.host: dict[str, Any] = {}
        self.seconds = 0.0
        self._paths: dict[bytes, str] = {}

    def __enter__(self) -> "DeviceSession":
        with contextlib.ExitStack() as stack:
            self._local = stack.enter_context(tempfile.TemporaryDirectory(prefix="keras-nin-ssh-"))
            self._paths = self.device.store({}, self._local)
            command = self.device.runner_command(self._paths, self._local)
            folder = next(iter(self._paths.values())).rpartition("/")[0]
            job: Job = {"models": [], "arrays": folder}
            self._process = stack.enter_context(JsonProcess(command, job=job, keeps_stdin=True))
            self._documents = self._process.documents(self.device.silence)
            self.host = {**self._receive("the runner")["host"], **self.device.host_facts}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def runner_class(self) -> type[IsolatedRunner]:
        """Return an `IsolatedRunner` that reads files here and runs them there."""
        session = self

        class DeviceRunner(IsolatedRunner):
            def run_all(self, batches: Sequence[Sequence[np.ndarray]]) -> Iterator[list[np.ndarray]]:
                return session.run(self.model, self.threads, batches)

        return DeviceRunner

    @property
    def has_ended(self) -> bool:
        """Whether the process ended or gave no answer in time, so that nothing more runs in it."""
        return self._process.status is not None or self._process.timed_out

    def run(
        self, model: TFLiteModel, threads: int, batches: Sequence[Sequence[np.ndarray]]
    ) -> Iterator[list[np.ndarray]]:
        """Yield the outputs of each run of a file, in its own types; a batch has an array for each input.

        Raises:
            InputError: the file does not run there, or the device does not answer.
        """
        if batches:
            yield from map(list, zip(*self.compute(model, batches, threads=threads).outputs, strict=True))

    def compute(
        self,
        model: TFLiteModel,
        batches: Sequence[Sequence[np.ndarray]],
        *,
        threads: int = 1,
        kernels: str = "xnnpack",
        outputs: Sequence[int] | None = None,
        digests: Sequence[int] = (),
    ) -> RunValues:
        """Run a file on batches, at least one, and return what tensors of its main subgraph hold.

        Args:
            model, threads: the file, and the threads of the runtime.
            batches: an array for each input.
            kernels: one of `keras_nin.benchmark.runner.arrays.RESOLVERS`.
            outputs: the tensors whose values are returned; None for the outputs of the file.
            digests: those of which hashes are returned; under "xnnpack", outputs of the file.

        Raises:
            InputError: as `run`.
        """
        if model.content not in self._paths:
            self._paths |= self.device.store({model.content: ".tflite"}, self._local)
        arrays = {}
        inputs = []
        for tensor, parts in zip(model.main.inputs, zip(*batches, strict=True), strict=True):
            stacked = np.stack(parts)
            data = stacked.tobytes()
            name = hashlib.sha256(data).hexdigest()
            arrays[name] = data
            facts = {"shape": stacked.shape[1:], "dtype": stacked.dtype.name, "runs": len(batches), "sha256": name}
            inputs.append({"tensor": tensor, **facts})
        request = {"file": self._paths[model.content], "threads": threads, "inputs": inputs, "kernels": kernels}
        request["outputs"] = list(model.main.outputs if outputs is None else outputs)
        request["digests"] = list(digests)
        answer = self._ask(request, model.source)
        if "missing" in answer:
            self._ask(
                {"put": {name: base64.b64encode(arrays[name]).decode() for name in answer["missing"]}}, model.source
            )
            answer = self._ask(request, model.source)
        self.seconds += answer["seconds"]
        received = [
            np.frombuffer(base64.b64decode(output["data"]), output["dtype"]).reshape(output["shape"])
            for output in answer["outputs"]
        ]
        return RunValues(received, answer["digests"])

    def _ask(self, request: dict[str, Any], source: str) -> dict[str, Any]:
        self._process.send(request)
        return self._receive(source)

    def _receive(self, source: str) -> dict[str, Any]:
        """Return the next answer about a file."""
        for document in self._documents:
            if "error" in document:
                message, kind = document["error"]["message"], document["error"]["kind"]
                raise self.device.error(message) if kind == "transfer" else self._refused(source, message)
            if "progress" not in document:
                return document
        status, log = self._process.status, self._process.stderr
        problem = f"no answer for {self.device.silence:g} s" if status is None else describe_status(status)
        raise self.device.connection_error(status, None if self.host else log, self._local) or self._refused(
            source, f"{problem} ({last_line(log)})" if log else problem
        )

    def _refused(self, source: str, problem: str) -> InputError:
        message = f"Expected a file that the LiteRT runtime runs. Received: {source} on {self.device.url}: {problem}"
        return InputError(message)


def _pack_files(contents: Mapping[str, bytes]) -> bytes:
    """Return a tar file of some files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def last_line(text: str) -> str:
    """Return the last line of a text, without spaces around it."""
    return "".join(text.splitlines()[-1:]).strip()


def _read_text(path: str) -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    return ""
