"""Latency as text, Markdown and CSV: of whole files, of their layers, and of files against each other."""

import csv
import io
import textwrap
from dataclasses import dataclass

from keras_nin.benchmark import subtotals
from keras_nin.benchmark.records import PROFILER, SINGLE_OPERATORS
from keras_nin.errors import InputError, one_of
from keras_nin.tables import markdown_table, printable, text_table

COLUMNS = ("layer", "us", "share", "MACs", "GMAC/s", "bytes", "kind", "role", "kernel")
_RIGHT = COLUMNS[1:6]
_SUMS = ("", "rows", "us", "share", "MACs", "GMAC/s")
_FILES = ("file", "threads", "median us", "95 % interval", "p90 us", "runs", "load ms", "peak MiB", "1x1")
_RATIOS = ("file", "threads", "against", "ratio of medians", "95 % interval")
_KEYS = {
    "us": lambda layer: layer.us and layer.us.typical,
    "macs": lambda layer: layer.macs,
    "gmacs_per_s": lambda layer: layer.gmacs_per_s,
    "bytes": lambda layer: layer.bytes,
}
_CSV = (
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
class View:
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
            one_of("sort", self.sort, tuple(_KEYS))
        if self.top is not None and (not isinstance(self.top, int) or self.top < 1):
            raise InputError(f"Expected `top` to be a whole number of at least 1. Received: {self.top!r}")

    def rows(self, layers):
        """Return those of `layers` (`LayerTime`) that it shows, in its order."""
        shown = [layer for layer in layers if not self.only or {layer.kind, layer.role} & {*self.only}]
        if self.sort is not None:
            value = _KEYS[self.sort]
            shown.sort(key=lambda layer: -(value(layer) or 0))
        return shown[: self.top]


def text(benchmark, view=None):
    """Return a `Benchmark` as text: for each file its latency, its layers and their sums; all files in short before."""
    return _document(benchmark, view or View(), text_table, "\n".join)


def markdown(benchmark, view=None):
    """Return the same as Markdown."""
    return _document(benchmark, view or View(), markdown_table, lambda lines: "\n".join(f"- {each}" for each in lines))


def csv_text(benchmark, view=None):
    """Return the layers of all files as CSV, of each the overhead and the total last: raw numbers, empty if unknown."""
    view = view or View()
    out = io.StringIO()
    writer = csv.DictWriter(out, _CSV, restval="", lineterminator="\n")
    writer.writeheader()
    for profile in benchmark.profiles:
        common = {"file": profile.file, "threads": profile.threads, "cpu": profile.host["cpu"], "runs": profile.runs}
        writer.writerows(common | _record(layer) for layer in view.rows(profile.layers))
        if profile.overhead_us is not None:
            writer.writerow({**common, "name": subtotals.OVERHEAD, "us": profile.overhead_us})
        total = {f"{key}_us": getattr(profile.total, key) for key in ("median", "mean", "p90")}
        writer.writerow({**common, **total, "name": "total", "us": profile.total.median, "share": 1})
    return out.getvalue()


def _record(layer):
    us = layer.us
    times = {"us": us.typical, "median_us": us.median, "mean_us": us.mean, "p90_us": us.p90} if us else {}
    fields = {key: getattr(layer, key) for key in _CSV if hasattr(layer, key) and key != "us"}
    return fields | times | {"operators": " ".join(map(str, layer.operators))}


def host_line(host):
    """Return the machine in words: processor, cores, system and runtime."""
    return f"{host['cpu']}, {host['cores']} cores, {host['system']}, LiteRT {host['litert']}"


def header(profile):
    """Return the line that says a file's latency, with threads and runs."""
    total, interval = profile.total, ""
    if total.low is not None:
        interval = f" (95 % interval {_us(total.low)} to {_us(total.high)})"
    p90 = "" if total.p90 is None else f", p90 {_us(total.p90)} us"
    return (
        f"{profile.file}: median {_us(total.median)} us{interval}{p90}, {profile.runs:,} runs, "
        f"{_threads(profile.threads)} on {profile.host['cpu']}"
    )


def summary(profiles, table=text_table):
    """Return a table with a line for each `Profile`."""
    rows = [_summary_cells(profile) for profile in profiles]
    return table(_FILES, rows, right=_FILES[1:])


def ratios(found, table=text_table):
    """Return the table of `comparison.Ratio` records: file, base, threads, ratio, low, high."""
    rows = [[each.file, f"{each.threads}", each.base, f"{each.ratio:.3f}", _interval(each)] for each in found]
    return table(_RATIOS, rows, right=("threads", *_RATIOS[3:]))


def layer_table(profile, view=None, table=text_table):
    """Return the table of a profile's layers; the last rows are the overhead and the total, to which all add up."""
    view = view or View()
    shown = view.rows(profile.layers)
    rows = [_cells(layer) for layer in shown]
    left = len(profile.layers) - len(shown)
    if left:
        us = profile.total.median - profile.overhead_us - sum(layer.us.typical for layer in shown if layer.us)
        rows.append(_sum_row(f"({left:,} other rows)", us, profile))
    rows.append(_sum_row(subtotals.OVERHEAD, profile.overhead_us, profile))
    rows.append(_sum_row("total", profile.total.median, profile))
    return table(COLUMNS, rows, right=_RIGHT)


def sums_table(sums, table=text_table):
    """Return the table of `Subtotal` records."""
    rows = [
        [each.name, f"{each.rows:,}", _us(each.us), f"{each.share:.1%}", _count(each.macs), _rate(each.gmacs_per_s)]
        for each in sums
    ]
    return table(_SUMS, rows, right=_SUMS[1:])


def _document(benchmark, view, table, lines):
    parts = [lines([printable(host_line(benchmark.host)), *map(_warning, benchmark.warnings)])]
    if len(benchmark.profiles) > 1:
        parts.append(summary(benchmark.profiles, table))
    for profile in benchmark.profiles:
        parts.append(lines([printable(header(profile)), *(printable(note) for note in profile.notes)]))
        if profile.method is not None:
            parts += _layers(profile, view, table, lines)
    parts.append(lines(_legend(benchmark.profiles)))
    return "\n\n".join(parts) + "\n"


def _layers(profile, view, table, lines):
    blocks = subtotals.by_block(profile)
    one = subtotals.pointwise(profile)
    return [
        layer_table(profile, view, table),
        lines([f"1x1 layers: {one.rows:,} rows, {_us(one.us)} us, {one.share:.1%} of the run"]),
        sums_table(subtotals.subtotals(profile), table),
        *([sums_table(blocks, table)] if len(blocks) > 2 else []),
    ]


def _legend(profiles):
    """What the figures mean, as lines of text."""
    methods = dict.fromkeys(profile.method for profile in profiles if profile.method)
    paragraphs = [_UNITS, *(_LEGENDS[method] for method in methods)]
    return [line for each in paragraphs for line in textwrap.wrap(each, _WIDTH, break_on_hyphens=False)]


def _warning(text):
    return printable(f"Warning: {text}")


def _summary_cells(profile):
    total = profile.total
    return [
        profile.file,
        f"{profile.threads}",
        _us(total.median),
        "" if total.low is None else f"{_us(total.low)} to {_us(total.high)}",
        _us(total.p90),
        f"{profile.runs:,}",
        f"{profile.load_us / 1000:,.1f}",
        "" if profile.peak_bytes is None else f"{profile.peak_bytes / 2**20:,.1f}",
        f"{subtotals.pointwise(profile).share:.1%}" if profile.method else "",
    ]


def _cells(layer):
    kernel = layer.kernel or (f"({layer.note})" if layer.note else "")
    return [
        layer.name,
        "" if layer.us is None else _us(layer.us.typical),
        "" if layer.share is None else f"{layer.share:.1%}",
        _count(layer.macs),
        _rate(layer.gmacs_per_s),
        f"{layer.bytes:,}",
        layer.kind,
        layer.role or "",
        kernel if layer.joined else f"{kernel} (not joined)",
    ]


def _sum_row(name, us, profile):
    return [name, _us(us), f"{us / profile.total.median:.1%}", *[""] * (len(COLUMNS) - 3)]


def _interval(ratio):
    return "" if ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"


def _us(value):
    return "" if value is None else f"{value:,.1f}"


def _count(macs):
    return "" if macs is None else f"{macs:,}"


def _rate(value):
    return "" if value is None else f"{value:,.1f}"


def _threads(count):
    return f"{count} thread" if count == 1 else f"{count} threads"
