"""Files by targets as tables: a column for each file, so that four of them fit beside their names."""

from dataclasses import dataclass

from keras_nin.audit.tables import format_size
from keras_nin.edge.fit import CPU, EDGETPU, ETHOSU, MICRO
from keras_nin.formatting import escape_unprintable, format_table
from keras_nin.report.accuracy import format_percent, format_time
from keras_nin.report.latency import describe_machine

MAX_FILES = 4  # of a table
_SUFFIX = ".tflite"
_WIDTH, _LABEL_WIDTH, _COLUMN_GAP = 119, 19, 3  # characters; a line begins with a space


@dataclass(frozen=True)
class FitTable:
    """A table of up to `MOST_FILES` files: headings, rows of text, and the whole names of headings that were cut."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]


def format_fit(fit, results=()):
    """Return a `Fit` as text: the tables, why figures are missing, how all was found, and what became of limits.

    Args:
        fit: `keras_nin.edge.fit.FitResult`.
        results: `keras_nin.edge.fit_limits.FitLimitCheck` records.
    """
    made = fit_tables(fit)
    tables = [format_table(grid.columns, grid.rows, right=grid.columns[1:]) for grid in made]
    whole = [f"Whole name: {escape_unprintable(name)}" for grid in made for name in grid.names]
    blocks = [*(["\n".join(whole)] if whole else []), "\n".join(fit_reason_lines(fit)), "\n".join(fit_note_lines(fit))]
    judged = "\n".join(map(escape_unprintable, map(str, results)))
    return "\n\n".join(filter(None, [*tables, *blocks, judged]))


def fit_tables(fit, whole=False):
    """Return the `Grid`s of a `Fit`; `whole` leaves the files' names uncut."""
    parts = [fit.results[start : start + MAX_FILES] for start in range(0, len(fit.results), MAX_FILES)]
    return tuple(_fit_table(fit, part, whole) for part in parts)


def _fit_table(fit, results, whole):
    names = [result.file.removesuffix(_SUFFIX) for result in results]
    rows = [row for row in ((label, *map(cell, results)) for label, cell in _table_lines(fit)) if any(row[1:])]
    cells = list(zip(*rows, strict=True))[1:]
    wide = _LABEL_WIDTH + sum(
        _COLUMN_GAP + max(map(len, (name, *column))) for name, column in zip(names, cells, strict=True)
    )
    room = (
        max(map(len, names)) + 2 if whole or wide <= _WIDTH else (_WIDTH - _LABEL_WIDTH) // len(results) - _COLUMN_GAP
    )
    cut = tuple(result.file for result, name in zip(results, names, strict=True) if len(name) > room)
    return FitTable(("", *_column_heads(names, room)), tuple(rows), cut)


def _column_heads(names, room):
    """Return headings of at most so many characters; with a number before each where two are alike."""
    heads = [_cut_name(name, room) for name in names]
    if len(set(heads)) == len(heads):
        return heads
    return [f"{place} {_cut_name(name, room - 2)}" for place, name in enumerate(names, 1)]


def _cut_name(name, room):
    """Return a name with its middle left out where there is no room for it: the ends tell files apart."""
    start = (room - 3) // 2
    return name if len(name) <= room else f"{name[:start]}...{name[start + 3 - room :]}"


def _table_lines(fit):
    """Yield (label, function of a `FileFit` that returns its cell) of every line; an empty cell says nothing."""
    yield "size", lambda each: format_size(each.file_bytes)
    yield "parameters", lambda each: "" if each.params is None else f"{each.params:,}"
    yield "MACs", _format_macs
    yield "MACs in 1x1", lambda each: format_percent(each.pointwise_macs / each.macs) if each.macs else ""
    of = {CPU: _cpu_lines, EDGETPU: _edgetpu_lines, ETHOSU: _ethosu_lines, MICRO: _micro_lines}
    for target in fit.targets:
        (first, figure), *others = of[target](fit.settings)
        yield first, _figure_or_reason(target, figure)
        for label, cell in others:
            yield label, _figure_or_reason(target, cell, "")


def _format_macs(each):
    if each.macs is None:
        return "not known"
    return f"{each.macs:,}" if each.macs_known else f">= {each.macs:,}"


def _figure_or_reason(target, cell, word=None):
    """Return the function of a `FileFit`: the cell of its figures on a target, or why there are none."""

    def shown(each):
        figures, missing = getattr(each, target), each.find_missing(target)
        if figures is not None:
            return cell(figures)
        return (missing.label if word is None else word) if missing else ""

    return shown


def _cpu_lines(settings):
    threads = f"{settings.threads} thread{'' if settings.threads == 1 else 's'}"
    yield f"this CPU, {threads}", lambda cpu: format_time(cpu.median_us)
    yield "CPU 95 % interval", _format_interval
    yield "CPU runs", lambda cpu: f"{cpu.runs:,}"
    yield "CPU time in 1x1", lambda cpu: "" if cpu.pointwise_share is None else format_percent(cpu.pointwise_share)


def _format_interval(cpu):
    if cpu.low_us is None or cpu.high_us is None:
        return "too few runs"
    unit, name = (1000, "ms") if cpu.median_us >= 1000 else (1, "us")
    return f"{cpu.low_us / unit:.2f} to {cpu.high_us / unit:.2f} {name}"


def _edgetpu_lines(_):
    yield "Edge TPU", _edgetpu_state
    yield "Edge TPU operators", lambda each: f"{each.mapped:,} of {each.operators:,}" if each.compiles else ""
    yield "Edge TPU parameters", lambda each: format_size(each.parameter_bytes) if each.mapped else ""
    yield "Edge TPU memory", lambda each: each.parameters if each.mapped else ""


def _edgetpu_state(each):
    if not each.compiles:
        return each.failure if len(each.failure) <= _LABEL_WIDTH else "does not compile"
    return "all mapped" if each.mapped == each.operators else "in part" if each.mapped else "nothing mapped"


def _ethosu_lines(settings):
    yield settings.accelerator, _format_npu_time
    yield "Ethos-U clock", lambda each: f"{each.clock_hz / 1e6:,.0f} MHz" if each.on_npu else ""
    yield "Ethos-U operators", lambda each: f"{each.on_npu:,} of {each.operators:,}"
    yield "Ethos-U SRAM", lambda each: format_size(each.sram_bytes) if each.on_npu else ""


def _format_npu_time(each):
    if not each.on_npu:
        return "nothing on the NPU"
    return f"{each.us / 1000:,.3f} ms" + (" + CPU" if each.on_cpu else "")


def _micro_lines(settings):
    yield "TFLite Micro arena", lambda each: format_size(each.arena_bytes)
    yield "of it tensors", lambda each: format_size(each.tensor_bytes)
    yield (
        "Micro and LiteRT",
        lambda each: "" if each.bit_exact is None else "bit for bit" if each.bit_exact else "differ",
    )


def fit_reason_lines(fit):
    """Yield a line for every figure that is missing or not whole, with the reason; files that share it in one."""
    said = {}
    for each in fit.results:
        for line in _file_reasons(each):
            said.setdefault(line, []).append(each.file)
    for (title, reason), names in said.items():
        which = "all" if len(names) == len(fit.results) > 1 else ", ".join(names)
        yield escape_unprintable(f"{title}, {which}: {reason}")


def _file_reasons(each):
    titles = {CPU: "this CPU", EDGETPU: "Edge TPU", ETHOSU: "Ethos-U", MICRO: "TFLite Micro"}
    if each.edgetpu is not None and not each.edgetpu.compiles:
        found = each.edgetpu
        yield (
            "Edge TPU",
            f"does not compile: {found.failure}: {found.why}" + (f". Fix: {found.fix}" if found.fix else ""),
        )
    elif each.edgetpu is not None and each.edgetpu.why:
        yield "Edge TPU", f"on the CPU: {each.edgetpu.why}"
    for missing in each.missing:
        yield titles[missing.target], f"{missing.label}: {missing.reason}"


def _no_compilation(found):
    return f"does not compile: {found.failure}: {found.why}" + (f". Fix: {found.fix}" if found.fix else "")


def fit_note_lines(fit):
    """Yield how the figures were found: what is measured, predicted, estimated, and on what."""
    measured = [each.cpu for each in fit.results if each.cpu]
    if measured and fit.host is not None:
        threads = f"{fit.settings.threads} thread{'' if fit.settings.threads == 1 else 's'}"
        yield f"CPU: measured, median at batch 1 on {threads}; {escape_unprintable(describe_machine(fit.host))}"
    if any(each.edgetpu for each in fit.results):
        yield "Edge TPU: predicted for compiler 16.0 from the file alone, nothing was compiled"
    estimates = [each.ethosu for each in fit.results if each.ethosu]
    for vela, config, mode in dict.fromkeys((each.vela, each.system_config, each.memory_mode) for each in estimates):
        yield f"Ethos-U: estimated by Vela {vela} ({config}, {mode}), without the time of what is left to the CPU"
    for package, bits in dict.fromkeys(
        (each.micro.package, each.micro.host_bits) for each in fit.results if each.micro
    ):
        yield f"TFLite Micro: the smallest arena that runs, found with tflite-micro {package} on this {bits}-bit host"
    yield from (escape_unprintable(f"Warning: {line}") for line in fit.warnings)
