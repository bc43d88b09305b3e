"""Capture what Python, libraries and native code print, at the level of file descriptors."""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any


class CapturedOutput:
    """What was printed in the block of a `capture_output`; empty until the block ends."""

    text = ""


class _RedirectedStream:
    """A stream that passes everything on to `target`; a logger that keeps it later writes to the real stream."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


@contextlib.contextmanager
def capture_output() -> Iterator[CapturedOutput]:
    """Send everything printed to stdout and stderr, by Python or by native code, into the yielded `CapturedOutput`.

    Its text is set when the block ends, also by an exception. Not for use in several threads at once.
    """
    result = CapturedOutput()
    # Without a buffer, so that what Python and native code print stays in order.
    with tempfile.TemporaryFile(buffering=0) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="replace", write_through=True)
        real = (sys.stdout, sys.stderr)
        streams: tuple[Any, Any] = (_RedirectedStream(text), _RedirectedStream(text))
        saved = {}
        for descriptor, stream in enumerate(real, 1):
            stream.flush()
            saved[descriptor] = os.dup(descriptor)
            os.dup2(file.fileno(), descriptor)
        try:
            with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
                yield result
        finally:
            for stream, target in zip(streams, real, strict=True):
                stream.target = target
            for descriptor, original in saved.items():
                os.dup2(original, descriptor)
                os.close(original)
            file.seek(0)
            result.text = file.read().decode("utf-8", errors="replace")
