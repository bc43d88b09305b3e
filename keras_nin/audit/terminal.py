"""An audit on a terminal: a table that fits the width, with bars for the shares."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_nin.audit.tables import (
    BLOCKS,
    DEFAULT_COLUMNS,
    LAYERS,
    TOTALS,
    AuditColumn,
    AuditRecord,
    AuditView,
    list_conventions,
    list_findings,
    list_totals,
)
from keras_nin.formatting import escape_unprintable, wrap

if TYPE_CHECKING:
    import rich.console

    from keras_nin.audit.api import Audit

# What a wide terminal shows, and what is dropped first if there is no room. Names and costs stay.
_COLUMNS = {
    TOTALS: (),
    BLOCKS: DEFAULT_COLUMNS[BLOCKS],
    LAYERS: (*DEFAULT_COLUMNS[LAYERS][:-2], "share_of_params", "macs", "share_of_macs"),
}
BARS = "bars"  # among the keys of columns in the order of what is dropped
_DROPPED_FIRST = (
    *("type", "share_of_params", "kernel", BARS, "kind"),
    *("output_shape", "role", "layers", "share_of_macs"),
)
_FULL, _EIGHTHS, _ASCII_FULL = "█", ("", *"▏▎▍▌▋▊▉"), "#"
_MIN_FOOT = 20
GAP = 1
_NAME_SHARE = 3 / 8  # of the width: a name folds below that only when no other column can be dropped
_MIN_NAME = 8
_MIN_BAR, _MAX_BAR = 4, 16


def print_audit(audit: "Audit", console: "rich.console.Console", view: AuditView | None = None) -> None:
    """Print `audit` on a console, no wider than it is (from 80 columns on), with no number cut.

    If there is no room, names fold and less important columns are dropped; the foot says which. A bar's length is the
    share relative to the largest share shown. ASCII alone if the console's encoding is not Unicode.
    """
    from rich.text import Text

    view = view or AuditView()
    encoding = console.encoding if console.options.ascii_only else "utf-8"
    columns = view.select_columns(_COLUMNS[view.depth])
    layout = None
    console.print(Text(escape_unprintable(audit.model, encoding), "bold"))
    if columns:
        records = view.select_records(audit)
        cells = [
            [escape_unprintable(column.text(record, audit.total), encoding) for column in columns] for record in records
        ]
        order = _DROPPED_FIRST if view.columns is None else [BARS, *(column.key for column in columns[:0:-1])]
        layout = fit_columns(columns, cells, console.width, order)
        _print_table(console, audit, layout, records, encoding)
    for line in _foot_lines(audit, view, layout, max(console.width, _MIN_FOOT)):
        console.print(Text(escape_unprintable(line, encoding)))


def format_bar(share: float, width: int, *, ascii_only: bool = False) -> str:
    """Return a bar for `share` (0 to 1) of `width` characters, to an eighth of a character in Unicode."""
    if ascii_only:
        return _ASCII_FULL * round(share * width)
    whole, eighths = divmod(round(share * width * 8), 8)
    return _FULL * whole + _EIGHTHS[eighths]


def _print_table(
    console: "rich.console.Console",
    audit: "Audit",
    layout: "TableLayout",
    records: Sequence[AuditRecord],
    encoding: str,
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    ascii_only = console.options.ascii_only
    lines = box.Box(str(box.SIMPLE_HEAD).replace("─", "-"), ascii=True) if ascii_only else box.SIMPLE_HEAD
    table = Table(box=lines, padding=0, show_edge=False, header_style="bold")
    for column, width in zip(layout.columns, layout.widths, strict=True):
        is_right = column.numeric and not (layout.bar and column.is_share)
        justify = "right" if is_right else "left"
        table.add_column(Text(column.heading), justify=justify, width=width, overflow="fold")
    largest = {
        column.key: max((column.value(record, audit.total) or 0 for record in records), default=0) or 1
        for column in layout.columns
        if column.is_share
    }
    for record in records:
        cells = []
        for column, width in zip(layout.columns, layout.widths, strict=True):
            text = escape_unprintable(column.text(record, audit.total), encoding)
            if layout.bar and column.is_share:
                share = (column.value(record, audit.total) or 0) / largest[column.key]
                bar = format_bar(share, layout.bar, ascii_only=ascii_only)
                text = f"{text:>{width - layout.bar - GAP}} {bar}"
            cells.append(Text(text))
        table.add_row(*cells, style="cyan" if getattr(record, "kind", None) == "pointwise" else None)
    width = console.width
    # If not even the numbers fit, the table is wider than the terminal, which breaks the lines: nothing is lost.
    console.width = max(width, layout.width)
    console.print(table)
    console.width = width


def _foot_lines(audit: "Audit", view: AuditView, layout: "TableLayout | None", width: int) -> Iterator[str]:
    if layout:
        yield ""
    totals = list_totals(audit, view.select_rows(audit) if view.only else None)
    for line in (*_layout_lines(layout), *totals):
        yield from wrap(line, width)
    if audit.findings:
        yield from ("", "Findings:")
        for line in list_findings(audit.findings):
            yield from wrap(line, width)
    yield ""
    for line in list_conventions(audit):
        yield from wrap(line, width, indent="")


def _layout_lines(layout: "TableLayout | None") -> Iterator[str]:
    if layout and layout.dropped:
        keys = ", ".join(column.key for column in layout.dropped)
        yield f"No room here for {keys}: widen the terminal, choose fewer columns, or pipe the output."
    if layout and layout.bar:
        yield "Bars are relative to the largest share shown."


# Layout


@dataclass(frozen=True)
class TableLayout:
    """The columns that fit, their widths in characters, the length of the bars (0: none), and the dropped columns."""

    columns: tuple[AuditColumn, ...]
    widths: tuple[int, ...]
    bar: int
    dropped: tuple[AuditColumn, ...]

    @property
    def width(self) -> int:
        """Characters in a line."""
        return sum(self.widths) + GAP * (len(self.widths) - 1)


def fit_columns(
    columns: Sequence[AuditColumn], cells: Sequence[Sequence[str]], width: int, order: Sequence[str]
) -> TableLayout:
    """Return the `TableLayout` of a table in `width` characters; wider if not even the numbers fit.

    `cells` has a list of texts per line; `order` the keys of the columns (`BARS`: the bars) to drop, first to last.
    """
    texts = {column.key: [line[index] for line in cells] for index, column in enumerate(columns)}
    wanted = {column.key: _column_width(column, texts[column.key]) for column in columns}
    least = {column.key: _minimum_width(column, texts[column.key], wanted[column.key], width) for column in columns}
    shown, bar = _drop_columns(columns, least, width, order)
    spare = width - _table_width(shown, least, bar)
    if spare < 0 and "name" in least:
        least["name"] = max(min(least["name"], _MIN_NAME), least["name"] + spare)
    widths, spare = _widen_columns(shown, least, wanted, max(spare, 0))
    if bar:
        bar = min(_MAX_BAR, bar + spare // sum(column.is_share for column in shown))
        widths = [size + (bar + GAP) * column.is_share for column, size in zip(shown, widths, strict=True)]
    dropped = tuple(column for column in columns if column not in shown)
    return TableLayout(tuple(shown), tuple(widths), bar, dropped)


def _column_width(column: AuditColumn, texts: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max(_heading_width(column.heading.split()), max(map(cell_len, texts), default=0))


def _heading_width(words: Sequence[str]) -> int:
    """Return the least width at which a heading takes no more than two lines."""
    splits = range(1, len(words) + 1)
    return min(max(len(" ".join(words[:split])), len(" ".join(words[split:]))) for split in splits)


def _minimum_width(column: AuditColumn, texts: Sequence[str], wanted: int, width: int) -> int:
    """Return the least width of a column: numbers stay in one piece, and so do the words and shapes of other text."""
    if column.key == "name":
        return min(wanted, max(_MIN_NAME, int(width * _NAME_SHARE)))
    return wanted if column.numeric else _column_width(column, [word for text in texts for word in text.split()])


def _table_width(columns: Sequence[AuditColumn], widths: dict[str, int], bar: int) -> int:
    bars = (bar + GAP) * sum(column.is_share for column in columns) if bar else 0
    return sum(widths[column.key] for column in columns) + GAP * (len(columns) - 1) + bars


def _drop_columns(
    columns: Sequence[AuditColumn], least: dict[str, int], width: int, order: Sequence[str]
) -> tuple[list[AuditColumn], int]:
    """Return the columns that fit and the least length of the bars, 0 for no bars."""
    shown = list(columns)
    bar = _MIN_BAR if any(column.is_share for column in columns) else 0
    for key in order:
        if _table_width(shown, least, bar) <= width:
            break
        shown = [column for column in shown if column.key != key]
        bar = 0 if key == BARS or not any(column.is_share for column in shown) else bar
    return shown, bar


def _widen_columns(
    columns: Sequence[AuditColumn], least: dict[str, int], wanted: dict[str, int], spare: int
) -> tuple[list[int], int]:
    """Distribute `spare` characters from the left to columns that want more; return the widths and the rest."""
    widths = []
    for column in columns:
        more = min(spare, wanted[column.key] - least[column.key])
        widths.append(least[column.key] + more)
        spare -= more
    return widths, spare
