"""The sections of comparisons: files that took turns, and the same files at two times."""

from keras_nin.report.conditions import conditions, sides
from keras_nin.report.html.parts import Line, Section, table

_TURNS = ("file", "against", "threads", "ratio", "95 % interval")
_RUNS = ("file", "threads", "before", "after", "ratio", "95 % interval", "runs", "verdict")
_LAYERS = ("layer", "file", "before", "after", "difference", "kernel before", "kernel after")
_UNKNOWN = "-"


def turns(interleaved, name):
    """Return the `Section` of files measured in turns (`keras_nin.report.documents.Interleaved`)."""
    rows = [
        (each.file, each.base, str(each.threads), f"{each.ratio:.3f}", _interval(each)) for each in interleaved.ratios
    ]
    lines = [Line(f"{each.file}: {conditions(each)}") for each in interleaved.benchmark.profiles]
    parts = (
        Line("Time of a file over that of another, measured in turns.", "plain"),
        table("Ratios of times", _TURNS, rows, right=_TURNS[2:]),
        *lines,
    )
    return Section(name, "Files against each other", parts)


def runs(comparison, name):
    """Return the `Section` of a `keras_nin.benchmark.comparison.RunComparison`."""
    rows = [
        (
            each.file, str(each.threads), _us(each.before_us), _us(each.after_us), f"{each.ratio:.3f}",
            _interval(each), _counts(each), each.verdict,
        )
        for each in comparison.changes
    ]  # fmt: skip
    layers = [_layer(change, each) for change in comparison.changes for each in change.layers]
    folded = f"{len(layers)} layers that changed"
    parts = [
        table("Whole runs, median", _RUNS, rows, right=_RUNS[1:7]),
        *map(Line, sides(comparison)),
        *([table("Layers that changed", _LAYERS, layers, right=_LAYERS[2:5], folded=folded)] if layers else []),
        *(Line(text, tone) for text, tone in _notes(comparison)),
    ]
    return Section(name, "Before and after", tuple(parts))


def _layer(change, layer):
    kernels = (layer.before_kernel or _UNKNOWN, layer.after_kernel or _UNKNOWN)
    return (layer.name, change.file, _us(layer.before_us), _us(layer.after_us), f"{layer.added_us:+,.1f} us", *kernels)


def _notes(comparison):
    if comparison.hosts:
        yield "The machines differ, so the ratios say nothing about the files alone:", "bad"
        yield from ((line, "plain") for line in comparison.hosts)
    for change in comparison.changes:
        if not change.same_content:
            yield f"{change.file}: the file has other content than before.", "plain"
    for when, missing in (("before", comparison.only_before), ("after", comparison.only_after)):
        yield from ((f"{file} on {threads} threads: only {when}.", "plain") for file, threads in missing)
    yield from ((f"Warning, {line}", "bad") for line in comparison.warnings)


def _interval(each):
    return _UNKNOWN if each.low is None or each.high is None else f"{each.low:.3f} to {each.high:.3f}"


def _counts(change):
    """Return how many runs each median is over."""
    counts = (change.before_runs, change.after_runs)
    return ", ".join(_UNKNOWN if count is None else f"{count:,}" for count in counts)


def _us(value):
    return _UNKNOWN if value is None else f"{value:,.1f} us"
