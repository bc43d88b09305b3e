"""Other programs that devices are reached with: ssh and adb, as the user has them."""

import os
import shlex
import subprocess

from keras_nin.errors import InputError

_PARTS_OF = {"ssh": "OpenSSH", "adb": "Android's platform tools"}


def variable(name):
    """Return the name of the environment variable that may hold another command for a program."""
    return f"KERAS_NIN_{name.upper()}"


def command(name):
    """Return the words that start a program: its name, or what the user's `variable` holds.

    Raises:
        InputError: the variable has a quote that does not close.
    """
    text = os.environ.get(variable(name), "")
    try:
        return shlex.split(text) or [name]
    except ValueError as error:
        raise InputError(f"Expected a command in {variable(name)}. Received: {text!r} ({error})") from None


def call(name, words, data=b"", seconds=None):
    """Run a program to its end, and return its `subprocess.CompletedProcess` with bytes in stdout and stderr.

    Args:
        name: "ssh" or "adb".
        words: its arguments, after those of `command`.
        data: for its stdin.
        seconds: after which it is killed.

    Raises:
        InputError: there is no such program, it cannot be started, or takes longer.
    """
    whole = [*command(name), *words]
    try:
        return subprocess.run(whole, input=data, capture_output=True, timeout=seconds, start_new_session=True)
    except FileNotFoundError:
        raise InputError(f"Expected the program {whole[0]!r} of {_PARTS_OF[name]}. Received: no such program") from None
    except OSError as error:
        raise InputError(f"Expected the program {whole[0]!r} to start. Received: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"Expected {name} to end within {seconds:.0f} s. Received: no end, and no answer") from None
