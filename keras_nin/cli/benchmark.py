"""`keras-nin benchmark`: the latency of .tflite files and of each of their layers."""

import contextlib
import math
import pathlib
import sys
import types

import click

from keras_nin.cli import options
from keras_nin.cli.options import json_option
from keras_nin.cli.output import echo
from keras_nin.errors import InputError

METHODS = ("profiler", "single")
ORDERS = ("us", "macs", "gmacs_per_s", "bytes")


def _split_words(ctx, param, value):
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
@click.option("--only", multiple=True, metavar="KIND|ROLE,...", callback=_split_words, help="Show such layers alone.")
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
@options.temporary_export_options
@click.option("--json", "form", flag_value="json", help="One JSON document on stdout, the rest on stderr.")
@click.option("--csv", "form", flag_value="csv", help="A row for every layer, with raw numbers.")
@click.option("--markdown", "form", flag_value="markdown", help="The tables as Markdown.")
@click.option("--out", metavar="DIR", help="Also write <file>_<host>.json for each file there.")
@options.force_option
@click.option("--model-explorer", metavar="FILE.json", help="Also write the times as node data for Model Explorer.")
@click.pass_context
def benchmark_command(ctx, **arguments):
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
    return _benchmark(ctx, types.SimpleNamespace(**arguments))


def _benchmark(ctx, given):
    from keras_nin.benchmark.devices import open_device
    from keras_nin.workflows import benchmark

    _check_benchmark_options(ctx, given)
    words = benchmark.classify_arguments(given.subjects)
    _check_benchmark_models(ctx, given, words)
    run = open_device(given.place, given.python, given.benchmark_model)
    targets = benchmark.check_outputs(given, words)
    with benchmark.open_files(given, words) as (subjects, failures):
        measured = benchmark.measure_files(given, subjects, run)
        failures += measured.failures
        if measured.benchmark:
            benchmark.print_benchmark(given, measured)
            failures += benchmark.write_outputs(given, measured, targets)
    for failure in failures:
        click.echo(f"Error: {' '.join(str(failure).split())}", err=True)
    return 2 if failures else 0


def _check_benchmark_options(ctx, given):
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
        if _is_set(ctx, name) and place != belongs_to:
            raise _expected(f"--{name.replace('_', '-')} with --on {belongs_to}://", given.place or "this machine")


def _check_benchmark_models(ctx, given, words):
    """Refuse options for models beside files alone, and the other way round."""
    from keras_nin.workflows import temporary_export

    if not any(word.is_model for word in words):
        temporary_export.check_file(ctx, words[0].text)
        if _is_set(ctx, "scheme"):
            raise _expected("--scheme with a MODEL", "files, which hold their networks whole")
    count = sum(len(word.schemes(given.scheme)) for word in words)
    if given.compare and count < 2:
        raise _expected("two files or more with --compare", "one")
    if given.model_explorer and (count > 1 or len(given.threads) > 1):
        raise _expected("one file and one number of threads with --model-explorer", "several")


def _is_set(ctx, name):
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _expected(what, received):
    return InputError(f"Expected {what}. Received: {received}")


# MERGED `keras-nin compare-runs`: what became slower from one benchmark to another.


class Share(click.ParamType):
    """A share such as 5% or 0.05."""

    name = "share"

    def convert(self, value, param, ctx):
        """Return the number, or fail with the option's name."""
        if isinstance(value, float):
            return value
        text = value.strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = math.nan
        if not 0 <= share < math.inf:
            self.fail(f"expected a share such as 5% or 0.05, received {value!r}", param, ctx)
        return share


@click.command(
    "compare-runs",
    short_help="Tell what became slower between two benchmarks.",
    epilog="Example: keras-nin compare-runs before.json after.json --max-regression 5%",
)
@click.argument("before", metavar="A.json")
@click.argument("after", metavar="B.json")
@click.option(
    "--max-regression", type=Share(), metavar="SHARE", help="Exit status 1 where a file became slower by more."
)
@json_option
def compare_runs_command(before, after, max_regression, as_json):
    """Compare two results of `keras-nin benchmark --json`: what became slower or faster, and by how much.

    Results are matched by the file's name and the number of threads. The ratio of the medians is B over A; its 95 %
    interval combines those of the two, which are independent runs. Layers are told that changed by more than 5 % and
    1 us, or that another kernel computes.

    --max-regression asks that no file is slower by more than SHARE for certain: the whole interval must lie above it to
    fail, so that noise does not. Where a result has no interval (too few runs) the medians decide.
    """

    from keras_nin import files
    from keras_nin.benchmark import comparison
    from keras_nin.formatting import escape_unprintable
    from keras_nin.report import comparisons

    result = comparison.compare_runs(comparison.read_benchmark(before), comparison.read_benchmark(after))
    if as_json:
        click.echo(files.dump_json(result.to_json()), nl=False)
    else:
        echo(comparisons.format_run_comparison(result))
    slower = () if max_regression is None else result.regressions(max_regression)
    for change in slower:
        file = escape_unprintable(change.file)
        click.echo(f"Slower than allowed: {file}: {change.ratio:.3f} times, limit {1 + max_regression:g}", err=True)
    return 1 if slower else 0


# MERGED `keras-nin sweep`: single convolutions over a grid, made, exported and timed.


def _counts_option(name, default, text):
    return click.option(name, type=options.Counts("7,14,28"), default=default, show_default=True, help=text)


@click.command(
    "sweep",
    short_help="Time single convolutions over a grid: 1x1 against larger.",
    epilog="Example: keras-nin sweep --size 7,14 --cin 64 --cout 63,64 --plot sweep.png",
)
@_counts_option("--size", "7,14,28,56", "Height and width of the map.")
@_counts_option("--cin", "64,256", "Channels in.")
@_counts_option("--cout", "63,64,65", "Channels out, the filters.")
@_counts_option("--kernel", "1,3", "Height and width of the kernel, odd.")
@click.option("--scheme", metavar="S,...", default="float32,int8", show_default=True, help="float32, int8 or both.")
@_counts_option("--threads", "1", "Threads of the runtime.")
@click.option(
    "--seconds",
    type=options.Number(0.01, 600),
    metavar="S",
    default=0.5,
    show_default=True,
    help="Longest time for each point, once it is warm.",
)
@click.option(
    "--seed", type=options.SEED, metavar="N", default=0, show_default=True, help="Of the order, weights and noise."
)
@click.option(
    "--out", metavar="FILE.csv", default="sweep.csv", show_default=True, help="The rows; what is there already is kept."
)
@click.option("--plot", metavar="FILE.png", help="A picture of what the rows show.")
@click.option("--force", is_flag=True, help="Measure everything anew, and replace the CSV file.")
@options.json_option
def sweep_command(**arguments):
    """Time single convolutions over a grid, inside the runtime: 1x1 against larger kernels, and odd channel counts.

    Each is a layer with padding "same" and stride 1, made in Keras with random weights and exported; int8 is calibrated
    with noise, so the files are for latency only. Layers that are compared, those that differ in their kernel or have
    channel counts around one multiple of 8, take turns while they are measured; the order of these groups is random.

    The CSV file is complete after every group: interrupt the command and call it again, or with a larger grid, and it
    goes on. Rows of another machine or other versions are not mixed with new ones: the command refuses such a file. The
    table is of all rows in the file.
    """
    return _run_sweep(types.SimpleNamespace(**arguments))


def _run_sweep(given):
    from keras_nin import files
    from keras_nin.benchmark import sweep as sweep_module
    from keras_nin.benchmark import sweep_results
    from keras_nin.benchmark.sweep import pending_sites
    from keras_nin.report import comparisons as report
    from keras_nin.tflite.host import describe_host
    from keras_nin.workflows import models

    points = sweep_module.SweepGrid(
        given.size, given.cin, given.cout, given.kernel, tuple(given.scheme.split(",")), given.threads
    ).points()
    path = _checked_output(given.out, ".csv")
    picture = None if given.plot is None else _checked_output(given.plot, ".png")
    machine = describe_host()
    who = sweep_results.identify_machine(machine)
    rows = {} if given.force else sweep_results.read_sweep(path, who)
    if pending_sites(points, rows, given.seed):
        rows = _measure_sweep(given, points, path, who, rows)
    else:
        models.note(f"nothing to do: all {len(points)} points are in {path}")
    if given.as_json:
        models.print_json(report.sweep_to_json(rows, machine))
    else:
        click.echo(report.format_sweep(rows, machine))
    if picture is not None:
        from keras_nin import figures
        from keras_nin.benchmark import sweep_results
        from keras_nin.plots.sweeps import plot_layer_sweep

        ratios, costs = sweep_results.compute_kernel_ratios(rows), sweep_results.compute_alignment_costs(rows)
        figure = plot_layer_sweep(ratios, costs, machine)
        files.write_file(picture, figures.render_png(figure))
        models.note(f"written: {picture}")
    return 0


def _measure_sweep(given, points, path, who, rows):
    from keras_nin.benchmark.sweep import measure_sweep
    from keras_nin.workflows import models
    from keras_nin.workflows.layer_export import export_layer

    models.start_keras()
    done = sum(point in rows for point in points)
    if done:
        models.note(f"going on: {done} of {len(points)} points are in {path}")
    try:
        with _sweep_progress(len(points) - done) as advance:
            made = measure_sweep(
                points, path, who, export_layer=export_layer, rows=rows, seed=given.seed, seconds=given.seconds, on_group=advance
            )  # fmt: skip
    except KeyboardInterrupt:
        kept = "what was measured is in it; the same command goes on" if path.exists() else "nothing was measured"
        models.note(f"interrupted: {path}: {kept}")
        raise
    models.note(f"written: {path}")
    return made


@contextlib.contextmanager
def _sweep_progress(total):
    """Yield a function that moves a progress bar by so many points; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("Sweeping"), progress.BarColumn(), progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(), progress.TimeRemainingColumn(),
    )  # fmt: skip
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=total)
        yield lambda count: shown.advance(task, count)


def _checked_output(name, ending):
    """Return the path of an output file; `InputError` where it has another ending or cannot be written."""
    from keras_nin.workflows import models

    path = pathlib.Path(name)
    if path.suffix.lower() != ending or path.is_dir():
        raise InputError(f"Expected a file name that ends in {ending}. Received: {name!r}")
    models.check_output_folder(path.parent)
    return path
