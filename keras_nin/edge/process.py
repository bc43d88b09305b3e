"""Run a tool of others in a process group of its own, with a time limit, and leave nothing of it behind."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass

_MOST_OUTPUT = 1 << 24  # bytes of each stream


@dataclass(frozen=True)
class Ran:
    """What a tool did: its exit status (negative: the signal that ended it; None: it took too long) and its output."""

    status: int | None
    out: str
    err: str


def run(command, folder, limit):
    """Return the `Ran` of a command.

    Its standard input is empty. At the end its whole process group is killed, whatever ended the wait.

    Args:
        command: list of words.
        folder: where it runs.
        limit: seconds after which it is killed.

    Raises:
        OSError: the command cannot be started.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _interrupts() as allow:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        try:
            allow(True)
            status = _wait(process, limit)
            allow(False)
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return Ran(status, _text(out), _text(err))


def _wait(process, limit):
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None


def _text(stream):
    stream.seek(0)
    return stream.read(_MOST_OUTPUT).decode(errors="replace")


@contextlib.contextmanager
def _interrupts():
    """Let SIGTERM and SIGINT raise KeyboardInterrupt, but only where that leaves nothing behind.

    A tool whose start or end is interrupted would outlive this process. Yields a function that says whether they may
    raise from then on; at first they may not. What came before raises then, at the latest at the end of the block.
    Other threads than the main one get no signals, and for them nothing changes.
    """
    allowed = pending = False

    def interrupt(*_):
        nonlocal allowed, pending
        pending = not allowed
        if allowed:
            allowed = False  # once: what cleans up is not interrupted
            raise KeyboardInterrupt

    def allow(now):
        nonlocal allowed, pending
        allowed = now
        if now and pending:
            interrupt()

    before = _handle(interrupt)
    try:
        yield allow
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if pending:
        raise KeyboardInterrupt


def _handle(function):
    """Let a function handle the signals, where they are not ignored; return the handlers before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    left_alone = (signal.SIG_IGN, None)  # None: handled outside Python
    numbers = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) not in left_alone]
    return {number: signal.signal(number, function) for number in numbers}
