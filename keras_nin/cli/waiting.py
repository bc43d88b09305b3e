"""Progress of a measurement that it does not disturb."""

import contextlib
import shutil
import sys
import threading
import time

from keras_nin.tables import printable


@contextlib.contextmanager
def waiting(message):
    """Show `message` and the seconds on a terminal; yields a function that takes another message, shown at once.

    A plain line, once a second without news: what draws or loads a lot would disturb the measurement. Yields None where
    there is no terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    line = _Line(message)
    thread = threading.Thread(target=line.show, daemon=True)
    thread.start()
    try:
        yield line.tell
    finally:
        line.end()
        thread.join()


class _Line:
    def __init__(self, message):
        self._message, self._ended, self._news = message, False, threading.Event()

    def tell(self, message):
        self._message = message
        self._news.set()

    def end(self):
        self._ended = True
        self._news.set()

    def show(self):
        start = time.monotonic()
        while not self._ended:
            line = printable(f"{time.monotonic() - start:.0f} s: {self._message}")
            _write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
            self._news.wait(1)
            self._news.clear()
        _write("\r\x1b[K")


def _write(text):
    sys.stderr.write(text)
    sys.stderr.flush()
