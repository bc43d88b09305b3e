"""`keras-nin claims` and `report`: what articles claim, and all results on one page."""

from __future__ import annotations

from typing import Any

import click

from keras_nin.cli.output import TerminalProgress, note, print_result


def claims_command(markdown: bool, as_json: bool, **arguments: Any) -> int:
    """Run `keras-nin claims`."""
    if as_json and markdown:
        raise click.UsageError("--json and --markdown exclude each other.")
    from keras_nin.report.claims import format_claims, format_claims_markdown
    from keras_nin.workflows.reports import check_claims

    result = check_claims(**arguments, progress=TerminalProgress())
    if arguments["plot"] is not None:
        note(f"written: {arguments['plot']}")
    print_result(result, as_json, lambda: (format_claims_markdown if markdown else format_claims)(result))
    return 0 if result.passed else 1


def report_command(**arguments: Any) -> None:
    """Run `keras-nin report`."""
    from keras_nin.workflows.reports import build_report

    for path in build_report(**arguments, progress=TerminalProgress()):
        note(f"written: {path}")
