"""Which columns of a table fit a terminal, and how wide each may be."""

from dataclasses import dataclass

from keras_nin.audit import tables
from keras_nin.audit.tables import BLOCKS, LAYERS, TOTALS, AuditColumn, AuditView
from keras_nin.formatting import escape_unprintable

GAP = 1
_NAME_SHARE = 3 / 8  # of the width: a name is folded below that only when no other column is left to give way
_MIN_NAME = 8
_MAX_BAR, _MIN_BAR = 16, 4
BARS = "bars"  # in the order of what is left out


@dataclass(frozen=True)
class TableLayout:
    """The columns that fit, their widths in characters, the length of the bars (0: none), and what found no room."""

    columns: tuple[AuditColumn, ...]
    widths: tuple[int, ...]
    bar: int
    dropped: tuple[AuditColumn, ...]

    @property
    def width(self):
        """Characters in a line."""
        return sum(self.widths) + GAP * (len(self.widths) - 1)


def fit_columns(columns, cells, width, order):
    """Return the `Layout` of a table in `width` characters; wider where not even the numbers fit.

    Args:
        columns: the `Column`s wanted.
        cells: a list of texts for each line.
        width: of the terminal.
        order: keys of the columns that may be left out, the first to go first; `BARS` among them for the bars.
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


def _column_width(column, texts):
    from rich.cells import cell_len

    return max(_heading_width(column.heading.split()), max(map(cell_len, texts), default=0))


def _heading_width(words):
    """The least width at which a heading takes no more than two lines."""
    return min(max(len(" ".join(words[:at])), len(" ".join(words[at:]))) for at in range(1, len(words) + 1))


def _minimum_width(column, texts, wanted, width):
    """The least width: a number stays in one piece, and so does each word and each shape of other text."""
    if column.key == "name":
        return min(wanted, max(_MIN_NAME, int(width * _NAME_SHARE)))
    return wanted if column.numeric else _column_width(column, [word for text in texts for word in text.split()])


def _table_width(columns, widths, bar):
    bars = (bar + GAP) * sum(column.is_share for column in columns) if bar else 0
    return sum(widths[column.key] for column in columns) + GAP * (len(columns) - 1) + bars


def _drop_columns(columns, least, width, order):
    shown = list(columns)
    bar = _MIN_BAR if any(column.is_share for column in columns) else 0
    for key in order:
        if _table_width(shown, least, bar) <= width:
            break
        shown = [column for column in shown if column.key != key]
        bar = 0 if key == BARS or not any(column.is_share for column in shown) else bar
    return shown, bar


def _widen_columns(columns, least, wanted, spare):
    """The widths with `spare` characters given to what wants more, from the left, and what is left of them."""
    widths = []
    for column in columns:
        more = min(spare, wanted[column.key] - least[column.key])
        widths.append(least[column.key] + more)
        spare -= more
    return widths, spare


# MERGED An audit on a terminal: a table that fits the width, with bars for the shares.

# What a wide terminal shows, and what goes first where there is no room for it. Names and numbers of cost stay.
_COLUMNS = {
    TOTALS: (),
    BLOCKS: ("name", "layers", "params", "share_of_params", "macs", "share_of_macs"),
    LAYERS: (
        *("name", "type", "kind", "role", "kernel", "output_shape"),
        *("params", "share_of_params", "macs", "share_of_macs"),
    ),
}
_LEFT_OUT_FIRST = (
    *("type", "share_of_params", "kernel", BARS, "kind"),
    *("output_shape", "role", "layers", "share_of_macs"),
)
_FULL, _EIGHTHS, _ASCII_FULL = "█", ("", *"▏▎▍▌▋▊▉"), "#"
_MIN_FOOT = 20


def print_audit(audit, console, view=None):
    """Print `audit` on a `rich.console.Console`: no wider than it is (from 80 columns on), and no number cut.

    Names fold and columns of little weight are left out where there is no room; the foot says which. A bar's length is
    the share in parts of the largest share shown. ASCII alone where the console's encoding is not Unicode.
    """
    from rich.text import Text

    view = view or AuditView()
    encoding = console.encoding if console.options.ascii_only else "utf-8"
    columns = view.chosen(_COLUMNS[view.depth])
    layout = None
    console.print(Text(escape_unprintable(audit.model, encoding), "bold"))
    if columns:
        records = view.records(audit)
        cells = [
            [escape_unprintable(column.text(record, audit.total), encoding) for column in columns] for record in records
        ]
        order = _LEFT_OUT_FIRST if view.columns is None else [BARS, *(column.key for column in columns[:0:-1])]
        layout = fit_columns(columns, cells, console.width, order)
        _print_table(console, audit, layout, records, encoding)
    for line in _foot_lines(audit, view, layout, max(console.width, _MIN_FOOT)):
        console.print(Text(escape_unprintable(line, encoding)))


def format_bar(part, width, *, ascii_only=False):
    """Return a bar for `part` (0 to 1) of `width` characters, to an eighth of a character where there are such."""
    if ascii_only:
        return _ASCII_FULL * round(part * width)
    whole, eighths = divmod(round(part * width * 8), 8)
    return _FULL * whole + _EIGHTHS[eighths]


def _print_table(console, audit, layout, records, encoding):
    from rich import box
    from rich.table import Table
    from rich.text import Text

    ascii_only = console.options.ascii_only
    lines = box.Box(str(box.SIMPLE_HEAD).replace("─", "-"), ascii=True) if ascii_only else box.SIMPLE_HEAD
    table = Table(box=lines, padding=0, show_edge=False, header_style="bold")
    for column, width in zip(layout.columns, layout.widths, strict=True):
        right = column.numeric and not (layout.bar and column.is_share)
        table.add_column(Text(column.heading), justify="right" if right else "left", width=width, overflow="fold")
    largest = {column.key: _largest_share(column, records, audit.total) for column in layout.columns if column.is_share}
    for record in records:
        cells = []
        for column, width in zip(layout.columns, layout.widths, strict=True):
            text = escape_unprintable(column.text(record, audit.total), encoding)
            if layout.bar and column.is_share:
                part = (column.value(record, audit.total) or 0) / largest[column.key]
                text = f"{text:>{width - layout.bar - GAP}} {format_bar(part, layout.bar, ascii_only=ascii_only)}"
            cells.append(Text(text))
        table.add_row(*cells, style="cyan" if getattr(record, "kind", None) == "pointwise" else None)
    width = console.width
    # Wider than the terminal where not even the numbers fit: it breaks the lines then, and nothing is lost.
    console.width = max(width, layout.width)
    console.print(table)
    console.width = width


def _largest_share(column, records, total):
    return max((column.value(record, total) or 0 for record in records), default=0) or 1


def _foot_lines(audit, view, layout, width):
    if layout:
        yield ""
    for line in (*_layout_lines(layout), *tables.list_totals(audit, view.rows(audit) if view.only else None)):
        yield from tables.wrap_line(line, width)
    if audit.findings:
        yield from ("", "Findings:")
        for line in tables.list_findings(audit):
            yield from tables.wrap_line(line, width)
    yield ""
    for line in tables.list_conventions(audit):
        yield from tables.wrap_line(line, width, indent="")


def _layout_lines(layout):
    if layout and layout.dropped:
        keys = ", ".join(column.key for column in layout.dropped)
        yield f"No room here for {keys}: widen the terminal, choose with --columns, or pipe the output."
    if layout and layout.bar:
        yield "Bars are in parts of the largest share shown."
