"""Run a program in a process group of its own, with a time limit, and leave nothing of it behind.

A file that crashes or hangs a runtime, or a third-party tool, then takes nothing else along. `run_process` waits for a
whole run, `JsonProcess` reads one JSON object per line while the process runs.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, Self

from keras_nin.errors import InputError

_ROOT = pathlib.Path(__file__).parents[1]
_HALF_OUTPUT = 1 << 23  # bytes that are kept of the beginning of a stream, and of its end
_CHUNK = 1 << 15
_GRACE_SECONDS = 5
_LOG_SECONDS = 0.2  # what a process wrote before it ended may take so long to arrive


class ProcessStartError(InputError):
    """The program cannot be started; `path` is its name."""


@dataclasses.dataclass(frozen=True)
class ProcessResult:
    """A run that ended.

    Attributes:
        status: exit status, negative for the signal that ended the process; None where it reached the time limit.
        stdout: what it wrote; of more than 16 MiB the beginning and the end.
        stderr: the same of standard error.
    """

    status: int | None
    stdout: str
    stderr: str

    @property
    def timed_out(self) -> bool:
        """Whether the process was killed at the time limit."""
        return self.status is None

    def documents(self) -> list[dict[str, Any]]:
        """Return the JSON objects among the lines of stdout."""
        return list(filter(None, map(_parse_object, self.stdout.splitlines())))


def run_process(
    command: Sequence[str],
    *,
    timeout: float | None,
    job: Any = None,
    stdin: bytes | None = None,
    folder: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> ProcessResult:
    """Run a program to its end.

    Args:
        command: the program and its arguments.
        timeout: seconds after which the program, and all that it started, is killed; None never does.
        job: JSON-ready value that it gets on standard input, in one line; None for an empty input.
        stdin: bytes that it gets on standard input instead.
        folder: where it runs; None for the current folder.
        environment: its environment; None for that of this process.

    Raises:
        ProcessStartError: the program cannot be started.
    """
    with ChildProcess(command, job=job, stdin=stdin, folder=folder, environment=environment) as process:
        process.wait(timeout)
    return ProcessResult(process.status, process.stdout, process.stderr)


def python_command(module: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs a module of this package in a new interpreter, and its environment."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return [sys.executable, "-m", module], os.environ | {"PYTHONPATH": path}


def describe_status(status: int) -> str:
    """Return how a process ended: ``"killed by SIGSEGV"``, ``"ended with status 3"``."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


class ChildProcess:
    """A process that is killed, with all of its group, when the block ends; arguments as in `run_process`.

    SIGINT and SIGTERM end the block with a `KeyboardInterrupt`, but never while the process starts or is cleaned up:
    an interrupted start would leave it behind.

    Attributes:
        status: exit status once the process has ended by itself; None before, and where it was killed here.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        job: Any = None,
        stdin: bytes | None = None,
        folder: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = tuple(command)
        self.status: int | None = None
        self._input = stdin if job is None else json.dumps(job).encode() + b"\n"
        self._folder, self._environment = folder, environment
        self._stdout, self._stderr = _BoundedOutput(), _BoundedOutput()
        self._gate = _InterruptGate()

    def __enter__(self) -> Self:
        self._gate.__enter__()
        try:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL if self._input is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            self._gate.__exit__(None, None, None)
            message = f"Expected a program that can be started. Received: {self.command[0]!r} ({error.strerror})"
            raise ProcessStartError(message, path=self.command[0]) from error
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._write_stdin, self._read_stdout, self._read_stderr)
        ]
        for thread in self._threads:
            thread.start()
        try:
            self._gate.open()
        except BaseException:
            self._clean_up()
            self._gate.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._gate.close()
        self._clean_up()
        self._gate.__exit__(kind, *error)

    def _clean_up(self) -> None:
        # Before the process is waited for: until then nothing else can have its number.
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for thread in self._threads:
            thread.join(_GRACE_SECONDS)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def _write_stdin(self) -> None:
        if self._process.stdin is not None and self._input is not None:
            with contextlib.suppress(OSError):  # a process that ended already is told of by its status
                self._process.stdin.write(self._input)
                self._process.stdin.close()

    def _read_stdout(self) -> None:
        _read_chunks(self._process.stdout, self._stdout.add)

    def _read_stderr(self) -> None:
        _read_chunks(self._process.stderr, self._stderr.add)

    def wait(self, timeout: float | None) -> int | None:
        """Wait for the end of the process; return its status, or None after `timeout` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.status = self._process.wait(timeout)
        return self.status

    @property
    def stdout(self) -> str:
        """What the process wrote to standard output so far."""
        return self._stdout.text()

    @property
    def stderr(self) -> str:
        """What the process wrote to standard error so far."""
        self._threads[-1].join(_LOG_SECONDS)
        return self._stderr.text()


class JsonProcess(ChildProcess):
    """A `ChildProcess` that writes one JSON object per line; `timed_out` tells that `documents` waited too long."""

    timed_out = False

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        super().__init__(command, **options)
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def _read_stdout(self) -> None:
        parts: list[bytes] = []

        def receive(chunk: bytes) -> None:
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                self._lines.put(b"".join([*parts, line]))
                parts.clear()
            parts.append(rest)

        _read_chunks(self._process.stdout, receive)
        self._lines.put(b"".join(parts))
        self._lines.put(None)

    def documents(self, silence: float) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects on stdout as they come; other lines are skipped.

        Ends where the process closes its stdout, which sets `status`, or after `silence` seconds without a line, which
        sets `timed_out`.
        """
        try:
            while (line := self._lines.get(timeout=silence)) is not None:
                document = _parse_object(line)
                if document is not None:
                    yield document
        except queue.Empty:
            self.timed_out = True
        else:
            self.wait(_GRACE_SECONDS)


class _BoundedOutput:
    """The beginning and the end of a stream."""

    def __init__(self) -> None:
        self._head, self._tail = bytearray(), bytearray()

    def add(self, chunk: bytes) -> None:
        room = _HALF_OUTPUT - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        if len(self._tail) > 2 * _HALF_OUTPUT:
            del self._tail[:-_HALF_OUTPUT]

    def text(self) -> str:
        return bytes(self._head + self._tail[-_HALF_OUTPUT:]).decode(errors="replace")


def _read_chunks(stream: IO[bytes] | None, receive: Callable[[bytes], None]) -> None:
    assert stream is not None
    with contextlib.suppress(OSError, ValueError):  # closed here while a grandchild keeps the other end open
        while chunk := os.read(stream.fileno(), _CHUNK):
            receive(chunk)


def _parse_object(line: str | bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


class _InterruptGate:
    """Turns SIGINT and SIGTERM into a `KeyboardInterrupt`, but only while it is open; what comes before waits.

    Other threads than the main one get no signals: for them nothing changes.
    """

    def __init__(self) -> None:
        self._is_open = self._is_pending = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                # None: handled outside Python.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if kind is None and self._is_pending:
            raise KeyboardInterrupt

    def open(self) -> None:
        """Let signals interrupt from now on; one that came before interrupts now."""
        self._is_open = True
        if self._is_pending:
            self._interrupt()

    def close(self) -> None:
        """Hold signals back from now on."""
        self._is_open = False

    def _interrupt(self, *_: object) -> None:
        self._is_pending = not self._is_open
        if self._is_open:
            self._is_open = False  # once: what cleans up is not interrupted
            raise KeyboardInterrupt
