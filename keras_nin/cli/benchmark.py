"""`keras-nin benchmark`, `compare-runs` and `sweep`: latencies, measured and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_nin.cli import options
from keras_nin.cli.output import TerminalProgress, echo, note, print_json, print_result

if TYPE_CHECKING:
    from keras_nin.report.latency import LayerView
    from keras_nin.workflows.benchmark import BenchmarkRun


def benchmark_command(view: LayerView, form: str | None, **arguments: Any) -> int:
    """Run `keras-nin benchmark`."""
    from keras_nin.workflows.benchmark import benchmark_models

    run = benchmark_models(**arguments, progress=TerminalProgress())
    if run.benchmark.profiles:
        _print_run(run, form, view, arguments["roofline"])
    for path in run.written:
        note(f"written: {path}")
    for failure in run.failures:
        note(f"Error: {' '.join(options.with_own_flags(failure).split())}")
    return 2 if run.failures else 0


def _print_run(run: BenchmarkRun, form: str | None, view: LayerView, roofline: bool) -> None:
    if form == "json":
        print_json(run.to_json())
        return
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


def compare_runs_command(before: str, after: str, max_regression: float | None, as_json: bool) -> int:
    """Run `keras-nin compare-runs`."""
    from keras_nin.report.comparisons import format_run_comparison
    from keras_nin.workflows.benchmark import compare_runs

    comparison = compare_runs(before, after)
    print_result(comparison, as_json, lambda: format_run_comparison(comparison))
    slower = () if max_regression is None else comparison.regressions(max_regression)
    for change in slower:
        note(f"FAIL: {change.file}: {change.ratio:.3f} times as slow, limit {1 + (max_regression or 0):g}")
    return 1 if slower else 0


def sweep_command(as_json: bool, **arguments: Any) -> None:
    """Run `keras-nin sweep`."""
    from keras_nin.report.comparisons import format_sweep
    from keras_nin.workflows.sweep import sweep_convolutions

    try:
        result = sweep_convolutions(**arguments, progress=TerminalProgress())
    except KeyboardInterrupt:
        note(f"interrupted: repeat the command to continue {arguments['out']}")
        raise
    print_result(result, as_json, lambda: format_sweep(result.rows, result.host))
    if result.measured and result.reused:
        note(f"continued: {result.reused} of {result.measured + result.reused} points were in {result.path}")
    note(f"written: {result.path}" if result.measured else f"nothing to do: all points are in {result.path}")
    if arguments["plot"] is not None:
        note(f"written: {arguments['plot']}")
