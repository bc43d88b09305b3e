"""`keras-nin edgetpu`: what the Edge TPU compiler would make of a file, or of a model once exported."""

import dataclasses
import os
import pathlib
import re
import sys
import types

import click

from keras_nin.cli.options import COUNT, Number, data_option, json_option, model_options
from keras_nin.errors import InputError

_EXPORT_OPTIONS = ("weights", "input_shape", "settings", "seed", "data", "calibration", "calibration_count", "io")
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


@click.command("edgetpu", epilog="Example: keras-nin edgetpu nin_digits --require full")
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
@model_options
@data_option
@click.option("--calibration", metavar="DATASET|DIR|FILE.npz|random", help="Images that calibrate the export.")
@click.option("--calibration-count", type=COUNT, metavar="N", help="How many of them. [default: 100]")
@click.option("--io", type=click.Choice(["int8", "uint8", "float32"]), help="Type of the export's input and output.")
@json_option
@click.pass_context
def command(ctx, model, multiple_subgraphs, require, compiles, timeout, as_json, **exporting):
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
    from keras_nin.edge.edgetpu import compiler

    if compiles and not compiler.installed():
        raise compiler.missing()
    given = {name: value for name, value in exporting.items() if _given(ctx, name)}
    if model.endswith(".tflite"):
        return _judge(_file(model, given), model, multiple_subgraphs, require, compiles, timeout, as_json)
    from keras_nin import files

    with files.temporary_folder() as folder:
        path = _export(model, given, folder)
        return _judge(path, path.name, multiple_subgraphs, require, compiles, timeout, as_json)


def _given(ctx, name):
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _file(path, given):
    if given:
        names = ", ".join("--set" if name == "settings" else f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"Expected no {names} with a file, which is exported already. Received: {path!r}")
    if not os.path.isfile(path):
        raise InputError(f"Expected a .tflite file. Received: {path!r}, which is no file")
    return path


def _judge(path, name, multiple_subgraphs, require, compiles, timeout, as_json):
    from keras_nin.cli import stages
    from keras_nin.edge.edgetpu import compiler, judge
    from keras_nin.edge.edgetpu.comparison import differences

    verdict = dataclasses.replace(judge(path, multiple_subgraphs=multiple_subgraphs), model=name)
    compilation, found = None, ()
    if compiles:
        with stages.working("Running edgetpu_compiler"):
            compilation = compiler.run(path, multiple_subgraphs=multiple_subgraphs, seconds=timeout)
        found = differences(verdict, compilation.rows) if compilation.rows else ()
    if as_json:
        more = {"compiler": _compiler_json(compilation, found)} if compilation else {}
        stages.print_json(verdict.to_json() | more)
    else:
        _print(verdict, compilation, found)
    if require is None:
        return 0
    return _check(verdict, require)


def _compiler_json(compilation, found):
    return compilation.to_json() | {"differences": [dataclasses.asdict(each) for each in found]}


def _print(verdict, compilation, found):
    from keras_nin.report import edgetpu as report

    _echo(report.text(verdict))
    if compilation:
        _echo("\n" + report.comparison_text(compilation, found))


def _check(verdict, require):
    share = verdict.share if verdict.compiles else 0.0
    if share >= require:
        return 0
    click.echo(f"Expected {require:.4g} of the operators on the Edge TPU, as a share. Received: {share:.4g}", err=True)
    return 1


def _echo(text):
    from keras_nin.tables import fit_encoding

    click.echo(fit_encoding(text, getattr(sys.stdout, "encoding", None) or "utf-8"))


def _export(model, given, folder):
    """Export a MODEL to int8 into a folder, with the defaults of `keras-nin export`; return the file's path."""
    from keras_nin import files
    from keras_nin.cli import export, making, stages
    from keras_nin.export import schemes

    stages.check_model(model)
    options = export.command.make_context("export", [model]).params | given
    scheme = schemes.parse_schemes("int8")[0]
    chosen = [scheme.with_io(options["io"]) if options["io"] else scheme]
    arguments = types.SimpleNamespace(**options)
    made = making.make(making.prepare(arguments, chosen), chosen)[0].export
    contents = made.contents(folder / f"{made.stem}.tflite")
    files.save_all(contents)
    return next(iter(contents))


def export_and_judge(context, **arguments):
    """Do what `keras-nin export` does; without --json, print the Edge TPU's verdict on each int8 file after it.

    Args:
        context: click's.
        arguments: of `keras-nin export`.
    """
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
    _echo("\n" + "\n".join([*report.reasons(verdict), *report.summary(verdict)]))
