"""Text on stdout, whatever its encoding is."""

import contextlib
import shutil
import sys
import threading
import time

import click

from keras_nin.formatting import escape_unprintable


def echo(text):
    """Print text as stdout's encoding can have it."""
    from keras_nin.formatting import fit_encoding

    click.echo(fit_encoding(text, getattr(sys.stdout, "encoding", None) or "utf-8"))


# MERGED Progress of a measurement that it does not disturb.


@contextlib.contextmanager
def waiting(message):
    """Show `message` and the seconds on a terminal; yields a function that takes another message, shown at once.

    A plain line, once a second without news: what draws or loads a lot would disturb the measurement. Yields None where
    there is no terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    line = _StatusLine(message)
    thread = threading.Thread(target=line.show, daemon=True)
    thread.start()
    try:
        yield line.tell
    finally:
        line.end()
        thread.join()


class _StatusLine:
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
            line = escape_unprintable(f"{time.monotonic() - start:.0f} s: {self._message}")
            _write_stderr(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
            self._news.wait(1)
            self._news.clear()
        _write_stderr("\r\x1b[K")


def _write_stderr(text):
    sys.stderr.write(text)
    sys.stderr.flush()
