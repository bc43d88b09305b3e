"""`keras-nin edgetpu`, `ethosu`, `micro` and `fit`: what files cost on small accelerators and microcontrollers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from keras_nin.cli import options
from keras_nin.cli.output import TerminalProgress, echo, note, print_checks, print_notes, print_result

if TYPE_CHECKING:
    from keras_nin.workflows.export import ExportResult


def edgetpu_command(as_json: bool, **arguments: Any) -> int:
    """Run `keras-nin edgetpu`."""
    from keras_nin.report.edge import format_compiler_comparison, format_edgetpu
    from keras_nin.workflows.edge import check_edgetpu

    result = check_edgetpu(**arguments, progress=TerminalProgress())
    print_notes(result.notes)

    def format_result() -> str:
        compared = format_compiler_comparison(result.compilation, result.differences) if result.compilation else ""
        return f"{format_edgetpu(result)}\n\n{compared}"

    return _print_checked(result, as_json, format_result)


def export_edgetpu_command() -> click.Command:
    """Return `keras-nin export`, of int8 unless told otherwise, with the Edge TPU verdict on each file after it."""
    command = options.load_command("export")
    command.context_settings = {"default_map": {"scheme": "int8"}, "obj": _print_edgetpu_verdicts}
    command.epilog = (
        "The verdict is predicted; see `keras-nin edgetpu`. Example: python export/to_edgetpu.py nin_digits"
    )
    return command


def _print_edgetpu_verdicts(result: ExportResult) -> None:
    """Print the Edge TPU verdict on each int8 file of an export."""
    from keras_nin.report.edge import edgetpu_reason_lines, edgetpu_summary_lines
    from keras_nin.workflows.edge import check_edgetpu

    for file in result.files:
        if file.converted.scheme.integer_only and file.path is not None:
            verdict = check_edgetpu(file.path)
            echo("\n" + "\n".join([*edgetpu_reason_lines(verdict), *edgetpu_summary_lines(verdict)]))


def ethosu_command(as_json: bool, **arguments: Any) -> int:
    """Run `keras-nin ethosu`."""
    from keras_nin.report import edge
    from keras_nin.workflows.edge import estimate_ethosu

    result = estimate_ethosu(**arguments, progress=TerminalProgress())

    def format_result() -> str:
        is_single = len(result.estimates) == 1 and not result.refusals
        return edge.format_ethosu(result.estimates[0]) if is_single else edge.format_ethosu_sweep(result)

    status = _print_checked(result, as_json, format_result)
    for path in filter(None, (arguments["out"], arguments["plot"])):
        note(f"written: {path}")
    print_notes(result.notes)
    return status


def micro_command(as_json: bool, **arguments: Any) -> int:
    """Run `keras-nin micro`."""
    from keras_nin.report.edge import format_micro
    from keras_nin.workflows.edge import measure_micro

    if arguments["export"] is not None:
        arguments["seed"] = arguments["export"].seed  # the one --seed also draws the test images
    result = measure_micro(**arguments, progress=TerminalProgress())
    print_notes(result.notes)
    status = _print_checked(result, as_json, lambda: format_micro(result))
    for suffix in (".cc", ".h") if arguments["c_array"] else ():
        note(f"written: {arguments['c_array']}{suffix}")
    return status


def fit_command(as_json: bool, **arguments: Any) -> int:
    """Run `keras-nin fit`."""
    from keras_nin.report.fit import format_fit
    from keras_nin.workflows.edge import check_fit

    result = check_fit(**arguments, progress=TerminalProgress())
    return _print_checked(result, as_json, lambda: format_fit(result))


def _print_checked(result: Any, as_json: bool, format_result: Callable[[], str]) -> int:
    """Print a result and its limits, and return the exit status."""
    print_result(result, as_json, lambda: options.with_own_flags(format_result()))
    print_checks(result.checks, failed_only=as_json)
    return 0 if result.passed else 1
