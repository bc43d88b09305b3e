"""Files by targets, as tables with a column for each file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from keras_nin.edge.fit import (
    CPU,
    EDGETPU,
    ETHOSU,
    MICRO,
    TARGET_TITLES,
    CPUFigures,
    EdgeTPUFigures,
    EthosUFigures,
    FileFit,
    FitResult,
    FitSettings,
)
from keras_nin.formatting import (
    escape_unprintable,
    format_bytes,
    format_count,
    format_host,
    format_percent,
    format_table,
    format_us,
)

MAX_FILES = 4  # per table
_SUFFIX = ".tflite"
_WIDTH, _LABEL_WIDTH, _COLUMN_GAP = 119, 19, 3  # characters; a line begins with a space

FormatFigures: TypeAlias = Callable[[Any], str]
FormatFile: TypeAlias = Callable[[FileFit], str]


@dataclass(frozen=True)
class FitTable:
    """A table of up to `MAX_FILES` files: headings, rows, and the full names of files whose heading is shortened."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]


def format_fit(fit: FitResult) -> str:
    """Return the tables, the reasons of missing figures, and how the figures were obtained."""
    tables = fit_tables(fit)
    names = [f"Full name: {escape_unprintable(name)}" for table in tables for name in table.names]
    lines = [names, fit_reason_lines(fit), fit_note_lines(fit)]
    blocks = [format_table(table.columns, table.rows, right=table.columns[1:]) for table in tables]
    return "\n\n".join(filter(None, [*blocks, *map("\n".join, lines)]))


def fit_tables(fit: FitResult, full_names: bool = False) -> tuple[FitTable, ...]:
    """Return the tables of a result; `full_names` leaves long headings as they are."""
    groups = [fit.results[start : start + MAX_FILES] for start in range(0, len(fit.results), MAX_FILES)]
    return tuple(_fit_table(fit, group, full_names) for group in groups)


def _fit_table(fit: FitResult, results: Sequence[FileFit], full_names: bool) -> FitTable:
    names = [result.file.removesuffix(_SUFFIX) for result in results]
    rows = [(label, *map(cell, results)) for label, cell in _table_rows(fit)]
    rows = [row for row in rows if any(row[1:])]
    columns = list(zip(*rows, strict=True))[1:]
    width = _LABEL_WIDTH + sum(
        _COLUMN_GAP + max(map(len, (name, *column))) for name, column in zip(names, columns, strict=True)
    )
    is_narrow = full_names or width <= _WIDTH
    room = max(map(len, names)) + 2 if is_narrow else (_WIDTH - _LABEL_WIDTH) // len(results) - _COLUMN_GAP
    shortened = tuple(result.file for result, name in zip(results, names, strict=True) if len(name) > room)
    return FitTable(("", *_column_heads(names, room)), tuple(rows), shortened)


def _column_heads(names: Sequence[str], room: int) -> list[str]:
    """Return headings of at most `room` characters, numbered where two would be the same."""
    heads = [_cut_name(name, room) for name in names]
    if len(set(heads)) == len(heads):
        return heads
    return [f"{number} {_cut_name(name, room - 2)}" for number, name in enumerate(names, 1)]


def _cut_name(name: str, room: int) -> str:
    """Return a name without its middle where there is no room for it: the ends tell files apart."""
    start = (room - 3) // 2
    return name if len(name) <= room else f"{name[:start]}...{name[start + 3 - room :]}"


def _table_rows(fit: FitResult) -> Iterator[tuple[str, FormatFile]]:
    """Yield the label of every row, and the function that formats its cell of a file; empty cells are not shown."""
    yield "size", lambda file: format_bytes(file.file_bytes)
    yield "parameters", lambda file: "" if file.params is None else f"{file.params:,}"
    yield "MACs", _format_macs
    yield "MACs in 1x1", lambda file: format_percent((file.pointwise_macs or 0) / file.macs) if file.macs else ""
    rows = {CPU: _cpu_rows, EDGETPU: _edgetpu_rows, ETHOSU: _ethosu_rows, MICRO: _micro_rows}
    for target in fit.targets:
        for number, (label, cell) in enumerate(rows[target](fit.settings)):
            yield label, _figure_or_reason(target, cell, is_first=number == 0)


def _format_macs(file: FileFit) -> str:
    if file.macs is None:
        return "unknown"
    return f"{file.macs:,}" if file.macs_known else f">= {file.macs:,}"


def _figure_or_reason(target: str, cell: FormatFigures, *, is_first: bool) -> FormatFile:
    """Return the function that formats a target's figure of a file, in the first row else why there is none."""

    def format_file(file: FileFit) -> str:
        figures, missing = getattr(file, target), file.find_missing(target)
        if figures is not None:
            return cell(figures)
        return missing.label if missing and is_first else ""

    return format_file


def _cpu_rows(settings: FitSettings) -> Iterator[tuple[str, FormatFigures]]:
    yield f"this CPU, {format_count(settings.threads, 'thread')}", lambda cpu: format_us(cpu.median_us)
    yield "CPU 95% interval", _format_interval
    yield "CPU runs", lambda cpu: f"{cpu.runs:,}"
    yield "CPU time in 1x1", lambda cpu: "" if cpu.pointwise_share is None else format_percent(cpu.pointwise_share)


def _format_interval(cpu: CPUFigures) -> str:
    if cpu.low_us is None or cpu.high_us is None:
        return "too few runs"
    unit, name = (1000, "ms") if cpu.median_us >= 1000 else (1, "us")
    return f"{cpu.low_us / unit:.2f} to {cpu.high_us / unit:.2f} {name}"


def _edgetpu_rows(settings: FitSettings) -> Iterator[tuple[str, FormatFigures]]:
    yield "Edge TPU", _edgetpu_state
    yield (
        "Edge TPU operators",
        lambda figures: f"{figures.mapped:,} of {figures.operators:,}" if figures.compiles else "",
    )
    yield "Edge TPU parameters", lambda figures: format_bytes(figures.parameter_bytes) if figures.mapped else ""
    yield "Edge TPU memory", lambda figures: figures.parameters if figures.mapped else ""


def _edgetpu_state(figures: EdgeTPUFigures) -> str:
    if not figures.compiles:
        failure = figures.failure or ""
        return failure if 0 < len(failure) <= _LABEL_WIDTH else "does not compile"
    if figures.mapped == figures.operators:
        return "all mapped"
    return "partly mapped" if figures.mapped else "nothing mapped"


def _ethosu_rows(settings: FitSettings) -> Iterator[tuple[str, FormatFigures]]:
    yield settings.accelerator, _format_npu_time
    yield "Ethos-U clock", lambda figures: f"{figures.clock_hz / 1e6:,.0f} MHz" if figures.on_npu else ""
    yield "Ethos-U operators", lambda figures: f"{figures.on_npu:,} of {figures.operators:,}"
    yield "Ethos-U SRAM", lambda figures: format_bytes(figures.sram_bytes) if figures.on_npu else ""


def _format_npu_time(figures: EthosUFigures) -> str:
    if not figures.on_npu:
        return "nothing on the NPU"
    return f"{figures.us / 1000:,.3f} ms" + (" + CPU" if figures.on_cpu else "")


def _micro_rows(settings: FitSettings) -> Iterator[tuple[str, FormatFigures]]:
    yield "TFLite Micro arena", lambda figures: format_bytes(figures.arena_bytes)
    yield "tensors in arena", lambda figures: format_bytes(figures.tensor_bytes)
    words = {None: "", True: "bit-exact", False: "not bit-exact"}
    yield "Micro and LiteRT", lambda figures: words[figures.bit_exact]


def fit_reason_lines(fit: FitResult) -> list[str]:
    """Return a line for every missing or incomplete figure with its reason, one for all files that share it."""
    files: dict[tuple[str, str], list[str]] = {}
    for result in fit.results:
        for reason in _file_reasons(result):
            files.setdefault(reason, []).append(result.file)
    return [
        escape_unprintable(f"{title}, {'all' if len(names) == len(fit.results) > 1 else ', '.join(names)}: {reason}")
        for (title, reason), names in files.items()
    ]


def _file_reasons(file: FileFit) -> Iterator[tuple[str, str]]:
    figures = file.edgetpu
    if figures is not None and not figures.compiles:
        fix = f". Fix: {figures.fix}" if figures.fix else ""
        yield TARGET_TITLES[EDGETPU], f"does not compile: {figures.failure}: {figures.why}{fix}"
    elif figures is not None and figures.why:
        yield TARGET_TITLES[EDGETPU], f"on the CPU: {figures.why}"
    for missing in file.missing:
        yield TARGET_TITLES[missing.target], f"{missing.label}: {missing.reason}"


def fit_note_lines(fit: FitResult) -> list[str]:
    """Return how the figures were obtained: what is measured, predicted or estimated, and on what."""
    lines = []
    if fit.host is not None and any(result.cpu for result in fit.results):
        threads = format_count(fit.settings.threads, "thread")
        lines.append(f"CPU: measured, median at batch 1 on {threads}; {format_host(fit.host)}")
    if any(result.edgetpu for result in fit.results):
        lines.append("Edge TPU: predicted for compiler 16.0 from the file alone, not compiled")
    estimates = [result.ethosu for result in fit.results if result.ethosu]
    for vela, config, mode in dict.fromkeys((each.vela, each.system_config, each.memory_mode) for each in estimates):
        lines.append(f"Ethos-U: estimated by Vela {vela} ({config}, {mode}), without the time of operators on the CPU")
    arenas = [result.micro for result in fit.results if result.micro]
    for package, bits in dict.fromkeys((each.package, each.host_bits) for each in arenas):
        lines.append(f"TFLite Micro: the smallest arena that runs, with tflite-micro {package} on this {bits}-bit host")
    lines += [f"Warning: {warning}" for warning in fit.warnings]
    return [escape_unprintable(line) for line in lines]
