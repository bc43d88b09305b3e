"""Latency as text, Markdown and CSV: of files, of their layers, and of files relative to each other."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin.benchmark import layer_times
from keras_nin.benchmark.comparison import LatencyRatio
from keras_nin.benchmark.records import BenchmarkResult, LayerTime, Profile
from keras_nin.errors import InputError, check_choice, check_whole_number
from keras_nin.formatting import (
    escape_markdown,
    escape_unprintable,
    format_count,
    format_csv,
    format_host,
    format_markdown_table,
    format_percent,
    format_table,
    wrap,
)
from keras_nin.report.rendering import make_table, render_text

if TYPE_CHECKING:
    from keras_nin.tflite.records import TFLiteModel, TFLiteOperator

FormatTable = Callable[..., str]
FormatLines = Callable[[Sequence[str]], str]

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
    rows: list[dict[str, Any]] = []
    for profile in benchmark.profiles:
        common = {"file": profile.file, "threads": profile.threads, "cpu": profile.host["cpu"], "runs": profile.runs}
        rows += [common | _csv_row(layer) for layer in view.select(profile.layers)]
        if profile.overhead_us is not None:
            rows.append({**common, "name": layer_times.OVERHEAD, "us": profile.overhead_us})
        total = {f"{key}_us": getattr(profile.total, key) for key in ("median", "mean", "p90")}
        rows.append({**common, **total, "name": "total", "us": profile.total.median, "share": 1})
    return format_csv(_CSV_COLUMNS, (map(row.get, _CSV_COLUMNS) for row in rows))


def format_device_benchmarks(
    benchmarks: Mapping[str, BenchmarkResult], view: LayerView = ALL_LAYERS, table: FormatTable = format_table
) -> str:
    """Return the same files on several devices side by side: the medians in us, then the layers of each file.

    Layers are matched by name; a device without times of layers has none.
    """
    keys = dict.fromkeys((profile.file, profile.threads) for each in benchmarks.values() for profile in each.profiles)
    profiles = {
        (*key, device): profile
        for device, each in benchmarks.items()
        for profile in each.profiles
        for key in [(profile.file, profile.threads)]
    }
    columns = tuple(benchmarks)
    rows = [
        (file, str(threads), *(_format_total(profiles.get((file, threads, device))) for device in columns))
        for file, threads in keys
    ]
    parts = [
        "Median in us, with its 95% interval",
        table(("file", "threads", *columns), rows, right=("threads", *columns)),
    ]
    for file, threads in keys:
        found = [profiles.get((file, threads, device)) for device in columns]
        layers = [{layer.name: layer for layer in (profile.layers if profile else ())} for profile in found]
        every = {name: layer for own in reversed(layers) for name, layer in own.items()}
        ordered = list(dict.fromkeys(name for own in layers for name in own))
        rows = [
            (layer.name, layer.op or "", *(_format_layer_us(own.get(layer.name)) for own in layers))
            for layer in view.select([every[name] for name in ordered])
        ]
        if not rows:
            continue
        parts += [f"\nLayers of {file} on {format_count(threads, 'thread')}, us",
                  table(("layer", "operator", *columns), rows, right=columns)]  # fmt: skip
    parts.append("")
    for device, each in benchmarks.items():
        parts += [f"{device}: {format_host(each.host)}", *(f"{device}: {warning}" for warning in each.warnings)]
    notes = [note for each in benchmarks.values() for profile in each.profiles for note in profile.notes]
    return "\n".join([*parts, *dict.fromkeys(f"Note: {note}" for note in notes)])


def _format_total(profile: Profile | None) -> str:
    if profile is None:
        return "-"
    total = profile.total
    interval = f" ({total.low:,.1f} to {total.high:,.1f})" if total.low is not None and total.high is not None else ""
    return f"{total.median:,.1f}{interval}"


def _format_layer_us(layer: LayerTime | None) -> str:
    return "-" if layer is None or layer.us is None else f"{layer.us.typical:,.1f}"


def _csv_row(layer: LayerTime) -> dict[str, Any]:
    us = layer.us
    times = {"us": us.typical, "median_us": us.median, "mean_us": us.mean, "p90_us": us.p90} if us else {}
    fields = {key: getattr(layer, key) for key in _CSV_COLUMNS if hasattr(layer, key) and key != "us"}
    return fields | times | {"operators": " ".join(map(str, layer.operators))}


def _format_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape_markdown(line)}" for line in lines)


def _format_document(benchmark: BenchmarkResult, view: LayerView, table: FormatTable, lines: FormatLines) -> str:
    warnings = [escape_unprintable(f"Warning: {warning}") for warning in benchmark.warnings]
    parts = [lines([escape_unprintable(format_host(benchmark.host)), *warnings])]
    if len(benchmark.profiles) > 1:
        records = [{"row": profile, "pointwise": layer_times.sum_pointwise(profile)} for profile in benchmark.profiles]
        parts.append(make_table("latency_files", records).format(table))
    for profile in benchmark.profiles:
        parts.append(lines([latency_headline(profile), *map(escape_unprintable, profile.notes)]))
        if profile.method is not None:
            pointwise, blocks = layer_times.sum_pointwise(profile), layer_times.sum_by_block(profile)
            parts += [
                format_layer_table(profile, view, table),
                lines([render_text("latency.j2", "pointwise", pointwise)]),
                make_table("latency_subtotals", layer_times.sum_by_role(profile)).format(table),
            ]
            if len(blocks) > 2:
                parts.append(make_table("latency_subtotals", blocks, first="block").format(table))
    methods = dict.fromkeys(profile.method for profile in benchmark.profiles if profile.method)
    batches = sorted({profile.batch for profile in benchmark.profiles})
    notes = render_text("latency.j2", "notes", methods, batches).splitlines()
    parts.append(lines([line for note in notes for line in wrap(note, _WIDTH, indent="")]))
    return "\n\n".join(parts) + "\n"


def latency_headline(profile: Profile) -> str:
    """Return a file's latency in one line, with runs, threads and processor."""
    return render_text("latency.j2", "headline", profile)


def format_ratio_table(ratios: Sequence[LatencyRatio], table: FormatTable = format_table) -> str:
    """Return the table of latencies relative to a baseline."""
    return make_table("latency_ratios", ratios).format(table)


def format_layer_table(profile: Profile, view: LayerView = ALL_LAYERS, table: FormatTable = format_table) -> str:
    """Return the table of a profile's layers; the overhead is the last row but one, and all rows add up to the last."""
    shown, overhead_us = view.select(profile.layers), profile.overhead_us or 0.0
    totals = {layer_times.OVERHEAD: overhead_us, "total": profile.total.median}
    hidden = len(profile.layers) - len(shown)
    if hidden:
        shown_us = sum(layer.us.typical for layer in shown if layer.us)
        totals = {f"({hidden:,} other rows)": profile.total.median - overhead_us - shown_us, **totals}
    last = [[name, f"{us:,.1f}", format_percent(us / profile.total.median), *[""] * 6] for name, us in totals.items()]
    return make_table("latency_layers", shown, last=last).format(table)


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
