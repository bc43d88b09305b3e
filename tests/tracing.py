"""Which files of the package a command passes through: those whose functions run, except on import."""

import contextlib
import inspect
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
# What is shared by everything: reading files, printing, the command line's frame, and the audit of the network.
INFRASTRUCTURE = (
    "__init__|archives|errors|files|formatting|limits|results|schemas|child_runtime|cli/(config|main|options|output)|"
    "workflows/(__init__|backends)|report/rendering|audit/.*|tflite/.*"
)


def start(log):
    """Add the files whose functions run from now on to the file `log`, one a line."""
    package, done = f"{ROOT}/keras_nin/", set()

    def profile(frame, event, argument):
        code = frame.f_code
        if code.co_filename in done or not code.co_flags & inspect.CO_OPTIMIZED:
            return
        if code.co_filename.startswith(package) and _is_import(frame):
            return
        done.add(code.co_filename)
        if code.co_filename.startswith(package) and code.co_filename.endswith(".py"):  # a template runs code too
            with open(log, "a") as file:
                file.write(f"{code.co_filename}\n")

    sys.setprofile(profile)


@contextlib.contextmanager
def traced(log):
    """`start` for a while."""
    start(log)
    try:
        yield
    finally:
        sys.setprofile(None)


def _is_import(frame):
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def files(log, shared=INFRASTRUCTURE):
    """Return the files of the package in a log, without those that a regular expression calls shared."""
    names = {str(pathlib.Path(line).relative_to(ROOT)) for line in pathlib.Path(log).read_text().splitlines()}
    return sorted(name for name in names if not re.fullmatch(rf"keras_nin/({shared})\.py", name))
