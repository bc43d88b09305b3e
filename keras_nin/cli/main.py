"""The `keras-nin` command: its sub-commands, and one clear line with exit status 2 for input that does not fit."""

import signal
import sys

import click

import keras_nin
from keras_nin.cli import audit, benchmark, edge, export, models, report, verify
from keras_nin.errors import InputError

EPILOG = "Example: keras-nin export nin_digits"


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(keras_nin.__version__, prog_name="keras-nin")
def cli():
    """Keras models around 1x1 convolutions: audited, quantised, and proven against the original.

    A MODEL is a name that `keras-nin list` shows, keras:NAME for a model of keras.applications, or a path to a .keras
    or .h5 file.

    Exit status: 0 success, 1 a check did not hold, 2 bad input or usage.
    """


for command in (
    models.list_command,
    audit.audit_command,
    audit.compare_command,
    export.export_command,
    verify.verify_command,
    verify.evaluate_command,
    models.train_command,
    benchmark.benchmark_command,
    benchmark.compare_runs_command,
    benchmark.sweep_command,
    edge.edgetpu_command,
    edge.ethosu_command,
    edge.micro_command,
    edge.fit_command,
    models.import_weights_command,
    report.claims_command,
    models.cards_command,
    report.report_command,
):
    cli.add_command(command)


def main(arguments=None, command=cli, prog_name="keras-nin"):
    """Run a command and leave the process with its exit status.

    Args:
        arguments: list of words; None takes those of the process.
        command: the click command.
        prog_name: its name in messages.
    """
    sys.exit(run(arguments, command, prog_name))


def run(arguments=None, command=cli, prog_name="keras-nin"):
    """Run a command and return its exit status; arguments as in `main`."""
    try:
        return command.main(args=arguments, prog_name=prog_name, standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
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


def _fail(message, status):
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return status
