"""The runner as one file: a zip that Python runs, for devices that have nothing of keras-nin."""

import io
import pathlib
import zipfile

_PACKAGE = pathlib.Path(__file__).parents[1]
NAME = "runner.pyz"
LEAST_PYTHON = (3, 10)  # of the runner's own syntax and of ai-edge-litert 2.3
NEEDS = {"numpy": "numpy", "ai_edge_litert": "ai-edge-litert"}
# The packages are there for the runner's absolute imports; their own modules stay here.
_EMPTY = ("keras_nin/__init__.py", "keras_nin/benchmark/__init__.py", "keras_nin/tflite/__init__.py")
_SHIPPED = ("benchmark/runner/**/*.py", "tflite/host.py")
_EARLIEST = (1980, 1, 1, 0, 0, 0)
# stdin ends with the job, so what tells that nobody listens any more is the other end of stdout.
_MAIN = '''"""Do a job of keras_nin.benchmark.runner, and end when nobody reads the answer any more."""

import os
import select
import signal
import sys
import threading


def _end_with_the_reader(stream):
    gone = select.poll()
    gone.register(stream, 0)  # no event asked for: errors and a hang-up are always told
    gone.poll()
    os.kill(os.getpid(), signal.SIGKILL)


threading.Thread(target=_end_with_the_reader, args=[os.dup(1)], daemon=True).start()
try:
    from keras_nin.benchmark.runner.main import main
except (ImportError, OSError) as error:
    sys.exit(f"ERROR: {type(error).__name__}: {error}")
sys.exit(main())
'''


def runner():
    """Return the bytes of the file: `python3 runner.pyz` does a job as `keras_nin.benchmark.runner.main` describes it.

    It needs Python `LEAST_PYTHON` with NumPy and ai_edge_litert, and a POSIX system. The same sources give the same
    bytes.
    """
    contents = {"__main__.py": _MAIN.encode()} | dict.fromkeys(_EMPTY, b"")
    for pattern in _SHIPPED:
        for path in sorted(_PACKAGE.glob(pattern)):
            contents[f"keras_nin/{path.relative_to(_PACKAGE).as_posix()}"] = path.read_bytes()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in contents.items():
            file.writestr(zipfile.ZipInfo(name, _EARLIEST), data, zipfile.ZIP_DEFLATED)
    return archive.getvalue()
