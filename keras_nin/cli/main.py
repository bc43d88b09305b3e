"""The `keras-nin` command: its subcommands, and one clear line with an exit status where one fails."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence

import click

import keras_nin
from keras_nin.errors import InputError

EPILOG = "Example: keras-nin export nin_digits"
EX_SOFTWARE = 70  # of sysexits.h: an internal error
# The module of each command, in the order of the help, and its line there; modules load when their command runs.
COMMANDS = {
    "list": ("models", "List the models of the zoo."),
    "audit": ("audit", "Count parameters, MACs and memory of every layer."),
    "compare": ("audit", "Compare models, files, or a model and its file."),
    "export": ("export", "Convert a model to .tflite files and verify them."),
    "verify": ("export", "Compare a .tflite file with its model."),
    "evaluate": ("export", "Measure accuracy on labeled images."),
    "train": ("models", "Train a model on labeled images."),
    "benchmark": ("benchmark", "Measure the latency of files and of each layer."),
    "compare-runs": ("benchmark", "Show what became slower between two benchmarks."),
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
def cli() -> None:
    """Keras models around 1x1 convolutions: audited, quantized, and verified against the original.

    A MODEL is a name that `keras-nin list` shows, keras:NAME for a model of keras.applications, or a path to a .keras
    or .h5 file.

    Exit status: 0 success, 1 a check failed, 2 bad input or usage, 70 an unexpected error.
    """


def main(arguments: Sequence[str] | None = None, command: click.Command = cli, prog_name: str = "keras-nin") -> None:
    """Run a command with the words of the command line, None for those of the process, and end with its status."""
    sys.exit(run(arguments, command, prog_name))


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
        return _fail(f"{error.format_message()} (see {path} --help)", error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except InputError as error:
        return _fail(str(error), 2)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 128 + signal.SIGINT)
    except SystemExit:  # click's answer to a reader that closed the pipe, as `head` does
        return 128 + signal.SIGPIPE
    except Exception as error:
        hint = "" if "--debug" in words else ". Run it again with --debug for the traceback"
        if not hint:
            import traceback

            traceback.print_exc()
        return _fail(f"unexpected {type(error).__name__}: {error}{hint}", EX_SOFTWARE)


def _fail(message: str, status: int) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return status
