"""`keras-nin audit`, `check` and `compare`: what networks cost, layer by layer, and whether files are in order."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from keras_nin.cli import options
from keras_nin.cli.output import TerminalProgress, echo, is_quiet, note, print_checks, print_json, print_result, remark

if TYPE_CHECKING:
    from keras_nin.audit import Audit
    from keras_nin.audit.tables import AuditView


def check_view(context: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse an unknown column, kind or role before the slow part of the command starts."""
    from keras_nin.audit.tables import AuditView

    AuditView(**{param.name or "": value, "depth": context.params.get("depth", AuditView.depth)})
    return value


@click.command("audit", cls=options.Command, epilog="Example: keras-nin audit squeezenet_v1_1")
@click.argument("model", metavar="MODEL|FILE.tflite")
@options.model_options
@click.option("--depth", type=click.IntRange(0, 2), is_eager=True, default=2,
              help="0: totals only, 1: a row for each block, 2: for each layer.")  # fmt: skip
@click.option("--columns", callback=check_view, metavar="KEY,...",
              help="Columns: keys of the rows in --json, share_of_params, share_of_macs.")  # fmt: skip
@click.option("--sort", callback=check_view, metavar="KEY",
              help="Sort by one of these keys: numbers descending, words ascending, unknown last. [default: order of "
              "execution]")  # fmt: skip
@click.option("--only", multiple=True, callback=check_view, metavar="KIND|ROLE,...",
              help="Show only layers of these kinds and roles, such as pointwise or reduce,expand; the totals stay "
              "those of the whole network. Repeatable.")  # fmt: skip
@options.require_option(help="Exit status 1 where a limit fails: x is at most, x.. at least, x..y both. Repeatable.")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "csv", "json"]),
              help="What to print. [default: text]")  # fmt: skip
@options.json_option
@click.option("--csv", "as_csv", is_flag=True, help="The rows as CSV with raw numbers; all keys without --columns.")
@click.option("--markdown", "as_markdown", is_flag=True, help="The table as Markdown.")
def audit_command(
    model: str,
    depth: int,
    columns: str | None,
    sort: str | None,
    only: tuple[str, ...],
    require: str | None,
    form: str | None,
    as_json: bool,
    as_csv: bool,
    as_markdown: bool,
    **model_options: Any,
) -> int:
    """Count parameters, MACs and activation memory of every layer of MODEL, and the share of 1x1 layers.

    1 MAC = one multiply and one add, for one sample; bias, activation, pooling and BatchNormalization count 0. Bytes of
    activations are at float32 for a Keras model, at the file's own types for a .tflite.

    On a terminal the table fits its width, with bars; piped it is plain and complete. --json is always the whole audit.

    \b
    Items of --require:
      params, trainable_params, macs       1300000, 1300k, 1.3M, 0.4G (thousands)
      weights, peak, peak_int8, activations  500B, 64kB, 2MB (thousands), 64KiB, 1.3MiB (1,024)
      pointwise_share (of MACs), pointwise_params_share  0.4 or 40%
    A value that is not known, such as the MACs of a custom layer, fails its limit.

    \b
    More examples:
      keras-nin audit nin_digits --depth 1
      keras-nin audit nin_digits --only pointwise --sort macs --columns name,role,macs,share_of_macs
      keras-nin audit nin_digits --csv
      keras-nin audit nin_digits --require params=60k,macs=1M,pointwise_share=0.4..
    """
    from keras_nin.audit.budget import check_audit_limits, parse_audit_limits
    from keras_nin.audit.tables import AuditView
    from keras_nin.limits import all_passed
    from keras_nin.workflows.audit import audit_model

    flags = {"json": as_json, "csv": as_csv, "markdown": as_markdown}
    requested = sorted({name for name, is_requested in flags.items() if is_requested} | ({form} if form else set()))
    if len(requested) > 1:
        raise click.UsageError(f"Expected one format. Received: {', '.join(requested)}.")
    form = requested[0] if requested else "text"
    view = AuditView(depth, columns, sort, only)
    _check_view_options(form, view)
    limits = parse_audit_limits(require) if require else ()
    audit = audit_model(model, **model_options, progress=TerminalProgress())
    checks = check_audit_limits(audit, limits)
    if form == "json":
        print_json(audit.to_json() | ({"require": [check.to_json() for check in checks]} if checks else {}))
    else:
        _print_audit(audit, form, view)
    print_checks(checks, failed_only=form != "text")
    return 0 if all_passed(checks) else 1


def _check_view_options(form: str, view: AuditView) -> None:
    if form == "csv" and view.depth == 0:
        raise click.UsageError("CSV has rows, so --depth must be 1 or 2. Totals are in --json.")
    context = click.get_current_context()
    chosen = [name for name in ("depth", "columns", "sort", "only") if options.is_set(context, name)]
    if form == "json" and chosen:
        remark(f"Note: JSON is always the whole audit; --{', --'.join(chosen)} change nothing in it.")


def _print_audit(audit: Audit, form: str, view: AuditView) -> None:
    from keras_nin.audit import tables

    if form == "text" and sys.stdout.isatty() and not is_quiet():
        from rich.console import Console

        from keras_nin.audit import terminal

        terminal.print_audit(audit, Console(highlight=False, emoji=False, markup=False), view)
        return
    echo(getattr(tables, f"format_audit_{form}")(audit, view))


@click.command("check", cls=options.Command, epilog="Example: keras-nin check exported/nin_digits_int8.tflite")
@click.argument("paths", nargs=-1, required=True, metavar="FILE.tflite...")
@options.json_option
def check_command(paths: tuple[str, ...], as_json: bool) -> int:
    """Validate each FILE without running it: bounds, shapes, indices, operators, quantization, signatures.

    An error is what no runtime takes: it refuses the file, or would compute undefined values. A warning names the
    targets that do not take the file. Exit status 1 where a file has an error, 2 where one is no .tflite file at all.
    The other commands check a file before they use it.

    \b
    More examples:
      keras-nin check downloaded/*.tflite
      keras-nin check model.tflite --json
    """
    from keras_nin import schemas
    from keras_nin.workflows.check import check_file

    results = [check_file(path) for path in paths]
    if as_json:
        print_json({"schema": schemas.CHECK, "files": [result.to_json()["files"][0] for result in results]})
    else:
        echo("\n".join(map(str, results)))
    if is_quiet() and not as_json:
        for result in results:
            for problem in result.problems:
                note(f"{result.file}: {problem.severity}: {problem.message}")
    return 0 if all(result.passed for result in results) else 1


@click.command(
    "compare", cls=options.Command, epilog="Example: keras-nin compare nin_digits exported/nin_digits_int8.tflite"
)
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@options.model_options
@click.option("--data", "test", metavar=options.DATASET,
              help="Images to run two .tflite files on, to compare and score their outputs.")  # fmt: skip
@options.image_options
@options.test_count_option
@options.task_option
@options.threads_option
@options.json_option
def compare_command(first: str, second: str, as_json: bool, **arguments: Any) -> int:
    """Compare A with B: models, .tflite files, or a model and its file.

    A model and a file are reconciled: which operators every layer maps to, why every operator exists, and whether the
    MACs are equal. Exit status 1 where they are not. Two models, or two files, are compared row by row, by name.
    --weights, --input-shape and --set are for A, or for the only model. With --data two files, whoever made them, also
    run on the same images; each has the preprocessing of its own record, unless --preprocessing chooses one.
    """
    from keras_nin.workflows.audit import compare_models

    comparison = compare_models(first, second, **arguments, progress=TerminalProgress())
    print_result(comparison, as_json, lambda: str(comparison))
    if comparison.outputs and not as_json:
        from keras_nin.report.accuracy import format_output_differences

        echo(f"\n{format_output_differences(comparison.outputs, (first, second))}")
    for problem in comparison.problems:
        note(f"FAIL: {problem}")
    return 0 if comparison.passed else 1
