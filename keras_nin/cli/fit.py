"""`keras-nin fit`: what .tflite files cost on this CPU, the Edge TPU, Ethos-U and TFLite Micro, in one table."""

import shlex
import types

import click

from keras_nin.cli import options
from keras_nin.cli.printing import echo
from keras_nin.edge.fit.records import SCHEMA, TARGETS, Settings
from keras_nin.errors import InputError, one_of

__all__ = ["SCHEMA", "command"]

_DEFAULT = Settings()


def _targets(ctx, param, value):
    words = [word.strip() for word in value.split(",")]
    return tuple(dict.fromkeys(one_of("targets", word, TARGETS) for word in words))


@click.command("fit", epilog="Example: keras-nin fit exported/nin_digits_int8.tflite")
@click.argument("paths", nargs=-1, required=True, metavar="FILE.tflite...")
@click.option(
    "--targets",
    callback=_targets,
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
    default=_DEFAULT.seconds,
    show_default=True,
    help="Longest measurement of a file on this CPU.",
)
@click.option(
    "--accelerator",
    default=_DEFAULT.accelerator,
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
    default=_DEFAULT.time_limit,
    show_default=True,
    metavar="S",
    help="Vela, or a runtime of TFLite Micro, is ended after S seconds.",
)
@click.option(
    "--require",
    "limits",
    callback=options.limits_of("keras_nin.edge.fit.limits"),
    multiple=True,
    metavar="ITEM=LIMIT,...",
    help="Exit status 1 where a file does not keep to it. Repeatable.",
)
@options.json_option
def command(**arguments):
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
    return _run(types.SimpleNamespace(**arguments))


def _run(given):
    from keras_nin.cli.waiting import waiting
    from keras_nin.edge.fit import fit, limits

    _check(given)
    settings = Settings(given.threads, given.seconds, given.accelerator, given.max_arena, given.time_limit)
    with waiting("Starting") as progress:
        found = fit(given.paths, given.targets, settings, progress)
    results = limits.check(found, given.limits)
    _print(given, found, results)
    return 0 if all(result.holds for result in results) else 1


def _check(given):
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


def _print(given, found, results):
    from keras_nin.cli import stages
    from keras_nin.tables import printable

    if given.as_json:
        judged = {"requirements": [result.to_json() for result in results]} if results else {}
        stages.print_json(found.to_json() | judged)
        for result in results:
            if not result.holds:
                stages.note(printable(str(result)))
        return
    from keras_nin.report import fit as report

    echo(report.text(found, results))
