"""`keras-nin benchmark`: the latency of .tflite files and of each of their layers."""

import types

import click

from keras_nin.cli import options
from keras_nin.errors import InputError

METHODS = ("profiler", "single")
ORDERS = ("us", "macs", "gmacs_per_s", "bytes")


def _words(ctx, param, value):
    return tuple(word.strip() for each in value for word in each.split(",") if word.strip())


@click.command(
    "benchmark",
    short_help="Measure the latency of files and of each of their layers.",
    epilog="Example: keras-nin benchmark nin_digits",
)
@click.argument("subjects", nargs=-1, required=True, metavar="FILE.tflite|MODEL...")
@click.option(
    "--threads", type=options.Counts("1 or 1,2,4"), default="1", show_default=True, help="Threads of the runtime."
)
@click.option("--runs", type=options.COUNT, metavar="N", help="Exactly so many runs. [default: until stable]")
@click.option(
    "--seconds",
    type=options.Number(0, min_open=True),
    metavar="S",
    default=5.0,
    show_default=True,
    help="Longest time for each file and number of threads; with --compare for all together.",
)
@click.option("--layers/--no-layers", default=True, help="Whether to time every layer too.")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="profiler",
    show_default=True,
    help="How to time layers: in the runtime's profiler, or each operator cut out and run alone.",
)
@click.option("--sort", type=click.Choice(ORDERS), help="Order of the layers, falling. [default: as they run]")
@click.option("--top", type=options.COUNT, metavar="N", help="Show N layers; the others in one row.")
@click.option("--only", multiple=True, metavar="KIND|ROLE,...", callback=_words, help="Show such layers alone.")
@click.option("--compare", is_flag=True, help="Let all files take turns, and show the ratios to the first.")
@click.option("--roofline", is_flag=True, help="Also measure this machine's limits, and how near each layer comes.")
@click.option("--on", "place", metavar="URL", help="A device: ssh://[user@]host[:port] or adb://SERIAL.")
@click.option(
    "--python", metavar="PATH", default="python3", show_default=True, help="The interpreter on an ssh:// device."
)
@click.option(
    "--benchmark-model",
    metavar="PATH",
    help="LiteRT's tool for an adb:// device, there or here. [default: /data/local/tmp/benchmark_model there]",
)
@click.option(
    "--delegate",
    metavar="PATH",
    help="An external delegate where it runs, such as libedgetpu.so.1; the whole model alone is timed.",
)
@click.option(
    "--scheme", default="float32,int8", show_default=True, metavar="S[,S...]", help="Of MODEL: what to export it to."
)
@options.on_the_fly_options
@click.option("--json", "form", flag_value="json", help="One JSON document on stdout, the rest on stderr.")
@click.option("--csv", "form", flag_value="csv", help="A row for every layer, with raw numbers.")
@click.option("--markdown", "form", flag_value="markdown", help="The tables as Markdown.")
@click.option("--out", metavar="DIR", help="Also write <file>_<host>.json for each file there.")
@options.force_option
@click.option("--model-explorer", metavar="FILE.json", help="Also write the times as node data for Model Explorer.")
@click.pass_context
def command(ctx, **arguments):
    """Measure the latency of .tflite files, and inside the runtime that of each of their layers.

    A MODEL (a name of `keras-nin list`, keras:NAME, a .keras or .h5 file) is exported for it to a temporary folder.
    Its latency needs no training: without weights it has random ones, and says so.

    Batch 1, XNNPACK, warmed up; then runs until the 95 % confidence interval of the median is within 1 %. Layers are
    timed beside that, so that the whole is what runs without a profiler. Exit status 2 where a file does not run; the
    results of the others are shown all the same.

    \b
    More examples:
      keras-nin benchmark exported/nin_digits_int8.tflite --threads 1,2
      keras-nin benchmark a.tflite b.tflite --compare --no-layers
      keras-nin benchmark squeezenet_v1_1 --scheme int8 --roofline
      keras-nin benchmark net.tflite --on ssh://pi@raspberrypi.local --out results
      keras-nin benchmark net.tflite --model-explorer net_times.json
    """
    return _run(ctx, types.SimpleNamespace(**arguments))


def _run(ctx, given):
    from keras_nin.benchmark.places import open_place
    from keras_nin.cli import measuring, results

    _check_use(ctx, given)
    words = measuring.sort_words(given.subjects)
    _check_models(ctx, given, words)
    run = open_place(given.place, given.python, given.benchmark_model)
    targets = results.check(given, words)
    with measuring.opened(given, words) as (subjects, failures):
        measured = measuring.measure(given, subjects, run)
        failures += measured.failures
        if measured.benchmark:
            results.show(given, measured)
            failures += results.write(given, measured, targets)
    for failure in failures:
        click.echo(f"Error: {' '.join(str(failure).split())}", err=True)
    return 2 if failures else 0


def _check_use(ctx, given):
    """Refuse options that do not go together."""
    place = (given.place or "").partition("://")[0]
    if not given.layers:
        for name in ("roofline", "model_explorer"):
            if getattr(given, name):
                raise _expected(f"layers to be timed for --{name.replace('_', '-')}", "--no-layers")
    if given.delegate and (given.roofline or given.model_explorer or given.method == "single"):
        raise _expected("--delegate without --roofline, --model-explorer and --method", "what needs times of layers")
    if place == "adb" and (given.method == "single" or given.roofline):
        raise _expected("--on adb:// without --method single and --roofline", "what benchmark_model does not do")
    for name, belongs_to in (("python", "ssh"), ("benchmark_model", "adb")):
        if _given(ctx, name) and place != belongs_to:
            raise _expected(f"--{name.replace('_', '-')} with --on {belongs_to}://", given.place or "this machine")


def _check_models(ctx, given, words):
    """Refuse options for models beside files alone, and the other way round."""
    from keras_nin.cli import on_the_fly

    if not any(word.is_model for word in words):
        on_the_fly.check_file(ctx, words[0].text)
        if _given(ctx, "scheme"):
            raise _expected("--scheme with a MODEL", "files, which hold their networks whole")
    count = sum(len(word.schemes(given.scheme)) for word in words)
    if given.compare and count < 2:
        raise _expected("two files or more with --compare", "one")
    if given.model_explorer and (count > 1 or len(given.threads) > 1):
        raise _expected("one file and one number of threads with --model-explorer", "several")


def _given(ctx, name):
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _expected(what, received):
    return InputError(f"Expected {what}. Received: {received}")
