"""Capture what native code and libraries print, at the level of file descriptors."""

import contextlib
import os
import sys
import tempfile


class Captured:
    """What was printed while `captured()` was active."""

    text = ""


@contextlib.contextmanager
def captured():
    """Send everything printed to stdout and stderr, by Python or by native code, into the yielded `Captured`.

    The text is there once the block ends, also when it ends in an exception. Not for use in several threads at once.
    """
    result = Captured()
    with tempfile.TemporaryFile(mode="w+", errors="replace") as file:
        saved = []
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (1, 2):
            saved.append(os.dup(descriptor))
            os.dup2(file.fileno(), descriptor)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield result
        finally:
            file.flush()
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
            file.seek(0)
            result.text = file.read()
