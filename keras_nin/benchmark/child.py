"""Run a job of the runner in a process of its own, so that a file that crashes the runtime takes nothing else along."""

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

from keras_nin.errors import InputError

_ROOT = pathlib.Path(__file__).parents[2]
_STARTING_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a runner said: its machine, and a dictionary for each model (see `runner.main`)."""

    host: dict
    results: tuple[dict, ...]


def local_command():
    """Return the command that starts the runner on this machine, and its environment."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return [sys.executable, "-m", "keras_nin.benchmark.runner"], os.environ | {"PYTHONPATH": path}


def run(job, command=None, environment=None, limit=None):
    """Return the `Answer` to a job.

    Args:
        job: see `runner.main`.
        command, environment: of the process; None takes those of `local_command`.
        limit: seconds after which the process is killed; None allows what the job asks for, and a minute to start.

    Raises:
        InputError: a file does not run, the process died, or it took too long.
    """
    if command is None:
        command, environment = local_command()
    limit = limit or _STARTING_SECONDS + 4 * len(job["models"]) * (job.get("seconds") or 0)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
            start_new_session=True,
        )
        timer = threading.Timer(limit, _kill, [process])
        timer.start()
        try:
            text, _ = process.communicate(json.dumps(job) + "\n")
        finally:
            late = not timer.is_alive()
            timer.cancel()
            _kill(process)
        errors.seek(0)
        log = errors.read().decode(errors="replace")
    return _answer(job, text, process.returncode, log, limit if late else None)


def _kill(process):
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _answer(job, text, status, log, limit):
    host, results = None, []
    files = [model["file"] for model in job["models"]]
    for document in _documents(text):
        host = document.get("host", host)
        results += [document["result"]] if "result" in document else []
        if "error" in document:
            problem = document["error"]
            raise _refused(files[problem["model"]], f"{problem['message']}{_reason(log)}")
    if limit is not None:
        raise _refused(files[0], f"it was not done after {limit:.0f} s")
    if status or len(results) != len(files):
        problem = f"the runtime was killed by signal {-status}" if status < 0 else f"its process ended with {status}"
        raise _refused(files[len(results) % len(files)], f"{problem}{_reason(log)}")
    return Answer(host, tuple(results))


def _documents(text):
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def _refused(file, problem):
    return InputError(f"Expected a file that the LiteRT runtime runs. Received: {file!r}: {problem}")


def _reason(log):
    """Return the last error that the runtime printed, in brackets; nothing where there is none."""
    lines = [line for line in log.splitlines() if line.startswith(("ERROR", "FATAL", "F0", "Fatal"))]
    return f" ({lines[-1][:300]})" if lines else ""
