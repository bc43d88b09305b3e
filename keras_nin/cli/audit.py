"""`keras-nin audit`: parameters and MACs, layer by layer, and whether they keep to a budget."""

import os
import sys

import click

from keras_nin import files
from keras_nin.cli.options import json_option, limits_of, model_options
from keras_nin.cli.printing import echo
from keras_nin.errors import InputError

FORMATS = ("text", "markdown", "csv", "json")


def _view(ctx, param, value):
    """Refuse what is no column, kind or role before the slow part of the command starts."""
    from keras_nin.audit.render import View

    View(**{param.name: value, "depth": ctx.params.get("depth", View.depth)})
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
    callback=_view,
    metavar="KEY,...",
    help="What to show: keys of the rows in --json, share_of_params, share_of_macs.",
)
@click.option(
    "--sort",
    callback=_view,
    metavar="KEY",
    help="Order by such a key: numbers fall, words rise, unknown last. [default: as the network runs]",
)
@click.option(
    "--only",
    callback=_view,
    multiple=True,
    metavar="KIND|ROLE,...",
    help="Show layers of these kinds and roles alone, such as pointwise or reduce,expand; the totals stay "
    "those of the whole network. Repeatable.",
)
@click.option(
    "--budget",
    "limits",
    callback=limits_of("keras_nin.audit.budget"),
    multiple=True,
    metavar="ITEM=LIMIT,...",
    help="Exit status 1 where a limit does not hold: x is at most, x.. at least, x..y both. Repeatable.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), help="What to print. [default: text]")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="The rows as CSV with raw numbers; all keys without --columns.")
@click.option("--markdown", "as_markdown", is_flag=True, help="The table as Markdown.")
@click.pass_context
def command(ctx, model, weights, input_shape, settings, seed, depth, columns, sort, only, limits, form, **flags):
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
    from keras_nin.audit.render import View

    form = _form(form, flags)
    view = View(depth, columns, sort, only)
    _check_use(ctx, form, view)
    result = _audit(ctx, model, weights, input_shape, settings, seed)
    results = budget.check(result, limits)
    if form == "json":
        judged = {"budget": [one.to_json() for one in results]} if limits else {}
        click.echo(files.to_json(result.to_json() | judged), nl=False)
    else:
        _print(result, form, view)
    _print_results(results, form)
    return 0 if all(one.holds for one in results) else 1


def _form(form, flags):
    """The one format that the options ask for."""
    asked = {name for name in FORMATS if flags.get(f"as_{name}")} | ({form} if form else set())
    if len(asked) > 1:
        raise click.UsageError(f"Expected one format. Received: {', '.join(sorted(asked))}.")
    return asked.pop() if asked else "text"


def _check_use(ctx, form, view):
    if form == "csv" and view.depth == 0:
        raise click.UsageError("Expected --depth 1 or 2 with CSV, which holds rows. Received: 0. Totals are in --json.")
    chosen = [name for name in ("depth", "columns", "sort", "only") if _given(ctx, name)]
    if form == "json" and chosen:
        click.echo(f"Note: JSON is always the whole audit; --{', --'.join(chosen)} change nothing in it.", err=True)


def _given(ctx, name):
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _audit(ctx, model, weights, input_shape, settings, seed):
    from keras_nin.audit import audit

    if not model.endswith(".tflite"):
        from keras_nin.cli import stages  # slow: a file has no need of what it imports

        loaded = stages.load_model(model, weights, input_shape, settings, seed)
        return audit(loaded.model, name=loaded.name)
    options = {"weights": "--weights", "input_shape": "--input-shape", "settings": "--set", "seed": "--seed"}
    given = [option for name, option in options.items() if _given(ctx, name)]
    if given:
        raise InputError(
            f"Expected no {', '.join(given)} with a file, which holds its network whole. Received: {model!r}"
        )
    if not os.path.isfile(model):
        raise InputError(f"Expected a .tflite file. Received: {model!r}, which is no file")
    return audit(model)


def _print(result, form, view):
    from keras_nin.audit import render

    if form == "text" and sys.stdout.isatty():
        from rich.console import Console

        from keras_nin.audit.render import terminal

        terminal.show(result, Console(highlight=False, emoji=False, markup=False), view)
        return
    text = {"text": render.text, "markdown": render.markdown, "csv": render.csv_text}[form](result, view)
    echo(text.rstrip("\n"))


def _print_results(results, form):
    """The budget's lines: below the text; beside other formats, on stderr, those alone that do not hold."""
    if form == "text" and results:
        click.echo()
    for one in results:
        if form == "text":
            echo(str(one))
        elif not one.holds:
            click.echo(str(one), err=True)
