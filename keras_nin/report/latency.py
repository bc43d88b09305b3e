"""The line without which no latency is shown: how often it was measured, and on what."""

import collections
import csv
import io
import textwrap
from dataclasses import dataclass

from keras_nin.benchmark import layer_times
from keras_nin.benchmark.records import PROFILER, SINGLE_OPERATORS
from keras_nin.errors import InputError, check_choice
from keras_nin.formatting import escape_unprintable, format_markdown_table, format_table

_METHOD_TEXTS = {
    PROFILER: "by the runtime's own profiler, inside the delegate: the mean over those runs nearest the median",
    SINGLE_OPERATORS: "each operator cut out of the file and run alone, its weights out of the caches: the median",
}
_API_TEXTS = {"compiled_model": "LiteRT's compiled model", "interpreter": "the TensorFlow Lite interpreter"}


def conditions_line(profile):
    """Return runs, threads, batch and host of a `keras_nin.benchmark.Profile` in one line."""
    threads = f"{profile.threads} thread{'' if profile.threads == 1 else 's'}"
    return f"Median of {profile.runs:,} runs on {threads}, batch 1; {describe_machine(profile.host)}"


def describe_machine(host):
    """Return a host in one line: processor, cores, system, runtime; what it does not say is left out."""
    cores = host.get("cores")
    parts = [
        host.get("cpu"),
        cores and f"{cores} core{'' if cores == 1 else 's'}",
        host.get("system"),
        host.get("litert") and f"LiteRT {host['litert']}",
    ]
    return ", ".join(str(part) for part in parts if part) or "a machine that is not named"


def comparison_host_lines(comparison):
    """Yield the machines of a `RunComparison`, a line for both where they are alike; none where they are not known."""
    hosts = {"Before": comparison.before_host, "After": comparison.after_host}
    lines = {when: describe_machine(host) for when, host in hosts.items() if host is not None}
    if len(lines) == 2 and len(set(lines.values())) == 1:
        lines = {"Before and after": lines["Before"]}
    yield from (f"{when}: batch 1; {line}" for when, line in lines.items())


def method_line(profile):
    """Return how the times of the layers of `profile` were taken, in one sentence."""
    how = _METHOD_TEXTS.get(profile.method, profile.method)
    api = _API_TEXTS.get(profile.api, profile.api)
    return f"Times of layers: {how}; {profile.profiled_runs:,} runs. Whole runs: with {api}, without that."


# MERGED Latency as text, Markdown and CSV: of whole files, of their layers, and of files against each other.

LAYER_COLUMNS = ("layer", "us", "share", "MACs", "GMAC/s", "bytes", "kind", "role", "kernel")
_LAYER_RIGHT = LAYER_COLUMNS[1:6]
_SUBTOTAL_COLUMNS = ("", "rows", "us", "share", "MACs", "GMAC/s")
_FILE_COLUMNS = ("file", "threads", "median us", "95 % interval", "p90 us", "runs", "load ms", "peak MiB", "1x1")
_RATIO_COLUMNS = ("file", "threads", "against", "ratio of medians", "95 % interval")
_SORT_KEYS = {
    "us": lambda layer: layer.us and layer.us.typical,
    "macs": lambda layer: layer.macs,
    "gmacs_per_s": lambda layer: layer.gmacs_per_s,
    "bytes": lambda layer: layer.bytes,
}
_CSV_COLUMNS = (
    *(
        "file",
        "cpu",
        "threads",
        "runs",
        "name",
        "op",
        "operators",
        "kernel",
        "kind",
        "role",
        "block",
        "dtype",
        "us",
        "median_us",
    ),
    *("mean_us", "p90_us", "share", "macs", "gmacs_per_s", "bytes", "joined", "note"),
)
_LEGENDS = {
    PROFILER: (
        "Layers by the runtime's profiler. us: the mean over the half of the runs nearest the median, without its "
        "outliers, corrected for what the profiler's clock cuts off. Runtime overhead: what the median has beyond the "
        "rows; below zero it is noise between runs with and without the profiler."
    ),
    SINGLE_OPERATORS: (
        "Layers by single operators, without the profiler: each operator alone, its inputs just written, its weights "
        "out of the caches. us: the median, less what running nothing takes. Runtime overhead: what the median has "
        "beyond the rows; below zero where the whole file fuses operators, or finds more of them in the caches."
    ),
}
_UNITS = "Batch 1. 1 MAC = one multiply + one add. bytes: inputs, outputs and weights, once each."
_WIDTH = 110


@dataclass(frozen=True)
class LayerView:
    """Which rows of the layers' table to show.

    `sort` is None (order of execution), "us", "macs", "gmacs_per_s" or "bytes" (falling); `top` how many rows; `only`
    kinds and roles, of which a row has one.

    Raises:
        InputError: another order, or a `top` below 1.
    """

    sort: str | None = None
    top: int | None = None
    only: tuple[str, ...] = ()

    def __post_init__(self):
        if self.sort is not None:
            check_choice("sort", self.sort, tuple(_SORT_KEYS))
        if self.top is not None and (not isinstance(self.top, int) or self.top < 1):
            raise InputError(f"Expected `top` to be a whole number of at least 1. Received: {self.top!r}")

    def rows(self, layers):
        """Return those of `layers` (`LayerTime`) that it shows, in its order."""
        shown = [layer for layer in layers if not self.only or {layer.kind, layer.role} & {*self.only}]
        if self.sort is not None:
            value = _SORT_KEYS[self.sort]
            shown.sort(key=lambda layer: -(value(layer) or 0))
        return shown[: self.top]


def format_benchmark(benchmark, view=None):
    """Return a `Benchmark` as text: for each file its latency, its layers and their sums; all files in short before."""
    return _format_document(benchmark, view or LayerView(), format_table, "\n".join)


def format_benchmark_markdown(benchmark, view=None):
    """Return the same as Markdown."""
    return _format_document(
        benchmark, view or LayerView(), format_markdown_table, lambda lines: "\n".join(f"- {each}" for each in lines)
    )


def format_benchmark_csv(benchmark, view=None):
    """Return the layers of all files as CSV, of each the overhead and the total last: raw numbers, empty if unknown."""
    view = view or LayerView()
    out = io.StringIO()
    writer = csv.DictWriter(out, _CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for profile in benchmark.profiles:
        common = {"file": profile.file, "threads": profile.threads, "cpu": profile.host["cpu"], "runs": profile.runs}
        writer.writerows(common | _csv_row(layer) for layer in view.rows(profile.layers))
        if profile.overhead_us is not None:
            writer.writerow({**common, "name": layer_times.OVERHEAD, "us": profile.overhead_us})
        total = {f"{key}_us": getattr(profile.total, key) for key in ("median", "mean", "p90")}
        writer.writerow({**common, **total, "name": "total", "us": profile.total.median, "share": 1})
    return out.getvalue()


def _csv_row(layer):
    us = layer.us
    times = {"us": us.typical, "median_us": us.median, "mean_us": us.mean, "p90_us": us.p90} if us else {}
    fields = {key: getattr(layer, key) for key in _CSV_COLUMNS if hasattr(layer, key) and key != "us"}
    return fields | times | {"operators": " ".join(map(str, layer.operators))}


def host_line(host):
    """Return the machine in words: processor, cores, system and runtime."""
    return f"{host['cpu']}, {host['cores']} cores, {host['system']}, LiteRT {host['litert']}"


def latency_headline(profile):
    """Return the line that says a file's latency, with threads and runs."""
    total, interval = profile.total, ""
    if total.low is not None:
        interval = f" (95 % interval {_format_us(total.low)} to {_format_us(total.high)})"
    p90 = "" if total.p90 is None else f", p90 {_format_us(total.p90)} us"
    return (
        f"{profile.file}: median {_format_us(total.median)} us{interval}{p90}, {profile.runs:,} runs, "
        f"{_format_threads(profile.threads)} on {profile.host['cpu']}"
    )


def format_file_table(profiles, table=format_table):
    """Return a table with a line for each `Profile`."""
    rows = [_file_cells(profile) for profile in profiles]
    return table(_FILE_COLUMNS, rows, right=_FILE_COLUMNS[1:])


def format_ratio_table(found, table=format_table):
    """Return the table of `comparison.Ratio` records: file, base, threads, ratio, low, high."""
    rows = [[each.file, f"{each.threads}", each.base, f"{each.ratio:.3f}", _interval(each)] for each in found]
    return table(_RATIO_COLUMNS, rows, right=("threads", *_RATIO_COLUMNS[3:]))


def format_layer_table(profile, view=None, table=format_table):
    """Return the table of a profile's layers; the last rows are the overhead and the total, to which all add up."""
    view = view or LayerView()
    shown = view.rows(profile.layers)
    rows = [_layer_cells(layer) for layer in shown]
    left = len(profile.layers) - len(shown)
    if left:
        us = profile.total.median - profile.overhead_us - sum(layer.us.typical for layer in shown if layer.us)
        rows.append(_total_row(f"({left:,} other rows)", us, profile))
    rows.append(_total_row(layer_times.OVERHEAD, profile.overhead_us, profile))
    rows.append(_total_row("total", profile.total.median, profile))
    return table(LAYER_COLUMNS, rows, right=_LAYER_RIGHT)


def format_subtotal_table(sums, table=format_table):
    """Return the table of `Subtotal` records."""
    rows = [
        [
            each.name,
            f"{each.rows:,}",
            _format_us(each.us),
            f"{each.share:.1%}",
            _format_macs(each.macs),
            _format_rate(each.gmacs_per_s),
        ]
        for each in sums
    ]
    return table(_SUBTOTAL_COLUMNS, rows, right=_SUBTOTAL_COLUMNS[1:])


def _format_document(benchmark, view, table, lines):
    parts = [lines([escape_unprintable(host_line(benchmark.host)), *map(_warning_line, benchmark.warnings)])]
    if len(benchmark.profiles) > 1:
        parts.append(format_file_table(benchmark.profiles, table))
    for profile in benchmark.profiles:
        parts.append(
            lines(
                [escape_unprintable(latency_headline(profile)), *(escape_unprintable(note) for note in profile.notes)]
            )
        )
        if profile.method is not None:
            parts += _layer_blocks(profile, view, table, lines)
    parts.append(lines(_legend_lines(benchmark.profiles)))
    return "\n\n".join(parts) + "\n"


def _layer_blocks(profile, view, table, lines):
    blocks = layer_times.sum_by_block(profile)
    one = layer_times.sum_pointwise(profile)
    return [
        format_layer_table(profile, view, table),
        lines([f"1x1 layers: {one.rows:,} rows, {_format_us(one.us)} us, {one.share:.1%} of the run"]),
        format_subtotal_table(layer_times.sum_by_role(profile), table),
        *([format_subtotal_table(blocks, table)] if len(blocks) > 2 else []),
    ]


def _legend_lines(profiles):
    """What the figures mean, as lines of text."""
    methods = dict.fromkeys(profile.method for profile in profiles if profile.method)
    paragraphs = [_UNITS, *(_LEGENDS[method] for method in methods)]
    return [line for each in paragraphs for line in textwrap.wrap(each, _WIDTH, break_on_hyphens=False)]


def _warning_line(text):
    return escape_unprintable(f"Warning: {text}")


def _file_cells(profile):
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
        f"{layer_times.sum_pointwise(profile).share:.1%}" if profile.method else "",
    ]


def _layer_cells(layer):
    kernel = layer.kernel or (f"({layer.note})" if layer.note else "")
    return [
        layer.name,
        "" if layer.us is None else _format_us(layer.us.typical),
        "" if layer.share is None else f"{layer.share:.1%}",
        _format_macs(layer.macs),
        _format_rate(layer.gmacs_per_s),
        f"{layer.bytes:,}",
        layer.kind,
        layer.role or "",
        kernel if layer.joined else f"{kernel} (not joined)",
    ]


def _total_row(name, us, profile):
    return [name, _format_us(us), f"{us / profile.total.median:.1%}", *[""] * (len(LAYER_COLUMNS) - 3)]


def _interval(ratio):
    return "" if ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"


def _format_us(value):
    return "" if value is None else f"{value:,.1f}"


def _format_macs(macs):
    return "" if macs is None else f"{macs:,}"


def _format_rate(value):
    return "" if value is None else f"{value:,.1f}"


def _format_threads(count):
    return f"{count} thread" if count == 1 else f"{count} threads"


# MERGED Per-layer times as node data that Model Explorer (google-ai-edge/model-explorer) lays over the graph of the file.

# Model Explorer's name for the first subgraph where the file gives it none.
_DEFAULT_GRAPH_NAME = "main"
_NODE_COLORS = ((0, "#ffffff"), (0.25, "#fff3c4"), (1, "#d94f2b"))


def model_explorer_data(profile, path):
    """Return the node data of a profile: JSON for Model Explorer's "upload node data".

    The graph's id is that of the file's first subgraph, and a node's id the index of its operator there, as Model
    Explorer's TFLite adapter names them. A kernel counts for the operator that gives it its name; those that are fused
    into it have no time of their own and no value. The unit is microseconds, of the kernels' typical time.

    Args:
        profile: `Profile` with layers.
        path: of the .tflite file that it was taken of.

    Raises:
        InputError: the profile has no layers.
    """
    from keras_nin.tflite import reader

    subgraph = reader.read_model(path).subgraphs[0]
    times = collections.Counter()
    for layer in profile.layers:
        if layer.operators and layer.us is not None:
            times[_main_operator(layer, subgraph.operators)] += layer.us.typical
    if not times:
        raise InputError(
            f"Expected times of layers for Model Explorer. Received: none of {profile.file!r}, of the whole model alone"
        )
    threads = "1 thread" if profile.threads == 1 else f"{profile.threads} threads"
    data = {
        "name": f"us, {profile.host['cpu']}, {threads}, {profile.profiled_runs} runs",
        "results": {str(index): {"value": round(us, 3)} for index, us in sorted(times.items())},
        "gradient": [{"stop": stop, "bgColor": colour} for stop, colour in _NODE_COLORS],
    }
    return {subgraph.name or _DEFAULT_GRAPH_NAME: data}


def _main_operator(layer, operators):
    """Return the index of the operator that a layer is named after."""
    of_its_type = [index for index in layer.operators if operators[index].op == layer.op]
    return (of_its_type or layer.operators)[0]
