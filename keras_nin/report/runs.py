"""Two benchmarks side by side as text: a pure function of the records."""

from keras_nin.benchmark.comparison import UNKNOWN
from keras_nin.report.conditions import sides
from keras_nin.tables import printable, text_table

_MOST_LAYERS = 10


def text(comparison):
    """Return a `RunComparison` as tables for the terminal."""
    parts = [_totals(comparison.changes)]
    parts += [_layers(change) for change in comparison.changes if change.layers]
    notes = list(_notes(comparison))
    return "\n\n".join(parts + (["\n".join(map(printable, notes))] if notes else []))


def _totals(changes):
    columns = ("file", "threads", "before [us]", "after [us]", "ratio", "95 % interval", "runs", "")
    rows = [
        [
            change.file,
            str(change.threads),
            f"{change.before_us:,.1f}",
            f"{change.after_us:,.1f}",
            f"{change.ratio:.3f}",
            "" if change.low is None else f"{change.low:.3f} to {change.high:.3f}",
            ", ".join(f"{count:,}" for count in (change.before_runs, change.after_runs) if count is not None),
            change.verdict,
        ]
        for change in changes
    ]
    return text_table(columns, rows, right=columns[1:7], title="Whole runs, median")


def _layers(change):
    columns = ("layer", "before [us]", "after [us]", "difference", "ratio", "kernel")
    shown = change.layers[:_MOST_LAYERS]
    rows = [
        [
            layer.name,
            _us(layer.before_us),
            _us(layer.after_us),
            f"{layer.added_us:+,.1f}",
            f"{layer.after_us / layer.before_us:.2f}" if layer.before_us and layer.after_us else "",
            _kernel(layer),
        ]
        for layer in shown
    ]
    more = "" if len(shown) == len(change.layers) else f", the first {len(shown)} of {len(change.layers)}"
    title = f"Layers of {change.file} on {change.threads} {_threads(change.threads)} that changed{more}"
    return text_table(columns, rows, right=columns[1:5], title=title)


def _kernel(layer):
    if layer.before_kernel == layer.after_kernel:
        return layer.after_kernel or ""
    return f"{layer.before_kernel or 'none'} -> {layer.after_kernel or 'none'}"


def _us(value):
    return "" if value is None else f"{value:,.1f}"


def _threads(count):
    return "thread" if count == 1 else "threads"


def _notes(comparison):
    yield from sides(comparison)
    if comparison.hosts:
        yield "The machines differ, so the ratios say nothing about the files alone:"
        yield from (f"  {line}" for line in comparison.hosts)
    for change in comparison.changes:
        if not change.same_content:
            yield f"{change.file}: the file has other content than before."
    if any(change.verdict == UNKNOWN for change in comparison.changes):
        yield "unknown: too few runs for an interval; the medians are compared as they are."
    for name, missing in (("second", comparison.only_before), ("first", comparison.only_after)):
        for file, threads in missing:
            yield f"{file} on {threads} {_threads(threads)}: not in the {name} benchmark."
    yield from (f"Warning, {line}" for line in comparison.warnings)
