"""The inside of a process that `keras_nin.child_process` starts: its output, end, core files and memory.

It needs nothing but the standard library of Python 3.10, because it is also sent to devices that lack keras-nin.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

_PR_SET_PDEATHSIG = 1


def claim_stdout() -> Callable[[dict[str, Any]], None]:
    """Return a function that writes one JSON object per line to stdout; all other output goes to stderr from now on.

    Runtimes print to stdout themselves, from native code too.
    """
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)

    def write(document: dict[str, Any]) -> None:
        stream.write(json.dumps(document) + "\n")
        stream.flush()

    return write


def end_with_parent() -> None:
    """Let the system kill this process when its parent ends (Linux), and leave no core file of a crash."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_memory() -> None:
    """Let this process take no more memory than is free now, so that nothing swaps (Linux)."""
    free = read_sizes("/proc/meminfo", "MemAvailable")["MemAvailable"]
    if free:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = read_sizes("/proc/self/status", "VmData")["VmData"] + free
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let the system kill this process with SIGALRM where the block takes longer, in native code too."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def one_line(error: BaseException) -> str:
    """Return an exception's text in one line; the name of its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def read_sizes(path: str, *names: str) -> dict[str, int]:
    """Return sizes in bytes from a file of /proc; 0 where it lacks them."""
    sizes = dict.fromkeys(names, 0)
    with contextlib.suppress(OSError), open(path) as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in sizes:
                sizes[name] = int(rest.split()[0]) * 1024
    return sizes
