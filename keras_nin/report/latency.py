"""Latency as text, Markdown and CSV: of files, of their layers, and of files relative to each other."""

import collections
import csv
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin.benchmark import layer_times
from keras_nin.benchmark.comparison import LatencyRatio
from keras_nin.benchmark.layer_times import LatencySubtotal
from keras_nin.benchmark.records import PROFILER, SINGLE_OPERATORS, BenchmarkResult, LayerTime, Profile
from keras_nin.errors import InputError, check_choice, check_whole_number
from keras_nin.formatting import (
    escape_unprintable,
    format_count,
    format_host,
    format_markdown_table,
    format_percent,
    format_table,
    wrap,
)

if TYPE_CHECKING:
    from keras_nin.tflite.records import TFLiteModel, TFLiteOperator

FormatTable = Callable[..., str]
FormatLines = Callable[[Sequence[str]], str]

_LAYER_COLUMNS = ("layer", "us", "share", "MACs", "GMAC/s", "bytes", "kind", "role", "kernel")
_SUBTOTAL_COLUMNS = ("rows", "us", "share", "MACs", "GMAC/s")
_FILE_COLUMNS = ("file", "threads", "median us", "95% interval", "p90 us", "runs", "load ms", "peak MiB", "1x1")
_RATIO_COLUMNS = ("file", "threads", "baseline", "ratio of medians", "95% interval")
_SORT_KEYS: dict[str, Callable[[LayerTime], float | None]] = {
    "us": lambda layer: layer.us and layer.us.typical,
    "macs": lambda layer: layer.macs,
    "gmacs_per_s": lambda layer: layer.gmacs_per_s,
    "bytes": lambda layer: layer.bytes,
}
_CSV_COLUMNS = tuple(
    "file cpu threads runs name op operators kernel kind role block dtype us median_us mean_us p90_us share macs "
    "gmacs_per_s bytes joined note".split()
)
_UNITS = "Batch 1. 1 MAC = one multiply + one add. bytes: inputs, outputs and weights, once each."
_METHODS = {
    PROFILER: (
        "Layer times are from the runtime's profiler. us: mean over the half of the runs nearest to the median, "
        "without outliers, corrected for the resolution of the profiler's clock. Runtime overhead: the median minus "
        "all rows; below zero, it is noise between runs with and without the profiler."
    ),
    SINGLE_OPERATORS: (
        "Layer times are of single operators, without the profiler: each operator alone, its inputs just written, its "
        "weights not in the caches. us: median, minus the time of an empty file. Runtime overhead: the median minus "
        "all rows; below zero where the whole file fuses operators or finds more in the caches."
    ),
}
_WIDTH = 110

# Model Explorer's name of the first subgraph where the file has none.
_DEFAULT_GRAPH_NAME = "main"
_NODE_COLORS = ((0, "#ffffff"), (0.25, "#fff3c4"), (1, "#d94f2b"))


@dataclasses.dataclass(frozen=True)
class LayerView:
    """Which rows of the table of layers to show.

    Args:
        sort: None (order of execution), or descending by "us", "macs", "gmacs_per_s" or "bytes".
        top: number of rows; None shows all.
        only: kinds and 1x1 roles to show; empty shows all.

    Raises:
        InputError: another order, or a `top` below 1.
    """

    sort: str | None = None
    top: int | None = None
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sort is not None:
            check_choice("sort", self.sort, tuple(_SORT_KEYS))
        if self.top is not None:
            check_whole_number("top", self.top)

    def select(self, layers: Sequence[LayerTime]) -> list[LayerTime]:
        """Return the layers to show, in the order to show them in."""
        shown = [layer for layer in layers if not self.only or {layer.kind, layer.role} & {*self.only}]
        if self.sort is not None:
            sort_key = _SORT_KEYS[self.sort]
            shown.sort(key=lambda layer: -(sort_key(layer) or 0))
        return shown[: self.top]


ALL_LAYERS = LayerView()


def format_benchmark(benchmark: BenchmarkResult, view: LayerView = ALL_LAYERS) -> str:
    """Return a benchmark as text: a summary of several files, then each file's latency, layers and subtotals."""
    return _format_document(benchmark, view, format_table, "\n".join)


def format_benchmark_markdown(benchmark: BenchmarkResult, view: LayerView = ALL_LAYERS) -> str:
    """Return what `format_benchmark` returns, as Markdown."""
    return _format_document(benchmark, view, format_markdown_table, _format_list)


def format_benchmark_csv(benchmark: BenchmarkResult, view: LayerView = ALL_LAYERS) -> str:
    """Return the layers of all files as CSV with raw numbers, after those of each file its overhead and total."""
    out = io.StringIO()
    writer: csv.DictWriter[Any] = csv.DictWriter(out, _CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for profile in benchmark.profiles:
        common = {"file": profile.file, "threads": profile.threads, "cpu": profile.host["cpu"], "runs": profile.runs}
        writer.writerows(common | _csv_row(layer) for layer in view.select(profile.layers))
        if profile.overhead_us is not None:
            writer.writerow({**common, "name": layer_times.OVERHEAD, "us": profile.overhead_us})
        total = {f"{key}_us": getattr(profile.total, key) for key in ("median", "mean", "p90")}
        writer.writerow({**common, **total, "name": "total", "us": profile.total.median, "share": 1})
    return out.getvalue()


def _csv_row(layer: LayerTime) -> dict[str, Any]:
    us = layer.us
    times = {"us": us.typical, "median_us": us.median, "mean_us": us.mean, "p90_us": us.p90} if us else {}
    fields = {key: getattr(layer, key) for key in _CSV_COLUMNS if hasattr(layer, key) and key != "us"}
    return fields | times | {"operators": " ".join(map(str, layer.operators))}


def _format_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _format_document(benchmark: BenchmarkResult, view: LayerView, table: FormatTable, lines: FormatLines) -> str:
    warnings = [escape_unprintable(f"Warning: {warning}") for warning in benchmark.warnings]
    parts = [lines([escape_unprintable(format_host(benchmark.host)), *warnings])]
    if len(benchmark.profiles) > 1:
        parts.append(format_file_table(benchmark.profiles, table))
    for profile in benchmark.profiles:
        parts.append(lines([escape_unprintable(line) for line in (latency_headline(profile), *profile.notes)]))
        if profile.method is not None:
            parts += _layer_parts(profile, view, table, lines)
    methods = dict.fromkeys(profile.method for profile in benchmark.profiles if profile.method)
    notes = [_UNITS, *(_METHODS[method] for method in methods)]
    parts.append(lines([line for note in notes for line in wrap(note, _WIDTH, indent="")]))
    return "\n\n".join(parts) + "\n"


def _layer_parts(profile: Profile, view: LayerView, table: FormatTable, lines: FormatLines) -> list[str]:
    blocks, pointwise = layer_times.sum_by_block(profile), layer_times.sum_pointwise(profile)
    share = f"{_format_us(pointwise.us)} us, {format_percent(pointwise.share)} of the run"
    return [
        format_layer_table(profile, view, table),
        lines([f"1x1 layers: {format_count(pointwise.rows, 'row')}, {share}"]),
        format_subtotal_table("kind", layer_times.sum_by_role(profile), table),
        *([format_subtotal_table("block", blocks, table)] if len(blocks) > 2 else []),
    ]


def latency_headline(profile: Profile) -> str:
    """Return a file's latency in one line, with runs, threads and processor."""
    total = profile.total
    interval = "" if total.low is None else f" (95% interval {_format_us(total.low)} to {_format_us(total.high)})"
    p90 = "" if total.p90 is None else f", p90 {_format_us(total.p90)} us"
    return (
        f"{profile.file}: median {_format_us(total.median)} us{interval}{p90}, {format_count(profile.runs, 'run')}, "
        f"{format_count(profile.threads, 'thread')} on {profile.host['cpu']}"
    )


def format_file_table(profiles: Sequence[Profile], table: FormatTable = format_table) -> str:
    """Return a table with a row for each profile."""
    return table(_FILE_COLUMNS, [_file_cells(profile) for profile in profiles], right=_FILE_COLUMNS[1:])


def _file_cells(profile: Profile) -> list[str]:
    total = profile.total
    return [
        profile.file,
        f"{profile.threads}",
        _format_us(total.median),
        "" if total.low is None else f"{_format_us(total.low)} to {_format_us(total.high)}",
        _format_us(total.p90),
        f"{profile.runs:,}",
        f"{profile.load_us / 1000:,.1f}",
        "" if profile.peak_bytes is None else f"{profile.peak_bytes / 2**20:,.1f}",
        format_percent(layer_times.sum_pointwise(profile).share) if profile.method else "",
    ]


def format_ratio_table(ratios: Sequence[LatencyRatio], table: FormatTable = format_table) -> str:
    """Return the table of latencies relative to a baseline."""
    rows = [
        [ratio.file, f"{ratio.threads}", ratio.base, f"{ratio.ratio:.3f}", format_ratio_interval(ratio.low, ratio.high)]
        for ratio in ratios
    ]
    return table(_RATIO_COLUMNS, rows, right=("threads", *_RATIO_COLUMNS[3:]))


def format_ratio_interval(low: float | None, high: float | None) -> str:
    """Return the interval of a ratio as "0.500 to 0.525"; empty where there is none."""
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def format_layer_table(profile: Profile, view: LayerView = ALL_LAYERS, table: FormatTable = format_table) -> str:
    """Return the table of a profile's layers; the overhead is the last row but one, and all rows add up to the last."""
    shown = view.select(profile.layers)
    rows = [_layer_cells(layer) for layer in shown]
    overhead_us = profile.overhead_us or 0.0
    hidden = len(profile.layers) - len(shown)
    if hidden:
        hidden_us = profile.total.median - overhead_us - sum(layer.us.typical for layer in shown if layer.us)
        rows.append(_total_row(f"({hidden:,} other rows)", hidden_us, profile))
    rows.append(_total_row(layer_times.OVERHEAD, overhead_us, profile))
    rows.append(_total_row("total", profile.total.median, profile))
    return table(_LAYER_COLUMNS, rows, right=_LAYER_COLUMNS[1:6])


def _layer_cells(layer: LayerTime) -> list[str]:
    kernel = layer.kernel or (f"({layer.note})" if layer.note else "")
    return [
        layer.name,
        "" if layer.us is None else _format_us(layer.us.typical),
        "" if layer.share is None else format_percent(layer.share),
        _format_macs(layer.macs),
        _format_us(layer.gmacs_per_s),
        f"{layer.bytes:,}",
        layer.kind,
        layer.role or "",
        kernel if layer.joined else f"{kernel} (not joined)",
    ]


def _total_row(name: str, us: float, profile: Profile) -> list[str]:
    return [name, _format_us(us), format_percent(us / profile.total.median), *[""] * (len(_LAYER_COLUMNS) - 3)]


def format_subtotal_table(what: str, subtotals: Sequence[LatencySubtotal], table: FormatTable = format_table) -> str:
    """Return the table of sums over layers; `what` is the heading of their names."""
    rows = [
        [
            subtotal.name,
            f"{subtotal.rows:,}",
            _format_us(subtotal.us),
            format_percent(subtotal.share),
            _format_macs(subtotal.macs),
            _format_us(subtotal.gmacs_per_s),
        ]
        for subtotal in subtotals
    ]
    return table((what, *_SUBTOTAL_COLUMNS), rows, right=_SUBTOTAL_COLUMNS)


def _format_us(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _format_macs(macs: int | None) -> str:
    return "" if macs is None else f"{macs:,}"


def model_explorer_data(profile: Profile, model: "str | os.PathLike[str] | TFLiteModel") -> dict[str, Any]:
    """Return the times of layers as node data of Model Explorer (google-ai-edge/model-explorer).

    The graph's id is that of the file's first subgraph, and a node's id the index of its operator, as in Model
    Explorer's TFLite adapter. A kernel counts for the operator that it is named after; operators fused into it have no
    value. Values are the typical times in microseconds.

    Args:
        profile: with layers.
        model: the .tflite file that the profile is of.

    Raises:
        InputError: the profile has no times of layers.
    """
    from keras_nin.tflite.reader import read_model

    subgraph = read_model(model).subgraphs[0]
    times: collections.Counter[int] = collections.Counter()
    for layer in profile.layers:
        if layer.operators and layer.us is not None:
            times[_main_operator(layer, subgraph.operators)] += layer.us.typical  # type: ignore[assignment]
    if not times:
        raise InputError(
            f"Model Explorer shows the times of layers, and {profile.file!r} was only timed as a whole. Measure it "
            "with layers",
            argument="layers",
        )
    threads, runs = format_count(profile.threads, "thread"), format_count(profile.profiled_runs, "run")
    data = {
        "name": f"us, {profile.host['cpu']}, {threads}, {runs}",
        "results": {str(index): {"value": round(us, 3)} for index, us in sorted(times.items())},
        "gradient": [{"stop": stop, "bgColor": color} for stop, color in _NODE_COLORS],
    }
    return {subgraph.name or _DEFAULT_GRAPH_NAME: data}


def _main_operator(layer: LayerTime, operators: "Sequence[TFLiteOperator]") -> int:
    """Return the index of the operator that a layer is named after."""
    same_type: Iterator[int] = (index for index in layer.operators if operators[index].op == layer.op)
    return next(same_type, layer.operators[0])
