"""Run a tool of others in a process group of its own, with a time limit, and leave nothing of it behind."""

import contextlib
import os
import signal
import subprocess
import tempfile
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
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _termination_interrupts():
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return Ran(status, _text(out), _text(err))


def _text(stream):
    stream.seek(0)
    return stream.read(_MOST_OUTPUT).decode(errors="replace")


@contextlib.contextmanager
def _termination_interrupts():
    """Let SIGTERM raise KeyboardInterrupt, so that the tool does not outlive this process; in the main thread alone."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # another thread, whose process handles signals elsewhere
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
