"""An audit on a terminal: a table that fits the width, with bars for the shares."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_nin.audit import tables
from keras_nin.audit.tables import AuditColumn, AuditView
from keras_nin.formatting import escape_unprintable, wrap

if TYPE_CHECKING:
    import rich.console

    from keras_nin.audit.api import Audit

# What a wide terminal shows, and what is dropped first if there is no room. Names and costs stay.
_LAYER_COLUMNS = (*tables.DEFAULT_COLUMNS[tables.LAYERS][:-2], "share_of_params", "macs", "share_of_macs")
_COLUMNS = tables.DEFAULT_COLUMNS | {tables.LAYERS: _LAYER_COLUMNS}
BARS = "bars"  # among the keys of columns in the order of what is dropped
_DROPPED_FIRST = ("type", "share_of_params", "kernel", BARS, "kind", "output_shape", "role", "layers", "share_of_macs")
_FULL, _EIGHTHS, _ASCII_FULL = "█", ("", *"▏▎▍▌▋▊▉"), "#"
_MIN_FOOT = 20
GAP = 1
_NAME_SHARE = 3 / 8  # of the width: a name folds below that only when no other column can be dropped
_MIN_NAME = 8
_MIN_BAR, _MAX_BAR = 4, 16
_Cells = dict[AuditColumn, str]  # the texts of a line


def print_audit(audit: "Audit", console: "rich.console.Console", view: AuditView = tables.EVERYTHING) -> None:
    """Print `audit` on a console, no wider than it is (from 80 columns on), with no number cut.

    If there is no room, names fold and less important columns are dropped; the foot says which. A bar's length is the
    share relative to the largest share shown. ASCII alone if the console's encoding is not Unicode.
    """
    from rich.text import Text

    encoding = console.encoding if console.options.ascii_only else "utf-8"
    columns = view.select_columns(_COLUMNS[view.depth])
    layout = None
    console.print(Text(escape_unprintable(audit.model, encoding), "bold"))
    if columns:
        cells = [
            {column: escape_unprintable(column.text(record, audit.total), encoding) for column in columns}
            for record in view.select_records(audit)
        ]
        order = _DROPPED_FIRST if view.columns is None else [BARS, *(column.key for column in columns[:0:-1])]
        layout = fit_columns(columns, cells, console.width, order)
        _print_table(console, audit, layout, view, cells)
    for line in _foot_lines(audit, view, layout, max(console.width, _MIN_FOOT)):
        console.print(Text(escape_unprintable(line, encoding)))


def format_bar(share: float, width: int, *, ascii_only: bool = False) -> str:
    """Return a bar for `share` (0 to 1) of `width` characters, to an eighth of a character in Unicode."""
    if ascii_only:
        return _ASCII_FULL * round(share * width)
    whole, eighths = divmod(round(share * width * 8), 8)
    return _FULL * whole + _EIGHTHS[eighths]


def _print_table(
    console: "rich.console.Console", audit: "Audit", layout: "TableLayout", view: AuditView, cells: Sequence[_Cells]
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    ascii_only = console.options.ascii_only
    lines = box.Box(str(box.SIMPLE_HEAD).replace("─", "-"), ascii=True) if ascii_only else box.SIMPLE_HEAD
    table = Table(box=lines, padding=0, show_edge=False, header_style="bold")
    records, largest = view.select_records(audit), {}
    for column, width in layout.widths.items():
        has_bar = layout.bar and column.is_share
        justify = "right" if column.numeric and not has_bar else "left"
        table.add_column(Text(column.heading), justify=justify, width=width, overflow="fold")
        if has_bar:
            largest[column] = max((column.value(record, audit.total) or 0 for record in records), default=0) or 1
    for record, texts in zip(records, cells, strict=True):
        line = []
        for column, width in layout.widths.items():
            text = texts[column]
            if column in largest:
                share = (column.value(record, audit.total) or 0) / largest[column]
                text = f"{text:>{width - layout.bar - GAP}} {format_bar(share, layout.bar, ascii_only=ascii_only)}"
            line.append(Text(text))
        table.add_row(*line, style="cyan" if getattr(record, "kind", None) == "pointwise" else None)
    width = console.width
    # If not even the numbers fit, the table is wider than the terminal, which breaks the lines: nothing is lost.
    console.width = max(width, sum(layout.widths.values()) + GAP * (len(layout.widths) - 1))
    console.print(table)
    console.width = width


def _foot_lines(audit: "Audit", view: AuditView, layout: "TableLayout | None", width: int) -> Iterator[str]:
    notes = []
    if layout:
        yield ""
        if layout.dropped:
            keys = ", ".join(layout.dropped)
            notes.append(f"No room here for {keys}: widen the terminal, choose fewer columns, or pipe the output.")
        if layout.bar:
            notes.append("Bars are relative to the largest share shown.")
    for line in (*notes, *tables.list_totals(audit, view)):
        yield from wrap(line, width)
    if audit.findings:
        yield from ("", "Findings:")
        for line in tables.list_findings(audit.findings):
            yield from wrap(line, width)
    yield ""
    for line in tables.list_conventions(audit):
        yield from wrap(line, width, indent="")


# Layout


@dataclass(frozen=True)
class TableLayout:
    """Widths of the columns that fit, in characters, the length of the bars (0: none), and the dropped columns."""

    widths: dict[AuditColumn, int]
    bar: int
    dropped: tuple[str, ...]


def fit_columns(
    columns: Sequence[AuditColumn], cells: Sequence[_Cells], width: int, order: Sequence[str]
) -> TableLayout:
    """Return the `TableLayout` of a table in `width` characters; wider if not even the numbers fit.

    `order` has the keys of the columns (`BARS`: the bars) to drop, first to last.
    """
    wanted, least = {}, {}
    for column in columns:
        texts = [line[column] for line in cells]
        wanted[column] = least[column] = _column_width(column, texts)
        if column.key == "name":
            least[column] = min(wanted[column], max(_MIN_NAME, int(width * _NAME_SHARE)))
        elif not column.numeric:  # numbers stay in one piece, and so do the words and shapes of other text
            least[column] = _column_width(column, [word for text in texts for word in text.split()])
    shown, bar = list(columns), _MIN_BAR if any(column.is_share for column in columns) else 0
    keys = iter(order)
    while (spare := width - _table_width(shown, least, bar)) < 0 and (key := next(keys, None)):
        shown = [column for column in shown if column.key != key]
        bar = 0 if key == BARS or not any(column.is_share for column in shown) else bar
    widths = {}
    for column in shown:  # from the left to the right, each as wide as it wants
        if column.key == "name" and spare < 0:
            least[column] = max(min(least[column], _MIN_NAME), least[column] + spare)
        widths[column] = least[column] + min(max(spare, 0), wanted[column] - least[column])
        spare -= widths[column] - least[column]
    if bar:
        bar = min(_MAX_BAR, bar + max(spare, 0) // sum(column.is_share for column in shown))
        widths = {column: size + (bar + GAP) * column.is_share for column, size in widths.items()}
    return TableLayout(widths, bar, tuple(column.key for column in columns if column not in shown))


def _column_width(column: AuditColumn, texts: Sequence[str]) -> int:
    """Return the width of the longest text, and the least at which the heading takes no more than two lines."""
    from rich.cells import cell_len

    words = column.heading.split()
    splits = range(1, len(words) + 1)
    heading = min(max(len(" ".join(words[:split])), len(" ".join(words[split:]))) for split in splits)
    return max(heading, max(map(cell_len, texts), default=0))


def _table_width(columns: Sequence[AuditColumn], widths: dict[AuditColumn, int], bar: int) -> int:
    bars = (bar + GAP) * sum(column.is_share for column in columns) if bar else 0
    return sum(widths[column] for column in columns) + GAP * (len(columns) - 1) + bars
