"""What a command does, as typed functions that return records. They print nothing: a `Progress` shows how far they are.

Models and images are taken by `inputs`; `conversion` makes files of a model, for `export` and for what measures files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
# Whether this process runs one command and ends, so that Keras starts for that command alone; the command line sets it.
runs_one_command = False


class Progress:
    """Receives the progress of a workflow. This one ignores it; a subclass shows it."""

    @contextlib.contextmanager
    def task(self, message: str) -> Iterator[Callable[[str], None] | None]:
        """Announce work of unknown length; yields a function that replaces the message, or None."""
        yield None

    def track(self, items: Iterable[Item], message: str, total: int, *, done_by: int = 0) -> Iterable[Item]:
        """Yield `items`, work to be done, and count them; or with `done_by` what so many processes have done."""
        return items

    def line(self, text: str) -> None:
        """Report an intermediate result, such as the loss of an epoch."""

    def epochs(self, name: str, total: int | None = None) -> Callable[[int, dict[str, float]], None]:
        """Return a callback of (epoch, logs) that reports each epoch of a training."""

        def report(epoch: int, logs: dict[str, float]) -> None:
            count = f"{epoch}/{total}" if total else str(epoch)
            self.line(
                f"{name}: epoch {count}: loss {logs['loss']:.4f}, accuracy {logs['accuracy']:.4f}; "
                f"validation: loss {logs['val_loss']:.4f}, accuracy {logs['val_accuracy']:.4f}"
            )

        return report


SILENT = Progress()
