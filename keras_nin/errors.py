"""The errors that a caller can correct. The command line prints each as one line and exits with status 2."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from keras_nin.formatting import format_message, format_value, printable

_Value = TypeVar("_Value")
_ARGUMENT = re.compile(r"`(\w+)`")
_PATH_LIMIT, _NUMBER_LIMIT = 4096, 2**63


class InputError(ValueError):
    """Input that a caller can correct. The message says what is wrong and what to do about it.

    The message, one printable line of limited length, names Python arguments in backticks; `with_flags` turns them into
    a command's options. What a program may want to act on is in the fields, never in the message alone.

    Args:
        argument: name of the Python argument at fault, such as ``"top"``.
        path: file or folder at fault.
        status: exit status of a child process; negative for the signal that ended it.
        received: the value that was refused.
    """

    exit_status = 2  # of the command line

    def __init__(
        self,
        message: str,
        *,
        argument: str | None = None,
        path: object | None = None,
        status: int | None = None,
        received: object | None = None,
    ) -> None:
        super().__init__(format_message(message))
        self.argument = argument
        self.path = None if path is None else str(path)
        self.status = status
        self.received = received

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dictionary, without the message."""
        received = self.received
        number = isinstance(received, int | float) and abs(received) < _NUMBER_LIMIT  # false for NaN, which JSON lacks
        if received is not None and not number:
            received = printable(received)
        path = self.path and printable(self.path, _PATH_LIMIT)
        return {"argument": self.argument, "path": path, "status": self.status, "received": received}


class WeightsMismatchError(InputError):
    """Weights that do not fit the network."""


class TensorFlowNeededError(Exception):
    """What Keras on NumPy cannot do; a command starts again on TensorFlow."""


class DatasetUnavailableError(InputError):
    """A dataset that is neither on this machine nor can be fetched."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message that is not blank, or the name of its type."""
    return next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__)


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """Return the message of an error with each argument in backticks as `flags` names it: ``{"top": "--top"}``."""
    return _ARGUMENT.sub(lambda match: flags.get(match[1], match[0]), message)


def unknown_name_error(argument: str, received: object, known: Iterable[str]) -> InputError:
    """Return the `InputError` for a name that is not in `known`, with the nearest known names."""
    hint = suggest_names(received, known)
    message = f"Expected `{argument}` to be a known name. Received: {format_value(received)}. {hint}"
    return InputError(message, argument=argument, received=received)


def suggest_names(received: object, known: Iterable[str]) -> str:
    """Return the sentence that names the known names nearest to an unknown one, or all where none is near."""
    import difflib

    names = sorted(known)
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(format_value(received).strip("'").lower(), by_lower, n=4, cutoff=0.5)
    return f"Did you mean {', '.join(by_lower[name] for name in near)}?" if near else f"Known: {', '.join(names)}."


def expected_error(argument: str, expected: str, received: object) -> InputError:
    """Return the `InputError` ``Expected `argument` {expected}. Received: {received!r}``."""
    message = f"Expected `{argument}` {expected}. Received: {format_value(received)}"
    return InputError(message, argument=argument, received=received)


def input_error(expected: str, received: object, *, argument: str | None = None, path: object = None) -> InputError:
    """Return the `InputError` ``Expected {expected}. Received: {received}``."""
    return InputError(f"Expected {expected}. Received: {received}", argument=argument, path=path)


def check_choice(argument: str, received: _Value, allowed: Collection[_Value]) -> _Value:
    """Return `received`, or raise `InputError` where it is not one of `allowed`."""
    if received not in allowed:
        raise expected_error(argument, f"to be one of {', '.join(str(option) for option in allowed)}", received)
    return received


def check_whole_number(argument: str, received: Any, minimum: int = 1) -> int:
    """Return `received`, or raise `InputError` where it is not an int of at least `minimum`; True is none."""
    if not isinstance(received, int) or isinstance(received, bool) or received < minimum:
        raise expected_error(argument, f"to be a whole number of at least {minimum}", received)
    return received


def missing_package_error(what: str, extra: str) -> InputError:
    """Return the `InputError` for a package of an extra that is not installed; `what` is what needs it."""
    return InputError(f"{what} needs a package that is not installed. Run: pip install 'keras-nin[{extra}]'")
