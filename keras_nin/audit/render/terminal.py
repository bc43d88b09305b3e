"""An audit on a terminal: a table that fits the width, with bars for the shares."""

from keras_nin.audit.render import notes
from keras_nin.audit.render.fit import BARS, GAP, fit
from keras_nin.audit.render.view import BLOCKS, LAYERS, TOTALS, View
from keras_nin.tables import printable

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
_LEAST_FOOT = 20


def show(audit, console, view=None):
    """Print `audit` on a `rich.console.Console`: no wider than it is (from 80 columns on), and no number cut.

    Names fold and columns of little weight are left out where there is no room; the foot says which. A bar's length is
    the share in parts of the largest share shown. ASCII alone where the console's encoding is not Unicode.
    """
    from rich.text import Text

    view = view or View()
    encoding = console.encoding if console.options.ascii_only else "utf-8"
    columns = view.chosen(_COLUMNS[view.depth])
    layout = None
    console.print(Text(printable(audit.model, encoding), "bold"))
    if columns:
        records = view.records(audit)
        cells = [[printable(column.text(record, audit.total), encoding) for column in columns] for record in records]
        order = _LEFT_OUT_FIRST if view.columns is None else [BARS, *(column.key for column in columns[:0:-1])]
        layout = fit(columns, cells, console.width, order)
        _print_table(console, audit, layout, records, encoding)
    for line in _foot(audit, view, layout, max(console.width, _LEAST_FOOT)):
        console.print(Text(printable(line, encoding)))


def bar(part, width, *, ascii_only=False):
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
    largest = {column.key: _largest(column, records, audit.total) for column in layout.columns if column.is_share}
    for record in records:
        cells = []
        for column, width in zip(layout.columns, layout.widths, strict=True):
            text = printable(column.text(record, audit.total), encoding)
            if layout.bar and column.is_share:
                part = (column.value(record, audit.total) or 0) / largest[column.key]
                text = f"{text:>{width - layout.bar - GAP}} {bar(part, layout.bar, ascii_only=ascii_only)}"
            cells.append(Text(text))
        table.add_row(*cells, style="cyan" if getattr(record, "kind", None) == "pointwise" else None)
    width = console.width
    # Wider than the terminal where not even the numbers fit: it breaks the lines then, and nothing is lost.
    console.width = max(width, layout.width)
    console.print(table)
    console.width = width


def _largest(column, records, total):
    return max((column.value(record, total) or 0 for record in records), default=0) or 1


def _foot(audit, view, layout, width):
    if layout:
        yield ""
    for line in (*_about_the_table(layout), *notes.figures(audit, view.rows(audit) if view.only else None)):
        yield from notes.wrap(line, width)
    if audit.findings:
        yield from ("", "Findings:")
        for line in notes.findings(audit):
            yield from notes.wrap(line, width)
    yield ""
    for line in notes.conventions(audit):
        yield from notes.wrap(line, width, indent="")


def _about_the_table(layout):
    if layout and layout.dropped:
        keys = ", ".join(column.key for column in layout.dropped)
        yield f"No room here for {keys}: widen the terminal, choose with --columns, or pipe the output."
    if layout and layout.bar:
        yield "Bars are in parts of the largest share shown."
