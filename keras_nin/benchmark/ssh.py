"""A device that `ssh` reaches: it gets the files and the runner in a temporary folder, and answers with the times."""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import tarfile
import tempfile

from keras_nin.benchmark import bundle, child, tools
from keras_nin.errors import InputError
from keras_nin.files import read_bytes

_URL = re.compile(
    r"ssh://(?:(?P<user>[^@/:\s-][^@/:\s]*)@)?(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^@/:\s\[-][^@/:\s]*)(?::(?P<port>\d+))?/?"
)
_CONNECT_SECONDS = 20
_SENDING_SECONDS = 600
_OF_SSH = 255  # exit status of ssh itself where there is no connection
_NO_PYTHON, _OLD_PYTHON, _MISSING, _NO_ROOM = 91, 92, 93, 94
_MARK = "keras-nin-folder:"
# Answers with the first thing that is missing; runs on any Python, from 2.7 on.
_CHECK = (
    "import sys; v = sys.version_info; print('Python %d.%d.%d' % tuple(v[:3])); "
    f"v[:2] >= {bundle.LEAST_PYTHON} or sys.exit({_OLD_PYTHON}); from importlib.util import find_spec; "
    f"gone = [name for name in {tuple(bundle.NEEDS)} if not find_spec(name)]; print(' '.join(gone)); "
    f"sys.exit({_MISSING} if gone else 0)"
)
# What ssh says, in the order in which it is looked for, and what that means.
_PROBLEMS = (
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
class Device:
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
        names = _names(job)
        with tempfile.TemporaryDirectory(prefix="keras-nin-ssh-") as here, self._folder(names, here) as folder:
            there = {path: f"{folder}/{name}" for path, name in names.items()}
            models = [model | {"file": there[model["file"]], "name": model["file"]} for model in job["models"]]
            log = os.path.join(here, "run")
            command = [*tools.command("ssh"), *self._words(_running(self._python, folder), log)]
            try:
                answer = child.run(job | {"models": models}, command, limit=limit, progress=progress)
            except InputError as error:
                if f"ended with status {_OF_SSH}" in str(error):
                    self._raise_connection_problem(_text(log))
                    raise self._error("the connection was lost") from error
                if isinstance(error, child.NoAnswer):
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
                tools.call("ssh", words, seconds=_CONNECT_SECONDS)
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
        ran = tools.call("ssh", self._words(_sending(self._python), log), _archive(names), _SENDING_SECONDS)
        if ran.returncode == _OF_SSH:
            self._raise_connection_problem(_text(log))
            raise self._error(f"ssh ended: {_last_line(_text(log)) or 'without a word'}")
        lines = ran.stdout.decode(errors="replace").splitlines()
        folder = next((line[len(_MARK) :] for line in lines if line.startswith(_MARK)), None)
        if ran.returncode == 0 and folder:
            return folder
        raise self._lacking(ran.returncode, lines, ran.stderr.decode(errors="replace"))

    def _lacking(self, status, lines, errors):
        """Return the `InputError` that says what the device lacks."""
        found = [line for line in lines if line.strip()]
        install = f"{self.python} -m pip install {' '.join(sorted(bundle.NEEDS.values()))}"
        least = ".".join(map(str, bundle.LEAST_PYTHON))
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
        for words, meaning in _PROBLEMS:
            if words in text:
                raise self._error(meaning)

    def _error(self, problem):
        return InputError(f"Expected a device that runs .tflite files. Received: {self.url}: {problem}")


def _names(job):
    """Return the names in the folder there, by the files' paths here."""
    paths = dict.fromkeys(model["file"] for model in job["models"])
    return {path: f"{number}.tflite" for number, path in enumerate(paths)}


def _archive(names):
    """Return a tar file with the runner and the files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in [(bundle.NAME, bundle.runner()), *((name, read_bytes(path)) for path, name in names.items())]:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def _sending(python):
    """Return the script that checks the device, unpacks its stdin to a new folder and prints its path."""
    python = shlex.quote(python)
    return (
        f"command -v {python} >/dev/null || exit {_NO_PYTHON}; "
        f"{python} -c {shlex.quote(_CHECK)} </dev/null || exit $?; "
        f'd=$(mktemp -d "${{TMPDIR:-/tmp}}/keras-nin.XXXXXXXX") || exit {_NO_ROOM}; '
        f'tar -xf - -C "$d" || {{ rm -rf "$d"; exit {_NO_ROOM}; }}; echo "{_MARK}$d"'
    )


def _running(python, folder):
    """Return the script that runs the runner and removes its folder, whatever becomes of it or of the connection."""
    folder = shlex.quote(folder)
    return (
        f"trap '' HUP PIPE; {shlex.quote(python)} {folder}/{bundle.NAME}; s=$?; rm -rf {folder}; "
        '[ $s -le 128 ] || echo "ERROR: the device killed it with signal $((s - 128)); is its memory full?" >&2; '
        "exit $s"
    )


def _last_line(text):
    lines = text.splitlines()
    return lines[-1].strip() if lines else ""


def _text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
