"""Progress of a measurement that it does not disturb."""

import contextlib
import shutil
import sys
import threading
import time

from keras_nin.tables import printable

_SILENT_SECONDS = 2


@contextlib.contextmanager
def waiting(message):
    """Show `message` and the seconds on a terminal, from the third on; yields a function that takes another message.

    A line a second and no more: what draws or loads a lot would disturb the measurement. Yields None where there is no
    terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    done, messages = threading.Event(), [message]
    thread = threading.Thread(target=_show, args=(messages, done), daemon=True)
    thread.start()
    try:
        yield lambda text: messages.__setitem__(0, text)
    finally:
        done.set()
        thread.join()


def _show(messages, done):
    start, pause, shown = time.monotonic(), _SILENT_SECONDS, False
    while not done.wait(pause):
        line = printable(f"{time.monotonic() - start:.0f} s: {messages[0]}")
        _write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
        pause, shown = 1, True
    if shown:
        _write("\r\x1b[K")


def _write(text):
    sys.stderr.write(text)
    sys.stderr.flush()
