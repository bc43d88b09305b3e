"""The runner as one file: a zip that Python runs, for devices that have nothing of keras-nin."""

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

from keras_nin.benchmark import adb, measurement
from keras_nin.errors import InputError
from keras_nin.files import read_bytes

_PACKAGE = pathlib.Path(__file__).parents[1]
RUNNER_NAME = "runner.pyz"
MIN_PYTHON = (3, 10)  # of the runner's own syntax and of ai-edge-litert 2.3
REQUIRED_PACKAGES = {"numpy": "numpy", "ai_edge_litert": "ai-edge-litert"}
# The packages are there for the runner's absolute imports; their own modules stay here.
_EMPTY_MODULES = ("keras_nin/__init__.py", "keras_nin/benchmark/__init__.py", "keras_nin/tflite/__init__.py")
_SHIPPED_MODULES = ("benchmark/runner/**/*.py", "tflite/host.py")
_ARCHIVE_DATE = (1980, 1, 1, 0, 0, 0)
# stdin ends with the job, so what tells that nobody listens any more is the other end of stdout.
_ARCHIVE_MAIN = '''"""Do a job of keras_nin.benchmark.runner, and end when nobody reads the answer any more."""

import os
import select
import signal
import sys
import threading


def _end_with_the_reader(stream):
    gone = select.poll()
    gone.register(stream, 0)  # no event asked for: errors and a hang-up are always told
    gone.poll()
    os.kill(os.getpid(), signal.SIGKILL)


threading.Thread(target=_end_with_the_reader, args=[os.dup(1)], daemon=True).start()
try:
    from keras_nin.benchmark.runner.main import main
except (ImportError, OSError) as error:
    sys.exit(f"ERROR: {type(error).__name__}: {error}")
sys.exit(main())
'''


def build_runner_archive():
    """Return the bytes of the file: `python3 runner.pyz` does a job as `keras_nin.benchmark.runner.main` describes it.

    It needs Python `LEAST_PYTHON` with NumPy and ai_edge_litert, and a POSIX system. The same sources give the same
    bytes.
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


# MERGED A device that `ssh` reaches: it gets the files and the runner in a temporary folder, and answers with the times.

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
_SSH_PROBLEMS = (
    ("Could not resolve hostname", "no such host is known. Check the name, or the Host lines of the ssh configuration"),
    ("Connection refused", "the connection was refused. Check the port, and that an ssh server runs there"),
    ("IDENTIFICATION HAS CHANGED", "its host key is another one than before. See `ssh-keygen -R`"),
    ("Host key verification failed", "its host key is not known. Connect once with ssh by hand and accept the key"),
    (
        "Permission denied",
        "it did not let us in. A key is needed that ssh uses without asking (ssh-copy-id, ssh-agent)",
    ),
    ("timed out", "no answer came in time"),
    ("No route to host", "there is no way to it in the network"),
    ("Network is unreachable", "there is no way to it in the network"),
    ("Connection closed", "the connection was lost"),
    ("closed by remote host", "the connection was lost"),
    ("Connection reset", "the connection was lost"),
    ("Broken pipe", "the connection was lost"),
    ("not responding", "the connection was lost"),
)


@dataclasses.dataclass(frozen=True)
class SshDevice:
    """A machine that the user's own ssh configuration reaches without a question.

    Every job makes a temporary folder there and removes it, also when the connection is lost.

    Attributes:
        url: ``ssh://[user@]host[:port]``; names of the ssh configuration serve as host.
        python: the interpreter there; a relative path, or one that starts with ~/, is one from home.

    Raises:
        InputError: the URL is no such.
    """

    url: str
    python: str = "python3"

    def __post_init__(self):
        if not _URL.fullmatch(self.url):
            raise InputError(f"Expected `--on` as ssh://[user@]host[:port]. Received: {self.url!r}")

    def run(self, job, limit=None, progress=None):
        """Return the `child.Answer` to a job; arguments as in `child.run`.

        Raises:
            InputError: the device cannot be reached or lacks something, and the message says what to do; or as in
                `child.run`.
        """
        names = _remote_names(job)
        with tempfile.TemporaryDirectory(prefix="keras-nin-ssh-") as here, self._folder(names, here) as folder:
            there = {path: f"{folder}/{name}" for path, name in names.items()}
            models = [model | {"file": there[model["file"]], "name": model["file"]} for model in job["models"]]
            log = os.path.join(here, "run")
            command = [*adb.tool_command("ssh"), *self._words(_run_script(self._python, folder), log)]
            try:
                answer = measurement.run_job(job | {"models": models}, command, limit=limit, progress=progress)
            except InputError as error:
                if f"ended with status {_SSH_FAILED}" in str(error):
                    self._raise_connection_problem(_read_text(log))
                    raise self._error("the connection was lost") from error
                if isinstance(error, measurement.RunnerNoAnswer):
                    raise self._error(f"the runner did not start: {_last_line(error.log)}") from error
                raise
        pairs = zip(answer.results, job["models"], strict=True)
        return dataclasses.replace(answer, results=tuple(result | {"file": model["file"]} for result, model in pairs))

    @property
    def _python(self):
        """The interpreter for the shell there, which starts at home."""
        return f"./{self.python[2:]}" if self.python.startswith("~/") else self.python

    @contextlib.contextmanager
    def _folder(self, names, here):
        """Yield the path of a folder there with the runner and the files; the runner's script removes it."""
        folder = self._send(names, os.path.join(here, "send"))
        try:
            yield folder
        except BaseException:  # the script may not have started
            with contextlib.suppress(InputError):
                words = self._words(f"rm -rf {shlex.quote(folder)}", os.path.join(here, "remove"))
                adb.run_tool("ssh", words, seconds=_CONNECT_SECONDS)
            raise

    def _words(self, script, log):
        """Return the arguments of ssh that run a shell script there, and send what ssh itself says to a log."""
        parts = _URL.fullmatch(self.url)
        words = ["-T", "-E", log, "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"]
        words += ["-p", parts["port"]] if parts["port"] else []
        words += ["-l", parts["user"]] if parts["user"] else []
        # The login shell may be another one; all of them pass a word in single quotes on as it is.
        return [*words, "--", parts["host"].strip("[]"), f"sh -c {shlex.quote(script)}"]

    def _send(self, names, log):
        """Check the device, make a folder there with the runner and the files, and return its path."""
        ran = adb.run_tool("ssh", self._words(_send_script(self._python), log), _pack_files(names), _SENDING_SECONDS)
        if ran.returncode == _SSH_FAILED:
            self._raise_connection_problem(_read_text(log))
            raise self._error(f"ssh ended: {_last_line(_read_text(log)) or 'without a word'}")
        lines = ran.stdout.decode(errors="replace").splitlines()
        folder = next((line[len(_FOLDER_MARK) :] for line in lines if line.startswith(_FOLDER_MARK)), None)
        if ran.returncode == 0 and folder:
            return folder
        raise self._lacking(ran.returncode, lines, ran.stderr.decode(errors="replace"))

    def _lacking(self, status, lines, errors):
        """Return the `InputError` that says what the device lacks."""
        found = [line for line in lines if line.strip()]
        install = f"{self.python} -m pip install {' '.join(sorted(REQUIRED_PACKAGES.values()))}"
        least = ".".join(map(str, MIN_PYTHON))
        if status == _NO_PYTHON:
            return self._error(
                f"{self.python} is missing there. Install Python {least} or later, or give --python PATH"
            )
        if status == _OLD_PYTHON:
            found = found[-1:] or ["an older one"]
            return self._error(f"{found[0]} there is too old. Python {least} or later is needed (--python PATH)")
        if status == _MISSING:
            return self._error(f"{self.python} there lacks {', '.join(found[-1].split())}. Run there: {install}")
        reason = " ".join(errors.split())[-300:] or f"exit status {status}"
        if status == _NO_ROOM:
            return self._error(f"the files cannot be written to its temporary folder: {reason}")
        return self._error(f"the check of the device failed: {reason}")

    def _raise_connection_problem(self, text):
        """Raise what ssh wrote to its log as an `InputError`, where it is a problem of the connection."""
        for words, meaning in _SSH_PROBLEMS:
            if words in text:
                raise self._error(meaning)

    def _error(self, problem):
        return InputError(f"Expected a device that runs .tflite files. Received: {self.url}: {problem}")


def _remote_names(job):
    """Return the names in the folder there, by the files' paths here."""
    paths = dict.fromkeys(model["file"] for model in job["models"])
    return {path: f"{number}.tflite" for number, path in enumerate(paths)}


def _pack_files(names):
    """Return a tar file with the runner and the files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in [
            (RUNNER_NAME, build_runner_archive()),
            *((name, read_bytes(path)) for path, name in names.items()),
        ]:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def _send_script(python):
    """Return the script that checks the device, unpacks its stdin to a new folder and prints its path."""
    python = shlex.quote(python)
    return (
        f"command -v {python} >/dev/null || exit {_NO_PYTHON}; "
        f"{python} -c {shlex.quote(_CHECK)} </dev/null || exit $?; "
        f'd=$(mktemp -d "${{TMPDIR:-/tmp}}/keras-nin.XXXXXXXX") || exit {_NO_ROOM}; '
        f'tar -xf - -C "$d" || {{ rm -rf "$d"; exit {_NO_ROOM}; }}; echo "{_FOLDER_MARK}$d"'
    )


def _run_script(python, folder):
    """Return the script that runs the runner and removes its folder, whatever becomes of it or of the connection."""
    folder = shlex.quote(folder)
    return (
        f"trap '' HUP PIPE; {shlex.quote(python)} {folder}/{RUNNER_NAME}; s=$?; rm -rf {folder}; "
        '[ $s -le 128 ] || echo "ERROR: the device killed it with signal $((s - 128)); is its memory full?" >&2; '
        "exit $s"
    )


def _last_line(text):
    lines = text.splitlines()
    return lines[-1].strip() if lines else ""


def _read_text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


# MERGED Where a benchmark runs: on this machine, or on a device that a URL names.

DEVICE_URLS = ("ssh://[user@]host[:port]", "adb://SERIAL")


def open_device(url=None, python="python3", benchmark_model=None):
    """Return the function that carries a job out at a place, as `measure` and all others take it for `run`.

    Every job leaves nothing at the place: there is nothing to close.

    Args:
        url: ``ssh://[user@]host[:port]``, ``adb://SERIAL``; None for this machine.
        python: the interpreter on an ssh device.
        benchmark_model: LiteRT's tool for an Android device, its path there or here; None takes `adb.BENCHMARK_MODEL`.

    Raises:
        InputError: another URL.
    """
    if url is None:
        return measurement.run_job
    if url.startswith("ssh://"):
        return SshDevice(url, python).run
    if url.startswith("adb://"):
        from keras_nin.benchmark.adb import BENCHMARK_TOOL_PATH, AndroidDevice

        return AndroidDevice(url, benchmark_model or BENCHMARK_TOOL_PATH).run
    raise InputError(f"Expected `--on` as {' or '.join(DEVICE_URLS)}. Received: {url!r}")
