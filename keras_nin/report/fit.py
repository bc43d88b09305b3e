"""Files by targets, as tables with a column for each file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keras_nin.edge.fit import CPU, EDGETPU, ETHOSU, TARGET_TITLES, FileFit, FitResult, FitSettings
from keras_nin.formatting import escape_unprintable, format_count
from keras_nin.report.rendering import Table, make_table, render_text

MAX_FILES = 4  # per table
_SUFFIX = ".tflite"
_WIDTH, _LABEL_WIDTH, _COLUMN_GAP = 119, 19, 3  # characters; a line begins with a space


@dataclass(frozen=True)
class FitTable(Table):
    """A table of up to `MAX_FILES` files, and the full names of those whose heading is shortened."""

    names: tuple[str, ...]


def format_fit(fit: FitResult) -> str:
    """Return the tables, the reasons of missing figures, and how the figures were obtained."""
    tables = fit_tables(fit)
    names = [f"Full name: {escape_unprintable(name)}" for table in tables for name in table.names]
    lines = [names, fit_reason_lines(fit), fit_note_lines(fit)]
    return "\n\n".join(filter(None, [*map(str, tables), *map("\n".join, lines)]))


def fit_tables(fit: FitResult, full_names: bool = False) -> tuple[FitTable, ...]:
    """Return the tables of a result; `full_names` leaves long headings as they are, and has one above the labels."""
    groups = [fit.results[start : start + MAX_FILES] for start in range(0, len(fit.results), MAX_FILES)]
    return tuple(_fit_table(fit, group, full_names) for group in groups)


def _fit_table(fit: FitResult, results: Sequence[FileFit], full_names: bool) -> FitTable:
    names = [result.file.removesuffix(_SUFFIX) for result in results]
    tables = [make_table("fit_file", results), *(_target_table(fit, target, results) for target in fit.targets)]
    lines = [line for table in tables for line in zip(table.columns, *table.rows, strict=True) if any(line[1:])]
    _, *columns = zip(*lines, strict=True)
    widths = [max(map(len, (name, *column))) for name, column in zip(names, columns, strict=True)]
    is_narrow = full_names or _LABEL_WIDTH + sum(_COLUMN_GAP + width for width in widths) <= _WIDTH
    room = max(map(len, names)) + 2 if is_narrow else (_WIDTH - _LABEL_WIDTH) // len(results) - _COLUMN_GAP
    shortened = tuple(result.file for result, name in zip(results, names, strict=True) if len(name) > room)
    heads = _column_heads(names, room)
    return FitTable(("figure" if full_names else "", *heads), tuple(heads), tuple(lines), shortened)


def _target_table(fit: FitResult, target: str, results: Sequence[FileFit]) -> Table:
    """Return the figures of a target, a row for each file; where there are none, the reason is in the first cell."""
    labels = {
        CPU: f"{fit.settings.title(CPU)}, {format_count(fit.settings.threads, 'thread')}",
        ETHOSU: fit.settings.accelerator,
    }
    columns, rows = make_table(f"fit_{target}", [], first=labels.get(target)).columns, []
    for result in results:
        figures, missing = getattr(result, target), result.find_missing(target)
        if figures is not None:
            rows += make_table(f"fit_{target}", [figures]).rows
        else:
            rows.append((missing.label if missing else "", *[""] * (len(columns) - 1)))
    return Table(columns, (), tuple(rows))


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


def fit_reason_lines(fit: FitResult) -> list[str]:
    """Return a line for every missing or incomplete figure with its reason, one for all files that share it."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for result in fit.results:
        for reason in _file_reasons(result, fit.settings):
            reasons.setdefault(reason, []).append(result.file)
    return render_text("fit.j2", "reasons", reasons, len(fit.results)).splitlines()


def _file_reasons(file: FileFit, settings: FitSettings) -> Iterator[tuple[str, str]]:
    figures = file.edgetpu
    if figures is not None and not figures.compiles:
        fix = f". Fix: {figures.fix}" if figures.fix else ""
        yield TARGET_TITLES[EDGETPU], f"does not compile: {figures.failure}: {figures.why}{fix}"
    elif figures is not None and figures.why:
        yield TARGET_TITLES[EDGETPU], f"on the CPU: {figures.why}"
    if figures is not None and figures.compiles and figures.uncertain:
        count = format_count(figures.operators, "operator")
        yield TARGET_TITLES[EDGETPU], f"uncertain: {figures.uncertain:,} of {count}, see keras-nin edgetpu"
    for missing in file.missing:
        yield settings.title(missing.target), f"{missing.label}: {missing.reason}"


def fit_note_lines(fit: FitResult) -> list[str]:
    """Return how the figures were obtained: what is measured, predicted or estimated, and on what."""
    lines = dict.fromkeys(render_text("fit.j2", "notes", fit).splitlines())
    return [*lines, *(escape_unprintable(f"Warning: {warning}") for warning in fit.warnings)]
