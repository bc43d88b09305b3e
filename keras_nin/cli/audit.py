"""`keras-nin audit`: parameters and MACs, layer by layer, and whether they keep to a budget."""

import os
import sys

import click

from keras_nin import files
from keras_nin.cli.options import json_option, limits_callback, model_options
from keras_nin.cli.output import echo
from keras_nin.errors import InputError

AUDIT_FORMATS = ("text", "markdown", "csv", "json")


def _check_view(ctx, param, value):
    """Refuse what is no column, kind or role before the slow part of the command starts."""
    from keras_nin.audit.tables import AuditView

    AuditView(**{param.name: value, "depth": ctx.params.get("depth", AuditView.depth)})
    return value


@click.command(
    "audit",
    short_help="Count parameters, MACs and memory of every layer.",
    epilog="Example: keras-nin audit squeezenet_v1_1",
)
@click.argument("model", metavar="MODEL|FILE.tflite")
@model_options
@click.option(
    "--depth",
    type=click.IntRange(0, 2),
    default=2,
    show_default=True,
    is_eager=True,
    help="0: totals alone, 1: a line for each block, 2: for each layer.",
)
@click.option(
    "--columns",
    callback=_check_view,
    metavar="KEY,...",
    help="What to show: keys of the rows in --json, share_of_params, share_of_macs.",
)
@click.option(
    "--sort",
    callback=_check_view,
    metavar="KEY",
    help="Order by such a key: numbers fall, words rise, unknown last. [default: as the network runs]",
)
@click.option(
    "--only",
    callback=_check_view,
    multiple=True,
    metavar="KIND|ROLE,...",
    help="Show layers of these kinds and roles alone, such as pointwise or reduce,expand; the totals stay "
    "those of the whole network. Repeatable.",
)
@click.option(
    "--budget",
    "limits",
    callback=limits_callback("keras_nin.audit.budget"),
    multiple=True,
    metavar="ITEM=LIMIT,...",
    help="Exit status 1 where a limit does not hold: x is at most, x.. at least, x..y both. Repeatable.",
)
@click.option("--format", "form", type=click.Choice(AUDIT_FORMATS), help="What to print. [default: text]")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="The rows as CSV with raw numbers; all keys without --columns.")
@click.option("--markdown", "as_markdown", is_flag=True, help="The table as Markdown.")
@click.pass_context
def audit_command(ctx, model, weights, input_shape, settings, seed, depth, columns, sort, only, limits, form, **flags):
    """Count parameters, MACs and activation memory of every layer of MODEL, and the share of 1x1 layers.

    1 MAC = one multiply and one add; batch 1; bias, activation, pooling and BatchNormalization count 0. Bytes of
    activations are at float32 for a Keras model, at the file's own types for a .tflite.

    On a terminal the table fits its width, with bars; piped it is plain and whole. --json is always the whole audit.

    \b
    Items of a budget:
      params, trainable_params, macs       1300000, 1300k, 1.3M, 0.4G (thousands)
      weights, peak, peak_int8, activations  500B, 64kB, 2MB (thousands), 64KiB, 1.3MiB (1,024)
      pointwise_share (of MACs), pointwise_params_share  0.4 or 40%
    What is not known, such as the MACs of a custom layer, can not be shown to hold.

    \b
    More examples:
      keras-nin audit nin_digits --depth 1
      keras-nin audit nin_digits --only pointwise --sort macs --columns name,role,macs,share_of_macs
      keras-nin audit nin_digits --csv
      keras-nin audit nin_digits --budget params=60k,macs=1M,pointwise_share=0.4..
    """
    from keras_nin.audit import budget
    from keras_nin.audit.tables import AuditView

    form = _chosen_format(form, flags)
    view = AuditView(depth, columns, sort, only)
    _check_audit_options(ctx, form, view)
    result = _audit_subject(ctx, model, weights, input_shape, settings, seed)
    results = budget.check_audit_limits(result, limits)
    if form == "json":
        judged = {"budget": [one.to_json() for one in results]} if limits else {}
        click.echo(files.dump_json(result.to_json() | judged), nl=False)
    else:
        _print_audit(result, form, view)
    _print_limit_checks(results, form)
    return 0 if all(one.passed for one in results) else 1


def _chosen_format(form, flags):
    """The one format that the options ask for."""
    asked = {name for name in AUDIT_FORMATS if flags.get(f"as_{name}")} | ({form} if form else set())
    if len(asked) > 1:
        raise click.UsageError(f"Expected one format. Received: {', '.join(sorted(asked))}.")
    return asked.pop() if asked else "text"


def _check_audit_options(ctx, form, view):
    if form == "csv" and view.depth == 0:
        raise click.UsageError("Expected --depth 1 or 2 with CSV, which holds rows. Received: 0. Totals are in --json.")
    chosen = [name for name in ("depth", "columns", "sort", "only") if _is_set(ctx, name)]
    if form == "json" and chosen:
        click.echo(f"Note: JSON is always the whole audit; --{', --'.join(chosen)} change nothing in it.", err=True)


def _is_set(ctx, name):
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _audit_subject(ctx, model, weights, input_shape, settings, seed):
    from keras_nin.audit import audit_model

    if not model.endswith(".tflite"):
        from keras_nin.workflows import models  # slow: a file has no need of what it imports

        loaded = models.load_model(model, weights, input_shape, settings, seed)
        return audit_model(loaded.model, name=loaded.name)
    options = {"weights": "--weights", "input_shape": "--input-shape", "settings": "--set", "seed": "--seed"}
    given = [option for name, option in options.items() if _is_set(ctx, name)]
    if given:
        raise InputError(
            f"Expected no {', '.join(given)} with a file, which holds its network whole. Received: {model!r}"
        )
    if not os.path.isfile(model):
        raise InputError(f"Expected a .tflite file. Received: {model!r}, which is no file")
    return audit_model(model)


def _print_audit(result, form, view):
    from keras_nin.audit import tables

    if form == "text" and sys.stdout.isatty():
        from rich.console import Console

        from keras_nin.audit import terminal

        terminal.print_audit(result, Console(highlight=False, emoji=False, markup=False), view)
        return
    text = {"text": tables.format_audit_text, "markdown": tables.format_audit_markdown, "csv": tables.format_audit_csv}[
        form
    ](result, view)
    echo(text.rstrip("\n"))


def _print_limit_checks(results, form):
    """The budget's lines: below the text; beside other formats, on stderr, those alone that do not hold."""
    if form == "text" and results:
        click.echo()
    for one in results:
        if form == "text":
            echo(str(one))
        elif not one.passed:
            click.echo(str(one), err=True)


# MERGED `keras-nin compare`: two networks side by side, or a model and the file that was made of it.


@click.command(
    "compare",
    short_help="Compare models, files, or a model and its file.",
    epilog="Example: keras-nin compare nin_digits exported/nin_digits_int8.tflite",
)
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@model_options
@json_option
def compare_command(first, second, weights, input_shape, settings, seed, as_json):
    """Compare A with B: models, .tflite files, or a model and its file.

    A model and a file are reconciled: what became of every layer, why every operator is there, and whether the MACs
    agree exactly. Exit status 1 where they do not. Two models, or two files, are put side by side by the names of their
    rows. --weights, --input-shape and --set are for A, or for the only model.
    """
    from keras_nin.audit import compare_models
    from keras_nin.workflows import models

    sides = [first, second]
    are_files = [side.endswith(".tflite") for side in sides]
    for side, is_file in zip(sides, are_files, strict=True):
        if not is_file:
            models.check_model(side)
    optioned = are_files.index(False) if False in are_files else None
    names = [None, None]
    for position, is_file in enumerate(are_files):
        if is_file:
            continue
        options = (weights, input_shape, settings) if position == optioned else ()
        loaded = models.load_model(sides[position], *options, seed=seed)
        sides[position], names[position] = loaded.model, loaded.name
    result = compare_models(*sides, name_a=names[0], name_b=names[1])
    if as_json:
        models.print_json(result.to_json())
    else:
        click.echo(str(result))
    for problem in result.problems:
        models.note(f"Does not agree: {problem}")
    return 0 if result.passed else 1
