"""Run a program in a process group of its own, with a time limit, and leave nothing of it behind."""

import contextlib
import dataclasses
import gc
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Self

from keras_nin.errors import InputError

_ROOT = pathlib.Path(__file__).parents[1]
_HALF_OUTPUT = 1 << 23  # bytes that are kept of the beginning of a stream, and of its end
_CHUNK = 1 << 15
_GRACE_SECONDS = 5
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_RESEND_SECONDS = 0.01
_LOG_SECONDS = 0.2  # what a process wrote before it ended may take so long to arrive


class ProcessStartError(InputError):
    """The program cannot be started; `path` is its name."""


@dataclasses.dataclass(frozen=True)
class ProcessResult:
    """How a run ended, None at the time limit, and its output; of more than 16 MiB the beginning and the end."""

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
    """Run a program to its end; `ProcessStartError` where it cannot be started.

    Args:
        command: the program and its arguments.
        timeout: seconds after which the program, and all that it started, is killed; None never does.
        job, stdin: what it gets on standard input: a JSON-ready value in one line, or bytes.
        folder, environment: where it runs; None for those of this process.
    """
    with ChildProcess(command, job, stdin, cwd=folder, env=environment) as process:
        process.wait(timeout)
    return ProcessResult(process.status, process._stdout.text(), process.stderr)


def python_command(module: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs a module of this package in a new interpreter, and its environment."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return [sys.executable, "-m", module], os.environ | {"PYTHONPATH": path}


def describe_status(status: int) -> str:
    """Return how a process ended: ``"killed by SIGSEGV"``, ``"ended with status 3"``."""
    if status >= 0:
        return f"ended with status {status}"
    if status == -signal.SIGALRM:  # see `child_runtime.time_limit`
        return "ended at its time limit"
    names = {int(number): number.name for number in signal.Signals}
    return f"killed by {names.get(-status, f'signal {-status}')}"


class ChildProcess:
    """A process that is killed, with all of its group, when the block ends; see `run_process`, and Popen for `options`.

    SIGINT, SIGTERM and SIGHUP end the block with a `KeyboardInterrupt`, but never while the process starts or is
    cleaned up: an interrupted start would leave it behind. `status` is None until the process has ended by itself.
    """

    _keeps_stdin = False

    def __init__(self, command: Sequence[str], job: Any = None, stdin: bytes | None = None, **options: Any) -> None:
        self.command = tuple(command)
        self.status: int | None = None
        self._input = stdin if job is None else json.dumps(job).encode() + b"\n"
        self._options: dict[str, Any] = options | {
            "stdin": subprocess.DEVNULL if self._input is None else subprocess.PIPE
        }
        self._stdout, self._stderr = _BoundedOutput(), _BoundedOutput()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            gate = stack.enter_context(_InterruptGate())
            pipe = subprocess.PIPE
            try:
                self._process = subprocess.Popen(
                    self.command, stdout=pipe, stderr=pipe, text=False, start_new_session=True, **self._options
                )
            except OSError as error:
                message = f"Expected a program that can be started. Received: {self.command[0]!r} ({error.strerror})"
                raise ProcessStartError(message, path=self.command[0]) from error
            targets = (self._write_stdin, self._read_stdout, lambda: self._stderr.read(self._process.stderr))
            self._threads = [threading.Thread(target=target, daemon=True) for target in targets]
            for thread in self._threads:
                thread.start()
            stack.callback(self._clean_up)
            stack.callback(gate.close)
            self._stack = stack.pop_all()
        try:
            gate.open()
        except KeyboardInterrupt:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

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
                self._process.stdin.flush()
                if not self._keeps_stdin:
                    self._process.stdin.close()

    def _read_stdout(self) -> None:
        self._stdout.read(self._process.stdout)

    def wait(self, timeout: float | None) -> int | None:
        """Wait for the end of the process; return its status, or None after `timeout` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.status = self._process.wait(timeout)
        return self.status

    @property
    def stderr(self) -> str:
        """What the process wrote to standard error so far."""
        self._threads[-1].join(_LOG_SECONDS)
        return self._stderr.text()


class JsonProcess(ChildProcess):
    """A `ChildProcess` that writes one JSON object per line; `timed_out` tells that `documents` waited too long.

    With `keeps_stdin`, stdin stays open after the job, for `send`.
    """

    timed_out = False

    def __init__(self, command: Sequence[str], *, keeps_stdin: bool = False, **options: Any) -> None:
        super().__init__(command, **options)
        self._keeps_stdin = keeps_stdin
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def _read_stdout(self) -> None:
        parts: list[bytes] = []
        for chunk in _read_chunks(self._process.stdout):
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                self._lines.put(b"".join([*parts, line]))
                parts.clear()
            parts.append(rest)
        self._lines.put(b"".join(parts))
        self._lines.put(None)

    def send(self, document: dict[str, Any]) -> None:
        """Write a further line to stdin; a process that has ended does not get it, and `documents` tells."""
        self._threads[0].join()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            self._process.stdin.flush()

    def documents(self, silence: float) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects on stdout as they come, to its end, or `timed_out` after `silence` seconds without."""
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

    def read(self, stream: IO[bytes] | None) -> None:
        for chunk in _read_chunks(stream):
            room = _HALF_OUTPUT - len(self._head)
            self._head += chunk[:room]
            self._tail += chunk[room:]
            if len(self._tail) > 2 * _HALF_OUTPUT:
                del self._tail[:-_HALF_OUTPUT]

    def text(self) -> str:
        return bytes(self._head + self._tail[-_HALF_OUTPUT:]).decode(errors="replace")


def _read_chunks(stream: IO[bytes] | None) -> Iterator[bytes]:
    assert stream is not None
    with contextlib.suppress(OSError, ValueError):  # closed here while a grandchild keeps the other end open
        while chunk := os.read(stream.fileno(), _CHUNK):
            yield chunk


def _parse_object(line: str | bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def postpone_signal(number: int, frame: types.FrameType | None) -> bool:
    """Send a signal again a moment later where an exception that its handler raises in `frame` is lost; else False.

    Python ignores exceptions in callbacks of the garbage collector, such as JAX has, and in `__del__`.
    """
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None and frame.f_code not in callbacks and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    if frame is not None:
        threading.Timer(_RESEND_SECONDS, os.kill, (os.getpid(), number)).start()
    return frame is not None


class _InterruptGate:
    """Turns SIGINT, SIGTERM and SIGHUP into a `KeyboardInterrupt`, but only while open; what comes before waits.

    The exception's argument is the number of the signal.
    """

    def __init__(self) -> None:
        self._is_open = False
        self._pending: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            for number in _SIGNALS:
                # None: handled outside Python.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._pending is not None:
            raise KeyboardInterrupt(self._pending)

    def open(self) -> None:
        """Let signals interrupt from now on; one that came before interrupts now."""
        self._is_open = True
        if self._pending is not None:
            self._interrupt(self._pending)

    def close(self) -> None:
        self._is_open = False

    def _interrupt(self, number: int, frame: types.FrameType | None = None) -> None:
        if not self._is_open:
            self._pending = number
        elif not postpone_signal(number, frame):
            self._pending = None
            self._is_open = False  # once: what cleans up is not interrupted
            raise KeyboardInterrupt(number)
