"""`keras-nin ethosu`: what Arm's compiler Vela makes of an int8 file on Ethos-U NPUs."""

import contextlib
import pathlib
import types

import click

from keras_nin.cli import on_the_fly, options
from keras_nin.cli.printing import echo
from keras_nin.edge.ethosu.accelerators import DEFAULT
from keras_nin.errors import InputError

_NOTES = {
    on_the_fly.RANDOM: "random weights: compressed sizes and the times that wait for weights are of no trained network",
    on_the_fly.NOISE: "calibrated on noise: good for times alone (--calibration names images)",
}


def _accelerators(ctx, param, value):
    from keras_nin.edge.ethosu import accelerators

    return accelerators.chosen(value)


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
    default=(DEFAULT,),
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
    callback=options.limits_of("keras_nin.edge.ethosu.limits"),
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
@options.on_the_fly_options
@options.force_option
@options.json_option
@click.pass_context
def command(context, **arguments):
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
    _check(given)
    with _subject(context, given) as (path, notes):
        sweep = _sweep(given, path)
    results = _judge(sweep, given.limits)
    written = _save(sweep, given)
    _print(sweep, results, written, notes, given.as_json)
    return 0 if all(result.holds for result in results) else 1


def _check(given):
    """Refuse what cannot be, before anything runs."""
    from keras_nin.cli import stages

    if given.compiled is not None and len(given.accelerators) > 1:
        raise InputError(f"Expected one --accelerator with -o. Received: {', '.join(given.accelerators)}")
    for option, name, ending in (("-o", given.compiled, ".tflite"), ("--png", given.png, ".png")):
        if name is None:
            continue
        path = pathlib.Path(name)
        if path.suffix.lower() != ending or path.is_dir():
            raise InputError(f"Expected {option} to name a {ending} file. Received: {name!r}")
        stages.check_output_folder(path.parent)


@contextlib.contextmanager
def _subject(context, given):
    """Yield the path of the .tflite file, exported first where a model is given, and notes on it."""
    if not on_the_fly.is_model(given.file):
        on_the_fly.check_file(context, given.file)
        yield given.file, ()
        return
    from keras_nin import files
    from keras_nin.edge.ethosu import vela

    vela.find()  # before Keras starts, which takes longer
    with files.temporary_folder() as folder:
        (made,) = on_the_fly.export(given.file, given, folder)
        yield made.path, tuple(_NOTES[note] for note in made.notes)


def _sweep(given, path):
    from keras_nin.cli import stages
    from keras_nin.edge import ethosu
    from keras_nin.edge.ethosu import vela

    settings = vela.Options(given.system_config, given.memory_mode, given.config)
    return ethosu.sweep(
        path,
        given.accelerators,
        options=settings,
        limit=given.time_limit,
        track=lambda items: stages.track(items, "Compiling", len(items)),
    )


def _judge(sweep, limits):
    from keras_nin.edge.ethosu import limits as judging

    found = [result for estimate in sweep.estimates for result in judging.check(estimate, limits)]
    return [*found, *(result for refusal in sweep.refusals for result in judging.refused(refusal, limits))]


def _save(sweep, given):
    """Write the files that were asked for, all or none, and return their paths."""
    from keras_nin import files

    contents = {}
    if given.compiled is not None:
        contents[pathlib.Path(given.compiled)] = sweep.estimates[0].compiled
    if given.png is not None:
        from keras_nin.report import ethosu_plot

        contents[pathlib.Path(given.png)] = ethosu_plot.png(sweep)
    return files.save_all(contents, given.force)


def _print(sweep, results, written, notes, as_json):
    from keras_nin.cli import stages
    from keras_nin.report import ethosu

    if as_json:
        judged = {"requirements": [result.to_json() for result in results]} if results else {}
        stages.print_json(sweep.to_json() | {"notes": list(notes)} | judged)
    else:
        alone = len(sweep.estimates) == 1 and not sweep.refusals
        text = ethosu.text(sweep.estimates[0]) if alone else ethosu.sweep_text(sweep)
        lines = [text, *([""] if results else []), *map(str, results), *(f"written: {path}" for path in written)]
        echo("\n".join(lines))
    for line in (*(f"Note: {note}" for note in notes), *(map(str, _failed(results)) if as_json else ())):
        stages.note(line)


def _failed(results):
    return [result for result in results if not result.holds]
