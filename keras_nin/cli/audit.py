"""`keras-nin audit` and `compare`: what networks cost, layer by layer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from keras_nin.cli import options
from keras_nin.cli.output import TerminalProgress, echo, note, print_checks, print_json, print_result

if TYPE_CHECKING:
    from keras_nin.audit import Audit
    from keras_nin.audit.tables import AuditView


def check_view(context: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse an unknown column, kind or role before the slow part of the command starts."""
    from keras_nin.audit.tables import AuditView

    AuditView(**{param.name or "": value, "depth": context.params.get("depth", AuditView.depth)})
    return value


def audit_command(
    model: str,
    view: AuditView,
    require: str | None,
    form: str | None,
    as_json: bool,
    as_csv: bool,
    as_markdown: bool,
    **model_options: Any,
) -> int:
    """Run `keras-nin audit`."""
    from keras_nin.audit.budget import check_audit_limits, parse_audit_limits
    from keras_nin.workflows.audit import audit_model

    flags = {"json": as_json, "csv": as_csv, "markdown": as_markdown}
    requested = sorted({name for name, is_requested in flags.items() if is_requested} | ({form} if form else set()))
    if len(requested) > 1:
        raise click.UsageError(f"Expected one format. Received: {', '.join(requested)}.")
    form = requested[0] if requested else "text"
    _check_view_options(form, view)
    limits = parse_audit_limits(require) if require else ()
    audit = audit_model(model, **model_options, progress=TerminalProgress())
    checks = check_audit_limits(audit, limits)
    if form == "json":
        print_json(audit.to_json() | ({"require": [check.to_json() for check in checks]} if checks else {}))
    else:
        _print_audit(audit, form, view)
    print_checks(checks, failed_only=form != "text")
    return 0 if all(check.passed for check in checks) else 1


def _check_view_options(form: str, view: AuditView) -> None:
    if form == "csv" and view.depth == 0:
        raise click.UsageError("CSV has rows, so --depth must be 1 or 2. Totals are in --json.")
    context = click.get_current_context()
    chosen = [name for name in ("depth", "columns", "sort", "only") if options.is_set(context, name)]
    if form == "json" and chosen:
        note(f"Note: JSON is always the whole audit; --{', --'.join(chosen)} change nothing in it.")


def _print_audit(audit: Audit, form: str, view: AuditView) -> None:
    from keras_nin.audit import tables

    if form == "text" and sys.stdout.isatty():
        from rich.console import Console

        from keras_nin.audit import terminal

        terminal.print_audit(audit, Console(highlight=False, emoji=False, markup=False), view)
        return
    echo(getattr(tables, f"format_audit_{form}")(audit, view))


def compare_command(first: str, second: str, as_json: bool, **model_options: Any) -> int:
    """Run `keras-nin compare`."""
    from keras_nin.workflows.audit import compare_models

    comparison = compare_models(first, second, **model_options, progress=TerminalProgress())
    print_result(comparison, as_json, lambda: str(comparison))
    for problem in comparison.problems:
        note(f"FAIL: {problem}")
    return 0 if comparison.passed else 1
