"""`keras-nin edgetpu`: what the Edge TPU compiler would make of a file, or of a model once exported."""

import contextlib
import copy
import dataclasses
import os
import pathlib
import re
import shlex
import types

import click

from keras_nin.cli import options
from keras_nin.cli.options import Number, json_option, temporary_export_options
from keras_nin.cli.output import echo
from keras_nin.edge.ethosu.records import DEFAULT_ACCELERATOR
from keras_nin.edge.fit import FIT_SCHEMA, TARGETS, FitSettings
from keras_nin.errors import InputError, check_choice
from keras_nin.workflows import temporary_export

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
@temporary_export_options
@json_option
@click.pass_context
def edgetpu_command(ctx, model, **arguments):
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
    from keras_nin.workflows import models, temporary_export

    given = types.SimpleNamespace(**arguments)
    if given.compiles:
        compiler.find_compiler()
    if not temporary_export.is_model(model):
        temporary_export.check_file(ctx, model)
        return _check_edgetpu(given, model, model)
    from keras_nin import files

    with files.temporary_folder() as folder:
        (made,) = temporary_export.export_temporary(model, given, folder)
        if made.notes:
            models.note(f"Note: {', '.join(made.notes)}: the verdict does not depend on it")
        return _check_edgetpu(given, made.path, os.path.basename(made.path))


def _check_edgetpu(given, path, name):
    from keras_nin.edge.edgetpu import check_edgetpu, compiler
    from keras_nin.edge.edgetpu.compiler import compare_with_compiler
    from keras_nin.workflows import models

    several = given.multiple_subgraphs
    verdict = dataclasses.replace(check_edgetpu(path, multiple_subgraphs=several), model=name)
    compilation, found = None, ()
    if given.compiles:
        with models.working("Running edgetpu_compiler"):
            compilation = compiler.run_compiler(path, multiple_subgraphs=several, seconds=given.timeout)
        found = compare_with_compiler(verdict, compilation.rows) if compilation.rows else ()
    if given.as_json:
        more = {"compiler": _compiler_json(compilation, found)} if compilation else {}
        models.print_json(verdict.to_json() | more)
    else:
        _print_edgetpu(verdict, compilation, found)
    return 0 if given.require is None else _check_share(verdict, given.require)


def _compiler_json(compilation, found):
    return compilation.to_json() | {"differences": [dataclasses.asdict(each) for each in found]}


def _print_edgetpu(verdict, compilation, found):
    from keras_nin.report import edge as report

    echo(report.format_edgetpu(verdict))
    if compilation:
        echo("\n" + report.format_compiler_comparison(compilation, found))


def _check_share(verdict, require):
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


def export_edgetpu_command():
    """Return the command `keras-nin export`, of int8 unless told otherwise, with the verdict on each file after it."""
    from keras_nin.cli import export

    command = copy.copy(export.export_command)
    command.context_settings = {"default_map": {"scheme": "int8"}}
    command.callback = click.pass_context(_export_for_edgetpu)
    command.epilog = (
        "The verdict is predicted; see `keras-nin edgetpu`. Example: python export/to_edgetpu.py nin_digits"
    )
    return command


def _export_for_edgetpu(context, **arguments):
    """Do what `keras-nin export` does; without --json, print the Edge TPU's verdict on each int8 file."""
    from keras_nin.export import schemes
    from keras_nin.workflows import export as export_module
    from keras_nin.workflows import models, reproduction

    original = None
    if arguments["sidecar"] is not None:
        original = reproduction.read_original(arguments["sidecar"])
        arguments = vars(reproduction.original_arguments(context, original))
    given = types.SimpleNamespace(**arguments)
    chosen = [scheme.with_io(given.io) if given.io else scheme for scheme in schemes.parse_schemes(given.scheme)]
    models.check_output_folder(given.out)
    job = export_module.prepare(given, chosen)
    made = export_module.convert_schemes(job, chosen)
    code = export_module.finish_export(job, made, original)
    if not given.as_json:
        for export in (each.export for each in made if each.export.scheme.integer_only):
            _print_verdict(pathlib.Path(given.out) / f"{export.stem}.tflite")
    return code


def _print_verdict(path):
    from keras_nin.edge.edgetpu import check_edgetpu
    from keras_nin.report import edge as report

    verdict = check_edgetpu(path)
    echo("\n" + "\n".join([*report.edgetpu_reason_lines(verdict), *report.edgetpu_summary_lines(verdict)]))


# MERGED `keras-nin ethosu`: what Arm's compiler Vela makes of an int8 file on Ethos-U NPUs.

_ETHOSU_NOTES = {
    temporary_export.RANDOM: "random weights: compressed sizes and the times that wait for weights are of no trained network",
    temporary_export.NOISE: "calibrated on noise: good for times alone (--calibration names images)",
}


def _accelerators(ctx, param, value):
    from keras_nin.edge.ethosu import records

    return records.parse_accelerators(value)


@click.command(
    "ethosu",
    short_help="Estimate a file on an Ethos-U, layer by layer, with Vela.",
    epilog="Example: keras-nin ethosu exported/nin_digits_int8.tflite",
)
@click.argument("file", metavar="FILE.tflite|MODEL")
@click.option(
    "--accelerator",
    "accelerators",
    multiple=True,
    default=(DEFAULT_ACCELERATOR,),
    show_default=True,
    callback=_accelerators,
    metavar="NAME[,NAME...]|all",
    help="Which, of those below. Several are compared. Repeatable.",
)
@click.option("--system-config", metavar="NAME", help="Clock and memories: a section of --config. [default: Vela's]")
@click.option("--memory-mode", metavar="NAME", help="What lies in which memory: a section too. [default: Vela's]")
@click.option("--config", multiple=True, metavar="FILE.ini", help="Vela's configuration. [default: its own]")
@click.option(
    "--require",
    "limits",
    callback=options.limits_callback("keras_nin.edge.ethosu.limits"),
    multiple=True,
    metavar="full|N%|ITEM=LIMIT,...",
    help="Exit status 1 where it does not hold on an accelerator. Repeatable.",
)
@click.option("-o", "--out", "compiled", metavar="FILE.tflite", help="Keep the compiled file, of one accelerator.")
@click.option("--png", metavar="FILE.png", help="Save a picture of where the time goes on each accelerator.")
@click.option(
    "--time-limit",
    type=options.Number(0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="The longest that Vela may take for an accelerator.",
)
@options.temporary_export_options
@options.force_option
@options.json_option
@click.pass_context
def ethosu_command(context, **arguments):
    """Compile FILE, an int8 .tflite, with Vela, and show what it expects of every layer on an Ethos-U.

    NPU or CPU, cycles, MACs and the share of those that the accelerator can do, bytes moved, and what a layer waits
    for; sums by 1x1 role; time at the clock, memory, and the size of the compiled file. Figures are those of Vela's
    model of the hardware; it has no time for what it leaves to the CPU. A MODEL is exported to int8 first.

    Needs Vela: pip install 'keras-nin[ethosu]'.

    \b
    Accelerators (the last number is MACs a cycle):
      ethos-u55-32 -64 -128 -256; ethos-u65-256 -512; ethos-u85-128 -256 -512 -1024 -2048
    What may be required:
      full                       no operator is left to the CPU
      95% or npu=95%             so many of the network's MACs are in the NPU
      time=20ms                  at most, in us, ms or s, with nothing on the CPU
      sram, dram, flash, compiled=512KiB   at most, in B, kB, MB (thousands), KiB, MiB (1,024)
    What is not known can not be shown to hold.

    \b
    More examples:
      keras-nin ethosu exported/nin_digits_int8.tflite --accelerator all --png sweep.png
      keras-nin ethosu exported/nin_digits_int8.tflite --require full,time=1ms,sram=64KiB
      keras-nin ethosu exported/nin_digits_int8.tflite -o compiled.tflite
    """
    given = types.SimpleNamespace(**arguments)
    _check_ethosu_options(given)
    with _open_ethosu_file(context, given) as (path, notes):
        sweep = _estimate_ethosu(given, path)
    results = _check_ethosu_limits(sweep, given.limits)
    written = _save_ethosu(sweep, given)
    _print_ethosu(sweep, results, written, notes, given.as_json)
    return 0 if all(result.passed for result in results) else 1


def _check_ethosu_options(given):
    """Refuse what cannot be, before anything runs."""
    from keras_nin.workflows import models

    if given.compiled is not None and len(given.accelerators) > 1:
        raise InputError(f"Expected one --accelerator with -o. Received: {', '.join(given.accelerators)}")
    for option, name, ending in (("-o", given.compiled, ".tflite"), ("--png", given.png, ".png")):
        if name is None:
            continue
        path = pathlib.Path(name)
        if path.suffix.lower() != ending or path.is_dir():
            raise InputError(f"Expected {option} to name a {ending} file. Received: {name!r}")
        models.check_output_folder(path.parent)


@contextlib.contextmanager
def _open_ethosu_file(context, given):
    """Yield the path of the .tflite file, exported first where a model is given, and notes on it."""
    if not temporary_export.is_model(given.file):
        temporary_export.check_file(context, given.file)
        yield given.file, ()
        return
    from keras_nin import files
    from keras_nin.edge.ethosu import vela

    vela.find_vela()  # before Keras starts, which takes longer
    with files.temporary_folder() as folder:
        (made,) = temporary_export.export_temporary(given.file, given, folder)
        yield made.path, tuple(_ETHOSU_NOTES[note] for note in made.notes)


def _estimate_ethosu(given, path):
    from keras_nin.edge import ethosu
    from keras_nin.edge.ethosu import vela
    from keras_nin.workflows import models

    settings = vela.VelaOptions(given.system_config, given.memory_mode, given.config)
    return ethosu.estimate_ethosu(
        path,
        given.accelerators,
        options=settings,
        limit=given.time_limit,
        track=lambda items: models.track(items, "Compiling", len(items)),
    )


def _check_ethosu_limits(sweep, limits):
    from keras_nin.edge.ethosu import limits as judging

    found = [result for estimate in sweep.estimates for result in judging.check(estimate, limits)]
    return [*found, *(result for refusal in sweep.refusals for result in judging.refused(refusal, limits))]


def _save_ethosu(sweep, given):
    """Write the files that were asked for, all or none, and return their paths."""
    from keras_nin import files

    contents = {}
    if given.compiled is not None:
        contents[pathlib.Path(given.compiled)] = sweep.estimates[0].compiled
    if given.png is not None:
        from keras_nin import figures
        from keras_nin.edge.ethosu.records import summarize_groups
        from keras_nin.plots import sweeps

        contents[pathlib.Path(given.png)] = figures.render_png(
            sweeps.plot_accelerators(sweep, [summarize_groups(estimate) for estimate in sweep.estimates])
        )
    return files.write_files(contents, given.force)


def _print_ethosu(sweep, results, written, notes, as_json):
    from keras_nin.report import edge
    from keras_nin.workflows import models

    if as_json:
        judged = {"requirements": [result.to_json() for result in results]} if results else {}
        models.print_json(sweep.to_json() | {"notes": list(notes)} | judged)
    else:
        alone = len(sweep.estimates) == 1 and not sweep.refusals
        text = edge.format_ethosu(sweep.estimates[0]) if alone else edge.format_ethosu_sweep(sweep)
        lines = [text, *([""] if results else []), *map(str, results), *(f"written: {path}" for path in written)]
        echo("\n".join(lines))
    for line in (*(f"Note: {note}" for note in notes), *(map(str, _failed_checks(results)) if as_json else ())):
        models.note(line)


def _failed_checks(results):
    return [result for result in results if not result.passed]


# MERGED `keras-nin micro`: what a file needs on a microcontroller with TFLite Micro.


@click.command(
    "micro",
    short_help="Find the arena that a file needs with TFLite Micro.",
    epilog="Example: keras-nin micro exported/nin_digits_int8.tflite --require arena=256KiB",
)
@click.argument("file", metavar="FILE.tflite|MODEL")
@click.option(
    "--max-arena", type=options.Size(), metavar="SIZE", default="2MiB", show_default=True, help="Largest arena to try."
)
@click.option(
    "--require",
    metavar="ITEM=SIZE,...",
    help="Exit with 1 where the arena or the flash takes more, such as arena=256KiB,flash=1MiB.",
)
@click.option(
    "--c-array", "array", metavar="PATH", help="Write the file as PATH.cc and PATH.h: the array and its constants."
)
@options.data_option
@options.preprocessing_options
@click.option(
    "--test-count",
    type=options.COUNT,
    metavar="N",
    default=100,
    show_default=True,
    help="Compare at most N images of the test split, chosen by --seed, within --seconds.",
)
@click.option(
    "--seconds",
    type=options.Number(0),
    metavar="S",
    default=20,
    show_default=True,
    help="Each runtime compares no further image after S seconds.",
)
@click.option(
    "--time-limit",
    type=options.Number(1),
    metavar="S",
    default=300,
    show_default=True,
    help="A runtime that has not ended after S seconds is ended.",
)
@options.temporary_export_options
@options.force_option
@options.json_option
@click.pass_context
def micro_command(context, **arguments):
    """Find what FILE (.tflite) needs with TFLite Micro. A MODEL is exported to int8 first.

    The smallest tensor arena in which it runs, searched with the runtime itself on this machine, each try in a process
    of its own; the part of it that is tensors and the part that is persistent; flash; the operators to register; and
    whether the outputs are bit for bit those of LiteRT's reference kernels, on the test images that the export names
    where those are at hand, on --data, or else on random numbers.

    A persistent part measured on a 64-bit host is larger than on a microcontroller. What prevents any arena, a missing
    operator or a runtime that aborts, is reported; with --require arena=... it counts as exceeded.

    Needs pip install 'keras-nin[micro]'.
    """
    return _measure_micro(context, types.SimpleNamespace(**arguments))


def _measure_micro(context, given):
    from keras_nin.edge.micro import budget
    from keras_nin.edge.micro.cpp import c_array_paths
    from keras_nin.edge.micro.measurement import require_tflite_micro
    from keras_nin.workflows import models

    require_tflite_micro()
    is_model = temporary_export.is_model(given.file)
    if not is_model:
        temporary_export.check_file(context, given.file, other_use={"seed"})
    limits = () if given.require is None else budget.parse(given.require)
    if given.array is not None:  # what will not do is said before the search
        for path in c_array_paths(given.array):
            models.check_output_folder(path.parent)
    with contextlib.ExitStack() as stack:
        path, source = given.file, given.data
        if is_model:
            from keras_nin import files

            path, source = _export_for_micro(given, stack.enter_context(files.temporary_folder()))
        micro, graph = _search_arena(given, path, source)
        results = budget.check(micro, limits)
        written = _write_c_array(given, micro, graph)
    if given.as_json:
        models.print_json(micro.to_json() | {"require": [result.to_json() for result in results], "written": written})
    else:
        from keras_nin.report.edge import format_micro

        click.echo(format_micro(micro, results))
        for name in written:
            click.echo(f"written: {name}")
    return 0 if all(result.passed for result in results) else 1


def _search_arena(given, path, source):
    """Return the `Micro` of a file, run on the images that `source` names, and its `Graph`."""
    from keras_nin.edge.micro import measure_micro
    from keras_nin.tflite.reader import read_model
    from keras_nin.workflows import models

    graph = read_model(path)
    inputs = _micro_inputs(given, path, graph, source)
    with models.working(f"Searching the arena of {os.path.basename(path)}"):
        micro = measure_micro(
            path, max_arena=given.max_arena, inputs=inputs, seconds=given.seconds, limit=given.time_limit
        )
    return micro, graph


def _micro_inputs(given, path, graph, source):
    """Return `Inputs` of test images; None, for noise, where nothing names any that are at hand."""
    from keras_nin.edge.micro.measurement import prepare_images
    from keras_nin.workflows import images, models
    from keras_nin.workflows.evaluation import image_source, read_export_record

    export_record = read_export_record(path)
    if source is None and image_source(export_record) in temporary_export.AT_HAND:
        source = image_source(export_record)
    if source in (None, "random"):
        if given.labels or given.preprocessing or given.crop is not None:
            raise click.UsageError("Expected --data with --labels, --preprocessing and --crop.")
        return None
    shape = _image_shape(graph)
    dataset = images.ImageSources(None, source, given.labels, given.seed).test_set(None, shape[1:])
    chosen = models.choose_preprocessing(export_record.get("preprocessing"), dataset, given.preprocessing, given.crop)
    count = -(-given.test_count // shape[0]) * shape[0]
    indices = dataset.select("test", count, given.seed)
    indices = indices[: max(len(indices) // shape[0], 1) * shape[0]]
    batch = dataset.load(indices, shape[1:3], shape[3], chosen)
    return prepare_images(graph, batch, f"test images of {dataset.name}, prepared as {chosen.mode}")


def _image_shape(graph):
    """Return (B, H, W, C) of the only input; `InputError` where it takes no images."""
    from keras_nin.errors import InputError

    shapes = [graph.main.tensors[index].shape for index in graph.main.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] < 1:
        raise InputError(f"Expected a file with one input of images for --data. Received: inputs of shapes {shapes}")
    return shapes[0]


def _export_for_micro(given, folder):
    """Export a model, and return the path of the file and what names its test images, None for noise."""
    from keras_nin.workflows import models

    about = {"data": given.data, "labels": given.labels, "preprocessing": given.preprocessing, "crop": given.crop}
    (made,) = temporary_export.export_temporary(given.file, given, folder, **about)
    if made.notes:
        models.note(
            f"Note: {', '.join(made.notes)}: its outputs say nothing, and the trained network may run where it does not"
        )
    return made.path, given.data or made.images


def _write_c_array(given, micro, graph):
    """Write the C++ files, if asked for, and return their names."""
    if given.array is None:
        return []
    from keras_nin import files
    from keras_nin.edge.micro import format_c_array

    contents = {path: text.encode() for path, text in format_c_array(micro, graph, given.array).items()}
    files.write_files(contents, given.force)
    return [str(path) for path in contents]


# MERGED `keras-nin fit`: what .tflite files cost on this CPU, the Edge TPU, Ethos-U and TFLite Micro, in one table.

__all__ = ["FIT_SCHEMA", "fit_command"]

_FIT_DEFAULT = FitSettings()


def _parse_targets(ctx, param, value):
    words = [word.strip() for word in value.split(",")]
    return tuple(dict.fromkeys(check_choice("targets", word, TARGETS) for word in words))


@click.command("fit", epilog="Example: keras-nin fit exported/nin_digits_int8.tflite")
@click.argument("paths", nargs=-1, required=True, metavar="FILE.tflite...")
@click.option(
    "--targets",
    callback=_parse_targets,
    default=",".join(TARGETS),
    show_default=True,
    metavar="TARGET[,TARGET...]",
    help="Which.",
)
@options.threads_option
@click.option(
    "--seconds",
    type=options.Number(0, min_open=True),
    metavar="S",
    default=_FIT_DEFAULT.seconds,
    show_default=True,
    help="Longest measurement of a file on this CPU.",
)
@click.option(
    "--accelerator",
    default=_FIT_DEFAULT.accelerator,
    show_default=True,
    metavar="NAME",
    help="The Ethos-U; `keras-nin ethosu --help` names all.",
)
@click.option(
    "--max-arena", type=options.Size(), metavar="SIZE", default="2MiB", show_default=True, help="Largest arena to try."
)
@click.option(
    "--time-limit",
    type=options.Number(0, min_open=True),
    default=_FIT_DEFAULT.time_limit,
    show_default=True,
    metavar="S",
    help="Vela, or a runtime of TFLite Micro, is ended after S seconds.",
)
@click.option(
    "--require",
    "limits",
    callback=options.limits_callback("keras_nin.edge.fit_limits"),
    multiple=True,
    metavar="ITEM=LIMIT,...",
    help="Exit status 1 where a file does not keep to it. Repeatable.",
)
@options.json_option
def fit_command(**arguments):
    """Show what each FILE costs on every target, in one table.

    This CPU: the latency of a run, measured, and the part of it in 1x1 layers. Edge TPU: the operators that its
    compiler would map, predicted. Ethos-U: the time that Arm's compiler Vela estimates, with the extra ethosu. TFLite
    Micro: the smallest arena, searched with the runtime on this machine, with the extra micro. A target without
    figures has the reason in its place. A model is exported first: keras-nin export MODEL.

    \b
    Targets: cpu, edgetpu, ethosu, micro
    What may be required:
      cpu=5ms             the median on this CPU, at most, in us, ms or s
      edgetpu=full|95%    so many of the operators are mapped
      ethosu=2ms          Vela's time at most, with nothing left to the CPU
      sram=64KiB          in use on the Ethos-U at most, in B, kB, MB (thousands), KiB, MiB (1,024)
      arena=256KiB        of TFLite Micro at most
      flash=1MiB          the file's size at most
    What is not known can not be shown to hold.

    \b
    More examples:
      keras-nin fit a_int8.tflite b_int8.tflite --targets cpu,edgetpu
      keras-nin fit a_int8.tflite --require cpu=5ms,edgetpu=full --require arena=256KiB
      keras-nin fit a_int8.tflite b_int8.tflite --json > fit.json; keras-nin report fit.json -o report.html
    """
    return _check_fit(types.SimpleNamespace(**arguments))


def _check_fit(given):
    from keras_nin.cli.output import waiting
    from keras_nin.edge import fit_limits
    from keras_nin.edge.fit import check_fit

    _check_fit_options(given)
    settings = FitSettings(given.threads, given.seconds, given.accelerator, given.max_arena, given.time_limit)
    with waiting("Starting") as progress:
        found = check_fit(given.paths, given.targets, settings, progress)
    results = fit_limits.check(found, given.limits)
    _print_fit(given, found, results)
    return 0 if all(result.passed for result in results) else 1


def _check_fit_options(given):
    """Refuse what is no .tflite file, and limits of targets that are not asked, before anything runs."""
    for path in given.paths:
        if not path.lower().endswith(".tflite"):
            raise InputError(
                f"Expected .tflite files. Received: {path!r}. Export a model first: keras-nin export "
                f"{shlex.quote(path)} --scheme int8"
            )
    for limit in given.limits:
        if limit.target not in (None, *given.targets):
            raise InputError(
                f"Expected --targets with {limit.target} for --require {limit.item}. "
                f"Received: {','.join(given.targets)}"
            )


def _print_fit(given, found, results):
    from keras_nin.formatting import escape_unprintable
    from keras_nin.workflows import models

    if given.as_json:
        judged = {"requirements": [result.to_json() for result in results]} if results else {}
        models.print_json(found.to_json() | judged)
        for result in results:
            if not result.passed:
                models.note(escape_unprintable(str(result)))
        return
    from keras_nin.report import fit as report

    echo(report.format_fit(found, results))
