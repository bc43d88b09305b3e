"""`keras-nin benchmark`, `compare-runs` and `sweep`: latencies, measured and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from keras_nin.cli import options
from keras_nin.cli.output import TerminalProgress, echo, note, print_checks, print_result, remark

if TYPE_CHECKING:
    from keras_nin.limits import Limit
    from keras_nin.report.latency import LayerView
    from keras_nin.workflows.benchmark import BenchmarkRun


@click.command("benchmark", cls=options.Command, epilog="Example: keras-nin benchmark nin_digits")
@click.argument("models", nargs=-1, required=True, metavar="FILE.tflite|MODEL...")
@click.option("--threads", type=options.counts("1 or 1,2,4"), default="1", metavar="N[,N...]",
              help="Threads of the runtime.")  # fmt: skip
@click.option("--runs", type=options.COUNT, metavar="N", help="Exact number of runs. [default: until stable]")
@click.option("--seconds", type=options.Number(0, min_open=True), default=5.0, metavar="S",
              help="Longest time for each file and number of threads; with --compare for all together.")  # fmt: skip
@click.option("--layers/--no-layers", default=True, show_default=False, help="Whether to time every layer too.")
@click.option("--method", type=click.Choice(["profiler", "single"]), default="profiler",
              help="Time layers with the runtime's profiler, or each operator in a file of its own.")  # fmt: skip
@click.option("--sort", type=click.Choice(["us", "macs", "gmacs_per_s", "bytes"]),
              help="Sort the layers, descending. [default: order of execution]")  # fmt: skip
@click.option("--top", type=options.COUNT, metavar="N", help="Show N layers; the others in one row.")
@click.option("--only", multiple=True, callback=options.split_words, metavar="KIND|ROLE,...",
              help="Show only layers of these.")  # fmt: skip
@click.option("--compare", is_flag=True, help="Measure the files interleaved, and show the ratios to the first.")
@click.option("--processes", type=options.COUNT, default=1, metavar="N",
              help="Repeat the measurement in N processes, for compare-runs; they share --seconds.")  # fmt: skip
@click.option("--roofline", is_flag=True, help="Also measure this machine's limits, and how close each layer gets.")
@click.option("--on", "device", multiple=True, callback=options.split_words, metavar="URL|NAME,...",
              help="Devices, in one table: ssh://[user@]host[:port], adb://SERIAL, or names in devices.toml. "
              "Repeatable.")  # fmt: skip
@click.option("--python", metavar="PATH", help="The interpreter on an ssh:// device. [default: python3]")
@click.option("--benchmark-model", metavar="PATH",
              help="LiteRT's tool for an adb:// device, there or here. [default: /data/local/tmp/benchmark_model "
              "there]")  # fmt: skip
@click.option("--delegate", metavar="PATH",
              help="An external delegate on the device, such as libedgetpu.so.1; only whole files are "
              "timed.")  # fmt: skip
@click.option("--scheme", metavar="S[,S...]", help="Schemes of an exported MODEL. [default: float32,int8]")
@options.require_option(help="Exit status 1 where a limit fails, such as latency=5ms,p90=6ms. Repeatable.")
@options.temporary_export_options
@click.option("--json", "form", flag_value="json", help="One JSON document on stdout, the rest on stderr.")
@click.option("--csv", "form", flag_value="csv", help="A row for every layer, with raw numbers.")
@click.option("--markdown", "form", flag_value="markdown", help="The tables as Markdown.")
@click.option("--out", metavar="DIR", help="Also write <file>_<host>.json for each file there.")
@options.force_option
@click.option("--model-explorer", metavar="FILE.json", help="Also write the times as node data for Model Explorer.")
def benchmark_command(
    sort: str | None,
    top: int | None,
    only: tuple[str, ...],
    form: str | None,
    require: str | None,
    device: tuple[str, ...],
    **arguments: Any,
) -> int:
    """Measure the latency of .tflite files, and inside the runtime that of each of their layers.

    A MODEL (a name of `keras-nin list`, keras:NAME, a .keras or .h5 file) is exported to a temporary folder first.
    Latency needs no training: without weights it has random ones, and says so.

    Batch 1, XNNPACK, warmed up; then runs until the 95% confidence interval of the median is within 1%. Layers are
    timed separately, so that the latency of the whole file is that without a profiler. Exit status 2 where a file does
    not run; the results of the others are shown. --require limits the median (latency) and the 90th percentile (p90) of
    each file on each number of threads, in us, ms or s.

    \b
    More examples:
      keras-nin benchmark exported/nin_digits_int8.tflite --threads 1,2
      keras-nin benchmark a.tflite b.tflite --compare --no-layers
      keras-nin benchmark squeezenet_v1_1 --scheme int8 --roofline
      keras-nin benchmark net.tflite --on ssh://pi@raspberrypi.local --out results
      keras-nin benchmark net.tflite --on adb://R5CT1234567,kitchen-pi
      keras-nin benchmark net.tflite --model-explorer net_times.json
    """
    from keras_nin.benchmark.records import check_benchmark_limits, parse_benchmark_limits
    from keras_nin.limits import all_passed
    from keras_nin.report.latency import LayerView
    from keras_nin.workflows.benchmark import benchmark_models

    view = LayerView(sort, top, only)
    limits = parse_benchmark_limits(require) if require else ()
    if len(device) > 1:
        return _benchmark_on_devices(device, view, form, limits, arguments)
    run = benchmark_models(**arguments, device=next(iter(device), None), progress=TerminalProgress())
    if form == "json" and run.failures and not run.benchmark.profiles:
        raise run.failures[0]
    checks = check_benchmark_limits(run.benchmark, limits) if limits else ()
    if form == "json":
        print_result(run, True, str, checks)
    elif run.benchmark.profiles:
        _print_run(run, form, view, arguments["roofline"])
        print_checks(checks, failed_only=form is not None)
    for path in run.written:
        remark(f"written: {path}")
    for failure in run.failures:
        note(f"Error: {' '.join(options.with_own_flags(failure).split())}")
    return 2 if run.failures else 0 if all_passed(checks) else 1


def _benchmark_on_devices(
    devices: tuple[str, ...], view: LayerView, form: str | None, limits: Sequence[Limit], arguments: dict[str, Any]
) -> int:
    """Measure on several devices, print all in one table, and return the exit status."""
    from keras_nin.benchmark.records import check_benchmark_limits
    from keras_nin.formatting import format_markdown_table, format_table
    from keras_nin.limits import all_passed
    from keras_nin.report.latency import format_device_benchmarks
    from keras_nin.workflows.benchmark import benchmark_on_devices

    if form == "csv" or arguments["roofline"] or arguments["compare"]:
        raise click.UsageError("--csv, --roofline and --compare take one device.")
    result = benchmark_on_devices(**arguments, devices=devices, progress=TerminalProgress())
    checks = [
        dataclasses.replace(check, subject=f"{device}: {check.subject}")
        for device, run in result.runs.items()
        for check in check_benchmark_limits(run.benchmark, limits)
    ]
    table = format_markdown_table if form == "markdown" else format_table
    benchmarks = {device: run.benchmark for device, run in result.runs.items() if run.benchmark.profiles}
    if form == "json" or benchmarks:
        print_result(result, form == "json", lambda: format_device_benchmarks(benchmarks, view, table), checks)
    for run in result.runs.values():
        for path in run.written:
            remark(f"written: {path}")
    failures = [
        *result.failures.values(), *(failure for run in result.runs.values() for failure in run.failures)
    ]  # fmt: skip
    for failure in failures:
        note(f"Error: {' '.join(options.with_own_flags(failure).split())}")
    return 2 if failures else 0 if all_passed(checks) else 1


def _print_run(run: BenchmarkRun, form: str | None, view: LayerView, roofline: bool) -> None:
    from keras_nin.formatting import format_markdown_table, format_table
    from keras_nin.report import latency

    if form == "csv":
        echo(latency.format_benchmark_csv(run.benchmark, view))
        return
    is_markdown = form == "markdown"
    echo((latency.format_benchmark_markdown if is_markdown else latency.format_benchmark)(run.benchmark, view))
    if run.ratios:
        echo("\n" + latency.format_ratio_table(run.ratios, format_markdown_table if is_markdown else format_table))
    if roofline and not is_markdown:
        from keras_nin.report.comparisons import format_roofline

        for profile in run.benchmark.profiles:
            echo(f"\n{format_roofline(profile)}")


@click.command(
    "compare-runs",
    cls=options.Command,
    epilog="Example: keras-nin compare-runs before.json after.json --max-regression 5%",
)
@click.argument("before", metavar="A.json")
@click.argument("after", metavar="B.json")
@click.option("--min-effect", type=options.SHARE, default="2%", metavar="SHARE",
              help="Smallest change that counts as slower or faster.")  # fmt: skip
@click.option("--max-regression", type=options.SHARE, metavar="SHARE",
              help="Exit status 1 where a file is slower by more.")  # fmt: skip
@options.require_option(help="Exit status 1 where a limit fails: regression=5% is --max-regression 5%.")
@options.json_option
def compare_runs_command(
    before: str, after: str, min_effect: float, max_regression: float | None, require: str | None, as_json: bool
) -> int:
    """Compare two results of `keras-nin benchmark --json`: what became slower or faster, and by how much.

    Results are matched by file name and number of threads. The ratio of the medians is B over A. Its 95% interval
    includes how much runs of one file differ: known where both were measured with `benchmark --processes N`, otherwise
    taken from the blocks of each run, and at least 1%, or 15% on a busy machine. A file is slower or faster where the
    interval excludes 1 and the ratio is at least --min-effect away from it. Layers are listed that changed by more than
    5%, 1 us and the drift, or that another kernel computes.

    --max-regression fails only where a file is certainly slower by more than SHARE: the whole interval must lie above
    it, so that noise does not fail. Where a result has no interval (too few runs) the medians decide.
    """
    from keras_nin.benchmark.comparison import check_comparison_limits, parse_comparison_limits
    from keras_nin.limits import all_passed
    from keras_nin.report.comparisons import format_run_comparison
    from keras_nin.workflows.benchmark import compare_runs

    limits = parse_comparison_limits(require) if require else ()
    comparison = compare_runs(before, after, min_effect)
    checks = check_comparison_limits(comparison, limits)
    print_result(comparison, as_json, lambda: format_run_comparison(comparison), checks)
    slower = () if max_regression is None else comparison.regressions(max_regression)
    for change in slower:
        note(f"FAIL: {change.file}: {change.ratio:.3f} times as slow, limit {1 + (max_regression or 0):g}")
    return 1 if slower or not all_passed(checks) else 0


@click.command(
    "sweep", cls=options.Command, epilog="Example: keras-nin sweep --size 7,14 --cin 64 --cout 63,64 --plot sweep.png"
)
@click.option("--size", type=options.counts("7,14,28"), default="7,14,28,56", metavar="N[,N...]",
              help="Height and width of the feature map.")  # fmt: skip
@click.option("--cin", type=options.counts("7,14,28"), default="64,256", metavar="N[,N...]", help="Input channels.")
@click.option("--cout", type=options.counts("7,14,28"), default="63,64,65", metavar="N[,N...]",
              help="Output channels: the filters.")  # fmt: skip
@click.option("--kernel", type=options.counts("7,14,28"), default="1,3", metavar="N[,N...]",
              help="Height and width of the kernel, odd.")  # fmt: skip
@click.option("--scheme", multiple=True, callback=options.split_words, default=["float32,int8"], metavar="S,...",
              help="float32, int8 or both.")  # fmt: skip
@click.option("--threads", type=options.counts("7,14,28"), default="1", metavar="N[,N...]",
              help="Threads of the runtime.")  # fmt: skip
@click.option("--seconds", type=options.Number(0.01, 600), default=0.5, metavar="S",
              help="Longest time for each point, once it is warm.")  # fmt: skip
@click.option("--seed", type=options.SEED, default=0, metavar="N", help="Seed of the order, weights, noise.")
@click.option("--out", default="sweep.csv", metavar="FILE.csv", help="The rows; existing ones are kept.")
@options.plot_option(help="Also write a figure of the rows.")
@click.option("--force", is_flag=True, help="Measure everything again, and replace the CSV file.")
@options.require_option(help="Exit status 1 where the slowest point fails a limit: latency=500us. Repeatable.")
@options.json_option
def sweep_command(as_json: bool, require: str | None, **arguments: Any) -> int:
    """Time single convolutions over a grid, inside the runtime: 1x1 against larger kernels, and odd channel counts.

    Each is a layer with padding "same" and stride 1, built in Keras with random weights and exported; int8 is
    calibrated on noise, so the files are for latency only. Layers that are compared, those that differ in their kernel
    or have channel counts around one multiple of 8, take turns while they are measured; the order of these groups is
    random.

    The CSV file is complete after every group: interrupt the command and repeat it, or with a larger grid, and it
    continues. Rows of another machine or other versions are not mixed with new ones: the command refuses such a file.
    The table has all rows of the file.
    """
    from keras_nin.benchmark.sweep_results import check_sweep_limits, parse_sweep_limits
    from keras_nin.limits import all_passed
    from keras_nin.report.comparisons import format_sweep
    from keras_nin.workflows.sweep import sweep_convolutions

    limits = parse_sweep_limits(require) if require else ()
    try:
        result = sweep_convolutions(**arguments, progress=TerminalProgress())
    except KeyboardInterrupt:
        note(f"interrupted: repeat the command to continue {arguments['out']}")
        raise
    checks = check_sweep_limits(result.rows.values(), limits)
    print_result(result, as_json, lambda: format_sweep(result.rows, result.host), checks)
    if result.measured and result.reused:
        remark(f"continued: {result.reused} of {result.measured + result.reused} points were in {result.path}")
    remark(f"written: {result.path}" if result.measured else f"nothing to do: all points are in {result.path}")
    if arguments["plot"] is not None:
        remark(f"written: {arguments['plot']}")
    return 0 if all_passed(checks) else 1
