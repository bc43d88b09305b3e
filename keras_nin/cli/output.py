"""What a command prints: results on stdout, notes and progress on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from keras_nin.cli.options import QUIET_KEY
from keras_nin.formatting import escape_unprintable, fit_encoding, format_duration, format_message
from keras_nin.workflows import Item, Progress

if TYPE_CHECKING:
    from keras_nin.limits import LimitCheck


def is_quiet() -> bool:
    """Whether the running command has --quiet."""
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(QUIET_KEY, False)


def echo(text: str) -> None:
    """Print the lines of a result, without control characters, in what stdout's encoding can express.

    Not with --quiet.
    """
    if is_quiet():
        return
    lines = map(escape_unprintable, text.rstrip("\n").split("\n"))
    click.echo(fit_encoding("\n".join(lines), getattr(sys.stdout, "encoding", None) or "utf-8"))


def print_json(document: dict[str, Any]) -> None:
    """Print a JSON document on stdout, with JSON's escapes where stdout's encoding lacks a character."""
    from keras_nin import files

    text = files.dump_json(document)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        import json

        text = f"{json.dumps(json.loads(text), indent=2)}\n"
    click.echo(text, nl=False)


def print_result(result: Any, as_json: bool, format_text: Callable[[], str], checks: Sequence[LimitCheck] = ()) -> None:
    """Print a result as the JSON document that it has, or as text, with limits that it does not hold itself."""
    if as_json:
        print_json(result.to_json() | ({"checks": [check.to_json() for check in checks]} if checks else {}))
    else:
        echo(format_text())
    print_checks(checks, failed_only=as_json)


def note(message: str) -> None:
    """Print a line on stderr, such as a failed check, so that stdout holds results alone."""
    click.echo(format_message(message), err=True)


def remark(message: str) -> None:
    """Print a line on stderr that --quiet leaves out."""
    if not is_quiet():
        note(message)


def print_notes(notes: Iterable[str]) -> None:
    """Print what a reader should know of a result."""
    for text in notes:
        remark(f"Note: {text}")


def print_checks(checks: Iterable[Any], *, failed_only: bool = False) -> None:
    """Print the limits that were checked: below a table, or only failed ones on stderr beside other formats."""
    checks = list(checks)
    if failed_only or is_quiet():
        for check in checks:
            if not check.passed:
                note(str(check))
    elif checks:
        echo("\n" + "\n".join(map(str, checks)))


_LONG_SECONDS = 20


class TerminalProgress(Progress):
    """Shows progress as one line on stderr, where that is a terminal.

    A plain line, once a second without news: drawing more, or loading more, would disturb a measurement.
    """

    def __init__(self) -> None:
        self._quiet = is_quiet()

    @contextlib.contextmanager
    def task(self, message: str) -> Iterator[Callable[[str], None] | None]:
        """Show `message` and the seconds while the block runs; yields a function that shows another message."""
        if self._quiet or not sys.stderr.isatty():
            yield None
            return
        line = _StatusLine(message)
        line.start()
        try:
            yield line.update
        finally:
            line.end()

    def track(self, items: Iterable[Item], message: str, total: int, *, done_by: int = 0) -> Iterable[Item]:
        """Yield `items` and show how many are done; what takes long is said after the first, in any kind of output."""
        done = done_by or 1
        with self.task(message) as update:
            start = time.monotonic()
            for number, item in enumerate(items, 1):
                if number == (done_by or 2):
                    seconds = (time.monotonic() - start) * (total - done) / done
                    if seconds >= _LONG_SECONDS:
                        remark(f"{message}: about {format_duration(seconds)}")
                if update is not None:
                    update(f"{message}: {number} of {total}")
                yield item

    def line(self, text: str) -> None:
        """Print a line that stays, on a terminal."""
        if not self._quiet and sys.stderr.isatty():
            note(text)


class _StatusLine(threading.Thread):
    """A line on the terminal with the seconds since it began, drawn by a thread."""

    def __init__(self, message: str) -> None:
        super().__init__(daemon=True)
        self._message, self._ended, self._news = message, False, threading.Event()
        # By descriptor, because what is captured meanwhile replaces sys.stderr.
        self._stream = os.fdopen(os.dup(2), "w")

    def update(self, message: str) -> None:
        self._message = message
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()
        self.join()
        self._stream.close()

    def run(self) -> None:
        import shutil

        start = time.monotonic()
        while not self._ended:
            line = escape_unprintable(f"{time.monotonic() - start:.0f} s: {self._message}")
            self._write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
            self._news.wait(1)
            self._news.clear()
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
