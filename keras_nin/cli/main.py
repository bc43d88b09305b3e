"""The `keras-nin` command: its subcommands, and one clear line with an exit status where one fails."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import types
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import keras_nin
from keras_nin import workflows
from keras_nin.errors import InputError, TensorFlowNeededError
from keras_nin.formatting import escape_unprintable, format_message

EPILOG = "Example: keras-nin export nin_digits"
EX_SOFTWARE = 70  # of sysexits.h: an internal error
CONFIG_KEY = "keras_nin.config"  # of the contexts' `meta`: the path that --config names
_FORMAT_JSON = "--format json"  # of `keras-nin audit`
# A disk or a folder that the user must change: no internal errors.
_STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
# The module of each command, in the order of the help, and its line there; modules load when their command runs.
COMMANDS = {
    "list": ("models", "List the models of the zoo."),
    "audit": ("audit", "Count parameters, MACs and memory of every layer."),
    "check": ("audit", "Validate .tflite files without running them."),
    "compare": ("audit", "Compare models, files, or a model and its file."),
    "export": ("export", "Convert a model to .tflite files and verify them."),
    "verify": ("export", "Compare a .tflite file with its model."),
    "evaluate": ("export", "Measure accuracy on labeled images."),
    "certify": ("devices", "Compare a .tflite file's outputs on ARM and other devices."),
    "train": ("models", "Train a model on labeled images."),
    "prune": ("models", "Remove channels until a file is measured to be faster."),
    "benchmark": ("benchmark", "Measure the latency of files and of each layer."),
    "compare-runs": ("benchmark", "Show what became slower between two benchmarks."),
    "devices": ("devices", "List devices, or install emulated ARM CPUs."),
    "sweep": ("benchmark", "Time single convolutions over a grid."),
    "edgetpu": ("edge", "Predict which operators run on the Edge TPU."),
    "ethosu": ("edge", "Estimate every layer on an Ethos-U with Vela."),
    "micro": ("edge", "Find the arena that a file needs with TFLite Micro."),
    "fit": ("edge", "Show what files cost on every target."),
    "import-weights": ("models", "Turn third-party weights into a file for a model."),
    "claims": ("report", "Reproduce what well-known articles claim of 1x1 layers."),
    "cards": ("models", "Write a card and an audit of every model."),
    "report": ("report", "Write all that is known of files as one HTML page."),
}


class _Group(click.Group):
    """The commands of the table, each imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"keras_nin.cli.{COMMANDS[cmd_name][0]}")
        return getattr(module, f"{cmd_name.replace('-', '_')}_command")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=_Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(keras_nin.__version__, prog_name="keras-nin")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an unexpected error.")
@click.option("--config", metavar="FILE.toml", expose_value=False, is_eager=True, callback=lambda ctx, param, value:
              ctx.meta.update({CONFIG_KEY: value}), help="Options of the commands: a table for each. [default: "
              "[tool.keras-nin] in the nearest pyproject.toml]")  # fmt: skip
def cli() -> None:
    """Keras models around 1x1 convolutions: audited, quantized, and verified against the original.

    A MODEL is a name that `keras-nin list` shows, keras:NAME for a model of keras.applications, or a path to a .keras
    or .h5 file.

    Exit status: 0 success, 1 a check failed, 2 bad input or usage, 70 an unexpected error; 130, 141 and 143 after
    Ctrl-C, a closed pipe and SIGTERM. With --json a command that ends with 2 or 70 prints {"error": {"message", ...}}.
    """


def main(arguments: Sequence[str] | None = None, command: click.Command = cli, prog_name: str = "keras-nin") -> None:
    """Run a command with the words of the command line, None for those of the process, and end with its status."""
    _open_missing_streams()
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # Windows lacks SIGHUP
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # nohup ignores SIGHUP
            signal.signal(number, _interrupt)
    workflows.runs_one_command = True
    status = run(arguments, command, prog_name)
    # CPython ends by SIGINT, whatever the status, after a KeyboardInterrupt out of a string that exec ran, as
    # dataclasses do at import; the next string makes it forget.
    exec("")
    sys.exit(status)


def _open_missing_streams() -> None:
    """Open the null device as each standard stream that was closed, else the next file that opens takes its number."""
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    from keras_nin.child_process import postpone_signal

    if not postpone_signal(number, frame):
        raise KeyboardInterrupt(number)


def run(arguments: Sequence[str] | None = None, command: click.Command = cli, prog_name: str = "keras-nin") -> int:
    """Run a command and return its exit status; arguments as in `main`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return command.main(args=words, prog_name=prog_name, standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else prog_name
        failure = error, f"{error.format_message()} (see {path} --help)", error.exit_code
    except click.ClickException as error:
        failure = error, error.format_message(), getattr(error.__cause__, "exit_status", 2)
    except InputError as error:
        failure = error, str(error), error.exit_status
    except (click.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, EOFError):  # what click takes for the end of an answer: commands ask nothing
            failure = _unexpected(error.__cause__, words)
        else:
            number = next(iter((error.__cause__ or error).args), signal.SIGINT)
            failure = error, "interrupted" if number == signal.SIGINT else "terminated", 128 + number
    except SystemExit as error:  # click's end of a shell completion, or its answer to a reader that closed the pipe
        return 128 + signal.SIGPIPE if error.code else 0
    except TensorFlowNeededError:
        _start_again()
    except OSError as error:
        if error.errno in _STORAGE_ERRORS:
            refused = _storage_error(error)
            failure = refused, str(refused), 2
        else:
            failure = _unexpected(error, words)
    except Exception as error:
        failure = _unexpected(error, words)
    return _fail(*failure, as_json="--json" in words or _FORMAT_JSON in " ".join(words).replace("=", " "))


def _start_again() -> NoReturn:
    """Run the command of this process again, with Keras on TensorFlow."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _storage_error(error: OSError) -> InputError:
    where = "an output that can be written to" if error.filename is None else f"access to {str(error.filename)!r}"
    return InputError(f"Expected {where}. Received: {error.strerror}", path=error.filename)


def _unexpected(error: BaseException, words: Sequence[str]) -> tuple[BaseException, str, int]:
    """Return the error, message and exit status of an internal error; print its traceback with --debug."""
    hint = "" if "--debug" in words else ". Run it again with --debug for the traceback"
    if not hint:
        import traceback

        click.echo(
            "\n".join(map(escape_unprintable, "".join(traceback.format_exception(error)).splitlines())), err=True
        )
    return error, f"unexpected {type(error).__name__}: {error}{hint}", EX_SOFTWARE


def _fail(error: BaseException, message: str, status: int, as_json: bool = False) -> int:
    """Print an error as one line on stderr, and as a document on stdout where JSON was asked for."""
    message = format_message(message)
    with contextlib.suppress(OSError):  # a closed pipe, a full disk: the exit status tells
        click.echo(f"Error: {message}", err=True)
    if as_json:
        from keras_nin import files

        with contextlib.suppress(OSError):
            click.echo(files.dump_json({"error": _describe_error(error, message, status)}), nl=False)
    return status


def _describe_error(error: BaseException, message: str, status: int) -> dict[str, Any]:
    """Return the fields of an error: those of an `InputError`, and what the command line knows of a usage error."""
    source = error.__cause__ if isinstance(error, click.ClickException) and error.__cause__ else error
    fields: dict[str, Any] = dict.fromkeys(("argument", "path", "status", "received"))
    if isinstance(source, InputError):
        fields = source.to_json()
    elif isinstance(param := getattr(error, "param", None), click.Parameter):
        fields["argument"] = param.name
    return {"message": message, "type": type(source).__name__, **fields, "exit_status": status}
