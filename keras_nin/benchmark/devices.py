"""Where a benchmark runs: on this machine, on a device that ssh reaches, or on an Android device.

An ssh device needs nothing of keras-nin: it gets the files and the runner, packed into one file, in a temporary folder.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import shlex
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping

from keras_nin.benchmark.adb import BENCHMARK_TOOL_PATH, AndroidDevice, run_tool, tool_command
from keras_nin.benchmark.job import FileRefusedError, Job, JobResult, ModelEntry, NoAnswerError, Progress, RunJob
from keras_nin.benchmark.measurement import SILENCE_SECONDS, run_job
from keras_nin.errors import InputError
from keras_nin.files import read_bytes

DEVICE_URLS = ("ssh://[user@]host[:port]", "adb://SERIAL")


def open_device(url: str | None = None, python: str = "python3", benchmark_model: str | None = None) -> RunJob:
    """Return the function that runs jobs on a device, for the `run` of `measure_files` and others.

    Every job leaves nothing on the device: there is nothing to close.

    Args:
        url: ``ssh://[user@]host[:port]`` or ``adb://SERIAL``; None for this machine.
        python: the interpreter on an ssh device.
        benchmark_model: LiteRT's tool for an Android device, its path there or here; None takes `BENCHMARK_TOOL_PATH`.

    Raises:
        InputError: another URL.
    """
    if url is None:
        return run_job
    if url.startswith("ssh://"):
        return SshDevice(url, python).run
    if url.startswith("adb://"):
        return AndroidDevice(url, benchmark_model or BENCHMARK_TOOL_PATH).run
    raise InputError(
        f"Expected `device` as {' or '.join(DEVICE_URLS)}. Received: {url!r}", argument="device", received=url
    )


# The runner as one file.

RUNNER_NAME = "runner.pyz"
MIN_PYTHON = (3, 10)  # for the syntax of the runner, and for ai-edge-litert 2.3
REQUIRED_PACKAGES = {"numpy": "numpy", "ai_edge_litert": "ai-edge-litert"}
_PACKAGE = pathlib.Path(__file__).parents[1]
# The packages are there for the runner's absolute imports; their own modules stay here.
_EMPTY_MODULES = ("keras_nin/__init__.py", "keras_nin/benchmark/__init__.py", "keras_nin/tflite/__init__.py")
_SHIPPED_MODULES = ("benchmark/runner/*.py", "child_runtime.py", "tflite/host.py")
_ARCHIVE_DATE = (1980, 1, 1, 0, 0, 0)
# stdin ends with the job: the other end of stdout is what tells that nobody listens any more.
_ARCHIVE_MAIN = '''"""Run a job of keras_nin.benchmark.runner, and end when nobody reads the answer any more."""

import os
import select
import signal
import sys
import threading


def _end_with_the_reader(stream):
    gone = select.poll()
    gone.register(stream, 0)  # no event asked for: errors and a hang-up are always reported
    gone.poll()
    os.kill(os.getpid(), signal.SIGKILL)


threading.Thread(target=_end_with_the_reader, args=[os.dup(1)], daemon=True).start()
try:
    from keras_nin.benchmark.runner.main import main
except (ImportError, OSError) as error:
    sys.exit(f"ERROR: {type(error).__name__}: {error}")
sys.exit(main())
'''


def build_runner_archive() -> bytes:
    """Return the bytes of a zip file that Python runs: `python3 runner.pyz` runs a job like `runner.main`.

    It needs Python `MIN_PYTHON` with NumPy and ai_edge_litert on a POSIX system. Equal sources give equal bytes.
    """
    contents = {"__main__.py": _ARCHIVE_MAIN.encode()} | dict.fromkeys(_EMPTY_MODULES, b"")
    for pattern in _SHIPPED_MODULES:
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
_NO_PYTHON, _OLD_PYTHON, _MISSING, _NO_ROOM = 91, 92, 93, 94
_FOLDER_MARK = "keras-nin-folder:"
# Answers with the first thing that is missing; runs on any Python, from 2.7 on.
_CHECK = (
    "import sys; v = sys.version_info; print('Python %d.%d.%d' % tuple(v[:3])); "
    f"v[:2] >= {MIN_PYTHON} or sys.exit({_OLD_PYTHON}); from importlib.util import find_spec; "
    f"gone = [name for name in {tuple(REQUIRED_PACKAGES)} if not find_spec(name)]; print(' '.join(gone)); "
    f"sys.exit({_MISSING} if gone else 0)"
)
# What ssh says, in the order in which it is looked for, and what that means.
_CONNECTION_LOST = "the connection was lost"
_SSH_PROBLEMS = {
    "Could not resolve hostname": "unknown host. Check the name, or the Host lines of the ssh configuration",
    "Connection refused": "the connection was refused. Check the port, and that an ssh server runs there",
    "IDENTIFICATION HAS CHANGED": "its host key has changed. See `ssh-keygen -R`",
    "Host key verification failed": "its host key is unknown. Connect once with ssh by hand and accept the key",
    "Permission denied": "permission denied (publickey). Set up a key that ssh uses without asking (ssh-copy-id, "
    "ssh-agent)",
    "timed out": "no answer came in time",
    "No route to host": "there is no route to it in the network",
    "Network is unreachable": "there is no route to it in the network",
    **dict.fromkeys(
        ("Connection closed", "closed by remote host", "Connection reset", "Broken pipe", "not responding"),
        _CONNECTION_LOST,
    ),
}


@dataclasses.dataclass(frozen=True)
class SshDevice:
    """A machine that the user's own ssh configuration reaches without a question.

    Every job makes a temporary folder there and removes it, also when the connection is lost.

    Attributes:
        url: ``ssh://[user@]host[:port]``; names of the ssh configuration serve as host.
        python: the interpreter there; a path that is relative, or starts with ~/, starts at the home folder.

    Raises:
        InputError: another form of URL.
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
            log = os.path.join(local, "run")
            command = [*tool_command("ssh"), *self._ssh_arguments(_run_script(self._remote_python, folder), log)]
            try:
                return run_job({**job, "models": entries}, command=command, silence=silence, progress=progress)
            except (NoAnswerError, FileRefusedError) as error:
                if error.status == _SSH_FAILED:
                    raise self._connection_error(log) or self._error(_CONNECTION_LOST) from error
                if isinstance(error, NoAnswerError):
                    raise self._error(f"the runner did not start: {_last_line(error.log)}") from error
                raise

    @property
    def _remote_python(self) -> str:
        """The interpreter for the shell there, which starts in the home folder."""
        return f"./{self.python[2:]}" if self.python.startswith("~/") else self.python

    @contextlib.contextmanager
    def _folder(self, names: Mapping[str, str], local: str) -> Iterator[str]:
        """Yield the path of a folder there with the runner and the files; the script of the runner removes it."""
        folder = self._send(names, os.path.join(local, "send"))
        try:
            yield folder
        except BaseException:  # the script may not have started
            with contextlib.suppress(InputError):
                arguments = self._ssh_arguments(f"rm -rf {shlex.quote(folder)}", os.path.join(local, "remove"))
                run_tool("ssh", arguments, timeout=_CONNECT_SECONDS)
            raise

    def _ssh_arguments(self, script: str, log: str) -> list[str]:
        """Return the arguments of ssh that run a shell script there, and send messages of ssh itself to a log."""
        parts = _URL.fullmatch(self.url)
        if parts is None:
            raise InputError(
                f"Expected `device` as {DEVICE_URLS[0]}. Received: {self.url!r}", argument="device", received=self.url
            )
        arguments = ["-T", "-E", log, "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"]
        arguments += ["-p", parts["port"]] if parts["port"] else []
        arguments += ["-l", parts["user"]] if parts["user"] else []
        # The login shell may be another one; all of them pass a word in single quotes on as it is.
        return [*arguments, "--", parts["host"].strip("[]"), f"sh -c {shlex.quote(script)}"]

    def _send(self, names: Mapping[str, str], log: str) -> str:
        """Check the device, make a folder there with the runner and the files, and return its path."""
        arguments = self._ssh_arguments(_send_script(self._remote_python), log)
        result = run_tool("ssh", arguments, stdin=_pack_files(names), timeout=_SENDING_SECONDS)
        if result.status == _SSH_FAILED:
            raise self._connection_error(log) or self._error(
                f"ssh ended: {_last_line(_read_text(log)) or 'it printed nothing'}"
            )
        lines = [line for line in result.stdout.splitlines() if line.strip()]
        folder = next((line[len(_FOLDER_MARK) :] for line in lines if line.startswith(_FOLDER_MARK)), None)
        if result.status == 0 and folder:
            return folder
        raise self._error(self._what_is_missing(result.status, lines, result.stderr))

    def _what_is_missing(self, status: int | None, lines: list[str], errors: str) -> str:
        install = f"{self.python} -m pip install {' '.join(sorted(REQUIRED_PACKAGES.values()))}"
        minimum = ".".join(map(str, MIN_PYTHON))
        last = lines[-1] if lines else ""
        if status == _NO_PYTHON:
            return f"it has no {self.python}. Install Python {minimum} or later there, or set `python`"
        if status == _OLD_PYTHON:
            return f"its {last or 'Python'} is too old. Set `python` to Python {minimum} or later"
        if status == _MISSING:
            return f"its {self.python} lacks {', '.join(last.split())}. Run there: {install}"
        reason = " ".join(errors.split())[-300:] or f"exit status {status}"
        if status == _NO_ROOM:
            return f"the files cannot be written to its temporary folder: {reason}"
        return f"the check of the device failed: {reason}"

    def _connection_error(self, log: str) -> InputError | None:
        """Return the problem of the connection that ssh wrote to its log, or None."""
        text = _read_text(log)
        return next((self._error(meaning) for words, meaning in _SSH_PROBLEMS.items() if words in text), None)

    def _error(self, problem: str) -> InputError:
        return InputError(
            f"Expected a device that runs .tflite files. Received: {self.url}: {problem}", argument="device"
        )


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


def _send_script(python: str) -> str:
    """Return the script that checks the device, unpacks its stdin to a new folder and prints its path."""
    python = shlex.quote(python)
    return (
        f"command -v {python} >/dev/null || exit {_NO_PYTHON}; "
        f"{python} -c {shlex.quote(_CHECK)} </dev/null || exit $?; "
        f'd=$(mktemp -d "${{TMPDIR:-/tmp}}/keras-nin.XXXXXXXX") || exit {_NO_ROOM}; '
        f'tar -xf - -C "$d" || {{ rm -rf "$d"; exit {_NO_ROOM}; }}; echo "{_FOLDER_MARK}$d"'
    )


def _run_script(python: str, folder: str) -> str:
    """Return the script that runs the runner and removes its folder, whatever happens to it or to the connection."""
    folder = shlex.quote(folder)
    return (
        f"trap '' HUP PIPE; {shlex.quote(python)} {folder}/{RUNNER_NAME}; s=$?; rm -rf {folder}; "
        '[ $s -le 128 ] || echo "ERROR: the device killed it with signal $((s - 128)); is its memory full?" >&2; '
        "exit $s"
    )


def _last_line(text: str) -> str:
    lines = text.splitlines()
    return lines[-1].strip() if lines else ""


def _read_text(path: str) -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    return ""
