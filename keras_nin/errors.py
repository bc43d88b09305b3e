"""The errors that a caller can correct; the command line turns each into one line and exit status 2."""

import difflib


class InputError(ValueError):
    """Input that does not fit. The message says what was expected, what was received and what to do."""


def unknown_name_error(what, received, known):
    """Return the `InputError` for a name that is not in `known`, with the nearest known names first.

    Args:
        what: the argument's name, e.g. ``"model"``.
        received: the name that was given.
        known: iterable of the accepted names.
    """
    known = sorted(known)
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(received).lower(), by_lower, n=4, cutoff=0.5)
    hint = f"Did you mean {', '.join(by_lower[name] for name in near)}?" if near else f"Known: {', '.join(known)}."
    return InputError(f"Expected `{what}` to be a known name. Received: {received!r}. {hint}")


def check_choice(what, received, allowed):
    """Return `received`, or raise `InputError` where it is not one of `allowed`."""
    if received not in allowed:
        options = ", ".join(str(option) for option in allowed)
        raise InputError(f"Expected `{what}` to be one of {options}. Received: {received!r}")
    return received
