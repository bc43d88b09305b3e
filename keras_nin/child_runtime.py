"""The inside of a process that `keras_nin.child_process` starts: its output, its end, its core files.

It needs the standard library of Python 3.10 and nothing else, because it is also sent to devices that lack keras-nin.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
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


def one_line(error: BaseException) -> str:
    """Return an exception's text in one line; the name of its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
