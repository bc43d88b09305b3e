"""Plain text and Markdown tables, never cut to a terminal's width."""

import io


def text_table(columns, rows, *, right=(), title=None):
    """Return a table as text.

    Args:
        columns: headings.
        rows: lists of strings, one a column.
        right: headings of the columns that are set to the right.
        title: line above the table.
    """
    import rich.box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # As Text throughout: rich would take "[us]" in a string for markup.
    title = None if title is None else Text(title)
    table = Table(box=rich.box.SIMPLE_HEAD, title=title, title_justify="left", title_style="", pad_edge=False)
    for column in columns:
        table.add_column(Text(column), justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out = io.StringIO()
    Console(file=out, width=10_000, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip())


def markdown_table(columns, rows, *, right=()):
    """Return a table as Markdown; arguments as in `text_table`."""
    rule = ["---:" if column in right else "---" for column in columns]
    lines = ([_escaped(cell) for cell in columns], rule, *([_escaped(cell) for cell in row] for row in rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escaped(cell):
    return " ".join(cell.splitlines()).replace("|", "\\|")
