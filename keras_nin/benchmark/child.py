"""Run a job of the runner in a process of its own, so that a file that crashes the runtime takes nothing else along."""

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import sys
import threading

from keras_nin.errors import InputError

SILENCE_SECONDS = 60
_ROOT = pathlib.Path(__file__).parents[2]
_LOG_BYTES = 1 << 15
_GRACE_SECONDS = 5
_LOG_SECONDS = 0.2
_MOST_CHARACTERS = 300
_MEMORY = ("std::bad_alloc", "std::length_error", "MemoryError", "Unable to allocate")
_ERRORS = ("ERROR:", "FATAL:", "Fatal:", "F0000")


class NotStarted(InputError):
    """The command of the runner cannot be started."""


class NoAnswer(InputError):
    """The runner ended, or was silent, before it said a word; with its exit `status` (None: silent) and its `log`."""

    def __init__(self, message, status, log):
        super().__init__(message)
        self.status, self.log = status, log


class Refused(InputError):
    """The runtime does not run a file."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a runner said: its machine, and a dictionary for each model in their order (see `runner.main`)."""

    host: dict
    results: tuple[dict, ...]


def local_command():
    """Return the command that starts the runner on this machine, and its environment."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return [sys.executable, "-m", "keras_nin.benchmark.runner"], os.environ | {"PYTHONPATH": path}


def run(job, command=None, environment=None, limit=None, progress=None):
    """Return the `Answer` to a job.

    Args:
        job: see `runner.main`. An entry of its models may have a "name" that messages use instead of its "file".
        command, environment: of the process, which may start the runner elsewhere; None takes those of `local_command`.
        limit: seconds of silence after which the process is killed; None is a minute.
        progress: function of what each model's "progress" says, called while the job runs, or None.

    Raises:
        NotStarted, NoAnswer, Refused: kinds of `InputError`.
    """
    if command is None:
        command, environment = local_command()
    limit = SILENCE_SECONDS if limit is None else limit
    host, results = None, []
    with _Process(command, environment) as process:
        process.send(job)
        late = False
        try:
            for document in process.documents(limit):
                host = document.get("host", host)
                if "error" in document:
                    problem = document["error"]
                    raise _refused(job, problem["model"], problem["message"] + process.reason())
                if "progress" in document and progress:
                    progress(document["progress"])
                if "result" in document:
                    results.append(document["result"])
                if host is not None and len(results) == len(job["models"]):
                    return Answer(host, tuple(results))
        except queue.Empty:
            late = True
        raise _failure(job, host, None if late else process.status(), limit, process)


def _failure(job, host, status, limit, process):
    """Return the error of a runner that ended, or was silent (`status` None), without all results."""
    reason = process.reason()
    if status is None:
        problem = f"nothing came for {limit:g} s"
    elif status < 0:
        problem = f"the runtime was killed by {_signal(-status)}"
    else:
        problem = f"its process ended with status {status}"
    if host is None:
        last = reason or process.last_line()
        message = f"Expected an answer of the runner. Received: none from {shlex.join(process.command)[:200]!r}: "
        return NoAnswer(message + problem + last, status, process.log)
    # The models run together: of several it is not known which one it was.
    return _refused(job, 0 if len(job["models"]) == 1 else None, problem + reason)


def _signal(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _refused(job, model, problem):
    names = [each.get("name", each["file"]) for each in job["models"]]
    which = repr(names[model]) if model is not None else f"one of {', '.join(dict.fromkeys(map(repr, names)))}"
    return Refused(f"Expected a file that the LiteRT runtime runs. Received: {which}: {problem}")


class _Process:
    """A process in a group of its own, which ends with the block; its stdout as documents, the end of its stderr."""

    def __init__(self, command, environment):
        self.command, self._environment = command, environment
        self._lines = queue.SimpleQueue()
        self._head, self._tail = b"", b""

    def __enter__(self):
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment, start_new_session=True
            )
        except OSError as error:
            raise NotStarted(
                f"Expected a command that starts the runner. Received: {self.command[0]!r} ({error.strerror})"
            ) from None
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_lines, self._read_log)]
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, *error):
        # Before the process is waited for: until then nothing else can have its number.
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            reader.join(_GRACE_SECONDS)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                stream.close()

    def _read_lines(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_log(self):
        while chunk := self._process.stderr.read1(_LOG_BYTES):
            room = _LOG_BYTES - len(self._head)
            self._head, self._tail = self._head + chunk[:room], (self._tail + chunk[room:])[-_LOG_BYTES:]

    def send(self, job):
        """Write the job to stdin, and close it; a process that ended already is told of by its answer."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.close()

    def documents(self, limit):
        """Yield the dictionaries on stdout; `queue.Empty` after `limit` seconds without a line."""
        while (line := self._lines.get(timeout=limit)) is not None:
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict):
                    yield document

    def status(self):
        """Return the exit status of the process, which has closed its stdout."""
        try:
            return self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    @property
    def log(self):
        """What the process wrote to stderr so far: the beginning and the end of it."""
        return "\n".join(part.decode(errors="replace") for part in (self._head, self._tail) if part)

    def reason(self):
        """Return the first error that the runtime printed, which the others follow from, in brackets; else nothing."""
        self._readers[1].join(_LOG_SECONDS)
        lines = [line.strip() for line in self.log.splitlines()]
        if any(sign in line for sign in _MEMORY for line in lines):
            return " (it asks for more memory than is free)"
        errors = [line.partition(" ")[2] for line in lines if line.startswith(_ERRORS)]
        return f" ({errors[0][:_MOST_CHARACTERS]})" if errors else ""

    def last_line(self):
        """Return the last line on stderr, in brackets; nothing where there is none."""
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        return f" ({lines[-1][:_MOST_CHARACTERS]})" if lines else ""
