"""`keras-nin edgetpu`: what the Edge TPU compiler would make of a file, or of a model once exported."""

import copy
import dataclasses
import os
import pathlib
import re
import types

import click

from keras_nin.cli.options import Number, json_option, on_the_fly_options
from keras_nin.cli.printing import echo

_FULL = "full"


def _requirement(ctx, param, value):
    """Return the least share of mapped operators, 0 to 1, of "full" or "N%"; None without it."""
    if value is None:
        return None
    if value.strip().lower() == _FULL:
        return 1.0
    match = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*%\s*", value)
    if match is None or float(match[1]) > 100:
        raise click.BadParameter(f"expected full or a share such as 95%, received {value!r}", ctx, param)
    return float(match[1]) / 100


@click.command(
    "edgetpu",
    short_help="Judge a file for the Edge TPU, operator by operator.",
    epilog="Example: keras-nin edgetpu nin_digits --require full",
)
@click.argument("model", metavar="FILE.tflite|MODEL")
@click.option("--multiple-subgraphs", is_flag=True, help="Judge as the compiler's -a does: several parts are mapped.")
@click.option(
    "--require",
    callback=_requirement,
    metavar="full|N%",
    help="Exit status 1 where less is mapped: all operators, or such a share of them.",
)
@click.option("--compile", "compiles", is_flag=True, help="Run edgetpu_compiler, where it is on PATH, and compare.")
@click.option(
    "--timeout",
    type=Number(0, min_open=True),
    default=180,
    show_default=True,
    metavar="SECONDS",
    help="Limit of --compile.",
)
@on_the_fly_options
@json_option
@click.pass_context
def command(ctx, model, **arguments):
    """Say of each operator of an int8 file whether the Edge TPU compiler would map it, why not, and what to do.

    The compiler maps one part of the graph: what depends on the first operator that it cannot map runs on the CPU.
    The verdict is a prediction, in the compiler's words, from its documentation and from the results of 103 files.
    A MODEL is exported to int8 first; nothing is written.

    \b
    More examples:
      keras-nin edgetpu exported/nin_digits_int8.tflite --json
      keras-nin edgetpu model.tflite --multiple-subgraphs --require 90%
      keras-nin edgetpu model.tflite --compile
    """
    from keras_nin.cli import on_the_fly, stages
    from keras_nin.edge.edgetpu import compiler

    given = types.SimpleNamespace(**arguments)
    if given.compiles and not compiler.installed():
        raise compiler.missing()
    if not on_the_fly.is_model(model):
        on_the_fly.check_file(ctx, model)
        return _judge(given, model, model)
    from keras_nin import files

    with files.temporary_folder() as folder:
        (made,) = on_the_fly.export(model, given, folder)
        if made.notes:
            stages.note(f"Note: {', '.join(made.notes)}: the verdict does not depend on it")
        return _judge(given, made.path, os.path.basename(made.path))


def _judge(given, path, name):
    from keras_nin.cli import stages
    from keras_nin.edge.edgetpu import compiler, judge
    from keras_nin.edge.edgetpu.comparison import differences

    several = given.multiple_subgraphs
    verdict = dataclasses.replace(judge(path, multiple_subgraphs=several), model=name)
    compilation, found = None, ()
    if given.compiles:
        with stages.working("Running edgetpu_compiler"):
            compilation = compiler.run(path, multiple_subgraphs=several, seconds=given.timeout)
        found = differences(verdict, compilation.rows) if compilation.rows else ()
    if given.as_json:
        more = {"compiler": _compiler_json(compilation, found)} if compilation else {}
        stages.print_json(verdict.to_json() | more)
    else:
        _print(verdict, compilation, found)
    return 0 if given.require is None else _check(verdict, given.require)


def _compiler_json(compilation, found):
    return compilation.to_json() | {"differences": [dataclasses.asdict(each) for each in found]}


def _print(verdict, compilation, found):
    from keras_nin.report import edgetpu as report

    echo(report.text(verdict))
    if compilation:
        echo("\n" + report.comparison_text(compilation, found))


def _check(verdict, require):
    share = verdict.share if verdict.compiles else 0.0
    if share >= require:
        return 0
    asked = "all" if require == 1 else f"at least {require * 100:g} %"
    click.echo(
        f"Expected {asked} of the operators on the Edge TPU. Received: {verdict.mapped if share else 0} of "
        f"{verdict.kept}, {share:.1%}",
        err=True,
    )
    return 1


def export_command():
    """Return the command `keras-nin export`, of int8 unless told otherwise, with the verdict on each file after it."""
    from keras_nin.cli import export

    command = copy.copy(export.command)
    command.context_settings = {"default_map": {"scheme": "int8"}}
    command.callback = click.pass_context(_export_and_judge)
    command.epilog = (
        "The verdict is predicted; see `keras-nin edgetpu`. Example: python export/to_edgetpu.py nin_digits"
    )
    return command


def _export_and_judge(context, **arguments):
    """Do what `keras-nin export` does; without --json, print the Edge TPU's verdict on each int8 file."""
    from keras_nin.cli import exported, making, reproduce, stages
    from keras_nin.export import schemes

    original = None
    if arguments["sidecar"] is not None:
        original = reproduce.read(arguments["sidecar"])
        arguments = vars(reproduce.arguments(context, original))
    given = types.SimpleNamespace(**arguments)
    chosen = [scheme.with_io(given.io) if given.io else scheme for scheme in schemes.parse_schemes(given.scheme)]
    stages.check_output_folder(given.out)
    job = making.prepare(given, chosen)
    made = making.make(job, chosen)
    code = exported.finish(job, made, original)
    if not given.as_json:
        for export in (each.export for each in made if each.export.scheme.integer_only):
            _print_verdict(pathlib.Path(given.out) / f"{export.stem}.tflite")
    return code


def _print_verdict(path):
    from keras_nin.edge.edgetpu import judge
    from keras_nin.report import edgetpu as report

    verdict = judge(path)
    echo("\n" + "\n".join([*report.reasons(verdict), *report.summary(verdict)]))
