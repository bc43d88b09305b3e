"""Run one job of `runtime` in a process of its own: a file that crashes or hangs a runtime takes nothing else along."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

_ROOT = pathlib.Path(__file__).parents[3]
_MOST_LOG = 1 << 20  # bytes of what was printed that are read, from its end


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        status: exit status; negative for the signal that ended the process.
        late: whether that was because the time was over.
        log: what the runtime printed.
        answer: what the process said, later lines over earlier ones; "phase" is how far it came.
    """

    status: int
    late: bool
    log: str
    answer: dict

    @property
    def done(self):
        """Whether the job was done."""
        return self.status == 0 and not self.late and self.answer.get("phase") == "done"


def command():
    """Return the command that starts the process, and its environment."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return [sys.executable, "-m", "keras_nin.edge.micro.runtime"], os.environ | {"PYTHONPATH": path}


def run(job, limit, words=None):
    """Return the `Outcome` of a job.

    Args:
        job: see `runtime.main`.
        limit: seconds after which the process and all that it started are killed.
        words: another command to run it, for tests.
    """
    own, environment = command()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            words or own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        late = threading.Event()
        timer = threading.Timer(limit, lambda: (late.set(), _kill(process)))
        timer.start()
        try:
            said, _ = process.communicate(json.dumps(job).encode() + b"\n")
        finally:
            timer.cancel()
            _kill(process)
        return Outcome(process.returncode, late.is_set(), _tail(log), _answer(said))


def _kill(process):
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _tail(log):
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _MOST_LOG))
    return log.read().decode(errors="replace").replace("\r", "")


def _answer(said):
    answer = {}
    for line in said.decode(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            answer |= json.loads(line)
    return answer
